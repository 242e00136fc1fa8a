//! `statekeeper status`: how the running keeper fares.

use std::path::PathBuf;

use clap::Args;

use super::{beside, output::say, running::other_answer, when::to_second};
use crate::keeper::operator::{Answer, Query, Status};

/// What the command is called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Says how the running keeper fares.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Answer::Status(status) = beside::ask(&arguments.config, Query::Status)? else {
        return Err(other_answer());
    };
    match arguments.json {
        true => say(&serde_json::to_string_pretty(&status)?),
        false => lines(&status).iter().for_each(|line| say(line)),
    }
    Ok(())
}

fn lines(status: &Status) -> Vec<String> {
    let ready = match status.ready {
        true => "yes".to_owned(),
        false => format!("no, missing: {}", status.missing.join(", ")),
    };
    let noop = match (status.noop, status.noop_configured) {
        (true, _) => "on, by an administrator",
        (false, true) => "in some rooms, by the configuration",
        (false, false) => "off",
    };
    let device = status.device_id.as_ref().map_or("not made yet", |id| id.as_str());
    let rooms: Vec<String> =
        status.rooms.iter().map(|(status, count)| format!("{status} {count}")).collect();
    let mut lines = vec![
        format!("keeper         {} ({device}), version {}", status.user_id, status.version),
        format!("homeserver     {}", status.homeserver),
        format!("started        {}", to_second(status.started_at)),
        format!("ready          {ready}"),
        format!("noop           {noop}"),
        format!(
            "rooms          {}",
            if rooms.is_empty() { "none".to_owned() } else { rooms.join(", ") }
        ),
        format!("held           {}", status.held),
        format!("undecryptable  {}", status.undecryptable),
        format!("to decide      {} now, {} later", status.due, status.later),
        format!("to send        {}", status.sending),
        format!("key requests   {} waiting", status.key_requests),
        format!("sessions       {} in use", status.sessions),
    ];
    lines.extend(status.troubles.iter().map(|trouble| format!("trouble        {trouble}")));
    lines
}
