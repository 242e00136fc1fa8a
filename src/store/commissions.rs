//! Rooms that administrators have the keeper make: what is wanted, and how far it is.

use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Result, Store, StoreError};
use crate::state::{JsonMap, StateTuple, has_public_picture};

/// How much of what could not be done is kept for one room.
const MOST_NOTES: usize = 100;

/// How far a commission is: what is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The homeserver creates the room.
    Create,
    /// The keeper learns what stands there.
    Load,
    /// The picture is encrypted.
    Picture,
    /// Room and space say that they belong together: policies may be chosen by it.
    Link,
    /// What is hidden is sealed.
    Seal,
    /// What stands in plain is said: who may join, last.
    Open,
    /// The addresses lead to the new room.
    Address,
    /// The old room says where the new one is.
    Tombstone,
    /// What was said in the old room meanwhile is sealed in the new one.
    Carry,
    /// People are invited.
    Invite,
    /// All is done.
    Done,
    /// Nothing was made, and nothing will be.
    Failed,
}

/// What a commission makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommissionKind {
    /// A new room.
    Create,
    /// A new room in place of an old one.
    Upgrade,
}

/// A piece of state that a room is to have.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct StateValue {
    /// The type.
    pub event_type: String,
    /// The state key.
    pub state_key: String,
    /// The content.
    pub content: JsonMap,
}

/// A space that is to list the room.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct SpaceLink {
    /// The space.
    pub space: OwnedRoomId,
    /// What it says of the room.
    pub child: JsonMap,
    /// What the room says of it.
    pub parent: JsonMap,
}

/// The room that is wanted.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Blueprint {
    /// Its room version.
    pub version: String,
    /// What `m.room.create` says, beside the version and the commission's id.
    pub creation: JsonMap,
    /// Who has which power.
    pub power_levels: JsonMap,
    /// The content of `m.room.encryption`.
    pub encryption: JsonMap,
    /// Who may read its past.
    pub history_visibility: String,
    /// What is hidden.
    pub hidden: Vec<StateValue>,
    /// What stands in plain.
    pub plain: Vec<StateValue>,
    /// The spaces that it is in.
    pub spaces: Vec<SpaceLink>,
    /// Its addresses in the old room: its own server's, and the content of `m.room.canonical_alias`.
    pub addresses: Vec<String>,
    /// See [`Blueprint::addresses`].
    pub canonical_alias: Option<JsonMap>,
    /// Who is invited.
    pub invites: Vec<OwnedUserId>,
}

/// By what the policy of a room that is being made is chosen, until the order is at its end. All of it stands in plain on
/// the homeserver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAs {
    /// The room whose policy it has; its own where there is none.
    pub room: Option<OwnedRoomId>,
    /// The rooms that that one goes on with.
    pub predecessors: Vec<OwnedRoomId>,
    /// The main address.
    pub alias: Option<String>,
    /// The spaces.
    pub spaces: Vec<OwnedRoomId>,
    /// The rooms that these go on with.
    pub former_spaces: Vec<OwnedRoomId>,
    /// The server on which the room was made; that of its own where there is none.
    pub server: Option<OwnedServerName>,
}

/// A commission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommissionRow {
    /// Its id.
    pub id: String,
    /// What it makes.
    pub kind: CommissionKind,
    /// Who gave it.
    pub actor: String,
    /// The room that is moved.
    pub old_room: Option<OwnedRoomId>,
    /// The room that is made, once it is known.
    pub room_id: Option<OwnedRoomId>,
    /// How far it is.
    pub step: Step,
    /// How often the homeserver was asked to create the room.
    pub attempts: i64,
    /// How often a room came of it that could not be used.
    pub spoilt: i64,
    /// How much of the step is done.
    pub done: i64,
    /// How much there is to do in it; 0 where that is not counted.
    pub total: i64,
    /// What it waits for.
    pub trouble: Option<String>,
    /// What could not be done, and what an administrator has to do about it.
    pub notes: Vec<String>,
    /// How much more there was of that.
    pub more_notes: i64,
    /// When it was given, in milliseconds.
    pub created_at: i64,
    /// When it ended, in milliseconds.
    pub ended_at: Option<i64>,
}

impl Step {
    const ALL: [Self; 12] = [
        Self::Create,
        Self::Load,
        Self::Picture,
        Self::Seal,
        Self::Link,
        Self::Open,
        Self::Address,
        Self::Tombstone,
        Self::Carry,
        Self::Invite,
        Self::Done,
        Self::Failed,
    ];

