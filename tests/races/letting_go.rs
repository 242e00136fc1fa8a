//! The keeper is no archive: a member's key goes when it is needed no more, and no sooner.

use std::time::Duration;

use matrix_sdk_crypto::store::CryptoStore;
use matrix_sdk_sqlite::SqliteCryptoStore;
use ruma::RoomId;
use serde_json::json;

use crate::{
    races::stage::{NAME, Stage},
    simulated::{DeviceRef, RoomRef, Trust, sim::PATIENCE},
};

/// What [`crate::simulated::Keeper`] writes into the passphrase's file.
const PASSPHRASE: &str = "a passphrase for tests and for nothing else";
const UNREADABLE: &str = "statekeeper_undecryptable_state_events";

async fn open() -> Stage {
    Stage::with(json!({ "state": { "member_keys_kept": "1s" } })).await
}

/// Whether the key store on disk holds a session.
async fn is_held(stage: &Stage, room: &RoomRef, session_id: &str) -> bool {
    let folder = stage.keeper.folder().join("statekeeper-crypto");
    let store = SqliteCryptoStore::open(&folder, Some(PASSPHRASE)).await.unwrap();
    let room = RoomId::parse(&room.room_id).unwrap();
    store.get_inbound_group_session(&room, session_id).await.unwrap().is_some()
}

pub(super) async fn goes(stage: &Stage, room: &RoomRef, session_id: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while is_held(stage, room, session_id).await {
        assert!(tokio::time::Instant::now() < deadline, "the key is still there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A member with the power to name the room.
fn member(stage: &Stage, room: &RoomRef, name: &str, trust: Trust) -> DeviceRef {
    let user = stage.sim.user(name).trust(trust).create();
    stage.sim.join(room, name);
    room.set_power(name, 90);
    user.device(1)
}

#[tokio::test]
async fn a_superseded_session_goes_and_what_is_replayed_under_it_is_not_sealed() {
    let stage = open().await;
    let room = stage.room().await;
    let alice = stage.alice_device();
    let first = alice.rename(&room, "First");
    stage.sealed(&room, NAME, &json!({ "name": "First" })).await;
    let old = alice.session_id(&room);
    assert!(is_held(&stage, &room, &old).await);
    alice.rotate(&room);
    stage.name(&room, "Second").await;
    let new = alice.session_id(&room);
    goes(&stage, &room, &old).await;
    assert!(is_held(&stage, &room, &new).await, "the one in use stays");

    let seals = stage.seals(&room, NAME);
    let replay =
        stage.sim.with(|world| world.room(&room.room_id).event(&first).unwrap().content.clone());
    room.put_state("alice", ("m.room.encrypted", NAME), replay);
    stage.settle(&room, "after the replay").await;
    assert_eq!(stage.seals(&room, NAME), seals);
    assert!(alice.asked().is_empty(), "and nobody is asked for it");
    stage.keeper.wait_for_metric(UNREADABLE, 0.0).await;
}

#[tokio::test]
async fn a_message_under_a_newer_session_supersedes_the_older_one() {
    let stage = open().await;
    let room = stage.named_room("Tea").await;
    let alice = stage.alice_device();
    let old = alice.session_id(&room);
    alice.rotate(&room);
    alice.send_message(&room, "under a newer one");
    goes(&stage, &room, &old).await;
    assert!(is_held(&stage, &room, &alice.session_id(&room)).await);
}

#[tokio::test]
async fn the_sessions_of_a_member_who_leaves_go() {
    let stage = open().await;
    let room = stage.named_room("Tea").await;
    let bob = member(&stage, &room, "bob", Trust::CrossSigned);
    bob.rename(&room, "Coffee");
    stage.sealed(&room, NAME, &json!({ "name": "Coffee" })).await;
    let held = bob.session_id(&room);
    assert!(is_held(&stage, &room, &held).await);
    room.leave(&bob.user_id);
    goes(&stage, &room, &held).await;
}

#[tokio::test]
async fn a_session_that_a_state_event_waits_for_stays_until_it_is_read() {
    let stage = open().await;
    let room = stage.named_room("Tea").await;
    let ursula = member(&stage, &room, "ursula", Trust::Unsigned);
    ursula.rename(&room, "Ursula's");
    let waiting = ursula.session_id(&room);
    ursula.rotate(&room);
    ursula.send_message(&room, "under a newer one");
    // Superseded later, and gone: the one that is waited for had its time.
    let alice = stage.alice_device();
    let other = alice.session_id(&room);
    alice.rotate(&room);
    alice.send_message(&room, "under a newer one");
    goes(&stage, &room, &other).await;
    assert!(is_held(&stage, &room, &waiting).await);
    ursula.cross_sign();
    stage.sealed(&room, NAME, &json!({ "name": "Ursula's" })).await;
    goes(&stage, &room, &waiting).await;
}

#[tokio::test]
async fn what_was_judged_stays_judged_when_its_key_is_gone_and_the_keeper_comes_again() {
    let stage = open().await;
    let room = stage.named_room("Tea").await;
    let alice = stage.alice_device();
    alice.rotate(&room);
    alice.send_state(&room, ("m.room.server_acl", ""), &json!({ "allow": ["*"] }));
    let old = alice.session_id(&room);
    alice.rotate(&room);
    stage.name(&room, "Coffee").await;
    goes(&stage, &room, &old).await;
    let keeper = stage.sim.keeper();
    // An event may well have come before its key did.
    let before = stage.keeper.log().len();
    room.leave(&keeper);
    stage.invite_keeper(&room).await;
    alice.rotate(&room);
    stage.name(&room, "Cocoa").await;
    // Every state event that it found is judged by now. The new name's own key may have come after it.
    let log = stage.keeper.log();
    let missing = log[before..]
        .lines()
        .find(|line| line.contains("key is not here yet") && line.contains("m.room.server_acl"));
    assert_eq!(missing, None);
    stage.keeper.wait_for_metric(UNREADABLE, 0.0).await;
}
