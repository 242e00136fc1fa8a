//! What those are given who may read a room before they join it: when, for how long, and what they may ask for.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::spaces::{
    ALICE, a_late_comer_is_given, counts, following, is_given, joined, list, named_child, opens,
    restricted_room,
};
use crate::{
    races::stage::{NAME, Stage},
    simulated::{RoomRef, UserRef, World, builder::restricted, sim::PATIENCE},
};

const TOPIC: &str = "m.room.topic:";
const PLAN: (&str, &str) = ("org.example.plan", "");

/// Whether the user's device can open what the keeper sealed last.
fn opens_last(stage: &Stage, room: &RoomRef, user: &UserRef, packed: &str) -> bool {
    stage.sim.with(|world| {
        let event = world.keeper_seal(&room.room_id, packed).expect("it is sealed");
        world.open(user.device(1).id(), &event).is_ok()
    })
}

/// The session of the room's sealed name.
fn session(stage: &Stage, room: &RoomRef) -> String {
    let event = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    event.content["session_id"].as_str().unwrap().to_owned()
}

/// Somebody comes into the space and is given the room's name.
async fn newcomer(stage: &Stage, space: &RoomRef, room: &RoomRef, name: &str) -> UserRef {
    let user = stage.sim.user(name).create();
    stage.sim.join(space, name);
    is_given(stage, room, &user).await;
    user
}

/// A member of the room leaves it, so that what is sealed next is sealed under new sessions.
async fn somebody_leaves(stage: &Stage, room: &RoomRef, name: &str) {
    let leaver = stage.sim.user(name).create();
    room.membership(name, name, "join");
    stage.shows(&leaver.device(1), room, "Tea").await;
    room.leave(name);
}

/// Waits until all who may join a room were gone through, and nothing is left to be done for them.
async fn all_gone_through(stage: &Stage) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, said, _) = stage.keeper.command_while_served("spaces", &["--json"]).await;
        let said: Value = serde_json::from_str(&said).unwrap();
        let space = &said["spaces"][0];
        if space["rounds_waiting"] == 0 && space["backlog"] == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{said}");
    }
}

/// The space lists a room that is not there. The event that says so.
async fn list_for_a_moment(stage: &Stage, space: &RoomRef) -> String {
    let child = ("m.space.child", "!gone:localhost");
    let event_id = space.put_state(ALICE, child, json!({ "via": ["localhost"] }));
    counts(stage, "statekeeper_space_rooms", "status=\"missing\"", 1.0).await;
    event_id
}

#[tokio::test]
async fn a_name_is_not_held_back_by_a_topic_that_changes_often() {
    let (stage, space) = following(json!({ "preview_interval": "1h" })).await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&space, "bob");
    let room = restricted_room(&stage, &[&space.room_id]);
    list(&space, &room.room_id, "localhost");
    joined(&stage, &room).await;
    stage.settle(&room, "first").await;
    let reads_topic = |world: &mut World| {
        let event = world.keeper_seal(&room.room_id, TOPIC).unwrap();
        world.open(bob.device(1).id(), &event).is_ok()
    };
    stage.sim.wait_for("bob reads the topic", reads_topic).await;
    all_gone_through(&stage).await;
    // The topic was given a moment ago; the session that comes next has to wait.
    stage.sim.user("carol").create();
    stage.sim.join(&room, "carol");
    stage.settle(&room, "second").await;
    room.leave("carol");
    stage.settle(&room, "third").await;
    // The name was given to nobody yet: it is not held back.
    stage.name(&room, "Tea").await;
    is_given(&stage, &room, &bob).await;
    a_late_comer_is_given(&stage, &space, &room, "erin").await;
    assert!(!opens_last(&stage, &room, &bob, TOPIC), "the topic was given twice in an hour");
    // Whoever comes now has been given none of it.
    let dave = newcomer(&stage, &space, &room, "dave").await;
    let reads_topic = |world: &mut World| {
        let event = world.keeper_seal(&room.room_id, TOPIC).unwrap();
        world.open(dave.device(1).id(), &event).is_ok()
    };
    stage.sim.wait_for("dave reads the topic", reads_topic).await;
}

#[tokio::test]
async fn where_a_room_has_one_session_the_next_name_is_given_whatever_was_sealed_first() {
    let mut stage = Stage::prepare(json!({ "state": { "session_scope": "room" } })).await;
    let space = stage.sim.room().space().create();
    let entry = json!({ "room": space.room_id, "preview_interval": "1ms" });
    stage.keeper.configure(&json!({ "spaces": [entry] }));
    stage.keeper.start().await;
    joined(&stage, &space).await;
    let room = named_child(&stage, &space, "Tea").await;
    let bob = newcomer(&stage, &space, &room, "bob").await;
    somebody_leaves(&stage, &room, "carol").await;
    // The session that follows encrypts something else first, which is no business of Bob's.
    stage.set(&room, PLAN, json!({ "plan": "secret" })).await;
    stage.name(&room, "Coffee").await;
    is_given(&stage, &room, &bob).await;
}

