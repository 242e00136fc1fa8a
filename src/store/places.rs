//! Where rooms belong: what spaces say of rooms, what rooms say of spaces, and main addresses.

use ruma::{EventId, OwnedRoomId, RoomId};
use sqlx::SqliteConnection;

use super::{Result, StoreError};

/// Which side says that a room is in a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The space, which lists the room (`m.space.child`).
    Space,
    /// The room, which claims the space (`m.space.parent`).
    Room,
}

/// Writes what one side says of `room` and `space`: `event` says that they belong together, `None` that they
/// do not, or no more.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn say(
    connection: &mut SqliteConnection,
    room: &RoomId,
    space: &RoomId,
    side: Side,
    event: Option<&EventId>,
) -> Result<()> {
    let sql = match side {
        Side::Space => {
            "INSERT INTO space_links (room_id, space_id, listed_by) VALUES (?, ?, ?) \
             ON CONFLICT (room_id, space_id) DO UPDATE SET listed_by = excluded.listed_by"
        }
        Side::Room => {
            "INSERT INTO space_links (room_id, space_id, claimed_by) VALUES (?, ?, ?) \
             ON CONFLICT (room_id, space_id) DO UPDATE SET claimed_by = excluded.claimed_by"
        }
    };
    sqlx::query(sql)
        .bind(room.as_str())
        .bind(space.as_str())
        .bind(event.map(|event| event.as_str()))
        .execute(&mut *connection)
        .await?;
    let empty = "DELETE FROM space_links WHERE room_id = ? AND space_id = ? \
         AND listed_by IS NULL AND claimed_by IS NULL";
    sqlx::query(empty).bind(room.as_str()).bind(space.as_str()).execute(connection).await?;
    Ok(())
}

/// Writes a room's main address, and the event that says it; `None` when it has none.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put_alias(
    connection: &mut SqliteConnection,
    room: &RoomId,
    alias: Option<&str>,
    event: &EventId,
) -> Result<()> {
    sqlx::query("UPDATE rooms SET canonical_alias = ?, alias_event = ? WHERE room_id = ?")
        .bind(alias)
        .bind(event.as_str())
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets what the state of `room` said of where it and others belong: it is read anew.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn forget(connection: &mut SqliteConnection, room: &RoomId) -> Result<()> {
    for sql in [
        "UPDATE space_links SET listed_by = NULL WHERE space_id = ?",
        "UPDATE space_links SET claimed_by = NULL WHERE room_id = ?",
        "UPDATE rooms SET canonical_alias = NULL, alias_event = NULL WHERE room_id = ?",
        "DELETE FROM space_links WHERE (room_id = ?1 OR space_id = ?1) \
         AND listed_by IS NULL AND claimed_by IS NULL",
    ] {
        sqlx::query(sql).bind(room.as_str()).execute(&mut *connection).await?;
    }
    Ok(())
}

/// The rooms that a space lists.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn listed(connection: &mut SqliteConnection, space: &RoomId) -> Result<Vec<OwnedRoomId>> {
    let sql = "SELECT room_id FROM space_links WHERE space_id = ? AND listed_by IS NOT NULL";
    let rows: Vec<(String,)> =
        sqlx::query_as(sql).bind(space.as_str()).fetch_all(connection).await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("room id"))).collect()
}

/// The spaces that list a room.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn listing(connection: &mut SqliteConnection, room: &RoomId) -> Result<Vec<OwnedRoomId>> {
    let sql = "SELECT space_id FROM space_links WHERE room_id = ? AND listed_by IS NOT NULL";
    let rows: Vec<(String,)> =
        sqlx::query_as(sql).bind(room.as_str()).fetch_all(connection).await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("room id"))).collect()
}

/// Whether an event of `room` says where it, or another room, belongs.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn is_said_by(
    connection: &mut SqliteConnection,
    room: &RoomId,
    event: &EventId,
) -> Result<bool> {
    let (said,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM rooms WHERE room_id = ?1 AND alias_event = ?2) \
         OR EXISTS (SELECT 1 FROM space_links WHERE room_id = ?1 AND claimed_by = ?2) \
         OR EXISTS (SELECT 1 FROM space_links WHERE space_id = ?1 AND listed_by = ?2)",
    )
    .bind(room.as_str())
    .bind(event.as_str())
    .fetch_one(connection)
    .await?;
    Ok(said)
}
