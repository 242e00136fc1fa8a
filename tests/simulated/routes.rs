//! Which endpoint a request means.

use http::Method;

use super::http::Call;

/// An endpoint with the parameters of its path.
#[derive(Debug)]
pub enum Route<'a> {
    Versions,
    Whoami,
    Capabilities,
    Register,
    Device(&'a str),
    Devices,
    AccountData(&'a str),
    Profile(&'a str),
    KeysUpload,
    KeysQuery,
    KeysClaim,
    DeviceSigningUpload,
    SignaturesUpload,
    Sync,
    SendToDevice { event_type: &'a str, txn_id: &'a str },
    JoinedRooms,
    CreateRoom,
    Aliases(&'a str),
    Upload,
    Download(&'a str),
    Directory(&'a str),
    Join(&'a str),
    Leave(&'a str),
    Invite(&'a str),
    Kick(&'a str),
    State(&'a str),
    StateEvent { room_id: &'a str, event_type: &'a str, state_key: &'a str },
    Members(&'a str),
    JoinedMembers(&'a str),
    Redact { room_id: &'a str, event_id: &'a str, txn_id: &'a str },
    Send { room_id: &'a str, event_type: &'a str, txn_id: &'a str },
    Event { room_id: &'a str, event_id: &'a str },
    Messages(&'a str),
    Context { room_id: &'a str, event_id: &'a str },
    RemoveFile(&'a str),
    Ping,
    Unknown,
}

impl<'a> Route<'a> {
    /// Reads the path.
    pub fn of(call: &'a Call) -> Self {
        let segments: Vec<&str> = call.segments.iter().map(String::as_str).collect();
        if segments == ["_matrix", "media", "v3", "upload"] {
            return Self::Upload;
        }
        if let ["_synapse", "admin", "v1", "media", _, id] = segments[..] {
            return Self::RemoveFile(id);
        }
        let Some(["_matrix", "client", rest @ ..]) = segments.get(..) else {
            return Self::Unknown;
        };
        match rest {
            ["versions"] => Self::Versions,
            ["v3" | "r0" | "v1" | "unstable", "rooms", rest @ ..] => Self::room(rest),
            ["v1", "appservice", _, "ping"] => Self::Ping,
            ["v3" | "r0" | "v1" | "unstable", rest @ ..] => Self::plain(rest),
            _ => Self::Unknown,
        }
    }

    fn plain(path: &[&'a str]) -> Self {
        match *path {
            ["account", "whoami"] => Self::Whoami,
            ["capabilities"] => Self::Capabilities,
            ["register"] => Self::Register,
            ["devices"] => Self::Devices,
            ["user", _, "account_data", event_type] => Self::AccountData(event_type),
            ["devices", device_id] => Self::Device(device_id),
            ["profile", user_id, ..] => Self::Profile(user_id),
            ["keys", "upload"] => Self::KeysUpload,
            ["keys", "query"] => Self::KeysQuery,
            ["keys", "claim"] => Self::KeysClaim,
            ["keys", "device_signing", "upload"] => Self::DeviceSigningUpload,
            ["keys", "signatures", "upload"] => Self::SignaturesUpload,
            ["sync"] => Self::Sync,
            ["sendToDevice", event_type, txn_id] => Self::SendToDevice { event_type, txn_id },
            ["joined_rooms"] => Self::JoinedRooms,
            ["createRoom"] => Self::CreateRoom,
            ["media", "download", _, id] => Self::Download(id),
            ["join", room_id] => Self::Join(room_id),
            ["directory", "room", alias] => Self::Directory(alias),
            _ => Self::Unknown,
        }
    }

    fn room(path: &[&'a str]) -> Self {
        match *path {
            [room_id, "join"] => Self::Join(room_id),
            [room_id, "leave"] => Self::Leave(room_id),
            [room_id, "invite"] => Self::Invite(room_id),
            [room_id, "kick"] => Self::Kick(room_id),
            [room_id, "state"] => Self::State(room_id),
            [room_id, "state", event_type] => {
                Self::StateEvent { room_id, event_type, state_key: "" }
            }
            [room_id, "state", event_type, state_key] => {
                Self::StateEvent { room_id, event_type, state_key }
            }
            [room_id, "aliases"] => Self::Aliases(room_id),
            [room_id, "members"] => Self::Members(room_id),
            [room_id, "joined_members"] => Self::JoinedMembers(room_id),
            [room_id, "redact", event_id, txn_id] => Self::Redact { room_id, event_id, txn_id },
            [room_id, "send", event_type, txn_id] => Self::Send { room_id, event_type, txn_id },
            [room_id, "event", event_id] => Self::Event { room_id, event_id },
            [room_id, "messages"] => Self::Messages(room_id),
            [room_id, "context", event_id] => Self::Context { room_id, event_id },
            _ => Self::Unknown,
        }
    }

    /// The name under which requests are counted and faults are planned.
    pub fn name(&self, method: &Method) -> &'static str {
        match self {
            Self::Versions => "versions",
            Self::Whoami => "whoami",
            Self::Capabilities => "capabilities",
            Self::Register => "register",
            Self::Device(_) if method == Method::DELETE => "devices/delete",
            Self::Device(_) | Self::Devices => "devices",
            Self::AccountData(_) => "account_data",
            Self::Profile(_) => "profile",
            Self::KeysUpload => "keys/upload",
            Self::KeysQuery => "keys/query",
            Self::KeysClaim => "keys/claim",
            Self::DeviceSigningUpload => "keys/device_signing/upload",
            Self::SignaturesUpload => "keys/signatures/upload",
            Self::Sync => "sync",
            Self::SendToDevice { .. } => "sendToDevice",
            Self::JoinedRooms => "joined_rooms",
            Self::CreateRoom => "createRoom",
            Self::Aliases(_) => "aliases",
            Self::Upload => "upload",
            Self::Download(_) => "download",
            Self::Directory(_) => "directory",
            Self::Join(_) => "join",
            Self::Leave(_) => "leave",
            Self::Invite(_) => "invite",
            Self::Kick(_) => "kick",
            Self::State(_) => "state",
            Self::StateEvent { .. } if method == Method::PUT => "state/put",
            Self::StateEvent { .. } => "state/get",
            Self::Members(_) => "members",
            Self::JoinedMembers(_) => "joined_members",
            Self::Redact { .. } => "redact",
            Self::Send { .. } => "send",
            Self::Event { .. } => "event",
            Self::Messages(_) => "messages",
            Self::Context { .. } => "context",
            Self::RemoveFile(_) => "media/remove",
            Self::Ping => "ping",
            Self::Unknown => "unknown",
        }
    }

    /// Bodies that tests compare are kept in the log.
    pub const fn keeps_body(&self) -> bool {
        matches!(self, Self::SendToDevice { .. } | Self::StateEvent { .. })
    }
}
