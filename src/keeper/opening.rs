//! Opening what the keeper keeps on the disk.

use std::{path::Path, time::Duration};

use crate::{config::Config, store::Store};
use anyhow::Context;

/// How long a store that cannot be written is left alone before it is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(5);

/// Opens the store; one that cannot be written is tried again until it can.
///
/// # Errors
///
/// What is wrong with it, with the key of the configuration that names it.
pub(super) async fn open_store(config: &Config) -> anyhow::Result<Store> {
    let path = config.store.sqlite_path().context("store.url: names no SQLite file")?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("store.url: cannot make the folder {}", folder.display()))?;
    }
    let passphrase = config.store.read_passphrase().context("store.passphrase")?;
    loop {
        match Store::open(path, &passphrase).await {
            Err(error) if error.may_pass() => {
                tracing::error!(%error, path = %path.display(), wait = ?STORE_AGAIN,
                    "the store cannot be written; trying again");
                tokio::time::sleep(STORE_AGAIN).await;
            }
            opened => {
                return opened
                    .with_context(|| format!("store.url: cannot open {}", path.display()));
            }
        }
    }
}

/// Where the device's key store is: a folder beside the database.
pub(super) fn crypto_folder(database: &Path) -> std::path::PathBuf {
    let mut name = database.file_stem().unwrap_or_default().to_os_string();
    name.push("-crypto");
    database.with_file_name(name)
}
