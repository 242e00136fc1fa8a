//! The store is put back from an older copy, or lost: the keeper goes on as another device, and no ratchet goes on where
//! it was.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;

use crate::{
    races::stage::{NAME, Stage},
    simulated::{RoomRef, UserRef, World, device::Peer, queries::megolm_place},
};

fn published(stage: &Stage) -> Peer {
    stage.sim.with(|world| world.keeper_peer()).expect("the keeper has published its device")
}

/// The ids of all devices of the keeper's.
fn devices(world: &mut World) -> BTreeSet<String> {
    let keeper = world.keeper();
    world.user_mut(&keeper).uploaded.keys().cloned().collect()
}

/// The homeserver forgets which life of the keeper's was the last.
fn forget_mark(world: &mut World) {
    let keeper = world.keeper();
    world.user_mut(&keeper).account_data.clear();
}

/// Waits until the keeper has one device, which is another one than `before`, and is ready.
async fn is_another(stage: &mut Stage, before: &Peer) -> Peer {
    let replaced = |world: &mut World| {
        let ids = devices(world);
        ids.len() == 1 && !ids.contains(&before.device_id) && world.keeper_peer().is_some()
    };
    stage.sim.wait_for("the keeper has another device, and no other one", replaced).await;
    stage.keeper.wait_until_ready().await;
    let now = published(stage);
    assert_ne!(now.curve25519, before.curve25519, "its account is new as well");
    now
}

/// The public master key of the keeper's identity.
fn identity(stage: &Stage) -> serde_json::Value {
    stage.sim.with(|world| {
        let keeper = world.keeper();
        world.user_mut(&keeper).cross_signing["master_key"]["keys"].clone()
    })
}

/// The session of the keeper's current value of a tuple.
fn session(world: &mut World, room: &RoomRef) -> String {
    let seal = world.keeper_seal(&room.room_id, NAME).expect("it is sealed");
    megolm_place(seal.sent_content()).expect("a ciphertext").0
}

async fn reader(stage: &Stage, room: &RoomRef, name: &str, shown: &str) -> UserRef {
    let user = stage.sim.user(name).create();
    stage.sim.join(room, &user.user_id);
    stage.shows(&user.device(1), room, shown).await;
    user
}

/// A copy of the store as it is, made while the keeper does not run.
async fn copy(stage: &mut Stage) -> tempfile::TempDir {
    stage.keeper.terminate().await;
    let copy = stage.keeper.copy_store();
    stage.keeper.start().await;
    copy
}

#[tokio::test]
async fn a_store_that_went_back_is_noticed_at_the_start_and_everything_begins_anew() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("One").await;
    let quiet = stage.named_room("Quiet").await;
    let bob = reader(&stage, &room, "bob", "One").await;
    let (before, name) = (published(&stage), identity(&stage));
    let copy = copy(&mut stage).await;
    stage.name(&room, "Two").await;
    stage.name(&room, "Three").await;
    // One refresh and another stand on top of it.
    for name in ["erin", "frank"] {
        reader(&stage, &room, name, "Three").await;
    }
    let old = [session_now(&stage, &room), session_now(&stage, &quiet)];
    stage.keeper.kill();
    stage.keeper.put_store_back(&copy);
    // What was sealed says it alone.
    stage.sim.change(forget_mark);
    stage.keeper.start().await;
    is_another(&mut stage, &before).await;
    assert_eq!(identity(&stage), name, "it is the same keeper");
    // Sealed anew without anybody's doing, the newest value of each.
    let anew =
        |world: &mut World| session(world, &room) != old[0] && session(world, &quiet) != old[1];
    stage.sim.wait_for("both rooms are sealed anew", anew).await;
    stage.shows(&bob.device(1), &room, "Three").await;
    reader(&stage, &room, "carol", "Three").await;
    reader(&stage, &quiet, "dave", "Quiet").await;
    assert_eq!(stage.sim.with(|world| world.reused_indices()), []);
    // It goes on being that device, and what the store forgot is held against nobody.
    let now = published(&stage);
    stage.keeper.kill();
    stage.keeper.start().await;
    stage.name(&room, "Four").await;
    assert_eq!(published(&stage), now);
    stage.shows(&bob.device(1), &room, "Four").await;
}

