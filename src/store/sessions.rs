//! The keeper's state sessions.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{Result, Store, ledger};
use crate::state::StateTuple;

/// Why a session encrypts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Retired {
    /// A member who holds it left, was kicked or was banned.
    MemberLeft,
    /// An invite whose user holds it was withdrawn or turned down.
    InviteWithdrawn,
    /// A device that holds it is gone.
    DeviceGone,
    /// A device that holds it lost its owner's signature.
    DeviceUnsigned,
    /// A user who holds it has another identity than the one that counts.
    IdentityChanged,
    /// Policy, or an administrator, gives a device that holds it nothing any more.
    NotEntitled,
    /// The room's history is to be read by fewer than before.
    HistoryVisibility,
    /// It is too old.
    Age,
    /// It has encrypted too much.
    Messages,
    /// An administrator said so.
    Admin,
    /// The keeper itself left, and cannot know who comes and goes.
    KeeperLeft,
    /// Policy seals no state in the room any more, and who comes and goes is not heard.
    NotSealed,
    /// The store that holds it was put back from an older copy.
    Restored,
    /// Somebody who held it without having joined may not join any more.
    PreviewEnded,
}

impl Retired {
    /// Every reason there is.
    pub const ALL: [Self; 14] = [
        Self::MemberLeft,
        Self::InviteWithdrawn,
        Self::DeviceGone,
        Self::DeviceUnsigned,
        Self::IdentityChanged,
        Self::NotEntitled,
        Self::HistoryVisibility,
        Self::Age,
        Self::Messages,
        Self::Admin,
        Self::KeeperLeft,
        Self::NotSealed,
        Self::Restored,
        Self::PreviewEnded,
    ];

    /// The label in the store and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemberLeft => "member_left",
            Self::InviteWithdrawn => "invite_withdrawn",
            Self::DeviceGone => "device_gone",
            Self::DeviceUnsigned => "device_unsigned",
            Self::IdentityChanged => "identity_changed",
            Self::NotEntitled => "not_entitled",
            Self::HistoryVisibility => "history_visibility",
            Self::Age => "age",
            Self::Messages => "messages",
            Self::Admin => "admin",
            Self::KeeperLeft => "keeper_left",
            Self::NotSealed => "not_sealed",
            Self::Restored => "restored",
            Self::PreviewEnded => "preview_ended",
        }
    }
}

/// That the session of a sealed value encrypts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// When it, or the last one of those that followed it, was retired, in milliseconds.
    pub at: i64,
    /// Whether nothing but use retired them: nobody had to go, and what is sealed anew uses the next one.
    pub by_use: bool,
}

/// A state session as it is kept.
#[derive(Clone)]
pub struct SessionRow {
    /// Its id.
    pub session_id: String,
    /// Its locked pickle.
    pub pickle: Vec<u8>,
    /// When it was made, in milliseconds.
    pub created_at: i64,
    /// How many events it encrypted.
    pub messages: i64,
}

/// The session that may encrypt the tuple's next value. `scope` is the tuple, or `None` for the room's.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be read.
pub async fn active(
    connection: &mut SqliteConnection,
    room: &RoomId,
    scope: Option<&StateTuple>,
) -> Result<Option<SessionRow>> {
    let (event_type, state_key) = columns(scope);
    let row: Option<(String, Vec<u8>, i64, i64)> = sqlx::query_as(
        "SELECT session_id, pickle, created_at, messages FROM sessions \
         WHERE room_id = ? AND event_type = ? AND state_key = ? AND retired IS NULL \
         ORDER BY created_at DESC LIMIT 1",
    )
    .bind(room.as_str())
    .bind(event_type)
    .bind(state_key)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(session_id, pickle, created_at, messages)| SessionRow {
        session_id,
        pickle,
        created_at,
        messages,
    }))
}

fn columns(scope: Option<&StateTuple>) -> (&str, &str) {
    scope.map_or(("", ""), |tuple| (tuple.event_type.as_str(), tuple.state_key.as_str()))
}

/// Writes a session as it stands after an encryption.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be written.
pub async fn put(
    connection: &mut SqliteConnection,
    room: &RoomId,
    scope: Option<&StateTuple>,
    session: &SessionRow,
) -> Result<()> {
    let (event_type, state_key) = columns(scope);
    sqlx::query(
        "INSERT INTO sessions (session_id, room_id, event_type, state_key, pickle, created_at, \
         messages) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (session_id) DO UPDATE SET \
         pickle = excluded.pickle, messages = excluded.messages",
    )
    .bind(&session.session_id)
    .bind(room.as_str())
    .bind(event_type)
    .bind(state_key)
    .bind(&session.pickle)
    .bind(session.created_at)
    .bind(session.messages)
    .execute(connection)
    .await?;
    Ok(())
}

