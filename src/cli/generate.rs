//! The hidden `config-*` commands: what is generated from the configuration's types.

use super::output::say;
use crate::config::reference;

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
