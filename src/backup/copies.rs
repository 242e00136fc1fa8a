//! Copies of a store's two databases.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{BackupError, DATABASE, KEY_STORE, workplace::Workplace};
use crate::{
    crypto::{self, CryptoError, crypto_folder, has_key_store, key_store_cipher},
    store::{Apart, Unfit, copy_database, is_whole},
};

/// Where the copies are.
pub(super) struct Copies {
    pub(super) database: PathBuf,
    pub(super) key_store: PathBuf,
}

impl Copies {
    /// Copies the databases of the store at `database`, on which a keeper may be working: the store's own first.
    ///
    /// # Errors
    ///
    /// [`BackupError`] when there are none, or they cannot be copied.
    pub(super) async fn take(database: &Path, workplace: &Workplace) -> Result<Self, BackupError> {
        if !database.exists() {
            return Err(BackupError::NoStore(database.to_owned()));
        }
        let folder = crypto_folder(database);
        if !has_key_store(&folder) {
            return Err(BackupError::NoDevice(database.to_owned()));
        }
        Ok(Self {
            database: copy(database, workplace, DATABASE).await?,
            key_store: copy(&folder.join(crypto::KEY_STORE), workplace, KEY_STORE).await?,
        })
    }

    /// Makes sure that they are whole and that the store's passphrase opens them. Returns the device's id.
    ///
    /// # Errors
    ///
    /// [`BackupError`] says what is wrong with them.
    pub(super) async fn examine(&self, passphrase: &SecretString) -> Result<String, BackupError> {
        let mut database = Apart::open(&self.database).await?;
        database.examine(passphrase).await?;
        let device_id = database.device_id().await?;
        database.close().await?;
        let options =
            SqliteConnectOptions::new().filename(&self.key_store).create_if_missing(false);
        let mut key_store =
            SqliteConnection::connect_with(&options).await.map_err(CryptoError::from)?;
        is_whole(&mut key_store).await?;
        key_store_cipher(&mut key_store, passphrase).await?;
        key_store.close().await.map_err(CryptoError::from)?;
        Ok(device_id.ok_or(Unfit::NoStore)?)
    }
}

async fn copy(from: &Path, workplace: &Workplace, name: &str) -> Result<PathBuf, BackupError> {
    let (to, _) = workplace.create(name)?;
    let copied = copy_database(from, &to).await;
    copied.map_err(|source| BackupError::NotCopied { path: from.to_owned(), source })?;
    Ok(to)
}
