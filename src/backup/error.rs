//! What can go wrong with a backup.

use std::{io, path::PathBuf};

use super::FORMAT;
use crate::{
    config::PassphraseError,
    crypto::CryptoError,
    store::{StoreError, Unfit},
};

/// Why a backup could not be made or put back. No variant holds a passphrase or anything that stood in a store.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no store to make one of.
    #[error("{0}: there is no store yet, and nothing to make a backup of")]
    NoStore(PathBuf),
    /// The keeper was never so far as to have a device.
    #[error("{0}: the keeper has no device yet, and there is nothing to make a backup of")]
    NoDevice(PathBuf),
    /// There is a store, which would be lost.
    #[error(
        "{0}: is there already, and belongs to a store; a backup is put back where there is none. \
         Stop the keeper, and move the store away: the database, whatever has its name and `-wal` or `-shm` at its \
         end, and the folder with `-crypto` at its end"
    )]
    StoreIsThere(PathBuf),
    /// A keeper appeared while the backup was being put back.
    #[error("{0}: a keeper has made a store there meanwhile; stop it, and move its store away")]
    StoreAppeared(PathBuf),
    /// Another process is at the same.
    #[error("{0}: another export or import is at work there; wait until it ended")]
    Busy(PathBuf),
    /// An import did not come to its end.
    #[error(
        "{0}: an import of a backup did not come to its end; run `statekeeper import store` again, or remove this \
         folder and the one with `-crypto` at its end to begin with nothing"
    )]
    HalfMade(PathBuf),
    /// The store in the configuration is no SQLite file.
    #[error("store.url: names no SQLite file")]
    NoPath,
    /// The configuration names no keeper.
    #[error("appservice.bot.localpart: {0}")]
    Keeper(#[from] ruma::IdParseError),
    /// The store's own passphrase is not to be had.
    #[error("store.passphrase: {0}")]
    Passphrase(#[from] PassphraseError),
    /// The backup does not open.
    #[error(
        "the backup does not open: the passphrase is not the one that it was made with, or the file is damaged at its \
         beginning"
    )]
    DoesNotOpen,
    /// The file is none of ours.
    #[error("this is no backup of a store: {0}")]
    NoBackup(&'static str),
    /// The file ends before its end, or something in it was changed.
    #[error("the backup is damaged or not whole: {0}")]
    Damaged(io::Error),
    /// A later version has made it.
    #[error(
        "the backup is of format {0}, and this version of Statekeeper reads up to {FORMAT}; use the one that made it"
    )]
    NewerFormat(u32),
    /// It is another keeper's.
    #[error("the backup is of {there}'s store, and the configuration's keeper is {here}")]
    OtherKeeper {
        /// Whose it is.
        there: String,
        /// Who was to have it.
        here: String,
    },
    /// What is in it is not fit to go on with.
    #[error("the store's database: {0}")]
    Unfit(#[from] Unfit),
    /// The device's part of it is not fit to go on with.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// A database could not be copied.
    #[error("{path}: cannot be copied: {source}")]
    NotCopied {
        /// Which.
        path: PathBuf,
        /// What SQLite said.
        source: sqlx::Error,
    },
    /// Something on the disk could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The backup could not be written.
    #[error("the backup could not be written: {0}")]
    NotWritten(io::Error),
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        Self::Unfit(error.into())
    }
}

/// For `map_err` where the system refuses something about `path`.
pub(super) fn file(path: &std::path::Path) -> impl FnOnce(io::Error) -> BackupError {
    move |source| BackupError::File { path: path.to_owned(), source }
}
