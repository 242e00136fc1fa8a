//! `statekeeper approve` and `deny`: an administrator's word about a member of a room.

use std::path::PathBuf;

use clap::Args;
use ruma::{OwnedRoomId, OwnedUserId};

use super::{
    beside,
    output::{say, warn},
};
use crate::keeper::clock::now_ms;

/// What the commands are called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The room's id
    room: OwnedRoomId,
    /// The user's id
    user: OwnedUserId,
}

/// Lets a member have the room's keys.
pub(super) fn approve(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { config, room, user } = arguments;
    beside::run(config, async |store| store.approve(room, user, now_ms()).await)?;
    say(&format!("approved {user} in {room}, until they leave"));
    Ok(())
}

/// Refuses a user the room's keys.
pub(super) fn deny(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { config, room, user } = arguments;
    let present = beside::run(config, async |store| store.deny(room, user, now_ms()).await)?;
    if !present {
        warn(&format!("{user}: is not in {room}; the denial counts from the moment they come"));
    }
    say(&format!("denied {user} in {room}, until they are approved"));
    Ok(())
}
