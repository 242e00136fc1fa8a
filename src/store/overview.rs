//! Rooms as an operator sees them: what stands there, and what is still to be done. No content of any state.

use std::collections::HashMap;

use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

use super::{
    Result,
    rooms::{self, RoomRow},
    wars,
};

/// A room with what can be counted in it.
#[derive(Clone, Debug)]
pub struct RoomOverview {
    /// The room.
    pub room: RoomRow,
    /// How many are joined.
    pub joined: i64,
    /// How many are held.
    pub held: i64,
    /// Of how many state tuples a value is known.
    pub values: i64,
    /// How many of these are sealed.
    pub sealed: i64,
    /// How many tuples show an event that the keeper cannot read.
    pub undecryptable: i64,
    /// How many of these the keeper sealed itself, in a life of which its store knows nothing.
    pub lost: i64,
    /// How many avatars are hidden whose pictures are not.
    pub public_pictures: i64,
    /// How many promises to decide stand.
    pub promises: i64,
    /// When the first of them is due, in milliseconds.
    pub due_at: Option<i64>,
    /// Whose changes are restored no more before an administrator says so.
    pub wars: Vec<OwnedUserId>,
}

/// A state tuple of a room, without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TupleOverview {
    /// The true type.
    pub event_type: String,
    /// The true state key.
    pub state_key: String,
    /// `sealed`, `not_sealed`, `undecryptable`, `refused`, `redacted` or `empty`.
    pub state: String,
    /// Whether it is an avatar whose picture lies on the server for everybody to see.
    pub public_picture: bool,
}

/// Every room, or this one alone.
///
/// # Errors
///
/// [`super::StoreError`] when the database cannot be read.
pub async fn rooms(
    connection: &mut SqliteConnection,
    room: Option<&RoomId>,
) -> Result<Vec<RoomOverview>> {
    let found = match room {
        Some(room) => rooms::get(connection, room).await?.into_iter().collect(),
        None => rooms::all(connection).await?,
    };
    let joined = "SELECT room_id, COUNT(*), 0, NULL FROM members WHERE membership = 'join' \
                  AND (?1 IS NULL OR room_id = ?1) GROUP BY room_id";
    let held = "SELECT room_id, COUNT(*), 0, NULL FROM holds \
                WHERE ?1 IS NULL OR room_id = ?1 GROUP BY room_id";
    let values = "SELECT room_id, COUNT(*), COALESCE(SUM(sealed_from = source_event_id), 0), NULL \
                  FROM tuples WHERE source_event_id IS NOT NULL AND redacted = 0 \
                  AND (?1 IS NULL OR room_id = ?1) GROUP BY room_id";
    let unreadable = "SELECT t.room_id, COUNT(*), 0, NULL FROM tuples t \
                      JOIN state_events e ON e.event_id = t.current_event_id \
                      WHERE e.verdict = 'unreadable' AND (?1 IS NULL OR t.room_id = ?1) \
                      GROUP BY t.room_id";
    let lost = "SELECT room_id, COUNT(*), 0, NULL FROM buried \
                WHERE found = 0 AND (?1 IS NULL OR room_id = ?1) GROUP BY room_id";
    let pictures = "SELECT room_id, COUNT(*), 0, NULL FROM tuples \
                    WHERE public_picture = 1 AND redacted = 0 AND (?1 IS NULL OR room_id = ?1) \
                    GROUP BY room_id";
    let promises = "SELECT room_id, COUNT(*), 0, MIN(due_at) FROM marks \
                    WHERE ?1 IS NULL OR room_id = ?1 GROUP BY room_id";
    let joined = count(connection, joined, room).await?;
    let held = count(connection, held, room).await?;
    let values = count(connection, values, room).await?;
    let unreadable = count(connection, unreadable, room).await?;
    let lost = count(connection, lost, room).await?;
    let pictures = count(connection, pictures, room).await?;
    let promises = count(connection, promises, room).await?;
    let mut wars: HashMap<OwnedRoomId, Vec<OwnedUserId>> = HashMap::new();
    for (room, user) in wars::standing(connection, room).await? {
        wars.entry(room).or_default().push(user);
    }
    let at = |counts: &HashMap<String, Counted>, room: &RoomRow| {
        counts.get(room.room_id.as_str()).copied().unwrap_or_default()
    };
    Ok(found
        .into_iter()
        .map(|room| RoomOverview {
            joined: at(&joined, &room).count,
            held: at(&held, &room).count,
            values: at(&values, &room).count,
            sealed: at(&values, &room).of_these,
            undecryptable: at(&unreadable, &room).count + at(&lost, &room).count,
            lost: at(&lost, &room).count,
            public_pictures: at(&pictures, &room).count,
            promises: at(&promises, &room).count,
            due_at: at(&promises, &room).due_at,
            wars: wars.remove(&room.room_id).unwrap_or_default(),
            room,
        })
        .collect())
}

#[derive(Clone, Copy, Default)]
struct Counted {
    count: i64,
    of_these: i64,
    due_at: Option<i64>,
}

async fn count(
    connection: &mut SqliteConnection,
    sql: &'static str,
    room: Option<&RoomId>,
) -> Result<HashMap<String, Counted>> {
    let rows: Vec<(String, i64, i64, Option<i64>)> =
        sqlx::query_as(sql).bind(room.map(RoomId::as_str)).fetch_all(connection).await?;
    Ok(rows
        .into_iter()
        .map(|(room, count, of_these, due_at)| (room, Counted { count, of_these, due_at }))
        .collect())
}

/// A room's state tuples: name, topic, avatar first, and no more than `most` where that is given.
///
/// # Errors
///
/// [`super::StoreError`] when the database cannot be read.
pub async fn tuples(
    connection: &mut SqliteConnection,
    room: &RoomId,
    most: Option<u32>,
) -> Result<Vec<TupleOverview>> {
    let rows: Vec<(String, String, String, bool)> = sqlx::query_as(
        "SELECT t.event_type, t.state_key, CASE WHEN t.redacted THEN 'redacted' \
         WHEN e.verdict = 'unreadable' OR EXISTS (SELECT 1 FROM buried b WHERE b.found = 0 \
         AND b.room_id = t.room_id AND b.event_type = t.event_type AND b.state_key = t.state_key) \
         THEN 'undecryptable' WHEN NOT t.current_fit THEN 'refused' \
         WHEN t.source_event_id IS NULL THEN 'empty' \
         WHEN t.sealed_from = t.source_event_id THEN 'sealed' ELSE 'not_sealed' END, \
         t.public_picture AND NOT t.redacted FROM tuples t LEFT JOIN state_events e ON e.event_id = t.current_event_id \
         WHERE t.room_id = ? ORDER BY t.event_type <> 'm.room.name', \
         t.event_type <> 'm.room.topic', t.event_type <> 'm.room.avatar', t.event_type, t.state_key \
         LIMIT ?",
    )
    .bind(room.as_str())
    .bind(limit(most))
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(event_type, state_key, state, public_picture)| TupleOverview {
            event_type,
            state_key,
            state,
            public_picture,
        })
        .collect())
}

/// What stands after `LIMIT`: without a bound, all.
pub(super) fn limit(most: Option<u32>) -> i64 {
    most.map_or(-1, i64::from)
}

/// How many state tuples a room has.
///
/// # Errors
///
/// [`super::StoreError`] when the database cannot be read.
pub async fn count_tuples(connection: &mut SqliteConnection, room: &RoomId) -> Result<i64> {
    let (count,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM tuples WHERE room_id = ?")
        .bind(room.as_str())
        .fetch_one(connection)
        .await?;
    Ok(count)
}
