//! Promises to decide upon a room, or upon a member of it, made in the commit that took in the cause.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{Result, StoreError};

/// A promise to decide.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Upon whom; `None` means upon the whole room.
    pub user_id: Option<OwnedUserId>,
    /// Which promise it is: a newer one for the same has a greater tick.
    pub tick: i64,
    /// How often deciding did not settle it.
    pub attempts: i64,
}

/// Promises to decide upon a room, or one member, at `due_at` (milliseconds) or earlier.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn mark(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: Option<&UserId>,
    due_at: i64,
    tick: i64,
) -> Result<()> {
    put(connection, room, user, due_at, tick, 0).await
}

/// Puts a promise off to `due_at`: what it waits for has failed `attempts` times.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: Option<&UserId>,
    due_at: i64,
    tick: i64,
    attempts: i64,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO marks (room_id, user_id, due_at, tick, attempts) VALUES (?, ?, ?, ?, ?) \
         ON CONFLICT (room_id, user_id) DO UPDATE SET due_at = MIN(due_at, excluded.due_at), \
         tick = excluded.tick, attempts = excluded.attempts",
    )
    .bind(room.as_str())
    .bind(user.map_or("", |user| user.as_str()))
    .bind(due_at)
    .bind(tick)
    .bind(attempts)
    .execute(connection)
    .await?;
    Ok(())
}

/// The promises of a room that are due at `now`.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn due(connection: &mut SqliteConnection, room: &RoomId, now: i64) -> Result<Vec<Mark>> {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT user_id, tick, attempts FROM marks WHERE room_id = ? AND due_at <= ?",
    )
    .bind(room.as_str())
    .bind(now)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(user, tick, attempts)| {
            let user_id = if user.is_empty() {
                None
            } else {
                Some(user.try_into().map_err(StoreError::corrupt("user id"))?)
            };
            Ok(Mark { user_id, tick, attempts })
        })
        .collect()
}

/// Whether there is a promise to decide upon a member.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn stands(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<bool> {
    let (stands,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT 1 FROM marks WHERE room_id = ? AND user_id = ?)")
            .bind(room.as_str())
            .bind(user.as_str())
            .fetch_one(connection)
            .await?;
    Ok(stands)
}

/// When a member of a room is decided upon next, alone or with everybody else, in milliseconds.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn due_at(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<Option<i64>> {
    let (due_at,): (Option<i64>,) =
        sqlx::query_as("SELECT MIN(due_at) FROM marks WHERE room_id = ? AND user_id IN (?, '')")
            .bind(room.as_str())
            .bind(user.as_str())
            .fetch_one(connection)
            .await?;
    Ok(due_at)
}

/// Settles a promise, unless it was made anew since it was read.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn settle(connection: &mut SqliteConnection, room: &RoomId, mark: &Mark) -> Result<()> {
    sqlx::query("DELETE FROM marks WHERE room_id = ? AND user_id = ? AND tick = ?")
        .bind(room.as_str())
        .bind(mark.user_id.as_ref().map_or("", |user| user.as_str()))
        .bind(mark.tick)
        .execute(connection)
        .await?;
    Ok(())
}

/// Drops every promise of a room.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn clear(connection: &mut SqliteConnection, room: &RoomId) -> Result<()> {
    sqlx::query("DELETE FROM marks WHERE room_id = ?")
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// The rooms whose earliest promise is due at `now`, earliest first, without those in `busy`; and when the
/// next one of all the others falls due.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn due_rooms(
    connection: &mut SqliteConnection,
    now: i64,
    busy: &BTreeSet<OwnedRoomId>,
) -> Result<(Vec<OwnedRoomId>, Option<i64>)> {
    let limit = i64::try_from(busy.len()).unwrap_or(i64::MAX).saturating_add(64);
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT room_id, MIN(due_at) AS due FROM marks WHERE due_at <= ? \
         GROUP BY room_id ORDER BY due LIMIT ?",
    )
    .bind(now)
    .bind(limit)
    .fetch_all(&mut *connection)
    .await?;
    let mut seen = BTreeSet::new();
    let mut rooms = Vec::new();
    for (id, _) in rows {
        let id: OwnedRoomId = id.try_into().map_err(StoreError::corrupt("room id"))?;
        if !busy.contains(&id) && seen.insert(id.clone()) {
            rooms.push(id);
        }
    }
    let (next,): (Option<i64>,) = sqlx::query_as("SELECT MIN(due_at) FROM marks WHERE due_at > ?")
        .bind(now)
        .fetch_one(connection)
        .await?;
    Ok((rooms, next))
}

/// How many promises are due at `now`, and how many wait for a later time.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn count(connection: &mut SqliteConnection, now: i64) -> Result<(i64, i64)> {
    Ok(sqlx::query_as(
        "SELECT COALESCE(SUM(due_at <= ?1), 0), COALESCE(SUM(due_at > ?1), 0) FROM marks",
    )
    .bind(now)
    .fetch_one(connection)
    .await?)
}

/// When the oldest of the promises that are due at `now` fell due, in milliseconds; `None` when none is.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn oldest_due(connection: &mut SqliteConnection, now: i64) -> Result<Option<i64>> {
    let (oldest,): (Option<i64>,) =
        sqlx::query_as("SELECT MIN(due_at) FROM marks WHERE due_at <= ?")
            .bind(now)
            .fetch_one(connection)
            .await?;
    Ok(oldest)
}
