//! The real router on a loopback port, spoken to by a real HTTP client.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, Request};
use ruma::{OwnedTransactionId, user_id};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

use super::{
    IncomingEvent, Options, SinkError, TransactionObserver, TransactionOutcome, TransactionSink,
    serve,
    testing::{Answer, send},
};

const HS_TOKEN: &str = "the-homeservers-own-token";
const MAX_BODY_SIZE: usize = 64 * 1024;
const TRANSACTION: &str = "/_matrix/app/v1/transactions/1";

/// An inbox in memory that tells repeats by event id, and fails when it is told to.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<InboxState>>);

#[derive(Default)]
struct InboxState {
    events: Vec<IncomingEvent>,
    fails: bool,
}

impl Inbox {
    fn set_failing(&self, fails: bool) {
        self.0.lock().unwrap().fails = fails;
    }

    fn event_ids(&self) -> Vec<String> {
        self.0.lock().unwrap().events.iter().map(|event| event.event_id.to_string()).collect()
    }
}

impl TransactionSink for Inbox {
    async fn accept(&self, events: Vec<IncomingEvent>) -> Result<usize, SinkError> {
        let mut inbox = self.0.lock().unwrap();
        if inbox.fails {
            return Err(SinkError::new("the disk is full"));
        }
        let before = inbox.events.len();
        for event in events {
            if !inbox.events.iter().any(|known| known.event_id == event.event_id) {
                inbox.events.push(event);
            }
        }
        Ok(inbox.events.len() - before)
    }
}

#[derive(Clone, Default)]
struct Counted {
    outcomes: Arc<Mutex<Vec<TransactionOutcome>>>,
    dropped: Arc<Mutex<u64>>,
}

impl Counted {
    fn outcomes(&self) -> Vec<TransactionOutcome> {
        self.outcomes.lock().unwrap().clone()
    }
}

impl TransactionObserver for Counted {
    fn transaction(&self, outcome: TransactionOutcome) {
        self.outcomes.lock().unwrap().push(outcome);
    }

    fn events_dropped(&self, count: u64) {
        *self.dropped.lock().unwrap() += count;
    }
}

struct Keeper {
    address: SocketAddr,
    inbox: Inbox,
    counted: Counted,
    pings: watch::Receiver<Option<OwnedTransactionId>>,
}

impl Keeper {
    async fn listening() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (inbox, counted) = (Inbox::default(), Counted::default());
        let (pinged, pings) = watch::channel(None);
        let options = Options {
            hs_token: SecretString::from(HS_TOKEN),
            bot: user_id!("@statekeeper:localhost").to_owned(),
            max_body_size: MAX_BODY_SIZE,
        };
        tokio::spawn(serve(
            listener,
            options,
            inbox.clone(),
            counted.clone(),
            pinged,
            std::future::pending(),
        ));
        Self { address, inbox, counted, pings }
    }

    async fn send(&self, method: Method, path: &str, token: Option<&str>, body: &str) -> Answer {
        let mut request =
            Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        send(request.body(body.to_owned()).unwrap()).await
    }

    async fn homeserver_sends(&self, method: Method, path: &str, body: &str) -> Answer {
        self.send(method, path, Some(&format!("Bearer {HS_TOKEN}")), body).await
    }

    async fn homeserver_puts(&self, transaction: &Value) -> Answer {
        self.homeserver_sends(Method::PUT, TRANSACTION, &transaction.to_string()).await
    }
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, errcode: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.json()["errcode"], errcode, "{answer:?}");
    assert!(answer.json()["error"].is_string(), "{answer:?}");
}

