//! What a homeserver cannot check under encryption, the keeper holds: what was not allowed goes back, and stock
//! clients on both SDKs show what was there before. Each offence is shown without the keeper as well, where both
//! clients take it for true: or it would prove nothing.

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    RunDir,
    api::{self, encode},
    client::{Sdk, StockClient},
    eventually,
    js::JsClient,
    keeper::KEEPER,
    room::RoomSpec,
    synapse,
    world::World,
};

/// A room in which a name needs 100: Alice's, with Bob, who has 50, and Carol, who has nothing and looks on.
struct Company {
    alice: JsClient,
    bob: StockClient,
    readers: [StockClient; 2],
    room_id: String,
    with_keeper: bool,
}

impl Company {
    async fn gather(world: &World, bob: Sdk, with_keeper: bool) -> Self {
        let alice = world.js_user("alice").await;
        let bob = world.stock_user(bob, "bob").await;
        let mut spec = RoomSpec::public();
        spec.power.push((bob.user_id().to_owned(), 50));
        if with_keeper {
            spec = spec.with_keeper();
        }
        let room_id = world.room(&alice, &spec).await;
        alice.api.need_power(&room_id, "m.room.name", 100).await;
        let carol = world.stock_user(Sdk::Rust, "carol").await;
        for member in [&bob, &carol] {
            member.join(&room_id).await;
            alice.see_member(&room_id, member.user_id()).await;
        }
        let readers = [StockClient::Js(alice.clone()), carol];
        let company = Self { alice, bob, readers, room_id, with_keeper };
        let name = company.alice.set_name(&company.room_id, "Alice's").await;
        if with_keeper {
            world.sealed(&company.alice.api, &company.room_id, "m.room.name", &name).await;
        }
        company.everybody_sees_name("Alice's").await;
        company
    }

    async fn everybody_sees_name(&self, name: &str) {
        for reader in self.readers.iter().chain([&self.bob]) {
            reader.see_name(&self.room_id, name).await;
        }
    }

    /// Waits until the keeper has said something over an event, and prints how long it took by the homeserver's clock.
    async fn goes_back(&self, packed: &str, offence: &str) {
        let api = &self.alice.api;
        let back = eventually(&format!("{packed} goes back"), async || {
            let event = api.state_event(&self.room_id, "m.room.encrypted", packed).await?;
            (event["sender"] == KEEPER && event["event_id"] != offence).then_some(event)
        })
        .await;
        let offence = api.event(&self.room_id, offence).await;
        took(packed, &offence, &back);
    }

    /// What comes later in the room was seen by both: whatever was before it was seen, too.
    async fn everybody_has_seen_all(&self) {
        self.alice.set_topic(&self.room_id, "and after that").await;
        for reader in &self.readers {
            reader.see_topic(&self.room_id, "and after that").await;
        }
    }

    /// A rename that its author has no power for, of the event with this id.
    async fn a_rename_is_over(&self, offence: &str) {
        if !self.with_keeper {
            return self.everybody_sees_name("Bob's").await;
        }
        self.goes_back("m.room.name:", offence).await;
        self.everybody_has_seen_all().await;
        for reader in &self.readers {
            assert_eq!(reader.name(&self.room_id).await.as_deref(), Some("Alice's"));
        }
    }
}

/// Prints how long it took from one event to another, by the homeserver's clock.
fn took(what: &str, from: &Value, to: &Value) {
    let at = |event: &Value| event["origin_server_ts"].as_i64().unwrap();
    println!("{what}: back after {} ms", at(to) - at(from));
}

async fn a_rename_without_the_power_for_it_goes_back(sdk: Sdk, with_keeper: bool) {
    let company = Company::gather(World::shared().await, sdk, with_keeper).await;
    let name = json!({ "name": "Bob's" });
    let offence = company.bob.set_state(&company.room_id, ("m.room.name", ""), name).await;
    company.a_rename_is_over(&offence).await;
}

async fn a_rename_whose_key_the_keeper_is_not_given_goes_back(sdk: Sdk, with_keeper: bool) {
    let world = World::shared().await;
    let company = Company::gather(world, sdk, with_keeper).await;
    let (bob, room_id) = (&company.bob, &company.room_id);
    if with_keeper {
        bob.shut_out(KEEPER).await;
        // He may set the topic, and everybody reads it but the keeper.
        let topic = json!({ "topic": "behind its back" });
        let unread = bob.set_state(room_id, ("m.room.topic", ""), topic).await;
        for reader in &company.readers {
            reader.see_topic(room_id, "behind its back").await;
        }
        eventually("the keeper has no key for it", async || {
            let log = std::fs::read_to_string(world.keeper.log()).unwrap();
            let tells = |line: &str| line.contains(&unread) && line.contains("key is not here yet");
            log.lines().any(tells).then_some(())
        })
        .await;
    }
    let offence = bob.set_state(room_id, ("m.room.name", ""), json!({ "name": "Bob's" })).await;
    company.a_rename_is_over(&offence).await;
}

