//! Deciding about rotation: which sessions encrypt no more, and what follows one that does not.
//!
//! What follows is not remembered either. A tuple whose value is sealed under a session that was retired is one of
//! which a rotation is under way, until a value is sealed under the next one.

use std::collections::BTreeMap;

use super::{
    Cause, DeviceView, Entitlement, Knowledge, MemberView, Plan, Reason, Recipient, Rules, Seal,
    SealedView, TupleView, before_a_seal, entitlement,
};
use crate::{
    config::{RotateReseal, RotateWhen},
    keeper::rules::SessionScope,
    policy::{HoldReason, WithheldCode},
    state::StateTuple,
    store::{Over, Retired},
};

/// The key of the session that a tuple's next value is sealed under, for devices that lack it: it goes out before
/// there is such a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Which tuple, by its place in [`Knowledge::tuples`].
    pub tuple: usize,
    /// To whom.
    pub recipients: Vec<Recipient>,
}

/// Finds the sessions that must never encrypt again, each with one reason.
pub(super) fn find_over(known: &Knowledge, rules: &Rules, plan: &mut Plan) {
    let mut note = |sessions: Vec<&String>, why: Retired| {
        for session in sessions {
            plan.retire.entry(session.clone()).or_insert(why);
        }
    };
    // Only what could still encrypt is worth retiring.
    let mut encrypts = BTreeMap::<&String, Vec<&StateTuple>>::new();
    for view in &known.tuples {
        if let Some((session, _)) = &view.active {
            encrypts.entry(session).or_default().push(&view.tuple);
        }
    }
    note(known.departed.iter().collect(), Retired::MemberLeft);
    for member in known.members.iter().chain(&known.previewers) {
        note(member.orphaned.iter().collect(), Retired::DeviceGone);
        for device in member.devices.iter().chain(&member.unreachable) {
            for session in device.grants.keys() {
                let its = encrypts.get(session).map(Vec::as_slice).unwrap_or_default();
                if let Some(why) = refusal(rules, (member, device), its) {
                    note(vec![session], why);
                }
            }
        }
    }
    plan.retire.retain(|session, _| encrypts.contains_key(session));
    for (session, why) in known.tuples.iter().filter_map(|view| view.worn.as_ref()) {
        plan.retire.entry(session.clone()).or_insert(*why);
    }
}

/// Why a device may have the key of none of the tuples that a session encrypts; `None` where it may have one.
fn refusal(
    rules: &Rules,
    (member, device): (&MemberView, &DeviceView),
    its: &[&StateTuple],
) -> Option<Retired> {
    let entitled = |tuple: &StateTuple| entitlement(member, device, tuple, rules);
    let first = entitled(its.first()?);
    if first.is_grant() || its.iter().any(|tuple| entitled(tuple).is_grant()) {
        return None;
    }
    Some(match first {
        _ if device.facts.deleted => Retired::DeviceGone,
        Entitlement::Withhold(WithheldCode::Unverified) => Retired::DeviceUnsigned,
        Entitlement::Hold(HoldReason::IdentityChanged) => Retired::IdentityChanged,
        _ => Retired::NotEntitled,
    })
}

/// The tuple's value is sealed, and its session was retired: what is sealed anew, and who is given the next session
/// before anything is.
pub(super) fn decide_rotation(
    known: &Knowledge,
    rules: &Rules,
    now: i64,
    (place, view): (usize, &TupleView),
    sealed: &SealedView,
    plan: &mut Plan,
) {
    let goes_on = view.active.as_ref().is_some_and(|(active, _)| *active == sealed.session_id);
    let Some(over) = view.over.filter(|_| !goes_on && known.elevated) else { return };
    let anew = is_sealed_anew(known, rules, &view.tuple, over);
    let at_once = rules.rotate_when == RotateWhen::AtOnce;
    if !anew && !at_once {
        return;
    }
    // Whoever else leaves until then makes no further rotation of it.
    let due = over.at.saturating_add(rules.rotation_settle);
    if now < due {
        return plan.again(due);
    }
    if !known.whole_room && (anew || view.active.is_none()) {
        plan.needs_whole_room = true;
        return;
    }
    let mut recipients = before_a_seal(known, rules, view);
    let shown_anyway = plan.seals.iter().any(|seal| seal.tuple == place);
    if anew && !shown_anyway {
        let recipients = recipients.clone();
        plan.seals.push(Seal { tuple: place, cause: Cause::Rotation, recipients, redacts: None });
    }
    // One session for the room: it is handed over once.
    let handed_over = rules.session_scope == SessionScope::Room && !plan.handovers.is_empty();
    if at_once && !handed_over && !recipients.is_empty() {
        recipients.iter_mut().for_each(|to| to.reason = Reason::Rotation);
        plan.handovers.push(Handover { tuple: place, recipients });
    }
}

/// When the first session is too old, where that is to be followed without a change: the next one is made at once, or
/// values are sealed anew under it.
pub(super) fn wears_out_at(known: &Knowledge, rules: &Rules) -> Option<i64> {
    let followed =
        |tuple: &StateTuple| rules.rotate_when == RotateWhen::AtOnce || is_resealed(rules, tuple);
    let followed = known.tuples.iter().filter(|view| !view.redacted && followed(&view.tuple));
    followed.filter_map(|view| view.wears_out_at).min()
}

/// Whether a value is sealed anew because its session was retired. One that was merely used up calls for it where what is
/// sealed anew does not use up the next one in its turn: that would go on for ever.
fn is_sealed_anew(known: &Knowledge, rules: &Rules, tuple: &StateTuple, over: Over) -> bool {
    let under_one = match rules.session_scope {
        SessionScope::Tuple => 1,
        SessionScope::Room => {
            known.tuples.iter().filter(|view| is_resealed(rules, &view.tuple)).count()
        }
    };
    let outlasts = usize::try_from(rules.rotation_messages).is_ok_and(|most| most > under_one);
    is_resealed(rules, tuple) && (!over.by_use || outlasts)
}

fn is_resealed(rules: &Rules, tuple: &StateTuple) -> bool {
    match rules.rotate_reseal {
        RotateReseal::None => false,
        RotateReseal::Aesthetic => tuple.is_aesthetic(),
        RotateReseal::All => true,
    }
}
