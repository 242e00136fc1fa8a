//! The store of a keeper that may be running, as an administrator's command sees it: nothing is made,
//! migrated or kept open here, and each change is one commit with the promise to act on it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ruma::RoomId;
use secrecy::SecretString;
use serde::Serialize;
use sqlx::{
    Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};

use super::{
    Asked, BEGIN, Command, CommandRow, CommandsFilter, Done, History, HistoryFilter, HoldRow,
    ImportedKey, MIGRATIONS, Refused, RoomOverview, StoreError, TupleOverview, commands, imported,
    kept_cipher, meta, overview, people,
    rooms::{self, RoomRow},
};

/// How long a command waits for the keeper to end a commit.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is nothing to work on beside a keeper.
#[derive(Debug, thiserror::Error)]
pub enum NotBeside {
    /// The file does not exist.
    #[error("{0}: there is no store yet; start the keeper once, with `statekeeper serve`")]
    NoStore(PathBuf),
    /// The file is no store, or one of another version.
    #[error(
        "{0}: the store is not of this version of Statekeeper; use the keeper's own binary, after \
         its first start"
    )]
    OtherVersion(PathBuf),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for NotBeside {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(StoreError::Database(error))
    }
}

/// A store beside its keeper.
#[derive(Debug)]
pub struct Beside {
    connection: SqliteConnection,
    path: PathBuf,
}

impl Beside {
    /// Opens the store at `path` as it is.
    ///
    /// # Errors
    ///
    /// [`NotBeside::NoStore`] when there is none, [`NotBeside::OtherVersion`] when its tables are not those of
    /// this version, [`NotBeside::Store`] when it cannot be read.
    pub async fn open(path: &Path) -> Result<Self, NotBeside> {
        if !path.exists() {
            return Err(NotBeside::NoStore(path.to_owned()));
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(PATIENCE);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        if !is_of_this_version(&mut connection).await? {
            return Err(NotBeside::OtherVersion(path.to_owned()));
        }
        Ok(Self { connection, path: path.to_owned() })
    }

    /// What is known of a room; `None` when nothing is.
    ///
    /// # Errors
    ///
    /// [`NotBeside::Store`] when the store cannot be read.
    pub async fn room(&mut self, room: &RoomId) -> Result<Option<RoomRow>, NotBeside> {
        Ok(rooms::get(&mut self.connection, room).await?)
    }

    /// The id of the keeper's device; `None` where it has not made one yet.
    ///
    /// # Errors
    ///
    /// [`NotBeside::Store`] when the store cannot be read.
    pub async fn device_id(&mut self) -> Result<Option<String>, NotBeside> {
        Ok(meta(&mut self.connection, "device_id").await?)
    }

    /// Who is held, the longest first.
    ///
    /// # Errors
    ///
    /// [`NotBeside::Store`] when the store cannot be read.
    pub async fn holds(&mut self) -> Result<Vec<HoldRow>, NotBeside> {
        Ok(people::holds(&mut self.connection, None, None).await?)
    }

    /// The ledger's history, as far as `filter` lets it through. From here on this store is for reading.
    ///
    /// # Errors
    ///
    /// [`NotBeside::NoStore`] when the keeper has not made its cipher yet, [`NotBeside::Store`] when `passphrase` does
    /// not open the store or it cannot be read.
    pub async fn history(
        &mut self,
        passphrase: &SecretString,
        filter: &HistoryFilter,
    ) -> Result<History<'_>, NotBeside> {
        sqlx::query("PRAGMA query_only = ON").execute(&mut self.connection).await?;
        let cipher = kept_cipher(&mut self.connection, passphrase).await?;
        let cipher = cipher.ok_or_else(|| NotBeside::NoStore(self.path.clone()))?;
        Ok(History::new(&mut self.connection, Arc::new(cipher), filter).await?)
    }

