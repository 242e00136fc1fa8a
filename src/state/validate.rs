//! Whether a state event may be given the keeper's authority.

use std::fmt;

use ruma::{RoomId, UserId};
use serde_json::Value;

use super::{
    JsonMap,
    exempt::ExemptTypes,
    power::{PowerLevel, PowerLevels},
    tuple::StateTuple,
};

/// The longest content that is sealed, in bytes of JSON. What is encrypted grows by a third, and
/// an event may have 64 KiB.
pub const MAX_CONTENT_BYTES: usize = 60 * 1024;
/// The longest room name that is sealed, in characters.
pub const MAX_NAME_CHARS: usize = 255;

/// What is known of a state event that asks to be sealed.
#[derive(Clone, Debug)]
pub struct Judgement<'a> {
    /// The room in which it stands.
    pub room_id: &'a RoomId,
    /// Its tuple: the outer one of state in plain, the unpacked one of encrypted state.
    pub tuple: &'a StateTuple,
    /// Who sent it, by the homeserver's word.
    pub sender: &'a UserId,
    /// The power levels that stood when it was sent.
    pub power: &'a PowerLevels,
    /// What is never sealed.
    pub exempt: &'a ExemptTypes,
    /// Its true content.
    pub content: &'a JsonMap,
    /// What decryption brought to light; `None` for state in plain.
    pub payload: Option<PayloadFacts<'a>>,
    /// Whether a device must be cross-signed (`state.reseal_from`).
    pub require_cross_signed: bool,
}

/// What is known of an encrypted state event once it is decrypted.
#[derive(Clone, Debug)]
pub struct PayloadFacts<'a> {
    /// The type inside the payload, if it has one.
    pub event_type: Option<&'a str>,
    /// The state key inside the payload, if it has one.
    pub state_key: Option<&'a str>,
    /// The room inside the payload, if it has one.
    pub room_id: Option<&'a str>,
    /// The user who made the Megolm session, by the word of Olm; `None` when nobody knows.
    pub session_owner: Option<&'a UserId>,
    /// What is known of the device that made it.
    pub device: DeviceTrust,
    /// Whether another event has the same (session, index).
    pub seen_in_another_event: bool,
}

/// What is known of the device that encrypted an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceTrust {
    /// Its owner cross-signed it.
    CrossSigned,
    /// Its owner did not.
    NotCrossSigned,
    /// Nobody knows which device it was.
    Unknown,
}

/// Whether an event may be sealed by the keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Accept,
    /// It may not: it is reported, and left as it is.
    Refuse(Refusal),
}

/// Why an event is not sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The sender lacked the power for the true type.
    NoPower {
        /// The level that the true type needs.
        needed: PowerLevel,
        /// The level that the sender had.
        has: PowerLevel,
    },
    /// The state key is the user id of somebody else.
    NotOwner,
    /// A type that must never be sealed stood under encryption.
    Critical,
    /// The type is exempt, and stays as it is.
    Exempt,
    /// The payload's type and state key are not those of the outer state key.
    PackedKeyMismatch,
    /// The payload was encrypted for another room.
    WrongRoom,
    /// The same ciphertext, or its index, stood in another event.
    Replayed,
    /// The device that encrypted it is not cross-signed by its owner, or unknown.
    DeviceNotCrossSigned,
    /// The session belongs to somebody else, or nobody knows to whom.
    SenderMismatch,
    /// The content is not what the type calls for; says what is wrong with it.
    Shape(&'static str),
}

impl Verdict {
    /// Whether the event may be sealed.
    pub fn is_accept(&self) -> bool {
        matches!(self, Self::Accept)
    }
}

impl Refusal {
    /// The reason as a metric's label, in snake case.
    pub fn as_label(&self) -> &'static str {
        match self {
            Self::NoPower { .. } => "no_power",
            Self::NotOwner => "not_owner",
            Self::Critical => "critical",
            Self::Exempt => "exempt",
            Self::PackedKeyMismatch => "packed_key_mismatch",
            Self::WrongRoom => "wrong_room",
            Self::Replayed => "replayed",
            Self::DeviceNotCrossSigned => "device_not_cross_signed",
            Self::SenderMismatch => "sender_mismatch",
            Self::Shape(_) => "shape",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = match self {
            Self::NoPower { needed, has } => {
                return write!(f, "the sender has power {has} and the true type needs {needed}");
            }
            Self::Shape(what) => return write!(f, "the content has the wrong shape: {what}"),
            Self::NotOwner => "the state key is somebody else's user id",
            Self::Critical => "state of this type must never be encrypted",
            Self::Exempt => "state of this type is exempt from sealing",
            Self::PackedKeyMismatch => "the outer state key does not match the payload",
            Self::WrongRoom => "the payload was encrypted for another room",
            Self::Replayed => "the ciphertext's index stood in another event before",
            Self::DeviceNotCrossSigned => "the sending device is not cross-signed by its owner",
            Self::SenderMismatch => "the session does not belong to the event's sender",
        };
        f.write_str(sentence)
    }
}

