//! `sharing`: to whom keys go, and when.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rate::Rate;
use crate::config::Duration;

/// To whom the keeper gives the keys of encrypted state, and when it refreshes that state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sharing {
    /// Whether keys are given before anybody asks for them. `false` is MSC3414 to the letter: a key
    /// goes only to a device that requests it, and stock clients request keys of nobody but their own
    /// devices: with them, `false` leaves joiners without a name.
    pub unasked: bool,
    /// Which members are given keys: what has to be known of how they came in.
    pub members: Members,
    /// The power that whoever invites somebody needs in order to vouch for them, where `members` is
    /// `vouched`.
    pub vouched_power: u32,
    /// How many devices are given keys unasked, in all rooms together: because their users join or
    /// are invited, or because they are new. What is over it waits.
    pub budget: Rate<2000, 500>,
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

/// Which members are given keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Members {
    /// Everybody who is joined or invited, as the homeserver says.
    Joined,
    /// Those who have, or whose inviter had, the power of `vouched_power`, and those who are joined
    /// to a space that the keeper is in and that the room's join rule lets in. Others are held for
    /// an administrator's word.
    Vouched,
    /// Those whom an administrator approved, room by room. Others are held for it.
    Approved,
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
            unasked: true,
            members: Members::Joined,
            vouched_power: 50,
            budget: Rate::default(),
            gate_timeout: Duration::from_secs(3),
            invitees: Invitees::Aesthetic,
            devices: Devices::CrossSigned,
            device_refresh_interval: Duration::from_secs(10 * 60),
            refresh_per_second: 5,
            refresh_window: Duration::from_millis(500),
        }
    }
}
