//! Events that were fetched because the homeserver had not told of them: they stand in the inbox behind others that came
//! after them in the room.
//!
//! One on which the keeper's own event landed is the newest that a member said, and is taken in as such. Where another
//! member has said something since, it is older than that, and counts only where what came after it was not allowed.
//!
//! What an event landed on is what stood there where the homeserver attached it to the room's history. While a member's
//! is being written that may be what the member's replaces, so the newest events are asked which of the two is newer.

use ruma::{OwnedEventId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{KeeperError, enforcing::keep, ingest::Taker, rooms::LOOK_BACK, weighing::read_again};
use crate::{
    homeserver::Homeserver,
    state::RoomEvent,
    store::{RoomRow, StateEventRow, TupleRow, tuples},
};

/// A member's event for the same tuple that is newer than this fetched one, among the room's newest.
///
/// # Errors
///
/// [`KeeperError`] when the homeserver is away.
pub(super) async fn newer(
    taker: &Taker,
    homeserver: &Homeserver,
    room_id: &RoomId,
    body: &str,
) -> Result<Option<OwnedEventId>, KeeperError> {
    let Ok(fetched) = RoomEvent::parse_str(body) else { return Ok(None) };
    let newest = match homeserver.recent_events(room_id, LOOK_BACK).await {
        Ok(newest) => newest,
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(_) => return Ok(None),
    };
    let rivals = newest.iter().filter_map(|body| RoomEvent::parse_str(body.get()).ok());
    let newest = rivals.into_iter().find(|event| {
        event.event_type == fetched.event_type
            && event.state_key == fetched.state_key
            && event.sender != taker.keeper
    });
    Ok(newest.map(|newest| newest.event_id).filter(|newest| *newest != fetched.event_id))
}

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
    // Where the keeper's own event stands, the newest of a member is what came after this one.
    let newest = tuples::newest_tick(db, &room.room_id, &seen.tuple).await?;
    if let Some(tick) = current.map(|current| current.tick).or(newest) {
        seen.tick = tick.saturating_sub(1);
    }
    tracing::info!(room = %room.room_id, event = %seen.event_id, event_type = seen.tuple.event_type,
        "a fetched event is older than what a member said since");
    if !fresh {
        seen.verdict = "superseded".to_owned();
        seen.awaits = false;
        return keep(taker, db, room, &seen).await;
    }
    let at = seen.received_at;
    read_again(taker, db, room, seen, at).await
}
