//! `policies`: what differs from room to room.

use ruma::OwnedRoomId;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Enforce, Rotation, Sharing, State};
use crate::config::{AliasGlob, ServerGlob};

/// Which sections a policy may have.
pub const SECTIONS: [&str; 4] = ["sharing", "state", "rotation", "enforce"];

/// Keys of those sections that a policy has no say in.
pub const OVERALL: [(&str, &str); 4] = [
    ("sharing", "budget"),
    ("sharing", "gate_timeout"),
    ("sharing", "refresh_per_second"),
    ("state", "member_keys_kept"),
];

/// What differs in some rooms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(transform = keep_what_differs)]
pub struct Policy {
    /// Which rooms these are. Of one list, one entry has to fit; where several lists are given, each
    /// of them has to.
    #[serde(rename = "match")]
    pub matches: Match,
    /// As the section of this name, for these rooms.
    pub sharing: Sharing,
    /// As the section of this name, for these rooms.
    pub state: State,
    /// As the section of this name, for these rooms.
    pub rotation: Rotation,
    /// As the section of this name, for these rooms.
    pub enforce: Enforce,
    /// As the key of this name, for these rooms.
    pub noop: bool,
}

/// Which rooms a policy is for. A list that is empty or left out asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Rooms, by their ids, and those that they go on in after an upgrade, where both sides say so.
    #[schemars(with = "Vec<String>", extend("items" = { "type": "string", "format": "matrix-room-id" }))]
    pub rooms: Vec<OwnedRoomId>,
    /// Patterns for the whole of a room's main address (`alias` in `m.room.canonical_alias`, in
    /// plain). Whoever may set a room's address chooses by it.
    pub aliases: Vec<AliasGlob>,
    /// Spaces, by their ids, and those that they go on in after an upgrade, where both sides say so.
    /// A room is in a space that the keeper is in, that lists the room, and that the room names as
    /// its parent or lets the members of in. Spaces in spaces do not count.
    #[schemars(with = "Vec<String>", extend("items" = { "type": "string", "format": "matrix-room-id" }))]
    pub spaces: Vec<OwnedRoomId>,
    /// Patterns for the whole name of the server on which the room was made; their case does not
    /// count.
    pub servers: Vec<ServerGlob>,
}

impl Match {
    /// Whether nothing is asked of a room.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
            && self.aliases.is_empty()
            && self.spaces.is_empty()
            && self.servers.is_empty()
    }
}

/// Takes out of a policy's schema what holds for all rooms together, and the defaults: what a policy
/// leaves out is as in the section at the top level.
fn keep_what_differs(schema: &mut Schema) {
    let Some(sections) = schema.get_mut("properties") else { return };
    for (section, key) in OVERALL {
        let keys = sections.get_mut(section).and_then(|section| section.get_mut("properties"));
        if let Some(keys) = keys.and_then(Json::as_object_mut) {
            keys.remove(key);
        }
    }
    drop_defaults(sections);
}

fn drop_defaults(properties: &mut Json) {
    for schema in properties.as_object_mut().into_iter().flat_map(|keys| keys.values_mut()) {
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("default");
        }
        if let Some(below) = schema.get_mut("properties") {
            drop_defaults(below);
        }
    }
}
