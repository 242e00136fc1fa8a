//! What becomes of key requests.

use ruma::OwnedUserId;

use super::*;
use crate::{keeper::decide::asked::RequestView, policy::HoldReason};

fn request(user: &str, device: &str, session: &str) -> RequestView {
    RequestView {
        user_id: OwnedUserId::try_from(format!("@{user}:localhost")).unwrap(),
        device_id: device.into(),
        session_id: session.to_owned(),
        tuple: Some(StateTuple::new("m.room.name", "")),
        may_wait: false,
    }
}

fn asks() -> Rules {
    Rules { unasked: false, cool_down: 1000, ..rules() }
}

/// The plan where one thing is asked.
fn asked(members: Vec<MemberView>, tuple: TupleView, request: RequestView) -> Plan {
    let known = Knowledge { requests: vec![request], ..room(members, vec![tuple]) };
    decide(&known, &asks(), NOW)
}

fn answer(plan: &Plan) -> Answer {
    assert_eq!(plan.answers.len(), 1);
    plan.answers[0]
}

fn given(plan: &Plan) -> Vec<(String, Reason)> {
    let to = plan.given.iter().flat_map(|share| &share.recipients);
    to.map(|to| (to.device_id.to_string(), to.reason)).collect()
}

fn bob(devices: Vec<DeviceView>) -> Vec<MemberView> {
    vec![member("bob", Membership::Join, devices)]
}

#[test]
fn a_member_who_asks_is_given_the_key_and_nobody_else_is() {
    let members = bob(vec![device("B"), device("B2")]);
    let plan = asked(members, sealed_name(), request("bob", "B", "session"));
    assert_eq!(answer(&plan), Answer::Give);
    assert_eq!(given(&plan), [("B".to_owned(), Reason::Request)]);
    assert!(plan.shares.is_empty() && plan.seals.is_empty(), "B2 did not ask");
}

#[test]
fn whoever_asked_twice_is_given_the_key_once() {
    let known = room(bob(vec![device("B")]), vec![sealed_name()]);
    let requests = vec![request("bob", "B", "session"), request("bob", "B", "session")];
    let plan = decide(&Knowledge { requests, ..known }, &asks(), NOW);
    assert_eq!(plan.answers, [Answer::Give, Answer::Give]);
    assert_eq!(given(&plan).len(), 1);
}

#[test]
fn a_client_that_asked_is_not_shown_the_value_anew() {
    let mut late = holding("B", 4, 600, 70);
    late.grants.get_mut("session").unwrap().asked = true;
    let plan = decide(&room(bob(vec![late]), vec![sealed_name()]), &asks(), NOW);
    assert!(plan.is_idle());
}

#[test]
fn a_device_that_holds_the_key_gets_it_again_after_the_cool_down_alone() {
    for (granted_at, expected) in
        [(NOW - 999, Answer::Holds), (NOW - 1000, Answer::Give), (NOW + 5, Answer::Holds)]
    {
        let mut holder = holding("B", 4, 400, 20);
        holder.grants.get_mut("session").unwrap().granted_at = granted_at;
        let plan = asked(bob(vec![holder]), sealed_name(), request("bob", "B", "session"));
        assert_eq!(answer(&plan), expected);
        if expected == Answer::Give {
            assert_eq!(given(&plan), [("B".to_owned(), Reason::Resend)]);
        }
    }
    // What it holds begins behind the value: it does not hold it.
    let plan =
        asked(bob(vec![holding("B", 5, 400, 20)]), sealed_name(), request("bob", "B", "session"));
    assert_eq!(given(&plan), [("B".to_owned(), Reason::Request)]);
}

#[test]
fn who_has_no_business_in_the_room_hears_nothing() {
    let stranger = asked(Vec::new(), sealed_name(), request("eve", "E", "session"));
    assert_eq!(answer(&stranger), Answer::Silence);
    let ghost = asked(bob(vec![device("B")]), sealed_name(), request("bob", "GHOST", "session"));
    assert_eq!(answer(&ghost), Answer::Silence);
    let gone = DeviceView { facts: DeviceFacts { deleted: true, ..signed() }, ..device("B") };
    let deleted = asked(bob(vec![gone]), sealed_name(), request("bob", "B", "session"));
    assert_eq!(answer(&deleted), Answer::Silence);
    let widget = TupleView { tuple: StateTuple::new("im.widget", "1"), ..sealed_name() };
    let invitee = vec![member("carol", Membership::Invite, vec![device("C")])];
    let view = RequestView {
        tuple: Some(StateTuple::new("im.widget", "1")),
        ..request("carol", "C", "session")
    };
    assert_eq!(answer(&asked(invitee, widget, view)), Answer::Silence);
}

