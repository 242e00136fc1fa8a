//! Which sessions are over, and what follows.

use super::*;
use crate::{
    config::{RotateReseal, RotateWhen},
    keeper::rules::SessionScope,
    store::{Over, Retired},
};

const SETTLE: i64 = 5000;

fn at_once() -> Rules {
    Rules { rotate_when: RotateWhen::AtOnce, rotation_settle: SETTLE, ..rules() }
}

/// A name whose session was retired so long ago, and nothing follows yet.
fn over(ago: i64) -> TupleView {
    let over = Some(Over { at: NOW - ago, by_use: false });
    TupleView { active: None, over, ..sealed_name() }
}

fn reader() -> MemberView {
    member("bob", Membership::Join, vec![holding("B", 4, 400, 5)])
}

fn why_retired(member: MemberView) -> Option<Retired> {
    let plan = decide(&room(vec![member], vec![sealed_name()]), &rules(), NOW);
    plan.retire.get("session").copied()
}

#[test]
fn each_reason_to_retire_is_told_from_the_others() {
    assert_eq!(why_retired(reader()), None);
    let changed = |change: fn(&mut MemberView)| {
        let mut bob = reader();
        change(&mut bob);
        why_retired(bob)
    };
    let gone = Some(Retired::DeviceGone);
    assert_eq!(changed(|bob| bob.devices[0].facts.deleted = true), gone);
    assert_eq!(changed(|bob| bob.orphaned.extend(["session".to_owned()])), gone);
    let unsigned = changed(|bob| bob.devices[0].facts.cross_signed_by_owner = false);
    assert_eq!(unsigned, Some(Retired::DeviceUnsigned));
    let identity = changed(|bob| bob.user.identity_changed = true);
    assert_eq!(identity, Some(Retired::IdentityChanged));
    let refused = Some(Retired::NotEntitled);
    assert_eq!(changed(|bob| bob.devices[0].facts.blocked = true), refused);
    assert_eq!(changed(|bob| bob.user.blocked = true), refused);
    assert_eq!(changed(|bob| bob.standing.word = Some(Word::Denied)), refused);
    let left = Knowledge {
        departed: BTreeSet::from(["session".to_owned()]),
        ..room(vec![], vec![sealed_name()])
    };
    let plan = decide(&left, &rules(), NOW);
    assert_eq!(plan.retire.get("session"), Some(&Retired::MemberLeft));
}

#[test]
fn what_a_device_holds_counts_also_while_it_cannot_be_written_to() {
    let apart = |bob: MemberView| MemberView { unreachable: bob.devices, devices: vec![], ..bob };
    assert_eq!(why_retired(apart(reader())), None);
    let mut unsigned = reader();
    unsigned.devices[0].facts.cross_signed_by_owner = false;
    assert_eq!(why_retired(apart(unsigned)), Some(Retired::DeviceUnsigned));
    // It is given nothing.
    let new = apart(member("carol", Membership::Join, vec![device("C")]));
    assert!(decide(&room(vec![new], vec![sealed_name()]), &rules(), NOW).shares.is_empty());
}

#[test]
fn a_worn_session_is_retired_for_what_wore_it() {
    for why in [Retired::Age, Retired::Messages] {
        let worn = Some(("session".to_owned(), why));
        let view = TupleView { active: None, worn, ..sealed_name() };
        let plan = decide(&room(vec![reader()], vec![view]), &rules(), NOW);
        assert_eq!(plan.retire.get("session"), Some(&why));
    }
}

#[test]
fn what_follows_is_made_with_the_next_change_unless_it_is_wanted_at_once() {
    let known = || room(vec![reader()], vec![over(SETTLE)]);
    assert!(decide(&known(), &rules(), NOW).is_idle());
    let plan = decide(&known(), &at_once(), NOW);
    assert_eq!((plan.handovers.len(), plan.seals.len()), (1, 0));
    let to = &plan.handovers[0].recipients;
    assert_eq!((to.len(), to[0].reason), (1, Reason::Rotation));
}

#[test]
fn nothing_follows_before_the_others_had_time_to_go_as_well() {
    let plan = decide(&room(vec![reader()], vec![over(SETTLE - 1)]), &at_once(), NOW);
    assert!(plan.is_idle());
    assert_eq!(plan.again_at, Some(NOW + 1));
}

