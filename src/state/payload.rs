//! The plaintext of a sealed state event.

use std::fmt;

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::Value;

use super::{JsonMap, MAX_ID_BYTES, tuple::StateTuple};

/// The payload's field that says for whom the keeper speaks. It stands beside `content`.
pub const STANDS_FOR: &str = "io.statekeeper.stands_for";

/// What is encrypted when a state event is sealed (MSC4362, "encrypted state event payload").
#[derive(Clone, Debug, PartialEq)]
pub struct SealedPayload {
    /// The true type and state key; the outer state key must be their packed form.
    pub tuple: StateTuple,
    /// The room for which it was encrypted; clients refuse it in any other.
    pub room_id: OwnedRoomId,
    /// The state event's true content.
    pub content: JsonMap,
    /// The event in whose place the keeper sealed this one. It is the claim of whoever encrypted
    /// the payload: believe it only under one of the keeper's own sessions.
    pub stands_for: Option<StandsFor>,
}

/// The event that a sealed event stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandsFor {
    /// The original event.
    pub event_id: OwnedEventId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// In which form it came.
    pub form: Form,
}

/// In which form a state event stood in the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// In plain.
    Plain,
    /// Encrypted by a member's client, under a session of its own.
    Encrypted,
    /// Sealed by a keeper, under a state session.
    Sealed,
    /// In no event: an administrator had the keeper say it.
    Own,
}

/// Why a plaintext is no sealed payload. Names the field, and never repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedPayload {
    /// Not a JSON object.
    #[error("the payload is no JSON object")]
    NotAnObject,
    /// A field is missing, of the wrong type, or too long.
    #[error("the payload's field {0} is missing or wrong")]
    Field(&'static str),
}

impl Form {
    /// The word that stands in the payload.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Encrypted => "encrypted",
            Self::Sealed => "sealed",
            Self::Own => "own",
        }
    }

    /// Reads that word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Plain, Self::Encrypted, Self::Sealed, Self::Own]
            .into_iter()
            .find(|form| form.as_str() == name)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl SealedPayload {
    /// The payload as JSON text, ready to be encrypted: the same payload is the same text, with
    /// the keys of every object in order.
    pub fn to_json(&self) -> String {
        let mut object = JsonMap::new();
        object.insert("content".to_owned(), sorted(&Value::Object(self.content.clone())));
        if let Some(stands_for) = &self.stands_for {
            object.insert(STANDS_FOR.to_owned(), stands_for.to_value());
        }
        object.insert("room_id".to_owned(), self.room_id.as_str().into());
        object.insert("state_key".to_owned(), self.tuple.state_key.as_str().into());
        object.insert("type".to_owned(), self.tuple.event_type.as_str().into());
        Value::Object(object).to_string()
    }

    /// Reads a decrypted plaintext. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`MalformedPayload`] when it is no JSON object, or a field is missing or wrong.
    pub fn parse(plaintext: &str) -> Result<Self, MalformedPayload> {
        match serde_json::from_str(plaintext) {
            Ok(Value::Object(object)) => Self::from_object(&object),
            _ => Err(MalformedPayload::NotAnObject),
        }
    }

    /// The same, from a JSON object that was read already.
    ///
    /// # Errors
    /// As [`SealedPayload::parse`].
    pub fn from_object(object: &JsonMap) -> Result<Self, MalformedPayload> {
        let tuple = StateTuple::new(text(object, "type")?, text(object, "state_key")?);
        let room_id = RoomId::parse(text(object, "room_id")?)
            .map_err(|_id_error| MalformedPayload::Field("room_id"))?;
        let content = object
            .get("content")
            .and_then(Value::as_object)
            .ok_or(MalformedPayload::Field("content"))?
            .clone();
        let stands_for = object.get(STANDS_FOR).map(StandsFor::from_value).transpose()?;
        Ok(Self { tuple, room_id, content, stands_for })
    }
}

impl StandsFor {
    fn to_value(&self) -> Value {
        let mut object = JsonMap::new();
        object.insert("event_id".to_owned(), self.event_id.as_str().into());
        object.insert("form".to_owned(), self.form.as_str().into());
        object.insert("sender".to_owned(), self.sender.as_str().into());
        Value::Object(object)
    }

    fn from_value(value: &Value) -> Result<Self, MalformedPayload> {
        let wrong = MalformedPayload::Field(STANDS_FOR);
        let object = value.as_object().ok_or(wrong)?;
        let field = |name| text(object, name).map_err(|_field| wrong);
        Ok(Self {
            event_id: EventId::parse(field("event_id")?).map_err(|_id_error| wrong)?,
            sender: UserId::parse(field("sender")?).map_err(|_id_error| wrong)?,
            form: Form::from_name(field("form")?).ok_or(wrong)?,
        })
    }
}

