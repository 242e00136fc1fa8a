//! Rooms that rest: a value that is sealed in a room of thousands, all of whom have the key, costs no look at them.
//!
//! This is a memory of decisions and nothing that anybody relies on: it is empty after a start, and holds for a room
//! only as long as everything that the decision weighed is what it was. The store says so of people, the device's key
//! store of devices, and the room's row and rules are compared.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedRoomId, OwnedUserId};
use sqlx::SqliteConnection;

use super::{
    KeeperError,
    decide::{Knowledge, Plan, Rest, TupleView},
    lane::Visit,
    rules::{GlobalRules, Rules},
};
use crate::{
    state::Membership,
    store::{Company, RoomRow, companies, rooms},
};

/// How many rooms are remembered at most.
const MOST_ROOMS: usize = 4096;

/// What a decision weighed beside the tuples, as it was before anything was read for it.
#[derive(Clone, Debug)]
pub(super) struct Basis {
    room: RoomRow,
    rules: Arc<Rules>,
    global: Arc<GlobalRules>,
    company: Company,
    /// How many changes of devices there were.
    devices: u64,
}

/// The rooms that rest.
#[derive(Debug, Default)]
pub struct Resting {
    rooms: Mutex<HashMap<OwnedRoomId, Arc<(Basis, Rest)>>>,
}

impl Basis {
    /// Whether all of it but the devices is the same.
    fn is_still(&self, now: &Self) -> bool {
        self.room == now.room
            && Arc::ptr_eq(&self.rules, &now.rules)
            && Arc::ptr_eq(&self.global, &now.global)
            && self.company == now.company
    }
}

impl Resting {
    fn get(&self, room: &ruma::RoomId) -> Option<Arc<(Basis, Rest)>> {
        self.lock().get(room).cloned()
    }

    fn put(&self, basis: Basis, rest: Rest) {
        let mut rooms = self.lock();
        if rooms.len() >= MOST_ROOMS {
            rooms.clear();
        }
        rooms.insert(basis.room.room_id.clone(), Arc::new((basis, rest)));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OwnedRoomId, Arc<(Basis, Rest)>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Visit<'_> {
    /// What the visit's next decision weighs, to be taken before anything else is read for it.
    pub(super) async fn basis(&self, db: &mut SqliteConnection) -> Result<Basis, KeeperError> {
        Ok(Basis {
            room: self.room.clone(),
            rules: self.rules.clone(),
            global: self.lanes.taker.rules.global(),
            company: companies::now(db, &self.room.room_id).await?,
            devices: self.lanes.taker.device.changes(),
        })
    }

    /// About whom a decision about everybody has to be: those who may lack a key, and those whom the visit is for.
    /// `None` where that is everybody.
    pub(super) async fn few_of(
        &self,
        db: &mut SqliteConnection,
        basis: &Basis,
        tuples: &[TupleView],
    ) -> Result<Option<BTreeSet<OwnedUserId>>, KeeperError> {
        let Some(found) = self.lanes.resting.get(&self.room.room_id) else { return Ok(None) };
        let (before, rest) = &*found;
        if !before.is_still(basis) || !rest.covers(tuples) {
            return Ok(None);
        }
        let Some(changed) = self.lanes.taker.device.changed_since(before.devices) else {
            return Ok(None);
        };
        let users = changed.iter().map(AsRef::as_ref);
        let memberships = rooms::memberships(db, &self.room.room_id, users).await?;
        if memberships.values().any(|one| matches!(one, Membership::Join | Membership::Invite)) {
            return Ok(None);
        }
        Ok(Some(rest.lacking.union(&self.named).cloned().collect()))
    }

    /// Remembers that the room rests, where it does after a decision about all of it.
    pub(super) fn note_rest(&self, basis: Basis, known: &Knowledge, plan: &Plan) {
        // What was delivered and is not noted yet may have to be delivered, and noted, anew.
        if !self.delivered.is_empty() {
            return;
        }
        if let Some(mut rest) = Rest::find(known, &self.rules, plan) {
            rest.lacking.extend(self.unreachable.iter().map(|(user, _)| user.clone()));
            self.lanes.resting.put(basis, rest);
        }
    }
}
