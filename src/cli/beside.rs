//! What the commands of an administrator share: they work on the store beside a running keeper.

use std::path::Path;

use anyhow::Context as _;

use crate::{
    config::{Draft, environment},
    store::{Beside, Refused},
};

/// Opens the configuration's store, works on it, and closes it. The passphrase is not needed.
///
/// # Errors
///
/// When the configuration is wrong, there is no store of this version, or `work` is refused.
pub(super) fn run<T>(
    config: &Path,
    work: impl AsyncFnOnce(&mut Beside) -> Result<T, Refused>,
) -> anyhow::Result<T> {
    let config = Draft::read(config, &environment()).finish()?;
    let path = config.store.sqlite_path().context("store.url: names no SQLite file")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    runtime.block_on(async {
        let mut store = Beside::open(path).await?;
        let done = work(&mut store).await;
        let closed = store.close().await;
        let done = done?;
        closed?;
        Ok(done)
    })
}
