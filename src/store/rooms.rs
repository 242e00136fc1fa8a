//! What the keeper knows of rooms and of who is in them.

use std::collections::HashMap;

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::Value;
use sqlx::{QueryBuilder, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{KeptAs, Result, StoreError};
use crate::state::{HistoryVisibility, Membership, rooms_let_in};

/// A room that the keeper is, was or is about to be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomRow {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// The keeper's own membership.
    pub membership: Membership,
    /// Who invited the keeper, while it is invited.
    pub inviter: Option<OwnedUserId>,
    /// Whether the room's state was fetched since the keeper's join.
    pub loaded: bool,
    /// Its room version.
    pub version: String,
    /// Who created it; of weight in room version 12 and later.
    pub creators: Vec<OwnedUserId>,
    /// The content of `m.room.encryption`, as JSON.
    pub encryption: Option<String>,
    /// The content of `m.room.power_levels`, as JSON.
    pub power_levels: Option<String>,
    /// The content of `m.room.join_rules`, as JSON.
    pub join_rules: Option<String>,
    /// Whether it has said that it is encrypted, by Megolm.
    pub encrypted: bool,
    /// Whether it has said that its state is, too (MSC4362).
    pub flagged: bool,
    /// Whether its state is sealed, by what it has said and by its policy.
    pub state_encrypted: bool,
    /// Whether the keeper may send `m.room.encrypted` state there.
    pub elevated: bool,
    /// Its main address. Not written with the row: [`super::places::put_alias`] does.
    pub canonical_alias: Option<String>,
    /// The spaces that the keeper is in, that list the room, and that it claims or whose members it lets in.
    /// Not written with the row: they follow from [`super::places::say`] and the join rules.
    pub spaces: Vec<OwnedRoomId>,
    /// The rooms that it goes on with, as both sides say. Not written with the row: [`super::successions`] has them.
    pub predecessors: Vec<OwnedRoomId>,
    /// The rooms that its spaces go on with, as both sides say. Not written with the row.
    pub former_spaces: Vec<OwnedRoomId>,
    /// By what its policy is chosen while it is being made. Not written with the row: [`super::commissions`] has it.
    pub kept_as: Option<KeptAs>,
}

impl RoomRow {
    /// A room of which nothing is known but its id.
    pub fn new(room_id: OwnedRoomId, membership: Membership) -> Self {
        Self {
            room_id,
            membership,
            inviter: None,
            loaded: false,
            version: "1".to_owned(),
            creators: Vec::new(),
            encryption: None,
            power_levels: None,
            join_rules: None,
            encrypted: false,
            flagged: false,
            state_encrypted: false,
            elevated: false,
            canonical_alias: None,
            spaces: Vec::new(),
            predecessors: Vec::new(),
            former_spaces: Vec::new(),
            kept_as: None,
        }
    }

    /// The word for the room's standing that operators see.
    pub fn status(&self) -> &'static str {
        match self.membership {
            Membership::Invite => "invited",
            Membership::Join if !self.loaded => "loading",
            Membership::Join if !self.state_encrypted => "state_not_encrypted",
            Membership::Join if !self.elevated => "not_elevated",
            Membership::Join => "kept",
            Membership::Ban => "banned",
            Membership::Leave | Membership::Knock => "left",
        }
    }
}

/// A user's membership of a room.
#[derive(Clone, Debug)]
pub struct MemberRow {
    /// Who.
    pub user_id: OwnedUserId,
    /// What they are there.
    pub membership: Membership,
    /// Since when at the latest, in milliseconds by the keeper's clock.
    pub since: i64,
    /// When the keeper heard of it, in milliseconds.
    pub arrived_at: i64,
    /// The tick at which it was taken in.
    pub tick: i64,
    /// Who invited them, if somebody is known to have.
    pub inviter: Option<Inviter>,
}

/// Whoever invited a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inviter {
    /// Who.
    pub user_id: OwnedUserId,
    /// Their power in the room when they invited; infinite power is the largest number.
    pub power: i64,
}

