//! Whom the keeper invites, and who has answered.

use ruma::{OwnedUserId, RoomId, UserId};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{Result, StoreError};
use ruma::OwnedRoomId;

/// How many values one statement takes.
const CHUNK: usize = 500;

/// Somebody who is to be invited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitee {
    /// Who.
    pub user_id: OwnedUserId,
    /// Whether the invite may have been sent already.
    pub sending: bool,
    /// Whether he asked to be let in himself.
    pub knocked: bool,
    /// The tick of his coming: the newest comer first.
    pub tick: i64,
    /// How often he was put off because he could not be reached.
    pub attempts: i64,
}

/// Promises to invite a user into every room that invites him, unless that was done before or the room's state says
/// anything of him. Who waits for his devices waits no longer. Whether anything is to be done now.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn promise(
    connection: &mut SqliteConnection,
    user: &UserId,
    tick: i64,
    now: i64,
) -> Result<bool> {
    let new = sqlx::query(
        "INSERT OR IGNORE INTO invites (room_id, user_id, status, tick, due_at) \
         SELECT i.room_id, ?1, 'due', ?2, ?3 FROM members m \
         JOIN inviting i ON i.allowed_id = m.room_id \
         WHERE m.user_id = ?1 AND m.membership = 'join' AND NOT EXISTS \
         (SELECT 1 FROM members r WHERE r.room_id = i.room_id AND r.user_id = ?1)",
    )
    .bind(user.as_str())
    .bind(tick)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    let waiting = sqlx::query(
        "UPDATE invites SET due_at = ?2 WHERE user_id = ?1 AND status IN ('due', 'sending') \
         AND due_at > ?2 AND attempts > 0",
    )
    .bind(user.as_str())
    .bind(now)
    .execute(connection)
    .await?;
    Ok(new.rows_affected() + waiting.rows_affected() > 0)
}

/// Promises to invite everybody into a room whom it invites, as [`promise`] does for one.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn promise_all(connection: &mut SqliteConnection, room: &RoomId, now: i64) -> Result<()> {
    sqlx::query(
        "INSERT OR IGNORE INTO invites (room_id, user_id, status, tick, due_at) \
         SELECT i.room_id, m.user_id, 'due', m.tick, ?2 FROM inviting i \
         JOIN members m ON m.room_id = i.allowed_id AND m.membership = 'join' \
         WHERE i.room_id = ?1 AND NOT EXISTS \
         (SELECT 1 FROM members r WHERE r.room_id = i.room_id AND r.user_id = m.user_id)",
    )
    .bind(room.as_str())
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Promises to let somebody in who knocks, whatever he said to an invite before; not whom somebody else put out.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn knock(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    tick: i64,
    now: i64,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO invites (room_id, user_id, status, knocked, tick, due_at) \
         VALUES (?1, ?2, 'due', 1, ?3, ?4) ON CONFLICT (room_id, user_id) DO UPDATE SET \
         status = 'due', knocked = 1, tick = ?3, due_at = ?4, attempts = 0, bundle_id = NULL \
         WHERE put_out = 0",
    )
    .bind(room.as_str())
    .bind(user.as_str())
    .bind(tick)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Somebody is in a room, or invited, whoever did it: there is nothing to do.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn made(connection: &mut SqliteConnection, room: &RoomId, user: &UserId) -> Result<()> {
    sqlx::query(
        "UPDATE invites SET status = 'made' WHERE room_id = ? AND user_id = ? \
         AND status IN ('due', 'sending')",
    )
    .bind(room.as_str())
    .bind(user.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// Somebody is out of a room, by his own will or, with `put_out`, by somebody else's: he is not invited again.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn over(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    put_out: bool,
    tick: i64,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO invites (room_id, user_id, status, put_out, tick, due_at) \
         VALUES (?, ?, 'over', ?, ?, 0) ON CONFLICT (room_id, user_id) DO UPDATE SET \
         status = 'over', put_out = MAX(put_out, excluded.put_out)",
    )
    .bind(room.as_str())
    .bind(user.as_str())
    .bind(put_out)
    .bind(tick)
    .execute(connection)
    .await?;
    Ok(())
}

