//! `statekeeper why`: why a user has or lacks a room's keys.

use std::path::PathBuf;

use clap::Args;
use ruma::{OwnedRoomId, OwnedUserId};

use super::{
    beside,
    output::say,
    running::other_answer,
    table::{NOTHING, harmless, table, word},
    when::to_second,
};
use crate::keeper::operator::{Answer, DeviceWhy, Finding, Query, Why};

/// What the command is called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The user's id
    user: OwnedUserId,
    /// The room's id
    room: OwnedRoomId,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Says it, device by device.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (user, room) = (arguments.user.clone(), arguments.room.clone());
    let Answer::Why(why) = beside::ask(&arguments.config, Query::Why { user, room })? else {
        return Err(other_answer());
    };
    match arguments.json {
        true => say(&serde_json::to_string_pretty(&why)?),
        false => lines(&why).iter().for_each(|line| say(line)),
    }
    Ok(())
}

fn lines(why: &Why) -> Vec<String> {
    let since = why.since.map(|at| format!(", heard of at {}", to_second(at))).unwrap_or_default();
    let membership = why.membership.as_deref().unwrap_or("not in the room");
    let mut lines = vec![
        format!("user        {}", why.user_id),
        format!("room        {}", why.room_id),
        format!("membership  {membership}{since}"),
        format!("policy      {}", why.policy),
    ];
    for finding in &why.findings {
        lines.push(String::new());
        lines.extend(sentences(finding, ""));
    }
    for device in &why.devices {
        lines.push(String::new());
        lines.extend(of_device(device));
    }
    lines
}

fn sentences(finding: &Finding, indent: &str) -> Vec<String> {
    let mut lines = vec![format!("{indent}{}", harmless(&finding.text))];
    lines.extend(finding.fix.as_ref().map(|fix| format!("{indent}mend it: {}", harmless(fix))));
    lines
}

fn of_device(device: &DeviceWhy) -> Vec<String> {
    let signed = if device.cross_signed { "cross-signed" } else { "not cross-signed" };
    let mut lines = vec![format!("device {} ({signed})", word(device.device_id.as_str()))];
    lines.extend(sentences(&device.finding, "  "));
    let rows: Vec<_> = device
        .values
        .iter()
        .map(|value| {
            let key = if value.state_key.is_empty() {
                NOTHING.to_owned()
            } else {
                word(&value.state_key)
            };
            let at = value.at.map_or_else(|| NOTHING.to_owned(), to_second);
            [word(&value.event_type), key, value.state.as_str().to_owned(), at]
        })
        .collect();
    if !rows.is_empty() {
        let table = table(["TYPE", "STATE KEY", "KEY", "SINCE"], rows);
        lines.extend(table.into_iter().map(|line| format!("  {line}")));
    }
    for told in &device.told {
        lines.push(format!(
            "  refused before: {}, last at {}",
            told.outcome,
            to_second(told.last_at)
        ));
    }
    lines
}
