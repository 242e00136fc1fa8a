//! Spaces that the keeper follows, and the rooms beneath them.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedRoomId, OwnedServerName, RoomId};
use sqlx::SqliteConnection;

use super::{Result, StoreError};
use crate::policy::{Child, PreviewPolicy};

/// A space to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowedRow {
    /// As it is configured, or its id.
    pub name: String,
    /// Its id; `None` while an address was not looked up yet.
    pub space_id: Option<OwnedRoomId>,
    /// Whether it is followed because an administrator invited the keeper into it.
    pub invited: bool,
    /// The word for its standing that operators see.
    pub status: String,
    /// What an administrator has to change, if anything.
    pub detail: Option<String>,
    /// How many rooms lie beyond its bounds.
    pub beyond: i64,
    /// How often joining it has failed since it last went well.
    pub attempts: i64,
    /// When to try again, in milliseconds.
    pub retry_at: i64,
}

/// A room beneath a followed space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceRoomRow {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The followed space.
    pub root_id: OwnedRoomId,
    /// The space that lists it.
    pub space_id: OwnedRoomId,
    /// How many spaces deep it lies.
    pub depth: u32,
    /// What is read of it before a join.
    pub preview: PreviewPolicy,
    /// Whether those are invited who may join it.
    pub invites: bool,
    /// The word for its standing that operators see.
    pub status: String,
    /// What an administrator has to change, if anything.
    pub detail: Option<String>,
    /// How often joining it has failed.
    pub attempts: i64,
    /// When to try again, in milliseconds.
    pub retry_at: i64,
}

impl FollowedRow {
    /// One of which nothing is known yet.
    pub fn new(name: String, space_id: Option<OwnedRoomId>) -> Self {
        Self {
            name,
            space_id,
            invited: false,
            status: String::new(),
            detail: None,
            beyond: 0,
            attempts: 0,
            retry_at: 0,
        }
    }
}

type FollowedColumns = (String, Option<String>, bool, String, Option<String>, i64, i64, i64);

/// Every space to follow.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn followed(connection: &mut SqliteConnection) -> Result<Vec<FollowedRow>> {
    let rows: Vec<FollowedColumns> = sqlx::query_as(
        "SELECT name, space_id, invited, status, detail, beyond, attempts, retry_at \
         FROM followed_spaces ORDER BY name",
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(name, space_id, invited, status, detail, beyond, attempts, retry_at)| {
            let space_id = space_id.map(OwnedRoomId::try_from).transpose();
            let space_id = space_id.map_err(StoreError::corrupt("room id"))?;
            Ok(FollowedRow { name, space_id, invited, status, detail, beyond, attempts, retry_at })
        })
        .collect()
}

