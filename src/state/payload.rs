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
        }
    }

    /// Reads that word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Plain, Self::Encrypted, Self::Sealed].into_iter().find(|form| form.as_str() == name)
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
