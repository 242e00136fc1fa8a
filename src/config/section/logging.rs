//! `logging`: what is logged, and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is logged to standard error, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// The form of a line.
    pub format: LogFormat,
    /// The least level that is logged: `error`, `warn`, `info`, `debug`, `trace` or `off`, also for
    /// one module, like `info,statekeeper::keeper=debug`.
    #[schemars(extend("format" = "log-filter"))]
    pub level: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl Default for Logging {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}
