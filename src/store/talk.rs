//! What administrators wrote in the management room, until it is taken up.

use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use sqlx::SqliteConnection;

use super::{Result, Store, StoreError};

/// How many messages wait at most; more than these are passed over.
const MOST_WAITING: i64 = 200;

/// A message that waits to be taken up.
#[derive(Clone)]
pub struct TalkRow {
    /// Its event id.
    pub event_id: OwnedEventId,
    /// Where it was written.
    pub room_id: OwnedRoomId,
    /// When it came, in milliseconds.
    pub received_at: i64,
    /// The event as JSON.
    pub body: String,
}

/// Keeps a message until it is taken up. One whose event id was here before is passed over. Returns whether it waits.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn insert(
    store: &Store,
    connection: &mut SqliteConnection,
    row: &TalkRow,
) -> Result<bool> {
    let (waiting,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM talk WHERE body IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if waiting >= MOST_WAITING {
        return Ok(false);
    }
    let done = sqlx::query(
        "INSERT OR IGNORE INTO talk (event_id, room_id, received_at, body) VALUES (?, ?, ?, ?)",
    )
    .bind(row.event_id.as_str())
    .bind(row.room_id.as_str())
    .bind(row.received_at)
    .bind(store.lock(&row.body)?)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The messages that wait, the oldest first.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn waiting(store: &Store, connection: &mut SqliteConnection) -> Result<Vec<TalkRow>> {
    let rows: Vec<(String, String, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT event_id, room_id, received_at, body FROM talk WHERE body IS NOT NULL \
         ORDER BY received_at, event_id LIMIT 32",
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(event, room, received_at, body)| {
            Ok(TalkRow {
                event_id: event.try_into().map_err(StoreError::corrupt("event id"))?,
                room_id: room.try_into().map_err(StoreError::corrupt("room id"))?,
                received_at,
                body: store.unlock(&body)?,
            })
        })
        .collect()
}

/// Takes a message up, for good. Returns whether it waited: nobody takes one up twice.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn take(connection: &mut SqliteConnection, event_id: &EventId) -> Result<bool> {
    let done = sqlx::query("UPDATE talk SET body = NULL WHERE event_id = ? AND body IS NOT NULL")
        .bind(event_id.as_str())
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Notes that a message stood at an index of a session. Returns whether none stood there before.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn take_index(
    connection: &mut SqliteConnection,
    session_id: &str,
    message_index: u32,
) -> Result<bool> {
    let done =
        sqlx::query("INSERT OR IGNORE INTO talk_indices (session_id, message_index) VALUES (?, ?)")
            .bind(session_id)
            .bind(i64::from(message_index))
            .execute(connection)
            .await?;
    Ok(done.rows_affected() > 0)
}

/// Forgets messages that came before `before` (milliseconds) and were taken up: the age bound refuses them from then
/// on.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn prune(
    connection: &mut SqliteConnection,
    room: Option<&RoomId>,
    before: i64,
) -> Result<()> {
    sqlx::query("DELETE FROM talk WHERE body IS NULL AND received_at < ?1 OR room_id <> ?2")
        .bind(before)
        .bind(room.map_or("", RoomId::as_str))
        .execute(connection)
        .await?;
    Ok(())
}
