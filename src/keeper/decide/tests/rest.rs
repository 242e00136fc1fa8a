//! Rooms at rest, where a decision about a few is one about everybody.

use super::*;

fn found(known: &Knowledge, rules: &Rules) -> Option<Rest> {
    Rest::find(known, rules, &decide(known, rules, NOW))
}

fn alice() -> MemberView {
    member("alice", Membership::Join, vec![holding("A", 4, 400, 5)])
}

#[test]
fn a_room_rests_when_nothing_is_left_to_do_nor_waited_for() {
    let rest = found(&room(vec![alice()], vec![sealed_name()]), &rules()).unwrap();
    assert!(rest.lacking.is_empty() && rest.covers(&[sealed_name()]) && rest.covers(&[renamed()]));
    let bob = member("bob", Membership::Join, vec![device("B")]);
    assert_eq!(found(&room(vec![alice(), bob], vec![sealed_name()]), &rules()), None);
    let source =
        SourceView { event_id: owned_event_id!("$soon"), at: NOW + 5, tick: 60, unsaid: false };
    let soon = TupleView { source: Some(source), ..sealed_name() };
    assert_eq!(found(&room(vec![alice()], vec![soon]), &rules()), None);
    let part = Knowledge { whole_room: false, ..room(vec![alice()], vec![sealed_name()]) };
    assert_eq!(found(&part, &rules()), None, "nobody looked at the others");
}

#[test]
fn another_session_or_a_new_tuple_calls_for_a_look_at_everybody() {
    let rest = found(&room(vec![alice()], vec![sealed_name()]), &rules()).unwrap();
    let next = TupleView { active: Some(("next".to_owned(), 0)), ..renamed() };
    assert!(!rest.covers(&[next]));
    assert!(!rest.covers(&[TupleView { active: None, ..renamed() }]));
    let topic = TupleView { tuple: StateTuple::new("m.room.topic", ""), ..renamed() };
    assert!(!rest.covers(&[sealed_name(), topic.clone()]));
    assert!(rest.covers(&[sealed_name(), TupleView { redacted: true, ..topic }]));
}

#[test]
fn whoever_may_lack_a_key_by_the_next_value_is_looked_at_again() {
    // A key that may not have arrived, and, for an invitee, one that opens nothing yet.
    let mut unsure = alice();
    for grant in unsure.devices[0].grants.values_mut() {
        grant.sent_at = None;
    }
    let rest = found(&room(vec![unsure], vec![sealed_name()]), &rules()).unwrap();
    assert_eq!(rest.lacking.len(), 1);
    let mut late = rules();
    late.sharing.members = MemberPolicy::Vouched(PowerLevel::Level(0));
    let known = room(vec![alice()], vec![sealed_name()]);
    assert_eq!(found(&known, &late), None, "who vouches for her may be somewhere else");
}

fn holder() -> impl Strategy<Value = MemberView> {
    let membership = prop_oneof![4 => Just(Membership::Join), 1 => Just(Membership::Invite)];
    let kind = prop_oneof![
        6 => Just(holding("D", 4, 100, 5)),
        1 => Just(holding("D", 7, 100, 5)),
        1 => Just(device("D")),
    ];
    (membership, kind, prop_oneof![6 => Just(true), 1 => Just(false)]).prop_map(
        |(membership, mut device, signed)| {
            device.facts.cross_signed_by_owner = signed;
            member("somebody", membership, vec![device])
        },
    )
}

proptest! {
    #[test]
    fn a_decision_about_the_few_is_the_one_about_everybody(
        members in proptest::collection::vec(holder(), 0..5),
        unasked in any::<bool>(),
        sealed_again in any::<bool>(),
    ) {
        let rules = Rules { unasked, ..rules() };
        let members = members.into_iter().enumerate().map(|(number, member)| {
            let user_id = format!("@u{number}:localhost").try_into().unwrap();
            MemberView { user_id, ..member }
        });
        let before = room(members.collect(), vec![sealed_name()]);
        let Some(rest) = found(&before, &rules) else { return Ok(()) };
        let mut later = renamed();
        later.active = Some(("session".to_owned(), 6));
        if sealed_again {
            let from = later.source.as_ref().unwrap().event_id.clone();
            let sealed = later.sealed.as_mut().unwrap();
            (sealed.from, sealed.message_index, sealed.tick) = (from, 5, 2000);
        }
        prop_assert!(rest.covers(&[later.clone()]));
        let everybody = Knowledge { tuples: vec![later], ..before };
        let mut few = everybody.clone();
        few.members.retain(|member| rest.lacking.contains(&member.user_id));
        let (everybody, few) = (decide(&everybody, &rules, NOW), decide(&few, &rules, NOW));
        let what = |plan: Plan| Plan { refusals: Vec::new(), holds: Vec::new(), ..plan };
        prop_assert_eq!(what(everybody), what(few));
    }
}
