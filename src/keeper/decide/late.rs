//! Who got a key too late to read the event that it opens. Pure.

use super::{DeviceView, MemberView, Reason, SealedView};
use crate::{state::Membership, store::Grant};

pub(super) fn reason(member: &MemberView, device: &DeviceView, sealed: &SealedView) -> Reason {
    match member.membership {
        Membership::Invite => Reason::Invite,
        _ if is_new_device(member, device, sealed) => Reason::Device,
        _ => Reason::Join,
    }
}

/// Whether a device came to a user who could read the room before: nobody looks at a room without a name
/// because of it. One that was there and got the key late, for whatever reason, is no new device.
pub(super) fn is_new_device(member: &MemberView, device: &DeviceView, sealed: &SealedView) -> bool {
    let was_there = device
        .grants
        .values()
        .any(|grant| grant.sent_tick.is_some_and(|sent_tick| sent_tick < sealed.tick));
    let another_in_time = member.devices.iter().any(|other| {
        other.device_id != device.device_id
            && other
                .grants
                .get(&sealed.session_id)
                .is_some_and(|grant| grant.sent_at.is_some() && !came_late(member, grant, sealed))
    });
    let read_before =
        member.tick < sealed.tick && member.first_key.is_some_and(|first| first < sealed.tick);
    !was_there && (another_in_time || read_before)
}

/// Whether a joined member's device got the key when its client may have read the event already. A key that the
/// homeserver took before the join was there in time, and a client that asked reads again by itself.
pub(in crate::keeper) fn came_late(
    member: &MemberView,
    grant: &Grant,
    sealed: &SealedView,
) -> bool {
    if grant.asked {
        return false;
    }
    let (Some(sent_at), Some(sent_tick)) = (grant.sent_at, grant.sent_tick) else { return false };
    member.membership == Membership::Join && sent_tick > sealed.tick && sent_at >= member.since
}
