//! The spaces that the keeper follows, as an operator sees them: how they stand, and how far it has come with them.

use ruma::OwnedRoomId;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

use crate::{
    keeper::{clock::now_ms, rules::GlobalRules},
    store::{FollowedRow, SpaceRoomRow, StoreError, previews, spaces},
};

/// The words for what is under way.
const UNDER_WAY: [&str; 3] = ["", "joining", "loading"];

/// The followed spaces, and what lies beneath them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spaces {
    /// The spaces.
    pub spaces: Vec<SpaceSummary>,
    /// The rooms beneath them, the nearest first.
    pub rooms: Vec<SpaceRoomSummary>,
}

/// A followed space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceSummary {
    /// As it is configured, or its id.
    pub name: String,
    /// Its id, once it is known.
    pub room_id: Option<OwnedRoomId>,
    /// How it stands, in the words of the metric `statekeeper_spaces`.
    pub status: String,
    /// What an administrator has to change, if anything.
    pub change: Option<String>,
    /// How many rooms lie beyond its bounds.
    pub beyond: i64,
    /// How many people in how many rooms have still to be provided for; a person counts once a room.
    pub backlog: i64,
    /// How many were looked at, in the rounds through all such people that are under way.
    pub looked_at: i64,
    /// In how many rooms a round has not begun.
    pub rounds_waiting: i64,
    /// In how many of them it may begin now: nothing puts it off.
    pub rounds_due: i64,
}

/// A room beneath a followed space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceRoomSummary {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The followed space.
    pub followed: OwnedRoomId,
    /// How it stands, in the words of the metric `statekeeper_space_rooms`.
    pub status: String,
    /// What an administrator has to change, if anything.
    pub change: Option<String>,
}

impl Spaces {
    /// Gathers what the store knows; what is configured and was not looked at yet is about to be joined.
    pub(super) async fn gather(
        db: &mut SqliteConnection,
        rules: &GlobalRules,
    ) -> Result<Self, StoreError> {
        let mut rows = spaces::followed(db).await?;
        for space in &rules.spaces {
            let name = space.room.as_str();
            if !rows.iter().any(|row| row.name == name) {
                rows.push(FollowedRow::new(name.to_owned(), None));
            }
        }
        let backlog = previews::backlog(db, now_ms()).await?;
        let rooms = spaces::rooms(db).await?.into_iter().map(SpaceRoomSummary::from).collect();
        let summary = |row: FollowedRow| {
            let found = backlog.iter().find(|found| Some(&found.root_id) == row.space_id.as_ref());
            let joining = || "joining".to_owned();
            SpaceSummary {
                backlog: found.map_or(0, |found| found.left_over),
                looked_at: found.map_or(0, |found| found.looked_at),
                rounds_due: found.map_or(0, |found| found.rounds_due),
                rounds_waiting: found.map_or(0, |found| found.rounds_waiting),
                status: if row.status.is_empty() { joining() } else { row.status },
                name: row.name,
                room_id: row.space_id,
                change: row.detail,
                beyond: row.beyond,
            }
        };
        Ok(Self { spaces: rows.into_iter().map(summary).collect(), rooms })
    }

    /// How many spaces and rooms there are, and how many of them are neither being joined nor read.
    pub fn settled(&self) -> (usize, usize) {
        let spaces = self.spaces.iter().map(|space| &space.status);
        let all: Vec<&String> = spaces.chain(self.rooms.iter().map(|room| &room.status)).collect();
        (all.iter().filter(|status| is_settled(status)).count(), all.len())
    }

    /// Whether nothing is left that can be done now.
    pub fn is_through(&self) -> bool {
        let (settled, all) = self.settled();
        settled == all && self.backlog() == 0 && self.spaces.iter().all(|it| it.rounds_due == 0)
    }

    /// How many have still to be provided for in all.
    pub fn backlog(&self) -> i64 {
        self.spaces.iter().map(|space| space.backlog).sum()
    }
}

impl SpaceSummary {
    /// How many people there are to be gone through in the rounds that are under way, and beside them.
    pub fn to_look_at(&self) -> i64 {
        self.backlog.saturating_add(self.looked_at)
    }
}

impl SpaceRoomSummary {
    /// Whether it is neither being joined nor read.
    pub fn is_settled(&self) -> bool {
        is_settled(&self.status)
    }
}

fn is_settled(status: &str) -> bool {
    !UNDER_WAY.contains(&status)
}

/// How many of a hundred; all of them where there are none.
pub fn percent(part: i64, whole: i64) -> i64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(100).clamp(0, 100)
}

impl From<SpaceRoomRow> for SpaceRoomSummary {
    fn from(row: SpaceRoomRow) -> Self {
        let SpaceRoomRow { room_id, root_id, status, detail, .. } = row;
        Self { room_id, followed: root_id, status, change: detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(status: &str, backlog: i64, rounds_due: i64) -> SpaceSummary {
        SpaceSummary {
            name: "!space:localhost".to_owned(),
            room_id: None,
            status: status.to_owned(),
            change: None,
            beyond: 0,
            backlog,
            looked_at: 0,
            // Another one is put off.
            rounds_waiting: rounds_due + 1,
            rounds_due,
        }
    }

    #[test]
    fn the_keeper_is_through_when_nothing_is_left_but_what_is_put_off() {
        for (space, is_through) in [
            (space("followed", 0, 0), true),
            (space("followed", 0, 1), false),
            (space("followed", 1, 0), false),
            (space("joining", 0, 0), false),
        ] {
            let found = Spaces { spaces: vec![space.clone()], rooms: Vec::new() };
            assert_eq!(found.is_through(), is_through, "{space:?}");
        }
    }
}
