//! Statekeeper: a Matrix application service that sees to it that every device entitled to read a
//! room's encrypted state can read it at the moment it needs to, and that no other device can.
//!
//! A floor uses only the floors under it: `cli` and `admin` stand on `keeper`; `keeper` on `backup` and the four
//! neighbours `appservice`, `homeserver`, `crypto` and `store`; these on `policy` and `state`, which
//! are pure; and all of them on `config`.

pub mod admin;
pub mod appservice;
pub mod backup;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod homeserver;
pub mod keeper;
pub mod policy;
pub mod state;
pub mod store;
