//! The application service's side of the homeserver: the transactions that it pushes, its pings and
//! its queries ([spec]).
//!
//! Only the room events of a transaction are used. To-device messages, device lists and key counts
//! come over `/sync`, because a homeserver forgets them when a transaction fails.
//!
//! [spec]: https://spec.matrix.org/v1.18/application-service-api/#server-admin-style-permissions

mod authorization;
mod error;
mod lingering;
mod listener;
mod outcome;
mod router;
mod sink;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transaction;

pub use listener::{DRAIN_TIMEOUT, Source, serve_router};
pub use outcome::{TransactionObserver, TransactionOutcome};
pub use router::{Options, Pings, serve};
pub use sink::{IncomingEvent, SinkError, TransactionSink};
