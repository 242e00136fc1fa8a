//! Putting a backup back.
//!
//! Recovery: everything is unpacked and looked at beside the store's place. Then the folder with the key store is moved
//! there, and after it the database: where that is, there is a store. A kill before leaves the folder with the unpacked
//! files and, from the moment on when they are moved, a file in it that says so (`PLACING`). The next try removes what it
//! finds of that, and a keeper does not start with it.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use ruma::OwnedUserId;
use secrecy::SecretString;

use super::{
    BackupError, DATABASE, IMPORT, KEY_STORE, Manifest, archive,
    copies::Copies,
    error::file,
    workplace::{Workplace, beside},
};
use crate::{
    config::Config,
    crypto::{self, crypto_folder, owner_of},
    store::{Apart, Unfit},
};

/// Why the next start makes another device: the label that stands in the store.
const RESTORED: &str = "restored";
/// The file that says that the unpacked ones are being moved.
const PLACING: &str = "placing";
/// The folder with the key store, before it is moved.
const FOLDER: &str = "crypto";
/// The folder with a copy of it, which is looked at and changed by that.
const LOOKED_AT: &str = "looked-at";

/// Puts the backup `from`, made under `passphrase`, in the place of the configuration's store, where there is none. No
/// keeper may be running. All of it is put back or nothing.
///
/// # Errors
///
/// [`BackupError`] when there is a store, or says what is wrong with the backup.
pub async fn import_store(
    config: &Config,
    passphrase: &SecretString,
    from: &Path,
) -> Result<Manifest, BackupError> {
    let database = config.store.sqlite_path().ok_or(BackupError::NoPath)?;
    let keeper = config.bot_user_id()?;
    let own_passphrase = config.store.read_passphrase()?;
    let backup = File::open(from).map_err(file(from))?;
    let folder = database.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(file(folder))?;

    let workplace = Workplace::open(database, IMPORT)?;
    clean_up(database, &workplace)?;
    refuse_where_a_store_is(database)?;
    let of_this_keeper = |manifest: &Manifest| is_of(manifest, &keeper);
    let make = |name: &str| match name {
        DATABASE | KEY_STORE => Ok(workplace.create(name)?.1),
        _ => Err(BackupError::NoBackup("there is something else in it")),
    };
    let manifest = archive::unpack(backup, passphrase, of_this_keeper, make)?;
    examine(&workplace, &own_passphrase, &keeper).await?;
    let mut unpacked = Apart::open(&workplace.join(DATABASE)).await?;
    unpacked.renew_device(RESTORED).await?;
    unpacked.close().await?;
    put_in_place(database, &workplace)?;
    Ok(manifest)
}

/// Removes what an import left that was killed when all was in its place. Refuses to go on where not all was: a keeper
/// would begin with another device, and could not open the key store.
///
/// # Errors
///
/// [`BackupError::HalfMade`] then, [`BackupError::File`] when the system refuses.
pub fn settle_import(database: &Path) -> Result<(), BackupError> {
    let folder = beside(database, IMPORT);
    if !folder.join(PLACING).exists() {
        return Ok(());
    }
    match database.exists() {
        true => fs::remove_dir_all(&folder).map_err(file(&folder)),
        false => Err(BackupError::HalfMade(folder)),
    }
}

fn is_of(manifest: &Manifest, keeper: &OwnedUserId) -> Result<(), BackupError> {
    let names: Vec<&str> = manifest.files.iter().map(|packed| packed.name.as_str()).collect();
    if names != [DATABASE, KEY_STORE] {
        return Err(BackupError::NoBackup("it has not the files that a store is made of"));
    }
    is_same(&manifest.user_id, keeper)
}

fn is_same(there: &OwnedUserId, here: &OwnedUserId) -> Result<(), BackupError> {
    if there == here {
        return Ok(());
    }
    Err(BackupError::OtherKeeper { there: there.to_string(), here: here.to_string() })
}

/// Removes what an import left that was killed.
fn clean_up(database: &Path, workplace: &Workplace) -> Result<(), BackupError> {
    let folder = crypto_folder(database);
    if workplace.join(PLACING).exists() && !database.exists() && folder.exists() {
        fs::remove_dir_all(&folder).map_err(file(&folder))?;
    }
    workplace.clear()
}

fn refuse_where_a_store_is(database: &Path) -> Result<(), BackupError> {
    let named = |end: &str| {
        let mut name = database.file_name().unwrap_or_default().to_os_string();
        name.push(end);
        database.with_file_name(name)
    };
    // A log that is left of another database would be read into this one.
    let places = [database.to_owned(), named("-wal"), named("-shm"), crypto_folder(database)];
    let taken = places.into_iter().find(|path| path.symlink_metadata().is_ok());
    taken.map_or(Ok(()), |path| Err(BackupError::StoreIsThere(path)))
}

/// Looks at what was unpacked: whole, opened by the store's own passphrase, and this keeper's.
async fn examine(
    workplace: &Workplace,
    passphrase: &SecretString,
    keeper: &OwnedUserId,
) -> Result<(), BackupError> {
    let copies =
        Copies { database: workplace.join(DATABASE), key_store: workplace.join(KEY_STORE) };
    copies.examine(passphrase).await?;
    let folder = workplace.create_folder(LOOKED_AT)?;
    let copy = folder.join(crypto::KEY_STORE);
    fs::copy(&copies.key_store, &copy).map_err(file(&copy))?;
    // Of which of its devices does not matter: none of them goes on.
    is_same(&owner_of(&folder, passphrase).await?.ok_or(Unfit::NoStore)?, keeper)
}

/// Moves what was unpacked to where the keeper looks for it.
fn put_in_place(database: &Path, workplace: &Workplace) -> Result<(), BackupError> {
    let parent = database.parent().unwrap_or(Path::new("."));
    let (unpacked, target) = (workplace.create_folder(FOLDER)?, crypto_folder(database));
    let key_store = unpacked.join(crypto::KEY_STORE);
    fs::rename(workplace.join(KEY_STORE), &key_store).map_err(file(&key_store))?;
    sync(&workplace.join(DATABASE))?;
    sync(&unpacked)?;
    let (placing, _) = workplace.create(PLACING)?;
    sync(&workplace.join(""))?;
    fs::rename(&unpacked, &target).map_err(file(&target))?;
    sync(parent)?;
    // A link and no renaming: a database that a keeper has made meanwhile stays.
    match fs::hard_link(workplace.join(DATABASE), database) {
        Ok(()) => sync(parent),
        Err(error) => {
            fs::rename(&target, &unpacked).map_err(file(&target))?;
            fs::remove_file(&placing).map_err(file(&placing))?;
            Err(match error.kind() {
                io::ErrorKind::AlreadyExists => BackupError::StoreAppeared(database.to_owned()),
                _ => file(database)(error),
            })
        }
    }
}

fn sync(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|opened| opened.sync_all()).map_err(file(path))
}

#[cfg(test)]
mod tests;
