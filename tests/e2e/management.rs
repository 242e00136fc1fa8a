//! The management room, with a real homeserver and stock clients: who is obeyed, and who is not.

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    api::encode, client::StockClient, eventually, js::JsClient, room::RoomSpec, synapse, unique,
    world::World,
};

/// An administrator in a management room of the keeper's, and somebody who is held in a room of his.
pub struct Office {
    pub world: World,
    pub admin: JsClient,
    pub room_id: String,
}

impl Office {
    /// With a room that is end-to-end encrypted or not.
    pub async fn open(encrypted: bool) -> Self {
        let overrides = json!({ "sharing": { "members": "approved" } });
        let mut world = World::with(synapse::Options::default(), &overrides).await;
        let admin = world.js_user("ops").await;
        let room_id = if encrypted {
            let spec = RoomSpec { encrypted_state: false, ..RoomSpec::default() };
            world.room(&admin, &spec.with_keeper()).await
        } else {
            let keeper = crate::support::keeper::KEEPER;
            let body = json!({ "preset": "private_chat", "invite": [keeper] });
            let room_id = admin.create_room(body, false).await;
            eventually("the keeper accepts the invite", async || {
                admin.api.is_joined(&room_id, keeper).await.then_some(())
            })
            .await;
            room_id
        };
        world.keeper.configure(&json!({
            "admin": { "management_room": room_id },
            "access": { "admins": [admin.api.user_id] },
        }));
        world.keeper.restart().await;
        Self { world, admin, room_id }
    }

    pub async fn says(&self, command: &str) -> String {
        self.admin.send_message(&self.room_id, command).await
    }

    /// Says it in plain, as it has to be where the room is not encrypted.
    async fn says_in_plain(&self, command: &str) -> String {
        let content = json!({ "msgtype": "m.text", "body": command });
        self.sends("m.room.message", content).await
    }

    async fn sends(&self, kind: &str, content: Value) -> String {
        let path = format!("v3/rooms/{}/send/{kind}/{}", encode(&self.room_id), unique("txn"));
        let sent = self.admin.api.call(Method::PUT, &path, Some(content)).await.unwrap();
        sent["event_id"].as_str().unwrap().to_owned()
    }

    /// Waits until the administrator's client shows this answer.
    async fn hears(&self, answer: &str) {
        StockClient::Js(self.admin.clone()).see_message(&self.room_id, answer).await;
    }

    /// The event as the homeserver keeps it.
    async fn event(&self, event_id: &str) -> Value {
        let path = format!("v3/rooms/{}/event/{}", encode(&self.room_id), encode(event_id));
        self.admin.api.call(Method::GET, &path, None).await.unwrap()
    }

    /// Waits until the keeper has reacted to a message, with a tick or a cross.
    pub async fn reacted(&self, event_id: &str, key: &str) {
        let path = format!(
            "v1/rooms/{}/relations/{}/m.annotation",
            encode(&self.room_id),
            encode(event_id)
        );
        eventually(&format!("the keeper reacts with {key}"), async || {
            let page = self.admin.api.call(Method::GET, &path, None).await.ok()?;
            let reactions = page["chunk"].as_array()?.clone();
            let is_such = |reaction: &Value| reaction["content"]["m.relates_to"]["key"] == key;
            reactions.iter().any(is_such).then_some(())
        })
        .await;
    }

    /// What the ledger has of commands: verb, outcome and who gave it.
    fn commands(&self) -> Vec<(String, String, String)> {
        let args = ["ledger", "--commands", "--config", "config.yaml", "--json"];
        let lines = self.world.keeper.run(&args);
        let rows = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
        rows.map(|row| (text(&row, "verb"), text(&row, "outcome"), text(&row, "actor"))).collect()
    }
}

