//! What changes who may read a room before he joins it, taken in with the commit that brings it.

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use sqlx::SqliteConnection;

use crate::{
    keeper::{
        KeeperError,
        clock::now_ms,
        ingest::{Arrival, Taker},
        people::named_by,
        rotation,
    },
    policy::PreviewPolicy,
    state::{JsonMap, Membership, RoomEvent, StateTuple, is_space, is_suggested, via},
    store::{
        Retired, RoomRow, bundles, invites, ledger, previewed_tuples, previews, rooms, sessions,
        spaces,
    },
};

/// Of how many who came while the keeper did not hear of them each is promised for by himself; of more, the rooms
/// that let them in are gone through as a whole.
const FEW: usize = 64;

/// Notes what a setting of a room says of its place among spaces, and that its standing may have changed.
pub(in crate::keeper) async fn take_setting(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    taker.spaces.note_walk();
    match event.event_type.as_str() {
        "m.room.create" => {
            Ok(spaces::set_space(db, &room.room_id, is_space(&event.content)).await?)
        }
        "m.room.join_rules" => take_rule(taker, db, room, arrival).await,
        _ => Ok(()),
    }
}

/// Whose members the room lets in: those of a new one are provided for; where one is struck out, nobody goes on holding
/// what is sealed next whom none of the others lets in.
async fn take_rule(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let (added, removed) = spaces::put_let_in(db, &room.room_id, &named_by(room)).await?;
    for allowed in &removed {
        end_through(taker, db, (&room.room_id, allowed), arrival).await?;
        waited_for(taker, db, allowed).await?;
    }
    if added {
        previews::ask_round(db, &room.room_id, arrival.at).await?;
        invites::promise_all(db, &room.room_id, arrival.at).await?;
        taker.spaces.note_invite();
    }
    if added || !removed.is_empty() {
        taker.spaces.note_provide();
    }
    Ok(())
}

/// The members of a room are let into another one no more: what is over is what those hold of it whom nothing else lets
/// in.
async fn end_through(
    taker: &Taker,
    db: &mut SqliteConnection,
    (room, allowed): (&RoomId, &RoomId),
    arrival: Arrival,
) -> Result<(), KeeperError> {
    withdraw(taker, db, &[room.to_owned()], None, arrival).await?;
    let users = previews::shut_out(db, room, allowed).await?;
    let retired = sessions::retire_previewed_by(&taker.store, db, room, &users, arrival.at).await?;
    promise(taker, db, room, retired, arrival).await
}

/// Who was invited by the keeper because of where else he was, and is there no more, is not to come in: his invite is
/// withdrawn.
pub(super) async fn withdraw(
    taker: &Taker,
    db: &mut SqliteConnection,
    rooms: &[OwnedRoomId],
    user: Option<&UserId>,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    if invites::end(db, &taker.keeper, rooms, user, arrival.at).await? {
        taker.spaces.note_invite();
    }
    Ok(())
}

/// What was given to those who had not joined is over: what is sealed next, is sealed under a new session.
pub(in crate::keeper) async fn end_all(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomId,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let retired = sessions::retire_previewed(&taker.store, db, room, arrival.at).await?;
    promise(taker, db, room, retired, arrival).await
}

/// Promises what follows retired sessions.
pub(super) async fn promise(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomId,
    retired: u64,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    if retired == 0 {
        return Ok(());
    }
    if let Some(room) = rooms::get(db, room).await? {
        rotation::promise(taker, db, &room, retired, arrival).await?;
    }
    Ok(())
}

/// A membership of a room has changed, which may let its user read others, or let him no more.
pub(in crate::keeper) async fn take_member(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    (user, was, membership): (&UserId, Option<Membership>, Membership),
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let room_id = &room.room_id;
    match membership {
        Membership::Join | Membership::Invite => {
            ledger::admit(&taker.store, db, room_id, user).await?;
        }
        Membership::Leave | Membership::Ban | Membership::Knock => {}
    }
    if membership == Membership::Join {
        // Those who are found in a fetched state are counted first.
        if arrival.live && spaces::lets_in_elsewhere(db, room_id).await? {
            come(taker, db, user, arrival.tick, arrival.at).await?;
        }
        return Ok(());
    }
    let was_there = matches!(was, Some(Membership::Join | Membership::Invite));
    if membership == Membership::Invite || !was_there {
        return Ok(());
    }
    leave(taker, db, room_id, user, arrival).await
}

