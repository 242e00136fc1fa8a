//! A room event as the homeserver gives it, read tolerantly.

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::Value;

use super::{JsonMap, MAX_ID_BYTES, tuple::StateTuple};

/// An event from a transaction or from `GET /rooms/{roomId}/state`, with the fields that the
/// keeper acts upon.
///
/// Strict where a mistake would change what the event means, tolerant in everything else.
#[derive(Clone, Debug, PartialEq)]
pub struct RoomEvent {
    /// The event's id.
    pub event_id: OwnedEventId,
    /// The room, where the homeserver says it.
    pub room_id: Option<OwnedRoomId>,
    /// Who sent it. The homeserver vouches for it.
    pub sender: OwnedUserId,
    /// The outer type.
    pub event_type: String,
    /// The outer state key; `None` for an event that is no state.
    pub state_key: Option<String>,
    /// The content, which anybody may have filled with anything.
    pub content: JsonMap,
    /// When the sender's server says that it was sent, in milliseconds since 1970; 0 if it does
    /// not say. Anybody can lie in it.
    pub origin_server_ts: i64,
    /// How many milliseconds ago our own homeserver got it.
    pub age: Option<u64>,
    /// The state event that this one replaced, as our own homeserver saw it.
    pub replaces_state: Option<OwnedEventId>,
    /// The event that this one redacts, if it is an `m.room.redaction`.
    pub redacts: Option<OwnedEventId>,
    /// Whether its content has been redacted away.
    pub is_redacted: bool,
}

/// Which field makes an event unusable. Never says what stood there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedEvent {
    /// Not JSON, or no JSON object.
    #[error("the event is no JSON object")]
    NotAnObject,
    /// A field that must be there is not.
    #[error("the event's field {0} is missing")]
    Missing(&'static str),
    /// A field has the wrong type, or is no valid identifier.
    #[error("the event's field {0} is wrong")]
    Wrong(&'static str),
    /// A field has more than 255 bytes.
    #[error("the event's field {0} is too long")]
    TooLong(&'static str),
}

impl MalformedEvent {
    /// The field's name, for a log or a metric; empty when there are no fields at all.
    pub fn field(&self) -> &'static str {
        match self {
            Self::NotAnObject => "",
            Self::Missing(field) | Self::Wrong(field) | Self::TooLong(field) => field,
        }
    }
}

impl RoomEvent {
    /// Reads an event.
    ///
    /// # Errors
    /// [`MalformedEvent`] names the first field that makes the event unusable.
    pub fn parse(event: Value) -> Result<Self, MalformedEvent> {
        let Value::Object(mut event) = event else { return Err(MalformedEvent::NotAnObject) };
        let content = match event.remove("content") {
            Some(Value::Object(content)) => content,
            Some(_) => return Err(MalformedEvent::Wrong("content")),
            None => return Err(MalformedEvent::Missing("content")),
        };
        let event_type = required(&event, "type")?.to_owned();
        let redacts =
            if event_type == "m.room.redaction" { redacts(&event, &content)? } else { None };
        Ok(Self {
            event_id: EventId::parse(required(&event, "event_id")?)
                .map_err(|_id_error| MalformedEvent::Wrong("event_id"))?,
            room_id: optional(&event, "room_id")?
                .map(RoomId::parse)
                .transpose()
                .map_err(|_id_error| MalformedEvent::Wrong("room_id"))?,
            sender: UserId::parse(required(&event, "sender")?)
                .map_err(|_id_error| MalformedEvent::Wrong("sender"))?,
            state_key: optional(&event, "state_key")?.map(str::to_owned),
            origin_server_ts: timestamp(event.get("origin_server_ts")),
            age: in_either_place(&event, "age").and_then(Value::as_u64),
            replaces_state: in_either_place(&event, "replaces_state").and_then(lenient_event_id),
            is_redacted: is_redacted(&event),
            redacts,
            event_type,
            content,
        })
    }

    /// The same, from JSON text.
    ///
    /// # Errors
    /// As [`RoomEvent::parse`].
    pub fn parse_str(json: &str) -> Result<Self, MalformedEvent> {
        Self::parse(serde_json::from_str(json).map_err(|_json_error| MalformedEvent::NotAnObject)?)
    }

    /// The same, for an answer about one room, whose events need not repeat its id.
    ///
    /// # Errors
    /// As [`RoomEvent::parse`], and when the event says that it is of another room.
    pub fn parse_in(room_id: &RoomId, event: Value) -> Result<Self, MalformedEvent> {
        let mut event = Self::parse(event)?;
        match &event.room_id {
            Some(named) if named != room_id => return Err(MalformedEvent::Wrong("room_id")),
            Some(_) => {}
            None => event.room_id = Some(room_id.to_owned()),
        }
        Ok(event)
    }

    /// The tuple under which the homeserver keeps this event; `None` when it is no state. For
    /// encrypted state that is `m.room.encrypted` with a packed state key.
    pub fn outer_tuple(&self) -> Option<StateTuple> {
        let state_key = self.state_key.as_ref()?;
        Some(StateTuple::new(self.event_type.as_str(), state_key.as_str()))
    }

    /// The tuple that this event is about: the outer one of state in plain, the unpacked one of
    /// encrypted state. `None` when it is no state, or its packed state key is none.
    ///
    /// For encrypted state this is a claim until the payload has been compared with it.
    pub fn claimed_tuple(&self) -> Option<StateTuple> {
        if self.is_encrypted() {
            return StateTuple::from_packed(self.state_key.as_deref()?);
        }
        self.outer_tuple()
    }

    /// Whether this is an `m.room.encrypted` event, state or message.
    pub fn is_encrypted(&self) -> bool {
        self.event_type == "m.room.encrypted"
    }
}

fn required<'a>(event: &'a JsonMap, field: &'static str) -> Result<&'a str, MalformedEvent> {
    optional(event, field)?.ok_or(MalformedEvent::Missing(field))
}

fn optional<'a>(
    event: &'a JsonMap,
    field: &'static str,
) -> Result<Option<&'a str>, MalformedEvent> {
    match event.get(field) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() > MAX_ID_BYTES => {
            Err(MalformedEvent::TooLong(field))
        }
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(MalformedEvent::Wrong(field)),
    }
}

