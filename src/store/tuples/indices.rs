//! Which index of which Megolm session stood in which event.

use ruma::{EventId, RoomId, UserId};
use sqlx::SqliteConnection;

use crate::store::Result;

/// A Megolm session id is 32 bytes in base64; what is longer is none, and is not kept.
const LONGEST_SESSION_ID: usize = 64;

/// Notes that an index of a session stood in an event of `sender`'s. Returns false when it stood in another
/// one of theirs before.
///
/// # Errors
///
/// [`StoreError::Database`](crate::store::StoreError::Database) when the database cannot be written.
pub async fn record_index(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
    message_index: u32,
    sender: &UserId,
    event_id: &EventId,
) -> Result<bool> {
    if session_id.len() > LONGEST_SESSION_ID {
        return Ok(true);
    }
    sqlx::query(
        "INSERT OR IGNORE INTO megolm_indices (room_id, session_id, message_index, sender, event_id) \
         VALUES (?, ?, ?, ?, ?)",
    )
    .bind(room.as_str())
    .bind(session_id)
    .bind(i64::from(message_index))
    .bind(sender.as_str())
    .bind(event_id.as_str())
    .execute(&mut *connection)
    .await?;
    let (first,): (String,) = sqlx::query_as(
        "SELECT event_id FROM megolm_indices \
         WHERE room_id = ? AND session_id = ? AND message_index = ? AND sender = ?",
    )
    .bind(room.as_str())
    .bind(session_id)
    .bind(i64::from(message_index))
    .bind(sender.as_str())
    .fetch_one(connection)
    .await?;
    Ok(first == event_id.as_str())
}
