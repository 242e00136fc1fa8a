//! What the organisation wants, as the keeper weighs it: the configuration, made ready.

use ruma::{OwnedRoomId, OwnedUserId};

use super::spaces::rules::SpaceRules;
use crate::{
    config::{
        self, Action, Config, Enforce, ExemptSealed, PlainCopy, Policy, RotateReseal, RotateWhen,
        Seal,
    },
    policy::{
        AccessPolicy, DevicePolicy, InviteePolicy, MemberPolicy, ServerGlob, SharingPolicy,
        UserGlob,
    },
    state::{ExemptTypes, PowerLevel, Rule, SenderBound},
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

/// So many at once, and so many a second over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many at once.
    pub burst: u32,
    /// So many a second over time.
    pub per_second: u32,
}

impl<const BURST: u32, const PER_SECOND: u32> From<config::Rate<BURST, PER_SECOND>> for Rate {
    fn from(rate: config::Rate<BURST, PER_SECOND>) -> Self {
        Self { burst: rate.burst, per_second: rate.per_second }
    }
}

/// How requests for keys are answered. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRules {
    /// How many requests wait at most.
    pub queue: usize,
    /// How many requests of one device are answered.
    pub device: Rate,
    /// How many of one user.
    pub user: Rate,
    /// How many about one room.
    pub room: Rate,
    /// How many in all.
    pub overall: Rate,
}

/// The rules that hold for all rooms together. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalRules {
    /// How long the ledger's history is kept.
    pub ledger_retention: i64,
    /// How long a member's key is kept that is needed no more.
    pub member_keys_kept: i64,
    /// Who may be given keys at all.
    pub access: AccessPolicy,
    /// Whose word counts.
    pub admins: Vec<OwnedUserId>,
    /// Where they give it.
    pub management_room: Option<OwnedRoomId>,
    /// Whose invites are accepted.
    pub invite_from: Vec<UserGlob>,
    /// Whose knocks are accepted.
    pub accept_knocks_from: Vec<UserGlob>,
    /// How many devices are given keys unasked.
    pub unasked_budget: Rate,
    /// How many refreshes there are a second, at most.
    pub refresh_per_second: u32,
    /// How requests are answered.
    pub requests: RequestRules,
    /// The spaces that are followed.
    pub spaces: Vec<SpaceRules>,
}

/// The rules by which a room is kept. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Who is given keys.
    pub sharing: SharingPolicy,
    /// The same in words, for the ledger.
    pub policy: String,
    /// Whether keys are given before anybody asks for them.
    pub unasked: bool,
    /// Whether sessions that members made are given away once they are superseded.
    pub forward_member_sessions: bool,
    /// How long a device that holds a key is not given it once more.
    pub cool_down: i64,
    /// Joins within it share a refresh.
    pub refresh_window: i64,
    /// A room is refreshed for new devices at most once in it.
    pub device_refresh_interval: i64,
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
    /// Departures within it are one rotation.
    pub rotation_settle: i64,
    /// When the session that follows a retired one is made.
    pub rotate_when: RotateWhen,
    /// What is sealed anew after a rotation.
    pub rotate_reseal: RotateReseal,
    /// So many state events a second, at most.
    pub rotate_reseal_per_second: u32,
    /// In which rooms state is sealed.
    pub seal: Seal,
    /// What is done about an exempt type that a member's client sealed.
    pub exempt_sealed: ExemptSealed,
    /// What becomes of a copy in plain.
    pub plain_copy: PlainCopy,
    /// The name in plain where policy wants a fixed one.
    pub plain_stub: String,
    /// How long it is remembered who said what.
    pub journal: i64,
    /// Whether a reason in a membership event is warned about.
    pub warn_membership_reasons: bool,
    /// What is done about state that breaks a rule.
    pub enforce: Enforce,
    /// Whether nothing is sent.
    pub noop: bool,
}

impl GlobalRules {
    /// Those that a configuration states.
    pub fn new(config: &Config) -> Self {
        Self {
            member_keys_kept: millis(config.state.member_keys_kept),
            ledger_retention: i64::from(config.ledger.retention_days) * 24 * 3_600_000,
            access: access_policy(&config.access),
            admins: config.access.admins.clone(),
            management_room: config.admin.management_room.clone(),
            invite_from: user_globs(&config.access.invite_from),
            accept_knocks_from: user_globs(&config.access.accept_knocks_from),
            unasked_budget: config.sharing.budget.into(),
            refresh_per_second: config.sharing.refresh_per_second,
            requests: request_rules(&config.requests),
            spaces: config.spaces.iter().map(SpaceRules::new).collect(),
        }
    }
}

impl Rules {
    /// The rules of a room that no policy of a configuration matches.
    pub fn new(config: &Config) -> Self {
        let Config { sharing, state, rotation, enforce, noop, .. } = config;
        Self::of_sections(&config.requests, sharing, state, rotation, enforce, *noop)
    }

