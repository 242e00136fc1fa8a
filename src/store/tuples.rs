//! What is known of each state tuple: who said what last, what stands in the room, what was sealed.

use ruma::{OwnedEventId, OwnedUserId, RoomId};
use serde_json::{Map, Value};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Result, Store, StoreError};
use crate::state::{Form, StateTuple, has_public_picture};

mod events;
mod indices;
mod journal;
mod owed;
mod seals;

pub use self::{
    events::{
        IN_PLAIN, StateEventRow, awaiting, breaches_since, count_unreadable, get_event, is_kept,
        is_superseded, left_by_rule, never_read, newest_allowed, newest_plain_breach, newest_tick,
        put_event, rooms_awaiting, unread, values_of_unknown_levels,
    },
    indices::{last_message, record_index, record_message},
    journal::{prune_events, shorten_events},
    owed::{OwedRow, owe, owed, settle},
    seals::{
        is_of_room, is_said_redacted, put_prepared, put_seal, seal, take_prepared, take_seal,
        take_seals_of,
    },
};

/// The newest value that a member was allowed to give a tuple.
#[derive(Clone)]
pub struct SourceValue {
    /// The event that said it.
    pub event_id: OwnedEventId,
    /// Who sent that.
    pub sender: OwnedUserId,
    /// In which form it came.
    pub form: Form,
    /// When it arrived, in milliseconds.
    pub at: i64,
    /// The tick at which it was taken in.
    pub tick: i64,
    /// The state event's content.
    pub content: Map<String, Value>,
}

/// What the keeper sealed last.
#[derive(Clone, Debug)]
pub struct SealedValue {
    /// The sealed event.
    pub event_id: OwnedEventId,
    /// The source event that it stands for.
    pub from: OwnedEventId,
    /// Its session.
    pub session_id: String,
    /// Its index in that session.
    pub message_index: u32,
    /// The tick at which its sending began: keys with an earlier one were there before it.
    pub tick: i64,
}

/// A state tuple that is, or should be, sealed.
#[derive(Clone)]
pub struct TupleRow {
    /// The true type and state key.
    pub tuple: StateTuple,
    /// The newest value that a member was allowed to give it.
    pub source: Option<SourceValue>,
    /// How often others said again what the keeper had sealed already.
    pub echoes: u32,
    /// Since when that is counted, in milliseconds.
    pub echoes_since: i64,
    /// The event that stands at the packed state key now.
    pub current_event_id: Option<OwnedEventId>,
    /// Its sender.
    pub current_sender: Option<OwnedUserId>,
    /// Whether that event is one that the keeper may stand on: false while it is unreadable or refused.
    pub current_fit: bool,
    /// Whether the current value was redacted: final.
    pub redacted: bool,
    /// What the keeper sealed last.
    pub sealed: Option<SealedValue>,
    /// When it was last refreshed for joiners, in milliseconds.
    pub refreshed_at: i64,
    /// When it was last refreshed for new devices, in milliseconds.
    pub device_refresh_at: i64,
}

impl TupleRow {
    /// A tuple of which nothing is known yet.
    pub fn new(tuple: StateTuple) -> Self {
        Self {
            tuple,
            source: None,
            echoes: 0,
            echoes_since: 0,
            current_event_id: None,
            current_sender: None,
            current_fit: true,
            redacted: false,
            sealed: None,
            refreshed_at: 0,
            device_refresh_at: 0,
        }
    }

    /// Whether its value is an avatar whose picture lies on the server for everybody to see.
    pub fn has_public_picture(&self) -> bool {
        let content = self.source.as_ref().map(|source| &source.content);
        self.tuple.event_type == "m.room.avatar" && content.is_some_and(has_public_picture)
    }

    fn load(store: &Store, row: &SqliteRow) -> Result<Self> {
        let tuple = StateTuple {
            event_type: row.try_get("event_type")?,
            state_key: row.try_get("state_key")?,
        };
        Ok(Self {
            tuple,
            source: source(store, row)?,
            echoes: row.try_get("echoes")?,
            echoes_since: row.try_get("echoes_since")?,
            current_event_id: event_id(row.try_get("current_event_id")?)?,
            current_sender: user_id(row.try_get("current_sender")?)?,
            current_fit: row.try_get("current_fit")?,
            redacted: row.try_get("redacted")?,
            sealed: sealed(row)?,
            refreshed_at: row.try_get("refreshed_at")?,
            device_refresh_at: row.try_get("device_refresh_at")?,
        })
    }
}

fn event_id(column: Option<String>) -> Result<Option<OwnedEventId>> {
    column.map(OwnedEventId::try_from).transpose().map_err(StoreError::corrupt("event id"))
}

fn user_id(column: Option<String>) -> Result<Option<OwnedUserId>> {
    column.map(OwnedUserId::try_from).transpose().map_err(StoreError::corrupt("user id"))
}

