//! `homeserver`: the server that the keeper works for.

use ruma::OwnedServerName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::Duration;

/// The homeserver that the keeper belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Homeserver {
    /// Where the homeserver's client API is reached from here, without `/_matrix`.
    #[schemars(with = "String", extend("format" = "uri"))]
    pub address: Url,
    /// The server's name: what stands after the colon in its users' ids.
    #[schemars(with = "String", extend("format" = "matrix-server-name"))]
    pub domain: OwnedServerName,
    /// How long one request to the homeserver may take. A long poll has its own time on top.
    #[serde(default = "request_timeout")]
    pub request_timeout: Duration,
}

fn request_timeout() -> Duration {
    Duration::from_secs(30)
}
