//! The budget of each followed space: keys before a join, and invites.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use ruma::{OwnedRoomId, RoomId};

use super::rules::SpaceRules;
use crate::keeper::{pacing::Allowance, rules::Rate};

/// A budget, with the rate that was stated for it.
type Pace = (u32, Arc<Allowance>);

/// How fast things are done for each space's people. Clones share the budgets.
#[derive(Clone, Default)]
pub(in crate::keeper) struct Paces {
    of_spaces: Arc<Mutex<BTreeMap<OwnedRoomId, Pace>>>,
}

impl Paces {
    /// The budget of a space: another one where its rules state another rate than before.
    pub(super) fn of(&self, root: &RoomId, rules: &SpaceRules) -> Arc<Allowance> {
        let stated = rules.per_second;
        let fresh = || {
            let rate = Rate { burst: stated, per_second: stated };
            (stated, Arc::new(Allowance::new(rate)))
        };
        let mut paces = self.of_spaces.lock().unwrap_or_else(PoisonError::into_inner);
        let pace = paces.entry(root.to_owned()).or_insert_with(fresh);
        if pace.0 != stated {
            *pace = fresh();
        }
        pace.1.clone()
    }

    /// Forgets the spaces that are followed no more.
    pub(super) fn retain(&self, roots: &[(OwnedRoomId, SpaceRules)]) {
        let mut paces = self.of_spaces.lock().unwrap_or_else(PoisonError::into_inner);
        paces.retain(|root, _| roots.iter().any(|(other, _)| other == root));
    }
}
