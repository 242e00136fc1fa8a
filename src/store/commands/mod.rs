//! What administrators command: each command is one commit, with what it changes, the promise to act on it and the
//! row that says who gave it. It makes no difference whether the keeper carries it out or a process beside it.

mod carry_out;
mod journal;

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

pub use self::{
    carry_out::carry_out,
    journal::{Asked, CommandRow, CommandsFilter, note, note_reading, of_filter, prune},
};
use super::StoreError;

/// What changes something about people and rooms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Lets a member have a room's keys, whatever was said before.
    Approve {
        /// Where.
        room: OwnedRoomId,
        /// Whom.
        user: OwnedUserId,
    },
    /// Lets everybody have a room's keys who is joined to it and of whom nothing was said before.
    ApproveAllPresent {
        /// Where.
        room: OwnedRoomId,
    },
    /// Refuses a user a room's keys, whatever was said before.
    Deny {
        /// Where.
        room: OwnedRoomId,
        /// Whom.
        user: OwnedUserId,
    },
    /// Refuses a user, or one device, the keys of all rooms.
    Block {
        /// Whom.
        user: OwnedUserId,
        /// One device instead of all.
        device: Option<OwnedDeviceId>,
    },
    /// Takes a block back.
    Unblock {
        /// Whose.
        user: OwnedUserId,
        /// One device instead of all.
        device: Option<OwnedDeviceId>,
    },
    /// Lets a user's new cross-signing identity count.
    ConfirmIdentity {
        /// Whose.
        user: OwnedUserId,
    },
    /// Retires all sessions of a room's state.
    Rotate {
        /// Where.
        room: OwnedRoomId,
    },
    /// Has what is sealed in a room sealed once more.
    Refresh {
        /// Where.
        room: OwnedRoomId,
    },
    /// Has a member's entitled devices given a room's keys once more, and the state refreshed for them.
    Share {
        /// Where.
        room: OwnedRoomId,
        /// To whom.
        user: OwnedUserId,
    },
    /// Has what a member breaks restored again, who had gone on breaking rules.
    Resume {
        /// Where.
        room: OwnedRoomId,
        /// Whom.
        user: OwnedUserId,
    },
    /// Has everything decided and nothing sent, or takes that back.
    Noop {
        /// Whether nothing is sent.
        on: bool,
    },
}

/// What came of a [`Command`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "done", rename_all = "snake_case")]
pub enum Done {
    /// These members may have the room's keys.
    Approved {
        /// Who.
        users: Vec<OwnedUserId>,
    },
    /// The user is refused the room's keys.
    Denied {
        /// Whether the user is in the room.
        present: bool,
    },
    /// The block stands.
    Blocked {
        /// Whether the keeper has ever heard of the user.
        known: bool,
    },
    /// The block is gone.
    Unblocked,
    /// The new identity counts.
    Confirmed {
        /// Its public master key, base64.
        master_key: String,
    },
    /// The sessions are retired.
    Rotated {
        /// How many there were.
        sessions: u64,
    },
    /// The values will be sealed once more.
    Refreshing {
        /// How many there are.
        values: u64,
    },
    /// The devices that are entitled will be given the keys once more.
    Sharing,
    /// What the member breaks is restored again.
    Resumed,
    /// It is so from now on.
    Noop {
        /// Whether nothing is sent.
        on: bool,
    },
}

/// Why an administrator's command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The keeper is not in the room.
    #[error("{0}: the keeper is in no such room; `statekeeper rooms` lists those that it is in")]
    UnknownRoom(OwnedRoomId),
    /// The user is not in the room.
    #[error("{user}: is neither joined to nor invited into {room}, as far as the keeper knows")]
    NotThere {
        /// Where.
        room: OwnedRoomId,
        /// Who.
        user: OwnedUserId,
    },
    /// There is no such block.
    #[error("{0}: is not blocked, so nothing was changed")]
    NotBlocked(String),
    /// The identity is the one that was seen first.
    #[error("{0}: the keeper has seen no change of identity, so there is nothing to confirm")]
    Unchanged(OwnedUserId),
    /// The keeper restores what the member breaks.
    #[error(
        "{room}: the keeper has not stopped restoring what {user} changes there, so nothing was changed"
    )]
    NoWar {
        /// Where.
        room: OwnedRoomId,
        /// Who.
        user: OwnedUserId,
    },
    /// No state is sealed there.
    #[error("{0}: the room's state is not sealed, by what the room says or by `state.seal`")]
    NotSealed(OwnedRoomId),
    /// The keeper may not send sealed state there.
    #[error(
        "{0}: the keeper is not elevated there; give it the power to send `m.room.encrypted` state"
    )]
    NotElevated(OwnedRoomId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(StoreError::Database(error))
    }
}

impl Refused {
    /// The word for it that scripts see.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownRoom(_) => "unknown_room",
            Self::NotThere { .. } => "not_a_member",
            Self::NotBlocked(_) => "not_blocked",
            Self::Unchanged(_) => "unchanged",
            Self::NoWar { .. } => "no_war",
            Self::NotSealed(_) => "not_sealed",
            Self::NotElevated(_) => "not_elevated",
            Self::Store(_) => "store",
        }
    }
}

/// What came of a command, in the ledger's words: `done`, or `refused:` and the code.
pub fn outcome(done: &Result<Done, Refused>) -> String {
    match done {
        Ok(_) => "done".to_owned(),
        Err(refused) => format!("refused:{}", refused.code()),
    }
}

impl Command {
    /// What is asked for, as the ledger has it.
    pub fn asked(&self) -> Asked {
        match self {
            Self::Approve { room, user } => Asked::about("approve", Some(room), Some(user)),
            Self::ApproveAllPresent { room } => {
                Asked { detail: "all_present", ..Asked::about("approve", Some(room), None) }
            }
            Self::Deny { room, user } => Asked::about("deny", Some(room), Some(user)),
            Self::Block { user, device } => {
                Asked::about("block", None, Some(user)).on(device.as_ref())
            }
            Self::Unblock { user, device } => {
                Asked::about("unblock", None, Some(user)).on(device.as_ref())
            }
            Self::ConfirmIdentity { user } => Asked::about("confirm-identity", None, Some(user)),
            Self::Rotate { room } => Asked::about("rotate", Some(room), None),
            Self::Refresh { room } => Asked::about("refresh", Some(room), None),
            Self::Share { room, user } => Asked::about("share", Some(room), Some(user)),
            Self::Resume { room, user } => Asked::about("resume", Some(room), Some(user)),
            Self::Noop { on } => {
                Asked { detail: if *on { "on" } else { "off" }, ..Asked::about("noop", None, None) }
            }
        }
    }
}
