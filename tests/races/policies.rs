//! Rooms that are kept by rules of their own, and rules that change while the keeper runs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{RoomRef, UserRef, World, queries::megolm_place, sim::PATIENCE},
};

const ALIAS: (&str, &str) = ("m.room.canonical_alias", "");
const TOPIC: &str = "m.room.topic:";
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Invitees of rooms whose address fits get nothing, and all state of such a room has one session.
fn quiet_by_address() -> Value {
    json!({ "policies": [{
        "match": { "aliases": ["#quiet-*:localhost"] },
        "sharing": { "invitees": "none" },
        "state": { "session_scope": "room" },
    }] })
}

/// Rooms that match get no invitee's device a key.
fn quiet(matches: &Value) -> Value {
    json!({ "policies": [{ "match": matches, "sharing": { "invitees": "none" } }] })
}

/// Whether the user's device has the key of the room's name.
fn has_key(world: &mut World, room: &RoomRef, user: &UserRef) -> bool {
    let event = world.keeper_seal(&room.room_id, NAME);
    event.is_some_and(|event| world.open(user.device(1).id(), &event).is_ok())
}

/// Invites a fresh user, whose device is given the name's key.
async fn an_invitee_is_served(stage: &Stage, room: &RoomRef, name: &str) {
    let user = stage.sim.user(name).create();
    room.invite(&user.user_id);
    let what = format!("{name} is given the name's key");
    stage.sim.wait_for(&what, |world| has_key(world, room, &user)).await;
}

/// Invites a fresh user, whose device is not given the name's key by what the keeper does next.
async fn an_invitee_is_not_served(stage: &Stage, room: &RoomRef, name: &str) {
    let user = stage.sim.user(name).create();
    room.invite(&user.user_id);
    for word in ["one", "two"] {
        stage.settle(room, &format!("{name} {word}")).await;
    }
    assert!(!stage.sim.with(|world| has_key(world, room, &user)), "{name} was given the key");
}

