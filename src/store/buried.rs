//! Values that the keeper sealed in a life of which this store knows nothing.

use std::collections::BTreeMap;

use ruma::{EventId, RoomId};
use sqlx::SqliteConnection;

use super::Result;
use crate::state::StateTuple;

/// How far what such a value was made from has been looked for.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Buried {
    /// The event that stands there.
    pub event_id: String,
    /// How many of the keeper's own events were looked under.
    pub links: i64,
    /// Whether there was nothing under the last one.
    pub bottom: bool,
    /// Whether its value is at hand after all.
    pub found: bool,
}

/// Notes that an event stands in a tuple's place which nobody here can open, at `now` (milliseconds). Returns whether
/// that is news.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database) when the database cannot be written.
pub async fn put(
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
    event_id: &EventId,
    now: i64,
) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO buried (room_id, event_type, state_key, event_id, since) VALUES (?, ?, ?, ?, ?) \
         ON CONFLICT (room_id, event_type, state_key) DO UPDATE SET event_id = excluded.event_id, \
         since = excluded.since, links = 0, bottom = 0, found = 0 WHERE event_id <> excluded.event_id",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .bind(event_id.as_str())
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// What is noted of a tuple; `None` where its value is at hand.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database) when the database cannot be read.
pub async fn get(
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
) -> Result<Option<Buried>> {
    Ok(sqlx::query_as(
        "SELECT event_id, links, bottom, found FROM buried \
         WHERE room_id = ? AND event_type = ? AND state_key = ?",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .fetch_optional(connection)
    .await?)
}

/// Notes that one more of the keeper's own events was looked under, and whether that was the last one.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database) when the database cannot be written.
pub async fn dug(
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
    bottom: bool,
) -> Result<()> {
    sqlx::query(
        "UPDATE buried SET links = links + 1, bottom = ? \
         WHERE room_id = ? AND event_type = ? AND state_key = ?",
    )
    .bind(bottom)
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes that a tuple's value is at hand after all. Returns whether that is news.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database) when the database cannot be written.
pub async fn find(
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE buried SET found = 1 \
         WHERE room_id = ? AND event_type = ? AND state_key = ? AND found = 0",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Forgets what is noted of a tuple: another event stands in its place.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database) when the database cannot be written.
pub async fn remove(
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
) -> Result<()> {
    sqlx::query("DELETE FROM buried WHERE room_id = ? AND event_type = ? AND state_key = ?")
        .bind(room.as_str())
        .bind(&tuple.event_type)
        .bind(&tuple.state_key)
        .execute(connection)
        .await?;
    Ok(())
}

/// How many of them there are in which rooms whose values are not at hand, and were looked for since `before`
/// (milliseconds) or longer.
///
/// # Errors
///
/// [`StoreError::Database`](super::StoreError::Database) when the database cannot be read.
pub async fn by_room(
    connection: &mut SqliteConnection,
    before: i64,
) -> Result<BTreeMap<String, i64>> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT room_id, COUNT(*) FROM buried WHERE found = 0 AND since <= ? GROUP BY room_id",
    )
    .bind(before)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().collect())
}