#[test]
fn who_came_before_the_news_of_him_waits_for_it() {
    let early = RequestView { may_wait: true, ..request("bob", "B", "session") };
    assert_eq!(answer(&asked(Vec::new(), sealed_name(), early)), Answer::Wait);
    let unsettled = |devices| {
        bob(devices).into_iter().map(|bob| MemberView { settled: false, ..bob }).collect()
    };
    let new = request("bob", "NEW", "session");
    let plan = asked(unsettled(vec![device("B")]), sealed_name(), new);
    assert_eq!(answer(&plan), Answer::Wait);
    // Its signature may be on its way.
    let unsigned = DeviceView {
        facts: DeviceFacts { cross_signed_by_owner: false, ..signed() },
        ..device("B")
    };
    let view = request("bob", "B", "session");
    assert_eq!(answer(&asked(unsettled(vec![unsigned]), sealed_name(), view)), Answer::Wait);
}

#[test]
fn who_is_refused_is_told_why() {
    let refused = |facts: DeviceFacts, user: UserFacts| {
        let members = vec![MemberView {
            user,
            ..member("bob", Membership::Join, vec![DeviceView { facts, ..device("B") }])
        }];
        answer(&asked(members, sealed_name(), request("bob", "B", "session")))
    };
    let withheld = |code| Answer::Refuse(Entitlement::Withhold(code));
    let unsigned = DeviceFacts { cross_signed_by_owner: false, ..signed() };
    assert_eq!(refused(unsigned, UserFacts::ADMITTED), withheld(WithheldCode::Unverified));
    let blocked = DeviceFacts { blocked: true, ..signed() };
    assert_eq!(refused(blocked, UserFacts::ADMITTED), withheld(WithheldCode::Blacklisted));
    let changed = UserFacts { identity_changed: true, ..UserFacts::ADMITTED };
    let hold = Entitlement::Hold(HoldReason::IdentityChanged);
    assert_eq!(refused(signed(), changed), Answer::Refuse(hold));
    assert_eq!(hold.code(), Some(WithheldCode::Unauthorised));
}

#[test]
fn the_key_of_a_value_that_is_no_more_is_unavailable() {
    let unavailable = Answer::Refuse(Entitlement::Withhold(WithheldCode::Unavailable));
    let of = |tuple: TupleView, session: &str| {
        answer(&asked(bob(vec![device("B")]), tuple, request("bob", "B", session)))
    };
    assert_eq!(of(sealed_name(), "retired"), unavailable);
    assert_eq!(of(TupleView { redacted: true, ..sealed_name() }, "session"), unavailable);
    assert_eq!(of(TupleView { active: None, ..renamed() }, "session"), unavailable);
    // The next value is about to be sealed under it.
    assert_eq!(of(renamed(), "session"), Answer::Wait);
}

#[test]
fn one_session_for_the_room_is_given_for_what_the_asker_may_read() {
    let widget = TupleView { tuple: StateTuple::new("im.widget", "1"), ..sealed_name() };
    let members = vec![member("carol", Membership::Invite, vec![device("C")])];
    let view = RequestView { tuple: None, ..request("carol", "C", "session") };
    let known = room(members, vec![widget, sealed_name()]);
    let plan = decide(&Knowledge { requests: vec![view], ..known }, &asks(), NOW);
    assert_eq!(plan.given.iter().map(|share| share.tuple).collect::<Vec<_>>(), [1]);
}

proptest! {
    #[test]
    fn what_is_asked_for_goes_to_nobody_who_would_not_be_given_it_unasked(
        known in any_room(), may_wait: bool, settled: bool,
    ) {
        let requests = known.members.iter().map(|member| RequestView {
            user_id: member.user_id.clone(),
            device_id: member.devices[0].device_id.clone(),
            may_wait,
            ..request("bob", "B", "session")
        });
        let requests = requests.collect();
        let mut known = Knowledge { requests, ..known };
        known.members.iter_mut().for_each(|member| member.settled = settled);
        let plan = decide(&known, &asks(), NOW);
        prop_assert_eq!(plan.answers.len(), known.requests.len());
        for to in plan.given.iter().flat_map(|share| &share.recipients) {
            let member = known.members.iter().find(|m| m.user_id == to.user_id).unwrap();
            let entitled = entitlement(member, &member.devices[0], &known.tuples[0].tuple, &rules());
            prop_assert!(entitled.is_grant());
        }
        for (answer, request) in plan.answers.iter().zip(&known.requests) {
            let gets = plan.given.iter().flat_map(|share| &share.recipients)
                .any(|to| to.user_id == request.user_id);
            prop_assert_eq!(gets, *answer == Answer::Give, "{:?}", answer);
        }
        prop_assert!(plan.shares.is_empty(), "nothing goes unasked");
    }
}
