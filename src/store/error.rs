//! What can go wrong with the store.

/// Why the store could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database did not answer, or refused.
    #[error("the store's database failed: {0}; see whether its disk is full, writable and whole")]
    Database(#[from] sqlx::Error),
    /// The tables could not be brought to the shape that this version needs.
    #[error("the store could not be brought to this version's shape: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The passphrase does not open this store.
    #[error(
        "the passphrase does not open the store; give `store.passphrase` or `store.passphrase_file` \
         the one that the store was made with"
    )]
    WrongPassphrase,
    /// An encrypted column could not be read or written.
    #[error("an encrypted column of the store is damaged, or belongs to another store")]
    Cipher,
    /// A column holds what this version would never have written.
    #[error("the store holds an unusable {what}")]
    Corrupt {
        /// Which kind of thing.
        what: &'static str,
    },
}

/// Why a store that was good cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// Its disk is full.
    Full,
    /// It may only be read.
    ReadOnly,
    /// Something else: a broken disk, or somebody who writes for long.
    Other,
}

/// SQLite's codes for what waiting may mend: locked, read-only, a failed read or write, a full disk.
const MAY_PASS: [u32; 4] = [5, 8, 10, 13];

/// SQLite's code for a failed write into the file beside the database that its users share, which is how a full disk
/// shows itself when the store is opened (`SQLITE_IOERR_SHMSIZE`).
const NO_SPACE_TO_SHARE: u32 = 10 | 19 << 8;

impl StoreError {
    /// Whether the same may succeed later, with nobody changing the configuration: the disk is full, read-only or
    /// broken, or another process writes for long.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.code().is_some_and(|code| MAY_PASS.contains(&(code & 0xff)))
    }

    /// What is wrong, of one that [`StoreError::may_pass`].
    #[must_use]
    pub fn fault(&self) -> StoreFault {
        match self.code() {
            Some(NO_SPACE_TO_SHARE) => StoreFault::Full,
            Some(code) if code & 0xff == 13 => StoreFault::Full,
            Some(code) if code & 0xff == 8 => StoreFault::ReadOnly,
            _ => StoreFault::Other,
        }
    }

    /// SQLite's code: the lowest byte, of which the others say more.
    fn code(&self) -> Option<u32> {
        use sqlx::{Error::Database, migrate::MigrateError};
        let (Self::Database(Database(error))
        | Self::Migration(
            MigrateError::Execute(Database(error))
            | MigrateError::ExecuteMigration(Database(error), _),
        )) = self
        else {
            return None;
        };
        error.code()?.parse().ok()
    }

    /// For `map_err` where a stored `what` does not parse.
    pub(super) fn corrupt<E>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |_| Self::Corrupt { what }
    }
}
