//! Letting go of members' keys: the keeper is no archive of what others encrypt.
//!
//! Clients give the keeper, as any member, the sessions under which they encrypt, and these open messages as well. It
//! needs one as long as a state event may come under it, or waits for it. A state event that comes later than that,
//! from a server that was away, is one that the keeper asks for.

use std::time::Duration;

use super::{KeeperError, clock::now_ms, ingest::Taker, inherited};
use crate::{
    crypto::MadeSession,
    store::{HeldSession, held_sessions, inherited as kept, rooms, set_meta},
};

/// How many sessions go at once.
const AT_ONCE: i64 = 200;
/// How often it is looked whether some may go, at most and at least.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// Under which key it is noted that what the key store held from earlier versions is known.
const KNOWN: &str = "held_sessions";

/// Notes whose sessions came, as part of the caller's transaction.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn note(
    taker: &Taker,
    db: &mut sqlx::SqliteConnection,
    sessions: Vec<MadeSession>,
) -> Result<(), KeeperError> {
    for session in sessions {
        let (tick, now) = (taker.store.next_tick(), now_ms());
        let session = row(session);
        held_sessions::put(db, &session, tick, now).await?;
        let room = rooms::get(db, &session.room_id).await?;
        // Nobody's state is read there. Of a room that is not known yet the invite may be on its way.
        let is_talked_in = taker.rules.global().management_room.as_ref() == Some(&session.room_id);
        if !is_talked_in && room.is_some_and(|room| room.loaded && !room.state_encrypted) {
            held_sessions::left(db, &session.room_id, None, now).await?;
        }
    }
    Ok(())
}

fn row(session: MadeSession) -> HeldSession {
    HeldSession {
        room_id: session.room_id,
        session_id: session.session_id,
        maker: session.maker.map(|maker| maker.to_string()).unwrap_or_default(),
        sender_key: session.sender_key,
        shared: session.shared_history,
    }
}

/// Deletes members' keys that have not been needed for `state.member_keys_kept`, for ever.
///
/// # Errors
///
/// [`KeeperError`] when a store fails.
pub async fn let_go(taker: Taker) -> Result<(), KeeperError> {
    learn(&taker).await?;
    let kept =
        Duration::from_millis(u64::try_from(taker.rules.global().member_keys_kept).unwrap_or(0));
    let (shortest, longest) = LOOK_EVERY;
    let every = (kept / 4).clamp(shortest, longest);
    loop {
        discard(&taker).await?;
        tokio::time::sleep(every).await;
    }
}

/// Notes once what the key store held before any of it was noted.
async fn learn(taker: &Taker) -> Result<(), KeeperError> {
    if taker.store.meta(KNOWN).await?.is_some() {
        return Ok(());
    }
    let held = taker.device.held_sessions().await?;
    let mut transaction = taker.store.begin().await?;
    for session in held {
        held_sessions::put(&mut transaction, &row(session), 0, now_ms()).await?;
    }
    set_meta(&mut transaction, KNOWN, "known").await?;
    Ok(transaction.commit().await?)
}

/// Deletes what may go. It is chosen and deleted in one transaction of the store, which events that are being taken
/// in have to wait for: none of them needs what is just going.
async fn discard(taker: &Taker) -> Result<(), KeeperError> {
    let mut transaction = taker.store.begin().await?;
    kept::drop_needless(&mut transaction, inherited::knocks(taker)).await?;
    transaction.commit().await?;
    let mut erased = 0;
    loop {
        let before = now_ms().saturating_sub(taker.rules.global().member_keys_kept);
        let forwards = taker.rules.any(|rules| rules.forward_member_sessions);
        let mut transaction = taker.store.begin().await?;
        let knocks = inherited::knocks(taker);
        let wanted = (forwards, knocks);
        let needless = held_sessions::needless(&mut transaction, before, wanted, AT_ONCE).await?;
        if needless.is_empty() {
            break;
        }
        let ids: Vec<String> = needless.iter().map(|(_, session)| session.clone()).collect();
        erased += taker.device.discard(&ids).await?;
        for (room, session) in &needless {
            held_sessions::remove(&mut transaction, room, session).await?;
        }
        transaction.commit().await?;
    }
    if erased > 0 {
        taker.device.empty_log().await?;
        tracing::debug!(erased, "members' keys were deleted that are needed no more");
    }
    Ok(())
}
