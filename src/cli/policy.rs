//! `statekeeper policy`: by which settings a room is kept.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ruma::{OwnedRoomOrAliasId, RoomAliasId, RoomId};
use serde_json::{Value, json};

use super::{beside, output::say};
use crate::{
    config::{Config, Draft, Origins, environment},
    keeper::rule_book::{facts, policy_of},
    state::Membership,
    store::{NotBeside, RoomRow},
};

/// What the command is called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say which policy a room has, and where each of its settings comes from
    Explain(Explain),
}

#[derive(Debug, Args)]
struct Explain {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The room's id, or its main address
    room: OwnedRoomOrAliasId,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Does what the arguments say.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.command {
        Command::Explain(arguments) => explain(arguments),
    }
}

fn explain(arguments: &Explain) -> anyhow::Result<()> {
    let environment = environment();
    let config = Draft::read(&arguments.config, &environment).finish()?;
    let origins = Origins::read(&arguments.config, &environment)
        .map_err(|mistake| anyhow::anyhow!("{mistake}"))?;
    let (room, unknown) = match <&RoomId>::try_from(&*arguments.room) {
        Ok(room) => look_up(&arguments.config, room)?,
        Err(alias) => (find(&arguments.config, alias)?, None),
    };
    let explained = Explained::new(&config, &origins, room, unknown);
    match arguments.json {
        true => say(&serde_json::to_string_pretty(&explained.to_json())?),
        false => explained.to_lines().iter().for_each(|line| say(line)),
    }
    Ok(())
}

/// The room that says that this is its main address, as far as the store knows.
fn find(config: &Path, alias: &RoomAliasId) -> anyhow::Result<RoomRow> {
    let rooms = beside::run(config, async |store| store.rooms(None).await)?;
    let found =
        rooms.into_iter().find(|row| row.room.canonical_alias.as_deref() == Some(alias.as_str()));
    found.map(|row| row.room).ok_or_else(|| {
        anyhow::anyhow!(
            "{alias}: the keeper knows no room with this main address; name the room by its id"
        )
    })
}

/// What the store knows of a room, and why it knows nothing, where it does not.
fn look_up(config: &Path, room: &RoomId) -> anyhow::Result<(RoomRow, Option<String>)> {
    let unknown = match beside::run(config, async |store| store.room(room).await) {
        Ok(Some(room)) => return Ok((room, None)),
        Ok(None) => "the keeper does not know the room".to_owned(),
        Err(error) => match error.downcast::<NotBeside>()? {
            refused @ (NotBeside::NoStore(_) | NotBeside::OtherVersion(_)) => refused.to_string(),
            refused => return Err(refused.into()),
        },
    };
    Ok((RoomRow::new(room.to_owned(), Membership::Leave), Some(unknown)))
}

struct Explained {
    room: RoomRow,
    /// Why nothing but the room's id is known, if so.
    unknown: Option<String>,
    /// The policy's place in the list, and where it is written.
    policy: Option<(usize, String)>,
    /// Each setting, its value, and where it is written.
    settings: Vec<(String, Value, String)>,
}

impl Explained {
    fn new(config: &Config, origins: &Origins, room: RoomRow, unknown: Option<String>) -> Self {
        let policy = policy_of(config, &room);
        let settings = config.settings(policy).into_iter().map(|(key, value)| {
            let origin = origins.of_setting(policy, &key).to_string();
            (key, value, origin)
        });
        Self {
            settings: settings.collect(),
            policy: policy.map(|index| (index, origins.of_policy(index).to_string())),
            room,
            unknown,
        }
    }

    fn to_json(&self) -> Value {
        let facts = facts(&self.room);
        let settings = self
            .settings
            .iter()
            .map(|(key, value, origin)| json!({ "key": key, "value": value, "origin": origin }));
        json!({
            "room_id": facts.room_id,
            "known": self.unknown.is_none(),
            "alias": facts.alias,
            "spaces": facts.spaces,
            "server": facts.server,
            "policy": self.policy.as_ref().map(|(index, origin)| {
                json!({ "index": index, "origin": origin })
            }),
            "settings": settings.collect::<Vec<_>>(),
        })
    }

    fn to_lines(&self) -> Vec<String> {
        let facts = facts(&self.room);
        let mut lines = vec![format!("room    {}", facts.room_id)];
        if let Some(why) = &self.unknown {
            lines.push(format!("        {why}: policies by alias or space are not weighed"));
        }
        lines.push(format!("alias   {}", facts.alias.unwrap_or("none")));
        let spaces: Vec<&str> = facts.spaces.iter().map(|space| space.as_str()).collect();
        let spaces = if spaces.is_empty() { "none".to_owned() } else { spaces.join(" ") };
        lines.push(format!("spaces  {spaces}"));
        lines.push(format!("server  {}", facts.server.map_or("unknown", |name| name.as_str())));
        lines.push(match &self.policy {
            Some((index, origin)) => format!("policy  policies[{index}] ({origin})"),
            None => "policy  none: every setting is as at the top level".to_owned(),
        });
        let width = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or_default();
        let keys = width(&mut self.settings.iter().map(|(key, ..)| key.len()));
        for (key, value, origin) in &self.settings {
            lines.push(format!("{key:keys$}  {}  ({origin})", shown(value)));
        }
        lines
    }
}

/// A text without quotes, anything else as JSON.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
