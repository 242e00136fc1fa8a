//! Who may read a room's state before he joins it, and who of them has still to be provided for.

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{Result, StoreError, spaces};
use crate::policy::PreviewPolicy;

/// Somebody who may have to be provided for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub user_id: OwnedUserId,
    /// The tick of his coming: the newest comer first.
    pub tick: i64,
    /// How often he could not be reached.
    pub attempts: i64,
}

/// A room whose round is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Comers from this tick on are done; `None` before it has begun.
    pub below: Option<i64>,
}

/// How much is left to be done for those who may join the rooms of a space. Somebody counts once for each room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The followed space.
    pub root_id: OwnedRoomId,
    /// How many people have still to be looked at.
    pub left_over: i64,
    /// How many were, in the rounds that are under way.
    pub looked_at: i64,
    /// In how many rooms a round has not begun.
    pub rounds_waiting: i64,
    /// In how many of them it may begin now: nothing puts it off.
    pub rounds_due: i64,
}

/// What somebody may read of a room before he joins it, because of where he is joined: nothing for somebody who is
/// banned from it. Whether he is a member is not asked.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn of_user(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<PreviewPolicy> {
    let row: Option<(String,)> = sqlx::query_as(
        "SELECT p.preview FROM previewed p JOIN members m ON m.room_id = p.allowed_id \
         AND m.user_id = ?2 AND m.membership = 'join' WHERE p.room_id = ?1 AND p.loaded AND NOT EXISTS \
         (SELECT 1 FROM members b WHERE b.room_id = ?1 AND b.user_id = ?2 AND b.membership = 'ban') \
         LIMIT 1",
    )
    .bind(room.as_str())
    .bind(user.as_str())
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(preview,)| PreviewPolicy::from_name(&preview)).unwrap_or_default())
}

/// Whether anybody may read a room before he joins it.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn is_previewed(connection: &mut SqliteConnection, room: &RoomId) -> Result<bool> {
    let (is,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT 1 FROM previewed WHERE room_id = ?)")
            .bind(room.as_str())
            .fetch_one(connection)
            .await?;
    Ok(is)
}

/// What tells whether it is known for certain who may read a room before they join it: `None` while the state of a room
/// is being fetched whose members may, and else a number that is another one after each time that it was.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn surety(connection: &mut SqliteConnection, room: &RoomId) -> Result<Option<i64>> {
    let (is_sure, fetches): (bool, i64) = sqlx::query_as(
        "SELECT COALESCE(MIN(a.loaded), 1), COALESCE(SUM(a.fetches), 0) FROM let_in l \
         JOIN rooms a ON a.room_id = l.allowed_id AND a.membership = 'join' WHERE l.room_id = ?",
    )
    .bind(room.as_str())
    .fetch_one(connection)
    .await?;
    Ok(is_sure.then_some(fetches))
}

/// People of a room were gone through who were not known for certain since `surety`, if they were not: everybody is gone
/// through again, as soon as they are.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn once_more_unless_sure(
    connection: &mut SqliteConnection,
    room: &RoomId,
    surety: Option<i64>,
    now: i64,
) -> Result<()> {
    match self::surety(connection, room).await? {
        None => {
            sqlx::query("INSERT OR IGNORE INTO awaited (room_id) VALUES (?)")
                .bind(room.as_str())
                .execute(connection)
                .await?;
            Ok(())
        }
        sure if sure == surety => Ok(()),
        _ => ask_round(connection, room, now).await,
    }
}

/// A room's state is there, or is waited for no longer: rooms that let its members in and waited for that are gone
/// through. Whether there are any.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn end_waiting(
    connection: &mut SqliteConnection,
    allowed: &RoomId,
    now: i64,
) -> Result<bool> {
    let mut any = false;
    for room in spaces::letting_in(connection, allowed).await? {
        if surety(connection, &room).await?.is_none() {
            continue;
        }
        let waited = sqlx::query("DELETE FROM awaited WHERE room_id = ?")
            .bind(room.as_str())
            .execute(&mut *connection)
            .await?;
        if waited.rows_affected() > 0 {
            ask_round(connection, &room, now).await?;
            any = true;
        }
    }
    Ok(any)
}

