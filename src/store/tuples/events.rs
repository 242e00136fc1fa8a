//! The journal: the state events that others sent, allowed or not, what stands in each and what became of it.

use std::collections::BTreeSet;

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use sqlx::{QueryBuilder, Row, SqliteConnection, sqlite::SqliteRow};

use super::{event_id, user_id};
use crate::{
    state::{JsonMap, Rule, StateTuple},
    store::{LevelsThen, Result, Store, StoreError},
};

/// A state event that somebody else sent.
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
    /// The power levels that stood when it was sent, as far as that is known.
    pub levels: Option<LevelsThen>,
    /// What became of it: `accepted`, `unreadable`, `superseded`, `redacted`, [`IN_PLAIN`], or the label of a refusal.
    pub verdict: String,
    /// Which rule it broke.
    pub breach: Option<Rule>,
    /// Whether it came as it was sent, and was not found in a fetched state.
    pub live: bool,
    /// Whether it is looked at again by itself: its key is awaited, or a signature, or an administrator's word.
    pub awaits: bool,
    /// The event as JSON, where it is encrypted and was not redacted.
    pub body: Option<String>,
    /// What stands in it, once it was read.
    pub content: Option<JsonMap>,
}

/// What became of state in plain that the keeper has nothing to do with: the homeserver has checked it.
pub const IN_PLAIN: &str = "in_plain";
/// How many events are looked at again at most, by one cause.
const MOST_AGAIN: i64 = 256;

impl StateEventRow {
    fn load(store: &Store, row: &SqliteRow) -> Result<Self> {
        let body: Option<Vec<u8>> = row.try_get("body")?;
        let content: Option<Vec<u8>> = row.try_get("content")?;
        let levels: Option<String> = row.try_get("levels")?;
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
            levels: levels.map(|levels| Some(levels).filter(|levels| !levels.is_empty())),
            verdict: row.try_get("verdict")?,
            breach: breach.as_deref().and_then(Rule::from_label),
            live: row.try_get("live")?,
            awaits: row.try_get("awaits")?,
            body: body.map(|body| store.unlock(&body)).transpose()?,
            content: content.map(|content| store.unlock(&content)).transpose()?,
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
    let content = event.content.as_ref().map(|content| store.lock(content)).transpose()?;
    let levels = event.levels.as_ref().map(|levels| levels.as_deref().unwrap_or_default());
    if let Some(levels) = levels {
        sqlx::query("INSERT OR IGNORE INTO levels_then (room_id, levels) VALUES (?, ?)")
            .bind(room.as_str())
            .bind(levels)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query(
        "INSERT OR REPLACE INTO state_events (event_id, room_id, event_type, state_key, sender, tick, \
         received_at, session_id, powerful, verdict, body, breach, live, awaits, content, levels_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, \
         (SELECT id FROM levels_then WHERE room_id = ?2 AND levels = ?16))",
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
    .bind(event.awaits)
    .bind(content)
    .bind(levels)
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
    let row = sqlx::query(
        "SELECT e.*, l.levels FROM state_events e LEFT JOIN levels_then l ON l.id = e.levels_id \
         WHERE e.event_id = ?",
    )
    .bind(event_id.as_str())
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(|row| StateEventRow::load(store, row)).transpose()
}

/// Whether something is kept of an event.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn is_kept(connection: &mut SqliteConnection, event_id: &EventId) -> Result<bool> {
    let (kept,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT 1 FROM state_events WHERE event_id = ?)")
            .bind(event_id.as_str())
            .fetch_one(connection)
            .await?;
    Ok(kept)
}

/// The state events of a room that are to be looked at again, oldest first; of one session where that is given. Where
/// there are too many, senders take turns, and of one's what no newer value stands against comes before all else.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn awaiting(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: Option<&str>,
) -> Result<Vec<StateEventRow>> {
    let rows = sqlx::query(
        "SELECT e.*, l.levels FROM state_events e LEFT JOIN levels_then l ON l.id = e.levels_id \
         LEFT JOIN tuples t ON t.room_id = e.room_id AND t.event_type = e.event_type \
         AND t.state_key = e.state_key \
         WHERE e.room_id = ?1 AND e.awaits = 1 AND (?2 IS NULL OR e.session_id = ?2) \
         ORDER BY ROW_NUMBER() OVER (PARTITION BY e.sender ORDER BY t.current_event_id = e.event_id DESC, \
             COALESCE(t.source_tick, 0) < e.tick DESC, e.tick DESC) LIMIT ?3",
    )
    .bind(room.as_str())
    .bind(session_id)
    .bind(MOST_AGAIN)
    .fetch_all(connection)
    .await?;
    let mut rows = load_all(store, &rows)?;
    rows.sort_by_key(|row| row.tick);
    Ok(rows)
}

/// The state events of a session that were never read and are not looked at again by themselves, and came after `tick`,
/// oldest first. No more than a few hundred: there may be others after them.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn never_read(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
    tick: i64,
) -> Result<Vec<StateEventRow>> {
    let rows = sqlx::query(
        "SELECT e.*, l.levels FROM state_events e LEFT JOIN levels_then l ON l.id = e.levels_id \
         WHERE e.room_id = ? AND e.session_id = ? AND e.tick > ? AND e.body IS NOT NULL \
         AND e.awaits = 0 AND e.content IS NULL ORDER BY e.tick LIMIT ?",
    )
    .bind(room.as_str())
    .bind(session_id)
    .bind(tick)
    .bind(MOST_AGAIN)
    .fetch_all(connection)
    .await?;
    load_all(store, &rows)
}

