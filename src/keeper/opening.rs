//! Opening what the keeper keeps on the disk.

use std::time::Duration;

use anyhow::Context;

use super::clock::now_ms;
use crate::{
    admin::{Trouble, Troubles},
    backup,
    config::Config,
    store::{Store, StoreFault},
};

/// How long a store that cannot be written is left alone before it is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(5);

/// Opens the store; one that cannot be written is tried again until it can.
///
/// # Errors
///
/// What is wrong with it, with the key of the configuration that names it.
pub(super) async fn open_store(config: &Config, troubles: &Troubles) -> anyhow::Result<Store> {
    let path = config.store.sqlite_path().context("store.url: names no SQLite file")?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("store.url: cannot make the folder {}", folder.display()))?;
    }
    backup::settle_import(path).context("store.url")?;
    let passphrase = config.store.read_passphrase().context("store.passphrase")?;
    loop {
        match Store::open(path, &passphrase).await {
            Err(error) if error.may_pass() => {
                let trouble = trouble_of(error.fault());
                only(troubles, Some(trouble));
                tracing::error!(%error, path = %path.display(), wait = ?STORE_AGAIN,
                    mend = trouble.mend(), "the store cannot be written; trying again");
                tokio::time::sleep(STORE_AGAIN).await;
            }
            opened => {
                only(troubles, None);
                return opened
                    .with_context(|| format!("store.url: cannot open {}", path.display()));
            }
        }
    }
}

fn trouble_of(fault: StoreFault) -> Trouble {
    match fault {
        StoreFault::Full => Trouble::StoreFull,
        StoreFault::ReadOnly => Trouble::StoreReadOnly,
        StoreFault::Other => Trouble::Store,
    }
}

/// This is what is wrong with the store, and nothing else.
fn only(troubles: &Troubles, found: Option<Trouble>) {
    for trouble in [Trouble::StoreFull, Trouble::StoreReadOnly, Trouble::Store] {
        troubles.set(trouble, found == Some(trouble), now_ms());
    }
}
