//! `statekeeper approve` and `deny`: an administrator's word about a member of a room.

use std::path::{Path, PathBuf};

use clap::Args;
use ruma::{OwnedRoomId, OwnedUserId, RoomId};

use super::{
    beside,
    output::{say, warn},
};
use crate::keeper::clock::now_ms;

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

/// Lets a member have the room's keys, or all who are joined.
pub(super) fn approve(arguments: &Approval) -> anyhow::Result<()> {
    let Approval { config, room, user, .. } = arguments;
    let Some(user) = user else { return approve_all_present(config, room) };
    beside::run(config, async |store| store.approve(room, user, now_ms()).await)?;
    say(&format!("approved {user} in {room}, until they leave"));
    Ok(())
}

/// Names each of them: whoever should not be among them can be denied at once.
fn approve_all_present(config: &Path, room: &RoomId) -> anyhow::Result<()> {
    let users = beside::run(config, async |store| store.approve_all_present(room, now_ms()).await)?;
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
    let present = beside::run(config, async |store| store.deny(room, user, now_ms()).await)?;
    if !present {
        warn(&format!("{user}: is not in {room}; the denial counts from the moment they come"));
    }
    say(&format!("denied {user} in {room}, until they are approved"));
    Ok(())
}
