//! What the commands of an administrator share: they ask the running keeper, and where none runs, or for what needs
//! none, they work on the store beside it.

use std::{fs::Metadata, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::Context as _;
use secrecy::SecretString;

use super::running::{self, Heard, other_answer};
use crate::{
    config::{Config, Draft, environment},
    keeper::{
        clock::now_ms,
        operator::{Answer, Caller, Query, Request},
    },
    store::{Beside, Command, Done},
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
    let config = read(config)?;
    block_on(work_on(&config, work))
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
    block_on(work_on(&config, async |store: &mut Beside| work(store, &passphrase).await))
}

/// Asks the running keeper.
///
/// # Errors
///
/// When the configuration is wrong, no keeper runs, or it refuses.
pub(super) fn ask(config: &Path, request: impl Into<Request>) -> anyhow::Result<Answer> {
    let (config, request) = (read(config)?, request.into());
    block_on(async { running::ask(&config, &request).await?.answer() })
}

/// Asks the running keeper; where none runs, `otherwise` answers from the store.
///
/// # Errors
///
/// When the configuration is wrong, the keeper refuses, or there is no store of this version.
pub(super) fn ask_or<E: Into<anyhow::Error>>(
    config: &Path,
    query: Query,
    otherwise: impl AsyncFnOnce(&mut Beside) -> Result<Answer, E>,
) -> anyhow::Result<Answer> {
    let config = read(config)?;
    block_on(async {
        match running::ask(&config, &query.into()).await? {
            Heard::Answer(answer) => Ok(*answer),
            Heard::Nobody { .. } => work_on(&config, otherwise).await,
        }
    })
}

/// Has a command carried out: by the running keeper, or on the store where none runs.
///
/// # Errors
///
/// When the configuration is wrong, the command is refused, or there is no store of this version.
pub(super) fn command(config: &Path, command: Command) -> anyhow::Result<Done> {
    let config = read(config)?;
    block_on(async {
        match running::ask(&config, &command.clone().into()).await? {
            Heard::Answer(answer) => match *answer {
                Answer::Done(done) => Ok(done),
                _ => Err(other_answer()),
            },
            Heard::Nobody { .. } => {
                let actor = caller().to_string();
                let work =
                    async |store: &mut Beside| store.command(&actor, &command, now_ms()).await;
                work_on(&config, work).await
            }
        }
    })
}

/// Who calls this process.
pub(super) fn caller() -> Caller {
    let user = std::fs::metadata("/proc/self").as_ref().map(Metadata::uid).unwrap_or(u32::MAX);
    Caller::Machine(user)
}

/// Reads the configuration.
///
/// # Errors
///
/// When it is wrong.
pub(super) fn read(config: &Path) -> anyhow::Result<Config> {
    Ok(Draft::read(config, &environment()).finish()?)
}

pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?
        .block_on(work)
}

async fn work_on<T, E: Into<anyhow::Error>>(
    config: &Config,
    work: impl AsyncFnOnce(&mut Beside) -> Result<T, E>,
) -> anyhow::Result<T> {
    let path = config.store.sqlite_path().context("store.url: names no SQLite file")?;
    let mut store = Beside::open(path).await?;
    let done = work(&mut store).await;
    let closed = store.close().await;
    let done = done.map_err(Into::into)?;
    closed?;
    Ok(done)
}
