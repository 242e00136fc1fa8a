//! A room event as the homeserver gives it, read tolerantly.

use std::collections::BTreeMap;

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, value::RawValue};

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
    /// Who did that, where our own homeserver says so.
    pub redacted_by: Option<OwnedUserId>,
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
            redacted_by: redacted_by(&event),
            redacts,
            event_type,
            content,
        })
    }

    /// The same, from JSON text. Homeservers take events that are nested deeper than is read here; of such a one, what is
    /// too deep counts as absent. An encrypted event is no ciphertext then: no client on `matrix-sdk-crypto` reads it either.
    ///
    /// # Errors
    /// As [`RoomEvent::parse`].
    pub fn parse_str(json: &str) -> Result<Self, MalformedEvent> {
        match serde_json::from_str(json) {
            Ok(event) => Self::parse(event),
            Err(_json_error) => {
                Self::parse(Value::Object(shallow(json).ok_or(MalformedEvent::NotAnObject)?))
            }
        }
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

/// An event without what is nested too deep in it.
fn shallow(json: &str) -> Option<JsonMap> {
    let fields = serde_json::from_str::<BTreeMap<String, &RawValue>>(json).ok()?;
    let whole = |value: &RawValue| serde_json::from_str::<Value>(value.get()).ok();
    let is_encrypted =
        fields.get("type").and_then(|it| whole(it)).is_some_and(|it| it == "m.room.encrypted");
    let read = |(field, value): (String, &RawValue)| {
        let parts = |value: &RawValue| -> Option<Value> {
            let parts = serde_json::from_str::<BTreeMap<String, &RawValue>>(value.get()).ok()?;
            let parts = parts.into_iter().filter_map(|(part, value)| Some((part, whole(value)?)));
            Some(Value::Object(parts.collect()))
        };
        let value = match whole(value) {
            Some(value) => value,
            None if field == "content" && is_encrypted => Value::Object(JsonMap::new()),
            None => parts(value)?,
        };
        Some((field, value))
    };
    Some(fields.into_iter().filter_map(read).collect())
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
    let place = if event.contains_key("redacts") { event } else { content };
    let Some(target) = optional(place, "redacts")? else { return Ok(None) };
    EventId::parse(target).map(Some).map_err(|_id_error| MalformedEvent::Wrong("redacts"))
}

fn is_redacted(event: &JsonMap) -> bool {
    let has = |field| event.get("unsigned").and_then(|unsigned| unsigned.get(field)).is_some();
    has("redacted_because") || has("redacted_by")
}

fn redacted_by(event: &JsonMap) -> Option<OwnedUserId> {
    let because = event.get("unsigned")?.get("redacted_because")?;
    UserId::parse(because.get("sender")?.as_str()?).ok()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{event_id, room_id, user_id};
    use serde_json::json;

    use super::*;

    /// As Synapse puts it into a transaction.
    fn leave() -> Value {
        json!({
            "age": 22,
            "content": {"membership": "leave"},
            "event_id": "$Ih9k-PX-NKmuwefn4Dsrq4iOgVNNkrIX634kuv7_oJQ",
            "origin_server_ts": 1_795_445_523_708_i64,
            "prev_content": {"displayname": "bob", "membership": "join"},
            "replaces_state": "$xQQGcS3KvRFSdWhs6tmgWL-AEnTC6USD3wc8T56pHsM",
            "room_id": "!RqExg7nsVhk4PudHreIPOk7ez4JDnQ-4csILRd82b38",
            "sender": "@bob1795445513:localhost",
            "state_key": "@bob1795445513:localhost",
            "type": "m.room.member",
            "unsigned": {
                "age": 22,
                "prev_content": {"displayname": "bob", "membership": "join"},
                "prev_sender": "@bob1795445513:localhost",
                "replaces_state": "$xQQGcS3KvRFSdWhs6tmgWL-AEnTC6USD3wc8T56pHsM"
            },
            "user_id": "@bob1795445513:localhost"
        })
    }

    fn without(field: &str) -> Value {
        let mut event = leave();
        event.as_object_mut().unwrap().remove(field);
        event
    }

    fn with(field: &str, value: Value) -> Value {
        let mut event = leave();
        event[field] = value;
        event
    }

    #[test]
    fn an_event_of_a_transaction_is_read() {
        let event = RoomEvent::parse(leave()).unwrap();
        assert_eq!(event.sender, user_id!("@bob1795445513:localhost"));
        assert_eq!(event.event_type, "m.room.member");
        assert_eq!(event.state_key.as_deref(), Some("@bob1795445513:localhost"));
        assert_eq!(event.age, Some(22));
        assert_eq!(event.origin_server_ts, 1_795_445_523_708);
        assert_eq!(
            event.replaces_state.as_deref(),
            Some(event_id!("$xQQGcS3KvRFSdWhs6tmgWL-AEnTC6USD3wc8T56pHsM"))
        );
        assert_eq!(event.redacts, None);
        assert!(!event.is_redacted);
        assert_eq!(RoomEvent::parse_str(&leave().to_string()), Ok(event));
    }

    #[test]
    fn what_the_server_adds_is_found_in_either_place() {
        for event in [without("unsigned"), without("age"), without("replaces_state")] {
            let event = RoomEvent::parse(event).unwrap();
            assert_eq!(event.age, Some(22));
            assert!(event.replaces_state.is_some());
        }
    }

    #[test]
    fn a_room_id_is_filled_in_but_never_overruled() {
        let room = room_id!("!RqExg7nsVhk4PudHreIPOk7ez4JDnQ-4csILRd82b38");
        assert_eq!(RoomEvent::parse(without("room_id")).unwrap().room_id, None);
        let event = RoomEvent::parse_in(room, without("room_id")).unwrap();
        assert_eq!(event.room_id.as_deref(), Some(room));
        assert!(RoomEvent::parse_in(room, leave()).is_ok());
        assert_eq!(
            RoomEvent::parse_in(room_id!("!other:localhost"), leave()),
            Err(MalformedEvent::Wrong("room_id"))
        );
    }

    #[test]
    fn a_malformed_event_names_the_field_and_not_what_stood_there() {
        for field in ["event_id", "sender", "type", "content"] {
            assert_eq!(
                RoomEvent::parse(without(field)),
                Err(MalformedEvent::Missing(match field {
                    "event_id" => "event_id",
                    "sender" => "sender",
                    "type" => "type",
                    _ => "content",
                }))
            );
        }
        for (field, value) in [
            ("event_id", json!("secret")),
            ("event_id", json!(null)),
            ("sender", json!("secret")),
            ("sender", json!({"secret": 1})),
            ("room_id", json!("secret")),
            ("type", json!(["secret"])),
            ("state_key", json!({"secret": 1})),
            ("content", json!("secret")),
        ] {
            let error = RoomEvent::parse(with(field, value)).unwrap_err();
            assert_eq!(error, MalformedEvent::Wrong(error.field()));
            assert_eq!(error.field(), field);
            assert!(!error.to_string().contains("secret"));
        }
        for field in ["event_id", "sender", "room_id", "type", "state_key"] {
            let error = RoomEvent::parse(with(field, json!("x".repeat(256)))).unwrap_err();
            assert_eq!(error, MalformedEvent::TooLong(error.field()));
            assert_eq!(error.field(), field);
        }
        for event in [json!([]), json!(null), json!("secret")] {
            assert_eq!(RoomEvent::parse(event), Err(MalformedEvent::NotAnObject));
        }
        assert_eq!(RoomEvent::parse_str("{\"secret"), Err(MalformedEvent::NotAnObject));
    }

    #[test]
    fn nonsense_in_what_is_optional_is_as_good_as_nothing() {
        let mut event = without("unsigned");
        event["age"] = json!(-1);
        event["replaces_state"] = json!(["$x"]);
        event["origin_server_ts"] = json!("yesterday");
        let event = RoomEvent::parse(event).unwrap();
        assert_eq!((event.age, event.replaces_state, event.origin_server_ts), (None, None, 0));
        let event = RoomEvent::parse(with("unsigned", json!("nothing"))).unwrap();
        assert_eq!(event.age, Some(22));
        let event = RoomEvent::parse(with("origin_server_ts", json!(1e300))).unwrap();
        assert_eq!(event.origin_server_ts, i64::MAX);
    }

    #[test]
    fn a_redaction_says_what_it_redacts_in_either_place_and_the_top_level_wins() {
        let mut redaction = with("type", json!("m.room.redaction"));
        redaction["content"] = json!({"redacts": "$inner"});
        let redacts = |event: &Value| RoomEvent::parse(event.clone()).unwrap().redacts;
        assert_eq!(redacts(&redaction).as_deref(), Some(event_id!("$inner")));
        redaction["redacts"] = json!("$outer");
        assert_eq!(redacts(&redaction).as_deref(), Some(event_id!("$outer")));
        redaction["content"] = json!({"redacts": 7});
        assert_eq!(redacts(&redaction).as_deref(), Some(event_id!("$outer")));
        redaction["redacts"] = json!(7);
        assert_eq!(RoomEvent::parse(redaction), Err(MalformedEvent::Wrong("redacts")));
    }

    #[test]
    fn only_a_redaction_redacts() {
        let event = RoomEvent::parse(with("redacts", json!("$other"))).unwrap();
        assert_eq!(event.redacts, None);
    }

    #[test]
    fn a_redacted_event_is_known_as_such() {
        let event = with("unsigned", json!({"redacted_because": {"type": "m.room.redaction"}}));
        assert!(RoomEvent::parse(event).unwrap().is_redacted);
        let because = json!({ "type": "m.room.redaction", "sender": "@alice:localhost" });
        let event = with("unsigned", json!({ "redacted_because": because }));
        let by = RoomEvent::parse(event).unwrap().redacted_by.unwrap();
        assert_eq!(by, "@alice:localhost");
        // The content is anybody's to write.
        let event = with("content", json!({"redacted_because": {}}));
        assert!(!RoomEvent::parse(event).unwrap().is_redacted);
    }

    #[test]
    fn encrypted_state_claims_the_tuple_that_is_packed_into_its_state_key() {
        let mut event = with("type", json!("m.room.encrypted"));
        event["state_key"] = json!("m.room.name:");
        let event = RoomEvent::parse(event).unwrap();
        assert_eq!(event.claimed_tuple(), Some(StateTuple::new("m.room.name", "")));
        assert_eq!(event.outer_tuple(), Some(StateTuple::new("m.room.encrypted", "m.room.name:")));
        let message = RoomEvent { state_key: None, ..event };
        assert_eq!((message.claimed_tuple(), message.outer_tuple()), (None, None));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[$@!]?.{0,12}".prop_map(Value::from),
            "[$@!][a-z]{0,4}:[a-z]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("age|redacts|replaces_state|[a-z]{1,3}", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_event_makes_it_panic_and_every_event_read_is_within_bounds(
            field in prop::sample::select(vec![
                "event_id", "room_id", "sender", "type", "state_key", "content", "unsigned",
                "age", "replaces_state", "redacts", "origin_server_ts",
            ]),
            value in any_json(),
            is_redaction in any::<bool>(),
        ) {
            let mut event = leave();
            if is_redaction {
                event["type"] = json!("m.room.redaction");
            }
            event[field] = value;
            if let Ok(event) = RoomEvent::parse(event) {
                prop_assert!(event.event_id.as_str().len() <= MAX_ID_BYTES);
                prop_assert!(event.sender.as_str().len() <= MAX_ID_BYTES);
                prop_assert!(event.event_type.len() <= MAX_ID_BYTES);
            }
        }
    }

    #[test]
    fn what_is_nested_too_deep_counts_as_absent() {
        let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
        let event = |event_type: &str, content: &str| {
            let json = format!(
                r#"{{"event_id":"$e","type":"{event_type}","state_key":"","sender":"@a:b","content":{content},
                    "unsigned":{{"age":7,"deep":{deep}}},"deep":{deep}}}"#
            );
            RoomEvent::parse_str(&json).unwrap()
        };
        let content = format!(r#"{{"membership":"leave","ciphertext":"AwgA","deep":{deep}}}"#);
        let left = event("m.room.member", &content);
        assert_eq!(
            Value::Object(left.content),
            json!({"membership": "leave", "ciphertext": "AwgA"})
        );
        assert_eq!((left.age, left.is_redacted), (Some(7), false));
        let sealed = event("m.room.encrypted", &content);
        assert!(sealed.content.is_empty() && !sealed.is_redacted);
        // Where nothing is too deep in its content, that stays.
        assert_eq!(event("m.room.encrypted", r#"{"ciphertext":"AwgA"}"#).content.len(), 1);
        let broken = format!(r#"{{"event_id":"$e","content":{deep}"#);
        assert_eq!(RoomEvent::parse_str(&broken), Err(MalformedEvent::NotAnObject));
    }
}
