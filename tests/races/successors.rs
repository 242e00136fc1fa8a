//! Rooms that others move: the keeper follows, and keeps the new one by the rules of the old.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    races::stage::Stage,
    simulated::{Fault, RoomRef, World, sim::PATIENCE},
};

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A keeper that accepts invites of Alice's alone, is in an old room of hers, and keeps it by a policy of its own.
async fn in_an_old_room() -> (Stage, RoomRef) {
    let mut stage =
        Stage::prepare(json!({ "access": { "invite_from": ["@alice:localhost"] } })).await;
    let old = stage.sim.room().create();
    let policy = json!({
        "match": { "rooms": [old.room_id] },
        "sharing": { "members": "approved" },
    });
    stage.keeper.configure(&json!({ "policies": [policy] }));
    stage.keeper.start().await;
    stage.invite_keeper(&old).await;
    stage.keeper.wait_for_log(&format!("a room was loaded room={}", old.room_id)).await;
    (stage, old)
}

/// A room with power for the keeper that says that it goes on with the old one.
fn successor(stage: &Stage, old: &RoomRef) -> RoomRef {
    let new = stage.sim.room().predecessor(&old.room_id).create();
    new.set_power(&stage.sim.keeper(), 100);
    new
}

fn close(old: &RoomRef, new: &RoomRef) {
    let content = json!({ "body": "moved", "replacement_room": new.room_id });
    old.put_state("alice", ("m.room.tombstone", ""), content);
}

async fn is_joined(stage: &Stage, room: &RoomRef) {
    let is_in = |world: &mut World| world.room(&room.room_id).membership(&world.keeper()) == "join";
    stage.sim.wait_for("the keeper follows", is_in).await;
}