/// Homeservers put what they add themselves under `unsigned`, and for application services at the
/// top level, too.
fn in_either_place<'a>(event: &'a JsonMap, field: &str) -> Option<&'a Value> {
    event.get("unsigned").and_then(|unsigned| unsigned.get(field)).or_else(|| event.get(field))
}

/// What a redaction redacts moved from the top level into the content in room version 11. The top
/// level comes first: before version 11 the content's word for it binds nobody, and homeservers
/// repeat the valid one at the top level in all versions.
fn redacts(event: &JsonMap, content: &JsonMap) -> Result<Option<OwnedEventId>, MalformedEvent> {
    let Some(target) = optional(event, "redacts")?.or(optional(content, "redacts")?) else {
        return Ok(None);
    };
    EventId::parse(target).map(Some).map_err(|_id_error| MalformedEvent::Wrong("redacts"))
}

fn is_redacted(event: &JsonMap) -> bool {
    let has = |field| event.get("unsigned").and_then(|unsigned| unsigned.get(field)).is_some();
    has("redacted_because") || has("redacted_by")
}

fn lenient_event_id(value: &Value) -> Option<OwnedEventId> {
    let id = value.as_str().filter(|id| id.len() <= MAX_ID_BYTES)?;
    EventId::parse(id).ok()
}

/// Tolerant: nothing is decided by it, and old rooms hold floats and strings.
fn timestamp(value: Option<&Value>) -> i64 {
    let Some(value) = value else { return 0 };
    #[allow(clippy::cast_possible_truncation)] // `as` saturates, which is all that is wanted
    value.as_i64().or_else(|| value.as_f64().map(|float| float as i64)).unwrap_or(0)
}
