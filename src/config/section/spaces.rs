//! `spaces`: which spaces the keeper follows, and what their members read before they join a room.

use std::path::PathBuf;

use ruma::{OwnedRoomId, OwnedRoomOrAliasId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Duration;

/// A space that the keeper follows: it joins the rooms beneath it, and gives their keys to those who may
/// join them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// The space: its id, or an address of it. Where it goes on in another one, as both say, that one is followed.
    #[schemars(
        with = "String",
        extend("format" = "matrix-room-id-or-alias", "example" = "#company:example.org")
    )]
    pub room: OwnedRoomOrAliasId,
    /// What those get before they join whom a room's restricted join rule lets in: the members of rooms
    /// that it names and that the keeper is in. Only for rooms that the space lists, or `rooms` does.
    #[serde(default)]
    pub preview: Preview,
    /// Into which rooms the keeper invites those whom a room's restricted join rule lets in, with the keys
    /// of the history that the room's members share (MSC4268), messages included: clients take these from
    /// whoever invited them. Only into rooms that the space lists, or `rooms` does. Nobody is invited
    /// twice, and nobody who has left.
    #[serde(default)]
    pub invite: Invite,
    /// How many keys a second are given to people before they join, in all rooms of the space together;
    /// an invite counts as one.
    #[schemars(range(min = 1))]
    #[serde(default = "per_second")]
    pub per_second: u32,
    /// How often, at most, everybody who may join a room is given keys of its state anew: where its
    /// sessions change more often, some of them are passed over.
    #[serde(default = "preview_interval")]
    pub preview_interval: Duration,
    /// How many spaces deep rooms are looked for: 1 is the space's own list.
    #[schemars(range(min = 1))]
    #[serde(default = "max_depth")]
    pub max_depth: u32,
    /// How many rooms beneath the space are followed, those near to it first.
    #[schemars(range(min = 1))]
    #[serde(default = "max_rooms")]
    pub max_rooms: u32,
    /// Whether the homeserver's own administration lets the keeper into rooms beneath the space that it
    /// cannot join, and gives it the power to seal where it lacks it.
    #[serde(default)]
    pub admin_assist: AdminAssist,
    /// A file with the access token of a server administrator, for `admin_assist`. Whoever has it can do
    /// anything on that server: make it readable for the keeper alone.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("format" = "path"))]
    pub admin_token_file: Option<PathBuf>,
    /// Rooms that count as listed by the space though it does not list them.
    #[schemars(with = "Vec<String>", extend("items" = { "type": "string", "format": "matrix-room-id" }))]
    #[serde(default)]
    pub rooms: Vec<OwnedRoomId>,
}

/// What somebody reads of a room before the join.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preview {
    /// Nothing.
    None,
    /// The room's name, topic and avatar.
    #[default]
    Aesthetic,
    /// All encrypted state.
    All,
}

/// Whose help the keeper has beneath a space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdminAssist {
    /// Nobody's: what an administrator has to change is reported.
    #[default]
    None,
    /// That of Synapse's admin API.
    Synapse,
}

/// Into which rooms people are invited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Invite {
    /// Into none.
    #[default]
    None,
    /// Into those that the space, or a space beneath it, suggests.
    Suggested,
    /// Into every one.
    All,
}

/// `per_second` where nothing is said.
fn per_second() -> u32 {
    250
}

/// `preview_interval` where nothing is said.
fn preview_interval() -> Duration {
    Duration::from_secs(10 * 60)
}

/// `max_depth` where nothing is said.
fn max_depth() -> u32 {
    5
}

/// `max_rooms` where nothing is said.
fn max_rooms() -> u32 {
    1000
}

impl Space {
    /// A space of which no more is said than which it is: as one that an administrator invited the keeper
    /// into.
    pub fn new(room: OwnedRoomOrAliasId) -> Self {
        Self {
            room,
            preview: Preview::default(),
            invite: Invite::default(),
            per_second: per_second(),
            preview_interval: preview_interval(),
            max_depth: max_depth(),
            max_rooms: max_rooms(),
            admin_assist: AdminAssist::default(),
            admin_token_file: None,
            rooms: Vec::new(),
        }
    }
}
