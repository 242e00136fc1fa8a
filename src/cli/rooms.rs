//! `statekeeper rooms` and `room`: the rooms that the keeper is in, and what stands there; and what can be done with
//! them.

use std::path::PathBuf;

use clap::Args;
use ruma::OwnedRoomId;

use super::{
    beside, making,
    output::say,
    running::other_answer,
    table::{NOTHING, table, word},
};
use crate::{
    keeper::operator::{Answer, Query, RoomDetail, RoomSummary},
    store::{NotBeside, Refused},
};

/// What `rooms` is called with.
#[derive(Debug, Args)]
pub(super) struct Rooms {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// What `room` is called with: a room, or something to be done.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Room {
    /// The configuration
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// The room's id
    #[arg(required = true)]
    room: Option<OwnedRoomId>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    work: Option<making::Work>,
}

/// Lists the rooms.
pub(super) fn rooms(arguments: &Rooms) -> anyhow::Result<()> {
    let answer = beside::ask_or(&arguments.config, Query::Rooms, async |store| {
        let rooms = store.rooms(None).await?.into_iter().map(RoomSummary::from).collect();
        Ok::<_, NotBeside>(Answer::Rooms(rooms))
    })?;
    let Answer::Rooms(rooms) = answer else { return Err(other_answer()) };
    if arguments.json {
        say(&serde_json::to_string_pretty(&rooms)?);
        return Ok(());
    }
    if rooms.is_empty() {
        say("the keeper is in no room");
        return Ok(());
    }
    let heads =
        ["ROOM", "STATUS", "JOINED", "SEALED", "UNDECRYPTABLE", "HELD", "TO DECIDE", "ADDRESS"];
    table(heads, rooms.iter().map(cells).collect()).iter().for_each(|line| say(line));
    Ok(())
}

fn cells(room: &RoomSummary) -> [String; 8] {
    [
        word(room.room_id.as_str()),
        room.status.clone(),
        room.joined.to_string(),
        format!("{}/{}", room.sealed, room.values),
        room.undecryptable.to_string(),
        room.held.to_string(),
        room.promises.to_string(),
        room.alias.as_deref().map_or_else(|| NOTHING.to_owned(), word),
    ]
}

/// Says what stands in a room, or does what is to be done.
pub(super) fn room(arguments: &Room) -> anyhow::Result<()> {
    if let Some(work) = &arguments.work {
        return making::run(work);
    }
    // Both are required where nothing is to be done.
    let (Some(config), Some(room)) = (&arguments.config, arguments.room.clone()) else {
        anyhow::bail!("name the configuration and a room");
    };
    let query = Query::Room { room: room.clone(), most: None };
    let answer = beside::ask_or(config, query, async |store| {
        let Some(row) = store.rooms(Some(&room)).await?.pop() else {
            return Err(Refused::UnknownRoom(room).into());
        };
        let tuples = store.tuples(&room).await?;
        let mut holds = store.holds().await?;
        holds.retain(|hold| hold.room_id == room);
        anyhow::Ok(Answer::Room(RoomDetail::of_store(row, tuples, holds)))
    })?;
    let Answer::Room(room) = answer else { return Err(other_answer()) };
    match arguments.json {
        true => say(&serde_json::to_string_pretty(&room)?),
        false => lines(&room).iter().for_each(|line| say(line)),
    }
    Ok(())
}

fn lines(room: &RoomDetail) -> Vec<String> {
    let summary = &room.summary;
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let spaces: Vec<&str> = room.spaces.iter().map(|space| space.as_str()).collect();
    let mut lines = vec![
        format!("room       {} (version {})", summary.room_id, word(&room.version)),
        format!("address    {}", summary.alias.as_deref().map_or_else(|| NOTHING.to_owned(), word)),
        format!(
            "spaces     {}",
            if spaces.is_empty() { NOTHING.to_owned() } else { spaces.join(" ") }
        ),
        format!("status     {}", summary.status),
        format!("encrypted  {}, its state: {}", yes(room.encrypted), yes(room.flagged)),
        format!("elevated   {}", yes(room.elevated)),
        format!("joined     {}", summary.joined),
        format!("to decide  {}", summary.promises),
    ];
    lines.extend(room.policy.as_ref().map(|policy| format!("policy     {policy}")));
    lines.extend(room.noop.filter(|noop| *noop).map(|_| "noop       on".to_owned()));
    lines.extend(room.wars.iter().map(|user| {
        format!(
            "war        {user} goes on breaking rules; what they change is restored after `resume`"
        )
    }));
    if !room.tuples.is_empty() {
        lines.push(String::new());
        let rows = room.tuples.iter().map(|tuple| {
            let key = if tuple.state_key.is_empty() {
                NOTHING.to_owned()
            } else {
                word(&tuple.state_key)
            };
            let note = if tuple.public_picture { ", its picture is public" } else { "" };
            [word(&tuple.event_type), key, format!("{}{note}", tuple.state)]
        });
        lines.extend(table(["TYPE", "STATE KEY", "STATE"], rows.collect()));
    }
    if !room.holds.is_empty() {
        lines.push(String::new());
        let rows = room.holds.iter().map(|hold| [word(hold.user_id.as_str()), hold.reason.clone()]);
        lines.extend(table(["HELD", "WHY"], rows.collect()));
    }
    lines
}
