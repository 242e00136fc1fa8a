//! The answers, row by row, and what holds for all of them.

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

/// Moderator, member, and a creator of room version 12.
const POWERS: [PowerLevel; 3] = [PowerLevel::Level(50), PowerLevel::Level(0), PowerLevel::Infinite];
const NEEDED: PowerLevel = PowerLevel::Level(50);

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
            for members in
                [MemberPolicy::Joined, MemberPolicy::Vouched(NEEDED), MemberPolicy::Approved]
            {
                all.push(SharingPolicy { devices, invitees, members });
            }
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

fn users() -> Vec<UserFacts> {
    (0..16_u32)
        .map(|bits| UserFacts {
            admitted: bits & 1 != 0,
            blocked: bits & 2 != 0,
            identity_changed: bits & 4 != 0,
            is_admin: bits & 8 != 0,
        })
        .collect()
}

/// Every way of having come in, with every membership.
fn members() -> Vec<MemberFacts> {
    let inviters: Vec<_> = POWERS.into_iter().map(Some).chain([None]).collect();
    let mut all = Vec::new();
    for membership in MEMBERSHIPS {
        for power in POWERS {
            for inviter_power in inviters.clone() {
                for through_space in [false, true] {
                    for word in [None, Some(Word::Approved), Some(Word::Denied)] {
                        all.push(MemberFacts {
                            membership,
                            power,
                            inviter_power,
                            through_space,
                            preview: PreviewPolicy::None,
                            word,
                        });
                    }
                }
            }
        }
    }
    all
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

/// The table of answers: the first line that applies counts.
fn answer(
    device: &DeviceFacts,
    user: &UserFacts,
    member: &MemberFacts,
    reads: bool,
    policy: &SharingPolicy,
) -> Entitlement {
    use Entitlement::{Grant, Hold, Silence, Withhold};
    let needs_word = !user.is_admin && member.word != Some(Word::Approved);
    let vouched = member.through_space
        || [Some(member.power), member.inviter_power].into_iter().flatten().any(|p| p >= NEEDED);
    let lines = [
        (!device.known, Silence),
        (device.deleted, Silence),
        (device.is_keeper_itself, Silence),
        (!reads, Silence),
        (!user.admitted, Withhold(WithheldCode::Blacklisted)),
        (user.blocked, Withhold(WithheldCode::Blacklisted)),
        (device.blocked, Withhold(WithheldCode::Blacklisted)),
        (member.word == Some(Word::Denied), Withhold(WithheldCode::Unauthorised)),
        (
            !device.cross_signed_by_owner && policy.devices != DevicePolicy::All,
            Withhold(WithheldCode::Unverified),
        ),
        (user.identity_changed, Hold(HoldReason::IdentityChanged)),
        (
            policy.members == MemberPolicy::Vouched(NEEDED) && needs_word && !vouched,
            Hold(HoldReason::NotVouched),
        ),
        (policy.members == MemberPolicy::Approved && needs_word, Hold(HoldReason::AwaitsApproval)),
    ];
    lines.into_iter().find(|(applies, _)| *applies).map_or(Grant, |(_, answer)| answer)
}

#[test]
fn every_combination_has_the_answer_of_the_table() {
    let (devices, users, members) = (devices(), users(), members());
    let mut seen = 0;
    for policy in policies() {
        for (tuple, aesthetic) in [(name(), true), (widget(), false)] {
            for member in &members {
                let reads = may_read(member.membership, policy.invitees);
                let reads = if aesthetic { reads.0 } else { reads.1 };
                for user in &users {
                    for device in &devices {
                        assert_eq!(
                            entitlement(device, user, member, &tuple, &policy),
                            answer(device, user, member, reads, &policy),
                            "{device:?} {user:?} {member:?} {tuple} {policy:?}"
                        );
                        seen += 1;
                    }
                }
            }
        }
    }
    assert_eq!(seen, 18 * 2 * (6 * 3 * 4 * 2 * 3) * 16 * 32);
}

#[test]
fn a_member_is_shown_as_held_when_a_good_device_of_theirs_would_be() {
    for policy in policies() {
        for member in members() {
            for user in users() {
                let of_device = match entitlement(&SIGNED, &user, &member, &name(), &policy) {
                    Entitlement::Hold(reason) => Some(reason),
                    _ => None,
                };
                assert_eq!(hold(&user, &member, &policy), of_device, "{user:?} {member:?}");
            }
        }
    }
}

#[test]
fn under_the_default_an_invitee_gets_the_name_and_a_joiner_all() {
    let policy = SharingPolicy::default();
    let invitee = MemberFacts::of(Some(Membership::Invite));
    let joiner = MemberFacts::of(Some(Membership::Join));
    let of = |member, tuple| entitlement(&SIGNED, &UserFacts::ADMITTED, member, &tuple, &policy);
    assert_eq!(of(&invitee, name()), Entitlement::Grant);
    assert_eq!(of(&invitee, widget()), Entitlement::Silence);
    assert_eq!(of(&joiner, widget()), Entitlement::Grant);
}

#[test]
fn under_the_default_a_device_without_cross_signing_gets_nothing_and_is_told_why() {
    let joiner = MemberFacts::of(Some(Membership::Join));
    let policy = SharingPolicy::default();
    assert_eq!(
        entitlement(&UNSIGNED, &UserFacts::ADMITTED, &joiner, &name(), &policy),
        Entitlement::Withhold(WithheldCode::Unverified)
    );
}

#[test]
fn a_blocked_device_gets_nothing_under_any_policy() {
    let approved =
        MemberFacts { word: Some(Word::Approved), ..MemberFacts::of(Some(Membership::Join)) };
    for policy in policies() {
        assert_eq!(
            entitlement(&BLOCKED, &UserFacts::ADMITTED, &approved, &name(), &policy),
            Entitlement::Withhold(WithheldCode::Blacklisted)
        );
    }
}

#[test]
fn under_approved_an_invitee_gets_nothing_before_the_approval() {
    let policy = SharingPolicy { members: MemberPolicy::Approved, ..SharingPolicy::default() };
    let invitee = MemberFacts {
        inviter_power: Some(PowerLevel::Infinite),
        ..MemberFacts::of(Some(Membership::Invite))
    };
    let of = |member| entitlement(&SIGNED, &UserFacts::ADMITTED, &member, &name(), &policy);
    assert_eq!(of(invitee), Entitlement::Hold(HoldReason::AwaitsApproval));
    let approved = MemberFacts { word: Some(Word::Approved), ..invitee };
    assert_eq!(of(approved), Entitlement::Grant);
}

#[test]
fn an_approval_does_not_cover_an_identity_that_changed_since() {
    let user = UserFacts { identity_changed: true, ..UserFacts::ADMITTED };
    let member =
        MemberFacts { word: Some(Word::Approved), ..MemberFacts::of(Some(Membership::Join)) };
    for policy in policies() {
        assert_eq!(hold(&user, &member, &policy), Some(HoldReason::IdentityChanged));
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

fn any_user() -> impl Strategy<Value = UserFacts> {
    prop::sample::select(users())
}

fn any_level() -> impl Strategy<Value = PowerLevel> {
    prop_oneof![(-10_i64..110).prop_map(PowerLevel::Level), Just(PowerLevel::Infinite)]
}

fn any_member() -> impl Strategy<Value = MemberFacts> {
    let membership = prop::sample::select(MEMBERSHIPS.to_vec());
    let word = prop::sample::select(vec![None, Some(Word::Approved), Some(Word::Denied)]);
    let inviter = prop::option::of(any_level());
    let preview = prop::sample::select(PREVIEWS.to_vec());
    (membership, any_level(), inviter, any::<bool>(), preview, word).prop_map(
        |(membership, power, inviter_power, through_space, preview, word)| MemberFacts {
            membership,
            power,
            inviter_power,
            through_space,
            preview,
            word,
        },
    )
}

const PREVIEWS: [PreviewPolicy; 3] =
    [PreviewPolicy::None, PreviewPolicy::Aesthetic, PreviewPolicy::All];

/// What somebody reads who may join and has not: name and widget.
fn previewed(member: &MemberFacts, policy: &SharingPolicy) -> (Entitlement, Entitlement) {
    let of = |tuple| {
        let device = DeviceFacts {
            known: true,
            deleted: false,
            cross_signed_by_owner: true,
            blocked: false,
            is_keeper_itself: false,
        };
        entitlement(&device, &UserFacts::ADMITTED, member, &tuple, policy)
    };
    (of(name()), of(widget()))
}

#[test]
fn whoever_may_join_reads_before_he_does_what_the_space_says() {
    use Entitlement::{Grant, Silence};
    let policy = SharingPolicy::default();
    for membership in [None, Some(Membership::Leave), Some(Membership::Knock)] {
        for (preview, reads) in
            PREVIEWS.into_iter().zip([(Silence, Silence), (Grant, Silence), (Grant, Grant)])
        {
            let member = MemberFacts { preview, ..MemberFacts::of(membership) };
            assert_eq!(previewed(&member, &policy), reads, "{membership:?} {preview:?}");
        }
    }
}

#[test]
fn whoever_is_banned_or_needs_a_word_reads_nothing_before_he_joins() {
    let all = |membership| MemberFacts {
        preview: PreviewPolicy::All,
        through_space: true,
        ..MemberFacts::of(membership)
    };
    let silence = (Entitlement::Silence, Entitlement::Silence);
    assert_eq!(previewed(&all(Some(Membership::Ban)), &SharingPolicy::default()), silence);
    let approved = SharingPolicy { members: MemberPolicy::Approved, ..SharingPolicy::default() };
    assert_eq!(previewed(&all(None), &approved), silence);
    // A space that lets somebody in vouches for him.
    let vouched = SharingPolicy { members: MemberPolicy::Vouched(NEEDED), ..approved };
    assert!(previewed(&all(None), &vouched).0.is_grant());
    let denied = MemberFacts { word: Some(Word::Denied), ..all(None) };
    let refused = Entitlement::Withhold(WithheldCode::Unauthorised);
    assert_eq!(previewed(&denied, &SharingPolicy::default()), (refused, refused));
}

fn any_policy() -> impl Strategy<Value = SharingPolicy> {
    let members = prop_oneof![
        Just(MemberPolicy::Joined),
        any_level().prop_map(MemberPolicy::Vouched),
        Just(MemberPolicy::Approved),
    ];
    (prop::sample::select(policies()), members)
        .prop_map(|(policy, members)| SharingPolicy { members, ..policy })
}

fn any_tuple() -> impl Strategy<Value = StateTuple> {
    prop_oneof![
        Just(name()),
        Just(widget()),
        ("[a-z.]{1,12}", ".{0,8}").prop_map(|(t, k)| StateTuple::new(t, k)),
    ]
}

/// How much a policy about members lets in; the greater, the more.
fn laxness(policy: MemberPolicy) -> (u8, std::cmp::Reverse<PowerLevel>) {
    let (rank, needed) = match policy {
        MemberPolicy::Approved => (0, PowerLevel::Infinite),
        MemberPolicy::Vouched(needed) => (1, needed),
        MemberPolicy::Joined => (2, PowerLevel::Infinite),
    };
    (rank, std::cmp::Reverse(needed))
}

fn at_least_as_strict(strict: &SharingPolicy, lax: &SharingPolicy) -> bool {
    let devices = |policy: &SharingPolicy| policy.devices == DevicePolicy::All;
    let invitees = |policy: &SharingPolicy| match policy.invitees {
        InviteePolicy::None => 0,
        InviteePolicy::Aesthetic => 1,
        InviteePolicy::All => 2,
    };
    devices(strict) <= devices(lax)
        && invitees(strict) <= invitees(lax)
        && laxness(strict.members) <= laxness(lax.members)
}

proptest! {
    #[test]
    fn leaving_never_adds_an_entitlement(
        device in any_device(),
        user in any_user(),
        before in any_member(),
        after in prop::sample::select(vec![Membership::Leave, Membership::Ban]),
        tuple in any_tuple(),
        policy in any_policy(),
    ) {
        let of = |membership| {
            let gone = matches!(membership, Membership::Leave | Membership::Ban);
            let preview = if gone { PreviewPolicy::None } else { before.preview };
            let member = MemberFacts { membership: Some(membership), preview, ..before };
            entitlement(&device, &user, &member, &tuple, &policy)
        };
        prop_assert_eq!(of(after), Entitlement::Silence);
        // And joining never takes one away.
        if entitlement(&device, &user, &before, &tuple, &policy).is_grant() {
            prop_assert!(of(Membership::Join).is_grant());
        }
    }

    #[test]
    fn a_stricter_policy_never_grants_more(
        device in any_device(),
        user in any_user(),
        member in any_member(),
        tuple in any_tuple(),
        one in any_policy(),
        other in any_policy(),
    ) {
        let grants = |policy: &SharingPolicy| {
            entitlement(&device, &user, &member, &tuple, policy).is_grant()
        };
        if at_least_as_strict(&one, &other) {
            prop_assert!(grants(&one) <= grants(&other));
        }
        if at_least_as_strict(&other, &one) {
            prop_assert!(grants(&other) <= grants(&one));
        }
    }

    #[test]
    fn what_speaks_against_somebody_never_grants_more(
        device in any_device(),
        user in any_user(),
        member in any_member(),
        tuple in any_tuple(),
        policy in any_policy(),
    ) {
        let grants = |device: &DeviceFacts, user: &UserFacts, member: &MemberFacts| {
            entitlement(device, user, member, &tuple, &policy).is_grant()
        };
        let at_first = grants(&device, &user, &member);
        for worse in [
            UserFacts { admitted: false, ..user },
            UserFacts { blocked: true, ..user },
            UserFacts { identity_changed: true, ..user },
            UserFacts { is_admin: false, ..user },
        ] {
            prop_assert!(grants(&device, &worse, &member) <= at_first);
        }
        for worse in [
            MemberFacts { inviter_power: None, ..member },
            MemberFacts { through_space: false, ..member },
            MemberFacts { preview: PreviewPolicy::None, ..member },
            MemberFacts { word: Some(Word::Denied), ..member },
        ] {
            prop_assert!(grants(&device, &user, &worse) <= at_first);
        }
        let blocked = DeviceFacts { blocked: true, ..device };
        prop_assert!(!grants(&blocked, &user, &member));
    }

    #[test]
    fn an_outsider_hears_nothing_at_all(
        device in any_device(),
        user in any_user(),
        member in any_member(),
        membership in prop::sample::select(vec![
            Some(Membership::Knock), Some(Membership::Leave), Some(Membership::Ban), None,
        ]),
        tuple in any_tuple(),
        policy in any_policy(),
    ) {
        let outsider = MemberFacts { membership, preview: PreviewPolicy::None, ..member };
        prop_assert_eq!(
            entitlement(&device, &user, &outsider, &tuple, &policy), Entitlement::Silence
        );
        prop_assert_eq!(hold(&user, &outsider, &policy), None);
    }
}
