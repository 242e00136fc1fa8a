//! Key requests: read from the wire, limited, and kept waiting in a fair order.
//!
//! - [`request`] reads an `m.room_key_request` that anybody may have sent;
//! - [`limits`] holds the budgets of devices, users, rooms and of everything together;
//! - [`queue`] parks what is over a budget, and says whose turn it is; [`turns`] is its order;
//! - [`fingerprint`] keeps identifiers at a fixed size, however long a stranger makes them.

pub mod fingerprint;
pub mod limits;
pub mod queue;
pub mod request;
mod turns;

#[cfg(test)]
mod tests;
