//! The hidden commands that print what is generated: from the configuration's types, and from the metrics.

use super::output::say;
use crate::{admin::metrics, config::reference};

/// Prints the JSON schema.
pub(super) fn schema() -> anyhow::Result<()> {
    say(&reference::schema()?);
    Ok(())
}

/// Prints the sample.
pub(super) fn sample() -> anyhow::Result<()> {
    say(&reference::sample()?);
    Ok(())
}

/// Prints the reference.
pub(super) fn reference() -> anyhow::Result<()> {
    say(&reference::markdown()?);
    Ok(())
}

/// Prints what each metric means.
pub(super) fn metrics() -> anyhow::Result<()> {
    say(&metrics::reference::markdown()?);
    Ok(())
}
