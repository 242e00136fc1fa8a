//! What the commands of an administrator share: they work on the store beside a running keeper.

use std::path::Path;

use anyhow::Context as _;
use secrecy::SecretString;

use crate::{
    config::{Config, Draft, environment},
    store::Beside,
};

/// Opens the configuration's store, works on it, and closes it. The passphrase is not needed.
///
/// # Errors
///
/// When the configuration is wrong, there is no store of this version, or `work` fails.
pub(super) fn run<T, E: Into<anyhow::Error>>(
    config: &Path,
    work: impl AsyncFnOnce(&mut Beside) -> Result<T, E>,
) -> anyhow::Result<T> {
    work_on(&read(config)?, work)
}

/// The same with the passphrase, for what is encrypted in the store.
///
/// # Errors
///
/// Those of [`run`], and when there is no passphrase to be had.
pub(super) fn run_unlocked<T, E: Into<anyhow::Error>>(
    config: &Path,
    work: impl AsyncFnOnce(&mut Beside, &SecretString) -> Result<T, E>,
) -> anyhow::Result<T> {
    let config = read(config)?;
    let passphrase = config.store.read_passphrase().context("store.passphrase")?;
    work_on(&config, async |store: &mut Beside| work(store, &passphrase).await)
}

fn read(config: &Path) -> anyhow::Result<Config> {
    Ok(Draft::read(config, &environment()).finish()?)
}

fn work_on<T, E: Into<anyhow::Error>>(
    config: &Config,
    work: impl AsyncFnOnce(&mut Beside) -> Result<T, E>,
) -> anyhow::Result<T> {
    let path = config.store.sqlite_path().context("store.url: names no SQLite file")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    runtime.block_on(async {
        let mut store = Beside::open(path).await?;
        let done = work(&mut store).await;
        let closed = store.close().await;
        let done = done.map_err(Into::into)?;
        closed?;
        Ok(done)
    })
}
