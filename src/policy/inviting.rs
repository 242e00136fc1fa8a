//! Who is invited, and whose devices are given a room's history with the invite.

use super::{DeviceFacts, DevicePolicy, MemberFacts, SharingPolicy, UserFacts, Word, hold, judge};
use crate::{
    policy::HoldReason,
    state::{HistoryVisibility, Membership, StateTuple},
};

/// Whether somebody is invited into a room that would let him in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Invitation {
    /// He is.
    Yes,
    /// Not before an administrator's word: his identity is another than it was.
    NotNow,
    /// He is not: as a member he would get no keys.
    No,
}

/// Whether somebody is invited. The keeper answers for nobody by inviting him: he has to be one who would get keys had
/// he come by himself. `answered_for` says that the organisation answers for him otherwise.
pub fn invitation(
    user: &UserFacts,
    member: &MemberFacts,
    answered_for: bool,
    policy: &SharingPolicy,
) -> Invitation {
    if user.blocked || !user.admitted || member.word == Some(Word::Denied) {
        return Invitation::No;
    }
    match hold(user, &as_a_member(member, answered_for), policy) {
        None => Invitation::Yes,
        Some(HoldReason::IdentityChanged) => Invitation::NotNow,
        Some(HoldReason::NotVouched | HoldReason::AwaitsApproval) => Invitation::No,
    }
}

/// Whether a device of somebody who is invited is given the room's history: one that its owner signed, whatever
/// `sharing.devices` says of state.
pub fn gets_history(
    device: &DeviceFacts,
    user: &UserFacts,
    member: &MemberFacts,
    answered_for: bool,
    policy: &SharingPolicy,
) -> bool {
    let policy = SharingPolicy { devices: DevicePolicy::CrossSigned, ..*policy };
    let member = as_a_member(member, answered_for);
    // A member may have the key of any tuple or of none.
    let tuple = StateTuple::new("m.room.name", "");
    judge(device, user, &member, &tuple, &policy).entitlement().is_grant()
}

/// Whether those who are invited may read what was sent before (spec: "m.room.history_visibility"; MSC4268 wants the
/// current one to allow it). `None` is a room that says nothing of it.
pub fn shares_history(visibility: Option<HistoryVisibility>) -> bool {
    matches!(
        visibility.unwrap_or_default(),
        HistoryVisibility::Shared | HistoryVisibility::WorldReadable
    )
}

fn as_a_member(member: &MemberFacts, answered_for: bool) -> MemberFacts {
    MemberFacts {
        membership: Some(Membership::Join),
        inviter_power: None,
        through_space: member.through_space || answered_for,
        ..*member
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::MemberPolicy, state::PowerLevel};

    const DEVICE: DeviceFacts = DeviceFacts {
        known: true,
        deleted: false,
        cross_signed_by_owner: true,
        blocked: false,
        is_keeper_itself: false,
    };
    const USER: UserFacts = UserFacts::ADMITTED;

    fn outsider() -> MemberFacts {
        MemberFacts::of(Some(Membership::Leave))
    }

    #[test]
    fn nobody_is_invited_who_would_get_no_keys() {
        let any = SharingPolicy::default();
        assert_eq!(invitation(&USER, &outsider(), false, &any), Invitation::Yes);
        for user in [
            UserFacts { blocked: true, ..USER },
            UserFacts { admitted: false, ..USER },
            UserFacts { admitted: false, is_admin: true, ..USER },
        ] {
            assert_eq!(invitation(&user, &outsider(), true, &any), Invitation::No, "{user:?}");
            assert!(!gets_history(&DEVICE, &user, &outsider(), true, &any), "{user:?}");
        }
        let denied = MemberFacts { word: Some(Word::Denied), ..outsider() };
        assert_eq!(invitation(&USER, &denied, true, &any), Invitation::No);
        let changed = UserFacts { identity_changed: true, ..USER };
        assert_eq!(invitation(&changed, &outsider(), true, &any), Invitation::NotNow);
        assert!(!gets_history(&DEVICE, &changed, &outsider(), true, &any));
    }

    #[test]
    fn the_keepers_own_power_vouches_for_nobody() {
        let needed = MemberPolicy::Vouched(PowerLevel::Level(50));
        let vouched = SharingPolicy { members: needed, ..SharingPolicy::default() };
        let invited_before =
            MemberFacts { inviter_power: Some(PowerLevel::Level(100)), ..outsider() };
        assert_eq!(invitation(&USER, &invited_before, false, &vouched), Invitation::No);
        assert_eq!(invitation(&USER, &outsider(), true, &vouched), Invitation::Yes);
        let through = MemberFacts { through_space: true, ..outsider() };
        assert_eq!(invitation(&USER, &through, false, &vouched), Invitation::Yes);
    }

    #[test]
    fn whoever_needs_an_administrators_word_is_invited_with_it() {
        let approved =
            SharingPolicy { members: MemberPolicy::Approved, ..SharingPolicy::default() };
        assert_eq!(invitation(&USER, &outsider(), true, &approved), Invitation::No);
        let told = MemberFacts { word: Some(Word::Approved), ..outsider() };
        assert_eq!(invitation(&USER, &told, false, &approved), Invitation::Yes);
    }

    #[test]
    fn only_devices_that_their_owner_signed_are_given_the_history() {
        let lenient = SharingPolicy { devices: DevicePolicy::All, ..SharingPolicy::default() };
        assert!(gets_history(&DEVICE, &USER, &outsider(), false, &lenient));
        for device in [
            DeviceFacts { cross_signed_by_owner: false, ..DEVICE },
            DeviceFacts { deleted: true, ..DEVICE },
            DeviceFacts { blocked: true, ..DEVICE },
            DeviceFacts { known: false, ..DEVICE },
        ] {
            assert!(!gets_history(&device, &USER, &outsider(), false, &lenient), "{device:?}");
        }
    }

    #[test]
    fn history_is_shared_where_members_may_read_it() {
        assert!(shares_history(None));
        assert!(shares_history(Some(HistoryVisibility::Shared)));
        assert!(shares_history(Some(HistoryVisibility::WorldReadable)));
        assert!(!shares_history(Some(HistoryVisibility::Invited)));
        assert!(!shares_history(Some(HistoryVisibility::Joined)));
    }
}
