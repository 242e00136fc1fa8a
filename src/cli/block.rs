//! `statekeeper block` and `unblock`: who gets no key in any room.

use std::path::PathBuf;

use clap::Args;
use ruma::{OwnedDeviceId, OwnedUserId};

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
    let (user, device) = (&arguments.user, arguments.device.as_deref());
    let known =
        beside::run(&arguments.config, async |store| store.block(user, device, now_ms()).await)?;
    if !known {
        warn(&format!("{user}: the keeper has never seen this user; is the id right?"));
    }
    say(&format!("blocked {}", arguments.whom()));
    Ok(())
}

/// Takes a block back.
pub(super) fn unblock(arguments: &Arguments) -> anyhow::Result<()> {
    let (user, device) = (&arguments.user, arguments.device.as_deref());
    beside::run(&arguments.config, async |store| store.unblock(user, device, now_ms()).await)?;
    say(&format!("unblocked {}", arguments.whom()));
    Ok(())
}
