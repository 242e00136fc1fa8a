//! `statekeeper holds`: who waits for an administrator's word.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{beside, output::say};
use crate::store::HoldRow;

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
    let holds = beside::run(&arguments.config, async |store| store.holds().await)?;
    if arguments.json {
        let rows: Vec<_> = holds.iter().map(to_json).collect();
        say(&serde_json::to_string_pretty(&rows)?);
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

fn to_json(hold: &HoldRow) -> serde_json::Value {
    json!({
        "room_id": hold.room_id, "user_id": hold.user_id,
        "since": hold.since, "reason": hold.reason,
    })
}
