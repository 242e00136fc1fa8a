//! The room keys of a store, for a file that every client reads: members' sessions, and those of the keeper's own from the
//! index on at which it knows them.

use std::fs;

use secrecy::SecretString;

use super::{BackupError, EXPORT, copies::Copies, error::file, workplace::Workplace};
use crate::{
    config::Config,
    crypto::{self, KeySnapshot, RoomKeys},
    store::{Apart, Unfit},
};

/// The room keys in the configuration's store. A keeper may be working on it.
///
/// # Errors
///
/// [`BackupError`] when there is no store, or it cannot be read.
pub async fn export_keys(config: &Config) -> Result<RoomKeys, BackupError> {
    let database = config.store.sqlite_path().ok_or(BackupError::NoPath)?;
    if !database.exists() {
        return Err(BackupError::NoStore(database.to_owned()));
    }
    let passphrase = config.store.read_passphrase()?;
    let workplace = Workplace::open(database, EXPORT)?;
    workplace.clear()?;
    let copies = Copies::take(database, &workplace).await?;
    copies.examine(&passphrase).await?;
    let own = own_keys(&copies, &passphrase).await?;
    let folder = workplace.create_folder("crypto")?;
    let key_store = folder.join(crypto::KEY_STORE);
    fs::rename(&copies.key_store, &key_store).map_err(file(&key_store))?;
    let (mut keys, maker) = RoomKeys::of_key_store(&folder, &passphrase).await?;
    let maker = maker.ok_or(Unfit::NoStore)?;
    for (room, snapshot) in own {
        if !keys.add_own(maker, room.clone(), &snapshot) {
            tracing::warn!(%room, "a key of the keeper's own could not be read");
        }
    }
    Ok(keys)
}

async fn own_keys(
    copies: &Copies,
    passphrase: &SecretString,
) -> Result<Vec<(ruma::OwnedRoomId, KeySnapshot)>, BackupError> {
    let mut database = Apart::open(&copies.database).await?;
    let keys = database.state_keys(passphrase).await?;
    database.close().await?;
    Ok(keys.into_iter().map(|(room, key)| (room, KeySnapshot::from_base64(key))).collect())
}
