//! Whoever goes does not read what comes after, with all the keys that his client ever had.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    api::encode,
    client::{Sdk, StockClient},
    eventually,
    js::JsClient,
    now_ms,
    room::RoomSpec,
    synapse,
    world::World,
};

/// Renames the room; what the keeper sealed for it.
async fn rename(world: &World, owner: &JsClient, room_id: &str, name: &str) -> Value {
    let id = owner.set_name(room_id, name).await;
    world.sealed(&owner.api, room_id, "m.room.name", &id).await
}

/// A room of two readers of its name: one who will go, and one who stays.
struct Company {
    owner: JsClient,
    room_id: String,
    goes: StockClient,
    stays: StockClient,
    before: Value,
}

impl Company {
    async fn gather(world: &World, sdk: Sdk) -> Self {
        let owner = world.js_user("owner").await;
        let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
        rename(world, &owner, &room_id, "Among us").await;
        let goes = world.stock_user(sdk, "goes").await;
        let stays = world.stock_user(sdk, "stays").await;
        for reader in [&goes, &stays] {
            reader.join(&room_id).await;
            reader.see_name(&room_id, "Among us").await;
        }
        // Sealed when both were there: the keys of both are for its session.
        let before = rename(world, &owner, &room_id, "Among us three").await;
        goes.see_name(&room_id, "Among us three").await;
        stays.see_name(&room_id, "Among us three").await;
        Self { owner, room_id, goes, stays, before }
    }

    async fn put_out(&self, how: &str) {
        let path = format!("v3/rooms/{}/{how}", encode(&self.room_id));
        let whom = json!({ "user_id": self.goes.user_id() });
        self.owner.api.call(Method::POST, &path, Some(whom)).await.unwrap();
    }

    /// The one who went cannot open what came after, handed to his client as the server keeps it.
    async fn is_without_him(&self, gone: &StockClient, after: &Value) {
        assert_ne!(after["content"]["session_id"], self.before["content"]["session_id"]);
        assert!(gone.can_decrypt(&self.room_id, &self.before).await, "what he read he can read");
        assert!(!gone.can_decrypt(&self.room_id, after).await, "he reads what came after");
        self.stays.see_name(&self.room_id, "Without him").await;
        assert!(self.stays.can_decrypt(&self.room_id, after).await);
    }
}

async fn room_key_is_cycled_on_member_leaving(sdk: Sdk) {
    let world = World::shared().await;
    let company = Company::gather(world, sdk).await;
    let path = format!("v3/rooms/{}/leave", encode(&company.room_id));
    company.goes.api().call(Method::POST, &path, Some(json!({}))).await.unwrap();
    let after = rename(world, &company.owner, &company.room_id, "Without him").await;
    company.is_without_him(&company.goes, &after).await;
}

async fn room_key_is_cycled_on_a_kick(sdk: Sdk) {
    let world = World::shared().await;
    let company = Company::gather(world, sdk).await;
    company.put_out("kick").await;
    let after = rename(world, &company.owner, &company.room_id, "Without him").await;
    company.is_without_him(&company.goes, &after).await;
}

async fn room_key_is_cycled_on_a_ban(sdk: Sdk) {
    let world = World::shared().await;
    let company = Company::gather(world, sdk).await;
    company.put_out("ban").await;
    let after = rename(world, &company.owner, &company.room_id, "Without him").await;
    company.is_without_him(&company.goes, &after).await;
}

async fn room_key_is_cycled_on_device_logout(sdk: Sdk) {
    let world = World::shared().await;
    let mut company = Company::gather(world, sdk).await;
    let phone = world.second_device(&company.goes).await;
    company.goes.sign_device(&phone.api().device_id).await;
    rename(world, &company.owner, &company.room_id, "On the phone").await;
    phone.see_name(&company.room_id, "On the phone").await;
    // What the phone was signed for may have been sealed once more since.
    company.before = eventually("the phone opens what stands", async || {
        let (room, packed) = (&company.room_id, "m.room.name:");
        let stands = company.owner.api.state_event(room, "m.room.encrypted", packed).await?;
        phone.can_decrypt(room, &stands).await.then_some(stands)
    })
    .await;
    phone.api().call(Method::POST, "v3/logout", Some(json!({}))).await.unwrap();
    // Device lists come another way than events: the keeper hears of it at some time.
    let mut renames = 0;
    eventually("the session is cycled", async || {
        renames += 1;
        let name = format!("rename {renames}");
        let now = rename(world, &company.owner, &company.room_id, &name).await;
        (now["content"]["session_id"] != company.before["content"]["session_id"]).then_some(())
    })
    .await;
    assert!(renames < 90, "the session may have been used up, by {renames} renames");
    let after = rename(world, &company.owner, &company.room_id, "Without him").await;
    company.is_without_him(&phone, &after).await;
    assert!(company.goes.can_decrypt(&company.room_id, &after).await, "his other device stays");
}