fn session_now(stage: &Stage, room: &RoomRef) -> String {
    stage.sim.with(|world| session(world, room))
}

#[tokio::test]
async fn a_kill_at_any_step_of_it_leaves_one_device() {
    let steps = [
        "devices",
        "keys/upload",
        "keys/device_signing/upload",
        "keys/signatures/upload",
        "devices/delete",
        "joined_rooms",
    ];
    let mut stage = Stage::open().await;
    let room = stage.named_room("One").await;
    let before = published(&stage);
    let copy = copy(&mut stage).await;
    stage.name(&room, "Two").await;
    stage.keeper.kill();
    stage.keeper.put_store_back(&copy);
    for step in steps {
        stage.sim.hold(step);
        let so_far = stage.sim.with(|world| world.requests.to(step).count());
        stage.keeper.spawn();
        let waits = |world: &mut World| world.requests.to(step).count() > so_far;
        stage.sim.wait_for(&format!("the keeper is at {step}"), waits).await;
        stage.keeper.kill();
        stage.sim.release(step);
    }
    stage.keeper.start().await;
    is_another(&mut stage, &before).await;
    let folders = std::fs::read_dir(stage.keeper.folder()).expect("the folder is there");
    let folders = folders.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir()));
    assert_eq!(folders.count(), 1, "the key store alone");
    reader(&stage, &room, "bob", "Two").await;
    assert_eq!(stage.sim.with(|world| world.reused_indices()), []);
}

#[tokio::test]
async fn a_copy_from_before_another_device_is_noticed_by_that_device() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("One").await;
    let before = published(&stage);
    let first = copy(&mut stage).await;
    stage.name(&room, "Two").await;
    stage.keeper.kill();
    stage.keeper.put_store_back(&first);
    stage.keeper.start().await;
    let second = is_another(&mut stage, &before).await;
    stage.keeper.kill();
    stage.keeper.put_store_back(&first);
    stage.keeper.start().await;
    is_another(&mut stage, &second).await;
    reader(&stage, &room, "bob", "Two").await;
    assert_eq!(stage.sim.with(|world| world.reused_indices()), []);
}

#[tokio::test]
async fn what_shows_it_later_has_the_running_keeper_begin_anew() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("One").await;
    let before = published(&stage);
    let copy = copy(&mut stage).await;
    stage.name(&room, "Two").await;
    stage.keeper.kill();
    stage.keeper.put_store_back(&copy);
    // The homeserver does not say at the start what was sealed.
    stage.sim.change(forget_mark);
    stage.sim.change(|world| world.hides_own_events = true);
    stage.keeper.start().await;
    let pid = stage.keeper.pid();
    assert_eq!(published(&stage), before);
    stage.alice_device().rename(&room, "Three");
    is_another(&mut stage, &before).await;
    assert_eq!(stage.keeper.pid(), pid, "the process goes on");
    stage.sealed(&room, NAME, &json!({ "name": "Three" })).await;
    reader(&stage, &room, "bob", "Three").await;
    assert_eq!(stage.sim.with(|world| world.reused_indices()), []);
    assert!(stage.keeper.terminate().await < Duration::from_secs(20), "it ends when it is told to");
}

#[tokio::test]
async fn a_store_that_is_lost_is_not_the_end() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("One").await;
    let bob = reader(&stage, &room, "bob", "One").await;
    let (before, name) = (published(&stage), identity(&stage));
    stage.keeper.kill();
    stage.keeper.lose_store();
    stage.keeper.start().await;
    is_another(&mut stage, &before).await;
    assert_ne!(identity(&stage), name, "its private keys are lost");
    // Nobody answers, and nothing is put in the place of what is gone; it is said.
    stage.keeper.wait_for_metric("statekeeper_undecryptable_state_events", 1.0).await;
    stage.shows(&bob.device(1), &room, "One").await;
    stage.name(&room, "Two").await;
    stage.keeper.wait_for_metric("statekeeper_undecryptable_state_events", 0.0).await;
    stage.shows(&bob.device(1), &room, "Two").await;
    reader(&stage, &room, "carol", "Two").await;
    assert_eq!(stage.sim.with(|world| world.reused_indices()), []);
    let now = published(&stage);
    stage.keeper.kill();
    stage.keeper.start().await;
    stage.name(&room, "Three").await;
    assert_eq!(published(&stage), now);
}

