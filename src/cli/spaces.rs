//! `statekeeper spaces`: the spaces that the keeper follows, and how far it has come with them.

use std::path::PathBuf;

use clap::Args;

use super::{
    beside::{self, block_on},
    output::say,
    progress::{ASK_EVERY, Form, bar, redraw},
    running::{self, other_answer},
    table::{NOTHING, harmless, table, word},
};
use crate::{
    config::Config,
    keeper::operator::{Answer, Query, Spaces, percent},
};

/// What the command is called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Wait until everything beneath the spaces is joined that can be, and everybody provided for
    #[arg(long)]
    wait: bool,
    /// Print a JSON object; with `--wait` one a line, at each change
    #[arg(long)]
    json: bool,
}

/// Lists the spaces, at once or when the keeper is through with them.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = beside::read(&arguments.config)?;
    let found = block_on(async {
        match arguments.wait {
            true => wait(&config, Form::new(arguments.json)).await,
            false => ask(&config).await,
        }
    })?;
    match (arguments.json, arguments.wait) {
        // The last line has said it.
        (true, true) => {}
        (true, false) => say(&serde_json::to_string_pretty(&found)?),
        (false, _) => lines(&found).iter().for_each(|line| say(line)),
    }
    Ok(())
}

async fn ask(config: &Config) -> anyhow::Result<Spaces> {
    match running::ask(config, &Query::Spaces.into()).await?.answer()? {
        Answer::Spaces(found) => Ok(found),
        _ => Err(other_answer()),
    }
}

/// Tells how far the keeper is, until it is through.
async fn wait(config: &Config, form: Form) -> anyhow::Result<Spaces> {
    let mut told: Option<String> = None;
    loop {
        let found = ask(config).await?;
        let text = match form {
            Form::Json => serde_json::to_string(&found)?,
            Form::Lines => sentence(&found),
            Form::Bar => {
                let (settled, all) = found.settled();
                bar(settled, all, &sentence(&found))
            }
        };
        if told.as_ref() != Some(&text) {
            match form {
                Form::Bar => redraw(&text),
                Form::Json | Form::Lines => say(&text),
            }
        }
        told = Some(text);
        if found.is_through() {
            if form == Form::Bar {
                say("");
            }
            return Ok(found);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn sentence(found: &Spaces) -> String {
    let (settled, all) = found.settled();
    match found.backlog() {
        0 => format!("rooms and spaces: {settled} of {all}"),
        left => format!("rooms and spaces: {settled} of {all}, to provide for: {left}"),
    }
}

fn lines(found: &Spaces) -> Vec<String> {
    if found.spaces.is_empty() {
        return vec!["no space is followed".to_owned()];
    }
    let change =
        |change: &Option<String>| change.as_deref().map_or_else(|| NOTHING.to_owned(), harmless);
    let spaces = found.spaces.iter().map(|space| {
        let backlog = match space.looked_at {
            0 => space.backlog.to_string(),
            done => format!("{} ({}% done)", space.backlog, percent(done, space.to_look_at())),
        };
        let beyond = space.beyond.to_string();
        [word(&space.name), space.status.clone(), beyond, backlog, change(&space.change)]
    });
    let mut lines =
        table(["SPACE", "STATUS", "BEYOND", "TO PROVIDE FOR", "TO CHANGE"], spaces.collect());
    if !found.rooms.is_empty() {
        lines.push(String::new());
        let rooms = found.rooms.iter().map(|room| {
            let (id, followed) = (room.room_id.as_str(), room.followed.as_str());
            [word(id), room.status.clone(), word(followed), change(&room.change)]
        });
        lines.extend(table(["ROOM", "STATUS", "BENEATH", "TO CHANGE"], rooms.collect()));
    }
    lines
}
