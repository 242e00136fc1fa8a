//! The body of a transaction, read event by event.

use ruma::{OwnedEventId, OwnedRoomId, OwnedTransactionId};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{error::Category, value::RawValue};

use super::{error::ApiError, sink::IncomingEvent};

/// The longest identifier that the specification allows, in bytes.
const MAX_ID_BYTES: usize = 255;

/// A transaction, as far as its events could be told apart ([spec]).
///
/// `push_events::v1::Request` of ruma is not used for the body: it refuses the whole of it for an
/// `ephemeral` that it does not know, and the events are wanted regardless.
///
/// [spec]: https://spec.matrix.org/v1.18/application-service-api/#put_matrixappv1transactionstxnid
#[derive(Debug)]
pub(super) struct Transaction {
    /// The events that can be stored, in their order.
    pub(super) events: Vec<IncomingEvent>,
    /// Why each of the others cannot, with its position in the transaction.
    pub(super) dropped: Vec<(usize, Unusable)>,
}

/// Why an event cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it is not a JSON object with each field once")]
    NotAnObject,
    #[error("it has no valid event_id")]
    EventId,
    #[error("it has no valid room_id")]
    RoomId,
}

#[derive(Deserialize)]
struct Body {
    events: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    event_id: Option<&'a RawValue>,
    #[serde(borrow)]
    room_id: Option<&'a RawValue>,
}

impl Transaction {
    /// Reads the body of `PUT /_matrix/app/v1/transactions/{txnId}`. Everything but `events` is
    /// passed over unread.
    pub(super) fn from_body(body: &[u8]) -> Result<Self, ApiError> {
        let Body { events } = serde_json::from_slice(body).map_err(|error| refused(&error))?;
        // serde takes an array for a struct; the specification does not.
        if !is_object(body) {
            return Err(ApiError::BadJson);
        }
        let mut transaction = Self { events: Vec::with_capacity(events.len()), dropped: vec![] };
        for (position, body) in events.into_iter().enumerate() {
            match incoming(body) {
                Ok(event) => transaction.events.push(event),
                Err(unusable) => transaction.dropped.push((position, unusable)),
            }
        }
        Ok(transaction)
    }
}

/// Reads the body of `POST /_matrix/app/v1/ping`: the transaction id that the ping was asked for
/// with, if there was one.
pub(super) fn read_ping(body: &[u8]) -> Result<Option<OwnedTransactionId>, ApiError> {
    #[derive(Deserialize)]
    struct Ping {
        transaction_id: Option<OwnedTransactionId>,
    }
    let Ping { transaction_id } = serde_json::from_slice(body).map_err(|error| refused(&error))?;
    if is_object(body) { Ok(transaction_id) } else { Err(ApiError::BadJson) }
}

/// Which of the specification's answers a body deserves that serde could not read.
fn refused(error: &serde_json::Error) -> ApiError {
    match error.classify() {
        Category::Data => ApiError::BadJson,
        Category::Io | Category::Syntax | Category::Eof => ApiError::NotJson,
    }
}

fn incoming(body: Box<RawValue>) -> Result<IncomingEvent, Unusable> {
    if !is_object(body.get().as_bytes()) {
        return Err(Unusable::NotAnObject);
    }
    let head: Head<'_> = serde_json::from_str(body.get()).map_err(|_| Unusable::NotAnObject)?;
    let event_id: OwnedEventId = identifier(head.event_id).ok_or(Unusable::EventId)?;
    let room_id: OwnedRoomId = identifier(head.room_id).ok_or(Unusable::RoomId)?;
    Ok(IncomingEvent { event_id, room_id, body })
}

/// ruma leaves the length of an event id without a server name open, so it is looked at here.
fn identifier<T: DeserializeOwned + AsRef<str>>(raw: Option<&RawValue>) -> Option<T> {
    let id: T = serde_json::from_str(raw?.get()).ok()?;
    (id.as_ref().len() <= MAX_ID_BYTES).then_some(id)
}

fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().first() == Some(&b'{')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn event(n: usize) -> serde_json::Value {
        json!({ "event_id": format!("$event{n}"), "room_id": "!room:localhost", "n": n })
    }

    fn read(body: &serde_json::Value) -> Transaction {
        Transaction::from_body(body.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn an_event_that_cannot_be_told_never_holds_up_those_beside_it() {
        let unusable = [
            (json!(null), Unusable::NotAnObject),
            (json!("$event:localhost"), Unusable::NotAnObject),
            (json!(["$event", "!room:localhost"]), Unusable::NotAnObject),
            (json!({}), Unusable::EventId),
            (json!({ "event_id": 5, "room_id": "!room:localhost" }), Unusable::EventId),
            (json!({ "event_id": null, "room_id": "!room:localhost" }), Unusable::EventId),
            (json!({ "event_id": "event", "room_id": "!room:localhost" }), Unusable::EventId),
            (json!({ "event_id": "$event" }), Unusable::RoomId),
            (json!({ "event_id": "$event", "room_id": {} }), Unusable::RoomId),
            (json!({ "event_id": "$event", "room_id": "#alias:localhost" }), Unusable::RoomId),
            (
                json!({ "event_id": format!("${}", "e".repeat(300)), "room_id": "!room:localhost" }),
                Unusable::EventId,
            ),
        ];
        for (bad, why) in unusable {
            let transaction = read(&json!({ "events": [event(0), bad, event(2)] }));
            assert_eq!(transaction.dropped, [(1, why)], "{bad}");
            let kept: Vec<_> = transaction.events.iter().map(|event| &event.event_id).collect();
            assert_eq!(kept, ["$event0", "$event2"], "{bad}");
        }
    }

    #[test]
    fn an_event_that_names_its_id_twice_is_dropped_rather_than_guessed() {
        let body = r#"{"events":[{"event_id":"$a","event_id":"$b","room_id":"!room:localhost"}]}"#;
        let transaction = Transaction::from_body(body.as_bytes()).unwrap();
        assert_eq!(transaction.dropped, [(0, Unusable::NotAnObject)]);
    }

    #[test]
    fn the_body_of_an_event_stays_as_it_was_sent() {
        let raw = r#"{ "room_id":"!room",  "event_id":"$e", "content": {"a":1,"a":2, "n":1e400} }"#;
        let body = format!(r#"{{"events":[{raw}]}}"#);
        let transaction = Transaction::from_body(body.as_bytes()).unwrap();
        assert_eq!(transaction.events[0].body.get(), raw);
    }

    #[test]
    fn content_of_an_event_is_not_in_its_debug_form() {
        let transaction = read(&json!({ "events": [
            { "event_id": "$e", "room_id": "!room", "content": { "body": "a secret" } }
        ] }));
        assert!(!format!("{transaction:?}").contains("secret"));
    }

    #[test]
    fn what_is_not_json_is_told_from_json_of_another_shape() {
        for not_json in ["", "{", "events", "{\"events\":[}", "{\"events\":[]} {}", "\u{feff}{}"] {
            let error = Transaction::from_body(not_json.as_bytes()).unwrap_err();
            assert_eq!(error, ApiError::NotJson, "{not_json}");
        }
        for not_utf8 in [&b"\xff\xfe"[..], b"{\"events\":[{\"event_id\":\"\xff\"}]}"] {
            assert_eq!(Transaction::from_body(not_utf8).unwrap_err(), ApiError::NotJson);
        }
        for other_shape in ["{}", "[]", "[[]]", "5", "null", "{\"events\":{}}", "{\"events\":null}"]
        {
            let error = Transaction::from_body(other_shape.as_bytes()).unwrap_err();
            assert_eq!(error, ApiError::BadJson, "{other_shape}");
        }
    }

    #[test]
    fn nesting_beyond_all_measure_is_no_danger() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let body = format!(
            r#"{{"deep":{deep},"events":[{{"event_id":"$e","room_id":"!r","content":{deep}}}]}}"#
        );
        assert_eq!(Transaction::from_body(body.as_bytes()).unwrap().events.len(), 1);
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Transaction::from_body(&body);
        }

        #[test]
        fn every_event_is_either_kept_or_dropped(events in proptest::collection::vec(any_json(), 0..8)) {
            let count = events.len();
            let transaction = read(&json!({ "events": events }));
            prop_assert_eq!(transaction.events.len() + transaction.dropped.len(), count);
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<i64>().prop_map(|n| json!(n)),
            "[$!]?[a-z:]{0,12}".prop_map(|s| json!(s)),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(|v| json!(v)),
                proptest::collection::btree_map("event_id|room_id|type", inner, 0..4)
                    .prop_map(|m| json!(m)),
            ]
        })
    }
}
