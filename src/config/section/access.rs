//! `access`: who may command the keeper, who may invite it, and who may be given keys.

use ruma::OwnedUserId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{ServerGlob, UserGlob};

/// Who may do what with the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// The users who may command the keeper. They need nobody's word under `sharing.members`.
    #[schemars(with = "Vec<String>", extend("items" = { "type": "string", "format": "matrix-user-id" }))]
    pub admins: Vec<OwnedUserId>,
    /// Whose invites the keeper accepts: patterns for whole user ids, with `*` for any text and
    /// `?` for any one character. By default the users of `homeserver.domain`. An empty list is
    /// nobody.
    #[schemars(extend("default" = ["*:<homeserver.domain>"]))]
    pub invite_from: Vec<UserGlob>,
    /// Whose knocks the keeper accepts, in rooms with encrypted state where it may invite: patterns for
    /// whole user ids. It invites them, with the keys of the history that the room's members share
    /// (MSC4268). Nobody is let in whom somebody else had put out. An empty list is nobody.
    pub accept_knocks_from: Vec<UserGlob>,
    /// How many invites the keeper accepts from one inviter.
    pub invites: Budget,
    /// Who may be given keys: patterns for whole user ids. Somebody has to fit here and in
    /// `allow_servers`, and in neither list of the denied. An empty list is nobody.
    pub allow_users: Vec<UserGlob>,
    /// Who is never given a key, whatever room they are in: patterns for whole user ids.
    pub deny_users: Vec<UserGlob>,
    /// The servers whose users may be given keys: patterns for whole server names, whose case does
    /// not count. An empty list is no server.
    pub allow_servers: Vec<ServerGlob>,
    /// The servers whose users are never given a key, whatever their port.
    pub deny_servers: Vec<ServerGlob>,
}

/// How often something may happen: so many at once, and so many a minute over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// So many at once.
    #[schemars(range(min = 1))]
    pub burst: u32,
    /// So many a minute over time.
    #[schemars(range(min = 1))]
    pub per_minute: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { burst: 10, per_minute: 10 }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self {
            admins: Vec::new(),
            invite_from: Vec::new(),
            accept_knocks_from: Vec::new(),
            invites: Budget::default(),
            allow_users: "*".parse().into_iter().collect(),
            deny_users: Vec::new(),
            allow_servers: "*".parse().into_iter().collect(),
            deny_servers: Vec::new(),
        }
    }
}
