//! What stands in plain at a state tuple's place, beside what is sealed.

use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Result, Store, StoreError};
use crate::state::{JsonMap, StateTuple};

/// What stands in plain at a tuple's place.
#[derive(Clone, Debug, PartialEq)]
pub struct PlainCopy {
    /// The true type and state key.
    pub tuple: StateTuple,
    /// The event; `None` while nothing stands there.
    pub event_id: Option<OwnedEventId>,
    /// Its sender.
    pub sender: Option<OwnedUserId>,
    /// The tick at which it was taken in, or sent.
    pub tick: i64,
    /// Its content; empty where it is redacted.
    pub content: JsonMap,
    /// How often somebody wrote over the keeper's copy, close together.
    pub rounds: u32,
    /// When somebody else wrote there last, in milliseconds.
    pub said_at: i64,
    /// What was warned of.
    pub warned: Option<String>,
    /// The source of which the homeserver took no copy.
    pub refused: Option<OwnedEventId>,
}

impl PlainCopy {
    /// A place where nothing stands.
    pub fn none(tuple: StateTuple) -> Self {
        Self {
            tuple,
            event_id: None,
            sender: None,
            tick: 0,
            content: JsonMap::new(),
            rounds: 0,
            said_at: 0,
            warned: None,
            refused: None,
        }
    }

    fn load(store: &Store, row: &SqliteRow) -> Result<Self> {
        let content: Vec<u8> = row.try_get("content")?;
        Ok(Self {
            tuple: tuple(row)?,
            event_id: event_id(row.try_get("event_id")?)?,
            sender: row
                .try_get::<Option<String>, _>("sender")?
                .map(OwnedUserId::try_from)
                .transpose()
                .map_err(StoreError::corrupt("user id"))?,
            tick: row.try_get("tick")?,
            content: store.unlock(&content)?,
            rounds: row.try_get("rounds")?,
            said_at: row.try_get("said_at")?,
            warned: row.try_get("warned")?,
            refused: event_id(row.try_get("refused")?)?,
        })
    }
}

fn tuple(row: &SqliteRow) -> Result<StateTuple> {
    Ok(StateTuple { event_type: row.try_get("event_type")?, state_key: row.try_get("state_key")? })
}

fn event_id(column: Option<String>) -> Result<Option<OwnedEventId>> {
    column.map(OwnedEventId::try_from).transpose().map_err(StoreError::corrupt("event id"))
}

/// What stands in plain in a room, of the types that `counts` says yes to.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn of_room(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    counts: impl Fn(&str) -> bool,
) -> Result<Vec<PlainCopy>> {
    let rows = sqlx::query("SELECT * FROM plain_copies WHERE room_id = ?")
        .bind(room.as_str())
        .fetch_all(connection)
        .await?;
    let mut copies = Vec::new();
    for row in &rows {
        if counts(row.try_get("event_type")?) {
            copies.push(PlainCopy::load(store, row)?);
        }
    }
    Ok(copies)
}

/// What stands in plain at one tuple's place.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn get(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
) -> Result<Option<PlainCopy>> {
    let row = sqlx::query(
        "SELECT * FROM plain_copies WHERE room_id = ? AND event_type = ? AND state_key = ?",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(|row| PlainCopy::load(store, row)).transpose()
}

/// The place where an event stands in plain.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn by_event(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    event: &EventId,
) -> Result<Option<PlainCopy>> {
    let row = sqlx::query("SELECT * FROM plain_copies WHERE room_id = ? AND event_id = ?")
        .bind(room.as_str())
        .bind(event.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(|row| PlainCopy::load(store, row)).transpose()
}

/// Writes what stands in plain at a tuple's place.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn put(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    copy: &PlainCopy,
) -> Result<()> {
    sqlx::query(
        "INSERT OR REPLACE INTO plain_copies (room_id, event_type, state_key, event_id, sender, tick, \
         content, rounds, said_at, warned, refused) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(room.as_str())
    .bind(&copy.tuple.event_type)
    .bind(&copy.tuple.state_key)
    .bind(copy.event_id.as_ref().map(|id| id.as_str()))
    .bind(copy.sender.as_ref().map(|id| id.as_str()))
    .bind(copy.tick)
    .bind(store.lock(&copy.content)?)
    .bind(copy.rounds)
    .bind(copy.said_at)
    .bind(&copy.warned)
    .bind(copy.refused.as_ref().map(|id| id.as_str()))
    .execute(connection)
    .await?;
    Ok(())
}
