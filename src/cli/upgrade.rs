//! `statekeeper room upgrade`: a room is moved to one whose state is encrypted.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _, stdin, stdout},
    path::PathBuf,
};

use clap::Args;
use ruma::OwnedRoomId;

use super::{
    beside,
    making::{Telling, order},
    output::{say, warn},
    running::other_answer,
    table::{NOTHING, harmless, word},
};
use crate::keeper::{
    commissions::UpgradePlan,
    operator::{Answer, Making, Query},
};

/// What `room upgrade` is called with.
#[derive(Debug, Args)]
pub(super) struct Upgrade {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The room's id
    room: OwnedRoomId,
    /// The new room's version, instead of the homeserver's default
    #[arg(long, value_name = "VERSION")]
    room_version: Option<String>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    plan: bool,
    /// Do it without asking
    #[arg(long, conflicts_with = "plan")]
    yes: bool,
    #[command(flatten)]
    telling: Telling,
}

/// Shows the plan, asks, and has it done.
pub(super) fn run(arguments: &Upgrade) -> anyhow::Result<()> {
    let (room, version) = (arguments.room.clone(), arguments.room_version.clone());
    let query = Query::UpgradePlan { room: room.clone(), version };
    let Answer::UpgradePlan(plan) = beside::ask(&arguments.config, query)? else {
        return Err(other_answer());
    };
    if arguments.telling.json && !arguments.plan && !arguments.yes {
        anyhow::bail!("`--json` asks nobody; say `--yes`, or `--plan` to look alone");
    }
    if arguments.plan && arguments.telling.json {
        say(&serde_json::to_string_pretty(&plan)?);
        return Ok(());
    }
    if !arguments.telling.json {
        lines(&plan).iter().for_each(|line| say(line));
    }
    if arguments.plan {
        return Ok(());
    }
    if !plan.missing.is_empty() {
        plan.missing.iter().for_each(|missing| warn(&harmless(missing)));
        anyhow::bail!("{room}: cannot be moved before that is mended");
    }
    if !arguments.yes && !agreed()? {
        anyhow::bail!("{room}: nothing was done");
    }
    // The version that the plan was shown with, whatever the homeserver's default is by now.
    let making = Making::RoomUpgrade { room, version: Some(plan.to_version) };
    order(&arguments.config, making, &arguments.telling)
}

/// Asks whoever sits before the terminal.
fn agreed() -> anyhow::Result<bool> {
    if !stdin().is_terminal() || !stdout().is_terminal() {
        anyhow::bail!("nobody is there to ask; say `--yes`, or `--plan` to look alone");
    }
    let _ = write!(stdout().lock(), "move the room? [y/N] ");
    let _ = stdout().flush();
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn lines(plan: &UpgradePlan) -> Vec<String> {
    let list = |entries: Vec<String>| match entries.is_empty() {
        true => NOTHING.to_owned(),
        false => entries.join(" "),
    };
    let creators = plan.additional_creators.iter().map(|user| word(user.as_str()));
    let spaces = plan.spaces.iter().map(|space| word(space.as_str()));
    let picture =
        if plan.picture { ", and the picture, which is public now, encrypted" } else { "" };
    let mut lines = vec![
        format!(
            "room       {} (version {} to {})",
            plan.room,
            word(&plan.from_version),
            word(&plan.to_version)
        ),
        format!("creator    {}", plan.creator),
        format!("with       {}", list(creators.collect())),
        format!("sealed     {}{picture}", plan.sealed),
        format!("in plain   {}", plan.plain),
        format!("spaces     {}", list(spaces.collect())),
        format!("addresses  {}", list(plan.addresses.iter().map(|it| word(it)).collect())),
        format!("invited    {}, and {} may join by the rule", plan.invited, plan.admitted),
    ];
    lines.extend(plan.missing.iter().map(|it| format!("missing    {}", harmless(it))));
    lines.extend(plan.losses.iter().map(|it| format!("stays      {}", harmless(it))));
    lines
}
