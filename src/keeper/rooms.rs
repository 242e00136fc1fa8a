//! Coming into rooms, and learning what stands there.

use ruma::RoomId;
use std::time::Instant;
use tokio::sync::Notify;

use super::{
    KeeperError,
    clock::now_ms,
    ingest::{Arrival, Taker},
    pacing::Inviters,
};
use crate::{
    homeserver::Homeserver,
    state::{Membership, RoomEvent},
    store::{RoomRow, inbox, marks, rooms},
};

/// How long an inviter without budget waits, in milliseconds.
const INVITER_WAITS: i64 = 60_000;

/// Accepts the invite into a room.
///
/// Recovery: a join that was sent twice is one join; the echo, or the next start's look at the joined
/// rooms, says what came of it.
///
/// # Errors
///
/// [`KeeperError`] when the homeserver is away or the store fails.
pub async fn accept_invite(
    taker: &Taker,
    homeserver: &Homeserver,
    inviters: &Inviters,
    mut room: RoomRow,
) -> Result<(), KeeperError> {
    let now = now_ms();
    let room_id = room.room_id.clone();
    if let Some(inviter) = &room.inviter
        && !inviters.spend(inviter, Instant::now())
    {
        tracing::warn!(room = %room_id, %inviter, "an inviter's budget is spent; the invite waits");
        let mut transaction = taker.store.begin().await?;
        put_off(&mut transaction, &room_id, now.saturating_add(INVITER_WAITS)).await?;
        return Ok(transaction.commit().await?);
    }
    let answer = homeserver.join(&room_id, &[]).await;
    match answer {
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(error) => {
            tracing::warn!(room = %room_id, %error, "an invite could not be accepted");
            room.membership = Membership::Leave;
        }
        Ok(_) => {
            tracing::info!(room = %room_id, "joined a room");
            room.membership = Membership::Join;
            room.loaded = false;
        }
    }
    let mut transaction = taker.store.begin().await?;
    // The echo may have been taken in meanwhile, or a kick.
    let current = rooms::get(&mut transaction, &room_id).await?;
    if current.as_ref().is_some_and(|current| current.membership == Membership::Invite) {
        rooms::put(&mut transaction, &room).await?;
    }
    marks::mark(&mut transaction, &room_id, None, now, taker.store.next_tick()).await?;
    Ok(transaction.commit().await?)
}

/// Puts every promise of a room off to `due_at`, in milliseconds.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn put_off(
    db: &mut sqlx::SqliteConnection,
    room: &RoomId,
    due_at: i64,
) -> Result<(), KeeperError> {
    sqlx::query("UPDATE marks SET due_at = MAX(due_at, ?) WHERE room_id = ?")
        .bind(due_at)
        .bind(room.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// Fetches a room's state and takes all of it in, in one commit. Events that came meanwhile were held and are
/// given back to the inbox: those from before the fetch are in the state already.
///
/// # Errors
///
/// [`KeeperError`] when the homeserver does not give the state or the store fails.
pub async fn load(
    taker: &Taker,
    homeserver: &Homeserver,
    arrived: &Notify,
    room: RoomRow,
) -> Result<(), KeeperError> {
    let room_id = room.room_id.clone();
    let fence = inbox::newest(&mut *taker.store.read().await?).await?;
    let bodies = homeserver.room_state(&room_id).await?;
    let mut events = Vec::with_capacity(bodies.len());
    for body in &bodies {
        match RoomEvent::parse_str(body.get()) {
            Ok(event) => events.push((event, body.get())),
            Err(error) => tracing::warn!(room = %room_id, %error, "a state event is malformed"),
        }
    }
    events.sort_by_key(|(event, _)| match event.event_type.as_str() {
        "m.room.create" => 0,
        "m.room.power_levels" => 1,
        "m.room.encryption" => 2,
        "m.room.member" => 3,
        "m.room.encrypted" => 4,
        _ => 5,
    });
    let users = present_users(&events);
    // Whoever shared a key with the keeper has to be known before what he said is weighed.
    taker.device.track(users.iter().map(AsRef::as_ref)).await?;
    taker.device.pump().await?;

    let now = now_ms();
    let mut transaction = taker.store.begin().await?;
    let Some(current) = rooms::get(&mut transaction, &room_id).await? else { return Ok(()) };
    if current.membership != Membership::Join {
        return Ok(());
    }
    let mut room = RoomRow { inviter: None, loaded: true, ..current };
    rooms::clear_members(&mut transaction, &room_id).await?;
    rooms::put(&mut transaction, &room).await?;
    for (event, body) in &events {
        let arrival = Arrival { at: now, tick: taker.store.next_tick(), live: false };
        taker.take_event(&mut transaction, room.clone(), event, body, arrival).await?;
        if matches!(
            event.event_type.as_str(),
            "m.room.create" | "m.room.power_levels" | "m.room.encryption"
        ) {
            room = rooms::get(&mut transaction, &room_id).await?.unwrap_or(room);
        }
    }
    inbox::release(&mut transaction, &room_id, Some(fence)).await?;
    marks::mark(&mut transaction, &room_id, None, now, taker.store.next_tick()).await?;
    transaction.commit().await?;
    arrived.notify_one();
    if room.state_encrypted && !room.elevated {
        tracing::warn!(room = %room_id, keeper = %taker.keeper,
            "the keeper lacks the power to seal state here: give it the level that \
             `m.room.encrypted` needs (`state_default` where nothing else is set)");
    }
    tracing::info!(room = %room_id, status = room.status(), members = users.len(), "a room was loaded");
    Ok(())
}

fn present_users(events: &[(RoomEvent, &str)]) -> Vec<ruma::OwnedUserId> {
    events
        .iter()
        .filter(|(event, _)| event.event_type == "m.room.member")
        .filter(|(event, _)| {
            matches!(
                Membership::from_content(&event.content),
                Some(Membership::Join | Membership::Invite)
            )
        })
        .filter_map(|(event, _)| ruma::UserId::parse(event.state_key.as_deref()?).ok())
        .collect()
}
