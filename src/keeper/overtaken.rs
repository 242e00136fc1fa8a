//! Events that were fetched because the homeserver had not told of them: they stand in the inbox behind others that came
//! after them in the room.
//!
//! One on which the keeper's own event landed is the newest that a member said, and is taken in as such. Where another
//! member has said something since, it is older than that, and counts only where what came after it was not allowed.

use ruma::UserId;
use sqlx::SqliteConnection;

use super::{KeeperError, ingest::Taker, state_events::read_again};
use crate::store::{RoomRow, StateEventRow, TupleRow, tuples};

/// Whether somebody else's event stands where a fetched one would.
pub(super) fn is_overtaken(row: &TupleRow, keeper: &UserId) -> bool {
    row.current_event_id.is_some() && row.current_sender.as_deref() != Some(keeper)
}

/// Takes a fetched event in behind the one that stands in its tuple; `fresh` is whether its index stood in no other.
pub(super) async fn take(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    row: &TupleRow,
    (mut seen, fresh): (StateEventRow, bool),
) -> Result<(), KeeperError> {
    let current = match &row.current_event_id {
        Some(current) => tuples::get_event(&taker.store, db, current).await?,
        None => None,
    };
    if let Some(current) = current {
        seen.tick = current.tick.saturating_sub(1);
    }
    tracing::info!(room = %room.room_id, event = %seen.event_id, event_type = seen.tuple.event_type,
        "a fetched event is older than what a member said since");
    if !fresh {
        seen.verdict = "superseded".to_owned();
        return Ok(tuples::put_event(&taker.store, db, &room.room_id, &seen).await?);
    }
    let at = seen.received_at;
    read_again(taker, db, room, seen, at).await
}
