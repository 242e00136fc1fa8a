//! What nobody gets: the past, what was taken back, and anything on a device that nobody signed.

use serde_json::{Value, json};

use crate::support::{
    client::Sdk, eventually, js::JsClient, keeper::KEEPER, room::RoomSpec, world::World,
};

const PACKED_NAME: &str = "m.room.name:";

/// An owner with a public room that the keeper is in.
async fn public_room(world: &World) -> (JsClient, String) {
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    (owner, room_id)
}

async fn name_and_wait(world: &World, owner: &JsClient, room_id: &str, name: &str) -> [Value; 2] {
    let id = owner.set_name(room_id, name).await;
    let sealed = world.sealed(&owner.api, room_id, "m.room.name", &id).await;
    [owner.api.event(room_id, &id).await, sealed]
}

async fn a_joiner_reads_the_name_but_not_the_one_before_it(sdk: Sdk) {
    let world = World::shared().await;
    let (owner, room_id) = public_room(world).await;
    let message = owner.send_message(&room_id, "before anybody came").await;
    let [first, first_sealed] = name_and_wait(world, &owner, &room_id, "First").await;
    let [second, _] = name_and_wait(world, &owner, &room_id, "Second").await;

    let joiner = world.stock_user(sdk, "joiner").await;
    joiner.join(&room_id).await;
    joiner.see_name(&room_id, "Second").await;

    let current = owner.api.state_event(&room_id, "m.room.encrypted", PACKED_NAME).await.unwrap();
    assert!(joiner.can_decrypt(&room_id, &current).await, "the name that it shows");
    assert!(!joiner.can_decrypt(&room_id, &first_sealed).await, "the keeper's seal of the past");
    assert!(!joiner.can_decrypt(&room_id, &first).await, "the past in the member's session");
    assert!(!joiner.can_decrypt(&room_id, &second).await, "a member's message session");
    let message = owner.api.event(&room_id, &message).await;
    assert!(!joiner.can_decrypt(&room_id, &message).await, "a message from before the join");
}

async fn a_device_that_nobody_signed_gets_no_key(sdk: Sdk) {
    let world = World::shared().await;
    let (owner, room_id) = public_room(world).await;
    name_and_wait(world, &owner, &room_id, "Members only").await;
    let withheld =
        async || world.keeper.metrics().await.sum("statekeeper_room_keys_withheld_total", &[]);
    let before = withheld().await;

    let user = world.user("unsigned").await;
    let unsigned = world.stock_device(sdk, &user, false).await;
    unsigned.join(&room_id).await;
    unsigned.see_joined(&room_id).await;
    // Somebody who comes later and gets the key shows that the unsigned device's turn is over.
    let signed = world.stock_user(sdk, "signed").await;
    signed.join(&room_id).await;
    signed.see_name(&room_id, "Members only").await;
    owner.see_member(&room_id, unsigned.user_id()).await;
    owner.send_message(&room_id, "to all devices").await;
    unsigned.see_message(&room_id, "to all devices").await;

    assert_eq!(unsigned.name(&room_id).await, None);
    let current = owner.api.state_event(&room_id, "m.room.encrypted", PACKED_NAME).await.unwrap();
    assert_eq!(current["sender"], KEEPER);
    assert!(signed.can_decrypt(&room_id, &current).await);
    assert!(!unsigned.can_decrypt(&room_id, &current).await);
    assert!(withheld().await > before, "the refusal is counted");
}

async fn a_name_that_its_author_redacted_never_comes_back(sdk: Sdk) {
    let world = World::shared().await;
    let (owner, room_id) = public_room(world).await;
    let original = owner.set_name(&room_id, "A slip of the pen").await;
    let sealed = world.sealed(&owner.api, &room_id, "m.room.name", &original).await;
    let topic = owner.set_topic(&room_id, "first topic").await;
    world.sealed(&owner.api, &room_id, "m.room.topic", &topic).await;

    owner.redact(&room_id, &original).await;
    let sealed_id = sealed["event_id"].as_str().unwrap();
    eventually("the keeper redacts what it sealed in the name's place", async || {
        let event = owner.api.event(&room_id, sealed_id).await;
        event["content"]["ciphertext"].is_null().then_some(())
    })
    .await;

    let joiner = world.stock_user(sdk, "joiner").await;
    joiner.join(&room_id).await;
    joiner.see_topic(&room_id, "first topic").await;
    let topic = owner.set_topic(&room_id, "second topic").await;
    world.sealed(&owner.api, &room_id, "m.room.topic", &topic).await;
    joiner.see_topic(&room_id, "second topic").await;

    assert_eq!(joiner.name(&room_id).await, None);
    let timeline = owner.api.timeline(&room_id).await;
    let names: Vec<_> = timeline.iter().filter(|e| e["state_key"] == PACKED_NAME).collect();
    assert!(names.len() >= 2, "the name and its seal are in the timeline");
    for event in names {
        assert!(event["content"]["ciphertext"].is_null(), "still readable: {event}");
    }
}

/// The keeper's sessions are not marked as shared history, so a client that builds a key bundle
/// lists them as withheld. The keeper's own key has to be taken in spite of that.
async fn a_bundle_that_withholds_the_keepers_sessions_does_not_keep_its_key_out(sdk: Sdk) {
    let world = World::shared().await;
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::default().with_keeper()).await;
    name_and_wait(world, &owner, &room_id, "Given twice").await;

    let joiner = world.stock_user(sdk, "joiner").await;
    let invite = json!({ "room_id": room_id, "user_id": joiner.user_id() });
    owner.call("invite", invite).await;
    joiner.join(&room_id).await;
    joiner.see_name(&room_id, "Given twice").await;
    // The next value stands under a session of the keeper's as well.
    name_and_wait(world, &owner, &room_id, "Given again").await;
    joiner.see_name(&room_id, "Given again").await;
    let current = owner.api.state_event(&room_id, "m.room.encrypted", PACKED_NAME).await.unwrap();
    assert_eq!(current["sender"], KEEPER);
    assert!(joiner.can_decrypt(&room_id, &current).await);
}

macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        mod on_matrix_js_sdk {
            use super::Sdk;
            $(#[tokio::test] async fn $test() { super::$test(Sdk::Js).await; })*
        }
        mod on_matrix_sdk {
            use super::Sdk;
            $(#[tokio::test] async fn $test() { super::$test(Sdk::Rust).await; })*
        }
    };
}

on_both! {
    a_joiner_reads_the_name_but_not_the_one_before_it,
    a_device_that_nobody_signed_gets_no_key,
    a_name_that_its_author_redacted_never_comes_back,
    a_bundle_that_withholds_the_keepers_sessions_does_not_keep_its_key_out,
}
