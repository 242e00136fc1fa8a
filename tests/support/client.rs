//! A stock client of either SDK, for scenarios that hold for both.

use std::time::Duration;

use serde_json::{Value, json};

use super::{PATIENCE, api::Api, js::JsClient, rust::RustClient};

/// The SDK on which a client runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    /// matrix-js-sdk.
    Js,
    /// matrix-sdk.
    Rust,
}

/// When a join was asked for, and when the homeserver agreed; milliseconds since the epoch.
#[derive(Debug, Clone, Copy)]
pub struct Join {
    pub sent_at: f64,
    pub answered_at: f64,
}

#[derive(Debug)]
pub enum StockClient {
    Js(JsClient),
    Rust(RustClient),
}

impl StockClient {
    pub fn api(&self) -> &Api {
        match self {
            Self::Js(client) => &client.api,
            Self::Rust(client) => &client.api,
        }
    }

    pub fn user_id(&self) -> &str {
        &self.api().user_id
    }

    pub async fn join(&self, room_id: &str) -> Join {
        match self {
            Self::Js(client) => {
                let joined = client.call("join", json!({ "room_id": room_id })).await;
                Join {
                    sent_at: joined["sent_at"].as_f64().unwrap(),
                    answered_at: joined["answered_at"].as_f64().unwrap(),
                }
            }
            Self::Rust(client) => {
                let (sent_at, answered_at) = client.join(room_id).await;
                Join { sent_at, answered_at }
            }
        }
    }

    /// Waits until the client knows by itself that it is in the room.
    pub async fn see_joined(&self, room_id: &str) {
        match self {
            Self::Js(client) => {
                let params = json!({ "room_id": room_id });
                client.wait("waitJoined", params, PATIENCE).await.unwrap();
            }
            Self::Rust(client) => {
                let seen = client.wait(PATIENCE, async |client| client.is_joined(room_id)).await;
                seen.expect("the client sees its own join");
            }
        }
    }

    /// Waits until the client knows that it is invited into the room.
    pub async fn see_invited(&self, room_id: &str) {
        match self {
            Self::Js(client) => {
                let params = json!({ "room_id": room_id, "membership": "invite" });
                client.wait("waitJoined", params, PATIENCE).await.unwrap();
            }
            Self::Rust(client) => {
                let seen = client.wait(PATIENCE, async |client| client.is_invited(room_id)).await;
                seen.expect("the client sees its invite");
            }
        }
    }

    /// The name that the client has for the room, and none where it makes one up from the members.
    pub async fn name(&self, room_id: &str) -> Option<String> {
        match self {
            Self::Js(client) => shown(client, room_id, "name").await,
            Self::Rust(client) => client.name(room_id),
        }
    }

    pub async fn topic(&self, room_id: &str) -> Option<String> {
        match self {
            Self::Js(client) => shown(client, room_id, "topic").await,
            Self::Rust(client) => client.topic(room_id),
        }
    }

