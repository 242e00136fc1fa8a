//! An `m.room_key_request`, as a stranger sends it.

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;

/// The longest event that is read. A request's own fields come to less than 2 KiB.
const LONGEST_EVENT: usize = 64 * 1024;
/// The longest identifier, in bytes (spec, "Common Namespace Format").
const LONGEST_ID: usize = 255;
/// The longest session id, and the longest key: 32 bytes in base64 are 43 or 44.
const LONGEST_KEY: usize = 64;
/// The one algorithm whose keys are asked for.
const MEGOLM: &str = "m.megolm.v1.aes-sha2";

/// A device's request for a room key (spec, `m.room_key_request`, `action: request`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    /// Who asks, by the homeserver's word.
    pub sender: OwnedUserId,
    /// The asking device, by its own word (`requesting_device_id`).
    pub device: OwnedDeviceId,
    /// The request's id, unique to the device.
    pub request_id: String,
    /// The room whose key is asked for.
    pub room_id: OwnedRoomId,
    /// The Megolm session that is asked for.
    pub session_id: String,
    /// The Curve25519 key of the session's creator in base64; deprecated, and often not there.
    pub sender_key: Option<String>,
    /// When it was heard, in milliseconds.
    pub heard_at: i64,
}

/// What names a request: nobody but the sender can name it, so nobody else can take it back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestName {
    /// Who asks.
    pub sender: OwnedUserId,
    /// From which device, by its own word.
    pub device: OwnedDeviceId,
    /// The request's id.
    pub request_id: String,
}

impl KeyRequest {
    /// Its name.
    pub fn name(&self) -> RequestName {
        RequestName {
            sender: self.sender.clone(),
            device: self.device.clone(),
            request_id: self.request_id.clone(),
        }
    }
}

/// What an `m.room_key_request` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A key is asked for.
    Request(KeyRequest),
    /// The key that this request asked for is not needed any more.
    Cancellation(RequestName),
}

/// Why an `m.room_key_request` is not heard. What was sent is in none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No JSON, or a field is missing, twice there, or of the wrong type.
    #[error("the key request is malformed")]
    Malformed,
    /// The event or a field of it is longer than such a thing can be.
    #[error("the key request, or a field of it, is too long")]
    TooLong,
    /// A user, device, room, session or request id is none.
    #[error("an identifier in the key request is invalid")]
    InvalidId,
    /// The event is not an `m.room_key_request`.
    #[error("the event is not a key request")]
    WrongType,
    /// Neither `request` nor `request_cancellation`.
    #[error("the key request's action is unknown")]
    UnknownAction,
    /// A key of another algorithm than `m.megolm.v1.aes-sha2`.
    #[error("the key request is for an unknown algorithm")]
    UnknownAlgorithm,
}

impl RequestError {
    /// The error's name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::InvalidId => "invalid_id",
            Self::WrongType => "wrong_type",
            Self::UnknownAction => "unknown_action",
            Self::UnknownAlgorithm => "unknown_algorithm",
        }
    }
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    sender: String,
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    action: String,
    requesting_device_id: String,
    request_id: String,
    // A cancellation's body is never read: whatever it holds, the request is gone.
    #[serde(default)]
    body: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Body {
    algorithm: String,
    room_id: String,
    session_id: String,
    #[serde(default)]
    sender_key: Option<String>,
}

impl Incoming {
    /// Reads the JSON of a to-device event of the type `m.room_key_request`, heard at `now` (milliseconds).
    ///
    /// # Errors
    ///
    /// [`RequestError`] when it is not one that a device which follows the specification sends.
    pub fn parse(json: &str, now: i64) -> Result<Self, RequestError> {
        if json.len() > LONGEST_EVENT {
            return Err(RequestError::TooLong);
        }
        let event: Event = serde_json::from_str(json).map_err(|_| RequestError::Malformed)?;
        if event.kind != "m.room_key_request" {
            return Err(RequestError::WrongType);
        }
        let Content { action, requesting_device_id, request_id, body } = event.content;
        let sender = bounded(event.sender, LONGEST_ID)?;
        let sender = UserId::parse(sender).map_err(|_| RequestError::InvalidId)?;
        let device = OwnedDeviceId::from(bounded(requesting_device_id, LONGEST_ID)?);
        let request_id = bounded(request_id, LONGEST_ID)?;
        match action.as_str() {
            "request" => {
                let body = body.ok_or(RequestError::Malformed)?;
                let name = RequestName { sender, device, request_id };
                request(name, body, now).map(Self::Request)
            }
            "request_cancellation" => {
                Ok(Self::Cancellation(RequestName { sender, device, request_id }))
            }
            _ => Err(RequestError::UnknownAction),
        }
    }
}

