//! What was seen of users, and what administrators said of them.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{DeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{Result, StoreError, overview::limit};
use crate::policy::{HoldReason, Word};

/// A user's cross-signing identity as the keeper saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The public master key that counts, base64: the first one seen, or the one confirmed last.
    pub master_key: String,
    /// Another one that was seen since and that nobody has confirmed.
    pub changed_to: Option<String>,
}

/// A member about whom an administrator has to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRow {
    /// Where.
    pub room_id: OwnedRoomId,
    /// Who.
    pub user_id: OwnedUserId,
    /// Since when, in milliseconds.
    pub since: i64,
    /// Why, as [`HoldReason::as_str`] has it.
    pub reason: String,
}

/// What administrators said that concerns a room's members, gathered for one decision.
#[derive(Clone, Debug, Default)]
pub struct People {
    blocks: BTreeMap<OwnedUserId, BTreeSet<String>>,
    words: BTreeMap<OwnedUserId, Word>,
}

impl People {
    /// Gathers what was said about `users`, or about everybody in the room where that is `None`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database cannot be read.
    pub async fn of_room(
        connection: &mut SqliteConnection,
        room: &RoomId,
        users: Option<&BTreeSet<OwnedUserId>>,
    ) -> Result<Self> {
        let mut people = Self { blocks: blocks(connection).await?, words: BTreeMap::new() };
        match users {
            None => people.words = words(connection, room).await?,
            Some(users) => {
                for user in users {
                    let word = word(connection, room, user).await?;
                    people.words.extend(word.map(|word| (user.clone(), word)));
                }
            }
        }
        Ok(people)
    }

    /// Whether every device of a user is blocked.
    pub fn is_blocked(&self, user: &UserId) -> bool {
        self.blocks.get(user).is_some_and(|devices| devices.contains(""))
    }

    /// Whether this one device is blocked.
    pub fn is_device_blocked(&self, user: &UserId, device: &DeviceId) -> bool {
        self.blocks.get(user).is_some_and(|devices| devices.contains(device.as_str()))
    }

    /// What was said of a user in the room.
    pub fn word(&self, user: &UserId) -> Option<Word> {
        self.words.get(user).copied()
    }
}

/// Who is blocked: users with their devices, `""` for all of them. They are few.
async fn blocks(
    connection: &mut SqliteConnection,
) -> Result<BTreeMap<OwnedUserId, BTreeSet<String>>> {
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT user_id, device_id FROM blocks").fetch_all(connection).await?;
    let mut blocks = BTreeMap::<OwnedUserId, BTreeSet<String>>::new();
    for (user, device) in rows {
        let user = user.try_into().map_err(StoreError::corrupt("user id"))?;
        blocks.entry(user).or_default().insert(device);
    }
    Ok(blocks)
}

fn to_word(approved: bool) -> Word {
    if approved { Word::Approved } else { Word::Denied }
}

