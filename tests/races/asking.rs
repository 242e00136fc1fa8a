//! `sharing.unasked: false`: the keeper answers whoever is entitled and asks, once, and tells
//! strangers nothing. What it refuses in words, and the flood, are in files of their own.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;

use crate::{
    races::{
        audience::{Audience, Named},
        stage::NAME,
    },
    simulated::{DeviceRef, Fault, Trust, World, device::Received, look_alikes},
};

fn room_keys(heard: &[Received]) -> usize {
    heard.iter().filter(|event| event.event_type == "m.room_key").count()
}

#[tokio::test]
async fn a_member_who_asks_gets_the_key_of_the_current_value_and_whoever_does_not_gets_none() {
    let audience = Audience::open(json!({})).await;
    let named = audience.named("Before").await;
    let now = audience.name(&named.room, "Now").await;
    let (bob, carol) = (audience.member("bob", &named.room), audience.member("carol", &named.room));
    bob.ask_for_key(&named.room.room_id, &now.session_id(), "first");
    audience.served(&bob, &now).await;
    let seal = audience.stage.sim.with(|world| world.keeper_seal(&now.room.room_id, NAME)).unwrap();
    assert_eq!(bob.opens(&seal).unwrap().content()["name"], "Now");
    assert!(bob.opens(&named.seal).is_err(), "the key begins with the current value");
    assert_eq!(room_keys(&bob.heard_from_keeper()), 1);
    audience.turn_is_over(&named.room).await;
    assert!(carol.heard_from_keeper().is_empty(), "carol did not ask");
    assert!(bob.complaints().is_empty(), "{:?}", bob.complaints());
}

#[tokio::test]
async fn nobody_without_business_in_the_room_hears_anything() {
    let audience = Audience::open(json!({})).await;
    let named = audience.named("Tea").await;
    let sim = &audience.stage.sim;
    let stranger = sim.user("stranger").create();
    let unsigned_stranger = sim.user("unsigned").cross_signed(false).create();
    let [left, banned, knocking] = ["left", "banned", "knocking"].map(|n| sim.user(n).create());
    for former in [&left, &banned] {
        sim.join(&named.room, &former.user_id);
    }
    named.room.leave(&left.user_id);
    named.room.membership("alice", &banned.user_id, "ban");
    named.room.membership(&knocking.user_id, &knocking.user_id, "knock");
    audience.told_of_all().await;
    let outsiders = [stranger, unsigned_stranger, left, banned, knocking];
    for outsider in &outsiders {
        named.asked_by(&outsider.device(1), "please");
    }
    audience.turn_is_over(&named.room).await;
    for outsider in &outsiders {
        let heard = outsider.device(1).heard_from_keeper();
        assert!(heard.is_empty(), "{} hears {heard:?}", outsider.user_id);
    }
}

/// Somebody asks, and something happens before the keeper knows the asker's device.
async fn between_request_and_answer(happens: impl FnOnce(&Audience, &Named, &DeviceRef)) {
    let audience = Audience::open(json!({})).await;
    let named = audience.named("Tea").await;
    let sim = &audience.stage.sim;
    sim.hold("keys/query");
    let bob = audience.member("bob", &named.room);
    audience.told_of_all().await;
    named.asked_by(&bob, "early");
    sim.wait_for("the keeper heard the request", |world| world.keeper_heard_all()).await;
    happens(&audience, &named, &bob);
    audience.told_of_all().await;
    sim.wait_for("the keeper heard everything", |world| world.keeper_heard_all()).await;
    sim.release("keys/query");
    audience.turn_is_over(&named.room).await;
    let heard = bob.heard_from_keeper();
    assert!(heard.is_empty(), "bob hears {heard:?}");
    assert!(bob.opens(&named.seal).is_err());
}

#[tokio::test]
async fn a_member_who_left_between_request_and_answer_gets_nothing() {
    between_request_and_answer(|_, named, bob| named.room.leave(&bob.user_id)).await;
}

#[tokio::test]
async fn a_member_who_was_banned_between_request_and_answer_gets_nothing() {
    between_request_and_answer(|_, named, bob| {
        named.room.membership("alice", &bob.user_id, "ban");
    })
    .await;
}

#[tokio::test]
async fn a_request_that_was_taken_back_is_not_answered() {
    between_request_and_answer(|_, _, bob| bob.cancel_request("early")).await;
}

#[tokio::test]
async fn a_request_that_is_taken_back_before_it_is_read_is_not_answered() {
    let mut audience = Audience::open(json!({})).await;
    let named = audience.named("Tea").await;
    let bob = audience.member("bob", &named.room);
    audience.told_of_all().await;
    audience.stage.keeper.kill();
    named.asked_by(&bob, "early");
    bob.cancel_request("early");
    audience.stage.keeper.start().await;
    audience.turn_is_over(&named.room).await;
    assert!(bob.heard_from_keeper().is_empty());
    named.asked_by(&bob, "again");
    audience.served(&bob, &named).await;
}

