//! `rotation`: when a state session is retired.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a state session is retired, whichever comes first. The departure of somebody who held its
/// key retires it as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rotation {
    /// The longest time that one session is used, in milliseconds.
    #[schemars(range(min = 1))]
    pub milliseconds: u64,
    /// The largest number of events under one session.
    #[schemars(range(min = 1))]
    pub messages: u64,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { milliseconds: 604_800_000, messages: 100 }
    }
}