/// Promises to provide for a user in a room.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn mark(
    connection: &mut SqliteConnection,
    room: &RoomId,
    (user, attempts): (&UserId, i64),
    tick: i64,
    due_at: i64,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO preview_marks (room_id, user_id, tick, due_at, attempts) \
         VALUES (?, ?, ?, ?, ?) ON CONFLICT (room_id, user_id) DO UPDATE SET \
         tick = excluded.tick, due_at = excluded.due_at, attempts = excluded.attempts",
    )
    .bind(room.as_str())
    .bind(user.as_str())
    .bind(tick)
    .bind(due_at)
    .bind(attempts)
    .execute(connection)
    .await?;
    Ok(())
}

/// Promises to provide for a user in every room that he may read before he joins it. Returns how many those are.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn mark_everywhere(
    connection: &mut SqliteConnection,
    user: &UserId,
    tick: i64,
    now: i64,
) -> Result<u64> {
    let done = sqlx::query(
        "INSERT INTO preview_marks (room_id, user_id, tick, due_at) \
         SELECT DISTINCT p.room_id, ?1, ?2, ?3 FROM members m \
         JOIN previewed p ON p.allowed_id = m.room_id \
         WHERE m.user_id = ?1 AND m.membership = 'join' AND NOT EXISTS (SELECT 1 FROM members r \
         WHERE r.room_id = p.room_id AND r.user_id = ?1 \
         AND r.membership IN ('join', 'invite', 'ban')) \
         ON CONFLICT (room_id, user_id) DO UPDATE SET tick = excluded.tick, \
         due_at = excluded.due_at, attempts = 0",
    )
    .bind(user.as_str())
    .bind(tick)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// The rooms into which a room's members are let, which `user` is not joined to and may not read otherwise: where he
/// may read nothing any more, once he is out of this one.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn ended(
    connection: &mut SqliteConnection,
    left: &RoomId,
    user: &UserId,
) -> Result<Vec<OwnedRoomId>> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT l.room_id FROM let_in l WHERE l.allowed_id = ?1 AND NOT EXISTS \
         (SELECT 1 FROM members r WHERE r.room_id = l.room_id AND r.user_id = ?2 \
         AND r.membership IN ('join', 'invite')) AND NOT EXISTS \
         (SELECT 1 FROM previewed p JOIN members m ON m.room_id = p.allowed_id \
         AND m.user_id = ?2 AND m.membership = 'join' WHERE p.room_id = l.room_id AND p.loaded)",
    )
    .bind(left.as_str())
    .bind(user.as_str())
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|(id,)| room_id(id)).collect()
}

/// The members of `allowed`, into whose room `room` they are let no more, who may not read that otherwise: those who
/// are members of it, or invited, are not among them.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn shut_out(
    connection: &mut SqliteConnection,
    room: &RoomId,
    allowed: &RoomId,
) -> Result<Vec<OwnedUserId>> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT m.user_id FROM members m WHERE m.room_id = ?2 AND m.membership = 'join' \
         AND NOT EXISTS (SELECT 1 FROM members r WHERE r.room_id = ?1 \
         AND r.user_id = m.user_id AND r.membership IN ('join', 'invite')) AND NOT EXISTS \
         (SELECT 1 FROM previewed p JOIN members o ON o.room_id = p.allowed_id \
         AND o.user_id = m.user_id AND o.membership = 'join' \
         WHERE p.room_id = ?1 AND p.allowed_id <> ?2 AND p.loaded)",
    )
    .bind(room.as_str())
    .bind(allowed.as_str())
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("user id"))).collect()
}

/// Of one space's rooms, the one in which the newest comer has to be provided for at `now`, and the newest comers
/// there, at most `most`.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn newest(
    connection: &mut SqliteConnection,
    root: &RoomId,
    now: i64,
    most: i64,
) -> Result<Option<(OwnedRoomId, Vec<Candidate>)>> {
    let row: Option<(String,)> = sqlx::query_as(
        "SELECT m.room_id FROM preview_marks m CROSS JOIN space_rooms s ON s.room_id = m.room_id \
         WHERE s.root_id = ? AND m.due_at <= ? ORDER BY m.tick DESC LIMIT 1",
    )
    .bind(root.as_str())
    .bind(now)
    .fetch_optional(&mut *connection)
    .await?;
    let Some((room,)) = row else { return Ok(None) };
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT user_id, tick, attempts FROM preview_marks WHERE room_id = ? AND due_at <= ? \
         ORDER BY tick DESC LIMIT ?",
    )
    .bind(&room)
    .bind(now)
    .bind(most)
    .fetch_all(connection)
    .await?;
    let candidates = rows.into_iter().map(candidate).collect::<Result<_>>()?;
    Ok(Some((room_id(room)?, candidates)))
}

