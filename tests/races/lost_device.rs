//! The keeper's device is deleted on the homeserver: it is made again, the same as it was.

use serde_json::json;

use crate::{
    races::stage::{NAME, Stage},
    simulated::{Fault, Sim, World, device::Peer},
};

fn published(sim: &Sim) -> Option<Peer> {
    sim.with(|world| world.keeper_peer())
}

/// Waits until members find the keeper's device with a key to write to it.
async fn is_back(stage: &Stage, before: &Peer) {
    let reachable = |world: &mut World| {
        let Some(peer) = world.keeper_peer() else { return false };
        let user = world.user_mut(&peer.user_id);
        let device = user.uploaded.get(&peer.device_id).expect("it was just found");
        !device.one_time_keys.is_empty()
    };
    stage.sim.wait_for("the keeper's device is there again", reachable).await;
    let now = published(&stage.sim).expect("it is there");
    assert_eq!(
        (&now.device_id, &now.curve25519, &now.ed25519),
        (&before.device_id, &before.curve25519, &before.ed25519),
        "clients refuse other keys under a known id"
    );
}

/// Shows that the keeper gives and takes keys: a newcomer reads, and what he sets is sealed.
async fn works(stage: &Stage, room: &crate::simulated::RoomRef) {
    let bob = stage.sim.user("bob").create();
    stage.sim.join(room, "bob");
    stage.shows(&bob.device(1), room, "Tea").await;
    room.set_power("bob", 50);
    bob.device(1).rename(room, "Bob's");
    stage.sealed(room, NAME, &json!({ "name": "Bob's" })).await;
}

#[tokio::test]
async fn a_device_that_is_deleted_while_the_keeper_runs_is_made_again_and_goes_on() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let before = published(&stage.sim).expect("the device is published");
    // A homeserver in whose database somebody works is not at its best.
    stage.sim.fault("keys/upload", Fault::Status(500), 2);
    stage.sim.change(World::delete_keepers_device);
    is_back(&stage, &before).await;
    works(&stage, &room).await;
    assert!(stage.keeper.is_running());
}

#[tokio::test]
async fn a_kill_between_the_device_and_its_keys_leaves_no_device_without_keys() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let before = published(&stage.sim).expect("the device is published");
    stage.sim.hold("keys/upload");
    stage.sim.change(World::delete_keepers_device);
    let half_made = |world: &mut World| {
        let keeper = world.keeper();
        let is_made = world.user_mut(&keeper).uploaded.contains_key(&before.device_id);
        is_made && world.keeper_peer().is_none()
    };
    stage.sim.wait_for("the device is there and has no keys", half_made).await;
    stage.keeper.kill();
    stage.sim.release("keys/upload");
    stage.keeper.start().await;
    is_back(&stage, &before).await;
    works(&stage, &room).await;
}

#[tokio::test]
async fn a_device_that_is_deleted_while_the_keeper_is_down_is_made_again_at_the_start() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let before = published(&stage.sim).expect("the device is published");
    stage.keeper.kill();
    stage.sim.change(World::delete_keepers_device);
    stage.keeper.start().await;
    is_back(&stage, &before).await;
    works(&stage, &room).await;
}
