//! Making a backup of a store.

use std::io::Write;

use secrecy::SecretString;

use super::{
    BackupError, DATABASE, EXPORT, FORMAT, KEY_STORE, Manifest, Packed, archive, copies::Copies,
    error::file, workplace::Workplace,
};
use crate::config::Config;

/// Writes a backup of the configuration's store into `out`, made at `now` (milliseconds), under `passphrase`. A keeper may
/// be working on the store. Returns what was written, which is the caller's to bring to the disk.
///
/// # Errors
///
/// [`BackupError`] when there is no store, it is not whole, or something cannot be read or written.
pub async fn export_store<W: Write>(
    config: &Config,
    passphrase: &SecretString,
    out: W,
    now: i64,
) -> Result<(Manifest, W), BackupError> {
    let database = config.store.sqlite_path().ok_or(BackupError::NoPath)?;
    if !database.exists() {
        return Err(BackupError::NoStore(database.to_owned()));
    }
    let workplace = Workplace::open(database, EXPORT)?;
    workplace.clear()?;
    let copies = Copies::take(database, &workplace).await?;
    let device_id = copies.examine(&config.store.read_passphrase()?).await?;
    let packed = |name: &str, path: &std::path::Path| {
        let size = path.metadata().map_err(file(path))?.len();
        Ok::<_, BackupError>(Packed { name: name.to_owned(), size })
    };
    let manifest = Manifest {
        format: FORMAT,
        made_by: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: now,
        user_id: config.bot_user_id()?,
        device_id,
        files: vec![packed(DATABASE, &copies.database)?, packed(KEY_STORE, &copies.key_store)?],
    };
    let paths = [copies.database.as_path(), copies.key_store.as_path()];
    let out = archive::pack(out, passphrase, &manifest, &paths)?;
    Ok((manifest, out))
}
