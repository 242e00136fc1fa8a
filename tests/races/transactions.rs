//! What the keeper's listener takes, and what it makes of hostile transactions.

use serde_json::{Value, json};

use crate::races::stage::{NAME, Stage};

fn member_join(event_id: &str, room_id: &str, user_id: &str) -> Value {
    json!({
        "event_id": event_id, "room_id": room_id, "type": "m.room.member", "sender": user_id,
        "state_key": user_id, "content": { "membership": "join" }, "origin_server_ts": 1,
        "unsigned": { "age": 1 },
    })
}

#[tokio::test]
async fn a_transaction_without_the_right_token_is_refused() {
    let stage = Stage::open().await;
    let body = json!({ "events": [] }).to_string();
    let missing = stage.keeper.put_transaction("t1", None, body.clone()).await;
    assert_eq!((missing.0, &missing.1["errcode"]), (401, &json!("M_MISSING_TOKEN")));
    let wrong = stage.keeper.put_transaction("t1", Some("not the token"), body.clone()).await;
    assert_eq!((wrong.0, &wrong.1["errcode"]), (403, &json!("M_FORBIDDEN")));
    let right = stage.keeper.put_transaction("t1", Some(stage.keeper.hs_token()), body).await;
    assert_eq!(right, (200, json!({})));
}

#[tokio::test]
async fn a_body_over_the_limit_is_too_large() {
    let mut stage = Stage::prepare(json!({ "appservice": { "max_body_size": 100_000 } })).await;
    stage.keeper.start().await;
    let body = json!({ "events": [], "padding": "x".repeat(200_000) }).to_string();
    let answer = stage.keeper.put_transaction("t1", Some(stage.keeper.hs_token()), body).await;
    assert_eq!((answer.0, &answer.1["errcode"]), (413, &json!("M_TOO_LARGE")));
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused() {
    let stage = Stage::open().await;
    let token = Some(stage.keeper.hs_token());
    for body in ["{", "not json", "\u{0}\u{1}"] {
        let answer = stage.keeper.put_transaction("t1", token, body.to_owned()).await;
        assert_eq!((answer.0, &answer.1["errcode"]), (400, &json!("M_NOT_JSON")), "{body}");
    }
}

#[tokio::test]
async fn an_event_that_comes_again_under_another_transaction_id_is_handled_once() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    stage.settle(&room, "before").await;
    let seals = stage.seals(&room, NAME);
    let keys = bob.device(1).keys_from_keeper().len();
    let join = stage.sim.with(|world| {
        world.room(&room.room_id).current("m.room.member", "@bob:localhost").unwrap().to_json()
    });
    let body = json!({ "events": [join, join] }).to_string();
    for txn_id in ["again1", "again2"] {
        let token = Some(stage.keeper.hs_token());
        assert_eq!(stage.keeper.put_transaction(txn_id, token, body.clone()).await.0, 200);
    }
    // The topic has a session of its own, whose key Bob holds: no further key is due.
    stage.settle(&room, "after").await;
    assert_eq!(stage.seals(&room, NAME), seals, "nothing was refreshed for the repeated join");
    assert_eq!(bob.device(1).keys_from_keeper().len(), keys);
}

/// One malformed event of each kind that the keeper reads, and some that are no events at all.
fn malformed(room_id: &str) -> Vec<Value> {
    let mut events = vec![
        json!(null),
        json!(17),
        json!("an event"),
        json!([]),
        json!({}),
        json!({ "event_id": 5, "room_id": [], "type": {}, "sender": null }),
    ];
    let kinds = [
        "m.room.member",
        "m.room.create",
        "m.room.encryption",
        "m.room.encrypted",
        "m.room.power_levels",
        "m.room.history_visibility",
        "m.room.join_rules",
        "m.room.redaction",
        "m.room.name",
        "m.room.tombstone",
    ];
    let contents = [
        json!(null),
        json!([]),
        json!("content"),
        json!({ "membership": 7, "algorithm": {}, "users": [], "ciphertext": 3, "redacts": [] }),
        json!({ "membership": "join", "users": { "nobody": "x" }, "algorithm": "m.unknown.v9" }),
        json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "!!", "session_id": "x" }),
    ];
    for (number, kind) in kinds.iter().enumerate() {
        for (other, content) in contents.iter().enumerate() {
            for state_key in [json!(""), json!("@not a user"), json!(3), Value::Null] {
                events.push(json!({
                    "event_id": format!("$bad{number}_{other}_{state_key}"), "room_id": room_id,
                    "type": kind, "sender": "@alice:localhost", "origin_server_ts": 1,
                    "state_key": state_key, "content": content,
                }));
            }
        }
    }
    events.push(member_join("not an event id", room_id, "@x:localhost"));
    events.push(member_join("$bad-room", "not a room", "@x:localhost"));
    events.push(member_join("$bad-user", room_id, "no user"));
    events
}

#[tokio::test]
async fn a_malformed_event_does_not_hold_up_the_rest_of_its_transaction() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    // The homeserver is believed about its rooms: the harm has to stay in the room that it is said of.
    let harmed = stage.named_room("Harmed").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.change(|world| {
        for event in malformed(&harmed.room_id) {
            world.push_raw(event);
        }
    });
    // The real join is queued behind them, partly in the same transaction.
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    stage.sim.wait_for("everything is taken", |world| world.all_pushed()).await;
    assert_eq!(stage.sim.with(|world| world.pushes().1), 0, "no transaction was refused");
    stage.name(&room, "Coffee").await;
    assert!(stage.keeper.is_running());
}