/// Somebody is out of a room: where it alone let him in, what he holds is over.
pub(in crate::keeper) async fn leave(
    taker: &Taker,
    db: &mut SqliteConnection,
    left: &RoomId,
    user: &UserId,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let through = spaces::letting_in(db, left).await?;
    withdraw(taker, db, &through, Some(user), arrival).await?;
    for room in previews::ended(db, left, user).await? {
        let why = (Retired::PreviewEnded, arrival.at);
        let retired = sessions::retire_known_to(&taker.store, db, &room, user, why).await?;
        promise(taker, db, &room, retired, arrival).await?;
    }
    // Who leaves a room that he may join again reads it as before he joined.
    if previews::of_user(db, left, user).await? != PreviewPolicy::None {
        previews::mark(db, left, (user, 0), arrival.tick, arrival.at).await?;
        taker.spaces.note_provide();
    }
    Ok(())
}

/// Somebody, or some device of his, is new where others let him in.
pub(in crate::keeper) async fn come(
    taker: &Taker,
    db: &mut SqliteConnection,
    user: &UserId,
    tick: i64,
    now: i64,
) -> Result<(), KeeperError> {
    if previews::mark_everywhere(db, user, tick, now).await? > 0 {
        taker.spaces.note_provide();
    }
    if invites::promise(db, user, tick, now).await? {
        taker.spaces.note_invite();
    }
    Ok(())
}

/// A room's state was fetched, and these are joined to it of whom nothing was known.
pub(in crate::keeper) async fn loaded(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomId,
    new: &[OwnedUserId],
) -> Result<(), KeeperError> {
    taker.spaces.note_walk();
    waited_for(taker, db, room).await?;
    if new.is_empty() {
        return Ok(());
    }
    let through = spaces::letting_in(db, room).await?;
    if new.len() <= FEW && !through.is_empty() {
        for user in new {
            come(taker, db, user, taker.store.next_tick(), now_ms()).await?;
        }
        return Ok(());
    }
    for room in through {
        previews::ask_round(db, &room, now_ms()).await?;
        invites::promise_all(db, &room, now_ms()).await?;
        taker.spaces.note_provide();
        taker.spaces.note_invite();
    }
    Ok(())
}

/// A room's state is there, or is waited for no longer.
pub(in crate::keeper) async fn waited_for(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomId,
) -> Result<(), KeeperError> {
    if previews::end_waiting(db, room, now_ms()).await? {
        taker.spaces.note_provide();
    }
    Ok(())
}

/// The keeper is out of a room: it hears no more who comes and goes there, so it lets nobody read anything else.
pub(in crate::keeper) async fn keeper_left(
    taker: &Taker,
    db: &mut SqliteConnection,
    left: &RoomId,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    for room in spaces::letting_in(db, left).await? {
        end_through(taker, db, (&room, left), arrival).await?;
    }
    taker.spaces.note_walk();
    invites::drop_room(db, left).await?;
    bundles::supersede(db, left).await?;
    Ok(previews::forget(db, left).await?)
}

/// The keeper was invited into a room: by an administrator, it is one to follow if it is a space.
pub(in crate::keeper) async fn keeper_invited(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomId,
    inviter: &UserId,
) -> Result<(), KeeperError> {
    if taker.rules.global().admins.iter().any(|admin| admin == inviter) {
        spaces::invited(db, room).await?;
        taker.spaces.note_walk();
    }
    if spaces::try_now(db, room).await? {
        taker.spaces.note_walk();
    }
    Ok(())
}

/// A space says of a room that it lists it, or does not.
pub(in crate::keeper) async fn take_child(
    taker: &Taker,
    db: &mut SqliteConnection,
    (room, space): (&RoomId, &RoomId),
    content: &JsonMap,
) -> Result<(), KeeperError> {
    taker.spaces.note_walk();
    Ok(spaces::put_via(db, room, space, &via(content), is_suggested(content)).await?)
}

/// A tuple's value is being sealed: who may read the room before he joins it has to be given a session that he was not
/// given yet, but of a tuple whose sessions change often only from time to time.
pub(in crate::keeper) async fn sealed_anew(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomId,
    (tuple, session_id): (&StateTuple, &str),
    now: i64,
) -> Result<(), KeeperError> {
    let given = previewed_tuples::get(db, room, tuple).await?;
    if given.as_ref().is_some_and(|given| given.session_id == session_id) {
        return Ok(());
    }
    let Some(interval) = interval_of(taker, db, room, tuple).await? else { return Ok(()) };
    let due = given.map_or(now, |given| given.given_at.saturating_add(interval).max(now));
    previews::ask_round(db, room, due).await?;
    taker.spaces.note_provide();
    Ok(())
}

/// How often people are given a tuple's key before they join; `None` where they are not given it.
async fn interval_of(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomId,
    tuple: &StateTuple,
) -> Result<Option<i64>, KeeperError> {
    let Some(row) = spaces::room(db, room).await? else { return Ok(None) };
    if !row.preview.shows(tuple) || !previews::is_previewed(db, room).await? {
        return Ok(None);
    }
    let roots = super::survey::roots(taker, db).await?;
    Ok(roots.into_iter().find(|(root, _)| *root == row.root_id).map(|(_, rules)| rules.interval))
}
