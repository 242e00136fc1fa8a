//! What is done about state that breaks a rule.

use super::*;
use crate::{config::Action, state::Rule};

fn breach(rule: Rule, waits: bool) -> Breach {
    let tuple = StateTuple::new("m.room.name", "");
    Breach { event_id: owned_event_id!("$bad"), tuple, rule, waits }
}

fn broken(rule: Rule) -> TupleView {
    // In plain stands something beside what is allowed.
    let current_fit = rule.is_in_plain();
    TupleView { current_fit, breach: Some(breach(rule, false)), ..sealed_name() }
}

fn enforcing(action: Action) -> Rules {
    let mut rules = rules();
    let enforce = &mut rules.enforce;
    for of in [
        &mut enforce.power,
        &mut enforce.ownership,
        &mut enforce.critical,
        &mut enforce.timestamp,
        &mut enforce.shape,
        &mut enforce.plain,
        &mut enforce.replay,
    ] {
        *of = action;
    }
    rules
}

fn rule() -> impl Strategy<Value = Rule> {
    use Rule::{Critical, Ownership, Plain, Power, Replay, Shape, Unsealed};
    prop::sample::select(vec![Power, Ownership, Critical, Shape, Plain, Unsealed, Replay])
}

fn bob() -> Vec<MemberView> {
    vec![member("bob", Membership::Join, vec![device("PHONE")])]
}

#[test]
fn an_absurd_time_is_sealed_anew_and_never_redacted_and_waits_for_its_key() {
    let rules = enforcing(Action::Redact);
    let read = TupleView { current_fit: true, ..broken(Rule::Timestamp) };
    let plan = decide(&room(bob(), vec![read]), &rules, NOW);
    assert_eq!((plan.seals.len(), plan.seals[0].cause), (1, Cause::Restore));
    assert_eq!(plan.seals[0].redacts, None);
    let unread = broken(Rule::Timestamp);
    assert!(decide(&room(bob(), vec![unread]), &rules, NOW).seals.is_empty());
}

#[test]
fn where_nothing_can_be_said_only_what_is_critical_is_redacted() {
    for (action, rule, redacted) in [
        (Action::Report, Rule::Critical, 0),
        (Action::Restore, Rule::Critical, 1),
        (Action::Restore, Rule::Power, 0),
        (Action::Redact, Rule::Power, 1),
    ] {
        let mut known = Knowledge { forged: vec![breach(rule, false)], ..room(bob(), vec![]) };
        let plan = decide(&known, &enforcing(action), NOW);
        assert_eq!(plan.redactions.len(), redacted, "{action:?} {rule:?}");
        known.may_redact = false;
        assert!(decide(&known, &enforcing(action), NOW).redactions.is_empty());
        // What is critical can be said again at least.
        known.sayable = vec![known.forged[0].tuple.event_type.clone().leak()];
        let expected = usize::from(rule == Rule::Critical) * redacted;
        assert_eq!(decide(&known, &enforcing(action), NOW).redactions.len(), expected);
    }
}

/// A room whose name is `view`, and of which a name in plain of tick 7 is to be redacted.
fn owing(view: TupleView, rule: Rule) -> Knowledge {
    let owed = Owed { breach: breach(rule, false), tick: 7 };
    Knowledge { owed: vec![owed], ..room(bob(), vec![view]) }
}

fn redactions(known: &Knowledge, action: Action) -> usize {
    decide(known, &enforcing(action), NOW).redactions.len()
}

