//! The state events that others sent under encryption, and what became of each.

use std::collections::BTreeSet;

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use sqlx::{QueryBuilder, Row, SqliteConnection, sqlite::SqliteRow};

use super::{event_id, user_id};
use crate::{
    state::{Rule, StateTuple},
    store::{Result, Store, StoreError},
};

/// A hidden state event that somebody else sent.
#[derive(Clone)]
pub struct StateEventRow {
    /// Its id.
    pub event_id: OwnedEventId,
    /// The tuple that its packed state key names.
    pub tuple: StateTuple,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// The tick at which it was taken in.
    pub tick: i64,
    /// When it arrived, in milliseconds.
    pub received_at: i64,
    /// The Megolm session that it is encrypted with.
    pub session_id: Option<String>,
    /// Whether its sender had the power for the true type when it came.
    pub powerful: bool,
    /// What became of it: `accepted`, `unreadable`, `redacted`, or the label of a refusal.
    pub verdict: String,
    /// Which rule it broke.
    pub breach: Option<Rule>,
    /// Whether it came as it was sent, and was not found in a fetched state.
    pub live: bool,
    /// The event as JSON, while its key is awaited.
    pub body: Option<String>,
}

impl StateEventRow {
    fn load(store: &Store, row: &SqliteRow) -> Result<Self> {
        let body: Option<Vec<u8>> = row.try_get("body")?;
        let breach: Option<String> = row.try_get("breach")?;
        let missing = || StoreError::Corrupt { what: "state event" };
        Ok(Self {
            event_id: event_id(row.try_get("event_id")?)?.ok_or_else(missing)?,
            tuple: StateTuple {
                event_type: row.try_get("event_type")?,
                state_key: row.try_get("state_key")?,
            },
            sender: user_id(row.try_get("sender")?)?.ok_or_else(missing)?,
            tick: row.try_get("tick")?,
            received_at: row.try_get("received_at")?,
            session_id: row.try_get("session_id")?,
            powerful: row.try_get("powerful")?,
            verdict: row.try_get("verdict")?,
            breach: breach.as_deref().and_then(Rule::from_label),
            live: row.try_get("live")?,
            body: body.map(|body| store.unlock(&body)).transpose()?,
        })
    }
}

/// Writes what became of a state event.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn put_event(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    event: &StateEventRow,
) -> Result<()> {
    let body = event.body.as_ref().map(|body| store.lock(body)).transpose()?;
    sqlx::query(
        "INSERT OR REPLACE INTO state_events (event_id, room_id, event_type, state_key, sender, tick, \
         received_at, session_id, powerful, verdict, body, breach, live) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(event.event_id.as_str())
    .bind(room.as_str())
    .bind(&event.tuple.event_type)
    .bind(&event.tuple.state_key)
    .bind(event.sender.as_str())
    .bind(event.tick)
    .bind(event.received_at)
    .bind(&event.session_id)
    .bind(event.powerful)
    .bind(&event.verdict)
    .bind(body)
    .bind(event.breach.map(Rule::as_label))
    .bind(event.live)
    .execute(connection)
    .await?;
    Ok(())
}

/// One state event by its id.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn get_event(
    store: &Store,
    connection: &mut SqliteConnection,
    event_id: &EventId,
) -> Result<Option<StateEventRow>> {
    let row = sqlx::query("SELECT * FROM state_events WHERE event_id = ?")
        .bind(event_id.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(|row| StateEventRow::load(store, row)).transpose()
}

/// The newest state events of a room whose key is awaited, oldest first; of one session where that is given.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn unreadable(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: Option<&str>,
) -> Result<Vec<StateEventRow>> {
    let rows = sqlx::query(
        "SELECT * FROM state_events WHERE room_id = ?1 AND body IS NOT NULL \
         AND (?2 IS NULL OR session_id = ?2) ORDER BY tick DESC LIMIT 256",
    )
    .bind(room.as_str())
    .bind(session_id)
    .fetch_all(connection)
    .await?;
    rows.iter().rev().map(|row| StateEventRow::load(store, row)).collect()
}

