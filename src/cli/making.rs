//! `statekeeper room create`, `room cancel` and `room progress`: rooms that the running keeper makes.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use ruma::{OwnedRoomOrAliasId, OwnedUserId};

use super::{
    beside::{self, block_on},
    output::{say, warn},
    progress::{Form, follow, line},
    running::{self, other_answer},
    table::{NOTHING, table, word},
};
use crate::{
    keeper::operator::{Answer, Making, Picture, Query},
    store::CommissionRow,
};

/// The most bytes of a picture.
const LARGEST_PICTURE: u64 = 8 << 20;

/// What can be done with rooms.
#[derive(Debug, Subcommand)]
pub(super) enum Work {
    /// Make a room whose state is encrypted from its birth
    Create(Create),
    /// Move a room to one whose state is encrypted
    Upgrade(super::upgrade::Upgrade),
    /// Carry an order out no further: what was made stays
    Cancel(Cancel),
    /// Say how far the rooms are that are being made
    Progress(Progress),
}

/// What `room create` is called with.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The room's name, which the homeserver never sees
    #[arg(long)]
    name: Option<String>,
    /// Its topic, which the homeserver never sees
    #[arg(long)]
    topic: Option<String>,
    /// Its picture, which the homeserver keeps as ciphertext: a PNG, JPEG, GIF or WebP file
    #[arg(long, value_name = "FILE")]
    avatar: Option<PathBuf>,
    /// A space that lists it, by id or address; the keeper has to be in it
    #[arg(long)]
    space: Option<OwnedRoomOrAliasId>,
    /// Let the members of the space join
    #[arg(long, requires = "space")]
    restricted: bool,
    /// Somebody who governs the room beside the keeper, and is invited
    #[arg(long, value_name = "USER")]
    admin: Vec<OwnedUserId>,
    /// Somebody who is invited
    #[arg(long, value_name = "USER")]
    invite: Vec<OwnedUserId>,
    /// The room version, instead of the homeserver's default
    #[arg(long, value_name = "VERSION")]
    room_version: Option<String>,
    #[command(flatten)]
    telling: Telling,
}

/// How it is told how far the keeper is.
#[derive(Debug, Args)]
pub(super) struct Telling {
    /// Print a JSON object a line
    #[arg(long)]
    pub(super) json: bool,
    /// Do not wait until all is done
    #[arg(long)]
    pub(super) no_wait: bool,
}

/// What `room progress` is called with.
#[derive(Debug, Args)]
pub(super) struct Progress {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// One order alone, by its id, until it is carried out
    order: Option<String>,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
}

/// What `room cancel` is called with.
#[derive(Debug, Args)]
pub(super) struct Cancel {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The order's id
    order: String,
}

/// Does it.
pub(super) fn run(work: &Work) -> anyhow::Result<()> {
    match work {
        Work::Create(arguments) => create(arguments),
        Work::Upgrade(arguments) => super::upgrade::run(arguments),
        Work::Cancel(arguments) => cancel(arguments),
        Work::Progress(arguments) => progress(arguments),
    }
}

fn create(arguments: &Create) -> anyhow::Result<()> {
    let avatar = arguments.avatar.as_deref().map(picture).transpose()?;
    if arguments.admin.is_empty() {
        warn(&"nobody but the keeper governs the room; name somebody with `--admin`");
    }
    let making = Making::RoomCreate {
        name: arguments.name.clone(),
        topic: arguments.topic.clone(),
        avatar,
        space: arguments.space.clone(),
        restricted: arguments.restricted,
        admins: arguments.admin.clone(),
        invite: arguments.invite.clone(),
        version: arguments.room_version.clone(),
    };
    order(&arguments.config, making, &arguments.telling)
}

/// Gives an order to the running keeper, and tells how far it is.
pub(super) fn order(config: &Path, making: Making, telling: &Telling) -> anyhow::Result<()> {
    let config = beside::read(config)?;
    block_on(async {
        let answer = running::ask(&config, &making.into()).await?.answer()?;
        let Answer::Commission(row) = answer else { return Err(other_answer()) };
        match (telling.no_wait, telling.json) {
            (true, true) => say(&serde_json::to_string(&row)?),
            (true, false) => say(&format!("taken down as {}", row.id)),
            (false, json) => follow(&config, row, Form::new(json)).await?,
        }
        Ok(())
    })
}

