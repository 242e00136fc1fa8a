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

/// The longest content that is sealed, in bytes of JSON. An event may have 64 KiB (spec: "Size
/// limits"); base64 makes a ciphertext a third longer than its plaintext, and the rest of the event
/// and of the payload needs up to 5 KiB.
pub const MAX_CONTENT_BYTES: usize = 44 * 1024;
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
    /// Its owner cross-signed it with another identity than the one that counts.
    OtherIdentity,
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
    /// The sender's cross-signing identity is another than the one that counts: an administrator has to confirm it.
    IdentityChanged,
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
            Self::IdentityChanged => "identity_changed",
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
            Self::IdentityChanged => {
                "the sender's cross-signing identity changed, and nobody has confirmed it"
            }
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
        .or_else(|| shape_refusal(input.tuple, input.content).map(Refusal::Shape))
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
    match payload.device {
        DeviceTrust::CrossSigned => None,
        _ if !input.require_cross_signed => None,
        DeviceTrust::OtherIdentity => Some(Refusal::IdentityChanged),
        DeviceTrust::NotCrossSigned | DeviceTrust::Unknown => Some(Refusal::DeviceNotCrossSigned),
    }
}

fn type_refusal(input: &Judgement<'_>) -> Option<Refusal> {
    let event_type = &input.tuple.event_type;
    if input.payload.is_some() && input.exempt.is_critical(event_type) {
        return Some(Refusal::Critical);
    }
    input.exempt.contains(event_type).then_some(Refusal::Exempt)
}

fn authority_refusal(input: &Judgement<'_>) -> Option<Refusal> {
    if !input.power.may_own(input.sender, &input.tuple.state_key) {
        return Some(Refusal::NotOwner);
    }
    let needed = input.power.needed_for_state(&input.tuple.event_type);
    let has = input.power.user_level(input.sender);
    (has < needed).then_some(Refusal::NoPower { needed, has })
}