/// Waits until the keeper's log says this so many times.
async fn says(stage: &Stage, words: &str, times: usize) {
    let deadline = Instant::now() + PATIENCE;
    while stage.keeper.log().matches(words).count() < times {
        assert!(Instant::now() < deadline, "the log does not say {times} times: {words}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn sessions(stage: &Stage, room: &RoomRef) -> usize {
    stage.sim.with(|world| {
        let seals = [NAME, TOPIC].map(|packed| world.keeper_seal(&room.room_id, packed));
        let ids = seals.into_iter().flatten().filter_map(|seal| megolm_place(seal.sent_content()));
        ids.map(|(session, _)| session).collect::<std::collections::BTreeSet<_>>().len()
    })
}

#[tokio::test]
async fn two_rooms_of_one_keeper_are_kept_by_the_rules_of_each() {
    let stage = Stage::with(quiet_by_address()).await;
    let loud = stage.named_room("Tea").await;
    let quiet = stage.sim.room().state(ALIAS, json!({ "alias": "#quiet-tea:localhost" })).create();
    stage.invite_keeper(&quiet).await;
    stage.name(&quiet, "Tea").await;
    stage.settle(&loud, "At four").await;
    an_invitee_is_served(&stage, &loud, "bob").await;
    an_invitee_is_not_served(&stage, &quiet, "carol").await;
    assert_eq!((sessions(&stage, &loud), sessions(&stage, &quiet)), (2, 1));
}

#[tokio::test]
async fn a_room_that_changes_its_address_changes_its_rules() {
    let stage = Stage::with(quiet_by_address()).await;
    let room = stage.named_room("Tea").await;
    let dave = stage.sim.user("dave").create();
    room.put_state("@alice:localhost", ALIAS, json!({ "alias": "#quiet-tea:localhost" }));
    says(&stage, "a room is kept by other rules from now on", 1).await;
    an_invitee_is_not_served(&stage, &room, "bob").await;
    room.invite(&dave.user_id);
    room.put_state("@alice:localhost", ALIAS, json!({}));
    // Nobody has to come or to speak: the change by itself serves who waits.
    let served = |world: &mut World| has_key(world, &room, &dave);
    stage.sim.wait_for("an invitee is served by the new rules", served).await;
}

#[tokio::test]
async fn a_room_is_in_a_space_only_where_both_say_so() {
    let stage = Stage::open().await;
    let space = stage.room().await;
    let room = stage.named_room("Tea").await;
    stage.keeper.configure(&quiet(&json!({ "spaces": [space.room_id] })));
    stage.keeper.hang_up();
    says(&stage, "the configuration is reloaded", 1).await;
    let via = json!({ "via": ["localhost"] });
    room.put_state("@alice:localhost", ("m.space.parent", &space.room_id), via.clone());
    // The room alone cannot claim it.
    an_invitee_is_served(&stage, &room, "bob").await;
    space.put_state("@alice:localhost", ("m.space.child", &room.room_id), via.clone());
    says(&stage, "a room is kept by other rules from now on", 1).await;
    an_invitee_is_not_served(&stage, &room, "carol").await;
    space.put_state("@alice:localhost", ("m.space.child", &room.room_id), json!({}));
    says(&stage, "a room is kept by other rules from now on", 2).await;
    an_invitee_is_served(&stage, &room, "dave").await;
    // Restricted to the space's members, a room needs no claim beside the space's own word.
    room.put_state("@alice:localhost", ("m.space.parent", &space.room_id), json!({}));
    space.put_state("@alice:localhost", ("m.space.child", &room.room_id), via);
    stage.settle(&space, "the space is listened to").await;
    let allow = json!([{ "type": "m.room_membership", "room_id": space.room_id }]);
    let restricted = json!({ "join_rule": "restricted", "allow": allow });
    room.put_state("@alice:localhost", ("m.room.join_rules", ""), restricted);
    says(&stage, "a room is kept by other rules from now on", 3).await;
    an_invitee_is_not_served(&stage, &room, "erin").await;
}

#[tokio::test]
async fn a_hangup_reloads_and_a_mistake_changes_nothing() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    an_invitee_is_served(&stage, &room, "bob").await;
    let mut settings = quiet(&json!({ "rooms": [room.room_id] }));
    settings["sharing"] = json!({ "gate_timeout": "4s" });
    stage.keeper.configure(&settings);
    stage.keeper.hang_up();
    says(&stage, "the configuration is reloaded rooms=1", 1).await;
    says(&stage, "this is changed by a restart alone key=\"sharing.gate_timeout\"", 1).await;
    an_invitee_is_not_served(&stage, &room, "carol").await;
    // A mistake, beside something that would be good.
    let mut wrong = quiet(&json!({ "rooms": ["!other:localhost"] }));
    wrong["policies"][0]["state"] = json!({ "reseal": "sometimes" });
    stage.keeper.configure(&wrong);
    stage.keeper.hang_up();
    says(&stage, "policies[0].state.reseal: \"sometimes\" is not one of on_change, on_need", 1)
        .await;
    says(&stage, "everything stays as it was", 1).await;
    assert!(stage.keeper.is_running());
    an_invitee_is_not_served(&stage, &room, "dave").await;
    stage.keeper.configure(&json!({ "policies": [] }));
    stage.keeper.hang_up();
    says(&stage, "the configuration is reloaded rooms=1", 2).await;
    an_invitee_is_served(&stage, &room, "erin").await;
}

#[tokio::test]
async fn what_is_explained_is_what_the_running_keeper_knows() {
    let stage = Stage::with(quiet_by_address()).await;
    let room = stage.sim.room().state(ALIAS, json!({ "alias": "#quiet-tea:localhost" })).create();
    stage.invite_keeper(&room).await;
    stage.name(&room, "Tea").await;
    let (code, out, err) = stage.keeper.explain(&room.room_id);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&told["known"], &told["policy"]["index"]), (&json!(true), &json!(0)));
    assert_eq!(told["alias"], "#quiet-tea:localhost");
    let settings = told["settings"].as_array().unwrap();
    let invitees = settings.iter().find(|row| row["key"] == "sharing.invitees").unwrap();
    assert_eq!(invitees["value"], "none");
    // By its main address it is the same room.
    let (code, by_address, err) = stage.keeper.explain("#quiet-tea:localhost");
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(by_address, out);
    let (code, _, err) = stage.keeper.explain("#nowhere:localhost");
    assert_eq!(code, Some(1));
    assert!(err.contains("#nowhere:localhost: the keeper knows no room"), "{err}");
}

#[tokio::test]
async fn a_policy_by_server_is_that_of_the_room_s_own_server() {
    let stage = Stage::with(quiet(&json!({ "servers": ["local*"] }))).await;
    let room = stage.named_room("Tea").await;
    an_invitee_is_not_served(&stage, &room, "bob").await;
    drop(stage);
    let stage = Stage::with(quiet(&json!({ "servers": ["*.example.org"] }))).await;
    let room = stage.named_room("Tea").await;
    an_invitee_is_served(&stage, &room, "bob").await;
}
