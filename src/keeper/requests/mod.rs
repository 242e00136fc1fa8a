//! Key requests: read from the wire, limited, and kept waiting in a fair order.
//!
//! - [`request`] reads an `m.room_key_request` that anybody may have sent;
//! - [`limits`] holds the budgets of devices, users, rooms and of everything together;
//! - [`queue`] parks what is over a budget, and says whose turn it is; [`turns`] is its order;
//! - [`early`] keeps what came before its sender was heard of;
//! - [`desk`] is where all of them wait until the visit that answers them;
//! - [`fingerprint`] keeps identifiers at a fixed size, however long a stranger makes them.

pub mod desk;
mod early;
pub mod fingerprint;
pub mod limits;
pub mod queue;
pub mod request;
mod turns;

/// What became of a key request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The key was given.
    Answered,
    /// The device was told why it gets none, now or before.
    Withheld,
    /// The device was given the key a short while ago.
    Repeated,
    /// The same request was here already.
    Duplicate,
    /// It was taken back.
    Cancelled,
    /// It had no place to wait for its turn.
    Dropped,
    /// Whoever asked has no business with that key, or none that is known.
    Silence,
    /// It was none that a device sends.
    Malformed,
}

impl Outcome {
    /// Every outcome there is.
    pub const ALL: [Self; 8] = [
        Self::Answered,
        Self::Withheld,
        Self::Repeated,
        Self::Duplicate,
        Self::Cancelled,
        Self::Dropped,
        Self::Silence,
        Self::Malformed,
    ];

    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Withheld => "withheld",
            Self::Repeated => "repeated",
            Self::Duplicate => "duplicate",
            Self::Cancelled => "cancelled",
            Self::Dropped => "dropped",
            Self::Silence => "silence",
            Self::Malformed => "malformed",
        }
    }
}

#[cfg(test)]
mod tests;