async fn what_is_put_under_another_users_key_goes_back(sdk: Sdk, with_keeper: bool) {
    let company = Company::gather(World::shared().await, sdk, with_keeper).await;
    let (alice, room_id) = (&company.alice, &company.room_id);
    let note = ("com.example.note", alice.api.user_id.as_str());
    let (hers, his) = (json!({ "note": "mine" }), json!({ "note": "yours" }));
    company.readers[0].set_state(room_id, note, hers.clone()).await;
    for reader in company.readers.iter().chain([&company.bob]) {
        reader.see_content(room_id, note, &hers).await;
    }
    let offence = company.bob.set_state(room_id, note, his.clone()).await;
    if with_keeper {
        company.goes_back(&format!("{}:{}", note.0, note.1), &offence).await;
        company.everybody_has_seen_all().await;
    }
    for reader in &company.readers {
        reader.see_content(room_id, note, if with_keeper { &hers } else { &his }).await;
    }
}

/// No SDK would send these: Bob's client encrypts them all the same, and shares the key with everybody.
async fn forged_power_levels_are_undone(with_keeper: bool) {
    let world = World::shared().await;
    let company = Company::gather(world, Sdk::Js, with_keeper).await;
    let room_id = &company.room_id;
    let StockClient::Js(bob) = &company.bob else { unreachable!() };
    let truly = company.readers[1].highest_power(room_id).await;
    let mut levels = bob.api.state_event(room_id, "m.room.power_levels", "").await.unwrap();
    let mut forged = levels["content"].take();
    forged["users"][&bob.api.user_id] = json!(200);
    let (packed, content) = bob.encrypt_state(room_id, ("m.room.power_levels", ""), forged).await;
    let offence = bob.api.set_state(room_id, "m.room.encrypted", &packed, content).await;
    if !with_keeper {
        for reader in &company.readers {
            reader.see_highest_power(room_id, 200).await;
        }
        return;
    }
    let api = &company.alice.api;
    let back = eventually("the true levels are said again", async || {
        let event = api.state_event(room_id, "m.room.power_levels", "").await?;
        (event["sender"] == KEEPER).then_some(event)
    })
    .await;
    let offence = eventually("the forged levels are redacted", async || {
        let event = api.event(room_id, &offence).await;
        event["unsigned"]["redacted_because"].is_object().then_some(event)
    })
    .await;
    took(&packed, &offence, &back);
    company.everybody_has_seen_all().await;
    // And who comes later, or looks anew.
    let later =
        [world.stock_user(Sdk::Js, "later").await, world.stock_user(Sdk::Rust, "later").await];
    for reader in &later {
        reader.join(room_id).await;
        reader.see_topic(room_id, "and after that").await;
    }
    for reader in company.readers.iter().chain(&later) {
        assert_eq!(
            reader.state_content(room_id, "m.room.power_levels").await.unwrap()["users"]
                [bob.api.user_id.as_str()],
            50
        );
    }
    // The first of them knows Bob, who has 50, and not the keeper, whom nobody has to show.
    let shown = company.readers[0].highest_power(room_id).await;
    assert!(shown <= truly, "it shows {shown}");
    assert_eq!(company.readers[1].highest_power(room_id).await, truly);
}

#[tokio::test]
async fn forged_power_levels_are_undone_by_the_keeper() {
    forged_power_levels_are_undone(true).await;
}

#[tokio::test]
async fn forged_power_levels_are_taken_for_true_without_the_keeper() {
    forged_power_levels_are_undone(false).await;
}

