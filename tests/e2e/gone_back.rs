//! The keeper's store is put back from an older copy, or lost, beside a real homeserver and stock clients.

use std::path::Path;

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    api::{Api, encode, send},
    client::{Sdk, StockClient},
    eventually,
    js::JsClient,
    keeper::KEEPER,
    room::RoomSpec,
    synapse,
    timeline::reused_places,
    world::World,
};

/// The ids of the keeper's devices that others see, and the public key of its identity.
async fn shown(asker: &Api) -> (Vec<String>, Value) {
    let body = json!({ "device_keys": { KEEPER: [] } });
    let answer = asker.call(Method::POST, "v3/keys/query", Some(body)).await.unwrap();
    let devices = answer["device_keys"][KEEPER].as_object().unwrap();
    let signed = devices.iter().filter(|(_, keys)| {
        // By itself and by the identity.
        keys["signatures"][KEEPER].as_object().is_some_and(|signatures| signatures.len() == 2)
    });
    let signed = signed.map(|(id, _)| id.clone()).collect();
    (signed, answer["master_keys"][KEEPER]["keys"].clone())
}

/// The ids of all devices that the homeserver has of the keeper, with keys or without.
async fn devices(world: &World) -> Vec<String> {
    let path = format!("_matrix/client/v3/devices?user_id={}", encode(KEEPER));
    let url = format!("{}/{path}", world.synapse.url());
    let answer = send(Method::GET, &url, Some(&world.keeper.as_token()), None).await.unwrap();
    let devices = answer["devices"].as_array().unwrap();
    devices.iter().map(|device| device["device_id"].as_str().unwrap().to_owned()).collect()
}

/// Clears the mark of the keeper's last life: what it sealed has to say it alone.
async fn clear_mark(world: &World) {
    let user = encode(KEEPER);
    let path = format!("user/{user}/account_data/org.statekeeper.life?user_id={user}");
    let url = format!("{}/_matrix/client/v3/{path}", world.synapse.url());
    let token = world.keeper.as_token();
    let there = send(Method::GET, &url, Some(&token), None).await.unwrap();
    assert!(there["life"].is_string(), "{there}");
    send(Method::PUT, &url, Some(&token), Some(&json!({}))).await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The owner's name for the room stands sealed by the keeper under another session than `before`.
async fn is_sealed_anew(owner: &JsClient, room_id: &str, before: &Value) {
    eventually("the name is sealed anew", async || {
        let event = owner.api.state_event(room_id, "m.room.encrypted", "m.room.name:").await?;
        let anew = event["sender"] == KEEPER
            && event["content"]["session_id"] != before["content"]["session_id"];
        anew.then_some(())
    })
    .await;
}

async fn newcomer(world: &World, sdk: Sdk, room_id: &str, name: &str) -> StockClient {
    let newcomer = world.stock_user(sdk, "newcomer").await;
    newcomer.join(room_id).await;
    newcomer.see_name(room_id, name).await;
    newcomer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_went_back_goes_on_as_another_device_that_stock_clients_read() {
    let mut world = World::with(synapse::Options::default(), &Value::Null).await;
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    let set = owner.set_name(&room_id, "One").await;
    world.sealed(&owner.api, &room_id, "m.room.name", &set).await;
    let first = newcomer(&world, Sdk::Js, &room_id, "One").await;
    let (before, identity) = shown(&owner.api).await;
    assert_eq!(before.len(), 1);
    world.keeper.terminate().await;
    let data = world.keeper.dir().join("data");
    let backup = world.keeper.dir().join("backup");
    copy(&data, &backup);
    world.keeper.start().await;
    let set = owner.set_name(&room_id, "Two").await;
    let sealed = world.sealed(&owner.api, &room_id, "m.room.name", &set).await;
    newcomer(&world, Sdk::Rust, &room_id, "Two").await;
    world.keeper.kill();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&backup, &data).unwrap();
    clear_mark(&world).await;
    world.keeper.start().await;
    is_sealed_anew(&owner, &room_id, &sealed).await;
    let (after, same) = shown(&owner.api).await;
    assert_eq!((after.len(), same), (1, identity), "one device, signed by the identity of before");
    assert_ne!(after, before);
    assert_eq!(devices(&world).await, after, "and the homeserver has no other one");
    for sdk in [Sdk::Js, Sdk::Rust] {
        newcomer(&world, sdk, &room_id, "Two").await;
    }
    owner.set_name(&room_id, "Three").await;
    first.see_name(&room_id, "Three").await;
    newcomer(&world, Sdk::Js, &room_id, "Three").await;
    world.keeper.restart().await;
    assert_eq!(shown(&owner.api).await.0, after, "it stays that device");
    let reused = reused_places(&owner.api.timeline(&room_id).await);
    assert!(reused.is_empty(), "Megolm indices that stand in two events: {reused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_store_is_not_the_end_and_the_keeper_says_what_is_gone() {
    let mut world = World::with(synapse::Options::default(), &Value::Null).await;
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    let set = owner.set_name(&room_id, "One").await;
    world.sealed(&owner.api, &room_id, "m.room.name", &set).await;
    let first = newcomer(&world, Sdk::Js, &room_id, "One").await;
    let (before, identity) = shown(&owner.api).await;
    world.keeper.kill();
    let data = world.keeper.dir().join("data");
    for entry in std::fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else if !path.ends_with("passphrase") {
            std::fs::remove_file(path).unwrap();
        }
    }
    world.keeper.start().await;
    let (after, other) = shown(&owner.api).await;
    assert_eq!(after.len(), 1);
    assert!(after != before && other != identity, "its private keys are lost");
    assert_eq!(devices(&world).await, after);
    // Nobody answers for what was sealed, and nothing is put in its place.
    eventually("what is gone is counted", async || {
        let metrics = world.keeper.metrics().await;
        (metrics.sum("statekeeper_undecryptable_state_events", &[]) >= 1.0).then_some(())
    })
    .await;
    assert_eq!(first.name(&room_id).await.as_deref(), Some("One"));
    let doctor = world.keeper.attempt(&["doctor", "--config", "config.yaml"]);
    assert!(doctor.is_none(), "there is something to be said");
    // Set anew it is as good as ever.
    owner.set_name(&room_id, "Two").await;
    first.see_name(&room_id, "Two").await;
    for sdk in [Sdk::Js, Sdk::Rust] {
        newcomer(&world, sdk, &room_id, "Two").await;
    }
    world.keeper.restart().await;
    assert_eq!(shown(&owner.api).await.0, after, "it stays that device");
    let reused = reused_places(&owner.api.timeline(&room_id).await);
    assert!(reused.is_empty(), "Megolm indices that stand in two events: {reused:?}");
}