    /// The rules of the rooms that are a policy's, which is one of the configuration's.
    pub fn of_policy(config: &Config, policy: &Policy) -> Self {
        let Policy { sharing, state, rotation, enforce, noop, .. } = policy;
        Self::of_sections(&config.requests, sharing, state, rotation, enforce, *noop)
    }

    /// Whether the same state is read from the same events by both.
    pub fn reads_as(&self, other: &Self) -> bool {
        self.exempt == other.exempt
            && self.sender_bound == other.sender_bound
            && self.require_cross_signed == other.require_cross_signed
            && self.seal == other.seal
    }

    /// What is done about state that breaks a rule.
    pub fn action(&self, rule: Rule) -> Action {
        let enforce = &self.enforce;
        match rule {
            Rule::Power => enforce.power,
            Rule::Ownership => enforce.ownership,
            Rule::Critical => enforce.critical,
            Rule::Timestamp => enforce.timestamp,
            Rule::Shape => enforce.shape,
            Rule::Plain | Rule::Unsealed => enforce.plain,
            Rule::Replay => enforce.replay,
        }
    }

    fn of_sections(
        requests: &config::Requests,
        sharing: &config::Sharing,
        state: &config::State,
        rotation: &config::Rotation,
        enforce: &Enforce,
        noop: bool,
    ) -> Self {
        Self {
            sharing: sharing_policy(sharing),
            policy: policy(sharing),
            unasked: sharing.unasked,
            forward_member_sessions: requests.forward_member_sessions,
            cool_down: millis(requests.cool_down),
            refresh_window: millis(sharing.refresh_window),
            device_refresh_interval: millis(sharing.device_refresh_interval),
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
            rotation_age: i64::try_from(rotation.milliseconds).unwrap_or(i64::MAX),
            rotation_messages: i64::try_from(rotation.messages).unwrap_or(i64::MAX),
            rotation_settle: millis(rotation.settle),
            rotate_when: rotation.when,
            rotate_reseal: rotation.reseal,
            rotate_reseal_per_second: rotation.reseal_per_second,
            seal: state.seal,
            exempt_sealed: state.exempt_sealed,
            plain_copy: state.plain_copy,
            plain_stub: state.plain_stub.clone(),
            journal: i64::from(state.journal_days) * 24 * 3_600_000,
            warn_membership_reasons: state.warn_membership_reasons,
            enforce: enforce.clone(),
            noop,
        }
    }
}

/// The policy that decides, as the configuration says it: `devices=cross_signed invitees=aesthetic
/// members=joined`.
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
    let members = match sharing.members {
        config::Members::Joined => "joined",
        config::Members::Vouched => "vouched",
        config::Members::Approved => "approved",
    };
    format!("devices={devices} invitees={invitees} members={members}")
}

fn sharing_policy(sharing: &config::Sharing) -> SharingPolicy {
    SharingPolicy {
        devices: match sharing.devices {
            config::Devices::CrossSigned => DevicePolicy::CrossSigned,
            config::Devices::All => DevicePolicy::All,
        },
        invitees: match sharing.invitees {
            config::Invitees::Aesthetic => InviteePolicy::Aesthetic,
            config::Invitees::All => InviteePolicy::All,
            config::Invitees::None => InviteePolicy::None,
        },
        members: match sharing.members {
            config::Members::Joined => MemberPolicy::Joined,
            config::Members::Vouched => {
                MemberPolicy::Vouched(PowerLevel::Level(i64::from(sharing.vouched_power)))
            }
            config::Members::Approved => MemberPolicy::Approved,
        },
    }
}

fn access_policy(access: &config::Access) -> AccessPolicy {
    let servers = |globs: &[config::ServerGlob]| {
        globs.iter().map(|glob| ServerGlob::new(glob.as_str())).collect()
    };
    AccessPolicy {
        allow_users: user_globs(&access.allow_users),
        deny_users: user_globs(&access.deny_users),
        allow_servers: servers(&access.allow_servers),
        deny_servers: servers(&access.deny_servers),
    }
}

fn request_rules(requests: &config::Requests) -> RequestRules {
    let limits = &requests.limits;
    RequestRules {
        queue: usize::try_from(requests.queue).unwrap_or(usize::MAX),
        device: limits.device.into(),
        user: limits.user.into(),
        room: limits.room.into(),
        overall: limits.overall.into(),
    }
}

fn user_globs(globs: &[config::UserGlob]) -> Vec<UserGlob> {
    globs.iter().map(|glob| UserGlob::new(glob.as_str())).collect()
}

fn millis(duration: config::Duration) -> i64 {
    i64::try_from(duration.get().as_millis()).unwrap_or(i64::MAX)
}
