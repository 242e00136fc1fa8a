//! Those who ask, proved without the keeper: what they say arrives, what they are told is heard,
//! and a flood is as large and as fast as it claims to be.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use http::Method;
use serde_json::{Value, json};
use vodozemac::{Ed25519Keypair, megolm::ExportedSessionKey};

use crate::{
    races::homeserver_itself::{simulated, users},
    simulated::{DeviceRef, Flood, RoomRef, Withheld, look_alikes, stand_in::StandIn},
};

/// The to-device events of one type in what the stand-in received.
fn of_type(received: Vec<Value>, event_type: &str) -> Vec<Value> {
    received.into_iter().filter(|event| event["type"] == event_type).collect()
}

#[tokio::test]
async fn a_request_and_its_end_reach_the_keepers_device() {
    let sim = simulated().await;
    let alice = sim.user("alice").create().device(1);
    let mut stand_in = StandIn::publish(&sim).await;
    alice.ask_for_key("!r:localhost", "session", "first");
    alice.ask_as("ELSEWHERE", ("!r:localhost", "session"), "second");
    alice.cancel_request("first");
    let requests = of_type(stand_in.receive(1000).await, "m.room_key_request");
    assert_eq!(requests.len(), 3, "{requests:?}");
    assert!(requests.iter().all(|request| request["sender"] == "@alice:localhost"));
    let said = |request: &Value| {
        let content = &request["content"];
        ["action", "request_id", "requesting_device_id"].map(|name| content[name].clone())
    };
    assert_eq!(said(&requests[0]), ["request", "first", "ALICE1"].map(Value::from));
    assert_eq!(said(&requests[1]), ["request", "second", "ELSEWHERE"].map(Value::from));
    assert_eq!(said(&requests[2]), ["request_cancellation", "first", "ALICE1"].map(Value::from));
    let body = &requests[0]["content"]["body"];
    assert_eq!(
        (&body["room_id"], &body["session_id"]),
        (&json!("!r:localhost"), &json!("session"))
    );
    assert!(!sim.with(|world| world.keeper_heard_all()), "not before they are acknowledged");
    // Whoever waits for that is told, also while the next poll has nothing to bring.
    tokio::select! {
        () = sim.wait_for("they are acknowledged", |world| world.keeper_heard_all()) => {}
        answer = stand_in.sync(60_000) => panic!("the poll ended first: {answer}"),
    }
}

#[tokio::test]
async fn a_device_hears_that_a_key_is_withheld() {
    let sim = simulated().await;
    let alice = sim.user("alice").create().device(1);
    let stand_in = StandIn::publish(&sim).await;
    let content = json!({
        "algorithm": "m.megolm.v1.aes-sha2", "code": "m.unverified", "reason": "Not signed.",
        "room_id": "!r:localhost", "session_id": "session", "sender_key": "key",
    });
    let messages = json!({ "messages": { "@alice:localhost": { "ALICE1": content } } });
    stand_in.call(Method::PUT, "sendToDevice/m.room_key.withheld/txn1", &messages).await;
    let withheld = Withheld {
        code: "m.unverified".to_owned(),
        reason: "Not signed.".to_owned(),
        room_id: Some("!r:localhost".to_owned()),
        session_id: Some("session".to_owned()),
    };
    assert_eq!(alice.withheld(), [withheld]);
    assert_eq!(alice.heard_from_keeper().len(), 1);
    assert!(alice.keys_from_keeper().is_empty());
}

/// Bob's key of his session in a room, as it stands now, in an `m.forwarded_room_key`.
fn forwarded(bob: &DeviceRef, room: &RoomRef) -> Value {
    bob.sim.with(|world| {
        let device = world.device_mut(&bob.user_id, &bob.device_id);
        let sender_key = device.curve25519();
        let outbound = device.outbound(&room.room_id);
        let (session_id, index) = (outbound.session.session_id(), outbound.session.message_index());
        let held = device.room_keys.get_mut(&(room.room_id.clone(), session_id.clone())).unwrap();
        let key: ExportedSessionKey = held.session.export_at(index).unwrap();
        json!({
            "algorithm": "m.megolm.v1.aes-sha2", "room_id": room.room_id,
            "session_id": session_id, "session_key": key.to_base64(), "sender_key": sender_key,
            "sender_claimed_ed25519_key": Ed25519Keypair::new().public_key().to_base64(),
            "forwarding_curve25519_key_chain": [],
        })
    })
}