/// Judges an event: accepted only when nothing speaks against it.
///
/// What was tampered with is named before what is merely not allowed, so that the report of a
/// forgery does not read like an honest mistake.
pub fn judge(input: &Judgement<'_>) -> Verdict {
    match refusal(input) {
        Some(refusal) => Verdict::Refuse(refusal),
        None => Verdict::Accept,
    }
}

fn refusal(input: &Judgement<'_>) -> Option<Refusal> {
    input
        .payload
        .as_ref()
        .and_then(|payload| payload_refusal(input, payload))
        .or_else(|| type_refusal(input))
        .or_else(|| authority_refusal(input))
        .or_else(|| shape_refusal(&input.tuple.event_type, input.content).map(Refusal::Shape))
}

fn payload_refusal(input: &Judgement<'_>, payload: &PayloadFacts<'_>) -> Option<Refusal> {
    let tuple = input.tuple;
    if payload.event_type != Some(tuple.event_type.as_str())
        || payload.state_key != Some(tuple.state_key.as_str())
    {
        return Some(Refusal::PackedKeyMismatch);
    }
    if payload.room_id != Some(input.room_id.as_str()) {
        return Some(Refusal::WrongRoom);
    }
    if payload.session_owner != Some(input.sender) {
        return Some(Refusal::SenderMismatch);
    }
    if payload.seen_in_another_event {
        return Some(Refusal::Replayed);
    }
    if input.require_cross_signed && payload.device != DeviceTrust::CrossSigned {
        return Some(Refusal::DeviceNotCrossSigned);
    }
    None
}

fn type_refusal(input: &Judgement<'_>) -> Option<Refusal> {
    let event_type = &input.tuple.event_type;
    if input.payload.is_some() && input.exempt.is_critical(event_type) {
        return Some(Refusal::Critical);
    }
    input.exempt.contains(event_type).then_some(Refusal::Exempt)
}

fn authority_refusal(input: &Judgement<'_>) -> Option<Refusal> {
    if !is_owner(&input.tuple.state_key, input.sender) {
        return Some(Refusal::NotOwner);
    }
    let needed = input.power.needed_for_state(&input.tuple.event_type);
    let has = input.power.user_level(input.sender);
    (has < needed).then_some(Refusal::NoPower { needed, has })
}

/// The homeserver protects a state key that starts with `@`, but not the same key once it is
/// packed, nor the `_@user:server_device` of call memberships (spec: "Authorization rules").
fn is_owner(state_key: &str, sender: &UserId) -> bool {
    if state_key.starts_with('@') {
        return state_key == sender.as_str();
    }
    let Some(named) = state_key.strip_prefix('_').filter(|key| key.starts_with('@')) else {
        return true;
    };
    named
        .strip_prefix(sender.as_str())
        .is_some_and(|behind| behind.is_empty() || behind.starts_with('_'))
}

fn shape_refusal(event_type: &str, content: &JsonMap) -> Option<&'static str> {
    if json_bytes(content) > MAX_CONTENT_BYTES {
        return Some("it has more than 60 KiB");
    }
    match event_type {
        "m.room.name" => name_fault(content),
        "m.room.topic" => (!is_text_or_absent(content, "topic")).then_some("topic is no string"),
        "m.room.avatar" => avatar_fault(content),
        _ => None,
    }
}

/// An absent or empty name is how a room loses its name (spec: "m.room.name").
fn name_fault(content: &JsonMap) -> Option<&'static str> {
    match content.get("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if name.chars().count() > MAX_NAME_CHARS => {
            Some("name has more than 255 characters")
        }
        Some(Value::String(_)) => None,
        Some(_) => Some("name is no string"),
    }
}

fn avatar_fault(content: &JsonMap) -> Option<&'static str> {
    if !is_text_or_absent(content, "url") {
        return Some("url is no string");
    }
    for (field, fault) in [("file", "file is no object"), ("info", "info is no object")] {
        if !matches!(content.get(field), None | Some(Value::Null | Value::Object(_))) {
            return Some(fault);
        }
    }
    None
}

fn is_text_or_absent(content: &JsonMap, field: &str) -> bool {
    matches!(content.get(field), None | Some(Value::Null | Value::String(_)))
}

fn json_bytes(content: &JsonMap) -> usize {
    serde_json::to_vec(content).map_or(usize::MAX, |json| json.len())
}
