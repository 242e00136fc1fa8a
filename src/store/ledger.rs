//! Who holds what: no grant, no key.

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{Result, StoreError};

/// A key that is about to be given.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// The session.
    pub session_id: String,
    /// To whom.
    pub user_id: OwnedUserId,
    /// To which device of theirs.
    pub device_id: OwnedDeviceId,
    /// The first index that the key opens.
    pub message_index: u32,
    /// Why: `invite`, `join`, `device`, `seal`.
    pub reason: &'static str,
}

/// What a device holds of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The first index that its key opens.
    pub message_index: u32,
    /// When the homeserver took it, in milliseconds; `None` while that is not known.
    pub sent_at: Option<i64>,
    /// The tick of that.
    pub sent_tick: Option<i64>,
}

/// A grant with whose it is.
#[derive(Clone, Debug)]
pub struct GrantRow {
    /// The session.
    pub session_id: String,
    /// Whose.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: OwnedDeviceId,
    /// What it holds.
    pub grant: Grant,
}

/// Writes grants, before their keys leave. One that reaches further back replaces the one that stood.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn grant(
    connection: &mut SqliteConnection,
    room: &RoomId,
    grants: &[NewGrant],
    now: i64,
) -> Result<()> {
    for grant in grants {
        sqlx::query(
            "INSERT INTO grants (session_id, user_id, device_id, room_id, message_index, reason, \
             granted_at) VALUES (?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (session_id, user_id, device_id) DO UPDATE SET \
             message_index = MIN(message_index, excluded.message_index), reason = excluded.reason, \
             granted_at = excluded.granted_at, sent_at = NULL, sent_tick = NULL",
        )
        .bind(&grant.session_id)
        .bind(grant.user_id.as_str())
        .bind(grant.device_id.as_str())
        .bind(room.as_str())
        .bind(i64::from(grant.message_index))
        .bind(grant.reason)
        .bind(now)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Notes that the homeserver took a key.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn sent(
    connection: &mut SqliteConnection,
    session_id: &str,
    user: &UserId,
    device: &DeviceId,
    now: i64,
    tick: i64,
) -> Result<()> {
    sqlx::query(
        "UPDATE grants SET sent_at = ?, sent_tick = ? \
         WHERE session_id = ? AND user_id = ? AND device_id = ?",
    )
    .bind(now)
    .bind(tick)
    .bind(session_id)
    .bind(user.as_str())
    .bind(device.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes a grant back whose key the homeserver refused for good: it never left.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn withdraw(
    connection: &mut SqliteConnection,
    session_id: &str,
    user: &UserId,
    device: &DeviceId,
) -> Result<()> {
    sqlx::query(
        "DELETE FROM grants WHERE session_id = ? AND user_id = ? AND device_id = ? \
         AND sent_at IS NULL",
    )
    .bind(session_id)
    .bind(user.as_str())
    .bind(device.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets from which index on a device holds its keys: its Olm session was broken, so nobody knows what it
/// received. That it may hold them still counts.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn doubt(
    connection: &mut SqliteConnection,
    user: &UserId,
    device: &DeviceId,
) -> Result<()> {
    sqlx::query("UPDATE grants SET message_index = ? WHERE user_id = ? AND device_id = ?")
        .bind(i64::from(u32::MAX))
        .bind(user.as_str())
        .bind(device.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes back the grants of a room whose keys never left.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn withdraw_unsent(connection: &mut SqliteConnection, room: &RoomId) -> Result<()> {
    sqlx::query("DELETE FROM grants WHERE room_id = ? AND sent_at IS NULL")
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Every grant of a room, or of one user there.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn of_room(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: Option<&UserId>,
) -> Result<Vec<GrantRow>> {
    type Columns = (String, String, String, i64, Option<i64>, Option<i64>);
    let rows: Vec<Columns> = match user {
        Some(user) => {
            sqlx::query_as(
                "SELECT session_id, user_id, device_id, message_index, sent_at, sent_tick \
                 FROM grants WHERE room_id = ? AND user_id = ?",
            )
            .bind(room.as_str())
            .bind(user.as_str())
            .fetch_all(connection)
            .await?
        }
        None => {
            sqlx::query_as(
                "SELECT session_id, user_id, device_id, message_index, sent_at, sent_tick \
                 FROM grants WHERE room_id = ?",
            )
            .bind(room.as_str())
            .fetch_all(connection)
            .await?
        }
    };
    rows.into_iter()
        .map(|(session_id, user, device, index, sent_at, sent_tick)| {
            Ok(GrantRow {
                session_id,
                user_id: user.try_into().map_err(StoreError::corrupt("user id"))?,
                device_id: device.into(),
                grant: Grant {
                    message_index: u32::try_from(index)
                        .map_err(StoreError::corrupt("message index"))?,
                    sent_at,
                    sent_tick,
                },
            })
        })
        .collect()
}

/// Notes a refusal. Returns whether it is the first of its kind.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn refuse(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    device: &DeviceId,
    code: &str,
    now: i64,
) -> Result<bool> {
    let done = sqlx::query(
        "INSERT OR IGNORE INTO refusals (room_id, user_id, device_id, code, refused_at) \
         VALUES (?, ?, ?, ?, ?)",
    )
    .bind(room.as_str())
    .bind(user.as_str())
    .bind(device.as_str())
    .bind(code)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}