/// Nobody is to be invited into a room any more. What was answered is remembered.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn drop_room(connection: &mut SqliteConnection, room: &RoomId) -> Result<()> {
    sqlx::query("DELETE FROM invites WHERE room_id = ? AND status = 'due'")
        .bind(room.as_str())
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE invites SET status = 'made' WHERE room_id = ? AND status = 'sending'")
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Of the rooms beneath a followed space, or with `None` beneath none, the one into which the newest comer is to be
/// invited at `now`, and the newest comers there, at most `most`.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn newest(
    connection: &mut SqliteConnection,
    root: Option<&RoomId>,
    now: i64,
    most: i64,
) -> Result<Option<(OwnedRoomId, Vec<Invitee>)>> {
    let row: Option<(String,)> = sqlx::query_as(
        "SELECT i.room_id FROM invites i LEFT JOIN space_rooms s ON s.room_id = i.room_id \
         WHERE i.status IN ('due', 'sending') AND i.due_at <= ?2 AND s.root_id IS ?1 \
         ORDER BY i.tick DESC LIMIT 1",
    )
    .bind(root.map(RoomId::as_str))
    .bind(now)
    .fetch_optional(&mut *connection)
    .await?;
    let Some((room,)) = row else { return Ok(None) };
    let rows: Vec<(String, String, bool, i64, i64)> = sqlx::query_as(
        "SELECT user_id, status, knocked, tick, attempts FROM invites WHERE room_id = ? \
         AND status IN ('due', 'sending') AND due_at <= ? ORDER BY tick DESC LIMIT ?",
    )
    .bind(&room)
    .bind(now)
    .bind(most)
    .fetch_all(connection)
    .await?;
    let invitees = rows
        .into_iter()
        .map(|(user, status, knocked, tick, attempts)| {
            let user_id = user.try_into().map_err(StoreError::corrupt("user id"))?;
            Ok(Invitee { user_id, sending: status == "sending", knocked, tick, attempts })
        })
        .collect::<Result<_>>()?;
    Ok(Some((room.try_into().map_err(StoreError::corrupt("room id"))?, invitees)))
}

/// When the next invite falls due after `now`, in milliseconds.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn next_due(connection: &mut SqliteConnection, now: i64) -> Result<Option<i64>> {
    let (due, ending): (Option<i64>, Option<i64>) = sqlx::query_as(
        "SELECT (SELECT MIN(due_at) FROM invites WHERE status IN ('due', 'sending') AND due_at > ?1), \
         (SELECT MIN(due_at) FROM invites WHERE status = 'ending' AND due_at > ?1)",
    )
    .bind(now)
    .fetch_one(connection)
    .await?;
    Ok(due.into_iter().chain(ending).min())
}