fn text<'a>(object: &'a JsonMap, field: &'static str) -> Result<&'a str, MalformedPayload> {
    object
        .get(field)
        .and_then(Value::as_str)
        .filter(|text| text.len() <= MAX_ID_BYTES)
        .ok_or(MalformedPayload::Field(field))
}

/// The same value with the keys of all objects in order, however the map type keeps them.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<_> = object.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            Value::Object(entries.into_iter().map(|(k, v)| (k.clone(), sorted(v))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{event_id, room_id, user_id};
    use serde_json::json;

    use super::*;

    fn payload() -> SealedPayload {
        SealedPayload {
            tuple: StateTuple::new("m.room.name", ""),
            room_id: room_id!("!room:localhost").to_owned(),
            content: json!({"z": 1, "name": "Garden", "a": {"y": 2, "b": [{"d": 1, "c": 2}]}})
                .as_object()
                .unwrap()
                .clone(),
            stands_for: Some(StandsFor {
                event_id: event_id!("$original").to_owned(),
                sender: user_id!("@alice:localhost").to_owned(),
                form: Form::Encrypted,
            }),
        }
    }

    #[test]
    fn whom_it_stands_for_is_beside_the_content_and_keys_are_in_order() {
        assert_eq!(
            payload().to_json(),
            concat!(
                r#"{"content":{"a":{"b":[{"c":2,"d":1}],"y":2},"name":"Garden","z":1},"#,
                r#""io.statekeeper.stands_for":{"event_id":"$original","form":"encrypted","#,
                r#""sender":"@alice:localhost"},"room_id":"!room:localhost","state_key":"","#,
                r#""type":"m.room.name"}"#
            )
        );
    }

    #[test]
    fn a_payload_is_read_as_it_was_written() {
        let written = payload();
        assert_eq!(SealedPayload::parse(&written.to_json()), Ok(written));
    }

    #[test]
    fn a_stock_clients_payload_stands_for_nobody() {
        let json = r#"{"type":"m.room.topic","state_key":"","room_id":"!r:localhost",
                       "content":{"topic":"t"},"sender_device":"X","extra":[1]}"#;
        let parsed = SealedPayload::parse(json).unwrap();
        assert_eq!(parsed.tuple, StateTuple::new("m.room.topic", ""));
        assert_eq!(parsed.stands_for, None);
    }

    #[test]
    fn a_claim_inside_the_content_is_only_content() {
        let mut forged = payload();
        forged.stands_for = None;
        forged.content.insert(STANDS_FOR.to_owned(), json!({"event_id": "$x"}));
        let parsed = SealedPayload::parse(&forged.to_json()).unwrap();
        assert_eq!(parsed.stands_for, None);
        assert!(parsed.content.contains_key(STANDS_FOR));
    }

    #[test]
    fn a_wrong_field_is_named_and_not_repeated() {
        let good: Value = serde_json::from_str(&payload().to_json()).unwrap();
        for (field, value) in [
            ("type", json!(1)),
            ("type", json!("t".repeat(256))),
            ("state_key", json!(null)),
            ("room_id", json!("room")),
            ("content", json!("secret")),
            (STANDS_FOR, json!("secret")),
            (STANDS_FOR, json!({"event_id": "$x", "sender": "@a:b"})),
            (STANDS_FOR, json!({"event_id": "$x", "sender": "alice", "form": "plain"})),
            (STANDS_FOR, json!({"event_id": "$x", "sender": "@a:b", "form": "PLAIN"})),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            let error = SealedPayload::parse(&bad.to_string()).unwrap_err();
            assert_eq!(error, MalformedPayload::Field(field));
            assert!(!error.to_string().contains("secret"));
        }
        for text in ["", "[]", "null", "{"] {
            assert_eq!(SealedPayload::parse(text), Err(MalformedPayload::NotAnObject));
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_content_survives_the_way_there_and_back(
            event_type in "[a-z.]{1,20}",
            state_key in ".{0,20}",
            content in prop::collection::btree_map(".{0,6}", any_json(), 0..5),
            form in prop::option::of(prop_oneof![
                Just(Form::Plain), Just(Form::Encrypted), Just(Form::Sealed),
            ]),
        ) {
            let written = SealedPayload {
                tuple: StateTuple::new(event_type, state_key),
                content: content.into_iter().collect(),
                stands_for: form.map(|form| StandsFor { form, ..payload().stands_for.unwrap() }),
                ..payload()
            };
            let json = written.to_json();
            let parsed = SealedPayload::parse(&json).unwrap();
            prop_assert_eq!(parsed.to_json(), json);
            prop_assert_eq!(parsed, written);
        }

        #[test]
        fn no_plaintext_makes_it_panic(text in ".{0,200}", value in any_json()) {
            let _ = SealedPayload::parse(&text);
            let _ = SealedPayload::parse(&json!({
                "type": "t", "state_key": "", "room_id": "!r:x", "content": {}, STANDS_FOR: value,
            }).to_string());
        }
    }
}
