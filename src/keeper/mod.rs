//! The engine: happenings in, intents out, intents performed.
//!
//! - [`ingest`] and [`state_events`] take events in, from the inbox into what is known;
//! - [`decide`] says what has to be done about a room: a pure function;
//! - [`enforcing`] holds the rules that the homeserver cannot hold for hidden state, [`restating`] brings clients back
//!   to what stands in plain;
//! - [`lane`] visits one room at a time, [`scheduler`] many side by side; [`performing`] does what was decided, by way of
//!   [`sharing`], [`seal`] and [`outbox`], and [`closing`] settles what was promised;
//! - [`rotation`] retires what somebody holds who went, [`handing_over`] gives out what follows;
//! - [`resting`] remembers rooms where nobody lacks anything;
//! - [`standing`] says whether a room's state is sealed, [`plain`] what plain state counts for beside it;
//! - [`people`] knows what was seen of members and what administrators said of them;
//! - [`permits`] and [`pacing`] say what may be done at once and what waits;
//! - [`asking`] asks members for the keys of what the keeper cannot read;
//! - [`keys`] lets go of members' keys that are needed no more;
//! - [`heartbeat`] says what the long poll last said of the keeper's own device;
//! - [`hearing`] judges key requests, [`answering`] and [`forwarding`] give what was asked for;
//! - [`meeting`] makes a newcomer's devices known before he is decided upon;
//! - [`operator`] answers those who operate the keeper;
//! - [`listen`] hears to-device messages and device lists; [`service`] starts and ends all of it.

mod answering;
mod asking;
pub mod clock;
mod closing;
pub mod decide;
mod enforcing;
mod error;
mod forwarding;
mod handing_over;
mod hearing;
pub mod heartbeat;
pub mod ingest;
mod keys;
mod knowledge;
pub mod lane;
mod letters;
mod listen;
mod meeting;
pub mod operator;
pub mod outbox;
pub mod pacing;
mod people;
mod performing;
mod permits;
mod places;
mod plain;
pub mod reload;
pub mod requests;
mod restating;
mod resting;
mod rooms;
mod rotation;
pub mod rotation_pace;
pub mod rule_book;
pub mod rules;
pub mod scheduler;
mod seal;
mod service;
mod sharing;
mod standing;
mod state_events;
mod upkeep;

pub use self::{error::KeeperError, service::serve};
