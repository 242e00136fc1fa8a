//! Clients on vodozemac's Python bindings and no Matrix SDK, which follow MSC3414: they ask. See
//! `tests/clients/python/client.py`.

use std::{process::Command, sync::Arc};

use serde_json::{Value, json};

use super::{PATIENCE, api::Api, line_host::LineHost, repository, unique, world::World};

/// One Python process, home to any number of clients.
#[derive(Debug)]
pub struct PythonHost(LineHost);

impl PythonHost {
    pub fn start() -> Arc<Self> {
        let python = repository().join(".work/python-client/bin/python");
        assert!(python.exists(), "vodozemac for Python is not installed: run tests/setup.sh");
        let script = repository().join("tests/clients/python/client.py");
        // Without leaving compiled files beside the script.
        Arc::new(Self(LineHost::start("python", Command::new(python).arg("-B").arg(script))))
    }
}

/// A word that a client heard from another device.
#[derive(Debug, Clone)]
pub struct Heard {
    pub event_type: String,
    pub sender: String,
    pub encrypted: bool,
    pub content: Value,
}

impl Heard {
    fn from(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Self {
            event_type: text("type"),
            sender: text("sender"),
            encrypted: value["encrypted"] == true,
            content: value["content"].clone(),
        }
    }
}

/// One device of a user of its own.
#[derive(Debug, Clone)]
pub struct PythonClient {
    host: Arc<PythonHost>,
    handle: String,
    pub api: Api,
}

impl PythonClient {
    /// Registers a user whose device is published, and with `cross_sign` signed by its owner.
    pub async fn register(
        host: &Arc<PythonHost>,
        world: &World,
        stem: &str,
        cross_sign: bool,
    ) -> Self {
        let (handle, base) = (unique(stem), world.synapse.url());
        let password = format!("{handle} opens the door");
        let params = json!({
            "base_url": base, "username": handle, "password": password, "cross_sign": cross_sign,
        });
        let made = host.0.call(&handle, "register", params).await.unwrap();
        let field = |name: &str| made[name].as_str().unwrap().to_owned();
        let (user_id, device_id) = (field("user_id"), field("device_id"));
        let api = Api { base, user_id, device_id, token: field("access_token"), password };
        Self { host: host.clone(), handle, api }
    }

    async fn call(&self, method: &str, params: Value) -> Value {
        let answer = self.host.0.call(&self.handle, method, params).await;
        answer.unwrap_or_else(|error| panic!("{}: {error}", self.api.user_id))
    }

    pub async fn join(&self, room_id: &str) {
        self.call("join", json!({ "room_id": room_id })).await;
    }

    pub async fn leave(&self, room_id: &str) {
        self.call("leave", json!({ "room_id": room_id })).await;
    }

    /// The room's encrypted name, as this member gets it from the homeserver.
    pub async fn name_event(&self, room_id: &str) -> Value {
        self.call("name_event", json!({ "room_id": room_id })).await
    }

    /// The name in an event, opened with what the device holds.
    ///
    /// # Errors
    /// Why it stays closed.
    pub async fn read_name(&self, event: &Value) -> Result<String, String> {
        let read = self.call("read", json!({ "event": event })).await;
        match (read["name"].as_str(), read["failure"].as_str()) {
            (Some(name), _) => Ok(name.to_owned()),
            (None, failure) => Err(failure.unwrap_or("it is no name").to_owned()),
        }
    }

    /// Asks everybody with more power than most for the session of an event; the request's id.
    pub async fn ask(&self, event: &Value) -> String {
        self.ask_users(event, &[]).await
    }

    /// The same, asking these users alone: who is not in the room cannot look up who has power.
    pub async fn ask_users(&self, event: &Value, users: &[&str]) -> String {
        let asked = self.call("ask", json!({ "event": event, "users": users })).await;
        asked["request_id"].as_str().unwrap().to_owned()
    }

    pub async fn cancel(&self, request_id: &str) {
        self.call("cancel", json!({ "request_id": request_id })).await;
    }

    /// Waits until the device holds the key of an event's session; from which index on.
    pub async fn wait_key(&self, event: &Value) -> u64 {
        let params = json!({ "event": event, "timeout": PATIENCE.as_millis() as u64 });
        self.call("wait_key", params).await["first_index"].as_u64().unwrap()
    }

    /// Waits until somebody tells the device that he withholds the key of an event's session.
    pub async fn wait_withheld(&self, event: &Value) -> Heard {
        let params = json!({ "event": event, "timeout": PATIENCE.as_millis() as u64 });
        Heard::from(&self.call("wait_withheld", params).await)
    }

    /// Everything that other devices have told this one.
    ///
    /// # Panics
    /// When there was something that it could not accept.
    pub async fn heard(&self) -> Vec<Heard> {
        let told = self.call("told", json!({})).await;
        assert_eq!(told["complaints"], json!([]), "{}", self.api.user_id);
        told["heard"].as_array().unwrap().iter().map(Heard::from).collect()
    }
}
