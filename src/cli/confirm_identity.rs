//! `statekeeper confirm-identity`: a user's new cross-signing identity is theirs.

use std::path::PathBuf;

use clap::Args;
use ruma::OwnedUserId;

use super::{beside, output::say, running::other_answer};
use crate::store::{Command, Done};

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
    let user = arguments.user.clone();
    let command = Command::ConfirmIdentity { user: user.clone() };
    let Done::Confirmed { master_key } = beside::command(&arguments.config, command)? else {
        return Err(other_answer());
    };
    say(&format!("confirmed the identity of {user} with the master key {master_key}"));
    Ok(())
}