#[tokio::test]
async fn what_is_due_while_a_space_is_fetched_anew_is_done_once_it_is_there() {
    let (stage, space) = following(json!({ "preview_interval": "1ms" })).await;
    let second = stage.room().await;
    let (bob, dave) = (stage.sim.user("bob").create(), stage.sim.user("dave").create());
    let room = named_child(&stage, &space, "Tea").await;
    stage.sim.join(&space, "bob");
    is_given(&stage, &room, &bob).await;
    stage.sim.user("carol").create();
    stage.sim.join(&room, "carol");
    stage.shows(&stage.sim.device("carol", 1), &room, "Tea").await;
    let other = restricted_room(&stage, &[&second.room_id]);
    list(&space, &other.room_id, "localhost");
    joined(&stage, &other).await;
    let listed = list_for_a_moment(&stage, &space).await;
    stage.sim.hold("state");
    let before = stage.sim.with(|world| world.requests.all.len());
    space.redact(&listed);
    let asks = |world: &mut World| {
        world.requests.all.iter().skip(before).any(|one| one.endpoint == "state")
    };
    stage.sim.wait_for("the space's state is asked for", asks).await;
    // A new session, which Bob has to be given; what comes after it goes through.
    room.leave("carol");
    stage.name(&room, "Coffee").await;
    stage.name(&other, "Elsewhere").await;
    stage.sim.join(&second, "dave");
    is_given(&stage, &other, &dave).await;
    stage.sim.release("state");
    is_given(&stage, &room, &bob).await;
}

