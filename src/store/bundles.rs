//! Bundles of history keys (MSC4268): which were uploaded, and when one is over.

use ruma::{OwnedRoomId, RoomId};
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

use super::{Result, Store, StoreError};

/// A bundle that is uploaded.
#[derive(Clone)]
pub struct BundleRow {
    /// Its number.
    pub id: i64,
    /// Where it is and how it is opened: the `file` of an `m.room_key_bundle`.
    pub file: Secret,
    /// The tick at which it was put together: what came in later is not in it.
    pub tick: i64,
    /// When, in milliseconds.
    pub made_at: i64,
}

/// JSON that opens an upload. Never shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secret(pub serde_json::Value);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// An upload that nobody is sent any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// Its number.
    pub id: i64,
    /// Its `mxc:` address.
    pub url: String,
}

/// A bundle that was uploaded just now.
pub struct NewBundle<'a> {
    /// Of which room.
    pub room: &'a RoomId,
    /// Its `mxc:` address.
    pub url: &'a str,
    /// Where it is and how it is opened.
    pub file: &'a Secret,
    /// Which sessions are in it.
    pub sessions: &'a [String],
    /// The tick at which it was put together.
    pub tick: i64,
}

/// Writes an upload down, which supersedes those of the room before it. Returns its number.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn put(
    store: &Store,
    connection: &mut SqliteConnection,
    bundle: NewBundle<'_>,
    now: i64,
) -> Result<i64> {
    supersede(connection, bundle.room).await?;
    let done = sqlx::query(
        "INSERT INTO bundles (room_id, url, file, sessions, tick, made_at) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(bundle.room.as_str())
    .bind(bundle.url)
    .bind(store.lock(bundle.file)?)
    .bind(store.lock(&bundle.sessions)?)
    .bind(bundle.tick)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.last_insert_rowid())
}

/// The uploads of a room are sent to nobody any more.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn supersede(connection: &mut SqliteConnection, room: &RoomId) -> Result<()> {
    sqlx::query("UPDATE bundles SET file = NULL WHERE room_id = ? AND file IS NOT NULL")
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// The upload that a room's invitees are sent; `None` where a new one has to be made, because a session of shared
/// history has come in since.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn current(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<Option<BundleRow>> {
    let row: Option<(i64, Vec<u8>, i64, i64)> = sqlx::query_as(
        "SELECT id, file, tick, made_at FROM bundles b WHERE room_id = ?1 AND file IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM held_sessions h WHERE h.room_id = ?1 AND h.shared = 1 \
         AND h.tick > b.tick) AND NOT EXISTS (SELECT 1 FROM inherited_keys k \
         WHERE k.room_id = ?1 AND k.tick > b.tick) ORDER BY id DESC LIMIT 1",
    )
    .bind(room.as_str())
    .fetch_optional(connection)
    .await?;
    row.map(|(id, file, tick, made_at)| {
        Ok(BundleRow { id, file: store.unlock(&file)?, tick, made_at })
    })
    .transpose()
}

/// The rooms whose upload was made before `before` (milliseconds) and is sent to invitees still.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn made_before(
    connection: &mut SqliteConnection,
    before: i64,
) -> Result<Vec<OwnedRoomId>> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT DISTINCT room_id FROM bundles WHERE file IS NOT NULL AND made_at < ?",
    )
    .bind(before)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("room id"))).collect()
}

/// Uploads that are superseded, and that nobody will fetch any more: whoever was sent one has answered his invite,
/// joined before `before` (milliseconds) if he did, or was sent another one.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn left_over(
    connection: &mut SqliteConnection,
    before: i64,
    most: i64,
) -> Result<Vec<Superseded>> {
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "SELECT b.id, b.url FROM bundles b WHERE b.file IS NULL AND b.removed_at IS NULL \
         AND NOT EXISTS (SELECT 1 FROM invites i LEFT JOIN members m \
         ON m.room_id = i.room_id AND m.user_id = i.user_id WHERE i.bundle_id = b.id \
         AND (i.status = 'sending' OR m.membership = 'invite' \
         OR (m.membership = 'join' AND m.arrived_at > ?1) OR (m.membership IS NULL AND i.status = 'made'))) \
         LIMIT ?2",
    )
    .bind(before)
    .bind(most)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(id, url)| Superseded { id, url }).collect())
}

/// Notes that an upload's removal was asked for, at `now` (milliseconds).
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn removed(connection: &mut SqliteConnection, id: i64, now: i64) -> Result<()> {
    sqlx::query("UPDATE bundles SET removed_at = ? WHERE id = ?")
        .bind(now)
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}
