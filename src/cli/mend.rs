//! `statekeeper rotate`, `refresh`, `share` and `resume`: an administrator has something done over. And `noop`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ruma::{OwnedRoomId, OwnedUserId};

use super::{
    beside,
    output::{say, warn},
    running::other_answer,
};
use crate::{
    keeper::operator::{Answer, Query, Why},
    store::{Command, Done},
};

/// What `rotate` and `refresh` are called with.
#[derive(Debug, Args)]
pub(super) struct Room {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The room's id
    room: OwnedRoomId,
}

/// What `share` is called with.
#[derive(Debug, Args)]
pub(super) struct Share {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The user's id
    user: OwnedUserId,
    /// The room's id
    room: OwnedRoomId,
}

/// What `resume` is called with.
#[derive(Debug, Args)]
pub(super) struct Resume {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The room's id
    room: OwnedRoomId,
    /// The user's id
    user: OwnedUserId,
}

/// What `noop` is called with.
#[derive(Debug, Args)]
pub(super) struct Noop {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Whether nothing is sent, or what the configuration says
    switch: Switch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// Decide and report everything, and send nothing
    On,
    /// Do what the configuration says
    Off,
}

/// Retires the sessions of a room's state.
pub(super) fn rotate(arguments: &Room) -> anyhow::Result<()> {
    let room = arguments.room.clone();
    let command = Command::Rotate { room: room.clone() };
    let Done::Rotated { sessions } = beside::command(&arguments.config, command)? else {
        return Err(other_answer());
    };
    say(&match sessions {
        0 => format!("{room}: no session of its state was in use"),
        sessions => format!("{room}: sessions retired: {sessions}"),
    });
    Ok(())
}

/// Has a room's values sealed once more.
pub(super) fn refresh(arguments: &Room) -> anyhow::Result<()> {
    let room = arguments.room.clone();
    let command = Command::Refresh { room: room.clone() };
    let Done::Refreshing { values } = beside::command(&arguments.config, command)? else {
        return Err(other_answer());
    };
    say(&match values {
        0 => format!("{room}: nothing is sealed there yet"),
        values => format!("{room}: values that are sealed once more: {values}"),
    });
    Ok(())
}

/// Has a member's devices given a room's keys once more, and says which get none and why.
pub(super) fn share(arguments: &Share) -> anyhow::Result<()> {
    let (user, room) = (arguments.user.clone(), arguments.room.clone());
    let command = Command::Share { room: room.clone(), user: user.clone() };
    beside::command(&arguments.config, command)?;
    say(&format!("the entitled devices of {user} are given the keys of {room} once more"));
    // Where no keeper runs, nobody can say yet who that is.
    if let Ok(Answer::Why(why)) = beside::ask(&arguments.config, Query::Why { user, room }) {
        warn_of_others(&why);
    }
    Ok(())
}

/// `share` gives nobody what he is not entitled to.
fn warn_of_others(why: &Why) {
    for device in why.devices.iter().filter(|device| !device.entitled) {
        warn(&format!("{} gets none: {}", device.device_id, device.finding.text));
    }
}

/// Has what a user breaks restored again.
pub(super) fn resume(arguments: &Resume) -> anyhow::Result<()> {
    let (room, user) = (arguments.room.clone(), arguments.user.clone());
    let command = Command::Resume { room: room.clone(), user: user.clone() };
    beside::command(&arguments.config, command)?;
    say(&format!("{room}: what {user} breaks is restored again"));
    Ok(())
}

/// Has nothing sent, or takes that back.
pub(super) fn noop(arguments: &Noop) -> anyhow::Result<()> {
    let on = arguments.switch == Switch::On;
    let command = Command::Noop { on };
    let Answer::Done(Done::Noop { on }) = beside::ask(&arguments.config, command)? else {
        return Err(other_answer());
    };
    say(if on {
        "noop is on: everything is decided and reported, and nothing is sent, until `noop off`"
    } else {
        "noop is off: what the configuration says counts"
    });
    Ok(())
}