/// The rooms in which a state event waits for its key.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn rooms_with_unreadable(connection: &mut SqliteConnection) -> Result<Vec<OwnedRoomId>> {
    let rows: Vec<(String,)> =
        sqlx::query_as("SELECT DISTINCT room_id FROM state_events WHERE body IS NOT NULL")
            .fetch_all(connection)
            .await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("room id"))).collect()
}

/// How many tuples show a current event that the keeper cannot read.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn count_unreadable(connection: &mut SqliteConnection) -> Result<i64> {
    let (count,): (i64,) = sqlx::query_as(
        "SELECT (SELECT COUNT(*) FROM tuples t JOIN state_events e ON e.event_id = t.current_event_id \
         WHERE e.verdict = 'unreadable') + (SELECT COUNT(*) FROM buried WHERE found = 0)",
    )
    .fetch_one(connection)
    .await?;
    Ok(count)
}

/// The tuples of a room whose current event the keeper cannot read, or not yet.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn unread(
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<BTreeSet<StateTuple>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT t.event_type, t.state_key FROM tuples t \
         JOIN state_events e ON e.event_id = t.current_event_id \
         WHERE t.room_id = ? AND e.verdict = 'unreadable'",
    )
    .bind(room.as_str())
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(kind, key)| StateTuple::new(kind, key)).collect())
}

/// Whether a tuple was given a newer value, by whoever was allowed to, than an event of this tick: one that counts, or
/// that was taken back.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn is_superseded(
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
    tick: i64,
) -> Result<bool> {
    let (newer,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM state_events WHERE room_id = ? AND event_type = ? \
         AND state_key = ? AND tick > ? AND verdict IN ('accepted', 'cleared', 'redacted') \
         AND (breach IS NULL OR breach = 'timestamp'))",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .bind(tick)
    .fetch_one(connection)
    .await?;
    Ok(newer)
}

/// The tick of the newest event of a tuple that was kept; the keeper's own are not.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn newest_tick(
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
) -> Result<Option<i64>> {
    let (tick,): (Option<i64>,) = sqlx::query_as(
        "SELECT MAX(tick) FROM state_events WHERE room_id = ? AND event_type = ? AND state_key = ?",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .fetch_one(connection)
    .await?;
    Ok(tick)
}

/// How many events of a user broke one of `rules` in a room and came after `since`, in milliseconds.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn breaches_since(
    connection: &mut SqliteConnection,
    room: &RoomId,
    sender: &UserId,
    since: i64,
    rules: &[Rule],
) -> Result<u32> {
    let mut query =
        QueryBuilder::new("SELECT COUNT(*) FROM state_events WHERE live AND room_id = ");
    query.push_bind(room.as_str()).push(" AND sender = ").push_bind(sender.as_str());
    query.push(" AND received_at > ").push_bind(since).push(" AND breach IN (");
    let mut list = query.separated(", ");
    for rule in rules {
        list.push_bind(rule.as_label());
    }
    query.push(")");
    let (count,): (i64,) = query.build_query_as().fetch_one(connection).await?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Which users' events broke which rules in which rooms, and how many, that came after `after` and not after `until`
/// (milliseconds): room, user, rule, count.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn breaches_between(
    connection: &mut SqliteConnection,
    after: i64,
    until: i64,
) -> Result<Vec<(String, String, String, i64)>> {
    Ok(sqlx::query_as(
        "SELECT room_id, sender, breach, COUNT(*) FROM state_events WHERE breach IS NOT NULL AND live \
         AND received_at > ? AND received_at <= ? GROUP BY room_id, sender, breach",
    )
    .bind(after)
    .bind(until)
    .fetch_all(connection)
    .await?)
}

/// The newest event that gave a tuple a value in plain where it has to be encrypted.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn newest_plain_breach(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
) -> Result<Option<StateEventRow>> {
    let row = sqlx::query(
        "SELECT * FROM state_events WHERE room_id = ? AND breach = 'plain' AND event_type = ? \
         AND state_key = ? AND verdict <> 'redacted' ORDER BY tick DESC LIMIT 1",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(|row| StateEventRow::load(store, row)).transpose()
}
