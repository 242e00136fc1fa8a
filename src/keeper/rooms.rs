//! Coming into rooms, and learning what stands there.

use ruma::{OwnedUserId, RoomId, UserId};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

use super::{
    KeeperError,
    clock::now_ms,
    hindsight::{Hindsight, levels_of_fetched},
    ingest::{Arrival, Taker},
    inherited::take as inherit,
    overtaken,
    pacing::Inviters,
    people::mark_all_let_in,
    places,
    spaces::news,
    standing,
    unshown::Unshown,
    weighing::judge_by,
};
use crate::{
    homeserver::Homeserver,
    state::{Membership, RoomEvent, rule::is_absurd_time},
    store::{
        NewEvent, Retired, RoomRow, held_sessions, inbox, inherited, marks, people,
        places as belonging, rooms, sessions, spaces,
    },
};

/// How long after the start the rooms are looked at anew: a homeserver has come to rest by then.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(20);
/// How many of a room's newest events are looked at then.
pub(super) const LOOK_BACK: u32 = 100;
/// How often it is asked whether a room's state has been fetched, before it is left at that.
const MOST_LOOKS: u32 = 20;
/// How far apart they are looked at.
const LOOK_AGAIN_EVERY: Duration = Duration::from_millis(250);
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
    if let Some(inviter) = room.inviter.as_ref().filter(|_| room.membership == Membership::Join) {
        inherited::accepted(&mut transaction, &room_id, inviter, now).await?;
    }
    marks::mark(&mut transaction, &room_id, None, now, taker.store.next_tick()).await?;
    Ok(transaction.commit().await?)
}

/// What somebody is in a room by the homeserver's word at this moment; `None` where he never was anything.
///
/// # Errors
///
/// [`KeeperError`] when the homeserver does not say.
pub(super) async fn membership_now(
    homeserver: &Homeserver,
    room_id: &RoomId,
    user: &UserId,
) -> Result<Option<Membership>, KeeperError> {
    let event = homeserver.get_state_event(room_id, "m.room.member", user.as_str()).await?;
    let event = event.and_then(|event| RoomEvent::parse_str(event.0.get()).ok());
    Ok(event.and_then(|event| Membership::from_content(&event.content)))
}