/// Writes a space to follow as it is given.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put_followed(connection: &mut SqliteConnection, row: &FollowedRow) -> Result<()> {
    sqlx::query(
        "INSERT OR REPLACE INTO followed_spaces (name, space_id, invited, status, detail, beyond, \
         attempts, retry_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&row.name)
    .bind(row.space_id.as_ref().map(|id| id.as_str()))
    .bind(row.invited)
    .bind(&row.status)
    .bind(&row.detail)
    .bind(row.beyond)
    .bind(row.attempts)
    .bind(row.retry_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes that an administrator invited the keeper into a room: if it turns out to be a space, it is followed.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn invited(connection: &mut SqliteConnection, space: &RoomId) -> Result<()> {
    sqlx::query(
        "INSERT INTO followed_spaces (name, space_id, invited, status) VALUES (?1, ?1, 1, 'joining') \
         ON CONFLICT (name) DO UPDATE SET invited = 1",
    )
    .bind(space.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// Follows a space no more.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn drop_followed(connection: &mut SqliteConnection, name: &str) -> Result<()> {
    sqlx::query("DELETE FROM followed_spaces WHERE name = ?")
        .bind(name)
        .execute(connection)
        .await?;
    Ok(())
}

type RoomColumns = (String, String, String, u32, String, bool, String, Option<String>, i64, i64);

const ROOM_COLUMNS: &str = "SELECT room_id, root_id, space_id, depth, preview, invites, status, detail, attempts, retry_at FROM space_rooms";

fn row(columns: RoomColumns) -> Result<SpaceRoomRow> {
    let (room, root, space, depth, preview, invites, status, detail, attempts, retry_at) = columns;
    Ok(SpaceRoomRow {
        room_id: room.try_into().map_err(StoreError::corrupt("room id"))?,
        root_id: root.try_into().map_err(StoreError::corrupt("room id"))?,
        space_id: space.try_into().map_err(StoreError::corrupt("room id"))?,
        depth,
        preview: PreviewPolicy::from_name(&preview),
        invites,
        status,
        detail,
        attempts,
        retry_at,
    })
}

/// Every room beneath a followed space.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn rooms(connection: &mut SqliteConnection) -> Result<Vec<SpaceRoomRow>> {
    let sql = sqlx::AssertSqlSafe(format!("{ROOM_COLUMNS} ORDER BY root_id, depth, room_id"));
    let rows: Vec<RoomColumns> = sqlx::query_as(sql).fetch_all(connection).await?;
    rows.into_iter().map(row).collect()
}

/// A room beneath a followed space; `None` for one that is beneath none.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn room(
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<Option<SpaceRoomRow>> {
    let sql = sqlx::AssertSqlSafe(format!("{ROOM_COLUMNS} WHERE room_id = ?"));
    let found: Option<RoomColumns> =
        sqlx::query_as(sql).bind(room.as_str()).fetch_optional(connection).await?;
    found.map(row).transpose()
}

/// How many followed spaces, or rooms beneath them, stand at each status.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn count(
    connection: &mut SqliteConnection,
) -> Result<(BTreeMap<String, i64>, BTreeMap<String, i64>)> {
    let spaces: Vec<(String, i64)> =
        sqlx::query_as("SELECT status, COUNT(*) FROM followed_spaces GROUP BY status")
            .fetch_all(&mut *connection)
            .await?;
    let rooms: Vec<(String, i64)> =
        sqlx::query_as("SELECT status, COUNT(*) FROM space_rooms GROUP BY status")
            .fetch_all(connection)
            .await?;
    Ok((spaces.into_iter().collect(), rooms.into_iter().collect()))
}

/// Writes a room beneath a followed space as it is given.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put_room(connection: &mut SqliteConnection, row: &SpaceRoomRow) -> Result<()> {
    sqlx::query(
        "INSERT OR REPLACE INTO space_rooms (room_id, root_id, space_id, depth, preview, invites, \
         status, detail, attempts, retry_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(row.room_id.as_str())
    .bind(row.root_id.as_str())
    .bind(row.space_id.as_str())
    .bind(row.depth)
    .bind(row.preview.as_str())
    .bind(row.invites)
    .bind(&row.status)
    .bind(&row.detail)
    .bind(row.attempts)
    .bind(row.retry_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// A room is beneath no followed space any more.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn drop_room(connection: &mut SqliteConnection, room: &RoomId) -> Result<()> {
    sqlx::query("DELETE FROM space_rooms WHERE room_id = ?")
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Lets a followed space, or a room beneath one, be tried again at once: the keeper was invited into it. Whether it is
/// one.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn try_now(connection: &mut SqliteConnection, room: &RoomId) -> Result<bool> {
    let mut found = 0;
    for sql in [
        "UPDATE space_rooms SET retry_at = 0 WHERE room_id = ?",
        "UPDATE followed_spaces SET retry_at = 0 WHERE space_id = ?",
    ] {
        found |=
            sqlx::query(sql).bind(room.as_str()).execute(&mut *connection).await?.rows_affected();
    }
    Ok(found > 0)
}

/// What each space lists that the keeper is in.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn lists(connection: &mut SqliteConnection) -> Result<BTreeMap<OwnedRoomId, Vec<Child>>> {
    let rows: Vec<(String, String, Option<String>, bool)> = sqlx::query_as(
        "SELECT l.space_id, l.room_id, l.via, l.suggested FROM space_links l JOIN rooms s \
         ON s.room_id = l.space_id AND s.membership = 'join' AND s.is_space = 1 \
         WHERE l.listed_by IS NOT NULL ORDER BY l.space_id, l.room_id",
    )
    .fetch_all(connection)
    .await?;
    let mut lists = BTreeMap::<OwnedRoomId, Vec<Child>>::new();
    for (space, room, via, suggested) in rows {
        let space = space.try_into().map_err(StoreError::corrupt("room id"))?;
        let room_id = room.try_into().map_err(StoreError::corrupt("room id"))?;
        let via: Vec<OwnedServerName> =
            via.and_then(|via| serde_json::from_str(&via).ok()).unwrap_or_default();
        lists.entry(space).or_default().push(Child { room_id, via, suggested });
    }
    Ok(lists)
}

/// Notes through which servers a space says that a room can be joined, and whether it suggests that.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn put_via(
    connection: &mut SqliteConnection,
    room: &RoomId,
    space: &RoomId,
    via: &[OwnedServerName],
    suggested: bool,
) -> Result<()> {
    let via = serde_json::to_string(via).map_err(StoreError::corrupt("list of servers"))?;
    sqlx::query("UPDATE space_links SET via = ?, suggested = ? WHERE room_id = ? AND space_id = ?")
        .bind(via)
        .bind(suggested)
        .bind(room.as_str())
        .bind(space.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes whether a room is a space.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn set_space(
    connection: &mut SqliteConnection,
    room: &RoomId,
    is_space: bool,
) -> Result<()> {
    sqlx::query("UPDATE rooms SET is_space = ? WHERE room_id = ?")
        .bind(is_space)
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// The rooms that are spaces, as far as is known.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn all_spaces(connection: &mut SqliteConnection) -> Result<BTreeSet<OwnedRoomId>> {
    let rows: Vec<(String,)> = sqlx::query_as("SELECT room_id FROM rooms WHERE is_space = 1")
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("room id"))).collect()
}