/// A room whose name is read by a client of either SDK, and a world of its own with these settings.
async fn readers_of_both_sdks(
    settings: &Value,
    name: &str,
) -> (World, JsClient, String, [StockClient; 2]) {
    let world = World::with(synapse::Options::default(), settings).await;
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    rename(&world, &owner, &room_id, name).await;
    let readers =
        [world.stock_user(Sdk::Js, "browser").await, world.stock_user(Sdk::Rust, "native").await];
    for reader in &readers {
        reader.join(&room_id).await;
        reader.see_name(&room_id, name).await;
    }
    (world, owner, room_id, readers)
}

fn session(sealed: &Value) -> String {
    sealed["content"]["session_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn room_key_is_cycled_after_enough_messages() {
    let settings = json!({ "rotation": { "messages": 2 } });
    let (world, owner, room_id, readers) = readers_of_both_sdks(&settings, "Counted").await;
    let mut used = BTreeMap::<String, usize>::new();
    for number in 0..6 {
        let name = format!("rename {number}");
        let sealed = rename(&world, &owner, &room_id, &name).await;
        *used.entry(session(&sealed)).or_default() += 1;
        for reader in &readers {
            reader.see_name(&room_id, &name).await;
            assert!(reader.can_decrypt(&room_id, &sealed).await);
        }
    }
    assert!(used.values().all(|count| *count <= 2), "two events each at most: {used:?}");
}

#[tokio::test]
async fn room_key_is_cycled_after_enough_time() {
    const AGE: u32 = 3_000;
    let settings = json!({ "rotation": { "milliseconds": AGE } });
    let (world, owner, room_id, readers) = readers_of_both_sdks(&settings, "Timed").await;
    let sent_at = |sealed: &Value| sealed["origin_server_ts"].as_f64().unwrap();
    let first = rename(&world, &owner, &room_id, "first").await;
    let (mut sealed, mut began, mut cycles) = (first.clone(), sent_at(&first), 0);
    let mut renames = 0;
    while cycles < 2 {
        renames += 1;
        let asked_at = now_ms();
        let now = rename(&world, &owner, &room_id, &format!("rename {renames}")).await;
        if session(&now) == session(&sealed) {
            assert!(asked_at - began <= f64::from(AGE), "it is in use for too long");
        } else {
            (began, cycles) = (sent_at(&now), cycles + 1);
        }
        sealed = now;
    }
    for reader in &readers {
        reader.see_name(&room_id, &format!("rename {renames}")).await;
        assert!(reader.can_decrypt(&room_id, &sealed).await);
    }
}

#[tokio::test]
async fn room_key_is_not_cycled_nor_is_it_on_client_restart() {
    let (mut world, owner, room_id, readers) = readers_of_both_sdks(&Value::Null, "Kept").await;
    let before = rename(&world, &owner, &room_id, "before").await;
    let later = world.stock_user(Sdk::Rust, "later").await;
    later.join(&room_id).await;
    later.see_name(&room_id, "before").await;
    let path = format!("v3/profile/{}/displayname", encode(readers[0].user_id()));
    let renamed = json!({ "displayname": "Another" });
    readers[0].api().call(Method::PUT, &path, Some(renamed)).await.unwrap();
    let phone = world.second_device(&readers[0]).await;
    readers[0].sign_device(&phone.api().device_id).await;
    phone.see_name(&room_id, "before").await;
    let after = rename(&world, &owner, &room_id, "after all that").await;
    assert_eq!(session(&after), session(&before));
    world.keeper.restart().await;
    let after = rename(&world, &owner, &room_id, "after the restart").await;
    assert_eq!(session(&after), session(&before));
    for reader in readers.iter().chain([&later, &phone]) {
        reader.see_name(&room_id, "after the restart").await;
    }
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
    room_key_is_cycled_on_member_leaving,
    room_key_is_cycled_on_a_kick,
    room_key_is_cycled_on_a_ban,
    room_key_is_cycled_on_device_logout,
}
