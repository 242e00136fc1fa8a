//! End-to-end tests: a real Synapse, the real binary, stock clients on both SDKs, and clients
//! on no SDK at all.
//!
//! `tests/setup.sh` installs what they need.
// The futures of matrix-sdk are nested deeper than the default.
#![recursion_limit = "256"]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod support;

#[path = "e2e/asking.rs"]
mod asking;
#[path = "e2e/backup.rs"]
mod backup;
#[path = "e2e/copies.rs"]
mod copies;
#[path = "e2e/enforcing.rs"]
mod enforcing;
#[path = "e2e/entering.rs"]
mod entering;
#[path = "e2e/gone_back.rs"]
mod gone_back;
#[path = "e2e/independent.rs"]
mod independent;
#[path = "e2e/inviting.rs"]
mod inviting;
#[path = "e2e/kills.rs"]
mod kills;
#[path = "e2e/making.rs"]
mod making;
#[path = "e2e/management.rs"]
mod management;
#[path = "e2e/rotating.rs"]
mod rotating;
#[path = "e2e/sabotage.rs"]
mod sabotage;
#[path = "e2e/secrecy.rs"]
mod secrecy;
#[path = "e2e/service.rs"]
mod service;
#[path = "e2e/settings.rs"]
mod settings;
#[path = "e2e/spaces.rs"]
mod spaces;
