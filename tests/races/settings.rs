//! What operators may choose in `sharing` and `state`, other than the default.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage, reads},
    simulated::{DeviceRef, RoomRef, Trust, World, queries::megolm_place, sim::PATIENCE},
};

const TOPIC: &str = "m.room.topic:";
const PLAN: &str = "org.example.plan:";

/// Alice gives the room a name, a topic and a plan at one go, and the keeper seals them.
async fn furnish(stage: &Stage, room: &RoomRef) {
    let state = [
        (NAME, json!({ "name": "Tea" })),
        (TOPIC, json!({ "topic": "At four" })),
        (PLAN, json!({ "plan": "Scones" })),
    ];
    for (packed, content) in &state {
        let event_type = packed.trim_end_matches(':');
        stage.alice_device().send_state(room, (event_type, ""), content);
    }
    for (packed, content) in &state {
        stage.sealed(room, packed, content).await;
    }
}

/// Waits until a device shows what [`furnish`] put there, in the keeper's words.
async fn shows_all(stage: &Stage, device: &DeviceRef, room: &RoomRef) {
    let all = |world: &mut World| {
        reads(world, device, room, NAME, &json!({ "name": "Tea" }))
            && reads(world, device, room, TOPIC, &json!({ "topic": "At four" }))
            && reads(world, device, room, PLAN, &json!({ "plan": "Scones" }))
    };
    let what = format!("{} shows name, topic and plan", device.device_id);
    stage.sim.wait_for(&what, all).await;
}

/// The sessions under which the keeper has sealed in a room.
fn sessions(stage: &Stage, room: &RoomRef) -> BTreeSet<String> {
    stage.sim.with(|world| {
        [NAME, TOPIC, PLAN]
            .iter()
            .flat_map(|packed| world.keeper_seals(&room.room_id, packed))
            .filter_map(|seal| megolm_place(seal.sent_content()))
            .map(|(session, _)| session)
            .collect()
    })
}

fn holds(stage: &Stage, device: &DeviceRef, room: &RoomRef, packed: &str) -> bool {
    stage.sim.with(|world| {
        let event = world.keeper_seal(&room.room_id, packed).expect("it is sealed");
        world.open(device.id(), &event).is_ok()
    })
}

#[tokio::test]
async fn one_session_for_the_room_seals_all_of_it_and_takes_no_index_twice() {
    let settings = json!({ "state": { "session_scope": "room", "reseal_delay": "300ms" } });
    let stage = Stage::with(settings).await;
    let room = stage.room().await;
    furnish(&stage, &room).await;
    assert_eq!(sessions(&stage, &room).len(), 1, "three tuples, one session");
    let keys = stage.alice_device().keys_from_keeper().len();
    assert_eq!(keys, 1, "whoever can open the first of them can open them all");
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    shows_all(&stage, &bob.device(1), &room).await;
    stage.name(&room, "Coffee").await;
    stage.shows(&bob.device(1), &room, "Coffee").await;
    assert_eq!(sessions(&stage, &room).len(), 1, "and it goes on");
    room.leave("bob");
    stage.name(&room, "Without Bob").await;
    stage.set(&room, ("m.room.topic", ""), json!({ "topic": "Of him" })).await;
    assert_eq!(sessions(&stage, &room).len(), 2, "a departure ends it");
    for packed in [NAME, TOPIC] {
        assert!(bob.device(1).reads(&room, packed).is_err(), "{packed}");
    }
    assert!(stage.sim.with(|world| world.reused_indices()).is_empty());
}