fn source(store: &Store, row: &SqliteRow) -> Result<Option<SourceValue>> {
    let Some(event_id) = event_id(row.try_get("source_event_id")?)? else { return Ok(None) };
    let missing = || StoreError::Corrupt { what: "source of a state tuple" };
    let form: String = row.try_get("source_form")?;
    let content: Vec<u8> = row.try_get("content")?;
    Ok(Some(SourceValue {
        event_id,
        sender: user_id(row.try_get("source_sender")?)?.ok_or_else(missing)?,
        form: Form::from_name(&form).ok_or_else(missing)?,
        at: row.try_get("source_at")?,
        tick: row.try_get("source_tick")?,
        content: store.unlock(&content)?,
    }))
}

fn sealed(row: &SqliteRow) -> Result<Option<SealedValue>> {
    let Some(event_id_) = event_id(row.try_get("sealed_event_id")?)? else { return Ok(None) };
    let missing = || StoreError::Corrupt { what: "sealed value of a state tuple" };
    let index: i64 = row.try_get("message_index")?;
    Ok(Some(SealedValue {
        event_id: event_id_,
        from: event_id(row.try_get("sealed_from")?)?.ok_or_else(missing)?,
        session_id: row.try_get("session_id")?,
        message_index: u32::try_from(index).map_err(StoreError::corrupt("message index"))?,
        tick: row.try_get("sealed_tick")?,
    }))
}

/// Every known tuple of a room, in a fixed order: name, topic, avatar first.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn of_room(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<Vec<TupleRow>> {
    let rows = sqlx::query(
        "SELECT * FROM tuples WHERE room_id = ? ORDER BY event_type <> 'm.room.name', \
         event_type <> 'm.room.topic', event_type <> 'm.room.avatar', event_type, state_key",
    )
    .bind(room.as_str())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| TupleRow::load(store, row)).collect()
}

/// One tuple of a room.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn get(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
) -> Result<Option<TupleRow>> {
    let row =
        sqlx::query("SELECT * FROM tuples WHERE room_id = ? AND event_type = ? AND state_key = ?")
            .bind(room.as_str())
            .bind(&tuple.event_type)
            .bind(&tuple.state_key)
            .fetch_optional(connection)
            .await?;
    row.as_ref().map(|row| TupleRow::load(store, row)).transpose()
}

/// Writes a tuple as given. The key snapshot of its sealed value is kept by [`put_sealed`] alone.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn put(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    row: &TupleRow,
) -> Result<()> {
    let source = row.source.as_ref();
    let content = source.map(|source| store.lock(&source.content)).transpose()?;
    sqlx::query(
        "INSERT INTO tuples (room_id, event_type, state_key, source_event_id, source_sender, \
         source_form, source_at, source_tick, content, current_event_id, current_sender, current_fit, \
         redacted, refreshed_at, device_refresh_at, echoes, echoes_since, public_picture) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (room_id, event_type, state_key) DO UPDATE SET \
         source_event_id = excluded.source_event_id, source_sender = excluded.source_sender, \
         source_form = excluded.source_form, source_at = excluded.source_at, \
         source_tick = excluded.source_tick, content = excluded.content, \
         current_event_id = excluded.current_event_id, current_sender = excluded.current_sender, \
         current_fit = excluded.current_fit, redacted = excluded.redacted, \
         refreshed_at = excluded.refreshed_at, device_refresh_at = excluded.device_refresh_at, \
         echoes = excluded.echoes, echoes_since = excluded.echoes_since, \
         public_picture = excluded.public_picture",
    )
    .bind(room.as_str())
    .bind(&row.tuple.event_type)
    .bind(&row.tuple.state_key)
    .bind(source.map(|source| source.event_id.as_str()))
    .bind(source.map(|source| source.sender.as_str()))
    .bind(source.map(|source| source.form.as_str()))
    .bind(source.map(|source| source.at))
    .bind(source.map(|source| source.tick))
    .bind(content)
    .bind(row.current_event_id.as_ref().map(|id| id.as_str()))
    .bind(row.current_sender.as_ref().map(|id| id.as_str()))
    .bind(row.current_fit)
    .bind(row.redacted)
    .bind(row.refreshed_at)
    .bind(row.device_refresh_at)
    .bind(row.echoes)
    .bind(row.echoes_since)
    .bind(row.has_public_picture())
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes what the keeper sealed for a tuple, with the signed session key (base64) at its index.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn put_sealed(
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
    sealed: &SealedValue,
    locked_snapshot: &[u8],
) -> Result<()> {
    sqlx::query(
        "UPDATE tuples SET sealed_event_id = ?, sealed_from = ?, session_id = ?, message_index = ?, \
         sealed_tick = ?, snapshot = ? WHERE room_id = ? AND event_type = ? AND state_key = ?",
    )
    .bind(sealed.event_id.as_str())
    .bind(sealed.from.as_str())
    .bind(&sealed.session_id)
    .bind(i64::from(sealed.message_index))
    .bind(sealed.tick)
    .bind(locked_snapshot)
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .execute(connection)
    .await?;
    Ok(())
}

/// The locked key snapshot of a tuple's sealed value.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn snapshot(
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
) -> Result<Option<Vec<u8>>> {
    let row: Option<(Option<Vec<u8>>,)> = sqlx::query_as(
        "SELECT snapshot FROM tuples WHERE room_id = ? AND event_type = ? AND state_key = ?",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .fetch_optional(connection)
    .await?;
    Ok(row.and_then(|(snapshot,)| snapshot))
}
