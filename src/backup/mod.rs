//! Backups of the store, made while the keeper runs, and put back where there is none.
//!
//! A backup is one file (`archive`): both databases, encrypted as a whole under a passphrase of its own. The databases are
//! copied by SQLite itself, each as it stands after some commit of its own (`copies`), in a folder beside the store that is
//! its owner's alone (`workplace`). **The store's database is copied first and the device's key store after it**: whatever
//! the keeper does with both, it does in the key store first and then notes it in the database, so the copies are to each
//! other what a kill in between would have left, and for that there are rules (`docs/ARCHITECTURE.md`). The other way
//! about, the database would speak of keys which the key store has never had.
//!
//! What is put back is older than what the keeper has done since, so it must not go on where it was: it says that the
//! next start has to make another device (`importing`).

mod archive;
mod copies;
mod error;
mod exporting;
mod importing;
mod room_keys;
mod workplace;

pub use self::{
    archive::{Manifest, Packed},
    error::BackupError,
    exporting::export_store,
    importing::{import_store, settle_import},
    room_keys::export_keys,
};

/// The version of a backup's form. One of a higher version is not read.
pub const FORMAT: u32 = 1;

/// The end of the name of the folder in which copies lie while a backup is made.
const EXPORT: &str = "-export";
/// The same while one is put back.
const IMPORT: &str = "-import";
/// The database's name in a backup.
const DATABASE: &str = "store.sqlite3";
/// The name there of the device's key store.
const KEY_STORE: &str = "key-store.sqlite3";