async fn words(
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<BTreeMap<OwnedUserId, Word>> {
    let rows: Vec<(String, bool)> =
        sqlx::query_as("SELECT user_id, approved FROM words WHERE room_id = ?")
            .bind(room.as_str())
            .fetch_all(connection)
            .await?;
    rows.into_iter()
        .map(|(user, approved)| {
            Ok((user.try_into().map_err(StoreError::corrupt("user id"))?, to_word(approved)))
        })
        .collect()
}

async fn word(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<Option<Word>> {
    let row: Option<(bool,)> =
        sqlx::query_as("SELECT approved FROM words WHERE room_id = ? AND user_id = ?")
            .bind(room.as_str())
            .bind(user.as_str())
            .fetch_optional(connection)
            .await?;
    Ok(row.map(|(approved,)| to_word(approved)))
}

/// Writes what an administrator says of a user in a room, over what was said before.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn say(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    word: Word,
    now: i64,
) -> Result<()> {
    sqlx::query(
        "INSERT OR REPLACE INTO words (room_id, user_id, approved, said_at) VALUES (?, ?, ?, ?)",
    )
    .bind(room.as_str())
    .bind(user.as_str())
    .bind(word == Word::Approved)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Blocks a user in every room, or one device of theirs. Returns whether they were not blocked before.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn block(
    connection: &mut SqliteConnection,
    user: &UserId,
    device: Option<&DeviceId>,
    now: i64,
) -> Result<bool> {
    let done = sqlx::query(
        "INSERT OR IGNORE INTO blocks (user_id, device_id, blocked_at) VALUES (?, ?, ?)",
    )
    .bind(user.as_str())
    .bind(device.map_or("", DeviceId::as_str))
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Takes a block back. Returns whether there was one.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn unblock(
    connection: &mut SqliteConnection,
    user: &UserId,
    device: Option<&DeviceId>,
) -> Result<bool> {
    let done = sqlx::query("DELETE FROM blocks WHERE user_id = ? AND device_id = ?")
        .bind(user.as_str())
        .bind(device.map_or("", DeviceId::as_str))
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// The identities of `users`, or of everybody who is joined to or invited into the room, as far as any
/// was seen.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn identities(
    connection: &mut SqliteConnection,
    room: &RoomId,
    users: Option<&BTreeSet<OwnedUserId>>,
) -> Result<BTreeMap<OwnedUserId, Identity>> {
    let Some(users) = users else {
        let rows: Vec<(String, String, Option<String>)> = sqlx::query_as(
            "SELECT i.user_id, i.master_key, i.changed_to FROM members m \
             JOIN identities i ON i.user_id = m.user_id \
             WHERE m.room_id = ? AND m.membership IN ('join', 'invite')",
        )
        .bind(room.as_str())
        .fetch_all(connection)
        .await?;
        return rows
            .into_iter()
            .map(|(user, master_key, changed_to)| {
                let user = user.try_into().map_err(StoreError::corrupt("user id"))?;
                Ok((user, Identity { master_key, changed_to }))
            })
            .collect();
    };
    let mut identities = BTreeMap::new();
    for user in users {
        identities.extend(identity(connection, user).await?.map(|known| (user.clone(), known)));
    }
    Ok(identities)
}

/// A user's identity, if one was seen.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn identity(
    connection: &mut SqliteConnection,
    user: &UserId,
) -> Result<Option<Identity>> {
    let row: Option<(String, Option<String>)> =
        sqlx::query_as("SELECT master_key, changed_to FROM identities WHERE user_id = ?")
            .bind(user.as_str())
            .fetch_optional(connection)
            .await?;
    Ok(row.map(|(master_key, changed_to)| Identity { master_key, changed_to }))
}

/// Notes which master key (base64) a user has now. The first one stays the one that counts; another one
/// is noted beside it, until an administrator confirms it or it is gone again.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn see_identity(
    connection: &mut SqliteConnection,
    user: &UserId,
    master_key: &str,
    now: i64,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO identities (user_id, master_key, first_seen) VALUES (?, ?, ?) \
         ON CONFLICT (user_id) DO UPDATE SET changed_to = NULLIF(excluded.master_key, master_key) \
         WHERE changed_to IS NOT NULLIF(excluded.master_key, master_key)",
    )
    .bind(user.as_str())
    .bind(master_key)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Lets the identity that was seen last count from now on. Returns its master key, or `None` when the
/// identity has not changed.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn confirm_identity(
    connection: &mut SqliteConnection,
    user: &UserId,
    now: i64,
) -> Result<Option<String>> {
    let row: Option<(String,)> = sqlx::query_as(
        "UPDATE identities SET master_key = changed_to, first_seen = ?, changed_to = NULL \
         WHERE user_id = ? AND changed_to IS NOT NULL RETURNING master_key",
    )
    .bind(now)
    .bind(user.as_str())
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|(key,)| key))
}

/// Notes that a member is held. Returns whether that is news: a new hold, or one for another reason.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn hold(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    reason: HoldReason,
    now: i64,
) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO holds (room_id, user_id, since, reason) VALUES (?, ?, ?, ?) \
         ON CONFLICT (room_id, user_id) DO UPDATE SET reason = excluded.reason \
         WHERE reason <> excluded.reason",
    )
    .bind(room.as_str())
    .bind(user.as_str())
    .bind(now)
    .bind(reason.as_str())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Who is held: in one room, or everywhere, the longest first, and no more than `most` where that is given.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn holds(
    connection: &mut SqliteConnection,
    room: Option<&RoomId>,
    most: Option<u32>,
) -> Result<Vec<HoldRow>> {
    let rows: Vec<(String, String, i64, String)> = sqlx::query_as(
        "SELECT room_id, user_id, since, reason FROM holds WHERE ?1 IS NULL OR room_id = ?1 \
         ORDER BY since, room_id, user_id LIMIT ?2",
    )
    .bind(room.map(RoomId::as_str))
    .bind(limit(most))
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(room, user, since, reason)| {
            Ok(HoldRow {
                room_id: room.try_into().map_err(StoreError::corrupt("room id"))?,
                user_id: user.try_into().map_err(StoreError::corrupt("user id"))?,
                since,
                reason,
            })
        })
        .collect()
}

/// How many members are held.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn count_holds(connection: &mut SqliteConnection) -> Result<i64> {
    let (count,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM holds").fetch_one(connection).await?;
    Ok(count)
}

/// Ends the hold of one member, or of everybody in a room where `user` is `None`.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn let_go(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: Option<&UserId>,
) -> Result<()> {
    sqlx::query("DELETE FROM holds WHERE room_id = ?1 AND (?2 IS NULL OR user_id = ?2)")
        .bind(room.as_str())
        .bind(user.map(UserId::as_str))
        .execute(connection)
        .await?;
    Ok(())
}

/// A member is gone: there is nothing to decide any more, and who comes again needs a new approval.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn left(connection: &mut SqliteConnection, room: &RoomId, user: &UserId) -> Result<()> {
    sqlx::query("DELETE FROM words WHERE room_id = ? AND user_id = ? AND approved = 1")
        .bind(room.as_str())
        .bind(user.as_str())
        .execute(&mut *connection)
        .await?;
    let_go(connection, room, Some(user)).await
}

/// Whether the keeper has ever heard of a user.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn is_known(connection: &mut SqliteConnection, user: &UserId) -> Result<bool> {
    let (known,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM members WHERE user_id = ?1) \
         OR EXISTS (SELECT 1 FROM identities WHERE user_id = ?1)",
    )
    .bind(user.as_str())
    .fetch_one(connection)
    .await?;
    Ok(known)
}
