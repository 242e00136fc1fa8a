//! Members who go on breaking a room's rules: after a few rounds the keeper stops, and waits for an administrator.
//!
//! An administrator ends it by a command, or whoever governs the room by taking the member's power or removing him. Until
//! then what he changes stays, and is restored at once when he has gone himself.

use ruma::{RoomId, UserId};
use sqlx::SqliteConnection;

use super::{
    KeeperError,
    clock::now_ms,
    decide::{MOST_ROUNDS, WAR_WITHIN},
    enforcing::enforced,
    ingest::{Arrival, Taker, power_levels},
};
use crate::{
    state::{Membership, PowerLevels},
    store::{RoomRow, StateEventRow, marks, rooms, tuples, wars},
};

/// The type that whoever breaks the rules of encrypted state has to have the power for.
const ENCRYPTED: &str = "m.room.encrypted";

/// Notes that an event has broken a rule: once too often, and its sender's changes are restored no more.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn note(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    seen: &StateEventRow,
) -> Result<(), KeeperError> {
    let rules = taker.rules.of(room);
    let enforced = enforced(&rules);
    let counts = seen.live && seen.breach.is_some_and(|rule| enforced.contains(&rule));
    if !counts || rules.noop {
        return Ok(());
    }
    let (room_id, sender) = (&room.room_id, &seen.sender);
    if !can_go_on(db, room, sender).await? {
        return Ok(());
    }
    let settled = wars::settled_at(db, room_id, sender).await?;
    let after = seen.received_at.saturating_sub(WAR_WITHIN).max(settled);
    let within = (after, seen.received_at);
    let rounds = tuples::breaches_since(db, room_id, sender, within, &enforced).await?;
    if rounds > MOST_ROUNDS && wars::begin(db, room_id, sender, now_ms()).await? {
        taker.metrics.state_refused("war");
        tracing::error!(room = %room_id, %sender,
            "a member breaks the room's rules again and again; the keeper restores what he changes no more until \
             an administrator says `resume`, takes his power to send encrypted state, or removes him");
    }
    Ok(())
}

/// Whether an administrator's word is awaited before what a member changed is restored: he could change it again.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn waits(
    db: &mut SqliteConnection,
    room: &RoomRow,
    sender: &UserId,
) -> Result<bool, KeeperError> {
    Ok(wars::stands(db, &room.room_id, sender).await? && can_go_on(db, room, sender).await?)
}

/// Whether a member is still in the room and has the power for encrypted state.
async fn can_go_on(
    db: &mut SqliteConnection,
    room: &RoomRow,
    sender: &UserId,
) -> Result<bool, KeeperError> {
    let member = rooms::get_member(db, &room.room_id, sender).await?;
    let is_in = member.is_some_and(|member| member.membership == Membership::Join);
    Ok(is_in && power_levels(room).may_send_state(sender, ENCRYPTED))
}

/// Somebody has left a room, by the doing of `by`. Whoever removes him has seen to it; whoever goes himself may come back.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn take_leave(
    db: &mut SqliteConnection,
    room: &RoomId,
    (user, by): (&UserId, &UserId),
    arrival: Arrival,
) -> Result<(), KeeperError> {
    if !wars::stands(db, room, user).await? {
        return Ok(());
    }
    if user != by {
        wars::settle(db, room, user, arrival.at).await?;
    }
    // What he changed last goes back.
    Ok(marks::mark(db, room, None, arrival.at, arrival.tick).await?)
}

/// The room has these power levels from now on.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn take_power(
    db: &mut SqliteConnection,
    room: &RoomId,
    power: &PowerLevels,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    for (room, user) in wars::standing(db, Some(room)).await? {
        if !power.may_send_state(&user, ENCRYPTED) {
            wars::settle(db, &room, &user, arrival.at).await?;
            marks::mark(db, &room, None, arrival.at, arrival.tick).await?;
        }
    }
    Ok(())
}
