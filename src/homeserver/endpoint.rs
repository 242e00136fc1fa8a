//! The endpoints of the client-server API that the keeper uses.

/// A client-server endpoint: the label of its metrics, and how much of an answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // Each variant is its label, and the label is the spec's name.
pub enum Endpoint {
    Versions,
    Whoami,
    Register,
    Login,
    Devices,
    AccountData,
    DisplayName,
    Ping,
    KeysUpload,
    KeysQuery,
    KeysClaim,
    DeviceSigningUpload,
    SignaturesUpload,
    Sync,
    SendToDevice,
    SendMessage,
    StateGet,
    StateEventGet,
    StatePut,
    Members,
    Event,
    Context,
    Messages,
    JoinedRooms,
    Directory,
    Join,
    Leave,
    Invite,
    Kick,
    Redact,
    Capabilities,
    CreateRoom,
    Aliases,
    Upload,
    Download,
    MakeRoomAdmin,
    RemoveMedia,
}

/// Bounds an answer whose size grows with a room or with the number of users asked for.
const LARGE: usize = 64 << 20;
/// Bounds every other answer: an event has at most 64 KiB.
const SMALL: usize = 1 << 20;

impl Endpoint {
    /// The name of this endpoint in metrics and messages, in snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Versions => "versions",
            Self::Whoami => "whoami",
            Self::Register => "register",
            Self::Login => "login",
            Self::Devices => "devices",
            Self::AccountData => "account_data",
            Self::DisplayName => "displayname",
            Self::Ping => "ping",
            Self::KeysUpload => "keys_upload",
            Self::KeysQuery => "keys_query",
            Self::KeysClaim => "keys_claim",
            Self::DeviceSigningUpload => "device_signing_upload",
            Self::SignaturesUpload => "signatures_upload",
            Self::Sync => "sync",
            Self::SendToDevice => "send_to_device",
            Self::SendMessage => "send_message",
            Self::StateGet => "state_get",
            Self::StateEventGet => "state_event_get",
            Self::StatePut => "state_put",
            Self::Members => "members",
            Self::Event => "event",
            Self::Context => "context",
            Self::Messages => "messages",
            Self::JoinedRooms => "joined_rooms",
            Self::Directory => "directory",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Invite => "invite",
            Self::Kick => "kick",
            Self::Redact => "redact",
            Self::Capabilities => "capabilities",
            Self::CreateRoom => "create_room",
            Self::Aliases => "aliases",
            Self::Upload => "upload",
            Self::Download => "download",
            Self::MakeRoomAdmin => "make_room_admin",
            Self::RemoveMedia => "remove_media",
        }
    }

    /// The most bytes of an answer's body that are read.
    pub(super) fn body_limit(self) -> usize {
        match self {
            Self::KeysQuery
            | Self::KeysClaim
            | Self::Sync
            | Self::StateGet
            | Self::Members
            | Self::Context
            | Self::Messages
            | Self::JoinedRooms
            | Self::Download => LARGE,
            _ => SMALL,
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
