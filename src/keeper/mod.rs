//! The engine: happenings in, intents out, intents performed.
//!
//! - [`ingest`] and [`state_events`] take events in, from the inbox into what is known; [`weighing`] says what becomes of
//!   what members sealed, and the [`journal`] keeps all of it;
//! - [`decide`] says what has to be done about a room: a pure function;
//! - [`enforcing`] holds the rules that the homeserver cannot hold for hidden state, [`restating`] brings clients back
//!   to what stands in plain, [`wars`] stops where somebody goes on and on;
//! - [`lane`] visits one room at a time, [`scheduler`] many side by side; [`performing`] does what was decided, by way of
//!   [`sharing`], [`seal`] and [`outbox`], and [`closing`] settles what was promised;
//! - [`rotation`] retires what somebody holds who went, [`handing_over`] gives out what follows;
//! - [`gone_back`] notices a store that was put back from an older copy, by the mark that each [`life`] leaves, too; [`renewal`] makes another device then, and
//!   [`buried`] finds what was sealed in the life that the store does not know;
//! - [`hindsight`] asks which power levels stood when what it finds was sent;
//! - [`resting`] remembers rooms where nobody lacks anything;
//! - [`overtaken`] takes in what was fetched behind what came after it, [`unshown`] what came while a state was fetched
//!   that does not show it;
//! - [`echoes`] falls silent where somebody answers the keeper for ever;
//! - [`standing`] says whether a room's state is sealed, [`plain`] what plain state counts for beside it;
//! - [`copies`] keeps what stands in plain beside it as policy wants it;
//! - [`people`] knows what was seen of members and what administrators said of them;
//! - [`spaces`] follows spaces, and provides for those who may join a room and have not;
//! - [`succession`] follows rooms into those that they go on in;
//! - [`permits`] and [`pacing`] say what may be done at once and what waits;
//! - [`asking`] asks members for the keys of what the keeper cannot read;
//! - [`keys`] lets go of members' keys that are needed no more;
//! - [`heartbeat`] says what the long poll last said of the keeper's own device, [`vigil`] looks after it;
//! - [`hearing`] judges key requests, [`answering`] and [`forwarding`] give what was asked for;
//! - [`commissions`] makes rooms for administrators;
//! - [`inherited`] takes the history that whoever invited the keeper gives it;
//! - [`management`] reads what administrators write in the management room, and answers;
//! - [`meeting`] makes a newcomer's devices known before he is decided upon;
//! - [`operator`] answers those who operate the keeper;
//! - [`opening`] opens what is on the disk; [`reaching`] waits for the homeserver; [`listen`] hears to-device messages and device lists; [`service`] starts and
//!   ends all of it.

mod answering;
mod asking;
mod buried;
pub mod clock;
mod closing;
pub mod commissions;
mod copies;
pub mod decide;
pub mod echoes;
pub mod enforcing;
mod error;
mod forwarding;
pub mod gone_back;
mod handing_over;
mod hearing;
pub mod heartbeat;
mod hindsight;
mod imported;
pub mod ingest;
mod inherited;
mod journal;
mod judging;
mod keys;
pub mod knowledge;
pub mod lane;
mod letters;
mod life;
mod listen;
mod management;
mod meeting;
mod opening;
pub mod operator;
pub mod outbox;
mod overtaken;
pub mod pacing;
mod parts;
pub mod people;
pub mod performing;
mod permits;
mod places;
mod plain;
mod reaching;
pub mod redaction;
pub mod reload;
pub mod renewal;
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
pub mod sharing;
pub mod spaces;
mod standing;
mod state_events;
mod succession;
mod unshown;
mod upkeep;
mod vigil;
mod wars;
mod weighing;

pub use self::{
    error::KeeperError,
    service::{Ended, Signals, serve},
    vigil::APART,
};
