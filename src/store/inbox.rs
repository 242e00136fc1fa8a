//! Events between the homeserver's transaction and the keeper's taking them in.

use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use sqlx::SqliteConnection;

use super::{Result, StoreError};

/// What stands in the column where a room had no power levels.
const NO_LEVELS: &str = "null";

/// An event as a transaction brought it.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its id, by which a second delivery is known.
    pub event_id: OwnedEventId,
    /// Its room.
    pub room_id: OwnedRoomId,
    /// The event as JSON, as received.
    pub body: String,
}

/// An event that waits to be taken in.
#[derive(Clone, Debug)]
pub struct InboxRow {
    /// Its place in the own server's stream, as far as the keeper saw that.
    pub seq: i64,
    /// Its room.
    pub room_id: OwnedRoomId,
    /// When it arrived, in milliseconds.
    pub received_at: i64,
    /// The event as JSON.
    pub body: String,
    /// Whether it was fetched, and may be older than what was taken in before it.
    pub fetched: bool,
    /// Whether it was fetched, and is known to be older than another member's.
    pub behind: bool,
    /// The power levels that stood when it was sent, where it was fetched and they were shown.
    pub levels: Option<LevelsThen>,
}

/// The content of the `m.room.power_levels` that stood at some time, as JSON; `None` where there was none in the room.
pub type LevelsThen = Option<String>;

/// Puts events into the inbox; one that was there before is passed over. Returns how many were new.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn insert(
    connection: &mut SqliteConnection,
    events: &[NewEvent],
    now: i64,
) -> Result<usize> {
    let mut new = 0;
    for event in events {
        let done = sqlx::query(
            "INSERT OR IGNORE INTO inbox (event_id, room_id, received_at, body) VALUES (?, ?, ?, ?)",
        )
        .bind(event.event_id.as_str())
        .bind(event.room_id.as_str())
        .bind(now)
        .bind(&event.body)
        .execute(&mut *connection)
        .await?;
        new += usize::try_from(done.rows_affected()).unwrap_or(0);
    }
    Ok(new)
}

/// Puts an event into the inbox of which the homeserver did not tell; one that was there before is passed over.
/// `behind` is whether a member has said something newer, of which the homeserver may have told; `levels` are those that
/// stood when it was sent, where that is known.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn insert_fetched(
    connection: &mut SqliteConnection,
    event: &NewEvent,
    behind: bool,
    levels: Option<&LevelsThen>,
    now: i64,
) -> Result<()> {
    if insert(connection, std::slice::from_ref(event), now).await? > 0 {
        sqlx::query("UPDATE inbox SET fetched = ?, levels = ? WHERE event_id = ?")
            .bind(1 + i64::from(behind))
            .bind(levels.map(|levels| levels.as_deref().unwrap_or(NO_LEVELS)))
            .bind(event.event_id.as_str())
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// The oldest events that wait, in stream order, none of them held.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn waiting(connection: &mut SqliteConnection, limit: i64) -> Result<Vec<InboxRow>> {
    let rows: Vec<(i64, String, i64, String, i64, Option<String>)> = sqlx::query_as(
        "SELECT seq, room_id, received_at, body, fetched, levels FROM inbox \
         WHERE body IS NOT NULL AND held = 0 ORDER BY seq LIMIT ?",
    )
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(seq, room_id, received_at, body, fetched, levels)| {
            let room_id = OwnedRoomId::try_from(room_id).map_err(StoreError::corrupt("room id"))?;
            let (fetched, behind) = (fetched > 0, fetched > 1);
            let levels = levels.map(|levels| Some(levels).filter(|levels| levels != NO_LEVELS));
            Ok(InboxRow { seq, room_id, received_at, body, fetched, behind, levels })
        })
        .collect()
}

/// Notes that an event was taken in: its body goes, its id stays.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn taken(connection: &mut SqliteConnection, seq: i64) -> Result<()> {
    sqlx::query("UPDATE inbox SET body = NULL, levels = NULL, held = 0 WHERE seq = ?")
        .bind(seq)
        .execute(connection)
        .await?;
    Ok(())
}

/// Puts an event aside until its room's state has been fetched.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn hold(connection: &mut SqliteConnection, seq: i64) -> Result<()> {
    sqlx::query("UPDATE inbox SET held = 1 WHERE seq = ?").bind(seq).execute(connection).await?;
    Ok(())
}

/// The newest place in the stream that has arrived.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn newest(connection: &mut SqliteConnection) -> Result<i64> {
    let (seq,): (i64,) =
        sqlx::query_as("SELECT COALESCE(MAX(seq), 0) FROM inbox").fetch_one(connection).await?;
    Ok(seq)
}

