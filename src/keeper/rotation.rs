//! Retiring sessions in the commit that takes in why: nothing is sealed under them after it.

use ruma::UserId;
use sqlx::SqliteConnection;

use super::{
    KeeperError,
    ingest::{Arrival, Taker},
};
use crate::{
    config::{RotateReseal, RotateWhen},
    state::{HistoryVisibility, RoomEvent},
    store::{Retired, RoomRow, marks, rooms, sessions},
};

/// Retires what a user who goes was granted in a room, and promises what follows.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn retire_known_to(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    user: &UserId,
    (why, arrival): (Retired, Arrival),
) -> Result<(), KeeperError> {
    let why = (why, arrival.at);
    let retired = sessions::retire_known_to(&taker.store, db, &room.room_id, user, why).await?;
    promise(taker, db, room, retired, arrival).await
}

/// Takes an `m.room.history_visibility` in: where fewer may read than before, every session of the room is over.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn take_visibility(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let visibility = HistoryVisibility::from_content(&event.content);
    let before = rooms::history_visibility(db, &room.room_id).await?;
    rooms::set_history_visibility(db, &room.room_id, visibility).await?;
    // A state that is fetched for the first time says what holds, not what has changed.
    let before = before.or(arrival.live.then(HistoryVisibility::default));
    if !before.is_some_and(|before| visibility.is_narrower_than(before)) {
        return Ok(());
    }
    let why = Retired::HistoryVisibility;
    let retired = sessions::retire_all(db, &room.room_id, why, arrival.at).await?;
    promise(taker, db, room, retired, arrival).await
}

/// Promises to look, once others have had the time to go as well, at what follows the retired sessions.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn promise(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    retired: u64,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let rules = taker.rules.of(room);
    let follows =
        rules.rotate_when == RotateWhen::AtOnce || rules.rotate_reseal != RotateReseal::None;
    if retired > 0 && follows {
        let due = arrival.at.saturating_add(rules.rotation_settle);
        marks::mark(db, &room.room_id, None, due, arrival.tick).await?;
    }
    Ok(())
}