/// The state events of a room that stand in it and that the keeper left for what the rules said of their types.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn left_by_rule(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<Vec<StateEventRow>> {
    let rows = sqlx::query(
        "SELECT e.*, l.levels FROM tuples t JOIN state_events e ON e.event_id = t.current_event_id \
         LEFT JOIN levels_then l ON l.id = e.levels_id \
         WHERE t.room_id = ? AND t.redacted = 0 AND e.body IS NOT NULL AND e.verdict = 'exempt' ORDER BY e.tick",
    )
    .bind(room.as_str())
    .fetch_all(connection)
    .await?;
    load_all(store, &rows)
}

/// The events of a room's values that were found when the keeper came and judged by the levels of that day, at most
/// `limit`: those of their time were not shown.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn values_of_unknown_levels(
    connection: &mut SqliteConnection,
    room: &RoomId,
    limit: i64,
) -> Result<Vec<OwnedEventId>> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT e.event_id FROM tuples t JOIN state_events e ON e.event_id = t.source_event_id \
         WHERE t.room_id = ? AND t.redacted = 0 AND e.session_id IS NOT NULL AND e.live = 0 \
         AND e.levels_id IS NULL AND e.verdict = 'accepted' LIMIT ?",
    )
    .bind(room.as_str())
    .bind(limit)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("event id"))).collect()
}

/// The newest event of a tuple that was allowed and read, other than `but`: what its value is, where that one is not.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn newest_allowed(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    (tuple, but): (&StateTuple, &EventId),
) -> Result<Option<StateEventRow>> {
    // What was taken back ends it: nothing older comes in its place.
    let row = sqlx::query(
        "SELECT e.*, l.levels FROM state_events e LEFT JOIN levels_then l ON l.id = e.levels_id \
         WHERE e.room_id = ? AND e.event_type = ? AND e.state_key = ? AND e.event_id <> ? \
         AND e.verdict IN ('accepted', 'cleared', 'redacted') \
         AND (e.breach IS NULL OR e.breach IN ('timestamp', 'unsealed')) ORDER BY e.tick DESC LIMIT 1",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .bind(but.as_str())
    .fetch_optional(connection)
    .await?;
    let row = row.as_ref().map(|row| StateEventRow::load(store, row)).transpose()?;
    Ok(row.filter(|row| row.verdict != "redacted" && row.content.is_some()))
}

fn load_all(store: &Store, rows: &[SqliteRow]) -> Result<Vec<StateEventRow>> {
    rows.iter().map(|row| StateEventRow::load(store, row)).collect()
}

/// The rooms in which a state event is to be looked at again.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn rooms_awaiting(connection: &mut SqliteConnection) -> Result<Vec<OwnedRoomId>> {
    let rows: Vec<(String,)> =
        sqlx::query_as("SELECT DISTINCT room_id FROM state_events WHERE awaits = 1")
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
         AND (breach IS NULL OR breach IN ('timestamp', 'unsealed')))",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .bind(tick)
    .fetch_one(connection)
    .await?;
    Ok(newer)
}

/// The tick of the newest event of a tuple that was kept and is not in plain beside what is sealed; the keeper's own are
/// not kept.
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
        "SELECT MAX(tick) FROM state_events WHERE room_id = ? AND event_type = ? AND state_key = ? \
         AND (session_id IS NOT NULL OR verdict IN ('accepted', 'cleared', 'emptied', 'redacted'))",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .fetch_one(connection)
    .await?;
    Ok(tick)
}

/// How many events of a user broke one of `rules` in a room and came after `after` and not after `until`, in
/// milliseconds.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn breaches_since(
    connection: &mut SqliteConnection,
    room: &RoomId,
    sender: &UserId,
    (after, until): (i64, i64),
    rules: &[Rule],
) -> Result<u32> {
    let mut query =
        QueryBuilder::new("SELECT COUNT(*) FROM state_events WHERE live AND room_id = ");
    query.push_bind(room.as_str()).push(" AND sender = ").push_bind(sender.as_str());
    query
        .push(" AND received_at > ")
        .push_bind(after)
        .push(" AND received_at <= ")
        .push_bind(until);
    query.push(" AND breach IN (");
    let mut list = query.separated(", ");
    for rule in rules {
        list.push_bind(rule.as_label());
    }
    query.push(")");
    let (count,): (i64,) = query.build_query_as().fetch_one(connection).await?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
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
        "SELECT e.*, l.levels FROM state_events e LEFT JOIN levels_then l ON l.id = e.levels_id \
         WHERE e.room_id = ? AND e.breach IN ('plain', 'unsealed') AND e.event_type = ? \
         AND e.state_key = ? AND e.verdict NOT IN ('redacted', 'cleared', 'emptied') ORDER BY e.tick DESC LIMIT 1",
    )
    .bind(room.as_str())
    .bind(&tuple.event_type)
    .bind(&tuple.state_key)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(|row| StateEventRow::load(store, row)).transpose()
}
