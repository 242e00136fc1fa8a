//! `sharing`: to whom keys go, and when.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Duration;

/// To whom the keeper gives the keys of encrypted state, and when it refreshes that state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sharing {
    /// How long a state event waits, at most, for its keys to reach the members' devices. Devices
    /// that cannot be reached in that time get key and refresh later.
    pub gate_timeout: Duration,
    /// Which keys the devices of an invited user get before the join.
    pub invitees: Invitees,
    /// Which devices get keys at all.
    pub devices: Devices,
    /// How often, at most, devices that appear or are signed make the keeper refresh one room.
    pub device_refresh_interval: Duration,
    /// How many state events a second the keeper sends as refreshes, in all rooms together.
    #[schemars(range(min = 1))]
    pub refresh_per_second: u32,
    /// Joins within this time share one refresh. The first of them is served at once.
    pub refresh_window: Duration,
}

/// Which keys an invited user's devices get before the join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Invitees {
    /// Those of the room's name, topic and avatar.
    Aesthetic,
    /// Those of all encrypted state.
    All,
    /// No keys, before the join.
    None,
}

/// Which devices get keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Devices {
    /// Those that their owner has cross-signed.
    CrossSigned,
    /// Every device, also one that the homeserver alone vouches for.
    All,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            gate_timeout: Duration::from_secs(3),
            invitees: Invitees::Aesthetic,
            devices: Devices::CrossSigned,
            device_refresh_interval: Duration::from_secs(10 * 60),
            refresh_per_second: 5,
            refresh_window: Duration::from_millis(500),
        }
    }
}