/// Retires a session at `now` (milliseconds): it never encrypts again.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be written.
pub async fn retire(
    connection: &mut SqliteConnection,
    session_id: &str,
    why: Retired,
    now: i64,
) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE sessions SET retired = ?, retired_at = ? WHERE session_id = ? AND retired IS NULL",
    )
    .bind(why.as_str())
    .bind(now)
    .bind(session_id)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Retires every session of a room that `user` was granted, at `now` (milliseconds). Returns how many those are.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be written.
pub async fn retire_known_to(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    (why, now): (Retired, i64),
) -> Result<u64> {
    let room_number = ledger::room_number(store, connection, room).await?;
    let user = ledger::user_number(store, connection, user).await?;
    let Some((number, user)) = room_number.zip(user) else { return Ok(0) };
    let done = sqlx::query(
        "UPDATE sessions SET retired = ?, retired_at = ? WHERE retired IS NULL AND room_id = ? AND \
         session_id IN (SELECT session_id FROM grants WHERE room = ? AND user = ?)",
    )
    .bind(why.as_str())
    .bind(now)
    .bind(room.as_str())
    .bind(number)
    .bind(user)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Whether a device of `user` was granted a session.
///
/// # Errors
///
/// [`super::StoreError`] when the database cannot be read.
pub async fn is_known_to(
    store: &Store,
    connection: &mut SqliteConnection,
    session_id: &str,
    user: &UserId,
) -> Result<bool> {
    let Some(user) = ledger::user_number(store, connection, user).await? else { return Ok(false) };
    let (known,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT 1 FROM grants WHERE session_id = ? AND user = ?)")
            .bind(session_id)
            .bind(user)
            .fetch_one(connection)
            .await?;
    Ok(known)
}

/// Retires every session of a room that somebody was granted who had not joined, at `now` (milliseconds). Returns how
/// many those are.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be written.
pub async fn retire_previewed(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    now: i64,
) -> Result<u64> {
    let Some(number) = ledger::room_number(store, connection, room).await? else { return Ok(0) };
    let done = sqlx::query(
        "UPDATE sessions SET retired = ?, retired_at = ? WHERE retired IS NULL AND room_id = ? AND \
         session_id IN (SELECT session_id FROM grants WHERE room = ? AND preview = 1)",
    )
    .bind(Retired::PreviewEnded.as_str())
    .bind(now)
    .bind(room.as_str())
    .bind(number)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// The numbers of those who were granted a session of a room that may still encrypt, and had not joined.
///
/// # Errors
///
/// [`super::StoreError`] when the database cannot be read.
async fn previewers(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<BTreeSet<i64>> {
    let Some(number) = ledger::room_number(store, connection, room).await? else {
        return Ok(BTreeSet::new());
    };
    let rows: Vec<(i64,)> = sqlx::query_as(
        "SELECT DISTINCT g.user FROM grants g JOIN sessions s ON s.session_id = g.session_id \
         AND s.retired IS NULL WHERE g.room = ? AND g.preview = 1",
    )
    .bind(number)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(user,)| user).collect())
}

/// Retires every session of a room that any of `users` was granted before joining it, at `now` (milliseconds). Returns
/// how many those are.
///
/// # Errors
///
/// [`super::StoreError`] when the database cannot be read or written.
pub async fn retire_previewed_by(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    users: &[OwnedUserId],
    now: i64,
) -> Result<u64> {
    let mut holders = previewers(store, connection, room).await?;
    let mut retired = 0;
    for user in users {
        if holders.is_empty() {
            break;
        }
        let number = ledger::user_number(store, connection, user).await?;
        if !number.is_some_and(|number| holders.contains(&number)) {
            continue;
        }
        let why = (Retired::PreviewEnded, now);
        retired += retire_known_to(store, connection, room, user, why).await?;
        // Most hold the same sessions: soon there are none left.
        holders = previewers(store, connection, room).await?;
    }
    Ok(retired)
}

/// Retires every session of a room at `now` (milliseconds). Returns how many those are.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be written.
pub async fn retire_all(
    connection: &mut SqliteConnection,
    room: &RoomId,
    why: Retired,
    now: i64,
) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE sessions SET retired = ?, retired_at = ? WHERE retired IS NULL AND room_id = ?",
    )
    .bind(why.as_str())
    .bind(now)
    .bind(room.as_str())
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Retires every session of every room that was made before `made` (milliseconds), at `now` (milliseconds). Returns how
/// many those are.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be written.
pub async fn retire_before(
    connection: &mut SqliteConnection,
    made: i64,
    why: Retired,
    now: i64,
) -> Result<u64> {
    let done = sqlx::query(
        "UPDATE sessions SET retired = ?, retired_at = ? WHERE retired IS NULL AND created_at < ?",
    )
    .bind(why.as_str())
    .bind(now)
    .bind(made)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Whether a session of a room has encrypted something at an index.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be read.
pub async fn has_encrypted(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
    message_index: u32,
) -> Result<bool> {
    let (known,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM sessions WHERE session_id = ? AND room_id = ? AND messages > ?)",
    )
    .bind(session_id)
    .bind(room.as_str())
    .bind(i64::from(message_index))
    .fetch_one(connection)
    .await?;
    Ok(known)
}