/// Types that stand in plain, for the homeserver to read, and that Bob has no power for.
async fn sealed_types_that_stand_in_plain_are_undone(sdk: Sdk, with_keeper: bool) {
    let company = Company::gather(World::shared().await, sdk, with_keeper).await;
    let (api, room_id) = (&company.alice.api, &company.room_id);
    let truth = json!({ "allow": ["*"], "deny": ["evil.example"] });
    api.set_state(room_id, "m.room.server_acl", "", truth.clone()).await;
    for reader in &company.readers {
        reader.see_state(room_id, "m.room.server_acl", &truth).await;
    }
    let forged = [
        ("m.room.server_acl", json!({ "allow": ["*"], "deny": [] })),
        ("m.room.tombstone", json!({ "body": "Follow me", "replacement_room": "!bobs:localhost" })),
    ];
    for (kind, content) in forged {
        let offence = company.bob.set_state(room_id, (kind, ""), content.clone()).await;
        if !with_keeper {
            // Of the two SDKs matrix-js-sdk goes by it.
            company.readers[0].see_state(room_id, kind, &content).await;
            continue;
        }
        eventually(&format!("the forged {kind} is redacted"), async || {
            let event = api.event(room_id, &offence).await;
            event["unsigned"]["redacted_because"].is_object().then_some(())
        })
        .await;
    }
    if !with_keeper {
        return;
    }
    eventually("the true ACL is said again", async || {
        let event = api.state_event(room_id, "m.room.server_acl", "").await?;
        (event["sender"] == KEEPER && event["content"]["deny"] == truth["deny"]).then_some(())
    })
    .await;
    company.everybody_has_seen_all().await;
    for reader in &company.readers {
        let acl = reader.state_content(room_id, "m.room.server_acl").await.unwrap();
        assert_eq!((&acl["allow"], &acl["deny"]), (&truth["allow"], &truth["deny"]));
        let tombstone = reader.state_content(room_id, "m.room.tombstone").await;
        let leads = tombstone.and_then(|content| content.get("replacement_room").cloned());
        assert_eq!(leads, None, "it shows no way to Bob's room");
    }
}

#[tokio::test]
async fn a_sealed_acl_and_a_tombstone_of_a_js_sdk_member_are_undone_by_the_keeper() {
    sealed_types_that_stand_in_plain_are_undone(Sdk::Js, true).await;
}

#[tokio::test]
async fn a_sealed_acl_and_a_tombstone_of_a_matrix_sdk_member_are_undone_by_the_keeper() {
    sealed_types_that_stand_in_plain_are_undone(Sdk::Rust, true).await;
}

#[tokio::test]
async fn a_sealed_acl_and_a_tombstone_are_taken_for_true_by_js_sdk_without_the_keeper() {
    sealed_types_that_stand_in_plain_are_undone(Sdk::Js, false).await;
}

/// A client without encrypted state gives a room its first name.
#[tokio::test]
async fn a_first_name_in_plain_is_sealed_and_the_homeserver_keeps_no_copy() {
    let overrides = json!({ "enforce": { "plain": "redact" } });
    let mut world = World::with(synapse::Options::default(), &overrides).await;
    let alice = world.js_user("alice").await;
    let room_id = world.room(&alice, &RoomSpec::public().with_keeper()).await;
    let readers =
        [world.stock_user(Sdk::Js, "bob").await, world.stock_user(Sdk::Rust, "carol").await];
    for reader in &readers {
        reader.join(&room_id).await;
        alice.see_member(&room_id, reader.user_id()).await;
    }
    let api = &alice.api;
    let said = api.set_state(&room_id, "m.room.name", "", json!({ "name": "In plain" })).await;
    let gone = eventually("the homeserver has no name", async || {
        let event = api.event(&room_id, &said).await;
        (event["content"] == json!({})).then_some(event)
    })
    .await;
    assert_eq!(gone["unsigned"]["redacted_because"]["sender"], KEEPER);
    let sealed = api.state_event(&room_id, "m.room.encrypted", "m.room.name:").await.unwrap();
    assert_eq!(sealed["sender"], KEEPER);
    for reader in &readers {
        reader.see_name(&room_id, "In plain").await;
    }
    let labels = [("rule", "plain"), ("action", "redact")];
    let metrics = world.keeper.metrics().await;
    assert!(metrics.sum("statekeeper_policy_violations_total", &labels) >= 1.0);
    // It stays so: for those who were there, for whoever comes, and when the keeper has begun anew.
    world.keeper.restart().await;
    alice.set_topic(&room_id, "and after that").await;
    for reader in &readers {
        reader.see_topic(&room_id, "and after that").await;
        assert_eq!(reader.name(&room_id).await.as_deref(), Some("In plain"));
    }
    for sdk in [Sdk::Js, Sdk::Rust] {
        let joiner = world.stock_user(sdk, "joiner").await;
        joiner.join(&room_id).await;
        joiner.see_name(&room_id, "In plain").await;
    }
}