    /// Carries a command of `actor`'s out, at `now` (milliseconds): in one commit with the ledger's row about it,
    /// which there is of a refused one, too.
    ///
    /// # Errors
    ///
    /// [`Refused`] when there is nothing that it could be carried out on, or the store fails.
    pub async fn command(
        &mut self,
        actor: &str,
        command: &Command,
        now: i64,
    ) -> Result<Done, Refused> {
        let mut transaction = self.connection.begin_with(BEGIN).await?;
        let done = commands::carry_out(&mut transaction, command, now).await;
        if done.is_err() {
            transaction.rollback().await?;
            transaction = self.connection.begin_with(BEGIN).await?;
        }
        let outcome = commands::outcome(&done);
        commands::note(&mut transaction, actor, &command.asked(), &outcome, now).await?;
        transaction.commit().await?;
        done
    }

    /// Keeps keys that `actor` gives out of a file, at `now` (milliseconds), until the keeper can use them. Returns how
    /// many sessions they are of.
    ///
    /// # Errors
    ///
    /// [`NotBeside::NoStore`] when the keeper has not made its cipher yet, [`NotBeside::Store`] when `passphrase` does
    /// not open the store or it cannot be written.
    pub async fn import_keys<K: Serialize>(
        &mut self,
        passphrase: &SecretString,
        keys: impl IntoIterator<Item = ImportedKey<K>>,
        (actor, now): (&str, i64),
    ) -> Result<u64, NotBeside> {
        let cipher = kept_cipher(&mut self.connection, passphrase).await?;
        let cipher = cipher.ok_or_else(|| NotBeside::NoStore(self.path.clone()))?;
        let mut transaction = self.connection.begin_with(BEGIN).await?;
        let count = imported::put(&cipher, &mut transaction, keys, now).await?;
        let asked = Asked::about("import_keys", None, None);
        commands::note(&mut transaction, actor, &asked, "done", now).await?;
        transaction.commit().await?;
        Ok(count)
    }

    /// The commands that were given, as far as `filter` lets them through.
    ///
    /// # Errors
    ///
    /// [`NotBeside::Store`] when the store cannot be read.
    pub async fn commands(
        &mut self,
        filter: &CommandsFilter,
    ) -> Result<Vec<CommandRow>, NotBeside> {
        Ok(commands::of_filter(&mut self.connection, filter).await?)
    }

    /// The rooms with what can be counted in them, or this one alone.
    ///
    /// # Errors
    ///
    /// [`NotBeside::Store`] when the store cannot be read.
    pub async fn rooms(&mut self, room: Option<&RoomId>) -> Result<Vec<RoomOverview>, NotBeside> {
        Ok(overview::rooms(&mut self.connection, room).await?)
    }

    /// A room's state tuples.
    ///
    /// # Errors
    ///
    /// [`NotBeside::Store`] when the store cannot be read.
    pub async fn tuples(&mut self, room: &RoomId) -> Result<Vec<TupleOverview>, NotBeside> {
        Ok(overview::tuples(&mut self.connection, room, None).await?)
    }

    /// Ends the connection, so that no file of SQLite's is left behind where no keeper runs.
    ///
    /// # Errors
    ///
    /// [`NotBeside::Store`] when it cannot be ended in good order.
    pub async fn close(self) -> Result<(), NotBeside> {
        Ok(self.connection.close().await?)
    }
}

async fn is_of_this_version(db: &mut SqliteConnection) -> Result<bool, NotBeside> {
    let (made,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = '_sqlx_migrations')",
    )
    .fetch_one(&mut *db)
    .await?;
    if !made {
        return Ok(false);
    }
    let applied: Vec<(i64,)> =
        sqlx::query_as("SELECT version FROM _sqlx_migrations WHERE success = 1")
            .fetch_all(db)
            .await?;
    let applied: BTreeSet<i64> = applied.into_iter().map(|(version,)| version).collect();
    Ok(applied == MIGRATIONS.iter().map(|migration| migration.version).collect())
}

#[cfg(test)]
mod tests;
