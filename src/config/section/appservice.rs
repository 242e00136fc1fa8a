//! `appservice`: how the homeserver reaches the keeper, and who the keeper is.

use std::{net::SocketAddr, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

/// The application service as the homeserver sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Appservice {
    /// The address and port to listen on for the homeserver's transactions.
    #[schemars(with = "String", extend("format" = "socket-address"))]
    pub listen: SocketAddr,
    /// Where the homeserver reaches this listener; `url` in the registration.
    #[schemars(with = "String", extend("format" = "uri"))]
    pub address: Url,
    /// The registration file, as `statekeeper registration` writes it.
    #[schemars(with = "String", extend("format" = "path"))]
    pub registration: PathBuf,
    /// The keeper's user. It is a user in the registration's namespace, never `sender_localpart`:
    /// homeservers answer `/sync` for the former alone.
    pub bot: Bot,
    /// The largest request body to accept, in bytes.
    #[serde(default = "max_body_size")]
    #[schemars(range(min = 1))]
    pub max_body_size: usize,
}

/// The keeper's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bot {
    /// What stands between `@` and the colon in the keeper's user id.
    #[schemars(with = "String", extend("format" = "matrix-localpart"))]
    pub localpart: String,
    /// The keeper's name in member lists.
    #[serde(default = "displayname")]
    pub displayname: String,
}

fn max_body_size() -> usize {
    50 * 1024 * 1024
}

fn displayname() -> String {
    "State Keeper".to_owned()
}
