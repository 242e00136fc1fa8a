//! The sections of the configuration, one file each.
//!
//! A field's documentation is what an operator reads: the JSON schema, the sample and the reference
//! are generated from it. Its `format` names the form of a text, for messages about a wrong one.

mod access;
mod admin;
mod appservice;
mod dashboard;
mod enforce;
mod homeserver;
mod ledger;
mod logging;
mod policies;
mod rate;
mod requests;
mod rotation;
mod secret;
mod sharing;
mod spaces;
mod state;
mod store;

pub use access::{Access, Budget};
pub use admin::Admin;
pub use appservice::{Appservice, Bot};
pub use dashboard::{Dashboard, DashboardSecrets, SecretError};
pub use enforce::{Action, Enforce};
pub use homeserver::Homeserver;
pub use ledger::Ledger;
pub use logging::{LogFormat, Logging};
pub use policies::{Match, Policy};
pub(super) use policies::{OVERALL, SECTIONS};
pub use rate::Rate;
pub use requests::{Limits, Requests};
pub use rotation::{RotateReseal, RotateWhen, Rotation};
pub use secret::read as read_secret;
pub use sharing::{Devices, Invitees, Members, Sharing};
pub use spaces::{AdminAssist, Invite, Preview, Space};
pub use state::{ExemptSealed, PlainCopy, Reseal, Seal, SessionScope, State};
pub use store::{PassphraseError, Store};
