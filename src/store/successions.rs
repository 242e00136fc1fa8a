//! Rooms that go on in others, as both sides say.

use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::{Result, StoreError};

/// A room that goes on in another, as the old one says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuccessionRow {
    /// The room that has ended.
    pub old_id: OwnedRoomId,
    /// The one that it goes on in.
    pub new_id: OwnedRoomId,
    /// Through which server it may be joined.
    pub via: Option<OwnedServerName>,
    /// How often joining it was tried in vain.
    pub attempts: i64,
}

/// What became of following a succession.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// The keeper is in the successor.
    Joined,
    /// The homeserver does not let it in.
    CannotJoin,
    /// Nor has it ever, however often that was tried.
    GivenUp,
}

impl Followed {
    fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::CannotJoin => "cannot_join",
            Self::GivenUp => "given_up",
        }
    }
}

impl SuccessionRow {
    fn load(row: &SqliteRow) -> Result<Self> {
        let id = |column: &str| -> Result<OwnedRoomId> {
            let id: String = row.try_get(column)?;
            id.try_into().map_err(StoreError::corrupt("room id"))
        };
        let via: Option<String> = row.try_get("via")?;
        Ok(Self {
            old_id: id("old_id")?,
            new_id: id("new_id")?,
            via: via.and_then(|name| ServerName::parse(name).ok()),
            attempts: row.try_get("attempts")?,
        })
    }
}

/// The old room says, by `tombstone`, that it goes on in the new one. What it said before counts no more, but for rooms
/// that say the same. Returns whether it is news.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn say(
    connection: &mut SqliteConnection,
    (old, new): (&RoomId, &RoomId),
    tombstone: &str,
    via: Option<&ServerName>,
) -> Result<bool> {
    unsay(connection, old, Some(new)).await?;
    let done = sqlx::query(
        "INSERT INTO successions (old_id, new_id, tombstone, via) VALUES (?, ?, ?, ?) \
         ON CONFLICT (old_id, new_id) DO UPDATE SET tombstone = excluded.tombstone, \
         via = excluded.via WHERE tombstone IS NULL",
    )
    .bind(old.as_str())
    .bind(new.as_str())
    .bind(tombstone)
    .bind(via.map(ServerName::as_str))
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The old room does not say any more that it goes on in a room, but for `but`; rooms that say so themselves stay.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn unsay(
    connection: &mut SqliteConnection,
    old: &RoomId,
    but: Option<&RoomId>,
) -> Result<()> {
    sqlx::query("DELETE FROM successions WHERE old_id = ? AND new_id <> ? AND claimed = 0")
        .bind(old.as_str())
        .bind(but.map_or("", RoomId::as_str))
        .execute(connection)
        .await?;
    Ok(())
}

/// The new room says that it goes on with the old one.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn claim(
    connection: &mut SqliteConnection,
    (old, new): (&RoomId, &RoomId),
) -> Result<()> {
    sqlx::query(
        "INSERT INTO successions (old_id, new_id, claimed) VALUES (?, ?, 1) \
         ON CONFLICT (old_id, new_id) DO UPDATE SET claimed = 1",
    )
    .bind(old.as_str())
    .bind(new.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// The room that both sides say this one goes on with.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn predecessor(
    connection: &mut SqliteConnection,
    new: &RoomId,
) -> Result<Option<OwnedRoomId>> {
    let row: Option<(String,)> = sqlx::query_as(
        "SELECT old_id FROM successions \
         WHERE new_id = ? AND claimed = 1 AND tombstone IS NOT NULL LIMIT 1",
    )
    .bind(new.as_str())
    .fetch_optional(connection)
    .await?;
    row.map(|(id,)| id.try_into().map_err(StoreError::corrupt("room id"))).transpose()
}

/// Whether some room says that it goes on in this one.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn is_announced(connection: &mut SqliteConnection, new: &RoomId) -> Result<bool> {
    let (any,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM successions WHERE new_id = ? AND tombstone IS NOT NULL)",
    )
    .bind(new.as_str())
    .fetch_one(connection)
    .await?;
    Ok(any)
}

/// Successors that the keeper is to join now, those that wait longest first.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn due(
    connection: &mut SqliteConnection,
    now: i64,
    most: i64,
) -> Result<Vec<SuccessionRow>> {
    let rows = sqlx::query(
        "SELECT * FROM successions WHERE tombstone IS NOT NULL \
         AND status NOT IN ('joined', 'given_up') AND retry_at <= ? ORDER BY retry_at LIMIT ?",
    )
    .bind(now)
    .bind(most)
    .fetch_all(connection)
    .await?;
    rows.iter().map(SuccessionRow::load).collect()
}

/// Following a succession is put off to `retry_at` (milliseconds), and was not tried.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put_off(
    connection: &mut SqliteConnection,
    row: &SuccessionRow,
    retry_at: i64,
) -> Result<()> {
    sqlx::query("UPDATE successions SET retry_at = ? WHERE old_id = ? AND new_id = ?")
        .bind(retry_at)
        .bind(row.old_id.as_str())
        .bind(row.new_id.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes what became of following a succession, and when that is tried again.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn conclude(
    connection: &mut SqliteConnection,
    row: &SuccessionRow,
    followed: Followed,
    retry_at: i64,
) -> Result<()> {
    sqlx::query(
        "UPDATE successions SET status = ?, attempts = attempts + 1, retry_at = ? \
         WHERE old_id = ? AND new_id = ?",
    )
    .bind(followed.as_str())
    .bind(retry_at)
    .bind(row.old_id.as_str())
    .bind(row.new_id.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// What administrators said of users in the old room holds in the new one, where they said nothing there.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn carry_words(
    connection: &mut SqliteConnection,
    (old, new): (&RoomId, &RoomId),
) -> Result<()> {
    sqlx::query(
        "INSERT OR IGNORE INTO words (room_id, user_id, approved, said_at) \
         SELECT ?, user_id, approved, said_at FROM words WHERE room_id = ?",
    )
    .bind(new.as_str())
    .bind(old.as_str())
    .execute(connection)
    .await?;
    Ok(())
}
