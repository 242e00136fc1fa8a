//! State in plain that is to be redacted once what it said stands under encryption.

use ruma::{EventId, OwnedEventId, RoomId};
use sqlx::SqliteConnection;

use crate::{
    state::StateTuple,
    store::{Result, StoreError},
};

/// An event in plain whose redaction is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedRow {
    /// The event.
    pub event_id: OwnedEventId,
    /// The tuple that it gave a value.
    pub tuple: StateTuple,
    /// The tick at which it was taken in.
    pub tick: i64,
}

/// Notes that an event's redaction is owed.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn owe(connection: &mut SqliteConnection, room: &RoomId, event: &EventId) -> Result<()> {
    sqlx::query("INSERT OR IGNORE INTO owed_redactions (event_id, room_id) VALUES (?, ?)")
        .bind(event.as_str())
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// The events of a room whose redaction is owed, oldest first.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn owed(connection: &mut SqliteConnection, room: &RoomId) -> Result<Vec<OwedRow>> {
    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
        "SELECT e.event_id, e.event_type, e.state_key, e.tick FROM owed_redactions o \
         JOIN state_events e ON e.event_id = o.event_id WHERE o.room_id = ? ORDER BY e.tick",
    )
    .bind(room.as_str())
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(id, kind, key, tick)| {
            let event_id = id.try_into().map_err(StoreError::corrupt("event id"))?;
            Ok(OwedRow { event_id, tuple: StateTuple::new(kind, key), tick })
        })
        .collect()
}

/// Notes that an event's redaction is owed no more. Returns whether it was.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn settle(connection: &mut SqliteConnection, event: &EventId) -> Result<bool> {
    let done = sqlx::query("DELETE FROM owed_redactions WHERE event_id = ?")
        .bind(event.as_str())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}
