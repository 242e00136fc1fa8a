//! What of a room's state all those are given who may read it before they join it.

use std::collections::BTreeMap;

use ruma::RoomId;
use sqlx::SqliteConnection;

use super::Result;
use crate::state::StateTuple;

/// That a round gives everybody a tuple's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previewed {
    /// The session.
    pub session_id: String,
    /// When the first round that did so began, in milliseconds.
    pub given_at: i64,
}

/// What everybody was given last of each tuple of a room.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be read.
pub async fn of_room(
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<BTreeMap<StateTuple, Previewed>> {
    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
        "SELECT event_type, state_key, session_id, given_at FROM previewed_tuples WHERE room_id = ?",
    )
    .bind(room.as_str())
    .fetch_all(connection)
    .await?;
    let previewed = |(event_type, state_key, session_id, given_at)| {
        (StateTuple { event_type, state_key }, Previewed { session_id, given_at })
    };
    Ok(rows.into_iter().map(previewed).collect())
}

/// What everybody was given last of one tuple of a room.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be read.
pub async fn get(
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
) -> Result<Option<Previewed>> {
    let row: Option<(String, i64)> = sqlx::query_as(
        "SELECT session_id, given_at FROM previewed_tuples \
         WHERE room_id = ? AND event_type = ? AND state_key = ?",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(session_id, given_at)| Previewed { session_id, given_at }))
}

/// Notes that everybody is given a tuple's session from now on.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be written.
pub async fn put(
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
    previewed: &Previewed,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO previewed_tuples (room_id, event_type, state_key, session_id, given_at) \
         VALUES (?, ?, ?, ?, ?) ON CONFLICT (room_id, event_type, state_key) DO UPDATE SET \
         session_id = excluded.session_id, given_at = excluded.given_at",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .bind(&previewed.session_id)
    .bind(previewed.given_at)
    .execute(connection)
    .await?;
    Ok(())
}
