//! The keeper as a service: power that comes later, homeservers that come and go, and tight limits.

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    api::{self, Api, encode},
    client::Sdk,
    eventually,
    keeper::KEEPER,
    room::RoomSpec,
    synapse,
    world::World,
};

/// Shows that a joiner without any invite gets to see a name, from nothing.
async fn a_public_joiner_shows_the_name(world: &World, sdk: Sdk) {
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    owner.set_name(&room_id, "The usual").await;
    let joiner = world.stock_user(sdk, "joiner").await;
    joiner.join(&room_id).await;
    joiner.see_name(&room_id, "The usual").await;
}

#[tokio::test]
async fn a_rename_is_seen_by_everybody_who_joined() {
    let world = World::shared().await;
    let owner = world.js_user("owner").await;
    let moderator = world.stock_user(Sdk::Js, "moderator").await;
    let mut spec = RoomSpec::public().with_keeper();
    spec.power.push((moderator.user_id().to_owned(), 50));
    let room_id = world.room(&owner, &spec).await;
    owner.set_name(&room_id, "Monday").await;

    let mut members = vec![moderator];
    for sdk in [Sdk::Rust, Sdk::Js] {
        members.push(world.stock_user(sdk, "member").await);
    }
    for member in &members {
        member.join(&room_id).await;
        member.see_name(&room_id, "Monday").await;
    }
    owner.set_name(&room_id, "Tuesday").await;
    for member in &members {
        member.see_name(&room_id, "Tuesday").await;
    }
    let crate::support::client::StockClient::Js(moderator) = &members[0] else { unreachable!() };
    let renamed = moderator.set_name(&room_id, "Wednesday").await;
    world.sealed(&owner.api, &room_id, "m.room.name", &renamed).await;
    for member in &members {
        member.see_name(&room_id, "Wednesday").await;
    }
}

#[tokio::test]
async fn a_keeper_without_power_says_so_and_begins_when_the_power_arrives() {
    let world = World::shared().await;
    let owner = world.js_user("owner").await;
    let mut spec = RoomSpec::public();
    spec.invite.push(KEEPER.to_owned());
    let room_id = world.room(&owner, &spec).await;
    let name = owner.set_name(&room_id, "Not yet").await;
    eventually("the keeper counts a room in which it lacks power", async || {
        let metrics = world.keeper.metrics().await;
        (metrics.sum("statekeeper_rooms", &[("status", "not_elevated")]) >= 1.0).then_some(())
    })
    .await;
    let packed = "m.room.name:";
    let event = owner.api.state_event(&room_id, "m.room.encrypted", packed).await.unwrap();
    assert_eq!(event["event_id"], name, "nobody but the owner has written the name");

    owner.api.set_power(&room_id, KEEPER, 100).await;
    world.sealed(&owner.api, &room_id, "m.room.name", &name).await;
    let joiner = world.stock_user(Sdk::Js, "joiner").await;
    joiner.join(&room_id).await;
    joiner.see_name(&room_id, "Not yet").await;
}

#[tokio::test]
async fn the_homeserver_may_come_after_the_keeper_and_may_go_and_come_again() {
    let mut world = World::prepare(synapse::Options::default(), &Value::Null);
    world.keeper.spawn();
    eventually("the keeper lives while it waits for the homeserver", async || {
        world.keeper.assert_alive();
        (world.keeper.health("live").await == Some(200)).then_some(())
    })
    .await;
    assert!(!world.keeper.is_ready().await, "ready without a homeserver");

    world.synapse.resume().await;
    world.keeper.ready().await;
    a_public_joiner_shows_the_name(&world, Sdk::Js).await;

    world.synapse.restart().await;
    a_public_joiner_shows_the_name(&world, Sdk::Rust).await;
    world.keeper.assert_alive();
}

#[tokio::test]
async fn sigterm_ends_the_keeper_and_the_next_start_goes_on() {
    let mut world = World::start().await;
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    let name = owner.set_name(&room_id, "Before").await;
    world.sealed(&owner.api, &room_id, "m.room.name", &name).await;

    let status = world.keeper.terminate().await;
    assert!(status.success(), "{status}: {}", world.keeper.output());
    let joiner = world.stock_user(Sdk::Js, "joiner").await;
    joiner.join(&room_id).await;
    owner.set_name(&room_id, "Meanwhile").await;

    world.keeper.start().await;
    joiner.see_name(&room_id, "Meanwhile").await;
}

/// The keys of the keeper's device as members find them, by the device's id.
async fn keepers_device(api: &Api) -> Option<(String, Value)> {
    let body = json!({ "device_keys": { KEEPER: [] } });
    let answer = api.call(Method::POST, "v3/keys/query", Some(body)).await.unwrap();
    let devices = answer["device_keys"][KEEPER].as_object()?;
    devices.iter().next().map(|(id, device)| (id.clone(), device["keys"].clone()))
}

#[tokio::test]
async fn a_device_that_is_deleted_on_the_homeserver_is_made_again_and_goes_on() {
    let mut world = World::start().await;
    a_public_joiner_shows_the_name(&world, Sdk::Js).await;
    let user = world.user("onlooker").await;
    let before = keepers_device(&user).await.expect("the keeper has a device");
    let path = format!("/_matrix/client/v3/devices/{}?user_id={}", before.0, encode(KEEPER));
    let url = format!("{}{path}", world.synapse.url());
    let token = world.keeper.as_token();
    api::send(Method::DELETE, &url, Some(&token), Some(&json!({}))).await.unwrap();
    eventually("the same device is there again", async || {
        let device = keepers_device(&user).await;
        (device.as_ref() == Some(&before)).then_some(())
    })
    .await;
    for sdk in [Sdk::Js, Sdk::Rust] {
        a_public_joiner_shows_the_name(&world, sdk).await;
    }
    world.keeper.assert_alive();
}

#[tokio::test]
async fn joins_and_renames_are_served_under_the_limits_that_synapse_ships_with() {
    let options = synapse::Options { default_limits: true, ..Default::default() };
    let world = World::with(options, &Value::Null).await;
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    // The owner has a burst of ten events; the keeper, with a seal for each of them and a refresh
    // for each join, needs more than that.
    let mut joiners = Vec::new();
    for (round, sdk) in [Sdk::Js, Sdk::Rust, Sdk::Js, Sdk::Rust].into_iter().enumerate() {
        let name = format!("Round {round}");
        let topic = format!("Lap {round}");
        owner.set_name(&room_id, &name).await;
        owner.set_topic(&room_id, &topic).await;
        let joiner = world.stock_user(sdk, "joiner").await;
        joiner.join(&room_id).await;
        joiners.push(joiner);
        for joiner in &joiners {
            joiner.see_name(&room_id, &name).await;
            joiner.see_topic(&room_id, &topic).await;
        }
    }
}