#[test]
fn who_has_the_next_session_is_not_given_it_again_and_who_lacks_it_is() {
    let next = Some(("next".to_owned(), 0));
    let view = TupleView { active: next, ..over(SETTLE) };
    let mut bob = reader();
    bob.devices[0].grants.insert("next".to_owned(), grant(0, 900, 60));
    let carol = member("carol", Membership::Join, vec![holding("C", 4, 400, 5)]);
    let invitee = member("dave", Membership::Invite, vec![holding("D", 4, 400, 5)]);
    let plan =
        decide(&room(vec![bob.clone(), carol, invitee], vec![view.clone()]), &at_once(), NOW);
    let to: Vec<_> = plan.handovers[0].recipients.iter().map(|to| to.device_id.as_str()).collect();
    assert_eq!(to, ["C"]);
    // A change now costs no share.
    let newer = renamed().source;
    let changed = TupleView { source: newer, ..view };
    let plan = decide(&room(vec![bob], vec![changed]), &at_once(), NOW);
    assert_eq!((plan.seals.len(), plan.seals[0].recipients.len()), (1, 0));
}

#[test]
fn what_is_sealed_anew_is_what_the_rules_say_and_uses_up_no_session_for_it() {
    let plan_of = |reseal, view: TupleView| {
        let rules = Rules { rotate_reseal: reseal, rotation_settle: SETTLE, ..rules() };
        decide(&room(vec![reader()], vec![view]), &rules, NOW).seals
    };
    let plan = || TupleView { tuple: StateTuple::new("org.example.plan", ""), ..over(SETTLE) };
    assert!(plan_of(RotateReseal::None, over(SETTLE)).is_empty());
    assert_eq!(plan_of(RotateReseal::Aesthetic, over(SETTLE))[0].cause, Cause::Rotation);
    assert!(plan_of(RotateReseal::Aesthetic, plan()).is_empty());
    assert_eq!(plan_of(RotateReseal::All, plan()).len(), 1);
    assert!(plan_of(RotateReseal::All, over(SETTLE - 1)).is_empty());
    let used_up = Some(Over { at: 0, by_use: true });
    let used_up = || TupleView { over: used_up, ..over(SETTLE) };
    for (scope, messages, anew) in [
        (SessionScope::Tuple, 1, 0),
        (SessionScope::Tuple, 2, 2),
        (SessionScope::Room, 2, 0),
        (SessionScope::Room, 3, 2),
    ] {
        let rules = Rules {
            session_scope: scope,
            rotation_messages: messages,
            rotate_reseal: RotateReseal::All,
            rotation_settle: SETTLE,
            ..rules()
        };
        let plan = StateTuple::new("org.example.plan", "");
        let tuples = vec![used_up(), TupleView { tuple: plan, ..used_up() }];
        let seals = decide(&room(vec![reader()], tuples), &rules, NOW).seals;
        assert_eq!(seals.len(), anew, "{scope:?} {messages}");
    }
    let redacted = TupleView { redacted: true, ..over(SETTLE) };
    assert!(plan_of(RotateReseal::All, redacted).is_empty(), "what was taken back stays so");
}

#[test]
fn a_part_of_the_room_is_not_enough_to_make_the_next_session_for() {
    let known = Knowledge { whole_room: false, ..room(vec![reader()], vec![over(SETTLE)]) };
    let plan = decide(&known, &at_once(), NOW);
    assert!(plan.needs_whole_room && plan.handovers.is_empty());
}

proptest! {
    #[test]
    fn nobody_is_handed_a_session_who_is_not_entitled_or_not_joined(
        known in any_room(), ago in 0i64..2 * SETTLE, follows in any::<bool>(),
        reseal in prop_oneof![Just(RotateReseal::None), Just(RotateReseal::All)],
    ) {
        let mut known = known;
        let next = follows.then(|| ("next".to_owned(), 0));
        let name = &mut known.tuples[0];
        (name.active, name.over) = (next, Some(Over { at: NOW - ago, by_use: false }));
        let rules = Rules { rotate_reseal: reseal, ..at_once() };
        let plan = decide(&known, &rules, NOW);
        let handed = plan.handovers.iter().flat_map(|handover| &handover.recipients);
        let before_seals = plan.seals.iter().flat_map(|seal| &seal.recipients);
        for to in handed.chain(before_seals) {
            let member = known.members.iter().find(|m| m.user_id == to.user_id).unwrap();
            let facts = &member.devices[0].facts;
            prop_assert!(facts.cross_signed_by_owner && !facts.blocked && !facts.deleted);
            prop_assert_eq!(member.membership, Membership::Join);
        }
        let rotates = plan.seals.iter().any(|seal| seal.cause == Cause::Rotation);
        if ago < SETTLE || !known.elevated || known.tuples[0].redacted {
            prop_assert!(plan.handovers.is_empty() && !rotates);
        }
    }
}
