//! The device's key store where no device works on it: a copy, for a backup or out of one.

use std::path::{Path, PathBuf};

use matrix_sdk_crypto::{CryptoStoreError, store::CryptoStore as _};
use matrix_sdk_sqlite::SqliteCryptoStore;
use matrix_sdk_store_encryption::StoreCipher;
use ruma::OwnedUserId;
use secrecy::{ExposeSecret, SecretString};
use sqlx::SqliteConnection;

use super::CryptoError;

/// The key store's file in its folder, as `matrix-sdk-sqlite` names it.
pub const KEY_STORE: &str = "matrix-sdk-crypto.sqlite3";

/// Where the device's key store is: a folder beside the database.
pub fn crypto_folder(database: &Path) -> PathBuf {
    let mut name = database.file_stem().unwrap_or_default().to_os_string();
    name.push("-crypto");
    database.with_file_name(name)
}

/// Whether there is a key store in a folder.
pub fn has_key_store(folder: &Path) -> bool {
    folder.join(KEY_STORE).is_file()
}

/// The cipher that the key store keeps in its own file, locked with the passphrase.
///
/// # Errors
///
/// [`CryptoError::Locked`] when the passphrase does not open it, [`CryptoError::File`] when it cannot be read.
pub async fn key_store_cipher(
    connection: &mut SqliteConnection,
    passphrase: &SecretString,
) -> Result<StoreCipher, CryptoError> {
    let (locked,): (Vec<u8>,) =
        sqlx::query_as("SELECT value FROM kv WHERE key = 'cipher'").fetch_one(connection).await?;
    let passphrase = passphrase.clone();
    // Deriving a key from a passphrase takes its time.
    let cipher = tokio::task::spawn_blocking(move || {
        StoreCipher::import(passphrase.expose_secret(), &locked)
    });
    cipher.await.ok().and_then(Result::ok).ok_or(CryptoError::Locked)
}

/// Whose the key store in `folder` is. Looking changes its files: it is for copies.
///
/// # Errors
///
/// [`CryptoError::Open`] when it does not open with `passphrase`, [`CryptoError::Store`] when it cannot be read.
pub async fn owner_of(
    folder: &Path,
    passphrase: &SecretString,
) -> Result<Option<OwnedUserId>, CryptoError> {
    let store = SqliteCryptoStore::open(folder, Some(passphrase.expose_secret()))
        .await
        .map_err(|error| CryptoError::Open(error.to_string()))?;
    let account = store.load_account().await;
    // Closed by itself when it is dropped as well, but not before somebody else opens it.
    let _ = store.close().await;
    let account = account.map_err(CryptoStoreError::from)?;
    Ok(account.map(|account| account.user_id().to_owned()))
}
