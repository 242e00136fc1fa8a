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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIGNED: DeviceFacts = DeviceFacts {
        known: true,
        deleted: false,
        cross_signed_by_owner: true,
        blocked: false,
        is_keeper_itself: false,
    };
    const UNSIGNED: DeviceFacts = DeviceFacts { cross_signed_by_owner: false, ..SIGNED };
    const BLOCKED: DeviceFacts = DeviceFacts { blocked: true, ..SIGNED };

    const MEMBERSHIPS: [Option<Membership>; 6] = [
        Some(Membership::Join),
        Some(Membership::Invite),
        Some(Membership::Knock),
        Some(Membership::Leave),
        Some(Membership::Ban),
        None,
    ];

    fn name() -> StateTuple {
        StateTuple::new("m.room.name", "")
    }

    fn widget() -> StateTuple {
        StateTuple::new("im.vector.modular.widgets", "w")
    }

    fn policies() -> Vec<SharingPolicy> {
        let mut all = Vec::new();
        for devices in [DevicePolicy::CrossSigned, DevicePolicy::All] {
            for invitees in [InviteePolicy::None, InviteePolicy::Aesthetic, InviteePolicy::All] {
                all.push(SharingPolicy { devices, invitees });
            }
        }
        all
    }

    fn devices() -> Vec<DeviceFacts> {
        (0..32_u32)
            .map(|bits| DeviceFacts {
                known: bits & 1 != 0,
                deleted: bits & 2 != 0,
                cross_signed_by_owner: bits & 4 != 0,
                blocked: bits & 8 != 0,
                is_keeper_itself: bits & 16 != 0,
            })
            .collect()
    }

    /// Who may read, as a table: by membership and invitee policy, (aesthetic, other).
    fn may_read(membership: Option<Membership>, invitees: InviteePolicy) -> (bool, bool) {
        match membership {
            Some(Membership::Join) => (true, true),
            Some(Membership::Invite) => match invitees {
                InviteePolicy::None => (false, false),
                InviteePolicy::Aesthetic => (true, false),
                InviteePolicy::All => (true, true),
            },
            _ => (false, false),
        }
    }

    #[test]
    fn every_combination_has_the_answer_of_the_table() {
        let mut seen = 0;
        for device in devices() {
            for membership in MEMBERSHIPS {
                for awaits_decision in [false, true] {
                    for policy in policies() {
                        for (tuple, aesthetic) in [(name(), true), (widget(), false)] {
                            let member = MemberFacts { membership, awaits_decision };
                            let reads = may_read(membership, policy.invitees);
                            let reads = if aesthetic { reads.0 } else { reads.1 };
                            let present =
                                device.known && !device.deleted && !device.is_keeper_itself;
                            let signed =
                                device.cross_signed_by_owner || policy.devices == DevicePolicy::All;
                            let expected = match (present && reads, device.blocked, signed) {
                                (false, _, _) => Entitlement::Silence,
                                (true, true, _) => Entitlement::Withhold(WithheldCode::Blacklisted),
                                (true, false, false) => {
                                    Entitlement::Withhold(WithheldCode::Unverified)
                                }
                                (true, false, true) if awaits_decision => Entitlement::Hold,
                                (true, false, true) => Entitlement::Grant,
                            };
                            assert_eq!(
                                entitlement(&device, &member, &tuple, &policy),
                                expected,
                                "{device:?} {member:?} {tuple} {policy:?}"
                            );
                            seen += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(seen, 32 * 6 * 2 * 6 * 2);
    }

    #[test]
    fn under_the_default_an_invitee_gets_the_name_and_a_joiner_all() {
        let policy = SharingPolicy::default();
        let invitee = MemberFacts::of(Some(Membership::Invite));
        let joiner = MemberFacts::of(Some(Membership::Join));
        assert_eq!(entitlement(&SIGNED, &invitee, &name(), &policy), Entitlement::Grant);
        assert_eq!(entitlement(&SIGNED, &invitee, &widget(), &policy), Entitlement::Silence);
        assert_eq!(entitlement(&SIGNED, &joiner, &widget(), &policy), Entitlement::Grant);
    }

    #[test]
    fn under_the_default_a_device_without_cross_signing_gets_nothing_and_is_told_why() {
        let joiner = MemberFacts::of(Some(Membership::Join));
        assert_eq!(
            entitlement(&UNSIGNED, &joiner, &name(), &SharingPolicy::default()),
            Entitlement::Withhold(WithheldCode::Unverified)
        );
    }

    #[test]
    fn a_blocked_device_gets_nothing_under_any_policy() {
        let joiner = MemberFacts::of(Some(Membership::Join));
        for policy in policies() {
            assert_eq!(
                entitlement(&BLOCKED, &joiner, &name(), &policy),
                Entitlement::Withhold(WithheldCode::Blacklisted)
            );
        }
    }

    #[test]
    fn the_codes_are_the_specs() {
        let codes = WithheldCode::ALL.map(WithheldCode::as_str);
        let spec = ["m.unverified", "m.blacklisted", "m.unauthorised", "m.unavailable", "m.no_olm"];
        assert_eq!(codes, spec);
    }

    fn any_device() -> impl Strategy<Value = DeviceFacts> {
        prop::sample::select(devices())
    }

    fn any_policy() -> impl Strategy<Value = SharingPolicy> {
        prop::sample::select(policies())
    }

    fn any_tuple() -> impl Strategy<Value = StateTuple> {
        prop_oneof![
            Just(name()),
            Just(widget()),
            ("[a-z.]{1,12}", ".{0,8}").prop_map(|(t, k)| StateTuple::new(t, k)),
        ]
    }

    fn at_least_as_strict(strict: &SharingPolicy, loose: &SharingPolicy) -> bool {
        let devices = |policy: &SharingPolicy| policy.devices == DevicePolicy::All;
        let invitees = |policy: &SharingPolicy| match policy.invitees {
            InviteePolicy::None => 0,
            InviteePolicy::Aesthetic => 1,
            InviteePolicy::All => 2,
        };
        devices(strict) <= devices(loose) && invitees(strict) <= invitees(loose)
    }

    proptest! {
        #[test]
        fn leaving_never_adds_an_entitlement(
            device in any_device(),
            before in prop::sample::select(MEMBERSHIPS.to_vec()),
            after in prop::sample::select(vec![Membership::Leave, Membership::Ban]),
            tuple in any_tuple(),
            policy in any_policy(),
        ) {
            let after = MemberFacts::of(Some(after));
            prop_assert_eq!(entitlement(&device, &after, &tuple, &policy), Entitlement::Silence);
            // And joining never takes one away.
            if entitlement(&device, &MemberFacts::of(before), &tuple, &policy).is_grant() {
                let joined = MemberFacts::of(Some(Membership::Join));
                prop_assert!(entitlement(&device, &joined, &tuple, &policy).is_grant());
            }
        }

        #[test]
        fn a_stricter_policy_never_grants_more(
            device in any_device(),
            membership in prop::sample::select(MEMBERSHIPS.to_vec()),
            awaits_decision in any::<bool>(),
            tuple in any_tuple(),
            one in any_policy(),
            other in any_policy(),
        ) {
            let member = MemberFacts { membership, awaits_decision };
            let grants =
                |policy: &SharingPolicy| entitlement(&device, &member, &tuple, policy).is_grant();
            if at_least_as_strict(&one, &other) {
                prop_assert!(grants(&one) <= grants(&other));
            }
        }

        #[test]
        fn an_outsider_hears_nothing_at_all(
            device in any_device(),
            membership in prop::sample::select(vec![
                Some(Membership::Knock), Some(Membership::Leave), Some(Membership::Ban), None,
            ]),
            tuple in any_tuple(),
            policy in any_policy(),
        ) {
            let outsider = MemberFacts::of(membership);
            prop_assert_eq!(entitlement(&device, &outsider, &tuple, &policy), Entitlement::Silence);
        }
    }
}