fn cancel(arguments: &Cancel) -> anyhow::Result<()> {
    let making = Making::RoomCancel { order: arguments.order.clone() };
    let Answer::Commission(row) = beside::ask(&arguments.config, making)? else {
        return Err(other_answer());
    };
    say(&match row.room_id {
        Some(room) => format!("cancelled; {room} stays as it is"),
        None if row.attempts == 0 => "cancelled; no room was made".to_owned(),
        None => {
            "cancelled; should the homeserver be making the room, the keeper leaves it".to_owned()
        }
    });
    Ok(())
}

fn progress(arguments: &Progress) -> anyhow::Result<()> {
    if let Some(id) = &arguments.order {
        let config = beside::read(&arguments.config)?;
        return block_on(async {
            let query = Query::Commission { id: id.clone() };
            let answer = running::ask(&config, &query.into()).await?.answer()?;
            let Answer::Commission(row) = answer else { return Err(other_answer()) };
            follow(&config, row, Form::new(arguments.json)).await
        });
    }
    let Answer::Commissions(rows) = beside::ask(&arguments.config, Query::Commissions)? else {
        return Err(other_answer());
    };
    if arguments.json {
        for row in &rows {
            say(&serde_json::to_string(row)?);
        }
        return Ok(());
    }
    if rows.is_empty() {
        say("no room is being made, nor was one lately");
        return Ok(());
    }
    let heads = ["ORDER", "WHAT", "BY", "OLD ROOM", "ROOM", "STATE"];
    table(heads, rows.iter().map(cells).collect()).iter().for_each(|line| say(line));
    Ok(())
}

fn cells(row: &CommissionRow) -> [String; 6] {
    let room = |room: Option<&ruma::OwnedRoomId>| {
        room.map_or_else(|| NOTHING.to_owned(), |room| word(room.as_str()))
    };
    [
        word(&row.id),
        row.kind.as_str().to_owned(),
        word(&row.actor),
        room(row.old_room.as_ref()),
        room(row.room_id.as_ref()),
        line(row),
    ]
}

/// Reads a picture.
fn picture(path: &Path) -> anyhow::Result<Picture> {
    let shown = path.display();
    let mut bytes = Vec::new();
    // No more is read, whatever kind of file it is.
    let file = std::fs::File::open(path).with_context(|| format!("{shown}"))?;
    let read = file.take(LARGEST_PICTURE.saturating_add(1)).read_to_end(&mut bytes);
    if read.with_context(|| format!("{shown}"))? as u64 > LARGEST_PICTURE {
        anyhow::bail!("{shown}: has more than {LARGEST_PICTURE} bytes, which are the most");
    }
    let mimetype =
        mimetype(&bytes).with_context(|| format!("{shown}: is no PNG, JPEG, GIF or WebP file"))?;
    Ok(Picture { mimetype: mimetype.to_owned(), data: vodozemac::base64_encode(bytes) })
}

/// What kind of picture it is, by how its file begins.
fn mimetype(bytes: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 4] = [
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"\xff\xd8\xff", "image/jpeg"),
        (b"GIF8", "image/gif"),
        (b"RIFF", "image/webp"),
    ];
    let (_, kind) = kinds.into_iter().find(|(start, _)| bytes.starts_with(start))?;
    let is_webp = bytes.get(8..12) == Some(b"WEBP".as_slice());
    (kind != "image/webp" || is_webp).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_told_by_how_it_begins() {
        assert_eq!(mimetype(b"\x89PNG\r\n\x1a\n..."), Some("image/png"));
        assert_eq!(mimetype(b"RIFF\x01\x02\x03\x04WEBPVP8 "), Some("image/webp"));
        let endless = picture(Path::new("/dev/zero")).err().map(|error| error.to_string());
        assert!(endless.is_some_and(|error| error.contains("bytes, which are the most")));
        for other in [b"RIFF\x01\x02\x03\x04WAVEfmt ".as_slice(), b"<svg>", b""] {
            assert_eq!(mimetype(other), None);
        }
    }
}
