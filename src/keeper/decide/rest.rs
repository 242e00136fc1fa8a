//! A room at rest: nothing is left to do and nothing is waited for. What comes next comes from a change, and as long as
//! nothing changes but the values of its tuples, a decision about everybody is one about the few who lack a key.

use std::collections::{BTreeMap, BTreeSet};

use ruma::OwnedUserId;

use super::{DeviceView, Knowledge, MemberView, Plan, Rules, TupleView, entitlement};
use crate::{policy::MemberPolicy, state::StateTuple};

/// How many may lack a key in a room that counts as resting.
const MOST_LACKING: usize = 256;

/// What a room's rest is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The session of each tuple that everybody else holds, from an index on that its next value is not before.
    sessions: BTreeMap<StateTuple, String>,
    /// Who may lack the key of a tuple's next value, or may have got one late.
    pub lacking: BTreeSet<OwnedUserId>,
}

impl Rest {
    /// Finds a room at rest: what is known is of everybody in it, and the plan that was made of that is empty. `None`
    /// where everybody has to be looked at the next time, too.
    pub fn find(known: &Knowledge, rules: &Rules, plan: &Plan) -> Option<Self> {
        // Who is vouched for by a space hangs on the space's members.
        let by_vouching = matches!(rules.sharing.members, MemberPolicy::Vouched(_));
        let rests = plan.is_idle() && plan.given.is_empty() && plan.again_at.is_none();
        if !rests || !known.whole_room || by_vouching {
            return None;
        }
        let lacking: BTreeSet<OwnedUserId> = known
            .members
            .iter()
            .filter(|member| {
                member.devices.iter().any(|device| lacks(known, rules, member, device))
            })
            .map(|member| member.user_id.clone())
            .collect();
        let in_use = |view: &TupleView| Some((view.tuple.clone(), view.active.as_ref()?.0.clone()));
        let sessions = known.tuples.iter().filter_map(in_use).collect();
        (lacking.len() <= MOST_LACKING).then_some(Self { sessions, lacking })
    }

    /// Whether a decision about those who lack a key decides about everybody, the tuples being as they are now.
    pub fn covers(&self, tuples: &[TupleView]) -> bool {
        tuples.iter().all(|view| {
            let same = view.active.as_ref().is_some_and(|(session, _)| {
                self.sessions.get(&view.tuple).is_some_and(|known| known == session)
            });
            view.redacted || (view.breach.is_none() && (same || view.source.is_none()))
        })
    }
}

/// Whether a device lacks the key of any tuple's next value, or it is not known when it got one.
fn lacks(known: &Knowledge, rules: &Rules, member: &MemberView, device: &DeviceView) -> bool {
    if device.grants.values().any(|grant| grant.sent_at.is_none()) {
        return true;
    }
    rules.unasked
        && known.tuples.iter().any(|view| {
            view.active.as_ref().is_some_and(|(session, next)| {
                let held = device.grants.get(session);
                let holds = held.is_some_and(|grant| grant.message_index <= *next);
                !holds && entitlement(member, device, &view.tuple, rules).is_grant()
            })
        })
}
