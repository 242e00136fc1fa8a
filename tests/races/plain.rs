//! Rooms that do not say that their state is encrypted, and are sealed by policy.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{RoomRef, sim::PATIENCE},
};

const ENCRYPTION: (&str, &str) = ("m.room.encryption", "");
const TITLE: (&str, &str) = ("m.room.name", "");
const ALICE: &str = "@alice:localhost";

fn sealing(what: &str) -> Value {
    json!({ "state": { "seal": what } })
}

/// An encrypted room whose state is not, with a name in plain.
async fn unflagged(stage: &Stage) -> RoomRef {
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let room = stage.sim.room().encrypted_state(false).state(ENCRYPTION, encryption).create();
    room.put_state(ALICE, TITLE, json!({ "name": "Tea" }));
    stage.invite_keeper(&room).await;
    room
}

/// Goes by other settings, and waits until the keeper says so for the time given.
async fn reload(stage: &Stage, settings: &Value, times: usize) {
    stage.keeper.configure(settings);
    stage.keeper.hang_up();
    let deadline = Instant::now() + PATIENCE;
    while stage.keeper.log().matches("the configuration is reloaded").count() < times {
        assert!(Instant::now() < deadline, "the configuration is not reloaded");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_stock_clients_go_on_sending_in_plain_is_sealed_each_time() {
    let mut stage = Stage::with(sealing("encrypted_rooms")).await;
    let room = unflagged(&stage).await;
    stage.sealed(&room, NAME, &json!({ "name": "Tea" })).await;
    for name in ["Coffee", "Water"] {
        room.put_state(ALICE, TITLE, json!({ "name": name }));
        stage.sealed(&room, NAME, &json!({ "name": name })).await;
    }
    // What came while the keeper was away, too; and what stands there is not taken for news.
    let seals = stage.seals(&room, NAME);
    stage.keeper.terminate().await;
    room.put_state(ALICE, TITLE, json!({ "name": "Milk" }));
    stage.keeper.start().await;
    stage.sealed(&room, NAME, &json!({ "name": "Milk" })).await;
    assert_eq!(stage.seals(&room, NAME), seals + 1);
}

#[tokio::test]
async fn where_the_room_says_that_state_is_encrypted_plain_state_changes_nothing() {
    let stage = Stage::with(sealing("encrypted_rooms")).await;
    let room = stage.named_room("Tea").await;
    room.put_state(ALICE, TITLE, json!({ "name": "Coffee" }));
    stage.settle(&room, "later").await;
    assert_eq!(stage.seals(&room, NAME), 1);
}

#[tokio::test]
async fn a_reload_takes_rooms_in_and_out() {
    let stage = Stage::open().await;
    let room = unflagged(&stage).await;
    let flagged = stage.named_room("Plan").await;
    assert_eq!(stage.seals(&room, NAME), 0);
    reload(&stage, &sealing("encrypted_rooms"), 1).await;
    stage.sealed(&room, NAME, &json!({ "name": "Tea" })).await;
    reload(&stage, &sealing("off"), 2).await;
    let deadline = Instant::now() + PATIENCE;
    while stage.keeper.metric("statekeeper_rooms", &["state_not_encrypted"]).await < 2.0 {
        assert!(Instant::now() < deadline, "the rooms are still sealed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    room.put_state(ALICE, TITLE, json!({ "name": "Coffee" }));
    stage.alice_device().rename(&flagged, "Other");
    reload(&stage, &sealing("encrypted_rooms"), 3).await;
    stage.sealed(&room, NAME, &json!({ "name": "Coffee" })).await;
    stage.sealed(&flagged, NAME, &json!({ "name": "Other" })).await;
    assert_eq!((stage.seals(&room, NAME), stage.seals(&flagged, NAME)), (2, 2));
}

#[tokio::test]
async fn a_reason_that_the_homeserver_reads_is_warned_of_once() {
    let stage = Stage::with(json!({ "state": { "warn_membership_reasons": true } })).await;
    let room = stage.named_room("Tea").await;
    for (user, reason) in [("@b:localhost", json!("secret words")), ("@c:localhost", json!(""))] {
        let content = json!({ "membership": "invite", "reason": reason });
        room.put_state(ALICE, ("m.room.member", user), content);
    }
    stage.settle(&room, "later").await;
    stage.keeper.wait_for_metric("statekeeper_membership_reasons_total", 1.0).await;
    assert!(!stage.keeper.log().contains("secret words"));
}