#[tokio::test]
async fn nobody_takes_back_what_another_asked() {
    let audience = Audience::open(json!({})).await;
    let named = audience.named("Tea").await;
    let sim = &audience.stage.sim;
    sim.hold("keys/query");
    let bob = audience.member("bob", &named.room);
    let mallory = audience.member("mallory", &named.room);
    named.asked_by(&bob, "the same id");
    mallory.cancel_request("the same id");
    sim.wait_for("the keeper heard both", |world| world.keeper_heard_all()).await;
    sim.release("keys/query");
    audience.served(&bob, &named).await;
}

#[tokio::test]
async fn a_device_that_is_forged_or_made_up_gets_nothing() {
    let audience = Audience::open(json!({})).await;
    let named = audience.named("Tea").await;
    let sim = &audience.stage.sim;
    let alice = audience.stage.alice_device();
    let alices = alice.heard_from_keeper().len();
    let trudy = sim.user("trudy").trust(Trust::ForgedSelfSignature).create().device(1);
    let mallory = sim.user("mallory").trust(Trust::ForgedCrossSignature).create().device(1);
    for forged in [&trudy, &mallory] {
        sim.join(&named.room, &forged.user_id);
        named.asked_by(forged, "forged");
    }
    let bob = audience.member("bob", &named.room);
    let session_id = named.session_id();
    let session = (named.room.room_id.as_str(), session_id.as_str());
    // One that does not exist, one of somebody else, and one that is no name at all.
    for (number, device) in ["GHOST", "ALICE1", "*", ""].iter().enumerate() {
        bob.ask_as(device, session, &format!("invented{number}"));
    }
    audience.turn_is_over(&named.room).await;
    assert_eq!(alice.heard_from_keeper().len(), alices, "and Alice did not ask again");
    for silent in [&trudy, &bob] {
        let heard = silent.heard_from_keeper();
        assert!(heard.is_empty(), "{} hears {heard:?}", silent.device_id);
    }
    let heard = mallory.heard_from_keeper();
    let keys = ["m.room_key", "m.forwarded_room_key"];
    assert!(heard.iter().all(|event| !keys.contains(&event.event_type.as_str())), "{heard:?}");
    assert!(mallory.opens(&named.seal).is_err());
}

#[tokio::test]
async fn another_rooms_session_is_given_under_neither_rooms_name() {
    let audience = Audience::open(json!({})).await;
    let (own, other) = (audience.named("Own").await, audience.named("Other").await);
    let bob = audience.member("bob", &own.room);
    bob.ask_for_key(&own.room.room_id, &other.session_id(), "own room, other session");
    bob.ask_for_key(&other.room.room_id, &other.session_id(), "other room, other session");
    bob.ask_for_key(&other.room.room_id, &own.session_id(), "other room, own session");
    for audience_room in [&own.room, &other.room] {
        audience.turn_is_over(audience_room).await;
    }
    let heard = bob.heard_from_keeper();
    assert!(heard.is_empty(), "bob hears {heard:?}");
}

#[tokio::test]
async fn a_session_id_that_looks_like_the_keepers_is_not_the_keepers() {
    // Nothing of what follows is to be left unanswered for its number alone.
    let ample = json!({ "burst": 1000, "per_second": 1000 });
    let limits = json!({ "device": ample, "user": ample, "room": ample, "overall": ample });
    let audience = Audience::open(json!({ "requests": { "limits": limits } })).await;
    let named = audience.named("Tea").await;
    let bob = audience.member("bob", &named.room);
    for (number, alike) in look_alikes(&named.session_id()).iter().enumerate() {
        bob.ask_for_key(&named.room.room_id, alike, &format!("alike{number}"));
    }
    audience.turn_is_over(&named.room).await;
    let heard = bob.heard_from_keeper();
    assert!(heard.is_empty(), "bob hears {heard:?}");
    // The true one is given all the same.
    named.asked_by(&bob, "the true one");
    audience.served(&bob, &named).await;
}

#[tokio::test]
async fn a_repeated_request_is_answered_once() {
    let audience = Audience::open(json!({ "requests": { "cool_down": "1ms" } })).await;
    let named = audience.named("Tea").await;
    let bob = audience.member("bob", &named.room);
    for _ in 0..3 {
        named.asked_by(&bob, "the same");
    }
    audience.served(&bob, &named).await;
    named.asked_by(&bob, "the same");
    audience.turn_is_over(&named.room).await;
    assert_eq!(room_keys(&bob.heard_from_keeper()), 1);
}

