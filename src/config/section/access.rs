//! `access`: who may command the keeper and who may invite it.

use ruma::OwnedUserId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::UserGlob;

/// Who may do what with the keeper.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// The users who may command the keeper.
    #[schemars(with = "Vec<String>", extend("items" = { "type": "string", "format": "matrix-user-id" }))]
    pub admins: Vec<OwnedUserId>,
    /// Whose invites the keeper accepts: patterns for whole user ids, with `*` for any text and
    /// `?` for any one character. By default the users of `homeserver.domain`. An empty list is
    /// nobody.
    #[schemars(extend("default" = ["*:<homeserver.domain>"]))]
    pub invite_from: Vec<UserGlob>,
    /// How many invites the keeper accepts from one inviter.
    pub invites: Budget,
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
