//! Where the events of a transaction go.

use std::{error::Error, fmt};

use ruma::{OwnedEventId, OwnedRoomId};
use serde_json::value::RawValue;

/// A room event as the homeserver pushed it: enough of it is understood to store it, no more.
#[derive(Clone)]
pub struct IncomingEvent {
    /// The event's id, by which repeats are told.
    pub event_id: OwnedEventId,
    /// The room that it belongs to.
    pub room_id: OwnedRoomId,
    /// The whole event as JSON, unchanged: a JSON object that may be wrong in every other respect.
    pub body: Box<RawValue>,
}

// By hand: a body is content, and content is not for logs.
impl fmt::Debug for IncomingEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingEvent")
            .field("event_id", &self.event_id)
            .field("room_id", &self.room_id)
            .finish_non_exhaustive()
    }
}

/// Why events could not be taken. The homeserver hears only that it has to try again; the cause is
/// for the log.
#[derive(Debug, thiserror::Error)]
#[error("the events of a transaction could not be stored")]
pub struct SinkError(#[source] Box<dyn Error + Send + Sync>);

impl SinkError {
    /// An error with the cause that the log will show.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

/// Takes what the homeserver pushes. The one real implementation is the inbox.
pub trait TransactionSink: Send + Sync + 'static {
    /// Stores `events`, in their order, before it returns: the homeserver is answered with 200
    /// right after, and forgets them.
    ///
    /// Repeats are told by event id, never by transaction id, because a homeserver may count those
    /// from 1 again. The number returned is of the events that were not known before.
    ///
    /// The future is dropped when the homeserver hangs up, so the events must be stored all
    /// together or not at all.
    ///
    /// # Errors
    /// When the events could not be stored; the homeserver repeats the transaction later.
    fn accept(
        &self,
        events: Vec<IncomingEvent>,
    ) -> impl Future<Output = Result<usize, SinkError>> + Send;
}
