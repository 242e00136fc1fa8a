//! `requests`: how requests for keys are answered, and how many of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rate::Rate;
use crate::config::Duration;

/// How requests for keys (`m.room_key_request`) are answered, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Requests {
    /// Whether the keeper gives away sessions that members made, once they are superseded. A stock
    /// client encrypts messages under the same session, so `true` may open messages.
    pub forward_member_sessions: bool,
    /// How long a device that holds a key is not given it once more.
    pub cool_down: Duration,
    /// How many requests wait for their turn, at most. Beyond it the oldest of whoever has most of them
    /// waiting go first.
    #[schemars(range(min = 1))]
    pub queue: u32,
    /// How many requests are answered. What is over a limit waits.
    pub limits: Limits,
}

/// How many requests are answered: one has to be within all four.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Those of one device.
    pub device: Rate<100, 5>,
    /// Those of one user, all devices together.
    pub user: Rate<200, 10>,
    /// Those about one room.
    pub room: Rate<500, 50>,
    /// All of them.
    pub overall: Rate<1000, 200>,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            forward_member_sessions: false,
            cool_down: Duration::from_secs(5 * 60),
            queue: 50_000,
            limits: Limits::default(),
        }
    }
}