/// Gives a room's held events back: what came up to `fence` is in the fetched state already and goes,
/// the rest is taken in next. Forgets them all where `fence` is `None`.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn release(
    connection: &mut SqliteConnection,
    room: &RoomId,
    fence: Option<i64>,
) -> Result<()> {
    sqlx::query(
        "UPDATE inbox SET body = NULL, levels = NULL, held = 0 \
         WHERE room_id = ? AND held = 1 AND seq <= ?",
    )
    .bind(room.as_str())
    .bind(fence.unwrap_or(i64::MAX))
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE inbox SET held = 0 WHERE room_id = ? AND held = 1")
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// A room's events up to `fence` that were not taken in yet: each one's place in the stream and its body.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn untaken(
    connection: &mut SqliteConnection,
    room: &RoomId,
    fence: i64,
) -> Result<Vec<(i64, String)>> {
    Ok(sqlx::query_as(
        "SELECT seq, body FROM inbox WHERE room_id = ? AND body IS NOT NULL AND seq <= ? ORDER BY seq",
    )
    .bind(room.as_str())
    .bind(fence)
    .fetch_all(connection)
    .await?)
}

/// Gives one held event back.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn give_back(connection: &mut SqliteConnection, seq: i64) -> Result<()> {
    sqlx::query("UPDATE inbox SET held = 0 WHERE seq = ? AND body IS NOT NULL")
        .bind(seq)
        .execute(connection)
        .await?;
    Ok(())
}

/// Gives one held event back that stands in the room no more: it is behind what somebody said since. `levels` are those
/// that stood when it was sent, where that is known.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn give_back_behind(
    connection: &mut SqliteConnection,
    seq: i64,
    levels: Option<&LevelsThen>,
) -> Result<()> {
    sqlx::query("UPDATE inbox SET fetched = 2, levels = ? WHERE seq = ? AND body IS NOT NULL")
        .bind(levels.map(|levels| levels.as_deref().unwrap_or(NO_LEVELS)))
        .bind(seq)
        .execute(&mut *connection)
        .await?;
    give_back(connection, seq).await
}

/// Whether an event was pushed, or found in a fetched state.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn knows(connection: &mut SqliteConnection, event_id: &EventId) -> Result<bool> {
    let (known,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM inbox WHERE event_id = ?1) \
         OR EXISTS (SELECT 1 FROM state_events WHERE event_id = ?1)",
    )
    .bind(event_id.as_str())
    .fetch_one(connection)
    .await?;
    Ok(known)
}

/// Whether the homeserver has told of an event, and it was taken in with all that came before it.
///
/// # Errors
///
/// [`crate::store::StoreError::Database`] when the database cannot be read.
pub async fn is_taken(connection: &mut SqliteConnection, event_id: &EventId) -> Result<bool> {
    let (taken,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT 1 FROM inbox WHERE event_id = ? AND body IS NULL)")
            .bind(event_id.as_str())
            .fetch_one(connection)
            .await?;
    Ok(taken)
}

/// Whether the homeserver has told of an event by itself, as far as that is remembered.
///
/// # Errors
///
/// [`crate::store::StoreError::Database`] when the database cannot be read.
pub async fn was_told(connection: &mut SqliteConnection, event_id: &EventId) -> Result<bool> {
    let (told,): (bool,) = sqlx::query_as("SELECT EXISTS (SELECT 1 FROM inbox WHERE event_id = ?)")
        .bind(event_id.as_str())
        .fetch_one(connection)
        .await?;
    Ok(told)
}

/// Notes that an event stood in a room of which the homeserver never told: it has to be fetched. Passed over when
/// it has arrived already.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn miss(
    connection: &mut SqliteConnection,
    room: &RoomId,
    event_id: &EventId,
) -> Result<bool> {
    let done = sqlx::query(
        "INSERT OR IGNORE INTO missed (room_id, event_id) SELECT ?1, ?2 \
         WHERE NOT EXISTS (SELECT 1 FROM inbox WHERE event_id = ?2)",
    )
    .bind(room.as_str())
    .bind(event_id.as_str())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The events of a room that have to be fetched.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn missed(connection: &mut SqliteConnection, room: &RoomId) -> Result<Vec<OwnedEventId>> {
    let rows: Vec<(String,)> = sqlx::query_as("SELECT event_id FROM missed WHERE room_id = ?")
        .bind(room.as_str())
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("event id"))).collect()
}

/// Strikes an event off the list of those to be fetched.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn found(connection: &mut SqliteConnection, event_id: &EventId) -> Result<()> {
    sqlx::query("DELETE FROM missed WHERE event_id = ?")
        .bind(event_id.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets the ids of events that were taken in before `before`: nobody delivers them again.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn prune(connection: &mut SqliteConnection, before: i64) -> Result<u64> {
    // The newest row stays, whatever its age: it is the fence's measure.
    let done = sqlx::query(
        "DELETE FROM inbox WHERE body IS NULL AND received_at < ? \
         AND seq < (SELECT MAX(seq) FROM inbox)",
    )
    .bind(before)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
