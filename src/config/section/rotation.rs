//! `rotation`: when a state session is retired, and what follows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Duration;

/// When a state session is retired, whichever comes first, and what follows. The departure of
/// somebody who held its key retires it as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rotation {
    /// The longest time that one session is used, in milliseconds.
    #[schemars(range(min = 1))]
    pub milliseconds: u64,
    /// The largest number of events under one session.
    #[schemars(range(min = 1))]
    pub messages: u64,
    /// Departures within this time are one rotation. Nothing is sealed under the old session in
    /// between.
    pub settle: Duration,
    /// When the session that follows a retired one is made and shared.
    pub when: RotateWhen,
    /// What is sealed anew under the session that follows.
    pub reseal: RotateReseal,
    /// How many state events a second are sealed anew in one room because of a rotation.
    #[schemars(range(min = 1))]
    pub reseal_per_second: u32,
}

/// When the session that follows a retired one is made and shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RotateWhen {
    /// When something is sealed next.
    NextChange,
    /// Straight away.
    AtOnce,
}

/// What is sealed anew after a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RotateReseal {
    /// Nothing: whoever left could read what stands already. With a session for each tuple, a later
    /// joiner's key opens the value that stands and nothing older.
    None,
    /// The room's name, topic and avatar.
    Aesthetic,
    /// All encrypted state: under a session for the whole room, nothing less keeps a later joiner's
    /// keys out of the time before.
    All,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            milliseconds: 604_800_000,
            messages: 100,
            settle: Duration::from_secs(5),
            when: RotateWhen::NextChange,
            reseal: RotateReseal::None,
            reseal_per_second: 5,
        }
    }
}
