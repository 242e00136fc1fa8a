//! Key requests that were heard and are not answered yet: a row each, from the commit of the `since` that brought
//! it to the commit that grants or refuses the key.

use ruma::{DeviceId, OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{Result, StoreError};
use crate::state::StateTuple;

/// A key request that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRequestRow {
    /// Who asks.
    pub sender: OwnedUserId,
    /// From which device.
    pub device_id: OwnedDeviceId,
    /// Under which id.
    pub request_id: String,
    /// The room whose key is asked for.
    pub room_id: OwnedRoomId,
    /// The session that is asked for.
    pub session_id: String,
    /// When it was heard, in milliseconds.
    pub heard_at: i64,
}

/// What names a request: who asked, from which device, under which id.
pub type RequestName<'a> = (&'a UserId, &'a DeviceId, &'a str);

/// Whose session somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskedSession {
    /// One of the keeper's, with the tuple that it is for; `None` is all of the room's state.
    Keepers(Option<StateTuple>),
    /// One of a member's that a state event stands under.
    Members,
}

/// Writes a request down, unless it stands there already.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn insert(connection: &mut SqliteConnection, row: &KeyRequestRow) -> Result<()> {
    sqlx::query(
        "INSERT OR IGNORE INTO key_requests \
         (sender, device_id, request_id, room_id, session_id, heard_at) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(row.sender.as_str())
    .bind(row.device_id.as_str())
    .bind(&row.request_id)
    .bind(row.room_id.as_str())
    .bind(&row.session_id)
    .bind(row.heard_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Strikes a request off: it was answered, taken back or dropped. Returns whether it stood there.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn remove(
    connection: &mut SqliteConnection,
    (sender, device, request_id): RequestName<'_>,
) -> Result<bool> {
    let done = sqlx::query(
        "DELETE FROM key_requests WHERE sender = ? AND device_id = ? AND request_id = ?",
    )
    .bind(sender.as_str())
    .bind(device.as_str())
    .bind(request_id)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Whether a request still stands: nobody took it back.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn stands(
    connection: &mut SqliteConnection,
    (sender, device, request_id): RequestName<'_>,
) -> Result<bool> {
    let row: Option<(i64,)> = sqlx::query_as(
        "SELECT 1 FROM key_requests WHERE sender = ? AND device_id = ? AND request_id = ?",
    )
    .bind(sender.as_str())
    .bind(device.as_str())
    .bind(request_id)
    .fetch_optional(connection)
    .await?;
    Ok(row.is_some())
}

/// Every request that waits, in the order in which they were heard.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn all(connection: &mut SqliteConnection) -> Result<Vec<KeyRequestRow>> {
    let rows: Vec<(String, String, String, String, String, i64)> = sqlx::query_as(
        "SELECT sender, device_id, request_id, room_id, session_id, heard_at \
         FROM key_requests ORDER BY heard_at",
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(sender, device_id, request_id, room_id, session_id, heard_at)| {
            Ok(KeyRequestRow {
                sender: sender.try_into().map_err(StoreError::corrupt("user id"))?,
                device_id: device_id.into(),
                request_id,
                room_id: room_id.try_into().map_err(StoreError::corrupt("room id"))?,
                session_id,
                heard_at,
            })
        })
        .collect()
}

/// Whose the session of that id is, in that very room. `None`: no state event of the room stands under it.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn asked_session(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
) -> Result<Option<AskedSession>> {
    let keepers: Option<(String, String)> = sqlx::query_as(
        "SELECT event_type, state_key FROM sessions WHERE session_id = ? AND room_id = ?",
    )
    .bind(session_id)
    .bind(room.as_str())
    .fetch_optional(&mut *connection)
    .await?;
    if let Some((event_type, state_key)) = keepers {
        let whole_room = event_type.is_empty() && state_key.is_empty();
        let tuple = (!whole_room).then(|| StateTuple::new(event_type, state_key));
        return Ok(Some(AskedSession::Keepers(tuple)));
    }
    let members: Option<(i64,)> =
        sqlx::query_as("SELECT 1 FROM state_events WHERE room_id = ? AND session_id = ? LIMIT 1")
            .bind(room.as_str())
            .bind(session_id)
            .fetch_optional(connection)
            .await?;
    Ok(members.map(|_| AskedSession::Members))
}
