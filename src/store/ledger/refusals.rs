//! What a user was refused, as the history has it.

use ruma::{OwnedDeviceId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{names, room_number, user_number};
use crate::store::{Result, Store};

/// A refusal of whatever key, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    /// To which device.
    pub device_id: OwnedDeviceId,
    /// `withheld:` and the code, or `held`.
    pub outcome: String,
    /// When for the last time, in milliseconds.
    pub last_at: i64,
}

/// What the devices of a user were refused in a room, the newest of each kind for each device.
///
/// # Errors
///
/// [`crate::store::StoreError`] when the database cannot be read.
pub async fn refusals(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<Vec<RefusedRow>> {
    let room = room_number(store, connection, room).await?;
    let user = user_number(store, connection, user).await?;
    let Some((room, user)) = room.zip(user) else { return Ok(Vec::new()) };
    let rows: Vec<(Vec<u8>, Vec<u8>, String, i64)> = sqlx::query_as(
        "SELECT d.hash, d.name, l.outcome, MAX(l.last_at) FROM ledger l JOIN names d ON d.id = l.device \
         WHERE l.user = ? AND +l.room = ? AND l.count IS NOT NULL GROUP BY l.device, l.outcome",
    )
    .bind(user)
    .bind(room)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(hash, name, outcome, last_at)| {
            let device_id = names::open(store, &hash, &name)?.into();
            Ok(RefusedRow { device_id, outcome, last_at })
        })
        .collect()
}
