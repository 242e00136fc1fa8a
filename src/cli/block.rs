//! `statekeeper block` and `unblock`: who gets no key in any room.

use std::path::PathBuf;

use clap::Args;
use ruma::{OwnedDeviceId, OwnedUserId};

use super::{
    beside,
    output::{say, warn},
};
use crate::store::{Command, Done};

/// What the commands are called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The user's id
    user: OwnedUserId,
    /// One device of theirs, instead of all
    device: Option<OwnedDeviceId>,
}

impl Arguments {
    fn whom(&self) -> String {
        match &self.device {
            Some(device) => format!("device {device} of {}", self.user),
            None => self.user.to_string(),
        }
    }
}

/// Refuses a user, or a device, all keys from now on.
pub(super) fn block(arguments: &Arguments) -> anyhow::Result<()> {
    let (user, device) = (arguments.user.clone(), arguments.device.clone());
    let done = beside::command(&arguments.config, Command::Block { user, device })?;
    if done == (Done::Blocked { known: false }) {
        let user = &arguments.user;
        warn(&format!("{user}: the keeper has never seen this user; is the id right?"));
    }
    say(&format!("blocked {}", arguments.whom()));
    Ok(())
}

/// Takes a block back.
pub(super) fn unblock(arguments: &Arguments) -> anyhow::Result<()> {
    let (user, device) = (arguments.user.clone(), arguments.device.clone());
    beside::command(&arguments.config, Command::Unblock { user, device })?;
    say(&format!("unblocked {}", arguments.whom()));
    Ok(())
}