#[tokio::test]
async fn the_same_request_id_from_two_users_is_two_requests() {
    let audience = Audience::open(json!({})).await;
    let named = audience.named("Tea").await;
    for name in ["bob", "carol"] {
        let device = audience.member(name, &named.room);
        named.asked_by(&device, "the same");
        audience.served(&device, &named).await;
    }
}

#[tokio::test]
async fn a_device_that_holds_the_key_is_not_sent_it_again_unless_its_olm_session_is_new() {
    let audience = Audience::open(json!({ "requests": { "cool_down": "1h" } })).await;
    let named = audience.named("Tea").await;
    let bob = audience.member("bob", &named.room);
    named.asked_by(&bob, "first");
    audience.served(&bob, &named).await;
    for number in 0..3 {
        named.asked_by(&bob, &format!("again{number}"));
    }
    audience.turn_is_over(&named.room).await;
    assert_eq!(room_keys(&bob.heard_from_keeper()), 1, "within the cool-down");

    bob.renew_olm();
    named.asked_by(&bob, "over the new session");
    let sim = &audience.stage.sim;
    let twice = |world: &mut World| {
        room_keys(&world.read_inbox(&bob.user_id, &bob.device_id).received) == 2
    };
    sim.wait_for("bob is sent the key over his new Olm session", twice).await;
    audience.turn_is_over(&named.room).await;
    assert_eq!(room_keys(&bob.heard_from_keeper()), 2);
}

#[tokio::test]
async fn a_device_that_holds_the_key_is_sent_it_again_after_the_cool_down() {
    let cool_down = Duration::from_millis(700);
    let settings = json!({ "requests": { "cool_down": "700ms" } });
    let audience = Audience::open(settings).await;
    let named = audience.named("Tea").await;
    let bob = audience.member("bob", &named.room);
    named.asked_by(&bob, "first");
    audience.served(&bob, &named).await;
    // What is awaited is the time itself.
    tokio::time::sleep(cool_down).await;
    named.asked_by(&bob, "second");
    let sim = &audience.stage.sim;
    let twice = |world: &mut World| {
        room_keys(&world.read_inbox(&bob.user_id, &bob.device_id).received) == 2
    };
    sim.wait_for("bob is sent the key again", twice).await;
}

/// Where each to-device request went, its transaction id included, and what was in it.
fn sent(world: &World) -> Vec<(String, Option<String>)> {
    let requests = world.requests.to("sendToDevice");
    requests.map(|request| (request.path.clone(), request.body.clone())).collect()
}

/// SIGKILL while the answer is under way; `fault` says whether the homeserver took it.
async fn a_kill_between_ledger_and_answer(fault: Fault) {
    let mut audience = Audience::open(json!({ "requests": { "cool_down": "1h" } })).await;
    let named = audience.named("Tea").await;
    let bob = audience.member("bob", &named.room);
    audience.told_of_all().await;
    let sim = audience.stage.sim.clone();
    let before = sim.with(|world| sent(world).len());
    sim.fault("sendToDevice", fault, 1);
    named.asked_by(&bob, "first");
    sim.wait_for("the key is on its way", |world| sent(world).len() > before).await;
    audience.stage.keeper.kill();
    audience.stage.keeper.start().await;
    audience.served(&bob, &named).await;
    sim.wait_for("it went out again", |world| sent(world).len() > before + 1).await;
    audience.turn_is_over(&named.room).await;
    named.asked_by(&bob, "the ledger knows of it");
    audience.turn_is_over(&named.room).await;

    let to_bob: Vec<_> = sim
        .with(|world| sent(world))
        .into_iter()
        .skip(before)
        .filter(|request| request.1.as_ref().is_some_and(|body| body.contains(&bob.device_id)))
        .collect();
    assert_eq!(to_bob.len(), 2, "the first time and once more: {to_bob:?}");
    let distinct: BTreeSet<_> = to_bob.iter().collect();
    assert_eq!(distinct.len(), 1, "the same message under the same transaction id: {to_bob:?}");
    assert_eq!(room_keys(&bob.heard_from_keeper()), 1);
    assert!(bob.complaints().is_empty(), "{:?}", bob.complaints());
}

#[tokio::test]
async fn a_key_that_a_kill_kept_from_the_homeserver_goes_out_as_it_was() {
    a_kill_between_ledger_and_answer(Fault::Hang).await;
}

#[tokio::test]
async fn a_key_whose_answer_a_kill_lost_goes_out_as_it_was() {
    a_kill_between_ledger_and_answer(Fault::DoneThenHang).await;
}
