//! What the keeper sealed in a life of which its store knows nothing: because the store went back in time, or was lost.
//! Nobody here can open it, and what a member said may be in it alone as far as the store knows; so nothing is sealed in
//! its place before it is known what it was made from.
//!
//! Each event says which one it replaced. Under the keeper's own events there is one of a member's, which is taken in as
//! one that the homeserver never told of; or one of the keeper's that the store knows, and then the store knows the value;
//! or nothing, and then it was made from what stands in plain.
//!
//! Where none of it can be read, the value is gone, for the keeper: those who can read it go on reading it, and it is as
//! good as ever once somebody sets it anew.

use sqlx::SqliteConnection;

use super::{
    KeeperError,
    ingest::{Arrival, Taker},
    state_events::tuple_row,
};
use crate::{
    state::{RoomEvent, StateTuple},
    store::{RoomRow, TupleRow, buried, inbox, marks, rooms, tuples},
};

/// How many of the keeper's own events are looked under, at most: each is a request or two.
const DEEPEST: i64 = 200;

/// Takes in that such an event stands in a tuple's place.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn take(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    row: &mut TupleRow,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let known = buried::get(db, &room.room_id, &row.tuple).await?;
    row.current_fit = known.is_some_and(|it| it.found && it.event_id == event.event_id.as_str());
    if buried::put(db, &room.room_id, &row.tuple, &event.event_id, arrival.at).await? {
        tracing::warn!(room = %room.room_id, event = %event.event_id, event_type = row.tuple.event_type,
            "the keeper sealed a value which its store does not know; looking for what it was made from");
        dig(taker, db, room, event, row, arrival).await?;
    }
    Ok(())
}

/// Looks at what an event of the keeper's own replaced.
async fn dig(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    row: &mut TupleRow,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let (room_id, tuple) = (&room.room_id, &row.tuple);
    let Some(known) = buried::get(db, room_id, tuple).await? else { return Ok(()) };
    let Some(replaced) = &event.replaces_state else {
        buried::dug(db, room_id, tuple, true).await?;
        // What stands in plain is looked at with all that stands there.
        let room = rooms::get(db, room_id).await?.unwrap_or_else(|| room.clone());
        rooms::put(db, &RoomRow { loaded: false, ..room }).await?;
        return Ok(marks::mark(db, room_id, None, arrival.at, arrival.tick).await?);
    };
    buried::dug(db, room_id, tuple, false).await?;
    if tuples::get_event(&taker.store, db, replaced).await?.is_some()
        || tuples::seal(db, replaced).await?.is_some()
    {
        return found(db, room, row, arrival).await;
    }
    if known.links < DEEPEST {
        inbox::miss(db, room_id, replaced).await?;
        marks::mark(db, room_id, None, arrival.at, arrival.tick).await?;
    } else {
        tracing::warn!(room = %room_id, event_type = tuple.event_type,
            "what a lost value was made from lies too deep; it has to be set once more");
    }
    Ok(())
}

/// An event that the store knows is reached: the value is the one that it has.
async fn found(
    db: &mut SqliteConnection,
    room: &RoomRow,
    row: &mut TupleRow,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    if row.source.is_none() {
        return Ok(());
    }
    at_hand(db, room, row).await?;
    Ok(marks::mark(db, &room.room_id, None, arrival.at, arrival.tick).await?)
}

/// A tuple has its value. If it was being looked for, it may be sealed now.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn at_hand(
    db: &mut SqliteConnection,
    room: &RoomRow,
    row: &mut TupleRow,
) -> Result<(), KeeperError> {
    if buried::find(db, &room.room_id, &row.tuple).await? {
        row.current_fit = true;
    }
    Ok(())
}

/// Whether a tuple's value was made from what stands in plain, as far as that can be known: nothing else is under it.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn is_plain(
    db: &mut SqliteConnection,
    room: &RoomRow,
    row: &TupleRow,
) -> Result<bool, KeeperError> {
    let known = buried::get(db, &room.room_id, &row.tuple).await?;
    Ok(!row.redacted && known.is_some_and(|it| it.bottom && !it.found))
}

/// Another event stands where such a value was.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn replaced(
    db: &mut SqliteConnection,
    room: &RoomRow,
    row: &TupleRow,
) -> Result<(), KeeperError> {
    Ok(buried::remove(db, &room.room_id, &row.tuple).await?)
}

/// Takes in an event of the keeper's own that was fetched from under another one; `strange` is whether the store knows
/// it as little.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn take_fetched(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    (tuple, strange): (&StateTuple, bool),
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let mut row = tuple_row(taker, db, room, tuple).await?;
    if strange {
        dig(taker, db, room, event, &mut row, arrival).await?;
    } else {
        found(db, room, &mut row, arrival).await?;
    }
    Ok(tuples::put(&taker.store, db, &room.room_id, &row).await?)
}