/// Settles the promise for a user, unless it was made anew.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn settle(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    tick: i64,
) -> Result<()> {
    sqlx::query("DELETE FROM preview_marks WHERE room_id = ? AND user_id = ? AND tick = ?")
        .bind(room.as_str())
        .bind(user.as_str())
        .bind(tick)
        .execute(connection)
        .await?;
    Ok(())
}

/// Promises a round of everybody who may read a room before he joins it, at `due_at` (milliseconds) or earlier. One
/// that is under way is followed by another.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn ask_round(
    connection: &mut SqliteConnection,
    room: &RoomId,
    due_at: i64,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO preview_rounds (room_id, due_at) VALUES (?1, ?2) \
         ON CONFLICT (room_id) DO UPDATE SET \
         again_at = CASE WHEN below IS NULL THEN NULL ELSE MIN(COALESCE(again_at, ?2), ?2) END, \
         due_at = CASE WHEN below IS NULL THEN MIN(COALESCE(due_at, ?2), ?2) ELSE due_at END",
    )
    .bind(room.as_str())
    .bind(due_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Of one space's rooms, the one whose round has been due the longest at `now`.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn due_round(
    connection: &mut SqliteConnection,
    root: &RoomId,
    now: i64,
) -> Result<Option<Round>> {
    let row: Option<(String, Option<i64>)> = sqlx::query_as(
        "SELECT r.room_id, r.below FROM preview_rounds r \
         JOIN space_rooms s ON s.room_id = r.room_id \
         WHERE s.root_id = ? AND r.due_at <= ? ORDER BY r.due_at LIMIT 1",
    )
    .bind(root.as_str())
    .bind(now)
    .fetch_optional(connection)
    .await?;
    row.map(|(id, below)| Ok(Round { room_id: room_id(id)?, below })).transpose()
}

/// Who may read a room before he joins it and came before the tick `below`: the newest, at most `most`.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn candidates(
    connection: &mut SqliteConnection,
    room: &RoomId,
    below: i64,
    most: i64,
) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    for allowed in allowed(connection, room).await? {
        let rows: Vec<(String, i64, i64)> = sqlx::query_as(
            "SELECT user_id, tick, 0 FROM members m WHERE m.room_id = ?1 AND m.tick < ?2 \
             AND m.membership = 'join' AND NOT EXISTS (SELECT 1 FROM members r \
             WHERE r.room_id = ?3 AND r.user_id = m.user_id \
             AND r.membership IN ('join', 'invite', 'ban')) ORDER BY m.tick DESC LIMIT ?4",
        )
        .bind(allowed)
        .bind(below)
        .bind(room.as_str())
        .bind(most)
        .fetch_all(&mut *connection)
        .await?;
        for row in rows {
            found.push(candidate(row)?);
        }
    }
    found.sort_by_key(|candidate| std::cmp::Reverse(candidate.tick));
    found.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    Ok(found)
}

/// About how many people may read a room before they join it.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn count_candidates(connection: &mut SqliteConnection, room: &RoomId) -> Result<i64> {
    let mut count = 0_i64;
    for allowed in allowed(connection, room).await? {
        let (members,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM members m WHERE m.room_id = ?1 AND m.membership = 'join' \
             AND NOT EXISTS (SELECT 1 FROM members r WHERE r.room_id = ?2 \
             AND r.user_id = m.user_id AND r.membership IN ('join', 'invite', 'ban'))",
        )
        .bind(allowed)
        .bind(room.as_str())
        .fetch_one(&mut *connection)
        .await?;
        count = count.saturating_add(members);
    }
    Ok(count)
}

