//! What an operator has the running keeper make.

use std::fmt;

use ruma::{OwnedRoomId, OwnedRoomOrAliasId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::store::Asked;

/// What is to be made. What is to be hidden in a room is in it: it is never logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Making {
    /// A room with encrypted state from its birth.
    RoomCreate {
        /// Its name.
        name: Option<String>,
        /// Its topic.
        topic: Option<String>,
        /// Its picture.
        avatar: Option<Picture>,
        /// The space that it is in.
        space: Option<OwnedRoomOrAliasId>,
        /// Whether the members of that space may join it.
        restricted: bool,
        /// Who governs it.
        admins: Vec<OwnedUserId>,
        /// Who is invited.
        invite: Vec<OwnedUserId>,
        /// Its room version, where it is not the homeserver's default.
        version: Option<String>,
    },
    /// A room with encrypted state in place of another one.
    RoomUpgrade {
        /// The old room.
        room: OwnedRoomId,
        /// The new one's room version, where it is not the homeserver's default.
        version: Option<String>,
    },
    /// No more of a room that is being made: it stays as it is.
    RoomCancel {
        /// The order's id.
        order: String,
    },
}

/// A picture that nobody has encrypted yet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// What kind of picture it is, such as `image/png`.
    pub mimetype: String,
    /// Its bytes, base64 without padding.
    pub data: String,
}

impl Making {
    /// What is asked for, as the ledger has it.
    pub fn asked(&self) -> Asked {
        match self {
            Self::RoomCreate { .. } => Asked::about("room-create", None, None),
            Self::RoomUpgrade { room, .. } => Asked::about("room-upgrade", Some(room), None),
            Self::RoomCancel { .. } => Asked::about("room-cancel", None, None),
        }
    }
}

impl fmt::Debug for Making {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoomCreate { .. } => f.debug_struct("RoomCreate").finish_non_exhaustive(),
            Self::RoomUpgrade { room, version } => {
                let mut shown = f.debug_struct("RoomUpgrade");
                shown.field("room", room).field("version", version).finish()
            }
            Self::RoomCancel { order } => {
                f.debug_struct("RoomCancel").field("order", order).finish()
            }
        }
    }
}
