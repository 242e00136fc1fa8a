//! `statekeeper ledger`: who was given which key, when and why.

mod commands;
mod print;

use std::{
    io::{self, BufWriter, stdout},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Args;
use ruma::{OwnedRoomId, OwnedUserId};

use self::print::{Lines, Table};
use super::{beside, output::warn, when::When};
use crate::{
    keeper::clock::now_ms,
    store::{CommandsFilter, History, HistoryFilter, HistoryRow},
};

/// What the command is called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only what concerns this room's keys
    #[arg(long, value_name = "ROOM")]
    room: Option<OwnedRoomId>,
    /// Only what this user was given or refused
    #[arg(long, value_name = "USER")]
    user: Option<OwnedUserId>,
    /// Only rows with which something happened then or later: a time (2026-01-31T09:30:00Z), a day
    /// (2026-01-31, UTC) or how long ago (7d, 12h)
    #[arg(long, value_name = "WHEN")]
    since: Option<When>,
    /// Only the newest so many rows
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    /// The commands that administrators gave, instead of the keys
    #[arg(long)]
    commands: bool,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

/// How rows are shown.
trait Show {
    /// Writes rows.
    fn show(&mut self, rows: &[HistoryRow], to: &mut impl io::Write) -> io::Result<()>;
}

/// Shows the history, the newest last.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.commands {
        let filter = CommandsFilter {
            room: arguments.room.clone(),
            user: arguments.user.clone(),
            since: arguments.since.map(|since| since.as_of(now_ms())),
            newest: arguments.limit,
            before: None,
        };
        return commands::run(&arguments.config, &filter, arguments.json);
    }
    let filter = HistoryFilter {
        room: arguments.room.clone(),
        user: arguments.user.clone(),
        since: arguments.since.map(|since| since.as_of(now_ms())),
        newest: arguments.limit,
        ..HistoryFilter::default()
    };
    beside::run_unlocked(&arguments.config, async |store, passphrase| {
        let mut history = store.history(passphrase, &filter).await?;
        if arguments.json {
            show_all(&mut history, Lines).await
        } else {
            show_all(&mut history, Table::default()).await
        }
    })
}

async fn show_all(history: &mut History<'_>, mut show: impl Show) -> anyhow::Result<()> {
    for name in history.unknown() {
        warn(&format!("{name}: the ledger has never heard of it"));
    }
    let mut to = BufWriter::new(stdout().lock());
    let mut any = false;
    loop {
        let rows = history.next_page().await?;
        if rows.is_empty() {
            break;
        }
        any = true;
        match show.show(&rows, &mut to).and_then(|()| io::Write::flush(&mut to)) {
            Ok(()) => {}
            // The reader has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(error).context("the rows cannot be written"),
        }
    }
    if !any && history.unknown().is_empty() {
        warn(&"the ledger has no such rows");
    }
    Ok(())
}
