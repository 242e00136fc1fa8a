//! (to be written)

use crate::config::{Config, registration::Registration};

/// Runs the keeper until it is told to end.
///
/// # Errors
///
/// For now always: there is no keeper yet.
pub async fn serve(_config: Config, _registration: Registration) -> anyhow::Result<()> {
    anyhow::bail!("there is no keeper yet")
}
