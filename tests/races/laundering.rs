//! Resealing launders nothing: each of these stands in the room and is never said again by the
//! keeper.

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{RoomRef, Trust, UserRef, World, http::percent_decode},
};

/// The names that the keeper has ever sealed in a room, as Alice reads them.
fn names_said(stage: &Stage, room: &RoomRef) -> Vec<Value> {
    let seals = stage.sim.with(|world| world.keeper_seals(&room.room_id, NAME));
    let opened = seals.iter().filter_map(|seal| stage.alice_device().opens(seal).ok());
    opened.map(|opened| opened.content()["name"].clone()).collect()
}

fn is_current(world: &World, room: &RoomRef, event_id: &str) -> bool {
    let current = world.room(&room.room_id).current("m.room.encrypted", NAME);
    current.is_some_and(|event| event.event_id == event_id)
}

#[tokio::test]
async fn an_old_ciphertext_put_as_new_state_is_not_sealed_again() {
    let stage = Stage::open().await;
    let room = stage.room().await;
    let first = stage.alice_device().rename(&room, "Sold");
    stage.sealed(&room, NAME, &json!({ "name": "Sold" })).await;
    stage.name(&room, "Not sold").await;
    let old =
        stage.sim.with(|world| world.room(&room.room_id).event(&first).unwrap().content.clone());
    let replay = room.put_state("alice", ("m.room.encrypted", NAME), old);
    stage.settle(&room, "after the replay").await;
    assert!(stage.sim.with(|world| is_current(world, &room, &replay)));
    let sold = names_said(&stage, &room).iter().filter(|name| **name == "Sold").count();
    assert_eq!(sold, 1, "said once, for the event that Alice meant");
}

#[tokio::test]
async fn an_edit_without_the_power_for_the_true_type_is_not_sealed_again() {
    let stage = Stage::open().await;
    let room = stage.sim.room().encrypted_power(0).create();
    stage.invite_keeper(&room).await;
    stage.name(&room, "Alice's").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Alice's").await;
    bob.device(1).rename(&room, "Bob's");
    stage.settle(&room, "after Bob's edit").await;
    assert!(!names_said(&stage, &room).contains(&json!("Bob's")));
}

#[tokio::test]
async fn encrypted_power_levels_are_not_sealed_again() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let levels = json!({ "users": { "@mallory:localhost": 100 } });
    stage.alice_device().send_state(&room, ("m.room.power_levels", ""), &levels);
    stage.settle(&room, "after the levels").await;
    assert_eq!(stage.seals(&room, "m.room.power_levels:"), 0);
}

#[tokio::test]
async fn a_packed_key_that_does_not_match_its_content_is_not_sealed_again() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let alice = stage.alice_device();
    let topic = alice.seal(&room, ("m.room.topic", ""), &json!({ "name": "Swapped" }));
    room.put_state("alice", ("m.room.encrypted", NAME), topic);
    stage.settle(&room, "after the swap").await;
    assert!(!names_said(&stage, &room).contains(&json!("Swapped")));
    // The same for a payload that was made for another room.
    let elsewhere = json!({
        "type": "m.room.name", "state_key": "", "room_id": "!elsewhere:localhost",
        "content": { "name": "Elsewhere" },
    });
    let sealed = alice.seal_payload(&room, &elsewhere);
    room.put_state("alice", ("m.room.encrypted", NAME), sealed);
    stage.settle(&room, "after the other room").await;
    assert!(!names_said(&stage, &room).contains(&json!("Elsewhere")));
}

#[tokio::test]
async fn an_edit_from_a_device_that_its_owner_did_not_sign_is_not_sealed_again() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    for (name, trust) in [("ursula", Trust::Unsigned), ("mallory", Trust::ForgedCrossSignature)] {
        let user = stage.sim.user(name).trust(trust).create();
        stage.sim.join(&room, name);
        room.set_power(name, 100);
        user.device(1).rename(&room, "Theirs");
        stage.settle(&room, &format!("after {name}'s edit")).await;
        assert!(!names_said(&stage, &room).contains(&json!("Theirs")), "{name}");
    }
}

/// Bob, who may set the name, with one name that the keeper sealed for him.
async fn with_bobs_name(stage: &Stage, name: &str) -> (RoomRef, UserRef) {
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    room.set_power("bob", 100);
    stage.shows(&bob.device(1), &room, "Tea").await;
    bob.device(1).rename(&room, name);
    stage.sealed(&room, NAME, &json!({ "name": name })).await;
    (room, bob)
}

#[tokio::test]
async fn an_edit_of_somebody_whose_identity_changed_waits_until_an_administrator_confirms_it() {
    let stage = Stage::open().await;
    let (room, bob) = with_bobs_name(&stage, "Bob's").await;
    bob.reset_identity();
    stage.keeper.wait_for_metric("statekeeper_holds", 1.0).await;
    // Under the session that the keeper has from the days of the old identity, and under one of the new device.
    let devices = [bob.device(1), stage.sim.add_device("bob", 2, Trust::CrossSigned)];
    for (device, name) in devices.iter().zip(["Somebody's", "Anybody's"]) {
        device.rename(&room, name);
        stage.settle(&room, &format!("after {name}")).await;
        assert!(!names_said(&stage, &room).contains(&json!(name)), "{name}");
    }
    let refused = "statekeeper_state_refused_total";
    assert!(stage.keeper.metric(refused, &["identity_changed"]).await >= 2.0);
    let (code, _, said) = stage.keeper.command("confirm-identity", &[&bob.user_id]);
    assert_eq!(code, Some(0), "{said}");
    stage.sealed(&room, NAME, &json!({ "name": "Anybody's" })).await;
    // The old device is signed by the new identity: what its session was judged by once is over.
    devices[0].rename(&room, "Bob's again");
    stage.sealed(&room, NAME, &json!({ "name": "Bob's again" })).await;
}

#[tokio::test]
async fn somebody_elses_session_in_ones_own_event_is_not_sealed_again() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    room.set_power("bob", 100);
    // Bob sends under his own name what Alice's device encrypted and never sent.
    let unsent = stage.alice_device().seal(&room, ("m.room.name", ""), &json!({ "name": "Draft" }));
    room.put_state("bob", ("m.room.encrypted", NAME), unsent);
    stage.settle(&room, "after the draft").await;
    assert!(!names_said(&stage, &room).contains(&json!("Draft")));
}

#[tokio::test]
async fn an_invite_from_a_stranger_is_not_accepted() {
    let stage = Stage::open().await;
    stage.sim.user("@eve:far.example").create();
    let strange = stage.sim.room().creator("@eve:far.example").create();
    let keeper = stage.sim.keeper();
    strange.set_power(&keeper, 100);
    strange.invite(&keeper);
    // An invite that comes later is accepted: the first was seen and left alone.
    let _welcome = stage.named_room("Tea").await;
    let membership =
        stage.sim.with(|world| world.room(&strange.room_id).membership(&keeper).to_owned());
    assert_ne!(membership, "join");
    let asked = stage.sim.with(|world| {
        let mut joins = world.requests.to("join");
        joins.any(|join| percent_decode(&join.path).contains(&strange.room_id))
    });
    assert!(!asked, "the keeper did not even try");
}
