//! A homeserver in memory, for races and for scale.
//!
//! It speaks the part of the client-server and application-service API that the keeper uses, and
//! its users' devices do real cryptography, so that a test can say what a device can read rather
//! than what it was sent. Everything is under one lock and on one clock ([`World::tick`]): "before"
//! and "after" between a request, its answer and an event are comparisons of two numbers.
//!
//! What it is not: a judge of what a homeserver does. Where it differs from a real one, the real
//! one is right, and the end-to-end tests are there to tell.

// Each test and benchmark uses a part of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod asking;
pub mod builder;
pub mod crypto;
pub mod device;
pub mod disk;
pub mod e2ee;
pub mod faults;
pub mod flood;
pub mod history;
pub mod http;
pub mod keeper;
pub mod making;
pub mod measure;
#[path = "../support/ports.rs"]
pub mod ports;
pub mod push;
pub mod queries;
pub mod requests;
pub mod room;
pub mod rooms_api;
pub mod routes;
pub mod server;
pub mod sim;
pub mod stand_in;
pub mod sync;
pub mod withholding;
pub mod world;
pub mod yardstick;

pub use asking::{Withheld, look_alikes};
pub use builder::{DeviceRef, RoomRef, UserRef};
pub use crypto::Trust;
pub use faults::Fault;
pub use flood::{Attack, Flood};
pub use keeper::Keeper;

pub use sim::{Registration, Sim};
pub use world::World;
