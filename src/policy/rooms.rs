//! Which rooms a policy is for.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, RoomId, ServerName};

use super::ServerGlob;
use crate::state::Glob;

/// What is asked of a room (`policies[].match`). A list that is empty asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomMatch {
    /// Its id is one of these.
    pub rooms: BTreeSet<OwnedRoomId>,
    /// Its main address fits one of these.
    pub aliases: Vec<Glob>,
    /// It is in one of these spaces.
    pub spaces: BTreeSet<OwnedRoomId>,
    /// It was made on one of these servers.
    pub servers: Vec<ServerGlob>,
}

/// What a room is told by.
#[derive(Clone, Copy, Debug)]
pub struct RoomFacts<'a> {
    /// Its id.
    pub room_id: &'a RoomId,
    /// The rooms that it goes on with, as both sides say.
    pub predecessors: &'a [OwnedRoomId],
    /// Its main address.
    pub alias: Option<&'a str>,
    /// The spaces that it is in: those that say so, and of which the room says so.
    pub spaces: &'a [OwnedRoomId],
    /// The rooms that these go on with, as both sides say.
    pub former_spaces: &'a [OwnedRoomId],
    /// The server on which it was made.
    pub server: Option<&'a ServerName>,
}

impl RoomMatch {
    /// Whether the room is one of those that are meant: of each list that is not empty, one entry has
    /// to fit.
    pub fn matches(&self, room: RoomFacts<'_>) -> bool {
        let asks = !self.is_empty();
        asks && (self.rooms.is_empty() || self.names(room))
            && (self.aliases.is_empty() || room.alias.is_some_and(|alias| self.has_alias(alias)))
            && (self.spaces.is_empty() || self.names_a_space(room))
            && (self.servers.is_empty() || room.server.is_some_and(|name| self.has_server(name)))
    }

    /// Whether nothing is asked: that is nobody's intention, and matches no room.
    fn is_empty(&self) -> bool {
        self.rooms.is_empty()
            && self.aliases.is_empty()
            && self.spaces.is_empty()
            && self.servers.is_empty()
    }

    /// Whether the room is named, or one that it goes on with.
    fn names(&self, room: RoomFacts<'_>) -> bool {
        self.rooms.contains(room.room_id)
            || room.predecessors.iter().any(|before| self.rooms.contains(before))
    }

    /// Whether one of its spaces is named, or one that a space of its goes on with.
    fn names_a_space(&self, room: RoomFacts<'_>) -> bool {
        room.spaces.iter().chain(room.former_spaces).any(|space| self.spaces.contains(space))
    }

    fn has_alias(&self, alias: &str) -> bool {
        self.aliases.iter().any(|glob| glob.matches(alias))
    }

    fn has_server(&self, server: &ServerName) -> bool {
        self.servers.iter().any(|glob| glob.matches(server))
    }
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, server_name};

    use super::*;

    fn asked(rooms: &[&str], aliases: &[&str], spaces: &[&str], servers: &[&str]) -> RoomMatch {
        let ids = |ids: &[&str]| ids.iter().map(|id| RoomId::parse(id).unwrap()).collect();
        RoomMatch {
            rooms: ids(rooms),
            aliases: aliases.iter().map(|glob| Glob::new(*glob)).collect(),
            spaces: ids(spaces),
            servers: servers.iter().map(|glob| ServerGlob::new(glob)).collect(),
        }
    }

    #[test]
    fn of_each_list_that_is_given_one_entry_has_to_fit() {
        let spaces = [room_id!("!one:b").to_owned(), room_id!("!two:b").to_owned()];
        let room = RoomFacts {
            room_id: room_id!("!r:b"),
            predecessors: &[],
            alias: Some("#team-a:b"),
            spaces: &spaces,
            former_spaces: &[],
            server: Some(server_name!("B.example:8448")),
        };
        let bare = RoomFacts { alias: None, spaces: &[], server: None, ..room };
        // What is asked, and whether it fits the room and one of which only the id is known.
        let cases = [
            (asked(&[], &[], &[], &[]), false, false),
            (asked(&["!r:b"], &[], &[], &[]), true, true),
            (asked(&["!x:b", "!r:b"], &[], &[], &[]), true, true),
            (asked(&["!x:b"], &[], &[], &[]), false, false),
            (asked(&[], &["#team-?:b"], &[], &[]), true, false),
            (asked(&[], &["#x:b", "#team-*"], &[], &[]), true, false),
            (asked(&[], &["#team:b"], &[], &[]), false, false),
            (asked(&[], &["#TEAM-A:b"], &[], &[]), false, false),
            (asked(&[], &["*"], &[], &[]), true, false),
            (asked(&[], &[], &["!two:b"], &[]), true, false),
            (asked(&[], &[], &["!r:b"], &[]), false, false),
            (asked(&[], &[], &[], &["b.example:*"]), true, false),
            (asked(&[], &[], &[], &["b.example"]), false, false),
            (asked(&["!r:b"], &["#team-*"], &["!one:b"], &["*"]), true, false),
            (asked(&["!r:b"], &["#other-*"], &["!one:b"], &["*"]), false, false),
            (asked(&["!x:b"], &["#team-*"], &["!one:b"], &["*"]), false, false),
            (asked(&["!r:b"], &["#team-*"], &["!x:b"], &["*"]), false, false),
            (asked(&["!r:b"], &["#team-*"], &["!one:b"], &["x"]), false, false),
        ];
        for (asked, fits, fits_bare) in cases {
            assert_eq!(asked.matches(room), fits, "{asked:?}");
            assert_eq!(asked.matches(bare), fits_bare, "{asked:?}, of a room by its id");
        }
        let before = [room_id!("!older:b").to_owned(), room_id!("!old:b").to_owned()];
        let moved = RoomFacts { predecessors: &before, ..bare };
        assert!(asked(&["!old:b"], &[], &[], &[]).matches(moved));
        assert!(!asked(&["!old:b"], &[], &[], &[]).matches(bare));
        let in_moved = RoomFacts { former_spaces: &before, ..bare };
        assert!(asked(&[], &[], &["!old:b"], &[]).matches(in_moved));
        assert!(!asked(&["!old:b"], &[], &[], &[]).matches(in_moved));
    }
}
