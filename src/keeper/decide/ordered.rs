//! Deciding about what an administrator ordered. Pure.

use super::{Cause, Knowledge, Plan, Seal, SealedView, TupleView, before_a_seal};
use crate::keeper::rules::Rules;

/// An administrator wants it sealed once more, unless it is about to be anyway.
pub(super) fn decide_ordered(
    known: &Knowledge,
    rules: &Rules,
    (place, view): (usize, &TupleView),
    sealed: &SealedView,
    plan: &mut Plan,
) {
    let shown_anyway = plan.seals.iter().any(|seal| seal.tuple == place);
    if !known.elevated || sealed.tick > known.refresh_upto || shown_anyway {
        return;
    }
    if !known.whole_room {
        plan.needs_whole_room = true;
        return;
    }
    let recipients = before_a_seal(known, rules, view);
    plan.seals.push(Seal { tuple: place, cause: Cause::Admin, recipients, redacts: None });
}
