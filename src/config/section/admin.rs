//! `admin`: the listener for health, metrics and the dashboard, the socket for the command line, and the management
//! room.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use ruma::OwnedRoomId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Dashboard;
use crate::config::Network;

/// What the operator reaches: the listener for `/health/live`, `/health/ready`, `/metrics` and the dashboard, which is
/// to be kept off public networks, the socket of the command line, and the management room.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
    /// The room, by its id, in which `access.admins` command the keeper and are told what needs them.
    /// Make it end-to-end encrypted: in one that is not, only what reads is answered. Invite the keeper
    /// into it.
    #[schemars(with = "Option<String>", extend("format" = "matrix-room-id"))]
    pub management_room: Option<OwnedRoomId>,
    /// The reverse proxies before the listener: addresses, or networks such as `10.1.2.0/30`. What they
    /// say of whoever they speak for is believed, and of nobody else. Name the proxies' own addresses alone
    /// and no network in which there is anybody else: whoever is in it would be believed as well.
    pub trusted_proxies: Vec<Network>,
    /// The web pages of the operator, under `/dashboard/`. There are none unless `token`, `token_file` or
    /// `user_header` is set.
    pub dashboard: Dashboard,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 29331)),
            socket: None,
            management_room: None,
            trusted_proxies: Vec::new(),
            dashboard: Dashboard::default(),
        }
    }
}