fn recorded(name: &str) -> (String, Value) {
    let path = format!("{}/tests/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    (fixture["path"].as_str().unwrap().to_owned(), fixture["body"].clone())
}

#[tokio::test]
async fn every_transaction_that_a_homeserver_was_seen_to_send_is_taken() {
    for (name, event_ids) in [
        ("txn_device_lists_changed_only", vec![]),
        ("txn_ephemeral_typing", vec![]),
        ("txn_first_try_with_to_device", vec![]),
        ("txn_retry_without_to_device", vec![]),
        ("txn_to_device_encrypted", vec![]),
        ("txn_to_device_real_olm_room_key", vec![]),
        ("txn_to_device_star_two_users", vec![]),
        ("txn_member_invite_with_otk_counts", vec!["$1Oi3rETuZUwKytoPdNyLGNfSJrNShklHhySJaovvdis"]),
        ("txn_member_join", vec!["$aUIksORqiGAs-AGPxqyeojXl8wTanxNXpKViYca-uCg"]),
        ("txn_member_leave", vec!["$Ih9k-PX-NKmuwefn4Dsrq4iOgVNNkrIX634kuv7_oJQ"]),
    ] {
        let keeper = Keeper::listening().await;
        let (path, body) = recorded(name);
        let answer = keeper.homeserver_sends(Method::PUT, &path, &body.to_string()).await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({})), "{name}");
        assert_eq!(keeper.inbox.event_ids(), event_ids, "{name}");
        assert_eq!(keeper.counted.outcomes(), [TransactionOutcome::Accepted], "{name}");
    }
}