/// Puts invites of a room off to `due_at` (milliseconds). With `failed` it counts as an attempt.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put_off(
    connection: &mut SqliteConnection,
    room: &RoomId,
    users: &[&UserId],
    due_at: i64,
    failed: bool,
) -> Result<()> {
    for user in users {
        sqlx::query(
            "UPDATE invites SET due_at = ?, attempts = attempts + ? \
             WHERE room_id = ? AND user_id = ? AND status IN ('due', 'sending')",
        )
        .bind(due_at)
        .bind(failed)
        .bind(room.as_str())
        .bind(user.as_str())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Puts every invite of a room off to `due_at` (milliseconds).
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put_room_off(
    connection: &mut SqliteConnection,
    room: &RoomId,
    due_at: i64,
) -> Result<()> {
    sqlx::query(
        "UPDATE invites SET due_at = MAX(due_at, ?) WHERE room_id = ? \
         AND status IN ('due', 'sending')",
    )
    .bind(due_at)
    .bind(room.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes promises back where no invite was sent: whoever comes again is promised for again.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn take_back(
    connection: &mut SqliteConnection,
    room: &RoomId,
    users: &[&UserId],
) -> Result<()> {
    for user in users {
        sqlx::query(
            "DELETE FROM invites WHERE room_id = ? AND user_id = ? AND status IN ('due', 'sending')",
        )
        .bind(room.as_str())
        .bind(user.as_str())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Notes that invites may be sent from now on, and which bundle their users were sent before.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn sending(
    connection: &mut SqliteConnection,
    room: &RoomId,
    users: &[&UserId],
    bundle_id: Option<i64>,
) -> Result<()> {
    for chunk in users.chunks(CHUNK) {
        let mut query: QueryBuilder<Sqlite> =
            QueryBuilder::new("UPDATE invites SET status = 'sending', bundle_id = ");
        query.push_bind(bundle_id).push(" WHERE room_id = ").push_bind(room.as_str());
        query.push(" AND status = 'due' AND user_id IN (");
        let mut list = query.separated(", ");
        for user in chunk {
            list.push_bind(user.as_str());
        }
        query.push(")");
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}

/// Whether a user may join a room because of where else he is, so that he may be invited into it; `None` where that is
/// not known for certain, because that room's state is being fetched.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn is_let_in(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<Option<bool>> {
    let (loaded,): (Option<bool>,) = sqlx::query_as(
        "SELECT MAX(a.loaded) FROM inviting i JOIN members m ON m.room_id = i.allowed_id \
         AND m.user_id = ?2 AND m.membership = 'join' JOIN rooms a ON a.room_id = i.allowed_id \
         WHERE i.room_id = ?1",
    )
    .bind(room.as_str())
    .bind(user.as_str())
    .fetch_one(connection)
    .await?;
    Ok(match loaded {
        None => Some(false),
        Some(true) => Some(true),
        Some(false) => None,
    })
}

/// An invite of the keeper's that is to be withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Into which room.
    pub room_id: OwnedRoomId,
    /// Who is invited.
    pub user_id: OwnedUserId,
    /// How often that failed.
    pub attempts: i64,
}

/// Promises to withdraw the keeper's invites into these rooms, those of `user` or of everybody, but for such as were
/// knocked for. Whoever is let in keeps his. Whether there are any to withdraw.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn end(
    connection: &mut SqliteConnection,
    keeper: &UserId,
    rooms: &[OwnedRoomId],
    user: Option<&UserId>,
    now: i64,
) -> Result<bool> {
    let mut any = false;
    for room in rooms {
        let ended = sqlx::query(
            "UPDATE invites SET status = 'ending', due_at = ?1, attempts = 0 WHERE room_id = ?2 \
             AND (?3 IS NULL OR user_id = ?3) AND status = 'made' AND knocked = 0 \
             AND EXISTS (SELECT 1 FROM members r WHERE r.room_id = invites.room_id \
             AND r.user_id = invites.user_id AND r.membership = 'invite' AND r.inviter = ?4) \
             AND NOT EXISTS (SELECT 1 FROM inviting i JOIN members m ON m.room_id = i.allowed_id \
             AND m.user_id = invites.user_id AND m.membership = 'join' \
             WHERE i.room_id = invites.room_id)",
        )
        .bind(now)
        .bind(room.as_str())
        .bind(user.map(UserId::as_str))
        .bind(keeper.as_str())
        .execute(&mut *connection)
        .await?;
        any |= ended.rows_affected() > 0;
    }
    Ok(any)
}

/// Invites that are to be withdrawn at `now`, at most `most`.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn ending(connection: &mut SqliteConnection, now: i64, most: i64) -> Result<Vec<Ending>> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT room_id, user_id, attempts FROM invites WHERE status = 'ending' AND due_at <= ? \
         ORDER BY due_at LIMIT ?",
    )
    .bind(now)
    .bind(most)
    .fetch_all(connection)
    .await?;
    let ending = |(room, user, attempts): (String, String, i64)| {
        let room_id = room.try_into().map_err(StoreError::corrupt("room id"))?;
        let user_id = user.try_into().map_err(StoreError::corrupt("user id"))?;
        Ok(Ending { room_id, user_id, attempts })
    };
    rows.into_iter().map(ending).collect()
}

/// What came of withdrawing an invite: it is over with, or, with a time (in milliseconds), tried again then.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn ended(
    connection: &mut SqliteConnection,
    one: &Ending,
    again_at: Option<i64>,
) -> Result<()> {
    sqlx::query(
        "UPDATE invites SET status = CASE WHEN ?1 IS NULL THEN 'made' ELSE 'ending' END, \
         due_at = COALESCE(?1, due_at), attempts = attempts + 1 \
         WHERE room_id = ?2 AND user_id = ?3 AND status = 'ending'",
    )
    .bind(again_at)
    .bind(one.room_id.as_str())
    .bind(one.user_id.as_str())
    .execute(connection)
    .await?;
    Ok(())
}