/// Notes that the keeper has come into a room, where its echo was not taken in before, and promises to learn what stands
/// there. Returns whether that is news.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn note_joined(
    taker: &Taker,
    db: &mut sqlx::SqliteConnection,
    room_id: &RoomId,
) -> Result<bool, KeeperError> {
    let known = rooms::get(db, room_id).await?;
    if known.as_ref().is_some_and(|room| room.membership == Membership::Join) {
        return Ok(false);
    }
    let room = known.unwrap_or_else(|| RoomRow::new(room_id.to_owned(), Membership::Join));
    let room = RoomRow { membership: Membership::Join, loaded: false, ..room };
    rooms::put(db, &room).await?;
    marks::mark(db, room_id, None, now_ms(), taker.store.next_tick()).await?;
    Ok(true)
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
    inherit(taker, homeserver, &room_id).await?;
    let fence = inbox::newest(&mut *taker.store.read().await?).await?;
    let bodies = homeserver.room_state(&room_id).await?;
    let mut events = Vec::with_capacity(bodies.len());
    for body in &bodies {
        match RoomEvent::parse_str(body.get()) {
            Ok(event) => events.push((event, body.get())),
            Err(error) => tracing::warn!(room = %room_id, %error, "a state event is malformed"),
        }
    }
    // Members after sealed state: who came first is not known here, and whoever came later lacks a key.
    let now = now_ms();
    events.sort_by_key(|(event, _)| order(event, now));
    let users = present_users(&events);
    // Whoever shared a key with the keeper has to be known before what he said is weighed.
    taker.device.track(users.iter().map(AsRef::as_ref)).await?;
    taker.device.pump().await?;
    let past = Hindsight::look(taker, homeserver, &room_id, &events).await?;
    let unshown = Unshown::look(taker, homeserver, &room_id, (fence, &events)).await?;

    let now = now_ms();
    let mut transaction = taker.store.begin().await?;
    let Some(current) = rooms::get(&mut transaction, &room_id).await? else { return Ok(()) };
    if current.membership != Membership::Join {
        return Ok(());
    }
    let mut room = RoomRow { inviter: None, loaded: true, ..current };
    // Who is there as before keeps the time of his coming.
    let mut known = BTreeSet::from([taker.keeper.clone()]);
    let joined: BTreeSet<OwnedUserId> = joined_users(&events).into_iter().collect();
    for member in rooms::present_members(&mut transaction, &room_id).await? {
        // Nobody who is in a room is invited into it: whoever was, and is invited now, left in between.
        let is_there = match member.membership {
            Membership::Join => joined.contains(&member.user_id),
            _ => users.contains(&member.user_id),
        };
        if !is_there {
            rooms::remove_member(&mut transaction, &room_id, &member.user_id).await?;
            people::left(&mut transaction, &room_id, &member.user_id).await?;
            let maker = Some(member.user_id.as_ref());
            held_sessions::left(&mut transaction, &room_id, maker, now).await?;
            let why = match member.membership {
                Membership::Invite => Retired::InviteWithdrawn,
                _ => Retired::MemberLeft,
            };
            let (user, why) = (&member.user_id, (why, now));
            sessions::retire_known_to(&taker.store, &mut transaction, &room_id, user, why).await?;
            let tick = taker.store.next_tick();
            let arrival = Arrival { live: false, ..Arrival::live(now, tick) };
            news::leave(taker, &mut transaction, &room_id, user, arrival).await?;
        } else if member.membership == Membership::Join {
            known.insert(member.user_id);
        }
    }
    let new = joined.into_iter().filter(|user| !known.contains(user)).collect::<Vec<_>>();
    standing::weigh(taker, &mut room);
    rooms::put(&mut transaction, &room).await?;
    let rules = places::rules_in(taker, &mut transaction, &room_id).await?;
    belonging::forget(&mut transaction, &room_id).await?;
    for (event, body) in &events {
        let tick = taker.store.next_tick();
        let levels_known = past.knows(&event.event_id);
        let arrival = Arrival { live: false, levels_known, ..Arrival::live(now, tick) };
        let then = past.room_at(&room, &event.event_id);
        taker.take_event(&mut transaction, then, event, body, arrival).await?;
        if matches!(
            event.event_type.as_str(),
            "m.room.create"
                | "m.room.power_levels"
                | "m.room.encryption"
                | "m.room.join_rules"
                | "m.room.canonical_alias"
                | "m.space.parent"
        ) {
            room = rooms::get(&mut transaction, &room_id).await?.unwrap_or(room);
            if standing::weigh(taker, &mut room) {
                rooms::put(&mut transaction, &room).await?;
            }
        }
    }
    for (event, levels) in past.found() {
        judge_by(taker, &mut transaction, &room, event, levels).await?;
    }
    places::mark_changed(taker, &mut transaction, rules).await?;
    if !room.state_encrypted {
        standing::close(&mut transaction, &room_id).await?;
    }
    mark_all_let_in(taker, &mut transaction, &room_id).await?;
    news::loaded(taker, &mut transaction, &room_id, &new).await?;
    unshown.give_back(&mut transaction).await?;
    inbox::release(&mut transaction, &room_id, Some(fence)).await?;
    marks::mark(&mut transaction, &room_id, None, now, taker.store.next_tick()).await?;
    transaction.commit().await?;
    arrived.notify_one();
    taker.spaces.ring();
    if room.state_encrypted && !room.elevated {
        tracing::warn!(room = %room_id, keeper = %taker.keeper,
            "the keeper lacks the power to seal state here: give it the level that \
             `m.room.encrypted` needs (`state_default` where nothing else is set)");
    }
    tracing::info!(room = %room_id, status = room.status(), members = users.len(), "a room was loaded");
    Ok(())
}

