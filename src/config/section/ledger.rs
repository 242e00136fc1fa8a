//! `ledger`: how long it is told who was given which key.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The history of keys given and refused. Who holds which key is remembered apart from it, and for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ledger {
    /// For how many days the history is kept.
    #[schemars(range(min = 1))]
    pub retention_days: u32,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { retention_days: 90 }
    }
}
