//! `statekeeper approve` and `deny`: an administrator's word about a member of a room.

use std::path::PathBuf;

use clap::Args;
use ruma::{OwnedRoomId, OwnedUserId};

use super::{
    beside,
    output::{say, warn},
    running::other_answer,
};
use crate::store::{Command, Done};

/// What `approve` is called with.
#[derive(Debug, Args)]
pub(super) struct Approval {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The room's id
    room: OwnedRoomId,
    /// The user's id
    #[arg(required_unless_present = "all_present")]
    user: Option<OwnedUserId>,
    /// Everybody who is joined to the room now and was not denied
    #[arg(long, conflicts_with = "user")]
    all_present: bool,
}

/// What `deny` is called with.
#[derive(Debug, Args)]
pub(super) struct Denial {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The room's id
    room: OwnedRoomId,
    /// The user's id
    user: OwnedUserId,
}

/// Lets a member have the room's keys, or all who are joined. Names each of them: whoever should not be among them
/// can be denied at once.
pub(super) fn approve(arguments: &Approval) -> anyhow::Result<()> {
    let room = arguments.room.clone();
    let command = match arguments.user.clone() {
        Some(user) => Command::Approve { room: room.clone(), user },
        None => Command::ApproveAllPresent { room: room.clone() },
    };
    let Done::Approved { users } = beside::command(&arguments.config, command)? else {
        return Err(other_answer());
    };
    for user in &users {
        say(&format!("approved {user} in {room}, until they leave"));
    }
    if users.is_empty() {
        say(&format!("nobody in {room} was without an administrator's word"));
    }
    Ok(())
}

/// Refuses a user the room's keys.
pub(super) fn deny(arguments: &Denial) -> anyhow::Result<()> {
    let Denial { config, room, user } = arguments;
    let command = Command::Deny { room: room.clone(), user: user.clone() };
    if beside::command(config, command)? == (Done::Denied { present: false }) {
        warn(&format!("{user}: is not in {room}; the denial counts from the moment they come"));
    }
    say(&format!("denied {user} in {room}, until they are approved"));
    Ok(())
}
