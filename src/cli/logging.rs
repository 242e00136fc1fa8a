//! What is logged by `serve`, and how: to standard error, as text or as JSON.

use anyhow::{Context as _, anyhow};
use tracing_subscriber::{EnvFilter, filter::Builder};

use crate::config::{LogFormat, Logging};

/// Libraries whose warnings are about ordinary life (a device without keys, a slow statement), and
/// are reported by the keeper itself where they matter. `logging.level` can name them.
const QUIET: &str = "matrix_sdk_crypto=error,matrix_sdk_sqlite=error,sqlx=error";

/// Starts logging, once for the process.
///
/// # Errors
///
/// When the level is not one, or logging has been started already.
pub(super) fn start(logging: &Logging) -> anyhow::Result<()> {
    let filter = filter(&logging.level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match logging.format {
        LogFormat::Text => lines.with_ansi(false).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow!("logging cannot be started: {error}"))
}

/// What is configured, over the quiet libraries: of two directives for one module the later counts.
fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    Builder::default().parse(format!("{QUIET},{level}")).context("logging.level is not a level")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        let shown = filter("debug").unwrap().to_string();
        assert!(shown.contains("sqlx=error") && shown.contains("debug"), "{shown}");
        let shown = filter("info,sqlx=trace").unwrap().to_string();
        assert!(shown.contains("sqlx=trace") && !shown.contains("sqlx=error"), "{shown}");
    }
}