#[tokio::test]
async fn a_quiet_room_is_sealed_when_somebody_comes_and_not_before() {
    let stage = Stage::with(json!({ "state": { "reseal": "on_need" } })).await;
    let (quiet, other) = (stage.room().await, stage.room().await);
    let zoe = stage.sim.user("zoe").create();
    for room in [&quiet, &other] {
        // Whether the keeper hears of the name or finds it when it comes: whoever is there reads it.
        stage.alice_device().rename(room, "Before");
        stage.sim.join(room, "zoe");
        stage.shows(&zoe.device(1), room, "Before").await;
    }
    let seals = stage.seals(&quiet, NAME);
    stage.alice_device().rename(&quiet, "Quiet");
    stage.alice_device().rename(&other, "Other");
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&other, "bob");
    // Whoever is served in a later event of another room: the quiet one was weighed before.
    stage.shows(&bob.device(1), &other, "Other").await;
    assert_eq!(stage.seals(&quiet, NAME), seals, "nobody needs it");

    let carol = stage.sim.user("carol").create();
    quiet.invite("carol");
    let device = carol.device(1);
    let has_key = |world: &mut World| {
        let seal = world.keeper_seal(&quiet.room_id, NAME);
        seal.is_some_and(|seal| world.open(device.id(), &seal).is_ok())
    };
    stage.sim.wait_for("the invitee gets the key of what is sealed for her", has_key).await;
    stage.sim.join(&quiet, "carol");
    stage.shows(&device, &quiet, "Quiet").await;

    let seals = stage.seals(&quiet, NAME);
    stage.alice_device().rename(&quiet, "Quieter");
    let dave = stage.sim.user("dave").create();
    stage.sim.join(&other, "dave");
    stage.shows(&dave.device(1), &other, "Other").await;
    assert_eq!(stage.seals(&quiet, NAME), seals, "whoever is there has it from Alice");
    stage.sim.join(&quiet, "dave");
    stage.shows(&dave.device(1), &quiet, "Quieter").await;
    assert!(stage.sim.with(|world| world.reused_indices()).is_empty());
}

#[tokio::test]
async fn an_invitee_gets_no_key_before_the_join_where_invitees_get_none() {
    let stage = Stage::with(json!({ "sharing": { "invitees": "none" } })).await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    room.invite("bob");
    stage.settle(&room, "after the invite").await;
    assert!(bob.device(1).keys_from_keeper().is_empty());
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
}

#[tokio::test]
async fn an_invitee_gets_every_key_before_the_join_where_invitees_get_all() {
    let stage = Stage::with(json!({ "sharing": { "invitees": "all" } })).await;
    let room = stage.room().await;
    furnish(&stage, &room).await;
    let bob = stage.sim.user("bob").create();
    let device = bob.device(1);
    room.invite("bob");
    let holds_all = |world: &mut World| {
        [NAME, TOPIC, PLAN].iter().all(|packed| {
            let event = world.keeper_seal(&room.room_id, packed).expect("it is sealed");
            world.open(device.id(), &event).is_ok()
        })
    };
    stage.sim.wait_for("the invitee holds every key", holds_all).await;
    // What the keeper does not know to be there before the join, it refreshes after it.
    let shared = || stage.keeper.metric("statekeeper_room_keys_shared_total", &["invite"]);
    let deadline = Instant::now() + PATIENCE;
    while shared().await < 3.0 {
        assert!(Instant::now() < deadline, "the keeper does not hear that the keys have arrived");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stage.sim.join(&room, "bob");
    shows_all(&stage, &device, &room).await;
    let before = stage.seals(&room, PLAN);
    stage.name(&room, "Coffee").await;
    assert_eq!(stage.seals(&room, PLAN), before, "no refresh: it was readable at the join");
}

#[tokio::test]
async fn a_device_that_nobody_signed_reads_and_is_sealed_for_where_all_devices_count() {
    let settings = json!({ "sharing": { "devices": "all" }, "state": { "reseal_from": "all" } });
    let stage = Stage::with(settings).await;
    let room = stage.named_room("Tea").await;
    let ursula = stage.sim.user("ursula").cross_signed(false).create();
    let forger = stage.sim.user("trudy").trust(Trust::ForgedSelfSignature).create();
    stage.sim.join(&room, "ursula");
    stage.sim.join(&room, "trudy");
    stage.shows(&ursula.device(1), &room, "Tea").await;
    room.set_power("ursula", 50);
    ursula.device(1).rename(&room, "Ursula's");
    stage.sealed(&room, NAME, &json!({ "name": "Ursula's" })).await;
    assert!(holds(&stage, &ursula.device(1), &room, NAME));
    let got: Vec<Value> =
        forger.device(1).keys_from_keeper().into_iter().map(|key| key.content).collect();
    assert!(got.is_empty(), "a device that did not sign itself is none: {got:?}");
}
