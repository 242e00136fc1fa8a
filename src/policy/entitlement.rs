//! Which device is entitled to the key of which tuple.

use std::fmt;

use crate::state::{Membership, StateTuple};

/// Policy's answer for one device and one tuple's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entitlement {
    /// The device gets the key.
    Grant,
    /// It does not, and is told why.
    Withhold(WithheldCode),
    /// A person has to decide; until then it gets nothing and hears nothing.
    Hold,
    /// It gets nothing and hears nothing: it has no business here.
    Silence,
}

/// Why a key is withheld (spec: "m.room_key.withheld").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WithheldCode {
    /// The device is not cross-signed by its owner.
    Unverified,
    /// The device is blocked.
    Blacklisted,
    /// The user is not in the room, or may not read this.
    Unauthorised,
    /// The key is not to be had.
    Unavailable,
    /// No Olm channel could be made to the device.
    NoOlm,
}

/// Which devices of an entitled user get keys (`sharing.devices`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DevicePolicy {
    /// Those that their owner cross-signed.
    #[default]
    CrossSigned,
    /// All of them.
    All,
}

/// Which keys somebody gets who is invited and has not joined (`sharing.invitees`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum InviteePolicy {
    /// None before the join.
    None,
    /// Those of name, topic and avatar.
    #[default]
    Aesthetic,
    /// All of them.
    All,
}

/// What the organisation says about sharing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SharingPolicy {
    /// Which devices.
    pub devices: DevicePolicy,
    /// What invitees get.
    pub invitees: InviteePolicy,
}

/// What is known of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceFacts {
    /// Its identity keys are known, and signed by itself.
    pub known: bool,
    /// Its owner has logged it out since.
    pub deleted: bool,
    /// Its owner's self-signing key signed it.
    pub cross_signed_by_owner: bool,
    /// An administrator blocked it.
    pub blocked: bool,
    /// It is the keeper's own.
    pub is_keeper_itself: bool,
}

/// What is known of the device's owner in the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberFacts {
    /// The membership; `None` for somebody of whom the room's state says nothing.
    pub membership: Option<Membership>,
    /// A person wants to decide about this user before any key goes out.
    pub awaits_decision: bool,
}

impl WithheldCode {
    /// Every code there is, for tables and tests.
    pub const ALL: [Self; 5] =
        [Self::Unverified, Self::Blacklisted, Self::Unauthorised, Self::Unavailable, Self::NoOlm];

    /// The spec's `code` for it, such as `m.unverified`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unverified => "m.unverified",
            Self::Blacklisted => "m.blacklisted",
            Self::Unauthorised => "m.unauthorised",
            Self::Unavailable => "m.unavailable",
            Self::NoOlm => "m.no_olm",
        }
    }

    /// The code in words, for `reason` in `m.room_key.withheld`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unverified => "The device is not cross-signed by its owner.",
            Self::Blacklisted => "The device is blocked.",
            Self::Unauthorised => "The user is not entitled to this key.",
            Self::Unavailable => "The key is not available.",
            Self::NoOlm => "No secure channel to the device could be made.",
        }
    }
}

impl fmt::Display for WithheldCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl MemberFacts {
    /// A member about whom nobody has to decide.
    pub fn of(membership: Option<Membership>) -> Self {
        Self { membership, awaits_decision: false }
    }
}

impl Entitlement {
    /// Whether the device gets the key.
    pub fn is_grant(self) -> bool {
        self == Self::Grant
    }
}

/// Whether a device is entitled to the key of a tuple, and what it hears if not.
///
/// Nobody without business in the room hears anything: a withheld notice tells that there is
/// something to withhold.
pub fn entitlement(
    device: &DeviceFacts,
    member: &MemberFacts,
    tuple: &StateTuple,
    policy: &SharingPolicy,
) -> Entitlement {
    if !device.known || device.deleted || device.is_keeper_itself {
        return Entitlement::Silence;
    }
    if !member_may_read(member.membership, tuple, policy.invitees) {
        return Entitlement::Silence;
    }
    if device.blocked {
        return Entitlement::Withhold(WithheldCode::Blacklisted);
    }
    if !device.cross_signed_by_owner && policy.devices == DevicePolicy::CrossSigned {
        return Entitlement::Withhold(WithheldCode::Unverified);
    }
    if member.awaits_decision {
        return Entitlement::Hold;
    }
    Entitlement::Grant
}

fn member_may_read(
    membership: Option<Membership>,
    tuple: &StateTuple,
    invitees: InviteePolicy,
) -> bool {
    match (membership, invitees) {
        (Some(Membership::Join), _) | (Some(Membership::Invite), InviteePolicy::All) => true,
        (Some(Membership::Invite), InviteePolicy::Aesthetic) => tuple.is_aesthetic(),
        (Some(Membership::Invite), InviteePolicy::None)
        | (Some(Membership::Knock | Membership::Leave | Membership::Ban) | None, _) => false,
    }
}
