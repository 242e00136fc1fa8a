//! A third implementation, which shares no code with the SDKs, reads what the keeper gives: Olm and
//! Megolm from vodozemac's Python bindings, all else by hand (`tests/clients/python`).

use serde_json::Value;

use crate::support::{
    api::Api,
    eventually,
    js::JsClient,
    keeper::KEEPER,
    python::{Heard, PythonClient, PythonHost},
    room::RoomSpec,
    world::World,
};

/// An owner with a public room that the keeper is in.
async fn public_room(world: &World) -> (JsClient, String) {
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    (owner, room_id)
}

async fn named(world: &World, owner: &JsClient, room_id: &str, name: &str) -> Value {
    let original = owner.set_name(room_id, name).await;
    world.sealed(&owner.api, room_id, "m.room.name", &original).await
}

async fn refreshed(api: &Api, room_id: &str, sealed: &Value) {
    eventually("the keeper refreshes the name", async || {
        let event = api.state_event(room_id, "m.room.encrypted", "m.room.name:").await?;
        (event["sender"] == KEEPER && event["event_id"] != sealed["event_id"]).then_some(())
    })
    .await;
}

fn room_keys(heard: &[Heard]) -> Vec<&Heard> {
    heard.iter().filter(|heard| heard.event_type == "m.room_key").collect()
}

#[tokio::test]
async fn a_client_on_no_sdk_is_given_the_key_unasked_and_reads_the_name() {
    let world = World::shared().await;
    let (owner, room_id) = public_room(world).await;
    let past = named(world, &owner, &room_id, "Of old").await;
    let sealed = named(world, &owner, &room_id, "In three tongues").await;
    let joiner = PythonClient::register(&PythonHost::start(), world, "joiner", true).await;
    assert!(joiner.read_name(&sealed).await.is_err(), "nobody gave it anything yet");
    joiner.join(&room_id).await;
    refreshed(&owner.api, &room_id, &sealed).await;

    let current = joiner.name_event(&room_id).await;
    let first_index = joiner.wait_key(&current).await;
    assert_eq!(joiner.read_name(&current).await.as_deref(), Ok("In three tongues"));
    assert!(first_index > 0, "the session began with the name before this one");
    let refused = joiner.read_name(&past).await;
    assert!(refused.is_err(), "the joiner reads {refused:?}");

    let heard = joiner.heard().await;
    let keys = room_keys(&heard);
    assert!(!keys.is_empty() && keys.iter().all(|key| key.encrypted && key.sender == KEEPER));
}

#[tokio::test]
async fn a_client_on_no_sdk_that_nobody_signed_is_given_nothing_unasked() {
    let world = World::shared().await;
    let (owner, room_id) = public_room(world).await;
    let sealed = named(world, &owner, &room_id, "Signed and sealed").await;
    let host = PythonHost::start();
    let unsigned = PythonClient::register(&host, world, "unsigned", false).await;
    unsigned.join(&room_id).await;
    // Somebody who comes later and gets the key shows that the unsigned device's turn is over.
    let signed = PythonClient::register(&host, world, "signed", true).await;
    signed.join(&room_id).await;
    refreshed(&owner.api, &room_id, &sealed).await;
    let current = signed.name_event(&room_id).await;
    signed.wait_key(&current).await;
    assert_eq!(signed.read_name(&current).await.as_deref(), Ok("Signed and sealed"));

    let refused = unsigned.read_name(&current).await;
    assert!(refused.is_err(), "the unsigned device reads {refused:?}");
    assert!(room_keys(&unsigned.heard().await).is_empty());
}

/// What the asker of the scenarios in `asking.rs` says, proved without anybody who answers.
#[tokio::test]
async fn a_client_on_no_sdk_asks_whoever_has_more_power_than_most_and_takes_it_back() {
    let world = World::shared().await;
    let host = PythonHost::start();
    let moderator = PythonClient::register(&host, world, "moderator", true).await;
    let bystander = PythonClient::register(&host, world, "bystander", true).await;
    let owner = world.js_user("owner").await;
    let mut spec = RoomSpec::public().with_keeper();
    spec.power.push((moderator.api.user_id.clone(), 50));
    let room_id = world.room(&owner, &spec).await;
    let sealed = named(world, &owner, &room_id, "Ask me").await;
    for member in [&moderator, &bystander] {
        member.join(&room_id).await;
    }

    let request_id = bystander.ask(&sealed).await;
    let requests = eventually("the moderator hears the request", async || {
        let mut heard = moderator.heard().await;
        heard.retain(|heard| heard.event_type == "m.room_key_request");
        (!heard.is_empty()).then_some(heard)
    })
    .await;
    let content = &requests[0].content;
    assert_eq!(requests[0].sender, bystander.api.user_id);
    assert_eq!(content["action"], "request");
    assert_eq!(content["request_id"], request_id.as_str());
    assert_eq!(content["requesting_device_id"], bystander.api.device_id.as_str());
    assert_eq!(content["body"]["room_id"], room_id.as_str());
    assert_eq!(content["body"]["algorithm"], "m.megolm.v1.aes-sha2");
    assert_eq!(content["body"]["session_id"], sealed["content"]["session_id"]);

    bystander.cancel(&request_id).await;
    eventually("the moderator hears of its end", async || {
        let heard = moderator.heard().await;
        let last = heard.iter().rfind(|heard| heard.event_type == "m.room_key_request")?;
        let is_end = last.content["action"] == "request_cancellation"
            && last.content["request_id"] == request_id.as_str();
        is_end.then_some(())
    })
    .await;
}
