//! A homeserver with everything around it.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{
    api::{Api, encode},
    client::{Sdk, StockClient},
    eventually,
    js::{JsClient, JsHost},
    keeper::{KEEPER, Keeper},
    ports, process,
    room::{JoinRule, RoomSpec, public_space},
    rust::RustClient,
    synapse::{self, Synapse},
    unique,
};

/// One Synapse, one keeper and one Node process.
#[derive(Debug)]
pub struct World {
    // Dropped in this order: clients before the keeper, the keeper before the homeserver.
    pub js: Arc<JsHost>,
    pub keeper: Keeper,
    pub synapse: Synapse,
}

impl World {
    /// Starts everything, the keeper with its default configuration.
    pub async fn start() -> Self {
        Self::with(synapse::Options::default(), &Value::Null).await
    }

    /// Starts everything, with `overrides` laid over the keeper's configuration.
    pub async fn with(options: synapse::Options, overrides: &Value) -> Self {
        let mut world = Self::without_keeper(options, overrides).await;
        world.keeper.start().await;
        world
    }

    /// Starts the homeserver with the keeper's registration, and leaves the keeper itself stopped.
    pub async fn without_keeper(options: synapse::Options, overrides: &Value) -> Self {
        let mut world = Self::prepare(options, overrides);
        world.synapse.resume().await;
        world
    }

    /// Writes all configuration and starts only the Node process.
    pub fn prepare(mut options: synapse::Options, overrides: &Value) -> Self {
        let port = ports::free();
        let keeper = Keeper::prepare(&format!("http://127.0.0.1:{port}"), overrides);
        options.app_services.push(keeper.registration());
        let synapse = Synapse::prepare(&options, port);
        Self { js: JsHost::start(), keeper, synapse }
    }

    /// The world of all tests that neither stop anything nor need a configuration of their own.
    pub async fn shared() -> &'static Self {
        static WORLD: OnceCell<World> = OnceCell::const_new();
        WORLD
            .get_or_init(async || {
                let world = Self::start().await;
                // Statics are never dropped, so the log has to be shown where a test fails.
                let log = world.keeper.log();
                let before = std::panic::take_hook();
                std::panic::set_hook(Box::new(move |info| {
                    before(info);
                    eprintln!("--- the keeper's log ---\n{}", process::tail(&log));
                }));
                world
            })
            .await
    }

    /// A new user, registered.
    pub async fn user(&self, stem: &str) -> Api {
        Api::register(&self.synapse.url(), &unique(stem)).await
    }

    /// A new user on matrix-js-sdk with a cross-signed device.
    pub async fn js_user(&self, stem: &str) -> JsClient {
        JsClient::start(&self.js, self.user(stem).await, true).await
    }

    /// A new user on the given SDK with a cross-signed device.
    pub async fn stock_user(&self, sdk: Sdk, stem: &str) -> StockClient {
        self.stock_device(sdk, &self.user(stem).await, true).await
    }

    /// A client for a user on the given SDK; on matrix-sdk it is always a new device.
    pub async fn stock_device(&self, sdk: Sdk, user: &Api, cross_sign: bool) -> StockClient {
        match sdk {
            Sdk::Js => StockClient::Js(JsClient::start(&self.js, user.clone(), cross_sign).await),
            Sdk::Rust => StockClient::Rust(RustClient::start(user, cross_sign).await),
        }
    }

    /// Logs another device of the same user in, on the same SDK; nobody has signed it.
    pub async fn second_device(&self, first: &StockClient) -> StockClient {
        match first {
            StockClient::Js(client) => {
                let api = client.api.another_device().await;
                StockClient::Js(JsClient::start(&self.js, api, false).await)
            }
            StockClient::Rust(client) => {
                StockClient::Rust(RustClient::start(&client.api, false).await)
            }
        }
    }

    /// Makes a room and, where the spec invites the keeper, waits until it is in.
    pub async fn room(&self, owner: &JsClient, spec: &RoomSpec) -> String {
        let room_id = owner.create_room(spec.body(), true).await;
        if spec.invite.iter().any(|user| user == KEEPER) {
            eventually("the keeper accepts the invite", async || {
                owner.api.is_joined(&room_id, KEEPER).await.then_some(())
            })
            .await;
            // A client shares its keys with the members whom it knows of.
            owner.see_member(&room_id, KEEPER).await;
        }
        room_id
    }

    /// A space of `owner` that anybody may join, and the rule that admits its members to a room.
    pub async fn space(&self, owner: &JsClient) -> (String, JoinRule) {
        let space_id = owner.create_room(public_space(), false).await;
        (space_id.clone(), JoinRule::Restricted(space_id))
    }

    /// Makes a room a child of a space.
    pub async fn add_to_space(&self, owner: &JsClient, space_id: &str, room_id: &str) {
        let path = format!("v3/rooms/{}/state/m.space.child/{}", encode(space_id), encode(room_id));
        let child = json!({ "via": ["localhost"] });
        owner.api.call(Method::PUT, &path, Some(child)).await.unwrap();
    }

    /// Waits until the keeper's sealed copy is the room's current event for a tuple that a member
    /// set in `original`; the sealed event.
    pub async fn sealed(&self, owner: &Api, room_id: &str, kind: &str, original: &str) -> Value {
        let packed = format!("{kind}:");
        eventually(&format!("the keeper seals {kind}"), async || {
            let event = owner.state_event(room_id, "m.room.encrypted", &packed).await?;
            (event["sender"] == KEEPER && event["event_id"] != original).then_some(event)
        })
        .await
    }
}
