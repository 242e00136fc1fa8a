//! The history of rooms that whoever invited the keeper gave it, and whose it may be.

use ruma::{OwnedUserId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{Result, Secret, Store, StoreError};

/// How many keys of one room are kept: the newest.
const MOST: i64 = 5000;

/// Notes whose invite the keeper accepted, at `now` (milliseconds).
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn accepted(
    connection: &mut SqliteConnection,
    room: &RoomId,
    inviter: &UserId,
    now: i64,
) -> Result<()> {
    sqlx::query("UPDATE rooms SET accepted_from = ?, accepted_at = ? WHERE room_id = ?")
        .bind(inviter.as_str())
        .bind(now)
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Whose bundle is to be taken: who invited the keeper into a room in which it is, if it accepted after `since`
/// (milliseconds), and if history is handed on there, be it with `knocks` to those who knock.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn awaited_from(
    connection: &mut SqliteConnection,
    room: &RoomId,
    since: i64,
    knocks: bool,
) -> Result<Option<OwnedUserId>> {
    let row: Option<(String,)> = sqlx::query_as(
        "SELECT r.accepted_from FROM rooms r LEFT JOIN space_rooms s ON s.room_id = r.room_id \
         WHERE r.room_id = ?1 AND r.membership = 'join' AND r.accepted_from IS NOT NULL \
         AND r.accepted_at > ?2 AND (?3 OR s.invites = 1)",
    )
    .bind(room.as_str())
    .bind(since)
    .bind(knocks)
    .fetch_optional(connection)
    .await?;
    row.map(|(user,)| user.try_into().map_err(StoreError::corrupt("user id"))).transpose()
}

/// Nobody's bundle is awaited in a room any more.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn settled(connection: &mut SqliteConnection, room: &RoomId) -> Result<()> {
    sqlx::query("UPDATE rooms SET accepted_from = NULL, accepted_at = NULL WHERE room_id = ?")
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Keeps keys of a room's sessions, by the sessions' ids.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn put(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    keys: &[(String, Secret)],
    tick: i64,
) -> Result<()> {
    for (session_id, key) in keys {
        sqlx::query(
            "INSERT OR IGNORE INTO inherited_keys (room_id, session_id, tick, key) \
             VALUES (?, ?, ?, ?)",
        )
        .bind(room.as_str())
        .bind(session_id)
        .bind(tick)
        .bind(store.lock(key)?)
        .execute(&mut *connection)
        .await?;
    }
    sqlx::query(
        "DELETE FROM inherited_keys WHERE room_id = ?1 AND session_id NOT IN (SELECT session_id \
         FROM inherited_keys WHERE room_id = ?1 ORDER BY tick DESC LIMIT ?2)",
    )
    .bind(room.as_str())
    .bind(MOST)
    .execute(connection)
    .await?;
    Ok(())
}

/// The keys of a room.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn of_room(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<Vec<Secret>> {
    let rows: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT key FROM inherited_keys WHERE room_id = ?")
        .bind(room.as_str())
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(|(key,)| store.unlock(&key)).collect()
}

/// Whether there are any.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn any(connection: &mut SqliteConnection, room: &RoomId) -> Result<bool> {
    let (any,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT 1 FROM inherited_keys WHERE room_id = ?)")
            .bind(room.as_str())
            .fetch_one(connection)
            .await?;
    Ok(any)
}

/// Forgets keys of rooms where nobody is invited with them any more; with `knocks` those who knock are.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn drop_needless(connection: &mut SqliteConnection, knocks: bool) -> Result<u64> {
    let done = sqlx::query(
        "DELETE FROM inherited_keys WHERE room_id NOT IN (SELECT r.room_id FROM rooms r \
         LEFT JOIN space_rooms s ON s.room_id = r.room_id WHERE r.membership = 'join' \
         AND COALESCE(r.history_visibility, 'shared') IN ('shared', 'world_readable') \
         AND (?1 OR s.invites = 1))",
    )
    .bind(knocks)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
