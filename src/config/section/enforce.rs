//! `enforce`: what the keeper does about state that breaks a rule.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the keeper does about encrypted state that breaks a rule, from gentle to firm. What was
/// redacted is never restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Enforce {
    /// The sender lacked the power for the true type.
    pub power: Action,
    /// The true state key is another user's id.
    pub ownership: Action,
    /// The type is one that the room's own rules are made of, such as `m.room.power_levels`, and
    /// never counts when it is encrypted. To restore it is to redact the event and to say again what stands in plain.
    pub critical: Action,
    /// The event claims a time in the far future. It is sealed anew and never redacted.
    pub timestamp: Action,
    /// The content has not the form that its type asks for, or is too large.
    pub shape: Action,
    /// State is said in plain where the room says that it is encrypted. A first value counts all the same: to restore it is
    /// to seal it at once.
    pub plain: Action,
    /// The ciphertext, or its place in its session, stood in another event before.
    pub replay: Action,
}

/// What is done about state that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is logged, counted and told to the administrators.
    Report,
    /// It is reported, and the last allowed value is sealed again.
    Restore,
    /// It is reported, the last allowed value is sealed again, and the event is redacted.
    Redact,
}

impl Default for Enforce {
    fn default() -> Self {
        Self {
            power: Action::Restore,
            ownership: Action::Restore,
            critical: Action::Restore,
            timestamp: Action::Report,
            shape: Action::Report,
            plain: Action::Report,
            replay: Action::Report,
        }
    }
}
