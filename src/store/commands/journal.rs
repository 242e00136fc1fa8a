//! The ledger of commands: who commanded what, when, and what came of it.

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use crate::store::Result;

/// Within which readings of the same are counted in one row, in milliseconds.
const TOGETHER: i64 = 3_600_000;

/// What is asked for, by whomever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The verb, such as `approve`.
    pub verb: &'static str,
    /// The room that it is about.
    pub room: Option<OwnedRoomId>,
    /// The user.
    pub user: Option<OwnedUserId>,
    /// The device.
    pub device: Option<OwnedDeviceId>,
    /// What else was said, such as `on`; `""` for nothing.
    pub detail: &'static str,
}

/// A command that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
pub struct CommandRow {
    /// The row's number.
    pub id: i64,
    /// When, in milliseconds.
    pub at: i64,
    /// When for the last time.
    pub last_at: i64,
    /// How often: what only reads is counted, by the hour.
    pub count: i64,
    /// Who gave it: `uid:` with the number of a user of the machine, a Matrix user id, or the name of a door.
    pub actor: String,
    /// The verb.
    pub verb: String,
    /// The room that it was about; `""` for none.
    pub room_id: String,
    /// The user; `""` for none.
    pub user_id: String,
    /// The device; `""` for none.
    pub device_id: String,
    /// What else was said; `""` for nothing.
    pub detail: String,
    /// `done`, or `refused:` and why.
    pub outcome: String,
}

/// Which commands are asked for: those that meet all that is given.
#[derive(Clone, Debug, Default)]
pub struct CommandsFilter {
    /// About this room.
    pub room: Option<OwnedRoomId>,
    /// About this user.
    pub user: Option<OwnedUserId>,
    /// Given at this time or later, in milliseconds.
    pub since: Option<i64>,
    /// No more than this many, the newest.
    pub newest: Option<u64>,
    /// Before this row ([`CommandRow::id`]).
    pub before: Option<i64>,
}

impl Asked {
    /// A verb with what it is about.
    pub fn about(
        verb: &'static str,
        room: Option<&OwnedRoomId>,
        user: Option<&OwnedUserId>,
    ) -> Self {
        Self { verb, room: room.cloned(), user: user.cloned(), device: None, detail: "" }
    }

    /// The same about one device.
    #[must_use]
    pub fn on(self, device: Option<&OwnedDeviceId>) -> Self {
        Self { device: device.cloned(), ..self }
    }
}

/// Notes a command and what came of it, as part of the caller's transaction.
///
/// # Errors
///
/// [`crate::store::StoreError::Database`] when the database cannot be written.
pub async fn note(
    connection: &mut SqliteConnection,
    actor: &str,
    asked: &Asked,
    outcome: &str,
    now: i64,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO commands (at, last_at, count, actor, verb, room_id, user_id, device_id, detail, \
         outcome) VALUES (?1, ?1, 1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )
    .bind(now)
    .bind(actor)
    .bind(asked.verb)
    .bind(asked.room.as_ref().map_or("", |room| room.as_str()))
    .bind(asked.user.as_ref().map_or("", |user| user.as_str()))
    .bind(asked.device.as_ref().map_or("", |device| device.as_str()))
    .bind(asked.detail)
    .bind(outcome)
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes that something was read. Whoever reads the same again and again has one row an hour.
///
/// # Errors
///
/// [`crate::store::StoreError::Database`] when the database cannot be written.
pub async fn note_reading(
    connection: &mut SqliteConnection,
    actor: &str,
    asked: &Asked,
    outcome: &str,
    now: i64,
) -> Result<()> {
    let done = sqlx::query(
        "UPDATE commands SET count = count + 1, last_at = ?1 WHERE id = (SELECT id FROM commands \
         WHERE last_at > ?2 AND at > ?2 AND actor = ?3 AND verb = ?4 AND room_id = ?5 AND user_id = ?6 \
         AND outcome = ?7 LIMIT 1)",
    )
    .bind(now)
    .bind(now.saturating_sub(TOGETHER))
    .bind(actor)
    .bind(asked.verb)
    .bind(asked.room.as_ref().map_or("", |room| room.as_str()))
    .bind(asked.user.as_ref().map_or("", |user| user.as_str()))
    .bind(outcome)
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() > 0 {
        return Ok(());
    }
    note(connection, actor, asked, outcome, now).await
}

/// The commands that `filter` lets through, the newest last.
///
/// # Errors
///
/// [`crate::store::StoreError::Database`] when the database cannot be read.
pub async fn of_filter(
    connection: &mut SqliteConnection,
    filter: &CommandsFilter,
) -> Result<Vec<CommandRow>> {
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(
        "SELECT id, at, last_at, count, actor, verb, room_id, user_id, device_id, detail, outcome \
         FROM commands WHERE last_at >= ",
    );
    query.push_bind(filter.since.unwrap_or(i64::MIN));
    if let Some(room) = &filter.room {
        query.push(" AND room_id = ").push_bind(room.as_str());
    }
    if let Some(user) = &filter.user {
        query.push(" AND user_id = ").push_bind(user.as_str());
    }
    if let Some(before) = filter.before {
        query.push(" AND id < ").push_bind(before);
    }
    query.push(" ORDER BY id DESC LIMIT ");
    query.push_bind(i64::try_from(filter.newest.unwrap_or(u64::MAX)).unwrap_or(i64::MAX));
    let mut rows: Vec<CommandRow> = query.build_query_as().fetch_all(connection).await?;
    rows.reverse();
    Ok(rows)
}

/// Drops commands that were last given before `before` (milliseconds).
///
/// # Errors
///
/// [`crate::store::StoreError::Database`] when the database cannot be written.
pub async fn prune(connection: &mut SqliteConnection, before: i64) -> Result<()> {
    sqlx::query("DELETE FROM commands WHERE last_at < ?").bind(before).execute(connection).await?;
    Ok(())
}
