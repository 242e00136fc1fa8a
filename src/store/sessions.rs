//! The keeper's state sessions.

use ruma::RoomId;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{Result, Store, ledger};
use crate::state::StateTuple;

/// A state session as it is kept.
#[derive(Clone)]
pub struct SessionRow {
    /// Its id.
    pub session_id: String,
    /// Its locked pickle.
    pub pickle: Vec<u8>,
    /// When it was made, in milliseconds.
    pub created_at: i64,
    /// How many events it encrypted.
    pub messages: i64,
}

/// The session that may encrypt the tuple's next value. `scope` is the tuple, or `None` for the room's.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be read.
pub async fn active(
    connection: &mut SqliteConnection,
    room: &RoomId,
    scope: Option<&StateTuple>,
) -> Result<Option<SessionRow>> {
    let (event_type, state_key) = columns(scope);
    let row: Option<(String, Vec<u8>, i64, i64)> = sqlx::query_as(
        "SELECT session_id, pickle, created_at, messages FROM sessions \
         WHERE room_id = ? AND event_type = ? AND state_key = ? AND retired IS NULL \
         ORDER BY created_at DESC LIMIT 1",
    )
    .bind(room.as_str())
    .bind(event_type)
    .bind(state_key)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(session_id, pickle, created_at, messages)| SessionRow {
        session_id,
        pickle,
        created_at,
        messages,
    }))
}

fn columns(scope: Option<&StateTuple>) -> (&str, &str) {
    scope.map_or(("", ""), |tuple| (tuple.event_type.as_str(), tuple.state_key.as_str()))
}

/// Writes a session as it stands after an encryption.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be written.
pub async fn put(
    connection: &mut SqliteConnection,
    room: &RoomId,
    scope: Option<&StateTuple>,
    session: &SessionRow,
) -> Result<()> {
    let (event_type, state_key) = columns(scope);
    sqlx::query(
        "INSERT INTO sessions (session_id, room_id, event_type, state_key, pickle, created_at, \
         messages) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (session_id) DO UPDATE SET \
         pickle = excluded.pickle, messages = excluded.messages",
    )
    .bind(&session.session_id)
    .bind(room.as_str())
    .bind(event_type)
    .bind(state_key)
    .bind(&session.pickle)
    .bind(session.created_at)
    .bind(session.messages)
    .execute(connection)
    .await?;
    Ok(())
}

/// Retires a session: it never encrypts again.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be written.
pub async fn retire(connection: &mut SqliteConnection, session_id: &str, why: &str) -> Result<u64> {
    let done =
        sqlx::query("UPDATE sessions SET retired = ? WHERE session_id = ? AND retired IS NULL")
            .bind(why)
            .bind(session_id)
            .execute(connection)
            .await?;
    Ok(done.rows_affected())
}

/// Retires every session of a room that `user` was granted, or all of them where `user` is `None`.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be written.
pub async fn retire_known_to(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: Option<&ruma::UserId>,
    why: &str,
) -> Result<u64> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new("UPDATE sessions SET retired = ");
    query.push_bind(why).push(" WHERE retired IS NULL AND room_id = ").push_bind(room.as_str());
    if let Some(user) = user {
        let room = ledger::room_number(store, connection, room).await?;
        let user = ledger::user_number(store, connection, user).await?;
        let Some((room, user)) = room.zip(user) else { return Ok(0) };
        query.push(" AND session_id IN (SELECT session_id FROM grants WHERE room = ");
        query.push_bind(room).push(" AND user = ").push_bind(user).push(")");
    }
    let done = query.build().execute(connection).await?;
    Ok(done.rows_affected())
}

/// Whether a session may not encrypt any more; one that is not known counts as retired.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be read.
pub async fn is_retired(connection: &mut SqliteConnection, session_id: &str) -> Result<bool> {
    let row: Option<(Option<String>,)> =
        sqlx::query_as("SELECT retired FROM sessions WHERE session_id = ?")
            .bind(session_id)
            .fetch_optional(connection)
            .await?;
    Ok(!matches!(row, Some((None,))))
}
