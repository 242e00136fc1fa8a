//! Values that members say in plain where the room's state is encrypted, and nothing was sealed yet.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    races::{
        journal::{becomes, row},
        stage::{NAME, Stage},
    },
    simulated::{Fault, RoomRef, World, sim::PATIENCE},
};

const TITLE: (&str, &str) = ("m.room.name", "");
const SUBJECT: (&str, &str) = ("m.room.topic", "");

fn plain(action: &str) -> Value {
    json!({ "enforce": { "plain": action } })
}

fn named(name: &str) -> Value {
    json!({ "name": name })
}

/// A keeper with these settings in a room with encrypted state that has no name yet.
async fn scene(settings: Value) -> (Stage, RoomRef) {
    let stage = Stage::with(settings).await;
    let room = stage.room().await;
    stage.settle(&room, "at rest").await;
    (stage, room)
}

/// How often the keeper has told of state in plain.
async fn violations(stage: &Stage, action: &str) -> f64 {
    let labels = ["rule=\"plain\"", action];
    stage.keeper.metric("statekeeper_policy_violations_total", &labels).await
}

async fn told(stage: &Stage, action: &str, times: f64) {
    let deadline = Instant::now() + PATIENCE;
    while violations(stage, action).await < times {
        assert!(Instant::now() < deadline, "it is not told of as {action} for {times} times");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn is_redacted(stage: &Stage, room: &RoomRef, event_id: &str) {
    let redacted = |world: &mut World| {
        world.room(&room.room_id).event(event_id).is_some_and(|event| event.redacted.is_some())
    };
    stage.sim.wait_for(&format!("{event_id} is redacted"), redacted).await;
}

fn stands(stage: &Stage, room: &RoomRef, event_id: &str) -> bool {
    stage.sim.with(|world| {
        world.room(&room.room_id).event(event_id).is_some_and(|event| event.redacted.is_none())
    })
}

/// How often the keeper was told to redact something.
fn redactions(stage: &Stage) -> usize {
    stage.sim.requests("redact")
}

#[tokio::test]
async fn the_first_name_in_plain_is_sealed_and_told_of() {
    let (stage, room) = scene(json!({})).await;
    let hers = room.put_state("alice", TITLE, named("Tea"));
    stage.sealed(&room, NAME, &named("Tea")).await;
    told(&stage, "report", 1.0).await;
    stage.keeper.wait_for_log("a state event broke a rule").await;
    becomes(&stage, &hers, &row("accepted", [false, true, true, false])).await;
    stage.settle(&room, "later").await;
    assert!(stands(&stage, &room, &hers), "it is reported");
    assert_eq!(redactions(&stage), 0);
}

#[tokio::test]
async fn where_policy_redacts_it_is_sealed_first_and_what_it_said_stays() {
    let (mut stage, room) = scene(plain("redact")).await;
    let hers = room.put_state("alice", TITLE, named("Tea"));
    is_redacted(&stage, &room, &hers).await;
    told(&stage, "redact", 1.0).await;
    stage.sealed(&room, NAME, &named("Tea")).await;
    stage.settle(&room, "later").await;
    assert_eq!((stage.seals(&room, NAME), redactions(&stage)), (1, 1), "each is done once");
    // A keeper that is started anew finds the event redacted, and its value sealed.
    stage.keeper.terminate().await;
    stage.keeper.start().await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    assert_eq!(redactions(&stage), 1);
}

#[tokio::test]
async fn each_of_several_is_redacted_and_the_last_one_counts() {
    let (stage, room) = scene(plain("redact")).await;
    stage.sim.hold("state/put");
    let both = ["Tea", "Coffee"].map(|name| room.put_state("alice", TITLE, named(name)));
    told(&stage, "redact", 2.0).await;
    stage.sim.release("state/put");
    for event in &both {
        is_redacted(&stage, &room, event).await;
    }
    stage.sealed(&room, NAME, &named("Coffee")).await;
}

#[tokio::test]
async fn where_policy_restores_it_is_sealed_at_once() {
    let mut settings = plain("restore");
    settings["state"] = json!({ "reseal_delay": "1h" });
    let stage = Stage::with(settings).await;
    let room = stage.room().await;
    stage.keeper.wait_for_log("a room was loaded").await;
    let hers = room.put_state("alice", TITLE, named("Tea"));
    stage.sealed(&room, NAME, &named("Tea")).await;
    told(&stage, "restore", 1.0).await;
    assert!(stands(&stage, &room, &hers));
}

#[tokio::test]
async fn what_is_no_name_at_all_is_redacted_and_nothing_sealed_in_its_place() {
    let (stage, room) = scene(plain("redact")).await;
    let odd = room.put_state("alice", TITLE, json!({ "name": 7 }));
    is_redacted(&stage, &room, &odd).await;
    stage.settle(&room, "later").await;
    assert_eq!(stage.seals(&room, NAME), 0);
}

#[tokio::test]
async fn what_its_author_takes_back_is_gone_though_the_keeper_redacted_it_before() {
    let (stage, room) = scene(plain("redact")).await;
    let hers = room.put_state("alice", TITLE, named("Tea"));
    is_redacted(&stage, &room, &hers).await;
    room.redact(&hers);
    let gone = |world: &mut World| {
        let current = world.room(&room.room_id).current("m.room.encrypted", NAME);
        current.is_some_and(|event| event.redacted.is_some())
    };
    stage.sim.wait_for("what the keeper sealed is redacted", gone).await;
}

#[tokio::test]
async fn what_is_taken_back_under_encryption_is_redacted_in_plain_as_well() {
    let (stage, room) = scene(plain("redact")).await;
    stage.sim.hold("redact");
    let hers = room.put_state("alice", TITLE, named("Tea"));
    stage.sealed(&room, NAME, &named("Tea")).await;
    let sealed = stage.sim.with(|world| {
        let event = world.room(&room.room_id).current("m.room.encrypted", NAME);
        event.expect("it is sealed").event_id.clone()
    });
    room.redact(&sealed);
    stage.sim.release("redact");
    is_redacted(&stage, &room, &hers).await;
    stage.settle(&room, "later").await;
    assert_eq!(stage.seals(&room, NAME), 1, "and it does not come back");
}

#[tokio::test]
async fn a_keeper_that_may_not_redact_does_when_it_may() {
    let stage = Stage::with(plain("redact")).await;
    let (room, hers) = owing(&stage).await;
    room.set_power(&stage.sim.keeper(), 100);
    is_redacted(&stage, &room, &hers).await;
}

#[tokio::test]
async fn a_keeper_that_was_killed_before_it_redacted_does_so_afterwards() {
    let (mut stage, room) = scene(plain("redact")).await;
    stage.sim.hold("redact");
    let hers = room.put_state("alice", TITLE, named("Tea"));
    stage
        .sim
        .wait_for("it is to be redacted", |world| world.requests.to("redact").count() > 0)
        .await;
    stage.keeper.kill();
    stage.sim.release("redact");
    stage.keeper.start().await;
    is_redacted(&stage, &room, &hers).await;
    stage.settle(&room, "later").await;
    stage.sealed(&room, NAME, &named("Tea")).await;
    assert_eq!(stage.seals(&room, NAME), 1);
}

#[tokio::test]
async fn a_redaction_that_the_homeserver_refused_is_sent_again_when_the_state_is_fetched_anew() {
    let (mut stage, room) = scene(plain("redact")).await;
    stage.sim.fault("redact", Fault::Status(403), 1);
    let hers = room.put_state("alice", TITLE, named("Tea"));
    stage.keeper.wait_for_log("an event could not be redacted").await;
    assert!(stands(&stage, &room, &hers));
    stage.keeper.terminate().await;
    stage.keeper.start().await;
    is_redacted(&stage, &room, &hers).await;
    stage.settle(&room, "later").await;
    stage.sealed(&room, NAME, &named("Tea")).await;
}

#[tokio::test]
async fn what_is_said_in_plain_while_the_state_is_fetched_is_told_of() {
    let (mut stage, room) = scene(plain("redact")).await;
    stage.name(&room, "Sealed").await;
    stage.keeper.terminate().await;
    stage.sim.hold("state");
    stage.keeper.start().await;
    stage
        .sim
        .wait_for("the state is asked for", |world| world.requests.to("state").count() > 1)
        .await;
    let beside = room.put_state("alice", TITLE, named("Beside"));
    let first = room.put_state("alice", ("com.example.plan", ""), json!({ "step": 1 }));
    stage.sim.wait_for("the keeper was told", |world| world.all_pushed()).await;
    stage.sim.release("state");
    for event in [&beside, &first] {
        is_redacted(&stage, &room, event).await;
    }
    stage.sealed(&room, "com.example.plan:", &json!({ "step": 1 })).await;
    stage.sealed(&room, NAME, &named("Sealed")).await;
    stage.settle(&room, "later").await;
    let told = violations(&stage, "").await;
    assert!((told - 2.0).abs() < f64::EPSILON, "each is told of once, and not {told} times");
    assert_eq!(redactions(&stage), 2);
}

#[tokio::test]
async fn what_the_keeper_found_or_the_homeserver_has_to_read_breaks_no_rule() {
    let stage = Stage::with(plain("redact")).await;
    let room = stage.sim.room().state(TITLE, named("Found")).create();
    stage.invite_keeper(&room).await;
    stage.sealed(&room, NAME, &named("Found")).await;
    room.put_state("alice", ("m.room.server_acl", ""), json!({ "allow": ["*"] }));
    for day in [1, 2] {
        let retention = json!({ "max_lifetime": day * 86_400_000 });
        room.put_state("alice", ("m.room.retention", ""), retention);
    }
    stage.settle(&room, "later").await;
    assert_eq!(redactions(&stage), 0);
    assert!(violations(&stage, "").await < 1.0);
}

#[tokio::test]
async fn where_the_room_does_not_say_that_its_state_is_encrypted_names_in_plain_break_no_rule() {
    let mut settings = plain("redact");
    settings["state"] = json!({ "seal": "encrypted_rooms" });
    let stage = Stage::with(settings).await;
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let unflagged = stage.sim.room().encrypted_state(false);
    let room = unflagged.state(("m.room.encryption", ""), encryption).create();
    stage.invite_keeper(&room).await;
    for name in ["Tea", "Coffee"] {
        room.put_state("alice", TITLE, named(name));
        stage.sealed(&room, NAME, &named(name)).await;
    }
    room.put_state("alice", SUBJECT, json!({ "topic": "later" }));
    stage.sealed(&room, "m.room.topic:", &json!({ "topic": "later" })).await;
    assert_eq!(redactions(&stage), 0);
}

#[tokio::test]
async fn a_policy_that_redacts_from_now_on_leaves_what_was_said_before() {
    let (stage, room) = scene(json!({})).await;
    let before = room.put_state("alice", TITLE, named("Tea"));
    stage.sealed(&room, NAME, &named("Tea")).await;
    stage.keeper.configure(&plain("redact"));
    stage.keeper.hang_up();
    stage.keeper.wait_for_log("the configuration is reloaded").await;
    let after = room.put_state("alice", ("com.example.plan", ""), json!({ "step": 1 }));
    is_redacted(&stage, &room, &after).await;
    stage.settle(&room, "later").await;
    assert!(stands(&stage, &room, &before));
}

#[tokio::test]
async fn with_noop_nothing_is_sent_and_what_waits_is_redacted_when_it_ends() {
    let mut settings = plain("redact");
    settings["noop"] = json!(true);
    let stage = Stage::with(settings).await;
    let room = stage.room().await;
    stage.keeper.wait_for_log("a room was loaded").await;
    let hers = room.put_state("alice", TITLE, named("Tea"));
    told(&stage, "noop", 1.0).await;
    assert!(stands(&stage, &room, &hers));
    stage.keeper.configure(&json!({ "noop": false }));
    stage.keeper.hang_up();
    stage.sealed(&room, NAME, &named("Tea")).await;
    is_redacted(&stage, &room, &hers).await;
}

#[tokio::test]
async fn one_who_says_everything_in_plain_is_at_no_war() {
    let (stage, room) = scene(plain("redact")).await;
    let said: Vec<String> = (0..8)
        .map(|n| room.put_state("alice", (&format!("com.example.{n}"), ""), json!({ "n": n })))
        .collect();
    for event in &said {
        is_redacted(&stage, &room, event).await;
    }
    told(&stage, "redact", 8.0).await;
    assert!(stage.keeper.metric("statekeeper_state_refused_total{rule=\"war\"}", &[]).await < 1.0);
}

#[tokio::test]
async fn what_was_said_before_the_room_said_that_its_state_is_encrypted_is_left() {
    let mut settings = plain("redact");
    settings["state"] = json!({ "seal": "flagged" });
    let stage = Stage::with(settings).await;
    let encryption = ("m.room.encryption", "");
    let algorithm = "m.megolm.v1.aes-sha2";
    let unflagged = stage.sim.room().encrypted_state(false);
    let room = unflagged.state(encryption, json!({ "algorithm": algorithm })).create();
    stage.invite_keeper(&room).await;
    stage.keeper.wait_for_log("a room was loaded").await;
    let before = room.put_state("alice", TITLE, named("Tea"));
    let plan = room.put_state("alice", ("com.example.plan", ""), json!({ "step": 1 }));
    stage.sim.wait_for("the keeper was told", |world| world.all_pushed()).await;
    let flag = json!({ "algorithm": algorithm, "io.element.msc4362.encrypt_state_events": true });
    room.put_state("alice", encryption, flag);
    stage.sealed(&room, NAME, &named("Tea")).await;
    stage.sealed(&room, "com.example.plan:", &json!({ "step": 1 })).await;
    stage.settle(&room, "later").await;
    assert!(stands(&stage, &room, &before) && stands(&stage, &room, &plan));
    assert!(violations(&stage, "").await < 1.0);
}

/// A room with a name in plain that the keeper has sealed and owes a redaction of, for which it lacks the power.
async fn owing(stage: &Stage) -> (RoomRef, String) {
    let room = stage.sim.room().encrypted_power(0).create();
    stage.invite_keeper(&room).await;
    room.set_power(&stage.sim.keeper(), 40);
    stage.settle(&room, "at rest").await;
    let hers = room.put_state("alice", TITLE, named("Tea"));
    stage.sealed(&room, NAME, &named("Tea")).await;
    stage.settle(&room, "later").await;
    assert!(stands(stage, &room, &hers));
    (room, hers)
}

#[tokio::test]
async fn a_store_from_before_the_redaction_takes_it_for_the_keepers_own() {
    let mut stage = Stage::with(plain("redact")).await;
    let (room, hers) = owing(&stage).await;
    stage.keeper.terminate().await;
    let copy = stage.keeper.copy_store();
    stage.keeper.start().await;
    room.set_power(&stage.sim.keeper(), 100);
    is_redacted(&stage, &room, &hers).await;
    stage.keeper.terminate().await;
    stage.keeper.put_store_back(&copy);
    stage.keeper.start().await;
    let before = stage.sim.requests("state");
    // Rules that differ in how state is read have it fetched anew.
    stage.keeper.configure(&json!({ "state": { "never_reseal": ["com.example.bound"] } }));
    stage.keeper.hang_up();
    stage.sim.wait_for("it is fetched", |world| world.requests.to("state").count() > before).await;
    stage.settle(&room, "after the store was put back").await;
    stage.settle(&room, "and at rest").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
}

#[tokio::test]
async fn what_has_to_be_encrypted_no_more_is_not_redacted() {
    for policy in [json!({ "exempt": ["m.room.name"] }), json!({ "never_reseal": ["m.room.name"] })]
    {
        let stage = Stage::with(plain("redact")).await;
        let (room, hers) = owing(&stage).await;
        stage.keeper.configure(&json!({ "state": policy }));
        stage.keeper.hang_up();
        stage.keeper.wait_for_log("the configuration is reloaded").await;
        room.set_power(&stage.sim.keeper(), 100);
        stage.settle(&room, "with the power").await;
        assert!(stands(&stage, &room, &hers), "{policy}");
    }
}
