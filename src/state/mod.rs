//! Encrypted state as a language: tuples, packed state keys, sealed payloads, and the rules that
//! say which state event means what it says.
//!
//! Everything here is pure: no I/O, no clock, no randomness. All of it reads what other people
//! wrote, so nothing here panics, and no error repeats an event's content.

pub mod avatar;
pub mod encryption;
pub mod event;
pub mod exempt;
pub mod glob;
pub mod history_visibility;
pub mod join_rules;
pub mod megolm;
pub mod membership;
pub mod payload;
pub mod power;
pub mod rule;
pub mod spaces;
pub mod succession;
pub mod tuple;
pub mod validate;

pub use avatar::{has_public_picture, public_picture};
pub use encryption::RoomEncryption;
pub use event::{MalformedEvent, RoomEvent};
pub use exempt::{CRITICAL, ExemptTypes, SenderBound};
pub use glob::Glob;
pub use history_visibility::HistoryVisibility;
pub use join_rules::rooms_let_in;
pub use megolm::{MalformedMegolm, MegolmContent};
pub use membership::Membership;
pub use payload::{Form, MalformedPayload, SealedPayload, StandsFor};
pub use power::{PowerLevel, PowerLevels, creators_of};
pub use rule::Rule;
pub use spaces::{canonical_alias, is_link, is_space, is_suggested, via};
pub use tuple::{PackError, PackedStateKey, StateTuple};
pub use validate::{DeviceTrust, Judgement, PayloadFacts, Refusal, Verdict, judge};

/// A JSON object, as event content is held everywhere on this floor.
pub type JsonMap = serde_json::Map<String, serde_json::Value>;

/// The longest identifier, event type or state key that Matrix allows, in bytes ("Size limits").
pub const MAX_ID_BYTES: usize = 255;