/// In which order the events of a fetched state are taken in: those of one rank as they were sent. One that claims a time
/// in the far future is newer than none.
fn order(event: &RoomEvent, now: i64) -> (u8, i64) {
    let sent_at = event.origin_server_ts;
    (rank(event), if is_absurd_time(sent_at, now) { i64::MIN } else { sent_at })
}

/// What is read before what.
fn rank(event: &RoomEvent) -> u8 {
    match event.event_type.as_str() {
        "m.room.create" => 0,
        "m.room.power_levels" => 1,
        "m.room.encryption" => 2,
        // By which rules the rest is read.
        "m.room.canonical_alias" | "m.room.join_rules" | "m.space.parent" => 3,
        // A child may be listed in plain and under encryption.
        "m.room.encrypted" | "m.space.child" => 4,
        "m.room.member" => 5,
        _ => 6,
    }
}

/// Fetches the events of a room that the homeserver never told of, and gives them to the inbox.
///
/// # Errors
///
/// [`KeeperError`] when the homeserver is away or the store fails.
pub async fn fetch_missed(
    taker: &Taker,
    homeserver: &Homeserver,
    arrived: &Notify,
    room_id: &RoomId,
) -> Result<(), KeeperError> {
    let missed = inbox::missed(&mut *taker.store.read().await?, room_id).await?;
    for event_id in missed {
        let body = match homeserver.event(room_id, &event_id).await {
            Ok(body) => body,
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(_) => None,
        };
        let newer = match &body {
            Some(body) => overtaken::newer(taker, homeserver, room_id, body.get()).await?,
            None => None,
        };
        let levels = match body.as_ref().map(|body| RoomEvent::parse_str(body.get())) {
            Some(Ok(event)) => levels_of_fetched(taker, homeserver, room_id, &event).await?,
            _ => None,
        };
        let mut transaction = taker.store.begin().await?;
        // One that was not told of yet comes into the inbox behind this one, and needs no care.
        let behind = match &newer {
            Some(newer) => inbox::knows(&mut transaction, newer).await?,
            None => false,
        };
        if let Some(body) = body {
            let body = body.get().to_owned();
            let event = NewEvent { event_id: event_id.clone(), room_id: room_id.to_owned(), body };
            inbox::insert_fetched(&mut transaction, &event, behind, levels.as_ref(), now_ms())
                .await?;
        }
        inbox::found(&mut transaction, &event_id).await?;
        transaction.commit().await?;
        arrived.notify_one();
    }
    Ok(())
}

/// Looks at the state of every kept room anew, the busiest first: a homeserver that could not reach the service for
/// a while may have left events lying. Nobody's work is held up for it but that room's, for one request.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn look_again(
    taker: Taker,
    homeserver: Homeserver,
    arrived: std::sync::Arc<Notify>,
    promised: std::sync::Arc<Notify>,
) -> Result<(), KeeperError> {
    tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    let mut kept = rooms::all(&mut *taker.store.read().await?).await?;
    kept.retain(|room| room.membership == Membership::Join);
    let matters = spaces::of_weight(&mut *taker.store.read().await?).await?;
    kept.retain(|room| room.state_encrypted || matters.contains(&room.room_id));
    let mut by_activity = Vec::with_capacity(kept.len());
    for room in kept {
        let active_at = rooms::active_at(&mut *taker.store.read().await?, &room.room_id).await?;
        by_activity.push((std::cmp::Reverse(active_at), room.room_id));
    }
    by_activity.sort();
    for (_, room_id) in by_activity {
        let mut transaction = taker.store.begin().await?;
        if let Some(room) = rooms::get(&mut transaction, &room_id).await?
            && room.membership == Membership::Join
        {
            rooms::put(&mut transaction, &RoomRow { loaded: false, ..room }).await?;
            marks::mark(&mut transaction, &room_id, None, now_ms(), taker.store.next_tick())
                .await?;
        }
        transaction.commit().await?;
        promised.notify_one();
        // What is found while the state is being fetched would be taken for a part of it.
        for _ in 0..MOST_LOOKS {
            tokio::time::sleep(LOOK_AGAIN_EVERY).await;
            let room = rooms::get(&mut *taker.store.read().await?, &room_id).await?;
            if room.is_none_or(|room| room.loaded) {
                find_untold(&taker, &homeserver, &arrived, &room_id).await?;
                break;
            }
        }
    }
    Ok(())
}

