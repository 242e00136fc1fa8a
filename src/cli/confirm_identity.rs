//! `statekeeper confirm-identity`: a user's new cross-signing identity is theirs.

use std::path::PathBuf;

use clap::Args;
use ruma::OwnedUserId;

use super::{beside, output::say};
use crate::keeper::clock::now_ms;

/// What the command is called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The user's id
    user: OwnedUserId,
}

/// Lets the identity count that the keeper saw last, and says which it is.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let user = &arguments.user;
    let key =
        beside::run(&arguments.config, async |store| store.confirm_identity(user, now_ms()).await)?;
    say(&format!("confirmed the identity of {user} with the master key {key}"));
    Ok(())
}
