//! `statekeeper holds`: who waits for an administrator's word.

use std::path::PathBuf;

use clap::Args;

use super::{beside, output::say, running::other_answer};
use crate::{
    keeper::operator::{Answer, Holds, Query},
    store::NotBeside,
};

/// What the command is called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// Lists the held members, the longest first.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let answer = beside::ask_or(&arguments.config, Query::Holds { most: None }, async |store| {
        Ok::<_, NotBeside>(Answer::Holds(Holds::from(store.holds().await?)))
    })?;
    let Answer::Holds(Holds { holds, .. }) = answer else { return Err(other_answer()) };
    if arguments.json {
        say(&serde_json::to_string_pretty(&holds)?);
        return Ok(());
    }
    if holds.is_empty() {
        say("nobody is held");
    }
    for hold in &holds {
        say(&format!("{} {} {}", hold.room_id, hold.user_id, hold.reason));
    }
    Ok(())
}
