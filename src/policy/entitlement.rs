//! Which device is entitled to the key of which tuple: one function, for what is shared unasked and
//! for what is requested alike.

use std::fmt;

use super::PreviewPolicy;
use crate::state::{Membership, PowerLevel, StateTuple};

/// Policy's answer for one device and one tuple's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entitlement {
    /// The device gets the key.
    Grant,
    /// It does not, and is told why.
    Withhold(WithheldCode),
    /// An administrator has to decide; until then it gets nothing. Whoever asks hears
    /// [`WithheldCode::Unauthorised`].
    Hold(HoldReason),
    /// It gets nothing and hears nothing: it has no business here.
    Silence,
}

/// Why an administrator has to decide about a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldReason {
    /// The user's cross-signing identity is another than the one that was seen first.
    IdentityChanged,
    /// Nobody with the power to do so vouched for the member, and no space did.
    NotVouched,
    /// Every member needs an administrator's word, and this one has none.
    AwaitsApproval,
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

/// Which members get keys (`sharing.members`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MemberPolicy {
    /// All of them.
    #[default]
    Joined,
    /// Those who have, or whose inviter had, this much power, and those of a space that the room
    /// lets in.
    Vouched(PowerLevel),
    /// Those whom an administrator approved.
    Approved,
}

/// What the organisation says about sharing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SharingPolicy {
    /// Which devices.
    pub devices: DevicePolicy,
    /// What invitees get.
    pub invitees: InviteePolicy,
    /// Which members.
    pub members: MemberPolicy,
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

/// What is known of the device's owner, whatever the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserFacts {
    /// The lists of allowed and denied users and servers let them in ([`super::AccessPolicy`]).
    pub admitted: bool,
    /// An administrator blocked them.
    pub blocked: bool,
    /// Their cross-signing identity is another than the one that was seen first, and no
    /// administrator has confirmed it.
    pub identity_changed: bool,
    /// They are an administrator themselves: one whose word counts needs nobody else's.
    pub is_admin: bool,
}

/// What an administrator said of a user in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// They may have its keys.
    Approved,
    /// They may not.
    Denied,
}

/// What is known of the device's owner in the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberFacts {
    /// The membership; `None` for somebody of whom the room's state says nothing.
    pub membership: Option<Membership>,
    /// The user's own power there.
    pub power: PowerLevel,
    /// The power that the user's inviter had when inviting; `None` when nobody is known to have.
    pub inviter_power: Option<PowerLevel>,
    /// The user is joined to a space that the keeper is in and that the room's join rule lets in.
    pub through_space: bool,
    /// What the user may read before joining, as a member of a room that the join rule lets in: weighed of those
    /// alone who have not joined.
    pub preview: PreviewPolicy,
    /// What an administrator said of the user here.
    pub word: Option<Word>,
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

impl HoldReason {
    /// Every reason there is, for tables and tests.
    pub const ALL: [Self; 3] = [Self::IdentityChanged, Self::NotVouched, Self::AwaitsApproval];

    /// The word for it that operators see, such as `not_vouched`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdentityChanged => "identity_changed",
            Self::NotVouched => "not_vouched",
            Self::AwaitsApproval => "awaits_approval",
        }
    }
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl UserFacts {
    /// Somebody whom the lists let in and against whom nothing is known.
    pub const ADMITTED: Self =
        Self { admitted: true, blocked: false, identity_changed: false, is_admin: false };
}

impl MemberFacts {
    /// A member of no power, of whom nobody knows more than the membership.
    pub fn of(membership: Option<Membership>) -> Self {
        Self {
            membership,
            power: PowerLevel::Level(0),
            inviter_power: None,
            through_space: false,
            preview: PreviewPolicy::None,
            word: None,
        }
    }

    /// Whether a tuple may be read before the join because of where else the user is. Where every member needs an
    /// administrator's word, nobody is let in beforehand; and whoever is banned may not join.
    fn may_preview(&self, tuple: &StateTuple, members: MemberPolicy) -> bool {
        let outside = !matches!(self.membership, Some(Membership::Join | Membership::Ban));
        outside && members != MemberPolicy::Approved && self.preview.shows(tuple)
    }

    /// Whether somebody answers for the member, or a space does. Who has the power to answer for
    /// others needs nobody who answers for them.
    fn is_vouched(&self, needed: PowerLevel) -> bool {
        self.power >= needed
            || self.through_space
            || self.inviter_power.is_some_and(|power| power >= needed)
    }
}

impl Entitlement {
    /// Whether the device gets the key.
    pub fn is_grant(self) -> bool {
        self == Self::Grant
    }

    /// What a device hears that is refused: a code. `None` where there is nothing to say.
    pub fn code(self) -> Option<WithheldCode> {
        match self {
            Self::Withhold(code) => Some(code),
            Self::Hold(_) => Some(WithheldCode::Unauthorised),
            Self::Grant | Self::Silence => None,
        }
    }

    /// The refusal in the ledger's words: `withheld:` and the code, or `held`.
    pub fn outcome(self) -> Option<String> {
        match self {
            Self::Withhold(code) => Some(format!("withheld:{code}")),
            Self::Hold(_) => Some("held".to_owned()),
            Self::Grant | Self::Silence => None,
        }
    }
}