    /// The word in the database, and for operators.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Load => "load",
            Self::Picture => "picture",
            Self::Seal => "seal",
            Self::Link => "link",
            Self::Open => "open",
            Self::Address => "address",
            Self::Tombstone => "tombstone",
            Self::Carry => "carry",
            Self::Invite => "invite",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// The steps of a kind of commission, in their order.
    pub fn of(kind: CommissionKind) -> &'static [Self] {
        match kind {
            CommissionKind::Create => &[
                Self::Create,
                Self::Load,
                Self::Link,
                Self::Seal,
                Self::Open,
                Self::Invite,
                Self::Done,
            ],
            CommissionKind::Upgrade => &[
                Self::Create,
                Self::Load,
                Self::Picture,
                Self::Link,
                Self::Seal,
                Self::Open,
                Self::Address,
                Self::Tombstone,
                Self::Carry,
                Self::Invite,
                Self::Done,
            ],
        }
    }

    /// What comes after it.
    pub fn next(self, kind: CommissionKind) -> Self {
        let mut steps = Self::of(kind).iter().skip_while(|step| **step != self);
        steps.nth(1).copied().unwrap_or(Self::Done)
    }

    /// Whether nothing comes after it.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

impl CommissionKind {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Upgrade => "upgrade",
        }
    }
}

impl StateValue {
    /// A piece of state.
    pub fn new(event_type: &str, state_key: &str, content: JsonMap) -> Self {
        Self { event_type: event_type.to_owned(), state_key: state_key.to_owned(), content }
    }

    /// Whether it is an avatar whose picture the homeserver can look at.
    pub fn has_public_picture(&self) -> bool {
        self.event_type == "m.room.avatar" && has_public_picture(&self.content)
    }

    /// The type and state key.
    pub fn tuple(&self) -> StateTuple {
        StateTuple::new(self.event_type.clone(), self.state_key.clone())
    }
}

impl CommissionRow {
    fn load(row: &SqliteRow) -> Result<Self> {
        let (kind, step): (String, String) = (row.try_get("kind")?, row.try_get("step")?);
        let kinds = [CommissionKind::Create, CommissionKind::Upgrade];
        let notes: String = row.try_get("notes")?;
        Ok(Self {
            id: row.try_get("id")?,
            kind: kinds
                .into_iter()
                .find(|it| it.as_str() == kind)
                .ok_or(StoreError::Corrupt { what: "kind of commission" })?,
            actor: row.try_get("actor")?,
            old_room: room_id(row.try_get("old_room")?)?,
            room_id: room_id(row.try_get("room_id")?)?,
            step: Step::ALL
                .into_iter()
                .find(|it| it.as_str() == step)
                .ok_or(StoreError::Corrupt { what: "step of a commission" })?,
            attempts: row.try_get("attempts")?,
            spoilt: row.try_get("spoilt")?,
            done: row.try_get("done")?,
            total: row.try_get("total")?,
            trouble: row.try_get("trouble")?,
            notes: serde_json::from_str(&notes).map_err(StoreError::corrupt("list of notes"))?,
            more_notes: row.try_get("more_notes")?,
            created_at: row.try_get("created_at")?,
            ended_at: row.try_get("ended_at")?,
        })
    }
}

fn room_id(column: Option<String>) -> Result<Option<OwnedRoomId>> {
    column.map(OwnedRoomId::try_from).transpose().map_err(StoreError::corrupt("room id"))
}

/// Takes a commission down.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn insert(
    store: &Store,
    connection: &mut SqliteConnection,
    row: &CommissionRow,
    wanted: &Blueprint,
    kept_as: &KeptAs,
) -> Result<()> {
    let kept_as =
        serde_json::to_string(kept_as).map_err(StoreError::corrupt("what a room is kept as"))?;
    sqlx::query(
        "INSERT INTO commissions (id, kind, actor, old_room, step, notes, wanted, created_at, \
         kept_as) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&row.id)
    .bind(row.kind.as_str())
    .bind(&row.actor)
    .bind(row.old_room.as_ref().map(|room| room.as_str()))
    .bind(row.step.as_str())
    .bind(notes_json(&row.notes)?)
    .bind(store.lock(wanted)?)
    .bind(row.created_at)
    .bind(kept_as)
    .execute(connection)
    .await?;
    Ok(())
}

fn notes_json(notes: &[String]) -> Result<String> {
    serde_json::to_string(notes).map_err(StoreError::corrupt("list of notes"))
}

/// A commission by its id.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn get(connection: &mut SqliteConnection, id: &str) -> Result<Option<CommissionRow>> {
    let row = sqlx::query("SELECT * FROM commissions WHERE id = ?")
        .bind(id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(CommissionRow::load).transpose()
}

/// The newest commissions, the newest last.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn newest(connection: &mut SqliteConnection, most: i64) -> Result<Vec<CommissionRow>> {
    let rows = sqlx::query("SELECT * FROM commissions ORDER BY created_at DESC, id LIMIT ?")
        .bind(most)
        .fetch_all(connection)
        .await?;
    rows.iter().rev().map(CommissionRow::load).collect()
}

