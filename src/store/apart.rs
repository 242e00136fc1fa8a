//! A database that no keeper works on: a copy of a store's, for a backup or out of one.

use std::{collections::BTreeSet, path::Path, time::Duration};

use ruma::OwnedRoomId;
use secrecy::SecretString;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{MIGRATIONS, StoreError, kept_cipher, meta, renewal, set_meta};

/// How long a copy waits for the keeper to end a commit.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a copy is no store that this version could go on with. No variant holds anything that stood in it.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// SQLite's own check found something.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// It has not the tables of a store.
    #[error("it is no database of Statekeeper's, or one that was never finished")]
    NoStore,
    /// A newer version has been there.
    #[error("a newer version of Statekeeper has worked on it; use that one")]
    Newer,
    /// It cannot be read, or the passphrase does not open it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for Unfit {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(StoreError::Database(error))
    }
}

/// A store's database apart from its keeper.
#[derive(Debug)]
pub struct Apart {
    connection: SqliteConnection,
}

impl Apart {
    /// Opens the database at `path`.
    ///
    /// # Errors
    ///
    /// [`Unfit::Store`] when there is none.
    pub async fn open(path: &Path) -> Result<Self, Unfit> {
        let options = SqliteConnectOptions::new().filename(path).create_if_missing(false);
        Ok(Self { connection: SqliteConnection::connect_with(&options).await? })
    }

    /// Whether it is whole, this version can go on with it, and `passphrase` opens it.
    ///
    /// # Errors
    ///
    /// [`Unfit`] says what is wrong with it.
    pub async fn examine(&mut self, passphrase: &SecretString) -> Result<(), Unfit> {
        is_whole(&mut self.connection).await?;
        let db = &mut self.connection;
        let (made,): (bool,) = sqlx::query_as(
            "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = '_sqlx_migrations')",
        )
        .fetch_one(&mut *db)
        .await?;
        if !made {
            return Err(Unfit::NoStore);
        }
        let applied: Vec<(i64,)> =
            sqlx::query_as("SELECT version FROM _sqlx_migrations").fetch_all(&mut *db).await?;
        let known: BTreeSet<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        if applied.iter().any(|(version,)| !known.contains(version)) {
            return Err(Unfit::Newer);
        }
        kept_cipher(db, passphrase).await?.map(drop).ok_or(Unfit::NoStore)
    }

    /// The id of the keeper's device; `None` where it has not made one yet.
    ///
    /// # Errors
    ///
    /// [`Unfit::Store`] when the database cannot be read.
    pub async fn device_id(&mut self) -> Result<Option<String>, Unfit> {
        Ok(meta(&mut self.connection, renewal::DEVICE).await?)
    }

    /// From the next start on the keeper has another device, because of `why`.
    ///
    /// # Errors
    ///
    /// [`Unfit::Store`] when the database cannot be written.
    pub async fn renew_device(&mut self, why: &str) -> Result<(), Unfit> {
        Ok(set_meta(&mut self.connection, renewal::DUE, why).await?)
    }

    /// The keeper's own state sessions, each with its room: the session key, in base64, from the index on at which this
    /// store knows it.
    ///
    /// # Errors
    ///
    /// [`Unfit::Store`] when the database cannot be read, or `passphrase` does not open it.
    pub async fn state_keys(
        &mut self,
        passphrase: &SecretString,
    ) -> Result<Vec<(OwnedRoomId, String)>, Unfit> {
        let db = &mut self.connection;
        let cipher = kept_cipher(db, passphrase).await?.ok_or(Unfit::NoStore)?;
        let rows: Vec<(String, String, Vec<u8>)> = sqlx::query_as(
            "SELECT room_id, session_id, snapshot FROM tuples WHERE snapshot IS NOT NULL \
             ORDER BY message_index",
        )
        .fetch_all(db)
        .await?;
        let (mut known, mut keys) = (BTreeSet::new(), Vec::new());
        for (room, session, locked) in rows {
            // The first of a session's reaches back the furthest.
            if known.insert((room.clone(), session)) {
                let room = room.try_into().map_err(StoreError::corrupt("room id"))?;
                keys.push((room, cipher.decrypt_value(&locked).map_err(|_| StoreError::Cipher)?));
            }
        }
        Ok(keys)
    }

    /// Ends the connection.
    ///
    /// # Errors
    ///
    /// [`Unfit::Store`] when it cannot be ended in good order.
    pub async fn close(self) -> Result<(), Unfit> {
        Ok(self.connection.close().await?)
    }
}

/// Copies the database at `from`, on which others may be working, as it stands after some commit, into the empty file
/// `to`. What was deleted from it is not in the copy.
///
/// # Errors
///
/// [`sqlx::Error`] when the one cannot be read or the other not be written.
pub async fn copy_database(from: &Path, to: &Path) -> sqlx::Result<()> {
    let options =
        SqliteConnectOptions::new().filename(from).create_if_missing(false).busy_timeout(PATIENCE);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let to =
        to.to_str().ok_or_else(|| sqlx::Error::Configuration("the path is not UTF-8".into()))?;
    let copied = sqlx::query("VACUUM INTO ?").bind(to).execute(&mut connection).await;
    let closed = connection.close().await;
    copied?;
    closed
}

/// SQLite's own check.
///
/// # Errors
///
/// [`Unfit::Damaged`] with the first thing that it found.
pub async fn is_whole(connection: &mut SqliteConnection) -> Result<(), Unfit> {
    let (found,): (String,) =
        sqlx::query_as("PRAGMA integrity_check(1)").fetch_one(connection).await?;
    if found != "ok" {
        return Err(Unfit::Damaged(found));
    }
    Ok(())
}