/// Waits until the keeper keeps the room by a policy in which members are so.
pub async fn is_kept_as(stage: &Stage, room: &RoomRef, members: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (_, out, err) = stage.keeper.command("room", &[&room.room_id, "--json"]);
        let found: Value = serde_json::from_str(&out).unwrap_or_default();
        let policy = found["policy"].as_str().unwrap_or_default();
        if found["status"] == "kept" && policy.ends_with(&format!("members={members}")) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{out}{err}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[tokio::test]
async fn a_room_that_goes_on_in_another_is_followed_with_its_policy_and_its_words() {
    let (stage, old) = in_an_old_room().await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&old, "bob");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while stage.keeper.command("approve", &[&old.room_id, &bob.user_id]).0 != Some(0) {
        assert!(tokio::time::Instant::now() < deadline, "bob could not be approved");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let new = successor(&stage, &old);
    close(&old, &new);
    is_joined(&stage, &new).await;
    is_kept_as(&stage, &new, "approved").await;
    let (code, _, err) = stage.keeper.command("approve", &[&new.room_id, "@alice:localhost"]);
    assert_eq!(code, Some(0), "{err}");
    stage.name(&new, "Garden Club").await;
    let mallory = stage.sim.user("mallory").create();
    stage.sim.join(&new, "mallory");
    stage.sim.join(&new, "bob");
    stage.shows(&bob.device(1), &new, "Garden Club").await;
    let name = stage.sim.with(|world| world.keeper_seal(&new.room_id, "m.room.name:").unwrap());
    assert!(mallory.device(1).opens(&name).is_err(), "nobody has approved her");
}

#[tokio::test]
async fn neither_side_alone_brings_a_room_under_another_ones_policy() {
    let (stage, old) = in_an_old_room().await;
    // Somebody names a room that does not know of it.
    let claims = successor(&stage, &old);
    stage.invite_keeper(&claims).await;
    is_kept_as(&stage, &claims, "joined").await;
    // The old room leads to one that goes on with nothing.
    let named = stage.sim.room().create();
    named.set_power(&stage.sim.keeper(), 100);
    close(&old, &named);
    is_joined(&stage, &named).await;
    is_kept_as(&stage, &named, "joined").await;
    // And to the one that says so.
    close(&old, &claims);
    is_kept_as(&stage, &claims, "approved").await;
}

#[tokio::test]
async fn an_invite_into_a_successor_is_accepted_from_whomever_it_comes() {
    let (stage, old) = in_an_old_room().await;
    stage.sim.user("carol").create();
    let new = stage.sim.room().creator("carol").invite_only().predecessor(&old.room_id).create();
    new.set_power(&stage.sim.keeper(), 100);
    let other = stage.sim.room().creator("carol").invite_only().create();
    close(&old, &new);
    let told = format!("invite {} into {}", stage.sim.keeper(), new.room_id);
    stage.keeper.wait_for_log(&told).await;
    new.invite(&stage.sim.keeper());
    other.invite(&stage.sim.keeper());
    is_joined(&stage, &new).await;
    is_kept_as(&stage, &new, "approved").await;
    let refused = format!(
        "an invite was not accepted: `access.invite_from` does not name its sender room={}",
        other.room_id
    );
    stage.keeper.wait_for_log(&refused).await;
}

#[tokio::test]
async fn a_successor_is_followed_though_the_keeper_is_killed_on_the_way() {
    for fault in [Fault::Hang, Fault::DoneThenHang] {
        let (mut stage, old) = in_an_old_room().await;
        let new = successor(&stage, &old);
        stage.sim.fault("join", fault, 1);
        close(&old, &new);
        let reached = |world: &mut World| world.faults.left("join") == 0;
        stage.sim.wait_for("the keeper is about to join", reached).await;
        stage.keeper.kill();
        stage.keeper.start().await;
        is_joined(&stage, &new).await;
        is_kept_as(&stage, &new, "approved").await;
    }
}

#[tokio::test]
async fn of_the_rooms_that_one_leads_to_only_the_newest_counts() {
    let (stage, old) = in_an_old_room().await;
    stage.sim.user("carol").create();
    let closed = stage.sim.room().creator("carol").invite_only().create();
    let newest = successor(&stage, &old);
    close(&old, &closed);
    stage
        .keeper
        .wait_for_log(&format!("invite {} into {}", stage.sim.keeper(), closed.room_id))
        .await;
    close(&old, &newest);
    is_joined(&stage, &newest).await;
    closed.invite(&stage.sim.keeper());
    let refused = format!(
        "an invite was not accepted: `access.invite_from` does not name its sender room={}",
        closed.room_id
    );
    stage.keeper.wait_for_log(&refused).await;
}

#[tokio::test]
async fn nobody_leads_the_keeper_into_any_number_of_rooms() {
    let (stage, old) = in_an_old_room().await;
    let rooms: Vec<RoomRef> = (0..3).map(|_| stage.sim.room().create()).collect();
    for room in &rooms {
        close(&old, room);
        is_joined(&stage, room).await;
    }
    let fourth = stage.sim.room().create();
    close(&old, &fourth);
    stage.keeper.wait_for_log("a room says too often where it goes on").await;
    let keeper = stage.sim.keeper();
    let standing =
        stage.sim.with(|world| world.room(&fourth.room_id).membership(&keeper).to_owned());
    assert_eq!(standing, "leave");
}

#[tokio::test]
async fn a_successor_that_takes_long_keeps_no_other_one_waiting() {
    let (stage, old) = in_an_old_room().await;
    let other = stage.room().await;
    stage.keeper.wait_for_log(&format!("a room was loaded room={}", other.room_id)).await;
    let (slow, quick) = (stage.sim.room().create(), stage.sim.room().create());
    stage.sim.fault("join", Fault::Hang, 1);
    close(&old, &slow);
    let reached = |world: &mut World| world.faults.left("join") == 0;
    stage.sim.wait_for("the keeper is about to join", reached).await;
    close(&other, &quick);
    let within = PATIENCE / 3;
    let is_in =
        |world: &mut World| world.room(&quick.room_id).membership(&world.keeper()) == "join";
    assert!(stage.sim.holds_within(within, is_in).await, "the other one waits");
}

#[tokio::test]
async fn a_space_that_goes_on_in_another_is_followed_there_and_its_policy_holds_there() {
    let mut stage = Stage::prepare(json!({})).await;
    let old = stage.sim.room().space().create();
    let policy =
        json!({ "match": { "spaces": [old.room_id] }, "sharing": { "members": "approved" } });
    let entry = json!({ "room": old.room_id });
    stage.keeper.configure(&json!({ "policies": [policy], "spaces": [entry] }));
    stage.keeper.start().await;
    stage.invite_keeper(&old).await;
    let new = stage.sim.room().space().predecessor(&old.room_id).create();
    let parent = json!({ "via": ["localhost"] });
    let room = stage.sim.room().state(("m.space.parent", &new.room_id), parent).create();
    new.put_state("alice", ("m.space.child", &room.room_id), json!({ "via": ["localhost"] }));
    stage.invite_keeper(&room).await;
    is_kept_as(&stage, &room, "joined").await;
    close(&old, &new);
    is_joined(&stage, &new).await;
    is_kept_as(&stage, &room, "approved").await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (_, out, _) = stage.keeper.command("spaces", &["--json"]);
        let found: Value = serde_json::from_str(&out).unwrap_or_default();
        let space = &found["spaces"][0];
        if space["room_id"] == new.room_id.as_str() && space["status"] == "followed" {
            assert_eq!(space["name"], old.room_id.as_str());
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{out}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
