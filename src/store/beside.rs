//! The store of a keeper that may be running, as an administrator's command sees it: nothing is made,
//! migrated or kept open here, and each change is one commit with the promise to act on it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use ruma::{DeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use secrecy::SecretString;
use sqlx::{
    Connection as _, Sqlite, SqliteConnection, Transaction,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};

use super::{
    BEGIN, History, HistoryFilter, HoldRow, MIGRATIONS, StoreError, kept_cipher, marks, people,
    reserve_ticks,
    rooms::{self, MemberRow, RoomRow},
    sessions::{self, Retired},
};
use crate::{policy::Word, state::Membership};

/// How long a command waits for the keeper to end a commit.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why an administrator's command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The file does not exist.
    #[error("{0}: there is no store yet; start the keeper once, with `statekeeper serve`")]
    NoStore(PathBuf),
    /// The file is no store, or one of another version.
    #[error(
        "{0}: the store is not of this version of Statekeeper; use the keeper's own binary, after \
         its first start"
    )]
    OtherVersion(PathBuf),
    /// The keeper is not in the room.
    #[error(
        "{0}: the keeper is in no such room; `statekeeper holds` lists rooms with held members"
    )]
    UnknownRoom(OwnedRoomId),
    /// The user is not in the room.
    #[error("{user}: is neither joined to nor invited into {room}, as far as the keeper knows")]
    NotThere {
        /// Where.
        room: OwnedRoomId,
        /// Who.
        user: OwnedUserId,
    },
    /// There is no such block.
    #[error("{0}: is not blocked, so nothing was changed")]
    NotBlocked(String),
    /// The identity is the one that was seen first.
    #[error("{0}: the keeper has seen no change of identity, so there is nothing to confirm")]
    Unchanged(OwnedUserId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for Refused {
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
    /// [`Refused::NoStore`] when there is none, [`Refused::OtherVersion`] when its tables are not those of
    /// this version, [`Refused::Store`] when it cannot be read.
    pub async fn open(path: &Path) -> Result<Self, Refused> {
        if !path.exists() {
            return Err(Refused::NoStore(path.to_owned()));
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(PATIENCE);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        if !is_of_this_version(&mut connection).await? {
            return Err(Refused::OtherVersion(path.to_owned()));
        }
        Ok(Self { connection, path: path.to_owned() })
    }

    /// What is known of a room; `None` when nothing is.
    ///
    /// # Errors
    ///
    /// [`Refused::Store`] when the store cannot be read.
    pub async fn room(&mut self, room: &RoomId) -> Result<Option<RoomRow>, Refused> {
        Ok(rooms::get(&mut self.connection, room).await?)
    }

    /// Who is held, the longest first.
    ///
    /// # Errors
    ///
    /// [`Refused::Store`] when the store cannot be read.
    pub async fn holds(&mut self) -> Result<Vec<HoldRow>, Refused> {
        Ok(people::holds(&mut self.connection, None).await?)
    }

    /// The ledger's history, as far as `filter` lets it through. From here on this store is for reading.
    ///
    /// # Errors
    ///
    /// [`Refused::NoStore`] when the keeper has not made its cipher yet, [`Refused::Store`] when `passphrase` does
    /// not open the store or it cannot be read.
    pub async fn history(
        &mut self,
        passphrase: &SecretString,
        filter: &HistoryFilter,
    ) -> Result<History<'_>, Refused> {
        sqlx::query("PRAGMA query_only = ON").execute(&mut self.connection).await?;
        let cipher = kept_cipher(&mut self.connection, passphrase).await?;
        let cipher = cipher.ok_or_else(|| Refused::NoStore(self.path.clone()))?;
        Ok(History::new(&mut self.connection, cipher, filter).await?)
    }

    /// Lets a member have a room's keys, at `now` (milliseconds), whatever was said before.
    ///
    /// # Errors
    ///
    /// [`Refused`] when the keeper is not in the room or the user is not, or the store fails.
    pub async fn approve(&mut self, room: &RoomId, user: &UserId, now: i64) -> Result<(), Refused> {
        let mut transaction = self.connection.begin_with(BEGIN).await?;
        if !is_present(known_member(&mut transaction, room, user).await?.as_ref()) {
            return Err(Refused::NotThere { room: room.to_owned(), user: user.to_owned() });
        }
        people::say(&mut transaction, room, user, Word::Approved, now).await?;
        promise(&mut transaction, &[room.to_owned()], user, now).await?;
        Ok(transaction.commit().await?)
    }

    /// Lets everybody have a room's keys who is joined to it, at `now` (milliseconds), and of whom nothing was said
    /// before. Returns who that is.
    ///
    /// # Errors
    ///
    /// [`Refused`] when the keeper is not in the room, or the store fails.
    pub async fn approve_all_present(
        &mut self,
        room: &RoomId,
        now: i64,
    ) -> Result<Vec<OwnedUserId>, Refused> {
        let mut transaction = self.connection.begin_with(BEGIN).await?;
        known_room(&mut transaction, room).await?;
        let said = people::People::of_room(&mut transaction, room, None).await?;
        let mut users = Vec::new();
        for member in rooms::present_members(&mut transaction, room).await? {
            if member.membership == Membership::Join && said.word(&member.user_id).is_none() {
                people::say(&mut transaction, room, &member.user_id, Word::Approved, now).await?;
                users.push(member.user_id);
            }
        }
        if !users.is_empty() {
            let tick = reserve_ticks(&mut transaction, 1).await?;
            marks::mark(&mut transaction, room, None, now, tick).await?;
        }
        transaction.commit().await?;
        Ok(users)
    }

    /// Refuses a user a room's keys, at `now` (milliseconds), whatever was said before. Returns whether the user
    /// is in the room.
    ///
    /// # Errors
    ///
    /// [`Refused`] when the keeper is not in the room, or the store fails.
    pub async fn deny(&mut self, room: &RoomId, user: &UserId, now: i64) -> Result<bool, Refused> {
        let mut transaction = self.connection.begin_with(BEGIN).await?;
        let member = known_member(&mut transaction, room, user).await?;
        people::say(&mut transaction, room, user, Word::Denied, now).await?;
        people::let_go(&mut transaction, room, Some(user)).await?;
        promise(&mut transaction, &[room.to_owned()], user, now).await?;
        transaction.commit().await?;
        Ok(is_present(member.as_ref()))
    }

    /// Refuses a user, or one device, the keys of all rooms, at `now` (milliseconds). Returns whether the keeper
    /// has ever heard of the user.
    ///
    /// # Errors
    ///
    /// [`Refused::Store`] when the store fails.
    pub async fn block(
        &mut self,
        user: &UserId,
        device: Option<&DeviceId>,
        now: i64,
    ) -> Result<bool, Refused> {
        let mut transaction = self.connection.begin_with(BEGIN).await?;
        people::block(&mut transaction, user, device, now).await?;
        promise_everywhere(&mut transaction, user, now).await?;
        let known = people::is_known(&mut transaction, user).await?;
        transaction.commit().await?;
        Ok(known)
    }

    /// Takes a block back, at `now` (milliseconds).
    ///
    /// # Errors
    ///
    /// [`Refused::NotBlocked`] when there is no such block; [`Refused::Store`] when the store fails.
    pub async fn unblock(
        &mut self,
        user: &UserId,
        device: Option<&DeviceId>,
        now: i64,
    ) -> Result<(), Refused> {
        let mut transaction = self.connection.begin_with(BEGIN).await?;
        if !people::unblock(&mut transaction, user, device).await? {
            let device = device.map(|device| format!(" {device}")).unwrap_or_default();
            return Err(Refused::NotBlocked(format!("{user}{device}")));
        }
        promise_everywhere(&mut transaction, user, now).await?;
        Ok(transaction.commit().await?)
    }

    /// Lets a user's new identity count, at `now` (milliseconds). Returns its public master key, base64.
    ///
    /// # Errors
    ///
    /// [`Refused::Unchanged`] when the keeper saw no new one; [`Refused::Store`] when the store fails.
    pub async fn confirm_identity(&mut self, user: &UserId, now: i64) -> Result<String, Refused> {
        let mut transaction = self.connection.begin_with(BEGIN).await?;
        let Some(key) = people::confirm_identity(&mut transaction, user, now).await? else {
            return Err(Refused::Unchanged(user.to_owned()));
        };
        promise_everywhere(&mut transaction, user, now).await?;
        transaction.commit().await?;
        Ok(key)
    }

    /// Retires all sessions of a room's state, at `now` (milliseconds). Returns how many those are.
    ///
    /// # Errors
    ///
    /// [`Refused`] when the keeper is not in the room, or the store fails.
    pub async fn rotate(&mut self, room: &RoomId, now: i64) -> Result<u64, Refused> {
        let mut transaction = self.connection.begin_with(BEGIN).await?;
        known_room(&mut transaction, room).await?;
        let retired = sessions::retire_all(&mut transaction, room, Retired::Admin, now).await?;
        let tick = reserve_ticks(&mut transaction, 1).await?;
        marks::mark(&mut transaction, room, None, now, tick).await?;
        transaction.commit().await?;
        Ok(retired)
    }

    /// Ends the connection, so that no file of SQLite's is left behind where no keeper runs.
    ///
    /// # Errors
    ///
    /// [`Refused::Store`] when it cannot be ended in good order.
    pub async fn close(self) -> Result<(), Refused> {
        Ok(self.connection.close().await?)
    }
}

async fn is_of_this_version(db: &mut SqliteConnection) -> Result<bool, Refused> {
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

/// A user's membership of a room that the keeper is in.
async fn known_member(
    db: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<Option<MemberRow>, Refused> {
    known_room(db, room).await?;
    Ok(rooms::get_member(db, room, user).await?)
}

/// That the keeper is in a room.
async fn known_room(db: &mut SqliteConnection, room: &RoomId) -> Result<(), Refused> {
    let known = rooms::get(db, room).await?;
    match known.filter(|known| known.membership == Membership::Join) {
        Some(_) => Ok(()),
        None => Err(Refused::UnknownRoom(room.to_owned())),
    }
}

fn is_present(member: Option<&MemberRow>) -> bool {
    member.is_some_and(|member| matches!(member.membership, Membership::Join | Membership::Invite))
}

async fn promise_everywhere(
    db: &mut Transaction<'_, Sqlite>,
    user: &UserId,
    now: i64,
) -> Result<(), Refused> {
    let rooms = rooms::rooms_of(db, user).await?;
    promise(db, &rooms, user, now).await
}

/// Promises to decide upon a user in rooms. The ticks are taken out like those of a start, so that none of the
/// running keeper's is among them: a promise that it is about to settle is made anew, not lost.
async fn promise(
    db: &mut Transaction<'_, Sqlite>,
    rooms: &[OwnedRoomId],
    user: &UserId,
    now: i64,
) -> Result<(), Refused> {
    let count = i64::try_from(rooms.len()).unwrap_or(i64::MAX);
    let first = reserve_ticks(db, count).await?;
    for (tick, room) in (first..).zip(rooms) {
        marks::mark(db, room, Some(user), now, tick).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