fn shape_refusal(tuple: &StateTuple, content: &JsonMap) -> Option<&'static str> {
    if tuple.packed().is_err() {
        return Some("its type and state key cannot be packed");
    }
    if json_bytes(content) > MAX_CONTENT_BYTES {
        return Some("it has more than 44 KiB");
    }
    match tuple.event_type.as_str() {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{OwnedUserId, room_id, user_id};
    use serde_json::json;

    use super::*;
    use crate::state::{exempt::CRITICAL, power::PowerLevel::Level};

    /// A sealed event as a table of what is known of it; the default is one that is accepted.
    #[derive(Clone, Debug)]
    struct Case {
        tuple: StateTuple,
        sender: OwnedUserId,
        level: i64,
        content: Value,
        sealed: bool,
        inner_type: Option<String>,
        inner_key: Option<String>,
        inner_room: Option<&'static str>,
        owner: Option<OwnedUserId>,
        device: DeviceTrust,
        seen: bool,
        strict: bool,
    }

    impl Case {
        fn of(event_type: &str, state_key: &str) -> Self {
            Self {
                tuple: StateTuple::new(event_type, state_key),
                sender: user_id!("@alice:localhost").to_owned(),
                level: 50,
                content: json!({"name": "Garden"}),
                sealed: true,
                inner_type: Some(event_type.to_owned()),
                inner_key: Some(state_key.to_owned()),
                inner_room: Some("!room:localhost"),
                owner: Some(user_id!("@alice:localhost").to_owned()),
                device: DeviceTrust::CrossSigned,
                seen: false,
                strict: true,
            }
        }

        fn name() -> Self {
            Self::of("m.room.name", "")
        }

        fn verdict(&self) -> Verdict {
            let levels = json!({"users": {self.sender.as_str(): self.level}});
            let power = PowerLevels::from_content(levels.as_object(), &[], "11");
            let payload = PayloadFacts {
                event_type: self.inner_type.as_deref(),
                state_key: self.inner_key.as_deref(),
                room_id: self.inner_room,
                session_owner: self.owner.as_deref(),
                device: self.device,
                seen_in_another_event: self.seen,
            };
            judge(&Judgement {
                room_id: room_id!("!room:localhost"),
                tuple: &self.tuple,
                sender: &self.sender,
                power: &power,
                exempt: &ExemptTypes::default(),
                content: self.content.as_object().unwrap(),
                payload: self.sealed.then_some(payload),
                require_cross_signed: self.strict,
            })
        }

        fn refusal(&self) -> Refusal {
            match self.verdict() {
                Verdict::Refuse(refusal) => refusal,
                Verdict::Accept => panic!("accepted: {self:?}"),
            }
        }
    }

    #[test]
    fn an_honest_rename_is_accepted_sealed_or_in_plain() {
        assert_eq!(Case::name().verdict(), Verdict::Accept);
        assert!(Case { sealed: false, ..Case::name() }.verdict().is_accept());
    }

    #[test]
    fn a_packed_key_that_does_not_match_its_content_is_refused() {
        for case in [
            Case { inner_type: Some("m.room.topic".into()), ..Case::name() },
            Case { inner_type: None, ..Case::name() },
            Case { inner_key: Some("x".into()), ..Case::name() },
            Case { inner_key: None, ..Case::name() },
        ] {
            assert_eq!(case.refusal(), Refusal::PackedKeyMismatch);
        }
    }

    #[test]
    fn a_ciphertext_of_another_room_is_refused() {
        for inner_room in [None, Some("!other:localhost")] {
            assert_eq!(Case { inner_room, ..Case::name() }.refusal(), Refusal::WrongRoom);
        }
    }

    #[test]
    fn a_replayed_old_ciphertext_is_refused() {
        assert_eq!(Case { seen: true, ..Case::name() }.refusal(), Refusal::Replayed);
    }

    #[test]
    fn a_session_of_somebody_else_is_refused() {
        for owner in [None, Some(user_id!("@bob:localhost").to_owned())] {
            assert_eq!(Case { owner, ..Case::name() }.refusal(), Refusal::SenderMismatch);
        }
    }

    #[test]
    fn a_device_that_nobody_cross_signed_is_refused_unless_policy_lets_it_in() {
        for device in [DeviceTrust::NotCrossSigned, DeviceTrust::Unknown] {
            let case = Case { device, ..Case::name() };
            assert_eq!(case.refusal(), Refusal::DeviceNotCrossSigned);
            assert!(Case { strict: false, ..case }.verdict().is_accept());
        }
    }

    #[test]
    fn an_edit_without_the_power_for_the_true_type_is_refused() {
        let refusal = Case { level: 49, ..Case::name() }.refusal();
        assert_eq!(refusal, Refusal::NoPower { needed: Level(50), has: Level(49) });
        assert_eq!(refusal.to_string(), "the sender has power 49 and the true type needs 50");
    }

    #[test]
    fn the_rooms_own_rules_are_refused_whoever_sealed_them() {
        for event_type in CRITICAL {
            let case = Case { level: 100, ..Case::of(event_type, "") };
            assert_eq!(case.refusal(), Refusal::Critical, "{event_type}");
            assert_eq!(Case { sealed: false, ..case }.refusal(), Refusal::Exempt);
        }
    }

    #[test]
    fn an_exempt_type_is_left_alone() {
        let mut case = Case::of("m.room.server_acl", "");
        assert_eq!(case.refusal(), Refusal::Exempt);
        case.sealed = false;
        assert_eq!(case.refusal(), Refusal::Exempt);
    }

    #[test]
    fn a_state_key_that_is_somebody_elses_user_id_is_refused() {
        for key in [
            "@bob:localhost",
            "@alice:localhost_x",
            "@",
            "_@bob:localhost_DEVICE",
            "_@alice:localhost.evil_DEVICE",
        ] {
            assert_eq!(Case::of("com.example", key).refusal(), Refusal::NotOwner, "{key}");
        }
        for key in
            ["@alice:localhost", "_@alice:localhost", "_@alice:localhost_DEVICE", "_", "other"]
        {
            assert!(Case::of("com.example", key).verdict().is_accept(), "{key}");
        }
    }

    #[test]
    fn the_known_types_have_their_shape_and_others_have_any() {
        for (event_type, content, accepted) in [
            ("m.room.name", json!({}), true),
            ("m.room.name", json!({"name": ""}), true),
            ("m.room.name", json!({"name": "é".repeat(255)}), true),
            ("m.room.name", json!({"name": "é".repeat(256)}), false),
            ("m.room.name", json!({"name": 1}), false),
            ("m.room.topic", json!({"topic": "t".repeat(1000)}), true),
            ("m.room.topic", json!({"topic": ["t"]}), false),
            ("m.room.avatar", json!({"url": "mxc://localhost/x", "info": {}}), true),
            ("m.room.avatar", json!({"file": {"url": "mxc://localhost/x"}}), true),
            ("m.room.avatar", json!({"url": {}}), false),
            ("m.room.avatar", json!({"file": "x"}), false),
            ("m.room.avatar", json!({"info": 1}), false),
            ("com.example", json!({"name": 1}), true),
        ] {
            let case = Case { content, ..Case::of(event_type, "") };
            assert_eq!(case.verdict().is_accept(), accepted, "{event_type} {}", case.content);
            if !accepted {
                assert_eq!(case.refusal().as_label(), "shape");
            }
        }
    }

    #[test]
    fn a_content_that_would_not_fit_into_an_event_is_refused() {
        let frame = r#"{"x":""}"#.len();
        for (bytes, accepted) in [(MAX_CONTENT_BYTES, true), (MAX_CONTENT_BYTES + 1, false)] {
            let content = json!({"x": "a".repeat(bytes - frame)});
            let case = Case { content, ..Case::of("com.example", "") };
            assert_eq!(case.verdict().is_accept(), accepted, "{bytes}");
        }
    }

    #[test]
    fn plain_state_that_cannot_be_packed_is_refused() {
        for tuple in [StateTuple::new("com:example", ""), StateTuple::new("t", "k".repeat(254))] {
            let case = Case { tuple, sealed: false, ..Case::name() };
            assert_eq!(case.refusal().as_label(), "shape");
        }
    }

    /// The widest event that may be judged sealable, with generous room for all that surrounds it.
    #[test]
    fn what_is_accepted_fits_into_an_event_once_it_is_encrypted() {
        use vodozemac::megolm::{GroupSession, SessionConfig};
        let wide = "x".repeat(255);
        let envelope = wide.len() * 5 + 200;
        let plaintext = "a".repeat(MAX_CONTENT_BYTES + envelope);
        let ciphertext = GroupSession::new(SessionConfig::version_1()).encrypt(plaintext);
        let rest_of_the_event = 3 * 1024;
        assert!(ciphertext.to_base64().len() + rest_of_the_event <= 64 * 1024);
    }

    #[test]
    fn a_forgery_is_called_one_even_where_power_is_lacking_too() {
        let case = Case { seen: true, level: 0, ..Case::name() };
        assert_eq!(case.refusal(), Refusal::Replayed);
    }

    #[test]
    fn every_refusal_has_a_label_of_its_own_and_a_sentence() {
        let all = [
            Refusal::NoPower { needed: Level(50), has: Level(0) },
            Refusal::NotOwner,
            Refusal::Critical,
            Refusal::Exempt,
            Refusal::PackedKeyMismatch,
            Refusal::WrongRoom,
            Refusal::Replayed,
            Refusal::DeviceNotCrossSigned,
            Refusal::SenderMismatch,
            Refusal::Shape("it is empty"),
        ];
        let labels: std::collections::BTreeSet<_> = all.iter().map(Refusal::as_label).collect();
        assert_eq!(labels.len(), all.len());
        for refusal in &all {
            assert!(refusal.as_label().chars().all(|c| c.is_ascii_lowercase() || c == '_'));
            assert!(refusal.to_string().contains(' '));
        }
    }

    proptest! {
        #[test]
        fn only_what_nothing_speaks_against_is_accepted(
            event_type in prop::sample::select(vec![
                "m.room.name", "com.example", "m.room.power_levels", "m.room.tombstone",
            ]),
            same_type in any::<bool>(),
            same_key in any::<bool>(),
            same_room in any::<bool>(),
            own_session in any::<bool>(),
            own_key in any::<bool>(),
            seen in any::<bool>(),
            strict in any::<bool>(),
            sealed in any::<bool>(),
            level in 40_i64..60,
            device in prop::sample::select(vec![
                DeviceTrust::CrossSigned, DeviceTrust::NotCrossSigned, DeviceTrust::Unknown,
            ]),
        ) {
            let key = if own_key { "@alice:localhost" } else { "@bob:localhost" };
            let mut case = Case { level, device, seen, strict, sealed, ..Case::of(event_type, key) };
            if !same_type { case.inner_type = Some("m.room.topic".to_owned()); }
            if !same_key { case.inner_key = Some(String::new()); }
            if !same_room { case.inner_room = Some("!other:localhost"); }
            if !own_session { case.owner = None; }
            let genuine = same_type && same_key && same_room && own_session && !seen
                && (!strict || device == DeviceTrust::CrossSigned);
            let sealable = matches!(event_type, "m.room.name" | "com.example");
            let expected = (!sealed || genuine) && sealable && own_key && level >= 50;
            prop_assert_eq!(case.verdict().is_accept(), expected);
        }
    }
}