async fn allowed(connection: &mut SqliteConnection, room: &RoomId) -> Result<Vec<String>> {
    let rows: Vec<(String,)> =
        sqlx::query_as("SELECT allowed_id FROM previewed WHERE room_id = ? AND loaded")
            .bind(room.as_str())
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// A round begins, with so many to look at. Another one is due at `again_at` (milliseconds), if at all.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn begin_round(
    connection: &mut SqliteConnection,
    room: &RoomId,
    count: i64,
    again_at: Option<i64>,
) -> Result<()> {
    sqlx::query(
        "UPDATE preview_rounds SET left_over = ?1, begun_with = ?1, below = ?2, again_at = ?3 \
         WHERE room_id = ?4",
    )
    .bind(count)
    // A round that is asked for from here on is another one.
    .bind(i64::MAX)
    .bind(again_at)
    .bind(room.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// A round has come down to the tick `below`, with `done` more people looked at. It takes its next turn after the
/// rooms that have waited for longer.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn advance_round(
    connection: &mut SqliteConnection,
    room: &RoomId,
    (below, done): (i64, i64),
    now: i64,
) -> Result<()> {
    sqlx::query(
        "UPDATE preview_rounds SET below = ?, left_over = MAX(0, left_over - ?), due_at = ? \
         WHERE room_id = ?",
    )
    .bind(below)
    .bind(done)
    .bind(now)
    .bind(room.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// A round takes its next turn at `due_at` (milliseconds).
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put_round_off(
    connection: &mut SqliteConnection,
    room: &RoomId,
    due_at: i64,
) -> Result<()> {
    sqlx::query("UPDATE preview_rounds SET due_at = ? WHERE room_id = ?")
        .bind(due_at)
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// A round is over. What has changed since it began is seen to in another one.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn end_round(connection: &mut SqliteConnection, room: &RoomId) -> Result<()> {
    sqlx::query(
        "UPDATE preview_rounds SET below = NULL, left_over = 0, due_at = again_at, \
         again_at = NULL WHERE room_id = ?",
    )
    .bind(room.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// Nobody reads a room before he joins it any more: nobody has to be provided for.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn forget(connection: &mut SqliteConnection, room: &RoomId) -> Result<()> {
    for sql in [
        "DELETE FROM preview_marks WHERE room_id = ?",
        "DELETE FROM preview_rounds WHERE room_id = ?",
        "DELETE FROM previewed_tuples WHERE room_id = ?",
        "DELETE FROM awaited WHERE room_id = ?",
    ] {
        sqlx::query(sql).bind(room.as_str()).execute(&mut *connection).await?;
    }
    Ok(())
}

/// How many people have still to be looked at, by followed space.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn backlog(connection: &mut SqliteConnection, now: i64) -> Result<Vec<Backlog>> {
    let rows: Vec<(String, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT s.root_id, \
         SUM((SELECT COUNT(*) FROM preview_marks m WHERE m.room_id = s.room_id) \
         + COALESCE(r.left_over, 0)), \
         SUM(CASE WHEN r.below IS NULL THEN 0 ELSE r.begun_with - r.left_over END), \
         SUM((r.below IS NULL AND r.due_at IS NOT NULL) OR r.again_at IS NOT NULL), \
         SUM(COALESCE(r.below IS NULL AND r.due_at <= ?, 0)) \
         FROM space_rooms s LEFT JOIN preview_rounds r ON r.room_id = s.room_id GROUP BY s.root_id",
    )
    .bind(now)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(id, left_over, looked_at, rounds_waiting, rounds_due)| {
            let root_id = room_id(id)?;
            Ok(Backlog { root_id, left_over, looked_at, rounds_waiting, rounds_due })
        })
        .collect()
}

/// When the next promise of any kind falls due after `now`, in milliseconds.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn next_due(connection: &mut SqliteConnection, now: i64) -> Result<Option<i64>> {
    let (marks, rounds): (Option<i64>, Option<i64>) = sqlx::query_as(
        "SELECT (SELECT MIN(due_at) FROM preview_marks WHERE due_at > ?1), \
         (SELECT MIN(due_at) FROM preview_rounds WHERE due_at > ?1)",
    )
    .bind(now)
    .fetch_one(connection)
    .await?;
    Ok(marks.into_iter().chain(rounds).min())
}

fn candidate((user, tick, attempts): (String, i64, i64)) -> Result<Candidate> {
    let user_id = user.try_into().map_err(StoreError::corrupt("user id"))?;
    Ok(Candidate { user_id, tick, attempts })
}

fn room_id(id: String) -> Result<OwnedRoomId> {
    id.try_into().map_err(StoreError::corrupt("room id"))
}
