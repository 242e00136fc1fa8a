//! Carrying commands out, as part of the caller's transaction.

use ruma::{DeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{Command, Done, Refused};
use crate::{
    policy::Word,
    state::Membership,
    store::{
        NOOP, marks, orders, people, previews, reserve_ticks,
        rooms::{self, MemberRow, RoomRow},
        sessions::{self, Retired},
        set_meta, wars,
    },
};

/// Carries a command out at `now` (milliseconds), with the promise to act on it. Where it is refused, nothing that
/// was done on `db` is to be committed.
///
/// # Errors
///
/// [`Refused`] when there is nothing that it could be carried out on, or the store fails.
pub async fn carry_out(
    db: &mut SqliteConnection,
    command: &Command,
    now: i64,
) -> Result<Done, Refused> {
    match command {
        Command::Approve { room, user } => approve(db, room, user, now).await,
        Command::ApproveAllPresent { room } => approve_all_present(db, room, now).await,
        Command::Deny { room, user } => deny(db, room, user, now).await,
        Command::Block { user, device } => block(db, user, device.as_deref(), now).await,
        Command::Unblock { user, device } => unblock(db, user, device.as_deref(), now).await,
        Command::ConfirmIdentity { user } => confirm_identity(db, user, now).await,
        Command::Rotate { room } => rotate(db, room, now).await,
        Command::Refresh { room } => refresh(db, room, now).await,
        Command::Share { room, user } => share(db, room, user, now).await,
        Command::Resume { room, user } => resume(db, room, user, now).await,
        Command::Noop { on } => noop(db, *on, now).await,
    }
}

async fn approve(
    db: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    now: i64,
) -> Result<Done, Refused> {
    known_room(db, room).await?;
    present_member(db, room, user).await?;
    people::say(db, room, user, Word::Approved, now).await?;
    promise(db, &[room.to_owned()], user, now).await?;
    Ok(Done::Approved { users: vec![user.to_owned()] })
}

async fn approve_all_present(
    db: &mut SqliteConnection,
    room: &RoomId,
    now: i64,
) -> Result<Done, Refused> {
    known_room(db, room).await?;
    let said = people::People::of_room(db, room, None).await?;
    let mut users: Vec<OwnedUserId> = Vec::new();
    for member in rooms::present_members(db, room).await? {
        if member.membership == Membership::Join && said.word(&member.user_id).is_none() {
            people::say(db, room, &member.user_id, Word::Approved, now).await?;
            users.push(member.user_id);
        }
    }
    if !users.is_empty() {
        promise_room(db, room, now).await?;
    }
    Ok(Done::Approved { users })
}

async fn deny(
    db: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    now: i64,
) -> Result<Done, Refused> {
    known_room(db, room).await?;
    let member = rooms::get_member(db, room, user).await?;
    people::say(db, room, user, Word::Denied, now).await?;
    people::let_go(db, room, Some(user)).await?;
    promise(db, &[room.to_owned()], user, now).await?;
    Ok(Done::Denied { present: is_present(member.as_ref()) })
}

async fn block(
    db: &mut SqliteConnection,
    user: &UserId,
    device: Option<&DeviceId>,
    now: i64,
) -> Result<Done, Refused> {
    people::block(db, user, device, now).await?;
    promise_everywhere(db, user, now).await?;
    Ok(Done::Blocked { known: people::is_known(db, user).await? })
}

async fn unblock(
    db: &mut SqliteConnection,
    user: &UserId,
    device: Option<&DeviceId>,
    now: i64,
) -> Result<Done, Refused> {
    if !people::unblock(db, user, device).await? {
        let device = device.map(|device| format!(" {device}")).unwrap_or_default();
        return Err(Refused::NotBlocked(format!("{user}{device}")));
    }
    promise_everywhere(db, user, now).await?;
    Ok(Done::Unblocked)
}

async fn confirm_identity(
    db: &mut SqliteConnection,
    user: &UserId,
    now: i64,
) -> Result<Done, Refused> {
    let Some(master_key) = people::confirm_identity(db, user, now).await? else {
        return Err(Refused::Unchanged(user.to_owned()));
    };
    promise_everywhere(db, user, now).await?;
    Ok(Done::Confirmed { master_key })
}

async fn rotate(db: &mut SqliteConnection, room: &RoomId, now: i64) -> Result<Done, Refused> {
    known_room(db, room).await?;
    let sessions = sessions::retire_all(db, room, Retired::Admin, now).await?;
    promise_room(db, room, now).await?;
    Ok(Done::Rotated { sessions })
}

async fn refresh(db: &mut SqliteConnection, room: &RoomId, now: i64) -> Result<Done, Refused> {
    let known = sealed_room(db, room).await?;
    if !known.elevated {
        return Err(Refused::NotElevated(room.to_owned()));
    }
    let values = orders::refresh(db, room, now).await?;
    promise_room(db, room, now).await?;
    Ok(Done::Refreshing { values })
}

async fn share(
    db: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    now: i64,
) -> Result<Done, Refused> {
    sealed_room(db, room).await?;
    present_member(db, room, user).await?;
    orders::share(db, room, user, now).await?;
    promise(db, &[room.to_owned()], user, now).await?;
    Ok(Done::Sharing)
}

async fn resume(
    db: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    now: i64,
) -> Result<Done, Refused> {
    known_room(db, room).await?;
    if !wars::settle(db, room, user, now).await? {
        return Err(Refused::NoWar { room: room.to_owned(), user: user.to_owned() });
    }
    promise_room(db, room, now).await?;
    Ok(Done::Resumed)
}

async fn noop(db: &mut SqliteConnection, on: bool, now: i64) -> Result<Done, Refused> {
    set_meta(db, NOOP, if on { "on" } else { "off" }).await?;
    // What was left undone meanwhile is done.
    for room in rooms::all(db).await? {
        if !on && room.membership == Membership::Join && room.state_encrypted {
            promise_room(db, &room.room_id, now).await?;
        }
    }
    Ok(Done::Noop { on })
}

/// A room that the keeper is in.
async fn known_room(db: &mut SqliteConnection, room: &RoomId) -> Result<RoomRow, Refused> {
    let known = rooms::get(db, room).await?;
    known
        .filter(|known| known.membership == Membership::Join)
        .ok_or_else(|| Refused::UnknownRoom(room.to_owned()))
}

/// A room in which the keeper seals state.
async fn sealed_room(db: &mut SqliteConnection, room: &RoomId) -> Result<RoomRow, Refused> {
    let known = known_room(db, room).await?;
    if known.state_encrypted { Ok(known) } else { Err(Refused::NotSealed(room.to_owned())) }
}

async fn present_member(
    db: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<(), Refused> {
    if is_present(rooms::get_member(db, room, user).await?.as_ref()) {
        return Ok(());
    }
    Err(Refused::NotThere { room: room.to_owned(), user: user.to_owned() })
}

fn is_present(member: Option<&MemberRow>) -> bool {
    member.is_some_and(|member| matches!(member.membership, Membership::Join | Membership::Invite))
}

async fn promise_everywhere(
    db: &mut SqliteConnection,
    user: &UserId,
    now: i64,
) -> Result<(), Refused> {
    let rooms = rooms::rooms_of(db, user).await?;
    promise(db, &rooms, user, now).await?;
    let tick = reserve_ticks(db, 1).await?;
    previews::mark_everywhere(db, user, tick, now).await?;
    Ok(())
}

async fn promise_room(db: &mut SqliteConnection, room: &RoomId, now: i64) -> Result<(), Refused> {
    let tick = reserve_ticks(db, 1).await?;
    Ok(marks::mark(db, room, None, now, tick).await?)
}

/// Promises to decide upon a user in rooms. The ticks are taken out like those of a start, so that none of the
/// running keeper's is among them: a promise that it is about to settle is made anew, not lost.
async fn promise(
    db: &mut SqliteConnection,
    rooms: &[OwnedRoomId],
    user: &UserId,
    now: i64,
) -> Result<(), Refused> {
    let count = i64::try_from(rooms.len()).unwrap_or(i64::MAX);
    let first = reserve_ticks(db, count).await?;
    for (tick, room) in (first..).zip(rooms) {
        marks::mark(db, room, Some(user), now, tick).await?;
    }
    Ok(())
}
