//! `state`: which state the keeper seals, when, and under which sessions.

use ruma::events::StateEventType;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::sharing::Devices;
use crate::config::{Duration, TypeGlob};

/// How the keeper seals the state of rooms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// What one state session covers.
    pub session_scope: SessionScope,
    /// When a member's state event is sealed anew by the keeper.
    pub reseal: Reseal,
    /// How long the keeper waits before it seals anew, so that several edits become one event.
    pub reseal_delay: Duration,
    /// From whose devices the keeper takes state to seal anew.
    pub reseal_from: Devices,
    /// State event types that the keeper never seals, beside those that MSC4362 exempts: the
    /// homeserver has to read these to enforce or to show them.
    #[serde(deserialize_with = "in_full")]
    #[schemars(
        with = "Vec<String>",
        extend("items" = { "type": "string", "format": "matrix-event-type" })
    )]
    pub exempt: Vec<StateEventType>,
    /// Patterns (`*`, `?`) for state event types that are never sealed anew, because their meaning
    /// hangs on who sent them. State keys that hold a user id never are.
    pub never_reseal: Vec<TypeGlob>,
    /// In which rooms the keeper seals state.
    pub seal: Seal,
    /// What is done about a type of `exempt` that a member's client sealed all the same, so that the
    /// homeserver cannot read it.
    pub exempt_sealed: ExemptSealed,
    /// What becomes of a copy in plain of what is sealed, which homeservers and old clients read.
    pub plain_copy: PlainCopy,
    /// The name that stands in plain under `plain_copy: stub`.
    #[serde(deserialize_with = "as_name")]
    #[schemars(extend("format" = "room-name"))]
    pub plain_stub: String,
    /// For how many days each state event is kept, allowed or not, with what stands in it. Current
    /// state is kept for longer, and what was redacted not at all.
    #[schemars(range(min = 1))]
    pub journal_days: u32,
    /// Whether a warning is logged when a membership event gives a `reason`: the homeserver can
    /// read it.
    pub warn_membership_reasons: bool,
    /// For how long the key of a member's session is kept once it is needed no more: its maker uses
    /// a newer one, or the member or the keeper left the room.
    pub member_keys_kept: Duration,
}

/// What one state session covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionScope {
    /// One state tuple (type and state key): a key opens that tuple alone.
    Tuple,
    /// One room: fewer keys, and a key opens the state of all tuples sealed after it.
    Room,
}

/// When a member's state event is sealed anew by the keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reseal {
    /// Soon after it changed.
    OnChange,
    /// When somebody who lacks the key is invited or joins, for a quiet timeline.
    OnNeed,
}

/// In which rooms the keeper seals state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Seal {
    /// Those whose `m.room.encryption` says that state is encrypted.
    Flagged,
    /// Every encrypted room. Stock clients show sealed state there too, and go on sending their own
    /// in plain.
    EncryptedRooms,
    /// None.
    Off,
}

/// What is done about an exempt type that a member's client sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExemptSealed {
    /// It is logged and counted.
    Report,
    /// It is put back in plain as well, where its sender and the keeper have the power for it.
    Publish,
}

/// What becomes of a copy in plain of what is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlainCopy {
    /// One that is there stays untouched, and is warned about; none is ever written.
    Keep,
    /// There is one of everything that is sealed, and it is kept in step: for rooms whose state is
    /// no secret.
    Mirror,
    /// The name is `plain_stub`, for lists and directories; any other copy is emptied.
    Stub,
    /// It is emptied, and what stood there is redacted.
    Clear,
}

/// Types that homeservers read themselves, beyond MSC4362's list.
const EXEMPT: [&str; 5] = [
    "m.room.server_acl",
    "m.room.tombstone",
    "m.room.canonical_alias",
    "m.space.child",
    "m.space.parent",
];

/// Calls, RTC membership and live location: sealed anew, the keeper would be the caller.
const NEVER_RESEAL: [&str; 8] = [
    "m.call",
    "m.call.member",
    "org.matrix.msc3401.call",
    "org.matrix.msc3401.call.member",
    "m.rtc.*",
    "org.matrix.msc4143.*",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
];

/// Event types without patterns: the types of this list are compared to the letter.
fn in_full<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<StateEventType>, D::Error> {
    let types = Vec::<StateEventType>::deserialize(deserializer)?;
    let is_full = |event_type: &StateEventType| {
        let name = event_type.to_string();
        !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '*')
    };
    match types.iter().all(is_full) {
        true => Ok(types),
        false => Err(D::Error::custom("not an event type in full")),
    }
}

/// The longest name, in characters.
const NAME_CHARS: usize = 255;

/// A room's name in plain.
fn as_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    match !name.trim().is_empty() && name.chars().count() <= NAME_CHARS {
        true => Ok(name),
        false => Err(D::Error::custom("not a room name")),
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            session_scope: SessionScope::Tuple,
            reseal: Reseal::OnChange,
            reseal_delay: Duration::from_millis(250),
            reseal_from: Devices::CrossSigned,
            exempt: EXEMPT.map(StateEventType::from).to_vec(),
            never_reseal: NEVER_RESEAL.iter().filter_map(|glob| glob.parse().ok()).collect(),
            seal: Seal::Flagged,
            exempt_sealed: ExemptSealed::Report,
            plain_copy: PlainCopy::Keep,
            plain_stub: "Encrypted room".to_owned(),
            journal_days: 90,
            warn_membership_reasons: false,
            member_keys_kept: Duration::from_secs(3600),
        }
    }
}
