//! What stock clients show where a name stands in plain beside the sealed one, under each policy: while they run, after
//! a reload and on a fresh device.

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    client::{Sdk, StockClient},
    eventually,
    js::JsClient,
    keeper::KEEPER,
    room::RoomSpec,
    rust::RustClient,
    synapse,
    world::World,
};

const OLD: &str = "Before encryption";
const SEALED: &str = "Under encryption";
const STUB: &str = "Ask inside";
/// More than a client fetches of a timeline at first: what it shows comes out of the room's state.
const MESSAGES: usize = 30;
const RELOADS: usize = 6;

async fn world(policy: &str) -> World {
    let overrides = json!({
        "state": { "plain_copy": policy, "plain_stub": STUB },
        // Two fresh devices are shown the name, one soon after the other.
        "sharing": { "device_refresh_interval": "1s" },
    });
    World::with(synapse::Options::default(), &overrides).await
}

/// A room that was made with a name in plain, and got another one under encryption.
async fn room(world: &World, owner: &JsClient) -> (String, String) {
    let mut body = RoomSpec::public().with_keeper().body();
    body["name"] = json!(OLD);
    let room_id = owner.create_room(body, true).await;
    eventually("the keeper accepts the invite", async || {
        owner.api.is_joined(&room_id, KEEPER).await.then_some(())
    })
    .await;
    owner.see_member(&room_id, KEEPER).await;
    let plain = owner.api.state_event(&room_id, "m.room.name", "").await.unwrap();
    let said = owner.set_name(&room_id, SEALED).await;
    world.sealed(&owner.api, &room_id, "m.room.name", &said).await;
    (room_id, plain["event_id"].as_str().unwrap().to_owned())
}

/// The name in plain, once it is as policy wants it and the seal came after it.
async fn at_rest(owner: &JsClient, room_id: &str, wanted: &Value) {
    eventually(&format!("{wanted} stands in plain, and the seal comes last"), async || {
        let plain = owner.api.state_event(room_id, "m.room.name", "").await?;
        let sealed = owner.api.state_event(room_id, "m.room.encrypted", "m.room.name:").await?;
        let timeline = owner.api.timeline(room_id).await;
        let place = |event: &Value| {
            timeline.iter().position(|other| other["event_id"] == event["event_id"])
        };
        let is_last = place(&plain)? < place(&sealed)? && sealed["sender"] == KEEPER;
        (plain["content"] == *wanted && is_last).then_some(())
    })
    .await;
}

/// Fills the timeline, so that a client that begins anew takes the names from the room's state.
async fn fill(owner: &JsClient, room_id: &str) {
    for number in 0..MESSAGES {
        let path = format!(
            "v3/rooms/{}/send/m.room.message/{number}",
            crate::support::api::encode(room_id)
        );
        let body = json!({ "msgtype": "m.text", "body": format!("message {number}") });
        owner.api.call(Method::PUT, &path, Some(body)).await.unwrap();
    }
}

/// The names that a client shows after each of some reloads, counted.
#[derive(Debug, Default)]
struct Shown {
    sealed: usize,
    others: Vec<Option<String>>,
}

impl Shown {
    fn note(&mut self, name: Option<String>) {
        if name.as_deref() == Some(SEALED) { self.sealed += 1 } else { self.others.push(name) }
    }
}

/// Waits until a client shows something, or for as long as it takes to come to rest.
async fn settled_name(client: &StockClient, room_id: &str) -> Option<String> {
    let patience = std::time::Duration::from_secs(3);
    match client.name_within(room_id, SEALED, patience).await {
        Ok(_) => Some(SEALED.to_owned()),
        Err(_) => client.name(room_id).await,
    }
}

struct Seen {
    reloaded: Shown,
    cold: Shown,
    restarted: Shown,
}

