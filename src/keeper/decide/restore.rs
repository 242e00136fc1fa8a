//! Deciding about state that breaks a rule: whether the last allowed value is sealed again, and whether the event that
//! broke it is redacted. Pure.
//!
//! The keeper repairs only what it saw happen: of what it found when it came nobody can tell whether its sender was
//! allowed it in its time. Only a critical type is wrong whenever it was sent.

use ruma::OwnedEventId;

use super::{Cause, Knowledge, Plan, Seal, TupleView, before_a_seal};
use crate::{
    config::Action,
    keeper::rules::Rules,
    state::{Rule, StateTuple},
};

/// How many rounds the keeper goes with one sender in one room before it stops restoring.
pub const MOST_ROUNDS: u32 = 4;
/// Within which time, in milliseconds. After that an administrator has to say that it goes on.
pub const WAR_WITHIN: i64 = 600_000;

/// A state event that stands in the room and breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// The event.
    pub event_id: OwnedEventId,
    /// The tuple that its packed key names.
    pub tuple: StateTuple,
    /// Which rule.
    pub rule: Rule,
    /// Whether its sender has gone on breaking rules for more than [`MOST_ROUNDS`], and still can: an administrator's
    /// word is awaited.
    pub waits: bool,
}

/// State in plain whose redaction is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Which, and which rule it broke.
    pub breach: Breach,
    /// The tick at which it was taken in.
    pub tick: i64,
}

/// What becomes of a broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// It was reported, and that is all.
    Report,
    /// The keeper and its sender are at war: nothing until an administrator says so.
    Wait,
    /// The last allowed value is sealed again; or, where that cannot be, nothing.
    Restore,
    /// As before, and the event is redacted.
    Redact,
}

impl Breach {
    /// Whether it hides from clients what stands in plain, where the homeserver has checked it: there is nothing to seal
    /// in its place, so it has to go.
    pub fn hides_plain(&self, rules: &Rules) -> bool {
        let stands_in_plain = rules.exempt.contains(&self.tuple.event_type);
        self.rule == Rule::Critical || (stands_in_plain && !self.rule.leaves_value())
    }

    /// Whether it is of a type whose meaning hangs on its sender: the keeper cannot say the last allowed value in his place,
    /// so that it has to go as well.
    pub fn is_unsayable(&self, rules: &Rules) -> bool {
        let broke = matches!(self.rule, Rule::Power | Rule::Ownership);
        broke && rules.sender_bound.binds_type(&self.tuple.event_type)
    }

    /// What the rules say.
    pub fn remedy(&self, rules: &Rules) -> Remedy {
        match rules.action(self.rule) {
            Action::Report => Remedy::Report,
            Action::Restore | Action::Redact if self.waits => Remedy::Wait,
            // The value is an allowed one: it is kept, and its time alone goes.
            Action::Redact if self.rule != Rule::Timestamp => Remedy::Redact,
            Action::Restore | Action::Redact => Remedy::Restore,
        }
    }
}

/// Decides about a tuple that shows what broke a rule.
pub(super) fn decide_tuple(
    known: &Knowledge,
    rules: &Rules,
    (place, view, breach): (usize, &TupleView, &Breach),
    plan: &mut Plan,
) {
    let remedy = breach.remedy(rules);
    if matches!(remedy, Remedy::Report | Remedy::Wait) {
        return;
    }
    if view.source.is_none() {
        // What is in plain hides nothing, and is redacted when that is owed.
        if breach.rule.is_in_plain() {
            return;
        }
        return decide_alone(known, rules, breach, plan);
    }
    if !known.elevated {
        return;
    }
    if !known.whole_room {
        plan.needs_whole_room = true;
        return;
    }
    let redacts = (remedy == Remedy::Redact && known.may_redact).then(|| breach.event_id.clone());
    let recipients = before_a_seal(known, rules, view);
    plan.seals.push(Seal { tuple: place, cause: Cause::Restore, recipients, redacts });
}

/// Decides about state in plain whose redaction is owed. What stands there under encryption comes first: clients show of
/// two copies the one that is left.
pub(super) fn decide_owed(known: &Knowledge, rules: &Rules, owed: &Owed, plan: &mut Plan) {
    if owed.breach.remedy(rules) != Remedy::Redact || !known.may_redact {
        return;
    }
    let view = known.tuples.iter().find(|view| view.tuple == owed.breach.tuple);
    let shown = view.is_none_or(|view| {
        let Some(source) = view.source.as_ref().filter(|_| !view.redacted) else { return true };
        // Somebody gave it a newer value, or one that is not read yet stands there: this one is not what is shown.
        let is_past = source.tick > owed.tick || !view.current_fit;
        if source.event_id != owed.breach.event_id && is_past {
            return true;
        }
        view.current_fit
            && view.sealed.as_ref().is_some_and(|sealed| {
                sealed.stands && sealed.from == source.event_id && sealed.tick > owed.tick
            })
    });
    if shown {
        plan.redactions.push(owed.breach.clone());
    }
}

/// Decides about an event in whose place the keeper has nothing to seal. A forged critical or exempt type is redacted
/// also where values are only restored: what the homeserver goes by stands in plain, and is said again, also by a keeper
/// that may not redact. So is what somebody says in the place of whoever alone can say it.
pub(super) fn decide_alone(known: &Knowledge, rules: &Rules, breach: &Breach, plan: &mut Plan) {
    let redacts = match breach.remedy(rules) {
        Remedy::Report | Remedy::Wait => false,
        Remedy::Restore => breach.hides_plain(rules) || breach.is_unsayable(rules),
        Remedy::Redact => true,
    };
    let says_again = breach.hides_plain(rules)
        && known.sayable.iter().any(|sayable| *sayable == breach.tuple.event_type);
    if redacts && (known.may_redact || says_again) {
        plan.redactions.push(breach.clone());
    }
}
