//! Which copies in plain are written, and when.

use super::*;
use crate::config::{ExemptSealed, PlainCopy};

/// A member's copy in plain, older than the seal, that says something else.
fn other() -> PlainView {
    PlainView {
        event_id: Some(owned_event_id!("$plain")),
        ours: false,
        tick: 7,
        says_nothing: false,
        says_value: false,
        says_stub: false,
        rounds: 0,
        said_at: 0,
        warned: None,
        refused: None,
    }
}

fn with(plain: Option<PlainView>) -> TupleView {
    TupleView { plain, ..sealed_name() }
}

fn keeping(plain_copy: PlainCopy) -> Rules {
    Rules { plain_copy, ..rules() }
}

fn alone(view: TupleView) -> Knowledge {
    room(vec![], vec![view])
}

fn exempt(plain: Option<PlainView>) -> Knowledge {
    let source =
        SourceView { event_id: owned_event_id!("$source"), at: 100, tick: 5, unsaid: false };
    let tuple = StateTuple::new("m.room.server_acl", "");
    let view = ExemptView { tuple, source, plain, may_write: true };
    Knowledge { exempt: vec![view], ..room(vec![], vec![]) }
}

fn publishing() -> Rules {
    Rules { exempt_sealed: ExemptSealed::Publish, ..rules() }
}

fn copies(plan: &Plan) -> Vec<CopyKind> {
    plan.plain.iter().map(|put| put.copy).collect()
}

#[test]
fn each_policy_writes_what_it_says_where_something_else_stands() {
    let topic = TupleView { tuple: StateTuple::new("m.room.topic", ""), ..with(Some(other())) };
    let acted_upon =
        TupleView { tuple: StateTuple::new("m.room.retention", ""), ..with(Some(other())) };
    for (policy, name, none, other_type, servers) in [
        (PlainCopy::Keep, None, None, None, None),
        (
            PlainCopy::Mirror,
            Some(CopyKind::Mirror),
            Some(CopyKind::Mirror),
            Some(CopyKind::Mirror),
            Some(CopyKind::Mirror),
        ),
        (PlainCopy::Stub, Some(CopyKind::Stub), Some(CopyKind::Stub), Some(CopyKind::Clear), None),
        (PlainCopy::Clear, Some(CopyKind::Clear), None, Some(CopyKind::Clear), None),
    ] {
        let rules = keeping(policy);
        for (view, wanted) in [
            (with(Some(other())), name),
            (with(None), none),
            (topic.clone(), other_type),
            (acted_upon.clone(), servers),
        ] {
            let plan = decide(&alone(view.clone()), &rules, NOW);
            assert_eq!(
                copies(&plan),
                wanted.into_iter().collect::<Vec<_>>(),
                "{policy:?} {view:?}"
            );
            assert!(plan.seals.is_empty(), "the copy comes first");
        }
    }
}

#[test]
fn clearing_alone_redacts_what_stood_there_and_only_where_the_keeper_may() {
    for (policy, may_redact, ours, redacts) in [
        (PlainCopy::Clear, true, false, true),
        (PlainCopy::Clear, false, false, false),
        (PlainCopy::Clear, false, true, true),
        (PlainCopy::Stub, true, false, false),
        (PlainCopy::Mirror, true, false, false),
    ] {
        let plain = PlainView { ours, ..other() };
        let known = Knowledge { may_redact, ..alone(with(Some(plain))) };
        let plan = decide(&known, &keeping(policy), NOW);
        assert_eq!(plan.plain[0].redacts.is_some(), redacts, "{policy:?} {may_redact} {ours}");
    }
}

#[test]
fn a_rename_is_mirrored_before_it_is_sealed() {
    let view = TupleView { plain: Some(other()), ..renamed() };
    let plan = decide(&alone(view), &keeping(PlainCopy::Mirror), NOW);
    assert_eq!((copies(&plan), plan.seals.len()), (vec![CopyKind::Mirror], 1));
    assert_eq!(plan.plain[0].source, owned_event_id!("$newer"));
    let mut waiting = TupleView { plain: Some(other()), ..renamed() };
    waiting.source.as_mut().unwrap().at = NOW;
    let plan = decide(&alone(waiting), &keeping(PlainCopy::Mirror), NOW);
    assert!(plan.plain.is_empty() && plan.again_at.is_some(), "it waits as the seal does");
}

