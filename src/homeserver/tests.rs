//! The homeserver neighbour against a server on a loopback port that records what it is asked.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use matrix_sdk_crypto::types::requests::{
    AnyIncomingResponse, AnyOutgoingRequest, KeysQueryRequest, ToDeviceRequest,
};
use ruma::{
    api::client::keys::{claim_keys, upload_keys},
    device_id, event_id, owned_device_id, owned_user_id, room_id,
    serde::Raw,
};
use secrecy::SecretString;
use serde_json::{Value as JsonValue, json, value::to_raw_value};
use tokio::{net::TcpListener, time::Instant};

use super::*;

const TOKEN: &str = "as-token-that-nobody-may-see";
const AS_BOT: &str = "user_id=%40statekeeper%3Alocalhost";
const AS_DEVICE: &str = "user_id=%40statekeeper%3Alocalhost&device_id=KEEPER";

/// A request as it arrived.
#[derive(Clone, Debug)]
struct Asked {
    method: Method,
    /// Path and query, as sent.
    uri: String,
    headers: HeaderMap,
    body: String,
    at: Instant,
}

/// An answer of the server's. When there is none left, the server never answers.
struct Answer(StatusCode, Vec<(&'static str, String)>, String);

#[derive(Clone, Default)]
struct Script {
    asked: Arc<Mutex<Vec<Asked>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

async fn play(State(script): State<Script>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    script.asked.lock().unwrap().push(Asked {
        method: parts.method,
        uri: parts.uri.to_string(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
        at: Instant::now(),
    });
    let next = script.answers.lock().unwrap().pop_front();
    let Some(Answer(status, headers, body)) = next else { return std::future::pending().await };
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    for (name, value) in headers {
        answer.headers_mut().insert(name, value.parse().unwrap());
    }
    answer.into_response()
}

#[derive(Default)]
struct Heard(Mutex<Vec<(String, String)>>);

impl RequestObserver for Heard {
    fn request_done(&self, endpoint: &'static str, status: &str, seconds: f64) {
        assert!(seconds >= 0.0);
        self.0.lock().unwrap().push((endpoint.to_owned(), status.to_owned()));
    }
}

struct World {
    script: Script,
    heard: Arc<Heard>,
    homeserver: Homeserver,
}

impl World {
    /// A homeserver that gives these answers in turn, and a handle with a device on it.
    async fn answering(answers: impl IntoIterator<Item = Answer>) -> Self {
        let script = Script::default();
        script.answers.lock().unwrap().extend(answers);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(play).with_state(script.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let heard = Arc::new(Heard::default());
        let homeserver = Homeserver::new(options(&address), heard.clone()).unwrap();
        Self { script, heard, homeserver: homeserver.with_device(owned_device_id!("KEEPER")) }
    }

    async fn ok(body: JsonValue) -> Self {
        Self::answering([ok(body)]).await
    }

    fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().unwrap().clone()
    }

    /// The only request that was made.
    fn only(&self) -> Asked {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:#?}");
        asked.remove(0)
    }

    fn heard(&self) -> Vec<(String, String)> {
        self.heard.0.lock().unwrap().clone()
    }
}

fn options(address: &str) -> HomeserverOptions {
    HomeserverOptions {
        address: address.parse().unwrap(),
        as_token: SecretString::from(TOKEN),
        user_id: owned_user_id!("@statekeeper:localhost"),
        request_timeout: Duration::from_secs(20),
    }
}

fn ok(body: JsonValue) -> Answer {
    Answer(StatusCode::OK, vec![], body.to_string())
}

fn no(status: u16, errcode: &str) -> Answer {
    let body = json!({ "errcode": errcode, "error": format!("no, {TOKEN}") });
    Answer(StatusCode::from_u16(status).unwrap(), vec![], body.to_string())
}

#[tokio::test]
async fn every_request_carries_the_bearer_token_and_speaks_for_the_bots_device() {
    let world = World::answering([
        ok(json!({ "user_id": "@statekeeper:localhost", "device_id": "KEEPER" })),
        ok(json!({ "joined_rooms": ["!a:localhost", "no room id"] })),
    ])
    .await;
    let me = world.homeserver.whoami().await.unwrap();
    assert_eq!(me.device_id.unwrap(), "KEEPER");
    assert_eq!(world.homeserver.joined_rooms().await.unwrap(), [room_id!("!a:localhost")]);

    let asked = world.asked();
    let uris = asked.iter().map(|asked| asked.uri.replace("%40", "@")).collect::<Vec<_>>();
    let identity = AS_DEVICE.replace("%40", "@");
    assert_eq!(
        uris,
        [
            format!("/_matrix/client/v3/account/whoami?{identity}"),
            format!("/_matrix/client/v3/joined_rooms?{identity}")
        ]
    );
    for asked in asked {
        assert_eq!(asked.headers["authorization"], format!("Bearer {TOKEN}"));
        assert!(!asked.uri.contains(TOKEN), "{}", asked.uri);
    }
}

#[tokio::test]
async fn a_handle_without_a_device_names_none() {
    let world = World::ok(json!({ "joined_rooms": [] })).await;
    let connection = Arc::clone(&world.homeserver.connection);
    Homeserver { connection, device_id: None }.joined_rooms().await.unwrap();
    assert_eq!(world.only().uri, format!("/_matrix/client/v3/joined_rooms?{AS_BOT}"));
}

#[tokio::test]
async fn the_bot_is_registered_without_a_login_and_may_exist_already() {
    let world = World::answering([ok(json!({})), no(400, "M_USER_IN_USE"), no(403, "M_X")]).await;
    let register = || world.homeserver.register_bot("statekeeper");
    assert_eq!(register().await.unwrap(), Registered::New);
    assert_eq!(register().await.unwrap(), Registered::AlreadyThere);
    assert_eq!(register().await.unwrap_err().errcode(), Some("M_X"));

    let asked = world.asked().remove(0);
    assert_eq!(asked.uri, "/_matrix/client/v3/register?kind=user");
    assert_eq!(
        serde_json::from_str::<JsonValue>(&asked.body).unwrap(),
        json!({
            "type": "m.login.application_service",
            "username": "statekeeper",
            "inhibit_login": true,
        })
    );
}

#[tokio::test]
async fn a_device_is_made_without_speaking_for_it() {
    let world = World::answering([
        no(404, "M_NOT_FOUND"),
        Answer(StatusCode::CREATED, vec![], "{}".to_owned()),
        ok(json!({ "device_id": "KEEPER" })),
        ok(json!({ "device_id": "KEEPER", "last_seen_ts": 1234, "last_seen_ip": null })),
        ok(json!({ "device_id": "KEEPER", "last_seen_ts": null })),
        no(404, "M_NOT_FOUND"),
    ])
    .await;
    let (homeserver, id) = (&world.homeserver, device_id!("KEEPER"));
    assert_eq!(homeserver.ensure_device(id, "Keeper").await.unwrap(), Ensured::Created);
    assert_eq!(homeserver.ensure_device(id, "Keeper").await.unwrap(), Ensured::AlreadyThere);
    let seen = homeserver.get_device(id).await.unwrap().unwrap().last_seen_ts.unwrap();
    assert_eq!(u64::from(seen.get()), 1234);
    assert!(homeserver.get_device(id).await.unwrap().unwrap().last_seen_ts.is_none());
    assert!(homeserver.get_device(id).await.unwrap().is_none());
    let mut methods = Vec::new();
    for asked in world.asked() {
        assert_eq!(asked.uri, format!("/_matrix/client/v3/devices/KEEPER?{AS_BOT}"));
        methods.push(asked.method.to_string());
    }
    assert_eq!(methods, ["GET", "PUT", "GET", "GET", "GET", "GET"]);
}

#[tokio::test]
async fn touching_a_device_is_a_request_with_a_token_of_its_own_which_nobody_sees() {
    let world = World::answering([
        ok(json!({ "access_token": "syt_of_the_login", "user_id": "@statekeeper:localhost" })),
        no(403, "M_FORBIDDEN"),
    ])
    .await;
    let error = world.homeserver.touch_device(device_id!("KEEPER")).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("syt_of"), "{error:?}");
    let asked = world.asked();
    assert_eq!(asked[0].uri, "/_matrix/client/v3/login");
    assert_eq!(asked[0].headers["authorization"], format!("Bearer {TOKEN}"));
    let login: JsonValue = serde_json::from_str(&asked[0].body).unwrap();
    assert_eq!(login["type"], "m.login.application_service");
    assert_eq!(login["device_id"], "KEEPER");
    assert_eq!(asked[1].uri, "/_matrix/client/v3/account/whoami");
    assert_eq!(asked[1].headers["authorization"], "Bearer syt_of_the_login");
}

#[tokio::test]
async fn a_repeated_to_device_request_is_the_same_byte_for_byte() {
    let world = World::answering([ok(json!({})), ok(json!({}))]).await;
    // Spaces, order, escapes and number forms that no serializer would reproduce.
    let body = r#"{"messages" : {"@b:h":{"D":{"z":1.0,"a":"\u0041\/"}}}, "messages2":1e2}"#;
    for _ in 0..2 {
        let body = body.to_owned();
        world.homeserver.send_to_device("m.room.encrypted", "txn/1", body).await.unwrap();
    }
    let asked = world.asked();
    for asked in &asked {
        assert_eq!(asked.method, Method::PUT);
        assert_eq!(
            asked.uri,
            format!("/_matrix/client/v3/sendToDevice/m.room.encrypted/txn%2F1?{AS_DEVICE}")
        );
        assert_eq!(asked.body, body);
        assert_eq!(asked.headers["content-type"], "application/json");
    }
    assert_eq!(asked.len(), 2);
}

#[tokio::test]
async fn a_state_event_is_put_under_exactly_its_type_and_state_key() {
    let world =
        World::answering([ok(json!({ "event_id": "$1" })), ok(json!({ "event_id": "$2" }))]).await;
    let content = to_raw_value(&json!({ "ciphertext": "A" })).unwrap();
    let room = room_id!("!r%2F/x:localhost");
    let put = async |key| {
        world.homeserver.put_state(room, "m.room.encrypted", key, &content).await.unwrap()
    };
    assert_eq!(put("m.space.child:!a/b?c#d%2e:h").await, "$1");
    assert_eq!(put("").await, "$2");
    let root = "/_matrix/client/v3/rooms/%21r%252F%2Fx%3Alocalhost/state/m.room.encrypted";
    let asked = world.asked();
    assert_eq!(
        asked[0].uri,
        format!("{root}/m.space.child%3A%21a%2Fb%3Fc%23d%252e%3Ah?{AS_DEVICE}")
    );
    assert_eq!(asked[1].uri, format!("{root}?{AS_DEVICE}"));
    assert_eq!(asked[0].body, content.get());
}

#[tokio::test]
async fn what_is_not_there_is_none_and_what_may_not_be_seen_is_an_error() {
    let event = r#"{"type":"m.room.name", "state_key":"","content":{}, "x":1.50}"#;
    let world = World::answering([
        Answer(StatusCode::OK, vec![], event.to_owned()),
        no(404, "M_NOT_FOUND"),
        no(403, "M_FORBIDDEN"),
        no(404, "M_UNRECOGNIZED"),
        no(404, "M_NOT_FOUND"),
    ])
    .await;
    let room = room_id!("!r:localhost");
    let get = || world.homeserver.get_state_event(room, "m.room.name", "");
    assert_eq!(get().await.unwrap().unwrap().0.get(), event);
    assert!(get().await.unwrap().is_none());
    assert!(get().await.unwrap_err().is_forbidden());
    assert!(get().await.is_err());
    assert!(world.homeserver.event(room, event_id!("$e")).await.unwrap().is_none());
    assert_eq!(
        world.asked()[0].uri,
        format!(
            "/_matrix/client/v3/rooms/%21r%3Alocalhost/state/m.room.name?format=event&{AS_DEVICE}"
        )
    );
}

#[tokio::test]
async fn rooms_are_joined_left_and_redacted_in() {
    let world = World::answering([
        ok(json!({ "room_id": "!r:h" })),
        ok(json!({})),
        ok(json!({ "event_id": "$redaction" })),
        ok(json!([{ "type": "a" }, 7])),
        ok(json!({ "chunk": [{ "type": "m.room.member" }] })),
        ok(json!({})),
    ])
    .await;
    let (homeserver, room) = (&world.homeserver, room_id!("!r:h"));
    homeserver.join(room, &["one:8448".try_into().unwrap()]).await.unwrap();
    homeserver.leave(room).await.unwrap();
    let redaction = homeserver.redact(room, event_id!("$e/1"), "t", Some("gone")).await.unwrap();
    assert_eq!(redaction, "$redaction");
    assert_eq!(homeserver.room_state(room).await.unwrap().len(), 2);
    assert_eq!(homeserver.members(room).await.unwrap().len(), 1);
    homeserver.invite(room, owned_user_id!("@b:h").as_ref(), None).await.unwrap();

    let asked = world.asked();
    let uris = asked.iter().map(|asked| format!("{} {}", asked.method, asked.uri));
    let root = "/_matrix/client/v3";
    assert_eq!(
        uris.collect::<Vec<_>>(),
        [
            format!("POST {root}/join/%21r%3Ah?via=one%3A8448&server_name=one%3A8448&{AS_DEVICE}"),
            format!("POST {root}/rooms/%21r%3Ah/leave?{AS_DEVICE}"),
            format!("PUT {root}/rooms/%21r%3Ah/redact/%24e%2F1/t?{AS_DEVICE}"),
            format!("GET {root}/rooms/%21r%3Ah/state?{AS_DEVICE}"),
            format!("GET {root}/rooms/%21r%3Ah/members?{AS_DEVICE}"),
            format!("POST {root}/rooms/%21r%3Ah/invite?{AS_DEVICE}"),
        ]
    );
    assert_eq!(asked[0].body, "{}");
    assert_eq!(asked[2].body, r#"{"reason":"gone"}"#);
    assert_eq!(asked[5].body, r#"{"user_id":"@b:h"}"#);
}

#[tokio::test]
async fn the_server_is_asked_for_its_versions_and_for_a_ping_without_naming_the_bot() {
    let world = World::answering([
        ok(json!({ "versions": ["v1.1", "v1.99"] })),
        ok(json!({ "duration_ms": 12 })),
    ])
    .await;
    assert_eq!(world.homeserver.versions().await.unwrap().versions.len(), 2);
    let took = world.homeserver.ping("the/keeper", "ping 1").await.unwrap();
    assert_eq!(took, Duration::from_millis(12));
    let asked = world.asked();
    assert_eq!(asked[0].uri, "/_matrix/client/versions");
    assert_eq!(asked[1].uri, "/_matrix/client/v1/appservice/the%2Fkeeper/ping");
    assert_eq!(asked[1].body, r#"{"transaction_id":"ping 1"}"#);
}

#[tokio::test]
async fn the_answers_to_the_crypto_machines_requests_are_its_own_kinds() {
    let world = World::answering([
        ok(json!({ "one_time_key_counts": { "signed_curve25519": 50 } })),
        ok(json!({ "device_keys": {}, "failures": { "dead.example": {} } })),
        ok(json!({ "one_time_keys": {} })),
        ok(json!({})),
    ])
    .await;
    let (homeserver, wait) = (&world.homeserver, Duration::from_secs(3));
    let claim = claim_keys::v3::Request::new(Default::default());
    let message = Raw::from_json(to_raw_value(&json!({ "k": 1 })).unwrap());
    let bob = owned_user_id!("@b:h");
    let message = ToDeviceRequest::new(&bob, owned_device_id!("D"), "m.dummy", message);
    let txn_id = message.txn_id.clone();
    let query = KeysQueryRequest { timeout: None, device_keys: [(bob, vec![])].into() };

    let uploaded = homeserver.perform(&upload_keys::v3::Request::new().into(), wait).await.unwrap();
    assert!(matches!(uploaded, IncomingResponseOwned::KeysUpload(_)));
    let queried = homeserver.perform(&query.into(), wait).await.unwrap();
    let IncomingResponseOwned::KeysQuery(queried) = queried else { panic!("{queried:?}") };
    assert!(queried.failures.contains_key("dead.example"));
    let claimed = homeserver.perform(&claim.into(), wait).await.unwrap();
    assert!(matches!(claimed.as_any(), AnyIncomingResponse::KeysClaim(_)));
    let sent = homeserver.perform(&AnyOutgoingRequest::ToDeviceRequest(message), wait).await;
    assert!(matches!(sent.unwrap(), IncomingResponseOwned::ToDevice(_)));

    let asked = world.asked();
    assert_eq!(asked[1].body, r#"{"timeout":3000,"device_keys":{"@b:h":[]}}"#);
    assert!(asked[2].body.contains(r#""timeout":3000"#), "not ten seconds: {}", asked[2].body);
    assert!(
        asked[3].uri.starts_with(&format!("/_matrix/client/v3/sendToDevice/m.dummy/{txn_id}?"))
    );
    assert_eq!(asked[3].body, r#"{"messages":{"@b:h":{"D":{"k":1}}}}"#);
}

#[tokio::test]
async fn a_sync_asks_for_no_rooms_and_reads_what_is_there() {
    let world = World::ok(json!({
        "next_batch": "s2",
        "to_device": { "events": [{ "type": "m.dummy", "sender": "@a:h", "content": {} }, 7] },
        "device_lists": { "changed": ["@a:h", 5, "nobody"], "left": ["@b:h"] },
        "device_one_time_keys_count": { "signed_curve25519": 49, "curve25519": -1 },
        "device_unused_fallback_key_types": ["signed_curve25519"],
    }))
    .await;
    let slice = world.homeserver.sync(Some("s1&x"), Duration::from_secs(30)).await.unwrap();
    assert_eq!(slice.next_batch, "s2");
    assert_eq!(slice.to_device.len(), 2);
    assert_eq!(slice.device_lists.changed, ["@a:h"]);
    assert_eq!(slice.device_lists.left, ["@b:h"]);
    assert_eq!(slice.one_time_keys_counts.len(), 1);
    assert_eq!(slice.unused_fallback_keys.unwrap().len(), 1);

    let url: Url = format!("http://h{}", world.only().uri).parse().unwrap();
    let query: std::collections::BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    let filter: JsonValue = serde_json::from_str(&query["filter"]).unwrap();
    assert_eq!(filter["room"]["rooms"], json!([]));
    assert_eq!(query["since"], "s1&x");
    assert_eq!(query["timeout"], "30000");
    assert_eq!(query["set_presence"], "offline");
    assert_eq!((&*query["user_id"], &*query["device_id"]), ("@statekeeper:localhost", "KEEPER"));
}

#[tokio::test]
async fn an_odd_sync_is_read_where_it_can_be_and_refused_where_messages_would_be_lost() {
    let world = World::answering([
        ok(json!({
            "next_batch": "s2", "device_lists": 5, "device_one_time_keys_count": [],
            "rooms": { "join": null }
        })),
        ok(json!({ "next_batch": "s2", "to_device": { "events": "none" } })),
        ok(json!({ "to_device": {} })),
    ])
    .await;
    let sync = || world.homeserver.sync(None, Duration::ZERO);
    let slice = sync().await.unwrap();
    assert!(slice.device_lists.is_empty() && slice.one_time_keys_counts.is_empty());
    assert!(slice.unused_fallback_keys.is_none());
    for _ in 0..2 {
        assert!(matches!(sync().await, Err(HomeserverError::Unreadable { .. })));
    }
}

#[tokio::test]
async fn a_server_that_is_down_or_busy_is_asked_again_until_it_answers() {
    let slow = Answer(
        StatusCode::TOO_MANY_REQUESTS,
        vec![],
        json!({ "errcode": "M_LIMIT_EXCEEDED", "error": "", "retry_after_ms": 300 }).to_string(),
    );
    let html = Answer(StatusCode::BAD_GATEWAY, vec![], "<html>".to_owned());
    let world =
        World::answering([html, slow, ok(json!({ "user_id": "@statekeeper:localhost" }))]).await;
    let request = ruma::api::client::account::whoami::v3::Request::new();
    world.homeserver.send_retrying(Endpoint::Whoami, request, None).await.unwrap();
    let asked = world.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked[2].at - asked[1].at >= Duration::from_millis(300), "{asked:#?}");
    let statuses = world.heard().into_iter().map(|(_, status)| status).collect::<Vec<_>>();
    assert_eq!(statuses, ["502", "429", "200"]);
}

#[tokio::test]
async fn a_refusal_is_not_repeated_and_a_deadline_is_kept() {
    let later = Answer(
        StatusCode::TOO_MANY_REQUESTS,
        vec![("retry-after", "600".to_owned())],
        json!({ "errcode": "M_LIMIT_EXCEEDED" }).to_string(),
    );
    let world = World::answering([no(403, "M_FORBIDDEN"), later]).await;
    let join = || world.homeserver.join(room_id!("!r:h"), &[]);
    assert!(retrying(None, join).await.unwrap_err().is_forbidden());
    // The homeserver asks for ten minutes, there is one: no point in waiting.
    let until = Instant::now() + Duration::from_secs(60);
    let error = retrying(Some(until), join).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(600)));
    assert_eq!(world.asked().len(), 2);
}

#[tokio::test]
async fn a_server_that_never_answers_costs_no_more_than_the_timeout() {
    let mut world = World::answering([]).await;
    let address = world.homeserver.connection.base().to_owned();
    let short =
        HomeserverOptions { request_timeout: Duration::from_millis(100), ..options(&address) };
    world.homeserver = Homeserver::new(short, world.heard.clone()).unwrap();
    let started = Instant::now();
    let error = world.homeserver.joined_rooms().await.unwrap_err();
    assert!(matches!(error, HomeserverError::Timeout { .. }) && error.is_transient(), "{error}");
    assert!(!error.is_refused());
    // A long poll has its own time on top.
    let error = world.homeserver.sync(None, Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(error, HomeserverError::Timeout { .. }), "{error}");
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(world.heard()[0], ("joined_rooms".to_owned(), "timeout".to_owned()));
}

#[tokio::test]
async fn no_error_and_no_debug_output_shows_the_token() {
    let world = World::answering([no(401, "M_UNKNOWN_TOKEN"), no(500, TOKEN)]).await;
    let mut shown = format!("{:?} {:?}", world.homeserver, options("http://h"));
    for _ in 0..2 {
        let error = world.homeserver.joined_rooms().await.unwrap_err();
        shown.push_str(&format!("{error} {error:?}"));
    }
    assert!(shown.contains("M_UNKNOWN_TOKEN") && shown.contains("registration"), "{shown}");

    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = Homeserver::new(options(&format!("http://{gone}")), Arc::new(())).unwrap();
    let error = nobody.joined_rooms().await.unwrap_err();
    assert!(matches!(error, HomeserverError::Unreachable { .. }) && error.is_transient());
    shown.push_str(&format!("{error} {error:?}"));
    assert!(shown.contains(&gone.to_string()) && shown.contains("refused"), "{shown}");
    assert!(!shown.contains(TOKEN), "{shown}");
}

#[tokio::test]
async fn an_answer_larger_than_the_limit_is_not_swallowed() {
    let world = World::answering([
        Answer(StatusCode::OK, vec![], format!(r#"{{"x":"{}"}}"#, "x".repeat(2 << 20))),
        Answer(StatusCode::FORBIDDEN, vec![], "x".repeat(2 << 20)),
        Answer(StatusCode::OK, vec![], "<html>not a homeserver</html>".to_owned()),
    ])
    .await;
    let whoami = || world.homeserver.whoami();
    assert!(matches!(whoami().await, Err(HomeserverError::Unreadable { .. })));
    assert_eq!(whoami().await.unwrap_err().status(), Some(403));
    let error = whoami().await.unwrap_err();
    assert!(matches!(error, HomeserverError::Unreadable { .. }));
}

#[tokio::test]
async fn a_redirection_is_an_error_and_takes_the_token_nowhere() {
    let there = vec![("location", "http://127.0.0.1:1/elsewhere".to_owned())];
    let world = World::answering([Answer(StatusCode::FOUND, there, String::new())]).await;
    let error = world.homeserver.joined_rooms().await.unwrap_err();
    assert_eq!(error.status(), Some(302));
    assert_eq!(world.asked().len(), 1);
}

#[test]
fn addresses_that_cannot_work_are_refused_with_a_reason() {
    for address in ["ftp://h", "http://user:pw@h", "http://h/?x=1", "http://h/#x"] {
        let error = Homeserver::new(options(address), Arc::new(())).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("homeserver.address") && !text.contains("pw"), "{text}");
    }
    let below = Homeserver::new(options("http://h:1/matrix/"), Arc::new(())).unwrap();
    assert_eq!(below.connection.base(), "http://h:1/matrix");
}

#[tokio::test]
async fn an_https_address_is_spoken_to_in_tls_alone() {
    let world = World::answering([]).await;
    let address = world.homeserver.connection.base().replace("http://", "https://");
    let homeserver = Homeserver::new(options(&address), Arc::new(())).unwrap();
    let error = homeserver.joined_rooms().await.unwrap_err();
    assert!(matches!(error, HomeserverError::Unreachable { .. }), "{error}");
    assert!(world.asked().is_empty(), "nothing was sent in plain");
}

#[tokio::test]
async fn requests_can_be_made_from_any_task() {
    let world = World::answering([ok(json!({ "next_batch": "s" })), ok(json!({}))]).await;
    let homeserver = world.homeserver.clone();
    let task = tokio::spawn(async move {
        let slice = retrying(None, || homeserver.sync(None, Duration::ZERO)).await.unwrap();
        let request = upload_keys::v3::Request::new().into();
        let refused = homeserver.perform(&request, Duration::ZERO).await.unwrap_err();
        (slice.next_batch, refused)
    });
    let (next_batch, refused) = task.await.unwrap();
    assert_eq!(next_batch, "s");
    assert!(matches!(refused, HomeserverError::Unreadable { .. }));
}
