//! `statekeeper serve`: runs the keeper until it is told to end.

use std::path::Path;

use anyhow::Context as _;

use super::{check, logging};
use crate::keeper;

/// Runs the keeper. A mistake in the configuration or the registration ends it at once; a homeserver
/// that is down does not.
pub(super) fn run(path: &Path) -> anyhow::Result<()> {
    let (config, registration, source) = check::load(path)?;
    logging::start(&config.logging)?;
    for warning in registration.warnings(&source) {
        tracing::warn!(file = warning.source, key = warning.path, "{}", warning.message);
    }
    let file = path.to_owned();
    let reread = Box::new(move || check::load(&file).map(|(config, _, _)| config));
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")?
        .block_on(keeper::serve(config, registration, reread))
}
