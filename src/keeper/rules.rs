//! What the organisation wants, as the keeper weighs it: the configuration, made ready.

use crate::{
    config::{self, Config},
    policy::{DevicePolicy, InviteePolicy, SharingPolicy, UserGlob},
    state::{ExemptTypes, SenderBound},
};

/// When a member's value is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reseal {
    /// As soon as it changes.
    OnChange,
    /// Once somebody comes who lacks its key.
    OnNeed,
}

/// What a state session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionScope {
    /// One tuple.
    Tuple,
    /// All of a room's state.
    Room,
}

/// The rules by which rooms are kept. Times are in milliseconds.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Who is given keys.
    pub sharing: SharingPolicy,
    /// The same in words, for the ledger.
    pub policy: String,
    /// How long the ledger's history is kept.
    pub ledger_retention: i64,
    /// How long a seal waits for other servers.
    pub gate_timeout: i64,
    /// Joins within it share a refresh.
    pub refresh_window: i64,
    /// A room is refreshed for new devices at most once in it.
    pub device_refresh_interval: i64,
    /// How many refreshes there are a second, at most.
    pub refresh_per_second: u32,
    /// When a member's value is sealed.
    pub reseal: Reseal,
    /// How long edits are waited for that follow one another.
    pub reseal_delay: i64,
    /// Whether only what a cross-signed device encrypted is sealed.
    pub require_cross_signed: bool,
    /// What a session is for.
    pub session_scope: SessionScope,
    /// What is never sealed.
    pub exempt: ExemptTypes,
    /// What means nothing without its sender.
    pub sender_bound: SenderBound,
    /// After which age a session encrypts no more.
    pub rotation_age: i64,
    /// After how many events a session encrypts no more.
    pub rotation_messages: i64,
    /// Whose invites are accepted.
    pub invite_from: Vec<UserGlob>,
}

impl Rules {
    /// The rules that a configuration states.
    pub fn new(config: &Config) -> Self {
        let sharing = &config.sharing;
        let state = &config.state;
        Self {
            sharing: SharingPolicy {
                devices: match sharing.devices {
                    config::Devices::CrossSigned => DevicePolicy::CrossSigned,
                    config::Devices::All => DevicePolicy::All,
                },
                invitees: match sharing.invitees {
                    config::Invitees::Aesthetic => InviteePolicy::Aesthetic,
                    config::Invitees::All => InviteePolicy::All,
                    config::Invitees::None => InviteePolicy::None,
                },
            },
            policy: policy(sharing),
            ledger_retention: i64::from(config.ledger.retention_days) * 24 * 3_600_000,
            gate_timeout: millis(sharing.gate_timeout),
            refresh_window: millis(sharing.refresh_window),
            device_refresh_interval: millis(sharing.device_refresh_interval),
            refresh_per_second: sharing.refresh_per_second,
            reseal: match state.reseal {
                config::Reseal::OnChange => Reseal::OnChange,
                config::Reseal::OnNeed => Reseal::OnNeed,
            },
            reseal_delay: millis(state.reseal_delay),
            require_cross_signed: state.reseal_from == config::Devices::CrossSigned,
            session_scope: match state.session_scope {
                config::SessionScope::Tuple => SessionScope::Tuple,
                config::SessionScope::Room => SessionScope::Room,
            },
            exempt: ExemptTypes::new(state.exempt.iter().map(ToString::to_string)),
            sender_bound: SenderBound::new(state.never_reseal.iter().map(ToString::to_string)),
            rotation_age: i64::try_from(config.rotation.milliseconds).unwrap_or(i64::MAX),
            rotation_messages: i64::try_from(config.rotation.messages).unwrap_or(i64::MAX),
            invite_from: config
                .access
                .invite_from
                .iter()
                .map(|glob| UserGlob::new(glob.to_string()))
                .collect(),
        }
    }
}

/// The policy that decides, as the configuration says it: `devices=cross_signed invitees=aesthetic`.
fn policy(sharing: &config::Sharing) -> String {
    let devices = match sharing.devices {
        config::Devices::CrossSigned => "cross_signed",
        config::Devices::All => "all",
    };
    let invitees = match sharing.invitees {
        config::Invitees::Aesthetic => "aesthetic",
        config::Invitees::All => "all",
        config::Invitees::None => "none",
    };
    format!("devices={devices} invitees={invitees}")
}

fn millis(duration: config::Duration) -> i64 {
    i64::try_from(duration.get().as_millis()).unwrap_or(i64::MAX)
}
