//! What an operator may ask of a running keeper, and who asks.

use std::fmt;

use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::Making;
use crate::store::{Asked, Command, CommandsFilter, HistoryFilter, OutcomeKind};

/// How many commands are given at once.
const MOST_COMMANDS: u64 = 1_000;

/// What is asked: a verb with what it is about, as JSON `{"verb":"why","room":"!…","user":"@…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Request {
    /// What changes nothing.
    Query(Query),
    /// What changes something.
    Command(Command),
    /// What is to be made.
    Making(Making),
}

/// What changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Query {
    /// How the keeper fares.
    Status,
    /// The rooms that it is, was or is about to be in.
    Rooms,
    /// One room.
    Room {
        /// Which.
        room: OwnedRoomId,
        /// Of its state and of those held there, no more than so many.
        most: Option<u32>,
    },
    /// Why a user has or lacks a room's keys.
    Why {
        /// Who.
        user: OwnedUserId,
        /// Where.
        room: OwnedRoomId,
    },
    /// Who waits for an administrator's word.
    Holds {
        /// No more than so many, those first who have waited for the longest.
        most: Option<u32>,
    },
    /// What the keeper finds of its own device.
    Examine,
    /// The spaces that are followed.
    Spaces,
    /// What moving a room would come to.
    UpgradePlan {
        /// The room.
        room: OwnedRoomId,
        /// The new one's room version, where it is not the homeserver's default.
        version: Option<String>,
    },
    /// The rooms that it makes for administrators, and made lately.
    Commissions,
    /// One of these.
    Commission {
        /// Its id.
        id: String,
    },
    /// The newest keys that were given and refused, the newest first.
    Ledger(LedgerQuery),
    /// The newest commands that were given, the newest first.
    Commands(LedgerQuery),
}

/// Which rows of the ledger are asked for: those that meet all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LedgerQuery {
    /// Of this room.
    pub room: Option<OwnedRoomId>,
    /// Of this user.
    pub user: Option<OwnedUserId>,
    /// With which something happened at this time or later, in milliseconds.
    pub since: Option<i64>,
    /// Of keys: what became of them.
    pub outcome: Option<OutcomeKind>,
    /// Before the row with this number.
    pub before: Option<i64>,
    /// No more than this many, and no more than the store gives at once.
    pub newest: Option<u64>,
}

impl From<&LedgerQuery> for HistoryFilter {
    fn from(query: &LedgerQuery) -> Self {
        let LedgerQuery { room, user, since, outcome, before, newest } = query.clone();
        Self { room, user, since, newest, outcome, before }
    }
}

impl From<&LedgerQuery> for CommandsFilter {
    fn from(query: &LedgerQuery) -> Self {
        let LedgerQuery { room, user, since, outcome: _, before, newest } = query.clone();
        Self {
            room,
            user,
            since,
            newest: Some(newest.unwrap_or(MOST_COMMANDS).min(MOST_COMMANDS)),
            before,
        }
    }
}

/// Who asks. It is for the door that the request comes through to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A user of this machine, by number: the command line.
    Machine(u32),
    /// An administrator, by Matrix user id.
    Matrix(OwnedUserId),
    /// Another door, such as a web page, by the name that it gives whoever came through it.
    Door(String),
}

impl Request {
    /// What is asked for, as the ledger has it.
    pub fn asked(&self) -> Asked {
        match self {
            Self::Query(query) => query.asked(),
            Self::Command(command) => command.asked(),
            Self::Making(making) => making.asked(),
        }
    }
}

impl Query {
    /// What is asked for, as the ledger has it.
    pub fn asked(&self) -> Asked {
        match self {
            Self::Status => Asked::about("status", None, None),
            Self::Rooms => Asked::about("rooms", None, None),
            Self::Room { room, .. } => Asked::about("room", Some(room), None),
            Self::Why { user, room } => Asked::about("why", Some(room), Some(user)),
            Self::Holds { .. } => Asked::about("holds", None, None),
            Self::Examine => Asked::about("doctor", None, None),
            Self::UpgradePlan { room, .. } => {
                Asked { detail: "plan", ..Asked::about("room-upgrade", Some(room), None) }
            }
            Self::Commissions | Self::Commission { .. } => {
                Asked::about("room-progress", None, None)
            }
            Self::Spaces => Asked::about("spaces", None, None),
            Self::Ledger(rows) => Asked::about("ledger", rows.room.as_ref(), rows.user.as_ref()),
            Self::Commands(rows) => {
                Asked::about("commands", rows.room.as_ref(), rows.user.as_ref())
            }
        }
    }
}

impl From<Query> for Request {
    fn from(query: Query) -> Self {
        Self::Query(query)
    }
}

impl From<Command> for Request {
    fn from(command: Command) -> Self {
        Self::Command(command)
    }
}

impl From<Making> for Request {
    fn from(making: Making) -> Self {
        Self::Making(making)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(number) => write!(f, "uid:{number}"),
            Self::Matrix(user) => write!(f, "{user}"),
            Self::Door(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, owned_user_id};
    use serde_json::json;

    use super::*;

    #[test]
    fn each_request_is_read_back_as_it_was_written() {
        let (room, user) = (owned_room_id!("!a:b"), owned_user_id!("@c:d"));
        let upgrade = Making::RoomUpgrade { room: room.clone(), version: None };
        let requests: [(Request, serde_json::Value); 6] = [
            (upgrade.into(), json!({ "verb": "room_upgrade", "room": "!a:b", "version": null })),
            (Query::Status.into(), json!({ "verb": "status" })),
            (
                Query::Why { user: user.clone(), room: room.clone() }.into(),
                json!({ "verb": "why", "user": "@c:d", "room": "!a:b" }),
            ),
            (
                Request::Command(Command::Approve { room, user: user.clone() }),
                json!({ "verb": "approve", "user": "@c:d", "room": "!a:b" }),
            ),
            (
                Request::Command(Command::Block { user, device: Some("PHONE".into()) }),
                json!({ "verb": "block", "user": "@c:d", "device": "PHONE" }),
            ),
            (Request::Command(Command::Noop { on: true }), json!({ "verb": "noop", "on": true })),
        ];
        for (request, written) in requests {
            assert_eq!(serde_json::to_value(&request).unwrap(), written);
            assert_eq!(serde_json::from_value::<Request>(written).unwrap(), request);
        }
        for wrong in [json!({ "verb": "obey" }), json!({ "verb": "room" }), json!({})] {
            assert!(serde_json::from_value::<Request>(wrong).is_err());
        }
    }
}