/// Rooms that matter to others: spaces, and those whose members are let in elsewhere.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn of_weight(connection: &mut SqliteConnection) -> Result<BTreeSet<OwnedRoomId>> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT room_id FROM rooms WHERE is_space = 1 UNION SELECT allowed_id FROM let_in",
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("room id"))).collect()
}

/// The rooms that let in the members of this one.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn letting_in(
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<Vec<OwnedRoomId>> {
    let rows: Vec<(String,)> = sqlx::query_as("SELECT room_id FROM let_in WHERE allowed_id = ?")
        .bind(room.as_str())
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("room id"))).collect()
}

/// Whether members of a room are let into another one, so that who comes and goes there matters.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn lets_in_elsewhere(connection: &mut SqliteConnection, room: &RoomId) -> Result<bool> {
    let (lets_in,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT 1 FROM let_in WHERE allowed_id = ?)")
            .bind(room.as_str())
            .fetch_one(connection)
            .await?;
    Ok(lets_in)
}

/// Writes whose members a room lets in. Returns whether there are new ones, and those that are let in no more.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn put_let_in(
    connection: &mut SqliteConnection,
    room: &RoomId,
    allowed: &[OwnedRoomId],
) -> Result<(bool, Vec<OwnedRoomId>)> {
    let before: Vec<(String,)> = sqlx::query_as("SELECT allowed_id FROM let_in WHERE room_id = ?")
        .bind(room.as_str())
        .fetch_all(&mut *connection)
        .await?;
    let gone = |id: &&(String,)| !allowed.iter().any(|allowed| allowed.as_str() == id.0);
    let is_new = |id: &&OwnedRoomId| !before.iter().any(|before| before.0 == id.as_str());
    let (mut added, mut removed) = (false, Vec::new());
    for (id,) in before.iter().filter(gone) {
        removed.push(id.as_str().try_into().map_err(StoreError::corrupt("room id"))?);
        sqlx::query("DELETE FROM let_in WHERE room_id = ? AND allowed_id = ?")
            .bind(room.as_str())
            .bind(id)
            .execute(&mut *connection)
            .await?;
    }
    for id in allowed.iter().filter(is_new) {
        added = true;
        sqlx::query("INSERT OR IGNORE INTO let_in (room_id, allowed_id) VALUES (?, ?)")
            .bind(room.as_str())
            .bind(id.as_str())
            .execute(&mut *connection)
            .await?;
    }
    Ok((added, removed))
}