#[tokio::test]
async fn a_stricter_configuration_holds_for_those_who_have_not_joined_too() {
    for restarted in [false, true] {
        let mut stage = Stage::prepare(json!({ "sharing": { "devices": "all" } })).await;
        let space = stage.sim.room().space().create();
        let entry = json!({ "room": space.room_id, "preview_interval": "1ms" });
        stage.keeper.configure(&json!({ "spaces": [entry] }));
        stage.keeper.start().await;
        joined(&stage, &space).await;
        let room = named_child(&stage, &space, "Tea").await;
        let unsigned = stage.sim.user("bob").cross_signed(false).create();
        let carol = stage.sim.user("carol").create();
        for user in [&unsigned, &carol] {
            stage.sim.join(&space, &user.user_id);
            is_given(&stage, &room, user).await;
        }
        stage.keeper.configure(&json!({ "sharing": { "devices": "cross_signed" } }));
        if restarted {
            stage.keeper.terminate().await;
            stage.keeper.start().await;
        } else {
            stage.keeper.hang_up();
            let deadline = Instant::now() + PATIENCE;
            while !stage.keeper.log().contains("the configuration is reloaded") {
                assert!(Instant::now() < deadline, "the configuration is not reloaded");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        stage.name(&room, "Coffee").await;
        is_given(&stage, &room, &carol).await;
        assert!(!stage.sim.with(|world| opens(world, &room, &unsigned)), "{restarted}");
    }
}

#[tokio::test]
async fn striking_a_room_from_the_rule_ends_what_those_hold_whom_nothing_else_lets_in() {
    let (stage, space) = following(json!({ "preview_interval": "1ms" })).await;
    let other = stage.room().await;
    let (bob, dave) = (stage.sim.user("bob").create(), stage.sim.user("dave").create());
    for user in [&bob, &dave] {
        stage.sim.join(&space, &user.user_id);
    }
    stage.sim.join(&other, "dave");
    let room = named_child(&stage, &space, "Tea").await;
    let both = || [space.room_id.as_str(), other.room_id.as_str()].into_iter();
    let rule = ("m.room.join_rules", "");
    room.put_state(ALICE, rule, restricted(both()));
    for user in [&bob, &dave] {
        is_given(&stage, &room, user).await;
    }
    let first = session(&stage, &room);
    room.put_state(ALICE, rule, restricted([space.room_id.as_str()].into_iter()));
    stage.name(&room, "Coffee").await;
    assert_eq!(session(&stage, &room), first, "Dave is in the space as well: nobody lost anything");
    // Carol is let in through the other room alone.
    room.put_state(ALICE, rule, restricted(both()));
    let carol = stage.sim.user("carol").create();
    stage.sim.join(&other, "carol");
    is_given(&stage, &room, &carol).await;
    room.put_state(ALICE, rule, restricted([space.room_id.as_str()].into_iter()));
    stage.name(&room, "Cocoa").await;
    for user in [&bob, &dave] {
        is_given(&stage, &room, user).await;
    }
    all_gone_through(&stage).await;
    assert!(!stage.sim.with(|world| opens(world, &room, &carol)));
}

#[tokio::test]
async fn whoever_may_join_a_room_may_ask_for_what_he_may_read_of_it_and_for_no_more() {
    let mut stage = Stage::prepare(json!({ "sharing": { "unasked": false } })).await;
    let space = stage.sim.room().space().create();
    stage.keeper.configure(&json!({ "spaces": [{ "room": space.room_id }] }));
    stage.keeper.start().await;
    joined(&stage, &space).await;
    let room = restricted_room(&stage, &[&space.room_id]);
    list(&space, &room.room_id, "localhost");
    joined(&stage, &room).await;
    let alice = stage.alice_device();
    alice.rename(&room, "Tea");
    alice.send_state(&room, PLAN, &json!({ "plan": "secret" }));
    let plan = format!("{}:", PLAN.0);
    let sealed = |world: &mut World| {
        [NAME, plan.as_str()]
            .iter()
            .all(|packed| world.keeper_seal(&room.room_id, packed).is_some())
    };
    stage.sim.wait_for("name and plan are sealed", sealed).await;
    let ask = |user: &UserRef, packed: &str, request_id: &str| {
        let event = stage.sim.with(|world| world.keeper_seal(&room.room_id, packed).unwrap());
        let session = event.content["session_id"].as_str().unwrap().to_owned();
        user.device(1).ask_for_key(&room.room_id, &session, request_id);
    };
    let (bob, eve) = (stage.sim.user("bob").create(), stage.sim.user("eve").create());
    stage.sim.join(&space, "bob");
    ask(&eve, NAME, "eve");
    ask(&bob, &plan, "plan");
    ask(&bob, NAME, "name");
    is_given(&stage, &room, &bob).await;
    assert!(!opens_last(&stage, &room, &bob, &plan), "the plan is for members");
    // Out of the space, he asks in vain for what was sealed since; Carol is answered after him.
    let carol = stage.sim.user("carol").create();
    stage.sim.join(&space, "carol");
    space.leave("bob");
    alice.rename(&room, "Coffee");
    let renamed = |world: &mut World| world.keeper_seals(&room.room_id, NAME).len() == 2;
    stage.sim.wait_for("the name is sealed anew", renamed).await;
    ask(&bob, NAME, "again");
    ask(&carol, NAME, "carol");
    is_given(&stage, &room, &carol).await;
    assert!(!opens_last(&stage, &room, &bob, NAME), "bob is given what came after him");
    assert!(!opens_last(&stage, &room, &eve, NAME), "eve is given what is not for her");
    for user in [&bob, &eve] {
        assert!(
            user.device(1).withheld().is_empty(),
            "nobody is told what is none of his business"
        );
    }
}

#[tokio::test]
async fn a_room_at_rest_stays_one_for_those_who_may_join_it() {
    let (stage, space) = following(json!({ "preview_interval": "1ms" })).await;
    let room = named_child(&stage, &space, "Tea").await;
    let carol = stage.sim.user("carol").create();
    stage.sim.join(&room, "carol");
    stage.shows(&carol.device(1), &room, "Tea").await;
    let bob = newcomer(&stage, &space, &room, "bob").await;
    let first = session(&stage, &room);
    // Nobody lacks a key: one value after the other is sealed, and all of them read it.
    for name in ["one", "two", "three"] {
        stage.name(&room, name).await;
        stage.shows(&carol.device(1), &room, name).await;
        is_given(&stage, &room, &bob).await;
    }
    assert_eq!(session(&stage, &room), first);
    // Who comes into the space meanwhile is given what stands there, and what comes after it.
    let dave = newcomer(&stage, &space, &room, "dave").await;
    stage.name(&room, "four").await;
    is_given(&stage, &room, &dave).await;
    // Bob joins: of the room at rest he is given the rest as well.
    stage.set(&room, PLAN, json!({ "plan": "secret" })).await;
    stage.sim.join(&room, "bob");
    stage
        .sim
        .wait_for("bob reads all of it", |world| {
            world.closed_state(&room.room_id, bob.device(1).id()).is_empty()
        })
        .await;
    // And whoever leaves the space ends the rest.
    space.leave("dave");
    stage.settle(&stage.room().await, "dave is out").await;
    stage.name(&room, "five").await;
    stage.shows(&carol.device(1), &room, "five").await;
    a_late_comer_is_given(&stage, &space, &room, "erin").await;
    all_gone_through(&stage).await;
    assert!(!stage.sim.with(|world| opens(world, &room, &dave)));
}
