//! State in plain beside sealed state: when it counts, and what it tells.

use sqlx::SqliteConnection;

use super::{
    KeeperError,
    ingest::{Arrival, Taker},
};
use crate::{
    config::Seal,
    state::{Form, RoomEvent},
    store::{RoomRow, TupleRow, tuples},
};

/// Whether an event in plain counts although its tuple has something sealed.
///
/// Where the room does not say that its state is encrypted, clients go on sending theirs in plain, and the homeserver
/// has checked their power. Where it does, plain state is somebody's way around encryption, or an old client's.
///
/// The state of a room shows what stands in plain, and not when it came: there it counts only if it was never seen and
/// what stands under encryption is the keeper's seal of what stood in plain before.
pub(super) async fn counts(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    row: &TupleRow,
    event: &RoomEvent,
    arrival: Arrival,
) -> Result<bool, KeeperError> {
    let sealed_alone = room.flagged || taker.rules.of(room).seal != Seal::EncryptedRooms;
    if sealed_alone || event.sender == taker.keeper {
        return Ok(false);
    }
    if tuples::get_event(&taker.store, db, &event.event_id).await?.is_some() {
        return Ok(false);
    }
    let follows_plain = !row.redacted
        && row.source.as_ref().is_some_and(|source| source.form == Form::Plain)
        && row.current_sender.as_ref() == Some(&taker.keeper);
    Ok(arrival.live || follows_plain)
}

/// Warns of a reason in a membership event where policy says so: the homeserver reads it. Not of what stood there when
/// the state was fetched, so each event is warned of once.
pub(super) fn warn_reason(taker: &Taker, room: &RoomRow, event: &RoomEvent, arrival: Arrival) {
    let tells = event.content.get("reason").is_some_and(|reason| {
        reason.as_str().is_none_or(|reason| !reason.is_empty()) && !reason.is_null()
    });
    if !tells || !arrival.live || !room.state_encrypted {
        return;
    }
    if taker.rules.of(room).warn_membership_reasons {
        taker.metrics.membership_reason();
        tracing::warn!(room = %room.room_id, event = %event.event_id, sender = %event.sender,
            "a membership event gives a reason, which the homeserver can read");
    }
}