#[test]
fn nothing_is_emptied_before_its_value_is_sealed() {
    let view = TupleView { plain: Some(other()), ..renamed() };
    let plan = decide(&alone(view), &keeping(PlainCopy::Clear), NOW);
    assert_eq!((plan.plain.len(), plan.seals.len()), (0, 1));
}

#[test]
fn a_copy_of_the_keepers_calls_for_one_seal_after_it() {
    let ours = |tick| PlainView { ours: true, says_value: true, tick, ..other() };
    let bob = || member("bob", Membership::Join, vec![holding("B", 4, 600, 70)]);
    for policy in [PlainCopy::Keep, PlainCopy::Mirror] {
        let plan = decide(&alone(with(Some(ours(11)))), &keeping(policy), NOW);
        assert_eq!((plan.seals.len(), plan.seals[0].cause), (1, Cause::Plain), "{policy:?}");
        let plan = decide(&alone(with(Some(ours(9)))), &keeping(policy), NOW);
        assert!(plan.seals.is_empty(), "{policy:?}");
        let late = room(vec![bob()], vec![with(Some(ours(11)))]);
        let plan = decide(&late, &keeping(policy), NOW);
        assert_eq!((plan.seals.len(), plan.seals[0].cause), (1, Cause::Plain), "one for both");
    }
    let somebodys = with(Some(PlainView { tick: 11, ..other() }));
    assert!(decide(&alone(somebodys), &keeping(PlainCopy::Keep), NOW).seals.is_empty());
}

#[test]
fn what_is_left_there_is_warned_of_once() {
    let telling = PlainView { says_value: true, ..other() };
    let stub = PlainView { says_stub: true, ..other() };
    let empty = PlainView { says_nothing: true, ..other() };
    let warned = PlainView { warned: Some(Warning::Stale), ..other() };
    for (policy, plain, warning) in [
        (PlainCopy::Keep, other(), Some(Warning::Stale)),
        (PlainCopy::Keep, telling.clone(), Some(Warning::Telling)),
        (PlainCopy::Keep, warned.clone(), None),
        (PlainCopy::Keep, empty, None),
        (PlainCopy::Mirror, telling, None),
        (PlainCopy::Stub, stub, None),
        (PlainCopy::Clear, other(), None),
    ] {
        let plan = decide(&alone(with(Some(plain))), &keeping(policy), NOW);
        let told = plan.warnings.first().map(|(_, _, warning)| *warning);
        assert_eq!(told, warning, "{policy:?}");
    }
    let powerless = TupleView { may_write_plain: false, ..with(Some(other())) };
    let plan = decide(&alone(powerless), &keeping(PlainCopy::Clear), NOW);
    assert_eq!((plan.plain.len(), plan.warnings.len()), (0, 1), "what cannot be done is told");
}

#[test]
fn a_sealed_acl_is_published_once_and_never_over_what_is_newer() {
    let published = PlainView { ours: true, says_value: true, tick: 9, ..other() };
    let overtaken = PlainView { ours: true, tick: 9, ..other() };
    for (plain, is_published) in [
        (None, true),
        (Some(PlainView { tick: 4, ..other() }), true),
        (Some(PlainView { tick: 6, ..other() }), false),
        (Some(published), false),
        (Some(overtaken), true),
        (Some(PlainView { tick: 4, refused: Some(owned_event_id!("$source")), ..other() }), false),
    ] {
        let known = exempt(plain);
        let plan = decide(&known, &publishing(), NOW);
        assert_eq!(copies(&plan).len(), usize::from(is_published), "{:?}", known.exempt);
        assert!(decide(&known, &rules(), NOW).plain.is_empty(), "where policy only reports");
    }
    let mut powerless = exempt(None);
    powerless.exempt[0].may_write = false;
    assert!(decide(&powerless, &publishing(), NOW).plain.is_empty());
}

