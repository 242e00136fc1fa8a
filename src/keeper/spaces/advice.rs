//! How a room beneath a followed space stands, and what an administrator has to change where the keeper cannot do
//! its work there.

use ruma::{RoomId, UserId};

use crate::{
    keeper::ingest::power_levels,
    state::{Membership, PowerLevel},
    store::{RoomRow, SpaceRoomRow},
};

/// How a room, or a space, stands. The words are what operators see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::keeper) enum Standing {
    /// The keeper is in a space and follows what it lists.
    Space,
    /// The keeper keeps the room.
    Kept,
    /// It is in the room, whose state is not encrypted.
    NotEncrypted,
    /// It is in the room without the power to seal.
    NoPower,
    /// It is in the room and learns what stands there.
    Loading,
    /// It is about to join.
    Joining,
    /// The homeserver does not let it join.
    CannotJoin,
    /// The homeserver knows no such room.
    Missing,
    /// No server that is in the room answers, or the homeserver itself does not.
    Unreachable,
    /// It is no space that is to be followed.
    NotASpace,
}

impl Standing {
    /// Those of a room.
    pub const ROOMS: [Self; 9] = [
        Self::Space,
        Self::Kept,
        Self::NotEncrypted,
        Self::NoPower,
        Self::Loading,
        Self::Joining,
        Self::CannotJoin,
        Self::Missing,
        Self::Unreachable,
    ];

    /// The label in the store and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Space => "space",
            Self::Kept => "kept",
            Self::NotEncrypted => "not_encrypted",
            Self::NoPower => "no_power",
            Self::Loading => "loading",
            Self::Joining => "joining",
            Self::CannotJoin => "cannot_join",
            Self::Missing => "missing",
            Self::Unreachable => "unreachable",
            Self::NotASpace => "not_a_space",
        }
    }

    /// Whether the keeper has tried to join, in vain.
    pub fn has_failed(label: &str) -> bool {
        [Self::CannotJoin, Self::Missing, Self::Unreachable].iter().any(|it| it.as_str() == label)
    }
}

/// How a room stands that the keeper is in; `None` for one that it is not in.
pub(in crate::keeper) fn standing_of(room: &RoomRow, is_space: bool) -> Option<Standing> {
    if room.membership != Membership::Join {
        return None;
    }
    Some(match room {
        _ if !room.loaded => Standing::Loading,
        _ if is_space => Standing::Space,
        _ if !room.state_encrypted => Standing::NotEncrypted,
        _ if !room.elevated => Standing::NoPower,
        _ => Standing::Kept,
    })
}

/// What has to be changed so that the keeper can seal the room's state.
pub(in crate::keeper) fn give_power(room: &RoomRow, keeper: &UserId) -> String {
    let needed = match power_levels(room).needed_for_state("m.room.encrypted") {
        PowerLevel::Level(level) => level.to_string(),
        PowerLevel::Infinite => "the highest level".to_owned(),
    };
    format!(
        "in m.room.power_levels of {}, set users[\"{keeper}\"] to {needed} or more",
        room.room_id
    )
}

/// What has to be changed so that the keeper can join.
pub(in crate::keeper) fn let_in(
    row: &SpaceRoomRow,
    room: Option<&RoomRow>,
    keeper: &UserId,
) -> String {
    let id = &row.room_id;
    if room.is_some_and(|room| room.membership == Membership::Ban) {
        return format!("unban {keeper} in {id}, and invite it");
    }
    format!(
        "invite {keeper} into {id}, or set join_rule to restricted in its m.room.join_rules and \
         add {{\"type\": \"m.room_membership\", \"room_id\": \"{}\"}} to allow; then give it the \
         power to send m.room.encrypted",
        row.space_id
    )
}

/// What has to be changed where a space lists a room that is not there.
pub(in crate::keeper) fn unlist(row: &SpaceRoomRow) -> String {
    format!(
        "the homeserver finds no room {}; if it is gone, empty the m.space.child of it in {}",
        row.room_id, row.space_id
    )
}

/// What has to be changed so that the keeper can come into a space.
pub(in crate::keeper) fn invite_into(space: &RoomId, keeper: &UserId) -> String {
    format!("invite {keeper} into {space}")
}