#[tokio::test]
async fn an_administrator_commands_the_keeper_in_an_encrypted_room_and_a_replay_is_refused() {
    let office = Office::open(true).await;
    office.says("!keeper holds").await;
    office.hears("nobody is held").await;

    let owner = office.world.js_user("owner").await;
    let kept = office.world.room(&owner, &RoomSpec::public().with_keeper()).await;
    owner.set_name(&kept, "Behind the door").await;
    let joiner = office.world.js_user("joiner").await;
    let joiner = StockClient::Js(joiner);
    joiner.join(&kept).await;
    let user = joiner.user_id().to_owned();
    eventually("the joiner is held", async || {
        let held = office.world.keeper.run(&["holds", "--config", "config.yaml"]);
        held.contains(&user).then_some(())
    })
    .await;
    office.says(&format!("!keeper approve {kept} {}", owner.api.user_id)).await;
    let approval = office.says(&format!("!keeper approve {kept} {user}")).await;
    office.hears(&format!("approved in {kept}, until they leave:\n- {user}")).await;
    office.reacted(&approval, "✅").await;
    joiner.see_name(&kept, "Behind the door").await;

    // The homeserver has the ciphertext, and may send it again under whatever event id.
    office.world.keeper.run(&["deny", "--config", "config.yaml", &kept, &user]);
    let event = office.event(&approval).await;
    assert_eq!(event["type"], "m.room.encrypted");
    let replay = office.sends("m.room.encrypted", event["content"].clone()).await;
    office.reacted(&replay, "❌").await;
    let by_admin = |verb: &str, outcome: &str| {
        (verb.to_owned(), outcome.to_owned(), office.admin.api.user_id.clone())
    };
    let commands = office.commands();
    assert!(commands.contains(&by_admin("message", "refused:replayed")), "{commands:?}");
    let approvals = commands.iter().filter(|(verb, ..)| verb == "approve").count();
    assert_eq!(approvals, 2, "{commands:?}");
    assert!(commands.contains(&by_admin("holds", "done")), "{commands:?}");

    // Answers leave encrypted: the homeserver reads none of them.
    let path = format!("v3/rooms/{}/messages?dir=b&limit=100", encode(&office.room_id));
    let page = office.admin.api.call(Method::GET, &path, None).await.unwrap();
    let of_keeper: Vec<&Value> = page["chunk"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["sender"] == crate::support::keeper::KEEPER)
        .collect();
    assert!(of_keeper.iter().any(|event| event["type"] == "m.room.encrypted"));
    assert!(of_keeper.iter().all(|event| event["type"] != "m.room.message"), "{of_keeper:#?}");
}

#[tokio::test]
async fn neither_an_unsigned_device_nor_somebody_else_nor_plain_text_is_obeyed_in_an_encrypted_room()
 {
    let office = Office::open(true).await;
    office.says("!keeper holds").await;
    office.hears("nobody is held").await;
    let plain = office.says_in_plain("!keeper block @mallory:localhost").await;
    office.reacted(&plain, "❌").await;

    let unsigned = office.admin.api.another_device().await;
    let unsigned = JsClient::start(&office.world.js, unsigned, false).await;
    unsigned.see_member(&office.room_id, crate::support::keeper::KEEPER).await;
    let said = unsigned.send_message(&office.room_id, "!keeper block @mallory:localhost").await;
    office.reacted(&said, "❌").await;

    let other = office.world.js_user("other").await;
    office.admin.api.invite(&office.room_id, &other.api.user_id).await;
    StockClient::Js(other.clone()).join(&office.room_id).await;
    other.see_member(&office.room_id, crate::support::keeper::KEEPER).await;
    other.send_message(&office.room_id, "!keeper block @mallory:localhost").await;
    // Whoever is heard after him shows that he was passed over.
    office.says("!keeper noop off").await;
    office.hears("noop is off: what the configuration says counts").await;
    let commands = office.commands();
    let outcomes: Vec<&str> = commands.iter().map(|(_, outcome, _)| outcome.as_str()).collect();
    assert!(outcomes.contains(&"refused:not_encrypted"), "{commands:?}");
    assert!(outcomes.contains(&"refused:not_cross_signed"), "{commands:?}");
    assert!(commands.iter().all(|(verb, ..)| verb != "block"), "{commands:?}");
    assert!(commands.iter().all(|(.., actor)| *actor != other.api.user_id), "{commands:?}");
}

#[tokio::test]
async fn in_a_room_that_is_not_encrypted_only_what_reads_is_answered() {
    let office = Office::open(false).await;
    office.says_in_plain("!keeper holds").await;
    office.hears("nobody is held").await;
    let said = office.says_in_plain("!keeper block @mallory:localhost").await;
    office.reacted(&said, "❌").await;
    let commands = office.commands();
    let block = commands.iter().find(|(verb, ..)| verb == "block").unwrap();
    assert_eq!(block.1, "refused:not_encrypted", "{commands:?}");
}