fn policy() -> impl Strategy<Value = PlainCopy> {
    use PlainCopy::{Clear, Keep, Mirror, Stub};
    prop::sample::select(vec![Keep, Mirror, Stub, Clear])
}

prop_compose! {
    fn plain()(
        there: bool, ours: bool, tick in 1..20_i64, says in 0..4_u32, rounds in 0..9_u32, lately: bool,
        refused: bool,
    ) -> Option<PlainView> {
        let said_at = if lately { NOW - 1 } else { NOW - QUIET_AFTER };
        let refused = refused.then(|| owned_event_id!("$source"));
        there.then(|| PlainView {
            ours, tick, rounds, said_at, refused,
            says_nothing: says == 1, says_value: says == 2, says_stub: says == 3,
            ..other()
        })
    }
}

proptest! {
    /// What a copy leads to leads to no other: no policy argues with itself, and the seal comes last.
    #[test]
    fn it_comes_to_rest_with_the_seal_after_the_copy(policy in policy(), plain in plain()) {
        let rules = keeping(policy);
        let mut view = with(plain);
        let mut writes = 0;
        for _ in 0..4 {
            let plan = decide(&alone(view.clone()), &rules, NOW);
            if let Some(put) = plan.plain.first() {
                prop_assert_eq!(&put.based_on, &view.plain.as_ref().and_then(|p| p.event_id.clone()));
                writes += 1;
                view.plain = Some(PlainView {
                    ours: true,
                    tick: 100,
                    event_id: Some(owned_event_id!("$ours")),
                    says_nothing: put.copy == CopyKind::Clear,
                    says_value: put.copy == CopyKind::Mirror,
                    says_stub: put.copy == CopyKind::Stub,
                    ..other()
                });
            } else if let Some(seal) = plan.seals.first() {
                prop_assert_eq!(seal.cause, Cause::Plain);
                view.sealed.as_mut().unwrap().tick = 101;
            } else {
                prop_assert!(writes < 2);
                let last = view.plain.is_none_or(|plain| {
                    !plain.ours || plain.tick < view.sealed.as_ref().unwrap().tick
                });
                prop_assert!(last, "clients show the copy");
                return Ok(());
            }
        }
        prop_assert!(false, "it goes on and on");
    }

    /// Nothing is written by a keeper without power, of what is redacted, not sealed or refused, or in a quarrel.
    #[test]
    fn nothing_is_written_that_must_not_be(policy in policy(), there in plain(), why in 0..6_u32) {
        let mut view = with(there);
        let mut elevated = true;
        let quarrel = PlainView { rounds: MOST_ANSWERS + 1, said_at: NOW - 1, ..other() };
        match why {
            0 => elevated = false,
            1 => view.may_write_plain = false,
            2 => view.redacted = true,
            3 => view.source = None,
            4 => view.plain = Some(PlainView { refused: Some(owned_event_id!("$source")), ..other() }),
            _ => view.plain = Some(quarrel),
        }
        let plan = decide(&Knowledge { elevated, ..alone(view.clone()) }, &keeping(policy), NOW);
        prop_assert!(plan.plain.is_empty());
        if why == 5 && policy != PlainCopy::Keep {
            let quiet = NOW - 1 + QUIET_AFTER;
            prop_assert_eq!(plan.again_at, Some(quiet));
            prop_assert_eq!(decide(&alone(view), &keeping(policy), quiet).plain.len(), 1);
        }
    }

    /// Where the decision is about some members only, all are asked for before anything is written.
    #[test]
    fn a_copy_is_decided_with_everybody_in_sight(policy in policy(), plain in plain()) {
        let whole = decide(&alone(with(plain.clone())), &keeping(policy), NOW);
        let known = Knowledge { whole_room: false, ..alone(with(plain)) };
        let part = decide(&known, &keeping(policy), NOW);
        prop_assert!(part.plain.is_empty() && part.seals.is_empty());
        prop_assert_eq!(part.needs_whole_room, !whole.plain.is_empty() || !whole.seals.is_empty());
    }
}
