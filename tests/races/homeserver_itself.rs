//! The simulated homeserver proved without the keeper: a mistake here would make every other test
//! of this file worthless.

use std::time::{Duration, Instant};

use http::Method;
use ruma::OwnedUserId;
use serde_json::{Value, json};

use crate::simulated::{Fault, Registration, Sim, Trust, stand_in::StandIn};

/// A homeserver without the keeper.
pub async fn simulated() -> Sim {
    // Nobody listens there: these tests need no keeper.
    Sim::start(Registration::new("http://127.0.0.1:9")).await
}

/// The ids of these people.
pub fn users(names: &[&str]) -> Vec<OwnedUserId> {
    names.iter().map(|name| OwnedUserId::try_from(format!("@{name}:localhost")).unwrap()).collect()
}

#[tokio::test]
async fn a_simulated_device_reads_what_the_crypto_library_encrypts_for_it() {
    let sim = simulated().await;
    let alice = sim.user("alice").devices(2).create();
    let stand_in = StandIn::publish(&sim).await;
    stand_in.meet(&users(&["alice"])).await;
    let content = json!({ "hello": "alice" });
    for (number, device) in [alice.device(1), alice.device(2)].iter().enumerate() {
        for _ in 0..2 {
            assert!(stand_in.send_content(device.id(), "org.example.hello", &content).await);
        }
        let received = device.received();
        assert_eq!(received.len(), 2, "device {number}: {:?}", device.complaints());
        assert_eq!(received[1].event_type, "org.example.hello");
        assert_eq!(received[1].content, content);
    }
    assert_eq!(sim.requests("keys/claim"), 1);
}

#[tokio::test]
async fn the_crypto_library_reads_what_a_simulated_device_encrypts_for_it() {
    let sim = simulated().await;
    let alice = sim.user("alice").create();
    let mut stand_in = StandIn::publish(&sim).await;
    let room = sim.room().keeper_power(100).create();
    stand_in.meet(&users(&["alice"])).await;
    stand_in.receive(0).await;
    alice.device(1).rename(&room, "Tea");
    let received = stand_in.receive(1000).await;
    assert_eq!(received.len(), 1, "{received:?}");
    assert_eq!(received[0]["type"], "m.room_key");
    assert_eq!(received[0]["content"]["room_id"], room.room_id.as_str());
    assert!(stand_in.receive(0).await.is_empty(), "acknowledged, it comes no second time");
}

#[tokio::test]
async fn a_shared_room_key_reaches_each_device_and_the_forged_are_not_cross_signed() {
    let sim = simulated().await;
    sim.user("alice").create();
    sim.user("bob").cross_signed(false).create();
    sim.user("mallory").trust(Trust::ForgedCrossSignature).create();
    sim.user("trudy").trust(Trust::ForgedSelfSignature).create();
    let stand_in = StandIn::publish(&sim).await;
    let all = users(&["alice", "bob", "mallory", "trudy"]);
    stand_in.meet(&all).await;
    let room_id = ruma::OwnedRoomId::try_from("!r:localhost").unwrap();
    assert_eq!(stand_in.share_room_key(&room_id, &all).await, 1);
    let holds = |name: &str| sim.device(name, 1).keys_from_keeper().len();
    assert_eq!((holds("alice"), holds("bob"), holds("mallory")), (1, 1, 1));
    assert_eq!(holds("trudy"), 0, "a device that did not sign itself is no device");
    for (name, expected) in [("alice", true), ("bob", false), ("mallory", false)] {
        let user_id = users(&[name]).remove(0);
        let devices = stand_in.machine.get_user_devices(&user_id, None).await.unwrap();
        let device = devices.devices().next().unwrap();
        assert_eq!(device.is_cross_signed_by_owner(), expected, "{name}");
    }
}

#[tokio::test]
async fn a_key_opens_the_event_sealed_after_it_and_nothing_older() {
    let sim = simulated().await;
    let alice = sim.user("alice").create();
    let room = sim.room().create();
    let old = alice.device(1).rename(&room, "Old");
    let new = alice.device(1).rename(&room, "New");
    let event = |id: &str| sim.with(|world| world.room(&room.room_id).event(id).unwrap().clone());
    assert_eq!(alice.device(1).opens(&event(&old)).unwrap().index, 0);
    let opened = alice.device(1).opens(&event(&new)).unwrap();
    assert_eq!((opened.index, &opened.content()["name"]), (1, &json!("New")));
    assert!(sim.with(|world| world.reused_indices()).is_empty());
    let replay = event(&old).content.clone();
    room.put_state("alice", ("m.room.encrypted", "m.room.name:"), replay);
    assert_eq!(sim.with(|world| world.reused_indices()).len(), 1);
}

#[tokio::test]
async fn a_repeated_transaction_id_delivers_once_and_is_remembered() {
    let sim = simulated().await;
    let alice = sim.user("alice").create();
    let stand_in = StandIn::publish(&sim).await;
    let messages =
        |text: &str| json!({ "messages": { "@alice:localhost": { "ALICE1": { "text": text } } } });
    for text in ["one", "one", "two"] {
        let path = "sendToDevice/org.example/txn1";
        stand_in.call(Method::PUT, path, &messages(text)).await;
    }
    assert_eq!(alice.device(1).received().len(), 1);
    let repeated = sim.with(|world| world.repeated.clone());
    let same: Vec<bool> = repeated.iter().map(|repeat| repeat.same_body).collect();
    assert_eq!(same, [true, false]);
}

