//! matrix-js-sdk, driven over lines of JSON. See `tests/clients/js/client.mjs`.

use std::{process::Command, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    api::Api,
    line_host::{Answer, LineHost},
    repository, unique,
};

/// One Node process, home to any number of clients.
#[derive(Debug)]
pub struct JsHost(LineHost);

impl JsHost {
    pub fn start() -> Arc<Self> {
        let script = repository().join("tests/clients/js/client.mjs");
        let installed = script.with_file_name("node_modules").join("matrix-js-sdk");
        assert!(installed.exists(), "matrix-js-sdk is not installed: run tests/setup.sh");
        Arc::new(Self(LineHost::start("js", Command::new("node").arg(script))))
    }
}

/// One device on matrix-js-sdk.
#[derive(Debug, Clone)]
pub struct JsClient {
    host: Arc<JsHost>,
    handle: String,
    pub api: Api,
}

impl JsClient {
    /// Starts a client on the device of `api`. With `cross_sign` the user gets a cross-signing
    /// identity, and the device is signed by it.
    pub async fn start(host: &Arc<JsHost>, api: Api, cross_sign: bool) -> Self {
        Self::login(host, api, cross_sign, false).await
    }

    /// Starts a client that can be reloaded: it keeps its keys and what it has saved of the rooms.
    pub async fn lasting(host: &Arc<JsHost>, api: Api) -> Self {
        Self::login(host, api, true, true).await
    }

    async fn login(host: &Arc<JsHost>, api: Api, cross_sign: bool, lasting: bool) -> Self {
        let handle = unique("client");
        let client = Self { host: host.clone(), handle, api };
        let params = json!({
            "base_url": client.api.base,
            "user_id": client.api.user_id,
            "device_id": client.api.device_id,
            "access_token": client.api.token,
            "password": client.api.password,
            "cross_sign": cross_sign,
            "lasting": lasting,
        });
        client.call("login", params).await;
        client
    }

    /// Calls a method of the client and fails when it fails.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        self.attempt(method, params).await.unwrap_or_else(|error| {
            panic!("{} on {}: {error}", self.api.user_id, self.api.device_id)
        })
    }

    pub async fn attempt(&self, method: &str, params: Value) -> Answer {
        self.host.0.call(&self.handle, method, params).await
    }

    pub async fn create_room(&self, body: Value, encrypted: bool) -> String {
        let room = self.call("createRoom", json!({ "body": body, "encrypted": encrypted })).await;
        room["room_id"].as_str().unwrap().to_owned()
    }

    /// Sends state the way the SDK does, and returns the event's id.
    pub async fn set_state(&self, room_id: &str, kind: &str, content: Value) -> String {
        let params = json!({ "room_id": room_id, "type": kind, "content": content });
        let sent = self.call("sendState", params).await;
        sent["event_id"].as_str().unwrap().to_owned()
    }

    pub async fn set_name(&self, room_id: &str, name: &str) -> String {
        self.set_state(room_id, "m.room.name", json!({ "name": name })).await
    }

    pub async fn set_topic(&self, room_id: &str, topic: &str) -> String {
        self.set_state(room_id, "m.room.topic", json!({ "topic": topic })).await
    }

    /// Encrypts state of whatever type; its packed state key and its content, not sent.
    pub async fn encrypt_state(
        &self,
        room_id: &str,
        (kind, key): (&str, &str),
        content: Value,
    ) -> (String, Value) {
        let params =
            json!({ "room_id": room_id, "type": kind, "state_key": key, "content": content });
        let mut made = self.call("encryptState", params).await;
        (made["state_key"].as_str().unwrap().to_owned(), made["content"].take())
    }

    pub async fn send_message(&self, room_id: &str, body: &str) -> String {
        let sent = self.call("sendMessage", json!({ "room_id": room_id, "body": body })).await;
        sent["event_id"].as_str().unwrap().to_owned()
    }

    /// Loads the page anew: with what was saved of the rooms or, `cold`, with the keys alone.
    pub async fn reload(&self, cold: bool) {
        self.call("reload", json!({ "cold": cold })).await;
    }

    /// Waits until this client knows that somebody else is in the room, and would encrypt for them.
    pub async fn see_member(&self, room_id: &str, user_id: &str) {
        let params = json!({ "room_id": room_id, "user_id": user_id });
        self.wait("waitMember", params, super::PATIENCE).await.unwrap();
    }

    pub async fn redact(&self, room_id: &str, event_id: &str) {
        self.call("redact", json!({ "room_id": room_id, "event_id": event_id })).await;
    }

    /// Signs another device of the same user, as a verification would.
    pub async fn sign_device(&self, device_id: &str) -> f64 {
        let signed = self.call("signDevice", json!({ "device_id": device_id })).await;
        signed["at"].as_f64().unwrap()
    }

    /// The types and senders of the to-device messages that have reached this device.
    pub async fn to_device_senders(&self) -> Vec<(String, String)> {
        let answer = self.call("toDeviceMessages", Value::Null).await;
        let messages = answer["messages"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        messages.map(|message| (text(&message["type"]), text(&message["sender"]))).collect()
    }

    /// Lets the client wait, for at most `limit`, until `method` answers; the time at which it did.
    pub async fn wait(
        &self,
        method: &str,
        mut params: Value,
        limit: Duration,
    ) -> Result<f64, String> {
        params["timeout"] = json!(limit.as_millis() as u64);
        let answer = self.attempt(method, params).await?;
        Ok(answer["at"].as_f64().unwrap_or_default())
    }
}