const ROOM_COLUMNS: &str = "SELECT room_id, membership, inviter, loaded, version, creators, encryption, \
     power_levels, join_rules, encrypted, flagged, state_encrypted, elevated, canonical_alias, \
     (SELECT json_group_array(json_array(l.space_id, l.claimed_by IS NOT NULL, \
      (WITH RECURSIVE before(id) AS (SELECT old_id FROM successions \
       WHERE new_id = l.space_id AND claimed = 1 AND tombstone IS NOT NULL \
       UNION SELECT s.old_id FROM successions s JOIN before ON s.new_id = before.id \
       WHERE s.claimed = 1 AND s.tombstone IS NOT NULL) \
       SELECT json_group_array(id) FROM before))) \
      FROM space_links l JOIN rooms s ON s.room_id = l.space_id AND s.membership = 'join' \
      WHERE l.room_id = rooms.room_id AND l.listed_by IS NOT NULL) AS listed_in, \
     (WITH RECURSIVE before(id) AS (SELECT old_id FROM successions \
      WHERE new_id = rooms.room_id AND claimed = 1 AND tombstone IS NOT NULL \
      UNION SELECT s.old_id FROM successions s JOIN before ON s.new_id = before.id \
      WHERE s.claimed = 1 AND s.tombstone IS NOT NULL) SELECT json_group_array(id) FROM before) \
     AS predecessors, \
     (SELECT kept_as FROM commissions c WHERE c.room_id = rooms.room_id AND c.ended_at IS NULL) AS kept_as \
     FROM rooms";

fn room(row: &SqliteRow) -> Result<RoomRow> {
    let text = |column: &str| -> Result<String> { Ok(row.try_get(column)?) };
    let maybe = |column: &str| -> Result<Option<String>> { Ok(row.try_get(column)?) };
    let flag = |column: &str| -> Result<bool> { Ok(row.try_get(column)?) };
    let join_rules = maybe("join_rules")?;
    let (spaces, former_spaces) = spaces(&text("listed_in")?, join_rules.as_deref())?;
    let kept_as = maybe("kept_as")?.map(|kept_as| serde_json::from_str(&kept_as)).transpose();
    Ok(RoomRow {
        room_id: text("room_id")?.try_into().map_err(StoreError::corrupt("room id"))?,
        membership: Membership::from_name(&text("membership")?)
            .ok_or(StoreError::Corrupt { what: "membership" })?,
        inviter: maybe("inviter")?
            .map(OwnedUserId::try_from)
            .transpose()
            .map_err(StoreError::corrupt("user id"))?,
        loaded: flag("loaded")?,
        version: text("version")?,
        creators: serde_json::from_str(&text("creators")?)
            .map_err(StoreError::corrupt("list of creators"))?,
        encryption: maybe("encryption")?,
        power_levels: maybe("power_levels")?,
        join_rules,
        encrypted: flag("encrypted")?,
        flagged: flag("flagged")?,
        state_encrypted: flag("state_encrypted")?,
        elevated: flag("elevated")?,
        canonical_alias: maybe("canonical_alias")?,
        spaces,
        predecessors: serde_json::from_str(&text("predecessors")?)
            .map_err(StoreError::corrupt("list of predecessors"))?,
        former_spaces,
        kept_as: kept_as.map_err(StoreError::corrupt("what a room is kept as"))?,
    })
}

/// Of the spaces that list a room, as JSON with whether the room claims them and with what they go on with, those that it
/// is in; and the rooms that these go on with.
fn spaces(
    listed_in: &str,
    join_rules: Option<&str>,
) -> Result<(Vec<OwnedRoomId>, Vec<OwnedRoomId>)> {
    let listed_in: Vec<(OwnedRoomId, u8, Vec<OwnedRoomId>)> =
        serde_json::from_str(listed_in).map_err(StoreError::corrupt("list of spaces"))?;
    let let_in = match join_rules.filter(|_| !listed_in.is_empty()).map(serde_json::from_str) {
        Some(Ok(Value::Object(content))) => rooms_let_in(&content),
        _ => Vec::new(),
    };
    let (mut spaces, mut former) = (Vec::new(), Vec::new());
    for (space, claimed, before) in listed_in {
        if claimed != 0 || let_in.contains(&space) {
            spaces.push(space);
            former.extend(before);
        }
    }
    Ok((spaces, former))
}

