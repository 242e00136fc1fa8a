//! The configuration and the registration: what an operator wrote, checked and typed.
//!
//! A configuration is read in one go by [`Config::load`]: the YAML file, then the environment over
//! it, then every mistake in either. Nothing after that needs to doubt a value.

mod defaults;
mod doubt;
mod duration;
mod environment;
mod glob;
mod load;
mod mistake;
mod network;
mod origins;
mod policies;
pub mod reference;
pub mod registration;
mod section;
mod validate;
mod walk;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use duration::{Duration, DurationError};
pub use environment::{Environment, environment};
pub use glob::{AliasGlob, GlobError, ServerGlob, TypeGlob, UserGlob};
pub use load::Draft;
pub use mistake::{ConfigErrors, Mistake};
pub use network::{Network, NetworkError};
pub use origins::{Origin, Origins};
pub use section::{
    Access, Action, Admin, AdminAssist, Appservice, Bot, Budget, Dashboard, DashboardSecrets,
    Devices, Enforce, ExemptSealed, Homeserver, Invite, Invitees, Ledger, Limits, LogFormat,
    Logging, Match, Members, PassphraseError, PlainCopy, Policy, Preview, Rate, Requests, Reseal,
    RotateReseal, RotateWhen, Rotation, Seal, SecretError, SessionScope, Sharing, Space, State,
    Store, read_secret,
};

/// Everything that an operator may set.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The homeserver that the keeper belongs to.
    pub homeserver: Homeserver,
    /// The application service as the homeserver sees it.
    pub appservice: Appservice,
    /// The database, and the passphrase that encrypts key material in it.
    #[serde(default)]
    pub store: Store,
    /// What the operator reaches: the listener for `/health/live`, `/health/ready`, `/metrics` and the
    /// dashboard, which is to be kept off public networks, the socket of the command line, and the
    /// management room.
    #[serde(default)]
    pub admin: Admin,
    /// Who may do what with the keeper.
    #[serde(default)]
    pub access: Access,
    /// To whom the keeper gives the keys of encrypted state, and when it refreshes that state.
    #[serde(default)]
    pub sharing: Sharing,
    /// How requests for keys are answered, and how many of them.
    #[serde(default)]
    pub requests: Requests,
    /// How the keeper seals the state of rooms.
    #[serde(default)]
    pub state: State,
    /// When a state session is retired, whichever comes first, and what follows. The departure of
    /// somebody who held its key retires it as well.
    #[serde(default)]
    pub rotation: Rotation,
    /// What the keeper does about encrypted state that breaks a rule, from gentle to firm. What was
    /// redacted is never restored.
    #[serde(default)]
    pub enforce: Enforce,
    /// Whether everything is decided and reported, and nothing sent: for the first days of a keeper.
    #[serde(default)]
    pub noop: bool,
    /// What differs from room to room: a list, of which the first entry that matches a room counts
    /// for it. What that entry leaves out is as at the top level, and so is everything in a room that
    /// no entry matches. What holds in all of these may also be written under `defaults`, in the same
    /// sections as here.
    #[serde(default)]
    pub policies: Vec<Policy>,
    /// The spaces that the keeper follows: a list. One that an administrator (`access.admins`) invites
    /// the keeper into is followed as well, as if it stood here and nothing but its id.
    #[serde(default)]
    pub spaces: Vec<Space>,
    /// The history of keys given and refused. Who holds which key is remembered apart from it, and for
    /// ever.
    #[serde(default)]
    pub ledger: Ledger,
    /// What is logged to standard error, and how.
    #[serde(default)]
    pub logging: Logging,
}

impl Config {
    /// Where the socket of the command line is: `admin.socket`, or beside the store.
    ///
    /// `None` where neither says, which validation has excluded in a loaded configuration.
    pub fn socket_path(&self) -> Option<std::path::PathBuf> {
        let beside = || self.store.sqlite_path().map(|path| path.with_extension("sock"));
        self.admin.socket.clone().or_else(beside)
    }

    /// The keeper's user id, `@<appservice.bot.localpart>:<homeserver.domain>`.
    ///
    /// # Errors
    ///
    /// When the two do not make a user id, which validation has excluded in a loaded configuration.
    pub fn bot_user_id(&self) -> Result<ruma::OwnedUserId, ruma::IdParseError> {
        let localpart = &self.appservice.bot.localpart;
        ruma::UserId::parse(format!("@{localpart}:{}", self.homeserver.domain))
    }
}
