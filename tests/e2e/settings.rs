//! Stock clients under settings other than the default.

use serde_json::json;

use crate::support::{client::Sdk, room::RoomSpec, synapse, world::World};

#[tokio::test]
async fn a_joiner_shows_name_and_topic_where_one_session_seals_all_of_a_room() {
    let overrides = json!({ "state": { "session_scope": "room" } });
    let world = World::with(synapse::Options::default(), &overrides).await;
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    let name = owner.set_name(&room_id, "One for all").await;
    let topic = owner.set_topic(&room_id, "All for one").await;
    let name = world.sealed(&owner.api, &room_id, "m.room.name", &name).await;
    let topic = world.sealed(&owner.api, &room_id, "m.room.topic", &topic).await;
    assert_eq!(name["content"]["session_id"], topic["content"]["session_id"]);
    for sdk in [Sdk::Js, Sdk::Rust] {
        let joiner = world.stock_user(sdk, "joiner").await;
        joiner.join(&room_id).await;
        joiner.see_name(&room_id, "One for all").await;
        joiner.see_topic(&room_id, "All for one").await;
    }
}

#[tokio::test]
async fn a_joiner_shows_the_name_where_state_is_sealed_on_need() {
    let overrides = json!({ "state": { "reseal": "on_need" } });
    let world = World::with(synapse::Options::default(), &overrides).await;
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    for (round, sdk) in [Sdk::Js, Sdk::Rust].into_iter().enumerate() {
        let name = format!("Round {round}");
        owner.set_name(&room_id, &name).await;
        let joiner = world.stock_user(sdk, "joiner").await;
        joiner.join(&room_id).await;
        joiner.see_name(&room_id, &name).await;
    }
}
