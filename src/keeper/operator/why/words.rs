//! The findings in sentences: what is the matter, and what mends it.

use ruma::{DeviceId, RoomId, UserId};

use super::{Code, Finding};
use crate::keeper::clock::to_second;

/// What the sentences name.
pub(super) struct Words<'a> {
    pub(super) room: &'a RoomId,
    pub(super) user: &'a UserId,
    /// When the user is decided upon next, in milliseconds.
    pub(super) due_at: Option<i64>,
    /// The list that does not let the user in.
    pub(super) refusing_list: Option<&'static str>,
}

impl Words<'_> {
    /// What is found of the room or the user.
    pub(super) fn finding(&self, code: Code) -> Finding {
        Finding { code, text: self.text(code, None), fix: self.fix(code, None) }
    }

    /// What is found of a device; `last` is when the last of its keys was sent.
    pub(super) fn finding_about(
        &self,
        code: Code,
        device: &DeviceId,
        last: Option<i64>,
    ) -> Finding {
        Finding { code, text: self.text(code, last), fix: self.fix(code, Some(device)) }
    }

    fn text(&self, code: Code, last: Option<i64>) -> String {
        let last = last.map(to_second).unwrap_or_default();
        match code {
            Code::RoomLoading => "the keeper is fetching the room's state".to_owned(),
            Code::StateNotEncrypted => {
                "the room's state is not sealed: it did not say that its state is encrypted, or policy \
                 (`state.seal`) seals none there"
                    .to_owned()
            }
            Code::NotElevated => {
                "the keeper is not elevated: it may not send `m.room.encrypted` state there, so nothing \
                 new is sealed"
                    .to_owned()
            }
            Code::Noop => "`noop` is on: everything is decided and nothing is sent".to_owned(),
            Code::Undecryptable => {
                "the keeper cannot read some of the room's state itself: it lacks the key of whoever \
                 set it"
                    .to_owned()
            }
            Code::NotAMember => "the user is not in the room".to_owned(),
            Code::Invited => {
                "the user is invited and has not joined: `sharing.invitees` gives invitees no such key"
                    .to_owned()
            }
            Code::UserBlocked => "an administrator blocked the user".to_owned(),
            Code::NotAdmitted => match self.refusing_list {
                Some(list) => format!("`{list}` does not let the user be given keys"),
                None => "the lists in `access` do not let the user be given keys".to_owned(),
            },
            Code::Denied => "an administrator denied the user this room's keys".to_owned(),
            Code::IdentityChanged => {
                "the user is held: their cross-signing identity is another than the one that counts"
                    .to_owned()
            }
            Code::NotVouched => {
                "the user is held: nobody with the power to do so vouched for them, and no space did"
                    .to_owned()
            }
            Code::AwaitsApproval => {
                "the user is held: every member needs an administrator's word here".to_owned()
            }
            Code::NoDevices => "the user has no device with encryption keys".to_owned(),
            Code::DevicesUnknown => {
                "the homeserver has not told yet which devices the user has".to_owned()
            }
            Code::DeviceUnknown => "the device's identity keys are not known".to_owned(),
            Code::DeviceDeleted => "the device was logged out".to_owned(),
            Code::KeeperItself => "it is the keeper's own device".to_owned(),
            Code::DeviceBlocked => "an administrator blocked the device".to_owned(),
            Code::Unsigned => "its owner has not cross-signed the device".to_owned(),
            Code::NoOneTimeKey => format!(
                "no secure channel to the device can be made: its homeserver has no one-time key of it, \
                 or does not answer{}",
                self.next_try()
            ),
            Code::HasToAsk => {
                "it has not been given every key, and has to ask: `sharing.unasked` is off".to_owned()
            }
            Code::Waiting => format!("it is entitled, and its keys go out{}", self.next_try()),
            Code::OnItsWay => "its keys are being sent; the homeserver has not taken them yet".to_owned(),
            Code::WaitsForRefresh => format!(
                "the homeserver took its last key at {last}, after the client may have met the state; \
                 the state is refreshed for it"
            ),
            Code::KeySent => format!(
                "it was given the keys of everything that it is entitled to; the homeserver took the last \
                 at {last}, and hands them over when the client syncs next"
            ),
            Code::NothingSealed => "it is entitled; there is nothing sealed in the room yet".to_owned(),
        }
    }

    fn fix(&self, code: Code, device: Option<&DeviceId>) -> Option<String> {
        let Self { room, user, .. } = self;
        Some(match code {
            Code::RoomLoading
            | Code::DevicesUnknown
            | Code::DeviceDeleted
            | Code::KeeperItself
            | Code::OnItsWay
            | Code::Waiting
            | Code::NothingSealed => return None,
            Code::StateNotEncrypted => {
                "make a new room whose state is encrypted from the start, or set `state.seal`".to_owned()
            }
            Code::NotElevated => {
                "give the keeper the power to send `m.room.encrypted` state (state_default)".to_owned()
            }
            Code::Noop => "`statekeeper noop off`, or `noop: false` in the configuration".to_owned(),
            Code::Undecryptable => {
                "the keeper asks for the key; setting the value once more heals it at once".to_owned()
            }
            Code::NotAMember => "the user has to join, or be invited".to_owned(),
            Code::Invited => "the user has to join; or set `sharing.invitees`".to_owned(),
            Code::UserBlocked => format!("`statekeeper unblock {user}`"),
            Code::DeviceBlocked => {
                let device = device.map_or("DEVICE", DeviceId::as_str);
                format!("`statekeeper unblock {user} {device}`")
            }
            Code::NotAdmitted => "change the list and reload, if the user should be let in".to_owned(),
            Code::Denied | Code::NotVouched | Code::AwaitsApproval => {
                format!("`statekeeper approve {room} {user}`")
            }
            Code::IdentityChanged => format!(
                "ask the user whether they reset their identity, then `statekeeper confirm-identity {user}`"
            ),
            Code::NoDevices => "the user has to log in with a client that encrypts".to_owned(),
            Code::DeviceUnknown => "the client has to publish its keys: log in again".to_owned(),
            Code::Unsigned => {
                "the user verifies the device from another one, or with the recovery key".to_owned()
            }
            Code::NoOneTimeKey => {
                "the client publishes new one-time keys when it is online next; the keeper tries again \
                 by itself"
                    .to_owned()
            }
            Code::HasToAsk => "use a client that asks for keys, or set `sharing.unasked`".to_owned(),
            Code::WaitsForRefresh | Code::KeySent => format!(
                "if the client shows nothing once it has synced: `statekeeper share {room} {user}`"
            ),
        })
    }

    fn next_try(&self) -> String {
        self.due_at.map_or_else(String::new, |at| format!(" (next at {})", to_second(at)))
    }
}
