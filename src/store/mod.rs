//! The store: one SQLite file, in WAL mode with full sync, in which whatever the keeper promised stands
//! before it is acknowledged to anybody.
//!
//! There is one writer connection, so a transaction here is never refused for another one's sake, and
//! a few readers beside it. Functions take the connection that they shall work on: what belongs into
//! one commit is called on one transaction.

mod apart;
pub mod asking;
mod beside;
pub mod bundles;
pub mod buried;
pub mod commands;
pub mod commissions;
pub mod companies;
pub mod copies;
mod error;
pub mod held_sessions;
pub mod imported;
pub mod inbox;
pub mod inherited;
pub mod invites;
pub mod key_requests;
pub mod ledger;
pub mod marks;
pub mod member_sessions;
pub mod orders;
pub mod outbox;
pub mod overview;
pub mod people;
pub mod places;
pub mod previewed_tuples;
pub mod previews;
pub mod renewal;
pub mod rooms;
pub mod sessions;
pub mod spaces;
pub mod successions;
pub mod talk;
pub mod tuples;
pub mod wars;

use std::{
    path::Path,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use matrix_sdk_store_encryption::StoreCipher;
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use self::{
    apart::{Apart, Unfit, copy_database, is_whole},
    asking::{AskRow, AskedRow, Wanted},
    beside::{Beside, NotBeside},
    bundles::{BundleRow, NewBundle, Secret, Superseded},
    buried::Buried,
    commands::{Asked, Command, CommandRow, CommandsFilter, Done, Refused},
    commissions::{Blueprint, CommissionKind, CommissionRow, KeptAs, SpaceLink, StateValue, Step},
    companies::Company,
    copies::PlainCopy,
    error::{StoreError, StoreFault},
    held_sessions::HeldSession,
    imported::ImportedKey,
    inbox::{InboxRow, LevelsThen, NewEvent},
    invites::{Ending, Invitee},
    key_requests::{AskedSession, KeyRequestRow},
    ledger::{Grant, GrantRow, History, HistoryFilter, HistoryRow, NewGrant, OutcomeKind, Refusal},
    marks::Mark,
    orders::Orders,
    outbox::{NewOutbox, OutboxKind, OutboxRow, PlainDetail, StateDetail, ToDeviceDetail},
    overview::{RoomOverview, TupleOverview},
    people::{HoldRow, Identity, People},
    previewed_tuples::Previewed,
    previews::{Backlog, Candidate, Round},
    rooms::{Inviter, MemberRow, RoomRow},
    sessions::{Over, Retired, SessionRow},
    spaces::{FollowedRow, SpaceRoomRow},
    successions::{Followed, SuccessionRow},
    talk::TalkRow,
    tuples::{SealedValue, SourceValue, StateEventRow, TupleRow},
};

/// The result of every store function.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What brings the tables to this version's shape.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/store/migrations");

/// Takes the right to write at once, and waits for it: what a transaction has read cannot become stale by
/// another process's commit.
const BEGIN: &str = "BEGIN IMMEDIATE";

/// Under which key it is kept whether an administrator has had everything decided and nothing sent.
const NOOP: &str = "noop";

/// How many ticks one start of the keeper may use before it reserves more; far beyond what it can.
const TICKS_PER_START: i64 = 1 << 40;

/// The keeper's own database.
#[derive(Clone)]
pub struct Store {
    writer: SqlitePool,
    reader: SqlitePool,
    cipher: Arc<StoreCipher>,
    tick: Arc<AtomicI64>,
    names: Arc<ledger::Cache>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database at `path`, makes it and its tables where they are missing, and unlocks the
    /// cipher of its encrypted columns with `passphrase`.
    ///
    /// # Errors
    ///
    /// [`StoreError::WrongPassphrase`] when the passphrase is not the one that the store was made with;
    /// [`StoreError::Database`] when the file cannot be opened, read or brought to this version's shape.
    pub async fn open(path: &Path, passphrase: &SecretString) -> Result<Self> {
        let options = SqliteConnectOptions::from_str("sqlite://")?
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let writer =
            SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        MIGRATIONS.run(&writer).await?;
        let reader = SqlitePoolOptions::new()
            .max_connections(4)
            .min_connections(1)
            .connect_with(options.read_only(true))
            .await?;

        let cipher = unlock(&writer, passphrase).await?;
        let mut transaction = writer.begin_with(BEGIN).await?;
        let tick = reserve_ticks(&mut transaction, TICKS_PER_START).await?;
        transaction.commit().await?;
        Ok(Self {
            writer,
            reader,
            cipher: Arc::new(cipher),
            tick: Arc::new(AtomicI64::new(tick)),
            names: Arc::default(),
        })
    }

    /// Begins a transaction on the one writer connection. Dropped without `commit`, it changes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Database`] when the database cannot be written.
    pub async fn begin(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.writer.begin_with(BEGIN).await?)
    }

    /// A connection that sees what is committed and writes nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Database`] when no connection can be had.
    pub async fn read(&self) -> Result<sqlx::pool::PoolConnection<Sqlite>> {
        Ok(self.reader.acquire().await?)
    }

    /// The next tick: greater than every tick before it, also over restarts.
    pub fn next_tick(&self) -> i64 {
        self.tick.fetch_add(1, Ordering::SeqCst)
    }

    /// Encrypts `value` for a BLOB column.
    ///
    /// # Errors
    ///
    /// [`StoreError::Cipher`] when it cannot be serialised.
    pub fn lock<T: Serialize>(&self, value: &T) -> Result<Vec<u8>> {
        self.cipher.encrypt_value(value).map_err(|_| StoreError::Cipher)
    }

    /// Decrypts the BLOB that [`Store::lock`] made.
    ///
    /// # Errors
    ///
    /// [`StoreError::Cipher`] when it was made with another key or is damaged.
    pub fn unlock<T: DeserializeOwned>(&self, blob: &[u8]) -> Result<T> {
        self.cipher.decrypt_value(blob).map_err(|_| StoreError::Cipher)
    }

    /// What is kept under `key`, or `None`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Database`] when the database cannot be read.
    pub async fn meta(&self, key: &str) -> Result<Option<String>> {
        meta(&mut *self.read().await?, key).await
    }

    /// Whether an administrator has had everything decided and nothing sent.
    ///
    /// # Errors
    ///
    /// [`StoreError::Database`] when the database cannot be read.
    pub async fn noop(&self) -> Result<bool> {
        Ok(self.meta(NOOP).await?.as_deref() == Some("on"))
    }

    /// A number that changes when another process has committed something since it was last asked for.
    ///
    /// # Errors
    ///
    /// [`StoreError::Database`] when the database cannot be read.
    pub async fn others_version(&self) -> Result<i64> {
        // On the writer's own connection, so that its own commits do not count.
        let (version,): (i64,) =
            sqlx::query_as("PRAGMA data_version").fetch_one(&self.writer).await?;
        Ok(version)
    }

    /// Writes everything that waits in the write-ahead log into the database and closes it.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// What is kept under `key`, or `None`; as part of the caller's transaction, where there is one.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn meta(connection: &mut sqlx::SqliteConnection, key: &str) -> Result<Option<String>> {
    let value: Option<(Vec<u8>,)> = sqlx::query_as("SELECT value FROM meta WHERE key = ?")
        .bind(key)
        .fetch_optional(connection)
        .await?;
    Ok(value.map(|(bytes,)| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Keeps `value` under `key`, as part of the caller's transaction.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn set_meta(
    connection: &mut sqlx::SqliteConnection,
    key: &str,
    value: &str,
) -> Result<()> {
    sqlx::query("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)")
        .bind(key)
        .bind(value.as_bytes())
        .execute(connection)
        .await?;
    Ok(())
}

async fn unlock(writer: &SqlitePool, passphrase: &SecretString) -> Result<StoreCipher> {
    if let Some(cipher) = kept_cipher(&mut *writer.acquire().await?, passphrase).await? {
        return Ok(cipher);
    }
    let cipher = StoreCipher::new().map_err(|_| StoreError::Cipher)?;
    let export = cipher.export(passphrase.expose_secret()).map_err(|_| StoreError::Cipher)?;
    sqlx::query("INSERT INTO meta (key, value) VALUES ('store_cipher', ?)")
        .bind(export)
        .execute(writer)
        .await?;
    Ok(cipher)
}

/// The cipher that the store was made with; `None` where it was not made yet.
async fn kept_cipher(
    connection: &mut sqlx::SqliteConnection,
    passphrase: &SecretString,
) -> Result<Option<StoreCipher>> {
    let kept: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT value FROM meta WHERE key = 'store_cipher'")
            .fetch_optional(connection)
            .await?;
    let Some((export,)) = kept else { return Ok(None) };
    StoreCipher::import(passphrase.expose_secret(), &export)
        .map(Some)
        .map_err(|_| StoreError::WrongPassphrase)
}

/// Takes `count` ticks out, greater than all that were taken out before, by whichever process. Returns the first.
async fn reserve_ticks(connection: &mut sqlx::SqliteConnection, count: i64) -> Result<i64> {
    let kept: Option<(Vec<u8>,)> = sqlx::query_as("SELECT value FROM meta WHERE key = 'ticks'")
        .fetch_optional(&mut *connection)
        .await?;
    let first =
        kept.and_then(|(bytes,)| String::from_utf8(bytes).ok()?.parse::<i64>().ok()).unwrap_or(1);
    set_meta(connection, "ticks", &first.saturating_add(count).to_string()).await?;
    Ok(first)
}

#[cfg(test)]
mod tests;
