//! Key, 200, then event.

use serde_json::json;

use crate::{
    races::stage::{NAME, Stage, reads},
    simulated::{Sim, Trust, World},
};

/// The clock when the homeserver had answered the first to-device request for this device.
fn key_answered(sim: &Sim, device_id: &str) -> u64 {
    sim.with(|world| {
        let mut sent = world.requests.to("sendToDevice");
        let names = |body: &Option<String>| body.as_ref().is_some_and(|b| b.contains(device_id));
        sent.find(|request| names(&request.body)).and_then(|request| request.answered)
    })
    .expect("a key was sent and answered")
}

/// The clock when the request came which made a tuple's current event.
fn last_seal_asked(sim: &Sim, packed: &str) -> u64 {
    let encoded = packed.replace(':', "%3A");
    sim.with(|world| {
        let mut puts = world.requests.to("state/put").collect::<Vec<_>>().into_iter().rev();
        puts.find(|put| put.path.contains(&encoded) || put.path.contains(packed))
            .map(|put| put.arrived)
    })
    .expect("the keeper sealed it")
}

#[tokio::test]
async fn a_joiner_gets_the_key_and_only_then_a_refreshed_event() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let before = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    let current = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    assert_ne!(current.event_id, before.event_id);
    assert!(key_answered(&stage.sim, "BOB1") < last_seal_asked(&stage.sim, NAME));
    assert!(bob.device(1).opens(&current).is_ok());
    assert!(bob.device(1).complaints().is_empty(), "{:?}", bob.device(1).complaints());
}

#[tokio::test]
async fn a_joiner_reads_the_name_but_not_the_one_before_it() {
    let stage = Stage::open().await;
    let room = stage.named_room("Secret past").await;
    let past = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    stage.name(&room, "Present").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Present").await;
    let refused = bob.device(1).opens(&past);
    assert!(refused.is_err(), "the joiner opens {refused:?}");
    assert!(stage.alice_device().opens(&past).is_ok(), "who was there can open it");
}

#[tokio::test]
async fn the_keepers_key_says_that_its_history_is_not_shared() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    for key in bob.device(1).keys_from_keeper() {
        for name in ["shared_history", "org.matrix.msc3061.shared_history"] {
            assert_ne!(key.content[name], json!(true), "{name}");
        }
    }
}

#[tokio::test]
async fn an_invitee_has_the_aesthetic_keys_before_the_join_and_no_refresh_at_it() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let other = json!({ "plan": "secret" });
    stage.set(&room, ("org.example.plan", ""), other.clone()).await;
    let plan = "org.example.plan:";
    let bob = stage.sim.user("bob").create();
    let device = bob.device(1);
    room.invite("bob");
    let current =
        |packed: &str| stage.sim.with(|world| world.keeper_seal(&room.room_id, packed).unwrap());
    let (name_event, plan_event) = (current(NAME), current(plan));
    let has_key = |world: &mut World| world.open(device.id(), &name_event).is_ok();
    stage.sim.wait_for("the invitee gets the name's key", has_key).await;
    assert!(device.opens(&plan_event).is_err(), "an invitee gets the aesthetic keys alone");
    // The key is there before the keeper knows that it is: a join in between counts as one before it.
    stage.settle(&room, "after the invite").await;
    let seals = stage.seals(&room, NAME);
    stage.sim.join(&room, "bob");
    let reads_plan = |world: &mut World| reads(world, &device, &room, plan, &other);
    stage.sim.wait_for("the joiner reads the rest", reads_plan).await;
    stage.shows(&device, &room, "Tea").await;
    stage.settle(&room, "after the join").await;
    assert_eq!(stage.seals(&room, NAME), seals, "the name was readable at the join");
}

#[tokio::test]
async fn a_device_that_is_forged_or_unsigned_gets_no_key() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let hostile = [
        stage.sim.user("mallory").trust(Trust::ForgedCrossSignature).create(),
        stage.sim.user("trudy").trust(Trust::ForgedSelfSignature).create(),
        stage.sim.user("ursula").cross_signed(false).create(),
    ];
    for user in &hostile {
        stage.sim.join(&room, &user.user_id);
    }
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    stage.name(&room, "Coffee").await;
    stage.shows(&bob.device(1), &room, "Coffee").await;
    for user in &hostile {
        assert!(user.device(1).keys_from_keeper().is_empty(), "{} got a key", user.user_id);
    }
}

#[tokio::test]
async fn a_second_device_reads_the_name_once_its_owner_signs_it() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let second = stage.sim.add_device("alice", 2, Trust::Unsigned);
    stage.settle(&room, "unsigned").await;
    assert!(second.keys_from_keeper().is_empty());
    second.cross_sign();
    stage.shows(&second, &room, "Tea").await;
}

#[tokio::test]
async fn many_joins_share_queries_claims_and_refreshes() {
    let stage = Stage::prepare(json!({ "sharing": { "refresh_window": "300ms" } })).await;
    let mut stage = stage;
    stage.keeper.start().await;
    let room = stage.named_room("Tea").await;
    let joiners: Vec<_> = (0..30).map(|n| stage.sim.user(&format!("joiner{n}")).create()).collect();
    let seals = stage.seals(&room, NAME);
    for joiner in &joiners {
        stage.sim.join(&room, &joiner.user_id);
    }
    for joiner in &joiners {
        stage.shows(&joiner.device(1), &room, "Tea").await;
    }
    stage.settle(&room, "all there").await;
    let refreshes = stage.seals(&room, NAME) - seals;
    assert!(refreshes <= 5, "{refreshes} refreshes for 30 joins at once");
}