#[tokio::test]
async fn the_same_state_again_is_the_same_event() {
    let sim = simulated().await;
    sim.user("alice").create();
    let room = sim.room().keeper_power(50).create();
    let stand_in = StandIn::publish(&sim).await;
    let path = format!("rooms/{}/state/m.room.encrypted/m.room.name%3A", room.room_id);
    let put = async |ciphertext: &str| {
        let body = json!({ "ciphertext": ciphertext });
        stand_in.call(Method::PUT, &path, &body).await.1["event_id"].clone()
    };
    let first = put("a").await;
    assert_eq!(put("a").await, first);
    assert_ne!(put("b").await, first);
    let (_, event) = stand_in.call(Method::GET, &format!("{path}?format=event"), &json!({})).await;
    assert_eq!(event["unsigned"]["replaces_state"], first);
    room.set_power(&sim.keeper(), 49);
    let (status, refusal) = stand_in.call(Method::PUT, &path, &json!({ "x": 1 })).await;
    assert_eq!((status, &refusal["errcode"]), (403, &json!("M_FORBIDDEN")));
}

#[tokio::test]
async fn planned_trouble_happens_as_often_as_planned() {
    let sim = simulated().await;
    let stand_in = StandIn::publish(&sim).await;
    sim.fault("whoami", Fault::Limited { retry_after_ms: 7 }, 1);
    sim.fault("whoami", Fault::Status(500), 1);
    let whoami = async || stand_in.call(Method::GET, "account/whoami", &Value::Null).await;
    let limited = whoami().await;
    assert_eq!((limited.0, &limited.1["retry_after_ms"]), (429, &json!(7)));
    assert_eq!(whoami().await.0, 500);
    assert_eq!(whoami().await.0, 200);
}

#[tokio::test]
async fn a_dead_server_delays_the_request_and_is_reported() {
    let sim = simulated().await;
    sim.user("@rita:far.example").create();
    sim.user("alice").create();
    let stand_in = StandIn::publish(&sim).await;
    sim.kill_server("far.example", Duration::from_millis(120));
    let started = Instant::now();
    let body = json!({ "device_keys": { "@rita:far.example": [], "@alice:localhost": [] } });
    let (_, answer) = stand_in.call(Method::POST, "keys/query", &body).await;
    assert!(started.elapsed() >= Duration::from_millis(120));
    assert!(answer["failures"]["far.example"].is_object());
    assert!(answer["device_keys"].get("@rita:far.example").is_none());
    assert!(answer["device_keys"]["@alice:localhost"]["ALICE1"].is_object());
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let sim = simulated().await;
    let client = crate::simulated::push::http_client();
    let url = format!("{}/_matrix/client/v3/joined_rooms", sim.url());
    let answer =
        crate::simulated::push::request(&client, Method::GET, &url, Some("wrong"), "").await;
    assert_eq!(answer.unwrap().0, 401);
}

/// Takes transactions in the keeper's place: refuses the first, accepts the rest.
async fn listener_that_refuses_once()
-> (String, std::sync::Arc<std::sync::Mutex<Vec<(String, Value)>>>) {
    use axum::{Json, Router, http::StatusCode, http::Uri, routing::put};
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = seen.clone();
    let take = async move |uri: Uri, Json(body): Json<Value>| {
        let mut seen = kept.lock().unwrap();
        seen.push((uri.path().to_owned(), body));
        let status = if seen.len() == 1 { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
        (status, Json(json!({})))
    };
    let router = Router::new().route("/_matrix/app/v1/transactions/{txn_id}", put(take));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, seen)
}

#[tokio::test]
async fn events_are_pushed_in_order_a_hundred_at_a_time_and_again_until_they_are_accepted() {
    let (url, seen) = listener_that_refuses_once().await;
    let sim = Sim::start(Registration::new(&url)).await;
    sim.user("alice").create();
    let room = sim.room().keeper_power(100).create();
    sim.change(|world| {
        for number in 0..150 {
            let content = json!({ "body": number });
            let kind = ("m.room.message", None);
            world.append(&room.room_id, "@alice:localhost", kind, content);
        }
    });
    sim.wait_for("all is pushed", |world| world.all_pushed()).await;
    let seen = seen.lock().unwrap();
    let shape: Vec<(&str, usize)> = seen
        .iter()
        .map(|(path, body)| (&path[path.len() - 1..], body["events"].as_array().unwrap().len()))
        .collect();
    assert_eq!(shape, [("1", 100), ("1", 100), ("2", 50)]);
    assert_eq!(seen[0].1, seen[1].1, "the same transaction, unchanged");
    let bodies = seen[1..].iter().flat_map(|(_, body)| body["events"].as_array().unwrap());
    let numbers: Vec<u64> = bodies.map(|e| e["content"]["body"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..150).collect::<Vec<u64>>());
}