#[tokio::test]
async fn a_repeat_is_told_by_its_events_and_not_by_its_transaction_id() {
    let keeper = Keeper::listening().await;
    let (_, join) = recorded("txn_member_join");
    let (_, leave) = recorded("txn_member_leave");
    // The same events under two ids, then other events under an id that stood before.
    for (txn_id, body) in [("7", &join), ("8", &join), ("7", &leave)] {
        let path = format!("/_matrix/app/v1/transactions/{txn_id}");
        let answer = keeper.homeserver_sends(Method::PUT, &path, &body.to_string()).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(keeper.inbox.event_ids().len(), 2);
    assert_eq!(
        keeper.counted.outcomes(),
        [TransactionOutcome::Accepted, TransactionOutcome::Duplicate, TransactionOutcome::Accepted]
    );
}

#[tokio::test]
async fn one_event_that_cannot_be_understood_never_holds_up_the_rest() {
    let keeper = Keeper::listening().await;
    let (_, mut body) = recorded("txn_member_join");
    body["events"].as_array_mut().unwrap().insert(0, json!({ "type": "m.room.member" }));
    body["events"].as_array_mut().unwrap().push(json!(17));
    assert_eq!(keeper.homeserver_puts(&body).await.status, 200);
    assert_eq!(keeper.inbox.event_ids(), ["$aUIksORqiGAs-AGPxqyeojXl8wTanxNXpKViYca-uCg"]);
    assert_eq!(*keeper.counted.dropped.lock().unwrap(), 2);
}

#[tokio::test]
async fn the_homeserver_has_to_repeat_what_could_not_be_stored() {
    let keeper = Keeper::listening().await;
    let (_, body) = recorded("txn_member_join");
    keeper.inbox.set_failing(true);
    let answer = keeper.homeserver_puts(&body).await;
    assert_refused(&answer, 500, "M_UNKNOWN");
    assert!(!answer.body.contains("disk"), "the cause is for the log: {answer:?}");

    keeper.inbox.set_failing(false);
    assert_eq!(keeper.homeserver_puts(&body).await.status, 200);
    assert_eq!(keeper.inbox.event_ids().len(), 1);
    assert_eq!(
        keeper.counted.outcomes(),
        [TransactionOutcome::Failed, TransactionOutcome::Accepted]
    );
}

#[tokio::test]
async fn only_the_homeservers_token_in_the_authorization_header_opens() {
    let keeper = Keeper::listening().await;
    let (_, body) = recorded("txn_member_join");
    let body = body.to_string();
    let in_query = format!("{TRANSACTION}?access_token={HS_TOKEN}");
    let longer = format!("Bearer {HS_TOKEN}x");
    let basic = format!("Basic {HS_TOKEN}");
    for (path, token, status, errcode) in [
        (TRANSACTION, None, 401, "M_MISSING_TOKEN"),
        (&in_query, None, 401, "M_MISSING_TOKEN"),
        (TRANSACTION, Some(basic.as_str()), 401, "M_MISSING_TOKEN"),
        (TRANSACTION, Some(HS_TOKEN), 401, "M_MISSING_TOKEN"),
        (TRANSACTION, Some("Bearer the-homeservers-own-tokem"), 403, "M_FORBIDDEN"),
        (TRANSACTION, Some("Bearer the-homeservers-own-toke"), 403, "M_FORBIDDEN"),
        (TRANSACTION, Some(&longer), 403, "M_FORBIDDEN"),
        (&in_query, Some("Bearer wrong"), 403, "M_FORBIDDEN"),
    ] {
        let answer = keeper.send(Method::PUT, path, token, &body).await;
        assert_refused(&answer, status, errcode);
    }
    assert!(keeper.inbox.event_ids().is_empty());
    assert_eq!(keeper.counted.outcomes(), [TransactionOutcome::Unauthorized; 8]);
}

#[tokio::test]
async fn the_token_guards_every_endpoint() {
    let keeper = Keeper::listening().await;
    for (method, path) in [
        (Method::POST, "/_matrix/app/v1/ping"),
        (Method::GET, "/_matrix/app/v1/users/@statekeeper:localhost"),
        (Method::GET, "/_matrix/app/v1/rooms/%23a:localhost"),
    ] {
        let answer = keeper.send(method.clone(), path, None, "{}").await;
        assert_refused(&answer, 401, "M_MISSING_TOKEN");
        let answer = keeper.send(method, path, Some("Bearer wrong"), "{}").await;
        assert_refused(&answer, 403, "M_FORBIDDEN");
    }
    assert!(!keeper.pings.has_changed().unwrap());
    assert!(keeper.counted.outcomes().is_empty(), "none of them was a transaction");
}

/// Sends a head whose body never comes, and returns what is answered nevertheless.
async fn answer_without_a_body(keeper: &Keeper, token: &str, length: usize) -> String {
    let mut stream = TcpStream::connect(keeper.address).await.unwrap();
    let head = format!(
        "PUT {TRANSACTION} HTTP/1.1\r\nhost: keeper\r\nauthorization: Bearer {token}\r\n\
         content-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(10), async {
        while !String::from_utf8_lossy(&answer).contains("errcode") {
            assert_ne!(stream.read_buf(&mut answer).await.unwrap(), 0, "closed unanswered");
        }
    })
    .await
    .unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_stranger_is_refused_before_any_of_the_body_is_read() {
    let keeper = Keeper::listening().await;
    let answer = answer_without_a_body(&keeper, "wrong", 1000).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_before_any_of_it_is_read() {
    let keeper = Keeper::listening().await;
    let answer = answer_without_a_body(&keeper, HS_TOKEN, MAX_BODY_SIZE + 1).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("M_TOO_LARGE"), "{answer}");
    assert_eq!(keeper.counted.outcomes(), [TransactionOutcome::TooLarge]);
}

#[tokio::test]
async fn a_body_that_does_not_announce_its_size_is_read_no_further_than_the_limit() {
    let keeper = Keeper::listening().await;
    let mut stream = TcpStream::connect(keeper.address).await.unwrap();
    let head = format!(
        "PUT {TRANSACTION} HTTP/1.1\r\nhost: keeper\r\nauthorization: Bearer {HS_TOKEN}\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n",
        MAX_BODY_SIZE + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; MAX_BODY_SIZE + 1]).await.unwrap();
    let mut answer = vec![0; 12];
    timeout(Duration::from_secs(10), stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    assert_eq!(keeper.counted.outcomes(), [TransactionOutcome::TooLarge]);
}

#[tokio::test]
async fn a_body_of_exactly_the_limit_is_taken() {
    let keeper = Keeper::listening().await;
    let events = r#"{"events":[]}"#;
    let body = events.to_owned() + &" ".repeat(MAX_BODY_SIZE - events.len());
    assert_eq!(keeper.homeserver_sends(Method::PUT, TRANSACTION, &body).await.status, 200);
    let answer = keeper.homeserver_sends(Method::PUT, TRANSACTION, &(body + " ")).await;
    assert_refused(&answer, 413, "M_TOO_LARGE");
}

#[tokio::test]
async fn a_malformed_transaction_gets_the_specifications_error() {
    let keeper = Keeper::listening().await;
    for (body, errcode) in [
        ("", "M_NOT_JSON"),
        ("events", "M_NOT_JSON"),
        ("{\"events\":[", "M_NOT_JSON"),
        ("[]", "M_BAD_JSON"),
        ("{}", "M_BAD_JSON"),
        ("{\"events\":{}}", "M_BAD_JSON"),
    ] {
        let answer = keeper.homeserver_sends(Method::PUT, TRANSACTION, body).await;
        assert_refused(&answer, 400, errcode);
    }
    assert_eq!(keeper.counted.outcomes(), [TransactionOutcome::Malformed; 6]);
}

#[tokio::test]
async fn a_ping_is_passed_on_with_its_transaction_id() {
    let mut keeper = Keeper::listening().await;
    let path = "/_matrix/app/v1/ping";
    let body = r#"{"transaction_id":"t1"}"#;
    let answer = keeper.homeserver_sends(Method::POST, path, body).await;
    assert_eq!(answer.json(), json!({}));
    let seen = keeper.pings.borrow_and_update().clone();
    assert_eq!(seen.unwrap(), "t1");

    assert_eq!(keeper.homeserver_sends(Method::POST, path, "{}").await.status, 200);
    assert!(keeper.pings.has_changed().unwrap());
    assert_eq!(*keeper.pings.borrow_and_update(), None);

    for (body, errcode) in
        [("ping", "M_NOT_JSON"), ("{\"transaction_id\":1}", "M_BAD_JSON"), ("[]", "M_BAD_JSON")]
    {
        assert_refused(&keeper.homeserver_sends(Method::POST, path, body).await, 400, errcode);
    }
    assert!(!keeper.pings.has_changed().unwrap(), "what was refused is no ping");
}

#[tokio::test]
async fn the_bot_exists_and_nobody_and_nothing_else_does() {
    let keeper = Keeper::listening().await;
    for bot in ["@statekeeper:localhost", "%40statekeeper%3Alocalhost"] {
        let path = format!("/_matrix/app/v1/users/{bot}");
        let answer = keeper.homeserver_sends(Method::GET, &path, "").await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({})));
    }
    for (path, status, errcode) in [
        ("/_matrix/app/v1/users/@statekeeper2:localhost", 404, "M_NOT_FOUND"),
        ("/_matrix/app/v1/users/@statekeeper:elsewhere", 404, "M_NOT_FOUND"),
        ("/_matrix/app/v1/users/statekeeper", 400, "M_INVALID_PARAM"),
        ("/_matrix/app/v1/users/%ff", 400, "M_INVALID_PARAM"),
        ("/_matrix/app/v1/rooms/%23statekeeper:localhost", 404, "M_NOT_FOUND"),
    ] {
        let answer = keeper.homeserver_sends(Method::GET, path, "").await;
        assert_refused(&answer, status, errcode);
    }
}

#[tokio::test]
async fn an_endpoint_or_a_method_that_does_not_exist_is_unrecognized() {
    let keeper = Keeper::listening().await;
    for (method, path, status) in [
        (Method::PUT, "/_matrix/app/v2/transactions/1", 404),
        (Method::PUT, "/_matrix/app/v1/transactions/1/2", 404),
        (Method::GET, "/", 404),
        (Method::GET, TRANSACTION, 405),
        (Method::PUT, "/_matrix/app/v1/ping", 405),
        (Method::POST, "/_matrix/app/v1/users/@statekeeper:localhost", 405),
    ] {
        let answer = keeper.homeserver_sends(method, path, "{}").await;
        assert_refused(&answer, status, "M_UNRECOGNIZED");
    }
    assert!(keeper.counted.outcomes().is_empty());
}

#[test]
fn the_options_do_not_show_the_token() {
    let options = Options {
        hs_token: SecretString::from(HS_TOKEN),
        bot: user_id!("@statekeeper:localhost").to_owned(),
        max_body_size: MAX_BODY_SIZE,
    };
    assert!(!format!("{options:?}").contains(HS_TOKEN));
}
