//! What somebody with business in a room is told instead of a key, and members' sessions, which are
//! theirs.

use serde_json::{Value, json};

use crate::{
    races::audience::{Audience, Named},
    simulated::{DeviceRef, World},
};

const PLAN: (&str, &str) = ("org.example.plan", "");

/// The codes which a device was told about a session, in order.
fn codes(device: &DeviceRef, session_id: &str) -> Vec<String> {
    let mut withheld = device.withheld();
    withheld.retain(|word| word.session_id.as_deref() == Some(session_id));
    withheld.into_iter().map(|word| word.code).collect()
}

#[tokio::test]
async fn an_unsigned_device_is_told_once_for_each_session_that_it_is_unverified() {
    let audience = Audience::open(json!({})).await;
    let name = audience.named("Tea").await;
    let topic = json!({ "topic": "Assam" });
    let topic = audience.set(&name.room, ("m.room.topic", ""), &topic).await;
    let sim = &audience.stage.sim;
    let ursula = sim.user("ursula").cross_signed(false).create().device(1);
    sim.join(&name.room, &ursula.user_id);
    for number in 0..3 {
        name.asked_by(&ursula, &format!("name{number}"));
        topic.asked_by(&ursula, &format!("topic{number}"));
    }
    audience.turn_is_over(&name.room).await;
    let told = |world: &mut World| {
        let received = &world.read_inbox(&ursula.user_id, &ursula.device_id).received;
        received.len() >= 2
    };
    sim.wait_for("Ursula is told of both", told).await;
    name.asked_by(&ursula, "later");
    audience.turn_is_over(&name.room).await;
    for session in [&name, &topic] {
        assert_eq!(codes(&ursula, &session.session_id()), ["m.unverified"]);
        assert!(ursula.opens(&session.seal).is_err());
    }
    assert_eq!(ursula.heard_from_keeper().len(), 2, "and nothing else");
    for word in ursula.withheld() {
        assert!(!word.reason.is_empty(), "a reason that a person understands");
        assert_eq!(word.room_id.as_deref(), Some(name.room.room_id.as_str()));
    }

    ursula.cross_sign();
    name.asked_by(&ursula, "signed now");
    audience.served(&ursula, &name).await;
}

#[tokio::test]
async fn a_second_unsigned_device_is_told_for_itself() {
    let audience = Audience::open(json!({})).await;
    let named = audience.named("Tea").await;
    let sim = &audience.stage.sim;
    let ursula = sim.user("ursula").cross_signed(false).devices(2).create();
    sim.join(&named.room, &ursula.user_id);
    for number in [1, 2] {
        named.asked_by(&ursula.device(number), &format!("device{number}"));
    }
    // Their keys may be heard of later than the witness's, so a turn says nothing about them.
    for number in [1, 2] {
        let device = ursula.device(number);
        let (user, device) = (ursula.user_id.clone(), device.device_id);
        let told = |world: &mut World| !world.read_inbox(&user, &device).received.is_empty();
        sim.wait_for("the device is told", told).await;
    }
    audience.turn_is_over(&named.room).await;
    for number in [1, 2] {
        assert_eq!(codes(&ursula.device(number), &named.session_id()), ["m.unverified"]);
    }
}

#[tokio::test]
async fn the_key_of_a_retired_value_is_unavailable_to_who_came_after_it() {
    let audience = Audience::open(json!({})).await;
    let old = audience.named("Old").await;
    let holder = audience.member("holder", &old.room);
    old.asked_by(&holder, "while it is current");
    audience.served(&holder, &old).await;
    // Whoever holds the session goes, and the next value stands under another one.
    old.room.leave(&holder.user_id);
    audience.told_of_all().await;
    let new = audience.name(&old.room, "New").await;
    assert_ne!(old.session_id(), new.session_id());

    let bob = audience.member("bob", &old.room);
    for number in 0..2 {
        old.asked_by(&bob, &format!("old{number}"));
    }
    new.asked_by(&bob, "new");
    audience.served(&bob, &new).await;
    audience.turn_is_over(&old.room).await;
    assert_eq!(codes(&bob, &old.session_id()), ["m.unavailable"]);
    assert!(bob.opens(&old.seal).is_err());
}

#[tokio::test]
async fn a_device_without_one_time_keys_is_told_that_there_is_no_olm() {
    let audience = Audience::open(json!({})).await;
    let named = audience.named("Tea").await;
    let sim = &audience.stage.sim;
    let empty = sim.user("empty").without_one_time_keys().create().device(1);
    sim.join(&named.room, &empty.user_id);
    named.asked_by(&empty, "first");
    let told =
        |world: &mut World| !world.read_inbox(&empty.user_id, &empty.device_id).received.is_empty();
    sim.wait_for("the device is told", told).await;
    named.asked_by(&empty, "second");
    audience.turn_is_over(&named.room).await;
    let said: Vec<String> = empty.withheld().into_iter().map(|word| word.code).collect();
    assert_eq!(said, ["m.no_olm"]);
    assert_eq!(empty.heard_from_keeper().len(), 1);
}

