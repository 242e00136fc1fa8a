//! What the organisation wants of its spaces, as the keeper weighs it.

use std::path::PathBuf;

use ruma::{OwnedRoomId, OwnedRoomOrAliasId, RoomId};

use crate::{
    config::{AdminAssist, Invite, Preview, Space},
    policy::{Bounds, PreviewPolicy},
};

/// How a followed space is followed. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceRules {
    /// Which one it is.
    pub room: OwnedRoomOrAliasId,
    /// What is read of its rooms before a join.
    pub preview: PreviewPolicy,
    /// Into which rooms people are invited.
    pub invite: Invite,
    /// How many keys a second are given for that, invites included.
    pub per_second: u32,
    /// How often, at most, because a session has changed.
    pub interval: i64,
    /// How far its rooms are looked for.
    pub bounds: Bounds,
    /// The file of the token for the homeserver's administration, where that is to help.
    pub assist: Option<PathBuf>,
    /// Rooms that count as listed by it.
    pub rooms: Vec<OwnedRoomId>,
}

impl SpaceRules {
    /// What the configuration says of a space.
    pub fn new(space: &Space) -> Self {
        let preview = match space.preview {
            Preview::None => PreviewPolicy::None,
            Preview::Aesthetic => PreviewPolicy::Aesthetic,
            Preview::All => PreviewPolicy::All,
        };
        let interval = space.preview_interval.get().as_millis();
        Self {
            room: space.room.clone(),
            preview,
            invite: space.invite,
            per_second: space.per_second,
            interval: i64::try_from(interval).unwrap_or(i64::MAX),
            bounds: Bounds {
                depth: space.max_depth,
                rooms: usize::try_from(space.max_rooms).unwrap_or(usize::MAX),
            },
            assist: match space.admin_assist {
                AdminAssist::None => None,
                AdminAssist::Synapse => space.admin_token_file.clone(),
            },
            rooms: space.rooms.clone(),
        }
    }

    /// Whether people are invited into a room of the space's that is suggested, or not.
    pub fn invites_into(&self, suggested: bool) -> bool {
        match self.invite {
            Invite::None => false,
            Invite::Suggested => suggested,
            Invite::All => true,
        }
    }

    /// What holds for a space that an administrator invited the keeper into.
    pub fn of_invited(space: &RoomId) -> Self {
        Self::new(&Space::new(space.to_owned().into()))
    }
}
