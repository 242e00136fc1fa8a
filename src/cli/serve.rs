//! `statekeeper serve`: runs the keeper until it is told to end.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use tokio::runtime::Runtime;

use super::{check, logging};
use crate::keeper::{self, Ended, Signals};

/// How long the runtime of a life that is over may take to end.
const END: Duration = Duration::from_secs(5);

/// Runs the keeper. A mistake in the configuration or the registration ends it at once; a homeserver
/// that is down does not.
pub(super) fn run(path: &Path) -> anyhow::Result<()> {
    let (mut config, mut registration, source) = check::load(path)?;
    logging::start(&config.logging)?;
    for warning in registration.warnings(&source) {
        tracing::warn!(file = warning.source, key = warning.path, "{}", warning.message);
    }
    let mut life = runtime()?;
    let mut signals = {
        let _inside = life.enter();
        Signals::new()?
    };
    loop {
        let file = path.to_owned();
        let reread = Box::new(move || check::load(&file).map(|(config, _, _)| config));
        let ended = life.block_on(keeper::serve(config, registration, reread, &mut signals))?;
        if ended == Ended::AsTold {
            return Ok(());
        }
        tracing::warn!("the keeper begins anew");
        // All that this life has begun ends with its runtime.
        let next = runtime()?;
        std::mem::replace(&mut life, next).shutdown_timeout(END);
        (config, registration, _) = check::load(path)?;
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}