/// Looks at a room under a policy with clients of both SDKs; `wanted` is what has to stand in plain.
async fn look(policy: &str, wanted: Value) -> (Seen, bool) {
    let world = world(policy).await;
    let owner = world.js_user("owner").await;
    let (room_id, old) = room(&world, &owner).await;
    at_rest(&owner, &room_id, &wanted).await;
    let browser = JsClient::lasting(&world.js, world.user("browser").await).await;
    let browser = StockClient::Js(browser);
    let folder = tempfile::tempdir().unwrap();
    let user = world.user("native").await;
    let native = StockClient::Rust(RustClient::lasting(&user, folder.path()).await);
    for client in [&browser, &native] {
        client.join(&room_id).await;
        client.see_name(&room_id, SEALED).await;
    }
    // A fresh device of each, once it is signed.
    for first in [&browser, &native] {
        let second = world.second_device(first).await;
        first.sign_device(&second.api().device_id).await;
        second.see_name(&room_id, SEALED).await;
    }
    at_rest(&owner, &room_id, &wanted).await;
    fill(&owner, &room_id).await;
    let (mut reloaded, mut cold, mut restarted) =
        (Shown::default(), Shown::default(), Shown::default());
    let StockClient::Js(page) = &browser else { unreachable!() };
    for round in 0..RELOADS * 2 {
        let is_cold = round % 2 == 1;
        page.reload(is_cold).await;
        let name = settled_name(&browser, &room_id).await;
        if is_cold { cold.note(name) } else { reloaded.note(name) }
    }
    let StockClient::Rust(mut native) = native else { unreachable!() };
    for _ in 0..RELOADS {
        native = native.restart(folder.path()).await;
        let client = StockClient::Rust(native);
        restarted.note(settled_name(&client, &room_id).await);
        let StockClient::Rust(back) = client else { unreachable!() };
        native = back;
    }
    // Whatever a reload showed, a running client of either is brought to the sealed name by the next seal.
    let said = owner.set_name(&room_id, "Renamed").await;
    world.sealed(&owner.api, &room_id, "m.room.name", &said).await;
    let native = StockClient::Rust(native);
    for client in [&browser, &native] {
        client.see_name(&room_id, "Renamed").await;
    }
    // And stays with it when the copy in plain is as policy wants it for the new one.
    let wanted = if policy == "mirror" { json!({ "name": "Renamed" }) } else { wanted };
    eventually(&format!("{wanted} stands in plain"), async || {
        let plain = owner.api.state_event(&room_id, "m.room.name", "").await?;
        (plain["content"] == wanted).then_some(())
    })
    .await;
    for client in [&browser, &native] {
        client.see_name(&room_id, "Renamed").await;
    }
    let old = owner.api.event(&room_id, &old).await;
    let redacted = old["content"] == json!({});
    eprintln!(
        "{policy}: of {RELOADS}, reloaded {reloaded:?}, cold {cold:?}, restarted {restarted:?}; \
         the old name is redacted: {redacted}"
    );
    (Seen { reloaded, cold, restarted }, redacted)
}

#[tokio::test]
async fn kept_as_it_was_the_copy_yields_to_the_sealed_name_while_clients_run() {
    let (seen, redacted) = look("keep", json!({ "name": OLD })).await;
    assert_eq!((seen.restarted.sealed, redacted), (RELOADS, false));
}

#[tokio::test]
async fn mirrored_clients_show_the_name_whichever_copy_they_take() {
    let (seen, redacted) = look("mirror", json!({ "name": SEALED })).await;
    assert!(seen.reloaded.others.iter().chain(&seen.cold.others).all(Option::is_none));
    assert_eq!((seen.restarted.sealed, redacted), (RELOADS, false));
}

#[tokio::test]
async fn a_stub_yields_to_the_sealed_name_while_clients_run() {
    let (seen, redacted) = look("stub", json!({ "name": STUB })).await;
    assert_eq!((seen.restarted.sealed, redacted), (RELOADS, false));
}

#[tokio::test]
async fn cleared_the_old_name_is_gone_and_clients_show_the_sealed_one() {
    let (seen, redacted) = look("clear", json!({ "name": "" })).await;
    assert_eq!((seen.restarted.sealed, redacted), (RELOADS, true));
}

/// The room's encryption says nothing of its state, so clients send names in plain. The copy in plain is a stub: whoever
/// shows the name has opened the sealed one.
#[tokio::test]
async fn where_clients_go_on_in_plain_those_of_both_sdks_show_what_is_sealed_all_the_same() {
    let overrides = json!({
        "state": { "seal": "encrypted_rooms", "plain_copy": "stub", "plain_stub": STUB },
    });
    let world = World::with(synapse::Options::default(), &overrides).await;
    let owner = world.js_user("owner").await;
    let spec = RoomSpec { encrypted_state: false, ..RoomSpec::public() };
    let room_id = world.room(&owner, &spec.with_keeper()).await;
    let mut readers = Vec::new();
    for (sdk, reader, name) in [(Sdk::Js, "browser", "First"), (Sdk::Rust, "native", "Second")] {
        let said = owner.set_name(&room_id, name).await;
        let said = owner.api.event(&room_id, &said).await;
        assert_eq!(said["type"], "m.room.name", "the owner's client goes on in plain");
        at_rest(&owner, &room_id, &json!({ "name": STUB })).await;
        let reader = world.stock_user(sdk, reader).await;
        reader.join(&room_id).await;
        readers.push(reader);
        // Those who were there before, too.
        for reader in &readers {
            reader.see_name(&room_id, name).await;
        }
    }
}

#[tokio::test]
async fn a_sealed_acl_is_put_back_where_synapse_reads_it() {
    let overrides = json!({ "state": { "exempt_sealed": "publish" } });
    let world = World::with(synapse::Options::default(), &overrides).await;
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    let acl = json!({ "allow": ["*"], "deny": ["evil.example"] });
    owner.set_state(&room_id, "m.room.server_acl", acl.clone()).await;
    eventually("the ACL stands in plain", async || {
        let event = owner.api.state_event(&room_id, "m.room.server_acl", "").await?;
        (event["content"] == acl && event["sender"] == KEEPER).then_some(())
    })
    .await;
    let reader = world.stock_user(Sdk::Rust, "reader").await;
    reader.join(&room_id).await;
    reader.see_state(&room_id, "m.room.server_acl", &acl).await;
}
