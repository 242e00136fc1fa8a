//! Sessions that the keeper asks members for, because it cannot read a current state event.

use std::collections::BTreeSet;

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId};
use sqlx::SqliteConnection;

use super::{Result, StoreError};
use crate::state::StateTuple;

/// A session without whose key a current state event stays unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The session's id, as the event says it.
    pub session_id: String,
    /// What the event is about.
    pub tuple: StateTuple,
    /// Who sent the event.
    pub sender: OwnedUserId,
    /// When it arrived, in milliseconds.
    pub received_at: i64,
}

/// A session that is asked for, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskRow {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The session's id.
    pub session_id: String,
    /// The request id of the turn that is under way.
    pub request_id: String,
    /// How many rounds there were.
    pub rounds: u32,
    /// When the next one is due, in milliseconds.
    pub due_at: i64,
    /// Whether nobody is asked any more.
    pub given_up: bool,
}

/// A device that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedRow {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// The id of the request.
    pub request_id: String,
}

/// The sessions whose keys are missing for current state events that mean something, oldest event first.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn wanted(connection: &mut SqliteConnection) -> Result<Vec<Wanted>> {
    let rows: Vec<(String, String, String, String, String, i64)> = sqlx::query_as(
        "SELECT e.room_id, e.session_id, e.event_type, e.state_key, e.sender, e.received_at \
         FROM state_events e JOIN tuples t ON t.room_id = e.room_id \
         AND t.event_type = e.event_type AND t.state_key = e.state_key \
         AND t.current_event_id = e.event_id JOIN rooms r ON r.room_id = e.room_id \
         WHERE e.verdict = 'unreadable' AND e.powerful = 1 AND e.session_id IS NOT NULL \
         AND t.redacted = 0 AND r.membership = 'join' ORDER BY e.tick",
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(room_id, session_id, event_type, state_key, sender, received_at)| {
            Ok(Wanted {
                room_id: room_id.try_into().map_err(StoreError::corrupt("room id"))?,
                session_id,
                tuple: StateTuple { event_type, state_key },
                sender: sender.try_into().map_err(StoreError::corrupt("user id"))?,
                received_at,
            })
        })
        .collect()
}

/// All sessions that are asked for or were, whose is due first first.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn all(connection: &mut SqliteConnection) -> Result<Vec<AskRow>> {
    let rows: Vec<(String, String, String, u32, i64, bool)> = sqlx::query_as(
        "SELECT room_id, session_id, request_id, rounds, due_at, given_up FROM asks \
         ORDER BY due_at",
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(room_id, session_id, request_id, rounds, due_at, given_up)| {
            let room_id = room_id.try_into().map_err(StoreError::corrupt("room id"))?;
            Ok(AskRow { room_id, session_id, request_id, rounds, due_at, given_up })
        })
        .collect()
}

/// Writes how far the asking for a session is.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put(connection: &mut SqliteConnection, ask: &AskRow) -> Result<()> {
    sqlx::query(
        "INSERT OR REPLACE INTO asks (room_id, session_id, request_id, rounds, due_at, given_up) \
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(ask.room_id.as_str())
    .bind(&ask.session_id)
    .bind(&ask.request_id)
    .bind(ask.rounds)
    .bind(ask.due_at)
    .bind(ask.given_up)
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets that a session was asked for.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn remove(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
) -> Result<()> {
    for sql in [
        "DELETE FROM asks WHERE room_id = ? AND session_id = ?",
        "DELETE FROM asked WHERE room_id = ? AND session_id = ?",
    ] {
        let query = sqlx::query(sql).bind(room.as_str()).bind(session_id);
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Notes that a device is asked.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put_asked(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
    asked: &AskedRow,
) -> Result<()> {
    sqlx::query(
        "INSERT OR IGNORE INTO asked (room_id, session_id, user_id, device_id, request_id) \
         VALUES (?, ?, ?, ?, ?)",
    )
    .bind(room.as_str())
    .bind(session_id)
    .bind(asked.user_id.as_str())
    .bind(asked.device_id.as_str())
    .bind(&asked.request_id)
    .execute(connection)
    .await?;
    Ok(())
}

/// The devices that were asked for a session.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn asked(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
) -> Result<Vec<AskedRow>> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT user_id, device_id, request_id FROM asked WHERE room_id = ? AND session_id = ?",
    )
    .bind(room.as_str())
    .bind(session_id)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(user_id, device_id, request_id)| {
            let user_id = user_id.try_into().map_err(StoreError::corrupt("user id"))?;
            Ok(AskedRow { user_id, device_id: device_id.into(), request_id })
        })
        .collect()
}

/// Everybody from whom an answer is awaited.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn awaited(connection: &mut SqliteConnection) -> Result<BTreeSet<OwnedUserId>> {
    let rows: Vec<(String,)> =
        sqlx::query_as("SELECT DISTINCT user_id FROM asked").fetch_all(connection).await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("user id"))).collect()
}