#[tokio::test]
async fn a_forwarded_key_opens_what_came_after_it_and_is_no_room_key() {
    let sim = simulated().await;
    let (alice, bob) = (sim.user("alice").create().device(1), sim.user("bob").create().device(1));
    let room = sim.room().creator("bob").create();
    let stand_in = StandIn::publish(&sim).await;
    stand_in.meet(&users(&["alice"])).await;
    let old = bob.rename(&room, "Old");
    let content = forwarded(&bob, &room);
    let new = bob.rename(&room, "New");
    assert!(stand_in.send_content(alice.id(), "m.forwarded_room_key", &content).await);
    let event = |id: &str| sim.with(|world| world.room(&room.room_id).event(id).unwrap().clone());
    let opened = alice.opens_forwarded(&event(&new)).unwrap();
    assert_eq!((opened.index, &opened.content()["name"]), (1, &json!("New")));
    assert!(alice.opens_forwarded(&event(&old)).is_err());
    assert!(alice.opens(&event(&new)).is_err(), "a stock client drops it");
    assert_eq!(alice.forwarded_by_keeper().len(), 1);

    let mut lie = content;
    lie["session_id"] = json!("another");
    stand_in.send_content(alice.id(), "m.forwarded_room_key", &lie).await;
    assert_eq!(alice.complaints().len(), 1, "a key under another session's id");
}

#[tokio::test]
async fn a_renewed_olm_session_is_a_new_one() {
    let sim = simulated().await;
    let alice = sim.user("alice").create().device(1);
    let mut stand_in = StandIn::publish(&sim).await;
    stand_in.meet(&users(&["alice"])).await;
    stand_in.receive(0).await;
    let claimed =
        || sim.with(|world| world.users[&world.keeper()].uploaded["STANDIN"].one_time_keys.len());
    let before = claimed();
    for renewals in 1..=2 {
        alice.renew_olm();
        let received = of_type(stand_in.receive(1000).await, "m.dummy");
        assert_eq!(received.len(), 1, "{:?}", alice.complaints());
        assert_eq!(claimed(), before - renewals, "each takes a one-time key");
    }
}

#[tokio::test]
async fn what_looks_like_a_session_id_is_another_one() {
    let sim = simulated().await;
    let alice = sim.user("alice").create().device(1);
    let session_id = alice.session_id(&sim.room().create());
    let alike = look_alikes(&session_id);
    let distinct: BTreeSet<&String> = alike.iter().collect();
    assert!(distinct.len() >= 10, "{alike:?}");
    assert!(!alike.contains(&session_id));
    let same_bytes = alike.iter().filter(|other| {
        other.len() == session_id.len() && other[..42] == session_id[..42] && !other.contains('%')
    });
    assert!(same_bytes.count() >= 3, "other spellings of the last digit");
}

#[tokio::test]
async fn a_held_endpoint_answers_when_it_is_released() {
    let sim = simulated().await;
    let stand_in = StandIn::publish(&sim).await;
    sim.hold("whoami");
    let asked = async {
        let answer = stand_in.call(Method::GET, "account/whoami", &Value::Null).await;
        (answer.0, Instant::now())
    };
    let releasing = async {
        sim.wait_for("it is asked", |world| world.requests.to("whoami").count() == 1).await;
        // What is not held goes on.
        assert_eq!(stand_in.call(Method::GET, "joined_rooms", &Value::Null).await.0, 200);
        let released = Instant::now();
        sim.release("whoami");
        released
    };
    let ((status, answered), released) = tokio::join!(asked, releasing);
    assert_eq!(status, 200);
    assert!(answered >= released);
}

#[tokio::test]
async fn a_flood_is_as_large_and_as_fast_as_it_says_and_comes_in_bounded_batches() {
    let sim = simulated().await;
    sim.user("alice").create();
    let room = sim.room().keeper_power(100).create();
    let mut stand_in = StandIn::publish(&sim).await;
    let session_id = "a session of the room's";
    let flood = Flood { attackers: 5, each: 60, per_second: 1000, seed: 7 };
    let started = Instant::now();
    let mut attack = flood.start(&room, session_id);
    attack.finished().await;
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(290), "300 requests at 1000/s came within {took:?}");
    assert_eq!((attack.sent(), attack.is_under_way()), (300, false));

    let mut contents = Vec::new();
    let mut batches = Vec::new();
    while contents.len() < 300 {
        let received = of_type(stand_in.receive(1000).await, "m.room_key_request");
        assert!(!received.is_empty(), "only {} came", contents.len());
        batches.push(received.len());
        contents.extend(received);
    }
    assert_eq!(batches, [100, 100, 100]);
    for attacker in &attack.attackers {
        let own = contents.iter().filter(|request| request["sender"] == attacker.user_id.as_str());
        assert_eq!(own.count(), 60, "{}", attacker.user_id);
    }
    let field = |name: &str| {
        let values = contents.iter().map(|request| request["content"][name].to_string());
        values.collect::<BTreeSet<_>>().len()
    };
    assert_eq!(field("request_id"), 300, "no request is like another");
    assert!(field("requesting_device_id") > 5, "some devices are invented");
    let about = contents.iter().map(|request| {
        let body = &request["content"]["body"];
        (body["room_id"] == room.room_id.as_str(), body["session_id"] == session_id)
    });
    assert_eq!(about.collect::<BTreeSet<_>>().len(), 4, "true and invented, room and session");
    let members = sim.with(|world| world.room(&room.room_id).members("join"));
    let inside = attack.attackers.iter().filter(|attacker| members.contains(&attacker.user_id));
    assert_eq!(inside.count(), 3, "every other attacker is in the room");
}