/// A room by its id.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn get(connection: &mut SqliteConnection, room_id: &RoomId) -> Result<Option<RoomRow>> {
    let sql = sqlx::AssertSqlSafe(format!("{ROOM_COLUMNS} WHERE room_id = ?"));
    let row = sqlx::query(sql).bind(room_id.as_str()).fetch_optional(connection).await?;
    row.as_ref().map(room).transpose()
}

/// Every room.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn all(connection: &mut SqliteConnection) -> Result<Vec<RoomRow>> {
    let sql = sqlx::AssertSqlSafe(ROOM_COLUMNS.to_owned());
    let rows = sqlx::query(sql).fetch_all(connection).await?;
    rows.iter().map(room).collect()
}

/// Writes a room as it is given.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn put(connection: &mut SqliteConnection, room: &RoomRow) -> Result<()> {
    let creators =
        serde_json::to_string(&room.creators).map_err(StoreError::corrupt("list of creators"))?;
    sqlx::query(
        "INSERT INTO rooms (room_id, membership, inviter, loaded, version, creators, encryption, \
         power_levels, join_rules, encrypted, flagged, state_encrypted, elevated) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (room_id) DO UPDATE SET membership = excluded.membership, \
         inviter = excluded.inviter, loaded = excluded.loaded, version = excluded.version, \
         creators = excluded.creators, encryption = excluded.encryption, \
         power_levels = excluded.power_levels, join_rules = excluded.join_rules, \
         encrypted = excluded.encrypted, flagged = excluded.flagged, \
         state_encrypted = excluded.state_encrypted, elevated = excluded.elevated",
    )
    .bind(room.room_id.as_str())
    .bind(room.membership.as_str())
    .bind(room.inviter.as_ref().map(|user| user.as_str()))
    .bind(room.loaded)
    .bind(&room.version)
    .bind(creators)
    .bind(&room.encryption)
    .bind(&room.power_levels)
    .bind(&room.join_rules)
    .bind(room.encrypted)
    .bind(room.flagged)
    .bind(room.state_encrypted)
    .bind(room.elevated)
    .execute(connection)
    .await?;
    Ok(())
}

/// Who may read a room's past, as it was last heard of; `None` when it never was.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn history_visibility(
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<Option<HistoryVisibility>> {
    let row: Option<(Option<String>,)> =
        sqlx::query_as("SELECT history_visibility FROM rooms WHERE room_id = ?")
            .bind(room.as_str())
            .fetch_optional(connection)
            .await?;
    Ok(row.and_then(|(name,)| HistoryVisibility::from_name(&name?)))
}

