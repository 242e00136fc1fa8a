//! What the store says of the keeper's own devices, one after the other.

use ruma::{OwnedDeviceId, OwnedRoomId};
use sqlx::SqliteConnection;

use super::{Result, Retired, StoreError, marks, meta, orders, set_meta};

/// Under which key the keeper's device is kept.
pub const DEVICE: &str = "device_id";
/// Under which key it is kept since when that device is, in milliseconds.
pub const DEVICE_SINCE: &str = "device_since";
/// Under which key it is kept why the device has to be replaced by another one.
pub const DUE: &str = "device_renewal";

/// Under which key it is kept why the keeper has the device that it has.
pub const BECAUSE: &str = "device_because";

/// Whether a device of this id was the keeper's before the one that it has.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn is_former(connection: &mut SqliteConnection, device_id: &str) -> Result<bool> {
    let (former,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT 1 FROM former_devices WHERE device_id = ?)")
            .bind(device_id)
            .fetch_one(connection)
            .await?;
    Ok(former)
}

/// Notes that a device was the keeper's, until `now` (milliseconds).
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put_former(
    connection: &mut SqliteConnection,
    device_id: &str,
    now: i64,
) -> Result<()> {
    sqlx::query("INSERT OR IGNORE INTO former_devices (device_id, until) VALUES (?, ?)")
        .bind(device_id)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes that the keeper has another device from `now` (milliseconds) on. What hung on the one before it goes: its place
/// in the homeserver's stream, what it encrypted and has not sent, and what was asked for in its name. No state session
/// goes on, every room's state is fetched anew, and all that was sealed is sealed once more, by promises that start at
/// the tick `tick`. Returns how many sessions were retired.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn begin_anew(
    connection: &mut SqliteConnection,
    device_id: &OwnedDeviceId,
    (now, tick): (i64, i64),
) -> Result<u64> {
    if let Some(cause) = meta(&mut *connection, DUE).await? {
        set_meta(connection, BECAUSE, &cause).await?;
    }
    if let Some(before) = meta(&mut *connection, DEVICE).await? {
        put_former(connection, &before, now).await?;
    }
    set_meta(connection, DEVICE, device_id.as_str()).await?;
    set_meta(connection, DEVICE_SINCE, &now.to_string()).await?;
    // Whoever was promised a key that never left may hold it all the same: it is given once more, and still counts.
    let statements = [
        "DELETE FROM meta WHERE key IN ('since', 'device_renewal')",
        "UPDATE grants SET message_index = 4294967295 WHERE sent_at IS NULL AND message_index <> 4294967295",
        "DELETE FROM bundle_grants WHERE sent_at IS NULL",
        "DELETE FROM outbox WHERE kind IN ('to_device', 'state')",
        "DELETE FROM asked",
        "DELETE FROM asks",
    ];
    for statement in statements {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    let retired =
        sqlx::query("UPDATE sessions SET retired = ?, retired_at = ? WHERE retired IS NULL")
            .bind(Retired::Restored.as_str())
            .bind(now)
            .execute(&mut *connection)
            .await?;
    sqlx::query("UPDATE rooms SET loaded = 0 WHERE membership = 'join'")
        .execute(&mut *connection)
        .await?;
    for room in joined(connection).await? {
        orders::refresh(connection, &room, now).await?;
        marks::mark(connection, &room, None, now, tick).await?;
    }
    Ok(retired.rows_affected())
}

async fn joined(connection: &mut SqliteConnection) -> Result<Vec<OwnedRoomId>> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT room_id FROM rooms WHERE membership = 'join' ORDER BY active_at DESC",
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("room id"))).collect()
}