/// The ids of those that are not at their end, the oldest first.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn open(connection: &mut SqliteConnection) -> Result<Vec<String>> {
    let rows: Vec<(String,)> =
        sqlx::query_as("SELECT id FROM commissions WHERE ended_at IS NULL ORDER BY created_at, id")
            .fetch_all(connection)
            .await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// The one that moves this room and is not at its end.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn moving(
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<Option<CommissionRow>> {
    let row = sqlx::query("SELECT * FROM commissions WHERE ended_at IS NULL AND old_room = ?")
        .bind(room.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(CommissionRow::load).transpose()
}

/// What is wanted; `None` where there is no such commission, or it is at its end.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn wanted(
    store: &Store,
    connection: &mut SqliteConnection,
    id: &str,
) -> Result<Option<Blueprint>> {
    let row: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT wanted FROM commissions WHERE id = ? AND ended_at IS NULL")
            .bind(id)
            .fetch_optional(connection)
            .await?;
    row.map(|(wanted,)| store.unlock(&wanted)).transpose()
}

/// Keeps what is wanted, as it is known now.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn put_wanted(
    store: &Store,
    connection: &mut SqliteConnection,
    id: &str,
    wanted: &Blueprint,
) -> Result<()> {
    sqlx::query("UPDATE commissions SET wanted = ? WHERE id = ? AND ended_at IS NULL")
        .bind(store.lock(wanted)?)
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Goes on to a step, unless it is at its end. There what was wanted is forgotten: it stands in the room, and may be taken back there.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn go_on(
    connection: &mut SqliteConnection,
    id: &str,
    step: Step,
    now: i64,
) -> Result<()> {
    sqlx::query(
        "UPDATE commissions SET step = ?1, done = 0, total = 0, trouble = NULL, ended_at = ?2, \
         wanted = CASE WHEN ?2 IS NULL THEN wanted ELSE X'' END \
         WHERE id = ?3 AND ended_at IS NULL",
    )
    .bind(step.as_str())
    .bind(step.is_end().then_some(now))
    .bind(id)
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes how much of the step is done.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn progress(
    connection: &mut SqliteConnection,
    id: &str,
    done: usize,
    total: usize,
) -> Result<()> {
    let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
    sqlx::query("UPDATE commissions SET done = ?, total = ?, trouble = NULL WHERE id = ?")
        .bind(number(done))
        .bind(number(total))
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes that the homeserver is about to be asked to create the room.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn try_once(connection: &mut SqliteConnection, id: &str) -> Result<()> {
    sqlx::query("UPDATE commissions SET attempts = attempts + 1 WHERE id = ?")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes which room it is, unless it is at its end. Returns whether it is not.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn set_room(connection: &mut SqliteConnection, id: &str, room: &RoomId) -> Result<bool> {
    let done = sqlx::query("UPDATE commissions SET room_id = ? WHERE id = ? AND ended_at IS NULL")
        .bind(room.as_str())
        .bind(id)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Notes that the room that came of it could not be used.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn spoil(connection: &mut SqliteConnection, id: &str) -> Result<()> {
    sqlx::query("UPDATE commissions SET room_id = NULL, spoilt = spoilt + 1 WHERE id = ?")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes what it waits for.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn wait(
    connection: &mut SqliteConnection,
    id: &str,
    trouble: Option<&str>,
) -> Result<()> {
    sqlx::query("UPDATE commissions SET trouble = ? WHERE id = ?")
        .bind(trouble)
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes something that could not be done, once; beyond the most that is kept, that there was more.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn note(connection: &mut SqliteConnection, id: &str, note: &str) -> Result<()> {
    let Some(row) = get(connection, id).await? else { return Ok(()) };
    let mut notes = row.notes;
    if notes.iter().any(|known| known == note) {
        return Ok(());
    }
    if notes.len() >= MOST_NOTES {
        sqlx::query("UPDATE commissions SET more_notes = more_notes + 1 WHERE id = ?")
            .bind(id)
            .execute(connection)
            .await?;
        return Ok(());
    }
    notes.push(note.to_owned());
    sqlx::query("UPDATE commissions SET notes = ? WHERE id = ?")
        .bind(notes_json(&notes)?)
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets those that ended before `before` (milliseconds).
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn prune(connection: &mut SqliteConnection, before: i64) -> Result<()> {
    sqlx::query("DELETE FROM commissions WHERE ended_at < ?")
        .bind(before)
        .execute(connection)
        .await?;
    Ok(())
}