/// What of all that is known of a device and its owner decides: [`Entitlement`] with its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Judgement {
    /// Nothing stands against it.
    Entitled,
    /// Its identity keys are not known, or not signed by itself.
    DeviceUnknown,
    /// Its owner has logged it out.
    DeviceDeleted,
    /// It is the keeper's own.
    KeeperItself,
    /// Its owner is not in the room.
    NotAMember,
    /// Its owner is invited, and invitees get no key of this.
    Invited,
    /// An administrator blocked its owner.
    UserBlocked,
    /// An administrator blocked it.
    DeviceBlocked,
    /// The lists of allowed and denied users and servers do not let its owner in.
    NotAdmitted,
    /// An administrator denied its owner the room's keys.
    Denied,
    /// Its owner did not cross-sign it.
    Unsigned,
    /// An administrator has to decide about its owner.
    Held(HoldReason),
}

impl Judgement {
    /// What follows from it.
    pub fn entitlement(self) -> Entitlement {
        match self {
            Self::Entitled => Entitlement::Grant,
            Self::DeviceUnknown
            | Self::DeviceDeleted
            | Self::KeeperItself
            | Self::NotAMember
            | Self::Invited => Entitlement::Silence,
            Self::UserBlocked | Self::DeviceBlocked | Self::NotAdmitted => {
                Entitlement::Withhold(WithheldCode::Blacklisted)
            }
            Self::Denied => Entitlement::Withhold(WithheldCode::Unauthorised),
            Self::Unsigned => Entitlement::Withhold(WithheldCode::Unverified),
            Self::Held(reason) => Entitlement::Hold(reason),
        }
    }
}

/// Whether a device is entitled to the key of a tuple, and what it hears if not.
///
/// Nobody without business in the room hears anything: a withheld notice tells that there is
/// something to withhold.
pub fn entitlement(
    device: &DeviceFacts,
    user: &UserFacts,
    member: &MemberFacts,
    tuple: &StateTuple,
    policy: &SharingPolicy,
) -> Entitlement {
    judge(device, user, member, tuple, policy).entitlement()
}

/// The same with its cause.
pub fn judge(
    device: &DeviceFacts,
    user: &UserFacts,
    member: &MemberFacts,
    tuple: &StateTuple,
    policy: &SharingPolicy,
) -> Judgement {
    if let Some(unheard) = unheard(device, member, tuple, policy) {
        return unheard;
    }
    if user.blocked {
        return Judgement::UserBlocked;
    }
    if device.blocked {
        return Judgement::DeviceBlocked;
    }
    if !user.admitted {
        return Judgement::NotAdmitted;
    }
    if member.word == Some(Word::Denied) {
        return Judgement::Denied;
    }
    if !device.cross_signed_by_owner && policy.devices == DevicePolicy::CrossSigned {
        return Judgement::Unsigned;
    }
    reason_to_hold(user, member, policy.members).map_or(Judgement::Entitled, Judgement::Held)
}

/// Why a device has no business with the key of a tuple, if it has none.
fn unheard(
    device: &DeviceFacts,
    member: &MemberFacts,
    tuple: &StateTuple,
    policy: &SharingPolicy,
) -> Option<Judgement> {
    if device.deleted {
        return Some(Judgement::DeviceDeleted);
    }
    if !device.known {
        return Some(Judgement::DeviceUnknown);
    }
    if device.is_keeper_itself {
        return Some(Judgement::KeeperItself);
    }
    if member_may_read(member.membership, tuple, policy.invitees)
        || member.may_preview(tuple, policy.members)
    {
        return None;
    }
    let invited = member.membership == Some(Membership::Invite);
    Some(if invited { Judgement::Invited } else { Judgement::NotAMember })
}

/// Why an administrator's word is awaited about a member, if it is: whatever devices the member has,
/// and before there are any.
pub fn hold(user: &UserFacts, member: &MemberFacts, policy: &SharingPolicy) -> Option<HoldReason> {
    let is_concerned = match member.membership {
        Some(Membership::Join) => true,
        Some(Membership::Invite) => policy.invitees != InviteePolicy::None,
        Some(Membership::Knock | Membership::Leave | Membership::Ban) | None => false,
    };
    let is_refused = user.blocked || !user.admitted || member.word == Some(Word::Denied);
    if !is_concerned || is_refused {
        return None;
    }
    reason_to_hold(user, member, policy.members)
}

/// A changed identity counts whatever anybody said of the member: it may be somebody else by now.
fn reason_to_hold(
    user: &UserFacts,
    member: &MemberFacts,
    policy: MemberPolicy,
) -> Option<HoldReason> {
    if user.identity_changed {
        return Some(HoldReason::IdentityChanged);
    }
    if user.is_admin || member.word == Some(Word::Approved) {
        return None;
    }
    match policy {
        MemberPolicy::Joined => None,
        MemberPolicy::Vouched(needed) if member.is_vouched(needed) => None,
        MemberPolicy::Vouched(_) => Some(HoldReason::NotVouched),
        MemberPolicy::Approved => Some(HoldReason::AwaitsApproval),
    }
}

/// Whether somebody of this membership may be given the key of a tuple at all.
pub fn member_may_read(
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

#[cfg(test)]
mod tests;
