//! The state events that the keeper sent, and for which event each of them stands.

use ruma::{EventId, OwnedEventId, RoomId};
use sqlx::SqliteConnection;

use crate::{
    state::StateTuple,
    store::{OutboxKind, Result, StoreError},
};

/// Notes what the keeper encrypted at an index of its own, before it is sent.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put_prepared(
    connection: &mut SqliteConnection,
    session_id: &str,
    message_index: u32,
    stands_for: &EventId,
) -> Result<()> {
    sqlx::query(
        "INSERT OR REPLACE INTO prepared (session_id, message_index, stands_for) VALUES (?, ?, ?)",
    )
    .bind(session_id)
    .bind(i64::from(message_index))
    .bind(stands_for.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// What the keeper encrypted at an index of its own; it is forgotten here, its event has been seen.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn take_prepared(
    connection: &mut SqliteConnection,
    session_id: &str,
    message_index: u32,
) -> Result<Option<OwnedEventId>> {
    let row: Option<(String,)> = sqlx::query_as(
        "DELETE FROM prepared WHERE session_id = ? AND message_index = ? RETURNING stands_for",
    )
    .bind(session_id)
    .bind(i64::from(message_index))
    .fetch_optional(connection)
    .await?;
    row.map(|(id,)| id.try_into().map_err(StoreError::corrupt("event id"))).transpose()
}

/// Notes which event the keeper's sealed `event_id` stands for.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put_seal(
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
    event_id: &EventId,
    stands_for: &EventId,
) -> Result<()> {
    sqlx::query(
        "INSERT OR IGNORE INTO seals (event_id, room_id, event_type, state_key, stands_for) \
         VALUES (?, ?, ?, ?, ?)",
    )
    .bind(event_id.as_str())
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .bind(stands_for.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// The source event that the keeper's sealed `event_id` stands for, with its tuple.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn seal(
    connection: &mut SqliteConnection,
    event_id: &EventId,
) -> Result<Option<(StateTuple, OwnedEventId)>> {
    let row: Option<(String, String, String)> =
        sqlx::query_as("SELECT event_type, state_key, stands_for FROM seals WHERE event_id = ?")
            .bind(event_id.as_str())
            .fetch_optional(connection)
            .await?;
    row.map(|(event_type, state_key, stands_for)| {
        let stands_for = stands_for.try_into().map_err(StoreError::corrupt("event id"))?;
        Ok((StateTuple { event_type, state_key }, stands_for))
    })
    .transpose()
}

/// Whether an event is a state event of a room: one that is kept, or one that the keeper sealed.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn is_of_room(
    connection: &mut SqliteConnection,
    room: &RoomId,
    event_id: &EventId,
) -> Result<bool> {
    let (is,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM state_events WHERE event_id = ?1 AND room_id = ?2) \
         OR EXISTS (SELECT 1 FROM seals WHERE event_id = ?1 AND room_id = ?2)",
    )
    .bind(event_id.as_str())
    .bind(room.as_str())
    .fetch_one(connection)
    .await?;
    Ok(is)
}

/// Whether the keeper's sealed `event_id` counts as redacted, while no request to redact it is written down any more.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn is_said_redacted(
    connection: &mut SqliteConnection,
    event_id: &EventId,
) -> Result<bool> {
    let (is,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM seals s WHERE s.event_id = ?1 AND s.redacted = 1 \
         AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.room_id = s.room_id AND o.kind = ?2 \
         AND o.state_key = ?1))",
    )
    .bind(event_id.as_str())
    .bind(OutboxKind::Redaction.as_str())
    .fetch_one(connection)
    .await?;
    Ok(is)
}

/// Whether the keeper's sealed `event_id` is not redacted yet; from now on it counts as such.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn take_seal(connection: &mut SqliteConnection, event_id: &EventId) -> Result<bool> {
    let done = sqlx::query("UPDATE seals SET redacted = 1 WHERE event_id = ? AND redacted = 0")
        .bind(event_id.as_str())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// The keeper's events that stand for `source` and are not redacted yet; from now on they count as such.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn take_seals_of(
    connection: &mut SqliteConnection,
    source: &EventId,
) -> Result<Vec<OwnedEventId>> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "UPDATE seals SET redacted = 1 WHERE stands_for = ? AND redacted = 0 RETURNING event_id",
    )
    .bind(source.as_str())
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("event id"))).collect()
}