#[test]
fn what_is_in_plain_is_redacted_once_its_value_stands_under_encryption() {
    let standing = owing(sealed_name(), Rule::Plain);
    assert_eq!(redactions(&standing, Action::Redact), 1);
    assert_eq!(redactions(&standing, Action::Restore), 0, "the rules are others now");
    assert_eq!(redactions(&Knowledge { may_redact: false, ..standing }, Action::Redact), 0);
    for (why, view) in [
        ("it is not sealed", TupleView { sealed: None, ..sealed_name() }),
        ("another value is not yet", {
            let source = renamed().source.map(|source| SourceView { tick: 6, ..source });
            TupleView { source, ..sealed_name() }
        }),
        ("it was sealed before", {
            let sealed = sealed_name().sealed.map(|sealed| SealedView { tick: 6, ..sealed });
            TupleView { sealed, ..sealed_name() }
        }),
        ("something else stands there", {
            let sealed = sealed_name().sealed.map(|sealed| SealedView { stands: false, ..sealed });
            TupleView { sealed, ..sealed_name() }
        }),
    ] {
        assert_eq!(redactions(&owing(view, Rule::Unsealed), Action::Redact), 0, "{why}");
    }
}

#[test]
fn what_is_in_plain_and_no_value_waits_for_none() {
    let gone = TupleView { source: None, sealed: None, ..sealed_name() };
    let redacted = TupleView { redacted: true, ..sealed_name() };
    let unread = TupleView { current_fit: false, ..sealed_name() };
    for view in [gone, redacted, unread.clone(), renamed()] {
        assert_eq!(redactions(&owing(view, Rule::Plain), Action::Redact), 1);
    }
    // The value itself is all that there is while somebody's other one cannot be read.
    let source =
        unread.source.clone().map(|it| SourceView { event_id: owned_event_id!("$bad"), ..it });
    let view = TupleView { source, ..unread };
    assert_eq!(redactions(&owing(view, Rule::Unsealed), Action::Redact), 0);
}

#[test]
fn a_keeper_that_cannot_seal_gives_keys_all_the_same_where_somebody_says_the_name_in_plain() {
    let joiner = member("bob", Membership::Join, vec![device("PHONE")]);
    let known = room(vec![joiner], vec![broken(Rule::Plain)]);
    let plan = decide(&Knowledge { elevated: false, ..known }, &enforcing(Action::Redact), NOW);
    assert_eq!((plan.shares.len(), plan.seals.len()), (1, 0));
}

proptest! {
    /// The last allowed value goes out at once, and every entitled device has its key before.
    #[test]
    fn what_broke_a_rule_is_sealed_over_keys_first(rule in rule(), redacts: bool) {
        let action = if redacts { Action::Redact } else { Action::Restore };
        let plan = decide(&room(bob(), vec![broken(rule)]), &enforcing(action), NOW);
        prop_assert_eq!(plan.seals.len(), 1);
        let seal = &plan.seals[0];
        prop_assert_eq!((seal.cause, seal.recipients.len()), (Cause::Restore, 1));
        prop_assert_eq!(seal.redacts.is_some(), redacts);
    }

    /// Nothing is done by a keeper without power, where policy reports, about what was redacted, or in a war.
    #[test]
    fn nothing_is_done_that_must_not_be(rule in rule(), why in 0..4_u32, redacts: bool) {
        let action = if redacts { Action::Redact } else { Action::Restore };
        let (mut rules, mut view) = (enforcing(action), broken(rule));
        let mut elevated = true;
        match why {
            0 => rules = enforcing(Action::Report),
            1 => view.redacted = true,
            2 => view.breach = Some(breach(rule, true)),
            _ => elevated = false,
        }
        let known = Knowledge { elevated, ..room(bob(), vec![view]) };
        let plan = decide(&known, &rules, NOW);
        let restored = |plan: &Plan| {
            plan.seals.iter().filter(|seal| seal.cause == Cause::Restore).count()
        };
        prop_assert!(restored(&plan) == 0 && plan.redactions.is_empty());
        prop_assert_eq!(plan.again_at, None);
        // Once an administrator has said so, it goes back.
        let said = TupleView { redacted: why == 1, ..broken(rule) };
        let later = decide(&Knowledge { elevated, ..room(bob(), vec![said]) }, &rules, NOW);
        prop_assert_eq!(restored(&later), usize::from(why == 2));
    }
}
