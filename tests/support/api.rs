//! The client-server API by hand, for whatever a stock client does not do by itself.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

/// An error answer of the homeserver.
#[derive(Debug, Clone)]
pub struct Refused {
    pub status: StatusCode,
    pub body: Value,
}

/// A user's access to the homeserver.
#[derive(Debug, Clone)]
pub struct Api {
    pub base: String,
    pub user_id: String,
    pub device_id: String,
    pub token: String,
    pub password: String,
}

/// One connection a request: tests have a runtime each, and a pool would tie them together.
fn http() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http()
}

/// `GET`s a loopback URL; none when nobody answers.
pub async fn get_text(url: &str) -> Option<(u16, String)> {
    let request = Request::get(url).body(Full::default()).unwrap();
    let response = http().request(request).await.ok()?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Sends one JSON request.
pub async fn send(
    method: Method,
    url: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> Result<Value, Refused> {
    let mut request = Request::builder().method(method.clone()).uri(url);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let request = request
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .unwrap_or_else(|error| panic!("{method} {url}: {error}"));
    let response = http().request(request).await.unwrap_or_else(|error| {
        panic!("{method} {url}: {error:?}");
    });
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    if status.is_success() { Ok(body) } else { Err(Refused { status, body }) }
}

/// One segment of a path.
pub fn encode(segment: &str) -> String {
    let mut out = String::new();
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte as char);
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

impl Api {
    /// Registers a user and logs a first device in.
    pub async fn register(base: &str, localpart: &str) -> Self {
        let password = format!("{localpart} opens the door");
        let body = json!({
            "username": localpart,
            "password": password,
            "auth": { "type": "m.login.dummy" },
        });
        let url = format!("{base}/_matrix/client/v3/register");
        Self::session(base, password, send(Method::POST, &url, None, Some(&body)).await.unwrap())
    }

    /// Logs another device of the same user in.
    pub async fn another_device(&self) -> Self {
        Self::log_in(&self.base, &self.user_id, &self.password).await
    }

    /// Logs a device of a user in.
    pub async fn log_in(base: &str, user: &str, password: &str) -> Self {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": user },
            "password": password,
        });
        let url = format!("{base}/_matrix/client/v3/login");
        let session = send(Method::POST, &url, None, Some(&body)).await.unwrap();
        Self::session(base, password.to_owned(), session)
    }

    fn session(base: &str, password: String, session: Value) -> Self {
        let field = |name: &str| session[name].as_str().unwrap().to_owned();
        Self {
            base: base.to_owned(),
            user_id: field("user_id"),
            device_id: field("device_id"),
            token: field("access_token"),
            password,
        }
    }

    /// Sends a request below `/_matrix/client`, such as `v3/joined_rooms`.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Refused> {
        let url = format!("{}/_matrix/client/{path}", self.base);
        send(method, &url, Some(&self.token), body.as_ref()).await
    }

    pub async fn create_room(&self, body: Value) -> String {
        let room = self.call(Method::POST, "v3/createRoom", Some(body)).await.unwrap();
        room["room_id"].as_str().unwrap().to_owned()
    }

    /// Puts a file into the media repository; its address there.
    pub async fn upload(&self, file: &[u8]) -> String {
        let request = Request::post(format!("{}/_matrix/media/v3/upload", self.base))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "image/png")
            .body(Full::new(Bytes::copy_from_slice(file)))
            .unwrap();
        let response = http().request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        body["content_uri"].as_str().unwrap().to_owned()
    }

    /// What the media repository has at an address.
    pub async fn download(&self, address: &str) -> Vec<u8> {
        let path = address.strip_prefix("mxc://").unwrap();
        let request =
            Request::get(format!("{}/_matrix/client/v1/media/download/{path}", self.base))
                .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
                .body(Full::default())
                .unwrap();
        let response = http().request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    pub async fn invite(&self, room_id: &str, user_id: &str) {
        let path = format!("v3/rooms/{}/invite", encode(room_id));
        self.call(Method::POST, &path, Some(json!({ "user_id": user_id }))).await.unwrap();
    }

    pub async fn join(&self, room_id: &str) {
        let path = format!("v3/join/{}", encode(room_id));
        self.call(Method::POST, &path, Some(json!({}))).await.unwrap();
    }

    pub async fn leave(&self, room_id: &str) {
        let path = format!("v3/rooms/{}/leave", encode(room_id));
        self.call(Method::POST, &path, Some(json!({}))).await.unwrap();
    }

    /// Every state event of a room, in the form in which the server keeps it.
    pub async fn state(&self, room_id: &str) -> Vec<Value> {
        let path = format!("v3/rooms/{}/state", encode(room_id));
        let Value::Array(events) = self.call(Method::GET, &path, None).await.unwrap() else {
            panic!("a room's state is a list");
        };
        events
    }

    /// One state event with its sender and id, if the room has it.
    pub async fn state_event(&self, room_id: &str, kind: &str, state_key: &str) -> Option<Value> {
        let mut state = self.state(room_id).await.into_iter();
        state.find(|event| event["type"] == kind && event["state_key"] == state_key)
    }

    pub async fn set_state(&self, room_id: &str, kind: &str, key: &str, content: Value) -> String {
        let path = format!("v3/rooms/{}/state/{}/{}", encode(room_id), encode(kind), encode(key));
        let sent = self.call(Method::PUT, &path, Some(content)).await.unwrap();
        sent["event_id"].as_str().unwrap().to_owned()
    }

    pub async fn event(&self, room_id: &str, event_id: &str) -> Value {
        let path = format!("v3/rooms/{}/event/{}", encode(room_id), encode(event_id));
        self.call(Method::GET, &path, None).await.unwrap()
    }

    /// The whole timeline that this user may see, oldest first.
    pub async fn timeline(&self, room_id: &str) -> Vec<Value> {
        let mut events = Vec::new();
        let mut from = String::new();
        loop {
            let path = format!("v3/rooms/{}/messages?dir=f&limit=500{from}", encode(room_id));
            let page = self.call(Method::GET, &path, None).await.unwrap();
            events.extend(page["chunk"].as_array().unwrap().iter().cloned());
            let Some(end) = page["end"].as_str() else { return events };
            from = format!("&from={}", encode(end));
        }
    }

    /// Whether the user is joined, as anybody in the room sees it.
    pub async fn is_joined(&self, room_id: &str, user_id: &str) -> bool {
        let member = self.state_event(room_id, "m.room.member", user_id).await;
        member.is_some_and(|event| event["content"]["membership"] == "join")
    }

    /// Says which power an event type needs, leaving everything else in the event as it was.
    pub async fn need_power(&self, room_id: &str, kind: &str, level: i64) {
        let event = self.state_event(room_id, "m.room.power_levels", "").await.unwrap();
        let mut content = event["content"].clone();
        content["events"][kind] = json!(level);
        self.set_state(room_id, "m.room.power_levels", "", content).await;
    }

    /// Raises one user's power, leaving everything else in the event as it was.
    pub async fn set_power(&self, room_id: &str, user_id: &str, level: i64) {
        let event = self.state_event(room_id, "m.room.power_levels", "").await.unwrap();
        let mut content = event["content"].clone();
        content["users"][user_id] = json!(level);
        self.set_state(room_id, "m.room.power_levels", "", content).await;
    }
}