/// Since when the session of a sealed value encrypts no more, where nothing of its scope follows it yet: those that
/// followed it and were retired in their turn count as well. `None` when it may go on.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be read.
pub async fn over(
    connection: &mut SqliteConnection,
    room: &RoomId,
    scope: Option<&StateTuple>,
    session_id: &str,
) -> Result<Option<Over>> {
    let (event_type, state_key) = columns(scope);
    let (at, others): (Option<i64>, Option<bool>) = sqlx::query_as(
        "SELECT MAX(retired_at), MAX(retired <> 'messages') FROM sessions WHERE room_id = ? AND \
         event_type = ? AND state_key = ? AND retired IS NOT NULL AND created_at >= \
         (SELECT created_at FROM sessions WHERE session_id = ? AND retired IS NOT NULL)",
    )
    .bind(room.as_str())
    .bind(event_type)
    .bind(state_key)
    .bind(session_id)
    .fetch_one(connection)
    .await?;
    Ok(at.map(|at| Over { at, by_use: others != Some(true) }))
}

/// Notes that a session was given to all who are to have it, at `now` (milliseconds). Returns when the one before it
/// was retired, the first time.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be written.
pub async fn shared(
    connection: &mut SqliteConnection,
    room: &RoomId,
    scope: Option<&StateTuple>,
    session_id: &str,
    now: i64,
) -> Result<Option<i64>> {
    let done =
        sqlx::query("UPDATE sessions SET shared_at = ? WHERE session_id = ? AND shared_at IS NULL")
            .bind(now)
            .bind(session_id)
            .execute(&mut *connection)
            .await?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    let (event_type, state_key) = columns(scope);
    let (before,): (Option<i64>,) = sqlx::query_as(
        "SELECT MAX(retired_at) FROM sessions WHERE room_id = ? AND event_type = ? AND \
         state_key = ? AND retired IS NOT NULL",
    )
    .bind(room.as_str())
    .bind(event_type)
    .bind(state_key)
    .fetch_one(connection)
    .await?;
    Ok(before)
}

/// How many sessions may encrypt, and how many were retired.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be read.
pub async fn count(connection: &mut SqliteConnection) -> Result<(i64, i64)> {
    Ok(sqlx::query_as(
        "SELECT (SELECT COUNT(*) FROM sessions WHERE retired IS NULL), \
         (SELECT COUNT(*) FROM sessions WHERE retired IS NOT NULL)",
    )
    .fetch_one(connection)
    .await?)
}

/// Whether there are retirements that no metric has counted yet.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be read.
pub async fn any_uncounted(connection: &mut SqliteConnection) -> Result<bool> {
    let (any,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM sessions WHERE retired IS NOT NULL AND counted = 0)",
    )
    .fetch_one(connection)
    .await?;
    Ok(any)
}

/// Retirements that no metric has counted yet, by reason; from now on they are counted. An administrator's come from
/// another process, which has no metrics.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be written.
pub async fn take_uncounted(connection: &mut SqliteConnection) -> Result<Vec<(String, i64)>> {
    let counts = sqlx::query_as(
        "SELECT retired, COUNT(*) FROM sessions WHERE retired IS NOT NULL AND counted = 0 \
         GROUP BY retired",
    )
    .fetch_all(&mut *connection)
    .await?;
    sqlx::query("UPDATE sessions SET counted = 1 WHERE retired IS NOT NULL AND counted = 0")
        .execute(connection)
        .await?;
    Ok(counts)
}

/// Whether a session may not encrypt any more; one that is not known counts as retired.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be read.
pub async fn is_retired(connection: &mut SqliteConnection, session_id: &str) -> Result<bool> {
    let row: Option<(Option<String>,)> =
        sqlx::query_as("SELECT retired FROM sessions WHERE session_id = ?")
            .bind(session_id)
            .fetch_optional(connection)
            .await?;
    Ok(!matches!(row, Some((None,))))
}