#[tokio::test]
async fn a_copy_after_which_nothing_was_sealed_is_noticed_as_well() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("One").await;
    let before = published(&stage);
    let copy = copy(&mut stage).await;
    // Somebody who is invited is given a key, and nothing is sealed for that.
    let dave = stage.sim.user("dave").create();
    room.invite("dave");
    let has_key = |world: &mut World| {
        let seal = world.keeper_seal(&room.room_id, NAME).expect("it is sealed");
        world.open(dave.device(1).id(), &seal).is_ok()
    };
    stage.sim.wait_for("the invitee has the key", has_key).await;
    stage.keeper.kill();
    stage.keeper.put_store_back(&copy);
    stage.keeper.start().await;
    is_another(&mut stage, &before).await;
    reader(&stage, &room, "bob", "One").await;
}

#[tokio::test]
async fn a_restart_is_no_sign_whenever_the_keeper_is_killed() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("One").await;
    let before = published(&stage);
    for step in ["account_data", "joined_rooms"] {
        stage.keeper.kill();
        stage.sim.hold(step);
        let so_far = stage.sim.with(|world| world.requests.to(step).count());
        stage.keeper.spawn();
        let waits = |world: &mut World| world.requests.to(step).count() > so_far;
        stage.sim.wait_for(&format!("the keeper is at {step}"), waits).await;
        stage.keeper.kill();
        stage.sim.release(step);
        stage.keeper.start().await;
    }
    stage.name(&room, "Two").await;
    assert_eq!(published(&stage), before);
}

/// The keeper with an empty store.
async fn lose(stage: &mut Stage) {
    let before = published(stage);
    stage.keeper.kill();
    stage.keeper.lose_store();
    stage.keeper.start().await;
    is_another(stage, &before).await;
}

#[tokio::test]
async fn of_what_a_lost_store_sealed_members_are_asked_for_what_it_was_made_from() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("One").await;
    let old = session_now(&stage, &room);
    lose(&mut stage).await;
    let alice = stage.alice_device();
    let asked = |world: &mut World| !world.asked_of(&alice).is_empty();
    stage.sim.wait_for("Alice is asked for her session", asked).await;
    alice.answer_as_maker(&room);
    stage.sim.wait_for("it is sealed anew", |world| session(world, &room) != old).await;
    reader(&stage, &room, "bob", "One").await;
    stage.keeper.wait_for_metric("statekeeper_undecryptable_state_events", 0.0).await;
}

#[tokio::test]
async fn of_what_a_lost_store_sealed_from_plain_state_the_plain_state_is_sealed_again() {
    let mut stage = Stage::open().await;
    let room = stage.sim.room().state(("m.room.name", ""), json!({ "name": "Plain" })).create();
    stage.invite_keeper(&room).await;
    stage.sealed(&room, NAME, &json!({ "name": "Plain" })).await;
    reader(&stage, &room, "bob", "Plain").await;
    let old = session_now(&stage, &room);
    lose(&mut stage).await;
    stage.sim.wait_for("it is sealed anew", |world| session(world, &room) != old).await;
    reader(&stage, &room, "carol", "Plain").await;
    stage.keeper.wait_for_metric("statekeeper_undecryptable_state_events", 0.0).await;
}

#[tokio::test]
async fn a_key_store_that_is_lost_alone_is_the_same() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("One").await;
    let (before, name) = (published(&stage), identity(&stage));
    stage.keeper.kill();
    std::fs::remove_dir_all(stage.keeper.folder().join("statekeeper-crypto")).unwrap();
    stage.keeper.start().await;
    is_another(&mut stage, &before).await;
    assert_ne!(identity(&stage), name);
    // The store has the value: it is sealed anew without anybody's doing.
    reader(&stage, &room, "bob", "One").await;
    assert_eq!(stage.sim.with(|world| world.reused_indices()), []);
}
