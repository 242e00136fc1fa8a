//! What an administrator had done over. It need not be struck off: what was done since is newer than the order.

use std::collections::BTreeMap;

use ruma::{OwnedUserId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{Result, StoreError};

/// The orders that stand in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// What was sealed at this tick or before is sealed once more.
    pub refresh_upto: i64,
    /// Users, and until when keys that they were given count as lost, in milliseconds.
    pub shares: BTreeMap<OwnedUserId, i64>,
}

/// Has every value sealed once more that stands sealed in a room. Returns how many those are.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn refresh(connection: &mut SqliteConnection, room: &RoomId, now: i64) -> Result<u64> {
    let (values, tick): (i64, i64) = sqlx::query_as(
        "SELECT COUNT(*), COALESCE(MAX(sealed_tick), 0) FROM tuples \
         WHERE room_id = ? AND sealed_event_id IS NOT NULL AND redacted = 0",
    )
    .bind(room.as_str())
    .fetch_one(&mut *connection)
    .await?;
    put(connection, room, "", now, tick).await?;
    Ok(u64::try_from(values).unwrap_or(0))
}

/// Has the keys that a user was given in a room given once more.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn share(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    now: i64,
) -> Result<()> {
    put(connection, room, user.as_str(), now, 0).await
}

async fn put(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &str,
    at: i64,
    tick: i64,
) -> Result<()> {
    sqlx::query("INSERT OR REPLACE INTO orders (room_id, user_id, at, tick) VALUES (?, ?, ?, ?)")
        .bind(room.as_str())
        .bind(user)
        .bind(at)
        .bind(tick)
        .execute(connection)
        .await?;
    Ok(())
}

/// The orders that were given in a room.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn of_room(connection: &mut SqliteConnection, room: &RoomId) -> Result<Orders> {
    let rows: Vec<(String, i64, i64)> =
        sqlx::query_as("SELECT user_id, at, tick FROM orders WHERE room_id = ?")
            .bind(room.as_str())
            .fetch_all(connection)
            .await?;
    let mut orders = Orders::default();
    for (user, at, tick) in rows {
        if user.is_empty() {
            orders.refresh_upto = tick;
        } else {
            let user = user.try_into().map_err(StoreError::corrupt("user id"))?;
            orders.shares.insert(user, at);
        }
    }
    Ok(orders)
}
