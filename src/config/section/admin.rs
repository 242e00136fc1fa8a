//! `admin`: the listener for health and metrics, and the socket for the command line.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator reaches: the listener for `/health/live`, `/health/ready` and `/metrics`, which is to be kept
/// off public networks, and the socket of the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// The address and port to listen on.
    #[schemars(with = "String", extend("format" = "socket-address"))]
    pub listen: SocketAddr,
    /// The Unix socket through which the command line speaks to the running keeper. Only the keeper's
    /// own user of the machine, and root, may use it. By default beside the store, with `.sock` at its
    /// end.
    #[schemars(with = "Option<String>", extend("format" = "path"))]
    pub socket: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 29331)), socket: None }
    }
}
