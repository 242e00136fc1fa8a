//! `statekeeper rotate`: an administrator has a room's sessions retired.

use std::path::PathBuf;

use clap::Args;
use ruma::OwnedRoomId;

use super::{beside, output::say};
use crate::keeper::clock::now_ms;

/// What the command is called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The room's id
    room: OwnedRoomId,
}

/// Retires the sessions of a room's state.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let room = &arguments.room;
    let retired = beside::run(&arguments.config, async |store| store.rotate(room, now_ms()).await)?;
    say(&match retired {
        0 => format!("{room}: no session of its state was in use"),
        retired => format!("{room}: sessions retired: {retired}"),
    });
    Ok(())
}