/// Today Bob may rename the room. When he did he might not: the homeserver shows which levels stood then.
#[tokio::test]
async fn what_was_not_allowed_before_the_keeper_came_is_told_of() {
    let world = World::shared().await;
    let company = Company::gather(world, Sdk::Js, false).await;
    let (api, room_id) = (&company.alice.api, &company.room_id);
    let name = json!({ "name": "Bob's" });
    let offence = company.bob.set_state(room_id, ("m.room.name", ""), name).await;
    api.set_power(room_id, company.bob.user_id(), 100).await;
    api.set_power(room_id, KEEPER, 100).await;
    api.invite(room_id, KEEPER).await;
    let row = eventually("the ledger tells of it", async || {
        let arguments = ["ledger", "--config", "config.yaml", "--json", "--room", room_id];
        let rows = world.keeper.run(&arguments);
        let rows = rows.lines().filter_map(|row| serde_json::from_str::<Value>(row).ok());
        rows.into_iter().find(|row| row["event_id"] == offence.as_str())
    })
    .await;
    assert_eq!((&row["outcome"], &row["reason"]), (&json!("violation:report"), &json!("power")));
}

/// The registration of an application service that may speak for everybody, and say when.
fn time_traveller(dir: &RunDir) -> std::path::PathBuf {
    let path = dir.path().join("time-traveller.yaml");
    let registration = json!({
        "id": "time-traveller",
        "url": null,
        "as_token": "a-token-of-the-time-traveller",
        "hs_token": "another-token-of-his",
        "sender_localpart": "time-traveller",
        "rate_limited": false,
        "namespaces": { "users": [{ "exclusive": false, "regex": "@.*" }] },
    });
    std::fs::write(&path, registration.to_string()).unwrap();
    path
}

#[tokio::test]
async fn an_edit_from_the_year_4025_does_not_freeze_the_name() {
    let dir = RunDir::new("time-traveller");
    let options =
        synapse::Options { app_services: vec![time_traveller(&dir)], ..Default::default() };
    let world = World::with(options, &Value::Null).await;
    let company = Company::gather(&world, Sdk::Js, true).await;
    let (alice, room_id) = (&company.alice, &company.room_id);
    let future = 64_849_593_600_000_i64;
    let name = json!({ "name": "From the year 4025" });
    let (packed, content) = alice.encrypt_state(room_id, ("m.room.name", ""), name).await;
    let url = format!(
        "{}/_matrix/client/v3/rooms/{}/state/m.room.encrypted/{}?user_id={}&ts={future}",
        alice.api.base,
        encode(room_id),
        encode(&packed),
        encode(&alice.api.user_id)
    );
    let token = "a-token-of-the-time-traveller";
    let sent = api::send(Method::PUT, &url, Some(token), Some(&content)).await.unwrap();
    let sent = alice.api.event(room_id, sent["event_id"].as_str().unwrap()).await;
    assert_eq!(sent["origin_server_ts"], future, "the homeserver takes it");
    // It is an allowed value, and sealed anew at a sane time.
    let id = sent["event_id"].as_str().unwrap();
    let sealed = world.sealed(&alice.api, room_id, "m.room.name", id).await;
    let now = crate::support::now_ms();
    assert!(sealed["origin_server_ts"].as_f64().unwrap() < now + 60_000.0);
    company.everybody_sees_name("From the year 4025").await;
    eventually("it is counted", async || {
        let metrics = world.keeper.metrics().await;
        let labels = [("rule", "timestamp"), ("action", "report")];
        (metrics.sum("statekeeper_policy_violations_total", &labels) == 1.0).then_some(())
    })
    .await;
    // And the next one takes its place.
    let next = alice.set_name(room_id, "From today").await;
    world.sealed(&alice.api, room_id, "m.room.name", &next).await;
    company.everybody_has_seen_all().await;
    for reader in &company.readers {
        assert_eq!(reader.name(room_id).await.as_deref(), Some("From today"));
    }
}

macro_rules! with_and_without_the_keeper {
    ($($test:ident),* $(,)?) => {
        mod by_a_member_on_matrix_js_sdk {
            use super::Sdk;
            $(#[tokio::test] async fn $test() { super::$test(Sdk::Js, true).await; })*
        }
        mod by_a_member_on_matrix_sdk {
            use super::Sdk;
            $(#[tokio::test] async fn $test() { super::$test(Sdk::Rust, true).await; })*
        }
        /// The control: both SDKs show what was not allowed.
        mod not_without_the_keeper {
            use super::Sdk;
            $(#[tokio::test] async fn $test() {
                super::$test(Sdk::Js, false).await;
                super::$test(Sdk::Rust, false).await;
            })*
        }
    };
}

with_and_without_the_keeper! {
    a_rename_without_the_power_for_it_goes_back,
    a_rename_whose_key_the_keeper_is_not_given_goes_back,
    what_is_put_under_another_users_key_goes_back,
}