#[tokio::test]
async fn an_invitee_gets_the_aesthetic_keys_alone() {
    let audience = Audience::open(json!({})).await;
    let name = audience.named("Tea").await;
    let plan = audience.set(&name.room, PLAN, &json!({ "plan": "secret" })).await;
    let bob = audience.stage.sim.user("bob").create().device(1);
    name.room.invite(&bob.user_id);
    audience.told_of_all().await;
    name.asked_by(&bob, "name");
    plan.asked_by(&bob, "plan");
    audience.served(&bob, &name).await;
    audience.turn_is_over(&name.room).await;
    assert!(bob.opens(&plan.seal).is_err(), "before the join");
    audience.stage.sim.join(&name.room, &bob.user_id);
    audience.told_of_all().await;
    plan.asked_by(&bob, "plan, after the join");
    audience.served(&bob, &plan).await;
}

/// A plan that Alice sent, which the keeper leaves as it is, and the id of her session.
struct Left {
    named: Named,
    event: crate::simulated::room::Event,
    session_id: String,
}

/// Keys of members' sessions are forwarded as `forward` says, and plans are never sealed anew.
async fn stage_of_members_sessions(forward: bool) -> Audience {
    let settings = json!({
        "requests": { "forward_member_sessions": forward },
        "state": { "never_reseal": ["org.example.plan"] },
    });
    Audience::open(settings).await
}

fn send_plan(audience: &Audience, named: Named, plan: &Value) -> Left {
    let alice = audience.stage.alice_device();
    let event_id = alice.send_state(&named.room, PLAN, plan);
    let session_id = alice.session_id(&named.room);
    let event = audience.stage.sim.with(|world| {
        let event = world.room(&named.room.room_id).event(&event_id);
        event.expect("it was sent just now").as_ref().clone()
    });
    Left { named, event, session_id }
}

impl Left {
    /// Bob joins, asks for Alice's session, and has his turn.
    async fn asked_by_bob(&self, audience: &Audience) -> DeviceRef {
        let bob = audience.member("bob", &self.named.room);
        bob.ask_for_key(&self.named.room.room_id, &self.session_id, "a member's session");
        audience.turn_is_over(&self.named.room).await;
        bob
    }
}

/// Alice uses a newer session from now on, and is seen to.
async fn alice_moves_on(audience: &Audience, named: &Named) {
    audience.stage.alice_device().rotate(&named.room);
    audience.name(&named.room, "Under the newer session").await;
}

fn assert_not_given(bob: &DeviceRef, left: &Left) {
    assert!(bob.keys_from_keeper().is_empty(), "a member's session is never the keeper's to share");
    assert!(bob.forwarded_by_keeper().is_empty());
    assert!(bob.opens_forwarded(&left.event).is_err());
}

#[tokio::test]
async fn a_members_session_is_not_forwarded_by_default() {
    let audience = stage_of_members_sessions(false).await;
    let named = audience.named("Tea").await;
    let left = send_plan(&audience, named, &json!({ "plan": "leave" }));
    alice_moves_on(&audience, &left.named).await;
    let bob = left.asked_by_bob(&audience).await;
    assert_not_given(&bob, &left);
}

#[tokio::test]
async fn a_members_session_that_only_state_used_is_forwarded_from_the_current_value_on() {
    let audience = stage_of_members_sessions(true).await;
    let named = audience.named("Tea").await;
    let past = send_plan(&audience, named, &json!({ "plan": "stay" }));
    let room = past.named.room.clone();
    let left = send_plan(&audience, past.named, &json!({ "plan": "leave" }));
    assert_eq!(past.session_id, left.session_id);
    alice_moves_on(&audience, &left.named).await;
    let bob = audience.member("bob", &room);
    bob.ask_for_key(&room.room_id, &left.session_id, "a member's session");
    let opens = |world: &mut World| world.open_forwarded(bob.id(), &left.event).is_ok();
    audience.stage.sim.wait_for("bob is forwarded the session", opens).await;
    assert!(bob.opens_forwarded(&past.event).is_err(), "the key begins with the current value");
    assert!(bob.keys_from_keeper().is_empty(), "never as the keeper's own");
}

#[tokio::test]
async fn a_session_that_its_creator_still_uses_is_not_forwarded() {
    let audience = stage_of_members_sessions(true).await;
    let named = audience.named("Tea").await;
    let left = send_plan(&audience, named, &json!({ "plan": "leave" }));
    let bob = left.asked_by_bob(&audience).await;
    assert_not_given(&bob, &left);
}

#[tokio::test]
async fn a_session_that_was_used_for_messages_is_never_forwarded() {
    let audience = stage_of_members_sessions(true).await;
    let named = audience.named("Tea").await;
    let left = send_plan(&audience, named, &json!({ "plan": "leave" }));
    audience.stage.alice_device().send_message(&left.named.room, "between us");
    alice_moves_on(&audience, &left.named).await;
    let bob = left.asked_by_bob(&audience).await;
    assert_not_given(&bob, &left);
}

#[tokio::test]
async fn an_invitee_is_forwarded_no_members_session() {
    let audience = stage_of_members_sessions(true).await;
    let named = audience.named("Tea").await;
    let left = send_plan(&audience, named, &json!({ "plan": "leave" }));
    alice_moves_on(&audience, &left.named).await;
    let bob = audience.stage.sim.user("bob").create().device(1);
    left.named.room.invite(&bob.user_id);
    audience.told_of_all().await;
    bob.ask_for_key(&left.named.room.room_id, &left.session_id, "an invitee");
    audience.turn_is_over(&left.named.room).await;
    assert_not_given(&bob, &left);
}