/// Finds edits and redactions in a room's newest events of which the homeserver never told, as happens with a
/// transaction that it queued while it was catching up. The state alone does not show an edit on which the
/// keeper's own event landed. Of each tuple only the newest edit counts: an older one is over.
async fn find_untold(
    taker: &Taker,
    homeserver: &Homeserver,
    arrived: &Notify,
    room_id: &RoomId,
) -> Result<(), KeeperError> {
    let bodies = match homeserver.recent_events(room_id, LOOK_BACK).await {
        Ok(bodies) => bodies,
        Err(error) => {
            tracing::debug!(room = %room_id, %error, "the newest events could not be looked at");
            return Ok(());
        }
    };
    let mut newest = std::collections::BTreeSet::new();
    let mut untold = Vec::new();
    for body in bodies {
        let Ok(event) = RoomEvent::parse_str(body.get()) else { continue };
        let tells = match &event.state_key {
            Some(key) => {
                event.event_type == "m.room.encrypted"
                    && event.sender != taker.keeper
                    && newest.insert(key.clone())
            }
            None => event.event_type == "m.room.redaction" && event.sender != taker.keeper,
        };
        let db = &mut *taker.store.read().await?;
        if tells && !inbox::knows(db, &event.event_id).await? {
            tracing::warn!(room = %room_id, event = %event.event_id,
                "the homeserver has not told of an event; it is taken in now");
            let levels = match levels_of_fetched(taker, homeserver, room_id, &event).await {
                Ok(levels) => levels,
                Err(error) => {
                    tracing::debug!(room = %room_id, %error, "the levels of the past are not shown");
                    None
                }
            };
            let body = body.get().to_owned();
            let event = NewEvent { event_id: event.event_id, room_id: room_id.to_owned(), body };
            untold.push((event, levels));
        }
    }
    let mut transaction = taker.store.begin().await?;
    for (event, levels) in untold.iter().rev() {
        inbox::insert_fetched(&mut transaction, event, false, levels.as_ref(), now_ms()).await?;
    }
    transaction.commit().await?;
    arrived.notify_one();
    Ok(())
}

fn present_users(events: &[(RoomEvent, &str)]) -> Vec<OwnedUserId> {
    users_of(events, &[Membership::Join, Membership::Invite])
}

fn joined_users(events: &[(RoomEvent, &str)]) -> Vec<OwnedUserId> {
    users_of(events, &[Membership::Join])
}

/// Those who are one of `memberships`, by a room's state.
fn users_of(events: &[(RoomEvent, &str)], memberships: &[Membership]) -> Vec<OwnedUserId> {
    let is_one = |event: &RoomEvent| {
        Membership::from_content(&event.content).is_some_and(|it| memberships.contains(&it))
    };
    events
        .iter()
        .filter(|(event, _)| event.event_type == "m.room.member" && is_one(event))
        .filter_map(|(event, _)| ruma::UserId::parse(event.state_key.as_deref()?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_claims_the_far_future_is_newer_than_nothing() {
        let at = |event_type: &str, sent_at: i64| {
            let event = json!({ "event_id": "$event", "type": event_type, "state_key": "",
                "sender": "@alice:localhost", "content": {}, "origin_server_ts": sent_at });
            order(&RoomEvent::parse_str(&event.to_string()).unwrap(), 1_000)
        };
        let (child, sealed) = ("m.space.child", "m.room.encrypted");
        assert!(at(child, 10) < at(sealed, 20) && at(sealed, 10) < at(child, 20));
        assert!(at(child, i64::MAX) < at(sealed, 10));
        assert!(at("m.room.power_levels", i64::MAX) < at(sealed, i64::MAX));
    }
}