    /// Waits until the client shows the name; the time at which it did.
    pub async fn see_name(&self, room_id: &str, name: &str) -> f64 {
        self.name_within(room_id, name, PATIENCE).await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub async fn name_within(
        &self,
        room_id: &str,
        name: &str,
        limit: Duration,
    ) -> Result<f64, String> {
        match self {
            Self::Js(client) => {
                let params = json!({ "room_id": room_id, "name": name });
                client.wait("waitName", params, limit).await
            }
            Self::Rust(client) => {
                let named =
                    async |client: &RustClient| client.name(room_id).as_deref() == Some(name);
                client.wait(limit, named).await.ok_or_else(|| {
                    format!(
                        "name {name:?} on {}; shown: {:?}",
                        self.user_id(),
                        client.name(room_id)
                    )
                })
            }
        }
    }

    pub async fn see_topic(&self, room_id: &str, topic: &str) -> f64 {
        match self {
            Self::Js(client) => {
                let params = json!({ "room_id": room_id, "topic": topic });
                client.wait("waitTopic", params, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"))
            }
            Self::Rust(client) => {
                let with_topic =
                    async |client: &RustClient| client.topic(room_id).as_deref() == Some(topic);
                client.wait(PATIENCE, with_topic).await.unwrap_or_else(|| {
                    panic!("topic {topic:?}; shown: {:?}", client.topic(room_id))
                })
            }
        }
    }

    /// Waits until the client holds this content for a piece of state.
    pub async fn see_state(&self, room_id: &str, kind: &str, content: &Value) -> f64 {
        self.see_content(room_id, (kind, ""), content).await
    }

    /// The same for a state key.
    pub async fn see_content(&self, room_id: &str, tuple: (&str, &str), content: &Value) -> f64 {
        let (kind, key) = tuple;
        match self {
            Self::Js(client) => {
                let params = json!({
                    "room_id": room_id, "type": kind, "state_key": key, "content": content,
                });
                client.wait("waitState", params, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"))
            }
            Self::Rust(client) => {
                let holds = async |client: &RustClient| {
                    client.state_content(room_id, kind, key).await.as_ref() == Some(content)
                };
                if let Some(at) = client.wait(PATIENCE, holds).await {
                    return at;
                }
                let held = client.state_content(room_id, kind, key).await;
                panic!("{kind} = {content} on {}; held: {held:?}", self.user_id())
            }
        }
    }

    /// The content of a piece of state as the client holds it.
    pub async fn state_content(&self, room_id: &str, kind: &str) -> Option<Value> {
        self.content_of(room_id, (kind, "")).await
    }

    /// The same for a state key.
    pub async fn content_of(&self, room_id: &str, (kind, key): (&str, &str)) -> Option<Value> {
        match self {
            Self::Js(client) => {
                let params = json!({ "room_id": room_id, "type": kind, "state_key": key });
                let mut answer = client.call("stateContent", params).await;
                Some(answer["content"].take()).filter(|content| !content.is_null())
            }
            Self::Rust(client) => client.state_content(room_id, kind, key).await,
        }
    }

    /// Sends state the way the SDK does, and returns the event's id.
    pub async fn set_state(&self, room_id: &str, tuple: (&str, &str), content: Value) -> String {
        match self {
            Self::Js(client) => {
                let params = json!({
                    "room_id": room_id, "type": tuple.0, "state_key": tuple.1, "content": content,
                });
                let sent = client.call("sendState", params).await;
                sent["event_id"].as_str().unwrap().to_owned()
            }
            Self::Rust(client) => client.set_state(room_id, tuple, content).await,
        }
    }

    /// Gives a user's devices no key from now on.
    pub async fn shut_out(&self, user_id: &str) {
        match self {
            Self::Js(client) => {
                client.call("shutOut", json!({ "user_id": user_id })).await;
            }
            Self::Rust(client) => client.shut_out(user_id).await,
        }
    }

    /// The highest power that a member has by what the client goes by.
    pub async fn highest_power(&self, room_id: &str) -> i64 {
        match self {
            Self::Js(client) => {
                let answer = client.call("highestPower", json!({ "room_id": room_id })).await;
                answer["level"].as_i64().unwrap()
            }
            Self::Rust(client) => client.highest_power(room_id),
        }
    }

    /// Waits until the highest power that a member has is this one.
    pub async fn see_highest_power(&self, room_id: &str, level: i64) {
        match self {
            Self::Js(client) => {
                let params = json!({ "room_id": room_id, "level": level });
                client.wait("waitHighestPower", params, PATIENCE).await.unwrap();
            }
            Self::Rust(client) => {
                let is = async |client: &RustClient| client.highest_power(room_id) == level;
                let seen = client.wait(PATIENCE, is).await;
                seen.unwrap_or_else(|| {
                    panic!("the highest power {level}; held: {}", client.highest_power(room_id))
                });
            }
        }
    }

    /// Waits until the client has decrypted a message.
    pub async fn see_message(&self, room_id: &str, body: &str) {
        assert!(self.message_within(room_id, body, PATIENCE).await, "no message {body:?}");
    }

    /// Whether the client decrypts a message within this time.
    pub async fn message_within(&self, room_id: &str, body: &str, limit: Duration) -> bool {
        match self {
            Self::Js(client) => {
                let params = json!({ "room_id": room_id, "body": body });
                client.wait("waitMessage", params, limit).await.is_ok()
            }
            Self::Rust(client) => {
                let has = async |client: &RustClient| client.has_message(room_id, body);
                client.wait(limit, has).await.is_some()
            }
        }
    }

    /// Whether the client can decrypt an event that is handed to it as the server keeps it.
    pub async fn can_decrypt(&self, room_id: &str, event: &Value) -> bool {
        match self {
            Self::Js(client) => {
                let answer = client.call("decrypt", json!({ "event": event })).await;
                answer["failure"].is_null()
            }
            Self::Rust(client) => client.decrypt(room_id, event).await.is_some(),
        }
    }

    /// Signs another device of the same user; the time at which the homeserver had the signature.
    pub async fn sign_device(&self, device_id: &str) -> f64 {
        match self {
            Self::Js(client) => client.sign_device(device_id).await,
            Self::Rust(client) => client.sign_device(device_id).await,
        }
    }
}

async fn shown(client: &JsClient, room_id: &str, field: &str) -> Option<String> {
    let shown = client.call("shown", json!({ "room_id": room_id })).await;
    shown[field].as_str().map(str::to_owned)
}