/// Notes who may read a room's past.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn set_history_visibility(
    connection: &mut SqliteConnection,
    room: &RoomId,
    visibility: HistoryVisibility,
) -> Result<()> {
    sqlx::query("UPDATE rooms SET history_visibility = ? WHERE room_id = ?")
        .bind(visibility.as_str())
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes that something happened in a room at `now`.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn touch(connection: &mut SqliteConnection, room: &RoomId, now: i64) -> Result<()> {
    sqlx::query("UPDATE rooms SET active_at = ? WHERE room_id = ?")
        .bind(now)
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// When something last happened in a room, in milliseconds; 0 for a room that is not known.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn active_at(connection: &mut SqliteConnection, room: &RoomId) -> Result<i64> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT active_at FROM rooms WHERE room_id = ?")
        .bind(room.as_str())
        .fetch_optional(connection)
        .await?;
    Ok(row.map_or(0, |(at,)| at))
}

/// Writes a member as given.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put_member(
    connection: &mut SqliteConnection,
    room: &RoomId,
    member: &MemberRow,
) -> Result<()> {
    sqlx::query(
        "INSERT OR REPLACE INTO members (room_id, user_id, membership, since, arrived_at, tick, \
         inviter, inviter_power) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(room.as_str())
    .bind(member.user_id.as_str())
    .bind(member.membership.as_str())
    .bind(member.since)
    .bind(member.arrived_at)
    .bind(member.tick)
    .bind(member.inviter.as_ref().map(|inviter| inviter.user_id.as_str()))
    .bind(member.inviter.as_ref().map(|inviter| inviter.power))
    .execute(connection)
    .await?;
    Ok(())
}

type MemberColumns = (String, String, i64, i64, i64, Option<String>, Option<i64>);

const MEMBER_COLUMNS: &str = "SELECT user_id, membership, since, arrived_at, tick, inviter, \
     inviter_power FROM members";

fn member(columns: MemberColumns) -> Result<MemberRow> {
    let (user, membership, since, arrived_at, tick, inviter, power) = columns;
    let inviter = inviter
        .zip(power)
        .map(|(user, power)| {
            let user_id = user.try_into().map_err(StoreError::corrupt("user id"))?;
            Ok::<_, StoreError>(Inviter { user_id, power })
        })
        .transpose()?;
    Ok(MemberRow {
        user_id: user.try_into().map_err(StoreError::corrupt("user id"))?,
        membership: Membership::from_name(&membership)
            .ok_or(StoreError::Corrupt { what: "membership" })?,
        since,
        arrived_at,
        tick,
        inviter,
    })
}

/// One member of a room.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn get_member(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<Option<MemberRow>> {
    let sql = sqlx::AssertSqlSafe(format!("{MEMBER_COLUMNS} WHERE room_id = ? AND user_id = ?"));
    let row: Option<MemberColumns> = sqlx::query_as(sql)
        .bind(room.as_str())
        .bind(user.as_str())
        .fetch_optional(connection)
        .await?;
    row.map(member).transpose()
}

/// How many users one statement looks up.
const AT_ONCE: usize = 500;

/// What the members among `users` are in a room.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn memberships<'u>(
    connection: &mut SqliteConnection,
    room: &RoomId,
    users: impl ExactSizeIterator<Item = &'u UserId>,
) -> Result<HashMap<OwnedUserId, Membership>> {
    let users: Vec<&UserId> = users.collect();
    let mut memberships = HashMap::with_capacity(users.len());
    for users in users.chunks(AT_ONCE) {
        let mut query =
            QueryBuilder::new("SELECT user_id, membership FROM members WHERE room_id = ");
        query.push_bind(room.as_str()).push(" AND user_id IN (");
        let mut list = query.separated(", ");
        for user in users {
            list.push_bind(user.as_str());
        }
        query.push(")");
        let rows: Vec<(String, String)> =
            query.build_query_as().fetch_all(&mut *connection).await?;
        for (user, membership) in rows {
            let user = user.try_into().map_err(StoreError::corrupt("user id"))?;
            let membership = Membership::from_name(&membership)
                .ok_or(StoreError::Corrupt { what: "membership" })?;
            memberships.insert(user, membership);
        }
    }
    Ok(memberships)
}

/// Everybody who is joined to or invited into a room.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn present_members(
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<Vec<MemberRow>> {
    let sql = sqlx::AssertSqlSafe(format!(
        "{MEMBER_COLUMNS} WHERE room_id = ? AND membership IN ('join', 'invite')"
    ));
    let rows: Vec<MemberColumns> =
        sqlx::query_as(sql).bind(room.as_str()).fetch_all(connection).await?;
    rows.into_iter().map(member).collect()
}

/// Forgets that somebody is in a room.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn remove_member(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<()> {
    sqlx::query("DELETE FROM members WHERE room_id = ? AND user_id = ?")
        .bind(room.as_str())
        .bind(user.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// The rooms with encrypted state that the keeper is in and `user` is joined to or invited into.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn rooms_of(
    connection: &mut SqliteConnection,
    user: &UserId,
) -> Result<Vec<OwnedRoomId>> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT m.room_id FROM members m JOIN rooms r ON r.room_id = m.room_id \
         WHERE m.user_id = ? AND m.membership IN ('join', 'invite') \
         AND r.membership = 'join' AND r.state_encrypted = 1",
    )
    .bind(user.as_str())
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("room id"))).collect()
}