fn request(
    name: RequestName,
    body: serde_json::Value,
    heard_at: i64,
) -> Result<KeyRequest, RequestError> {
    let body: Body = serde_json::from_value(body).map_err(|_| RequestError::Malformed)?;
    if body.algorithm != MEGOLM {
        return Err(RequestError::UnknownAlgorithm);
    }
    let room_id = bounded(body.room_id, LONGEST_ID)?;
    let room_id = RoomId::parse(room_id).map_err(|_| RequestError::InvalidId)?;
    let session_id = bounded(body.session_id, LONGEST_KEY)?;
    // Some clients send an empty key where the deprecated field has nothing to say.
    let sender_key = body.sender_key.filter(|key| !key.is_empty());
    let sender_key = sender_key.map(|key| bounded(key, LONGEST_KEY)).transpose()?;
    let RequestName { sender, device, request_id } = name;
    Ok(KeyRequest { sender, device, request_id, room_id, session_id, sender_key, heard_at })
}

/// `text` without the capacity that it does not use, if it has between 1 and `longest` bytes.
fn bounded(mut text: String, longest: usize) -> Result<String, RequestError> {
    if text.is_empty() {
        return Err(RequestError::InvalidId);
    }
    if text.len() > longest {
        return Err(RequestError::TooLong);
    }
    text.shrink_to_fit();
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn event() -> Value {
        json!({
            "type": "m.room_key_request",
            "sender": "@joiner:example.org",
            "content": {
                "action": "request",
                "requesting_device_id": "PHONE",
                "request_id": "1",
                "body": {
                    "algorithm": MEGOLM,
                    "room_id": "!room:example.org",
                    "session_id": "session",
                    "sender_key": "key",
                },
            },
        })
    }

    fn with(pointer: &str, value: Value) -> Result<Incoming, RequestError> {
        let mut event = event();
        *event.pointer_mut(pointer).unwrap() = value;
        Incoming::parse(&event.to_string(), 1)
    }

    #[test]
    fn a_request_is_read_with_all_that_it_asks_for() {
        let Incoming::Request(request) = Incoming::parse(&event().to_string(), 1).unwrap() else {
            panic!("not a request");
        };
        assert_eq!(request.sender, "@joiner:example.org");
        assert_eq!(request.device, "PHONE");
        assert_eq!(request.room_id, "!room:example.org");
        assert_eq!((request.request_id.as_str(), request.session_id.as_str()), ("1", "session"));
        assert_eq!(request.sender_key.as_deref(), Some("key"));
    }

    #[test]
    fn a_request_needs_no_sender_key() {
        for value in [Value::Null, json!("")] {
            let Ok(Incoming::Request(request)) = with("/content/body/sender_key", value) else {
                panic!("not a request");
            };
            assert_eq!(request.sender_key, None);
        }
    }

    #[test]
    fn a_cancellation_is_read_whatever_its_body_says() {
        let mut event = event();
        event["content"]["action"] = json!("request_cancellation");
        event["content"]["body"] = json!([1, 2]);
        let read = Incoming::parse(&event.to_string(), 1).unwrap();
        assert!(matches!(read, Incoming::Cancellation(name) if name.request_id == "1"));
    }

    #[test]
    fn what_no_client_sends_is_refused_with_its_reason() {
        let long = |bytes: usize| json!("x".repeat(bytes));
        let cases = [
            ("/type", json!("m.dummy"), RequestError::WrongType),
            ("/sender", json!("joiner"), RequestError::InvalidId),
            ("/sender", long(256), RequestError::TooLong),
            ("/content/action", json!("demand"), RequestError::UnknownAction),
            ("/content/requesting_device_id", json!(""), RequestError::InvalidId),
            ("/content/requesting_device_id", long(256), RequestError::TooLong),
            ("/content/request_id", long(256), RequestError::TooLong),
            ("/content/request_id", json!(7), RequestError::Malformed),
            ("/content/body", Value::Null, RequestError::Malformed),
            ("/content/body/algorithm", json!("m.olm.v1"), RequestError::UnknownAlgorithm),
            ("/content/body/room_id", json!("room"), RequestError::InvalidId),
            ("/content/body/room_id", long(256), RequestError::TooLong),
            ("/content/body/session_id", long(65), RequestError::TooLong),
            ("/content/body/session_id", json!(""), RequestError::InvalidId),
            ("/content/body/sender_key", long(65), RequestError::TooLong),
            ("/content/body/sender_key", long(70_000), RequestError::TooLong),
        ];
        for (pointer, value, error) in cases {
            assert_eq!(with(pointer, value), Err(error), "{pointer}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,300}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-z_]{1,12}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,400}") {
            let _ = Incoming::parse(&text, 1);
        }

        #[test]
        fn whatever_stands_in_a_field_what_is_read_is_bounded(
            place in 0..9_usize,
            value in any_json(),
        ) {
            let pointer = [
                "/type", "/sender", "/content", "/content/action", "/content/request_id",
                "/content/requesting_device_id", "/content/body", "/content/body/session_id",
                "/content/body/sender_key",
            ][place];
            if let Ok(Incoming::Request(request)) = with(pointer, value) {
                prop_assert!(request.sender.as_str().len() <= LONGEST_ID);
                prop_assert!(request.device.as_str().len() <= LONGEST_ID);
                prop_assert!((1..=LONGEST_ID).contains(&request.request_id.len()));
                prop_assert!((1..=LONGEST_KEY).contains(&request.session_id.len()));
                prop_assert!(request.sender_key.is_none_or(|key| key.len() <= LONGEST_KEY));
            }
        }
    }
}
