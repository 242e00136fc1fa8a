//! The journal: what is kept of every state event, allowed or not, and what of it is known when it comes again.

use sqlx::SqliteConnection;

use super::{
    KeeperError,
    enforcing::{broken_on_key, conclude, keep, note_time, then},
    ingest::{Arrival, Taker, power_levels},
    redaction,
    state_events::tuple_row,
};
use crate::{
    state::{MegolmContent, Refusal, RoomEvent, Rule, StateTuple},
    store::{RoomRow, StateEventRow, held_sessions, inbox, tuples},
};

/// The types of which the room itself is made, and which are taken in as that.
const SETTINGS: [&str; 6] = [
    "m.room.create",
    "m.room.power_levels",
    "m.room.encryption",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.member",
];

/// Keeps an event of a type that says how the room itself is set or who is in it: the homeserver has checked it.
pub(super) async fn keep_setting(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let is_setting = SETTINGS.contains(&event.event_type.as_str());
    if is_setting { keep_plain(taker, db, room, event, arrival).await } else { Ok(()) }
}

/// Keeps an event in plain of which nothing else is kept yet.
pub(super) async fn keep_plain(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let Some(tuple) = event.outer_tuple().filter(|_| event.sender != taker.keeper) else {
        return Ok(());
    };
    if event.is_redacted {
        return redaction::reach_plain(taker, db, room, (event, &tuple), arrival).await;
    }
    if tuples::is_kept(db, &event.event_id).await? {
        return Ok(());
    }
    remember(taker, db, room, event, &tuple, tuples::IN_PLAIN, arrival).await
}

pub(super) async fn remember(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    tuple: &StateTuple,
    verdict: &str,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    // What is found in a fetched state was seen before, perhaps, when more was known of it.
    let before = tuples::get_event(&taker.store, db, &event.event_id).await?;
    let row = recorded(room, (event, tuple), verdict, (before, arrival));
    Ok(tuples::put_event(&taker.store, db, &room.room_id, &row).await?)
}

/// What is kept of an event in plain; `before` is what was, when it came for the first time.
pub(super) fn recorded(
    room: &RoomRow,
    (event, tuple): (&RoomEvent, &StateTuple),
    verdict: &str,
    (before, arrival): (Option<StateEventRow>, Arrival),
) -> StateEventRow {
    let levels = arrival.levels_known.then(|| room.power_levels.clone());
    StateEventRow {
        event_id: event.event_id.clone(),
        tuple: tuple.clone(),
        sender: event.sender.clone(),
        tick: arrival.tick,
        received_at: before.as_ref().map_or(arrival.at, |before| before.received_at),
        session_id: None,
        powerful: true,
        levels: before.as_ref().and_then(|before| before.levels.clone()).or(levels),
        verdict: verdict.to_owned(),
        breach: None,
        live: arrival.live || before.is_some_and(|before| before.live),
        awaits: false,
        body: None,
        content: Some(event.content.clone()),
    }
}

/// Keeps an encrypted event whose state key names no tuple: no client knows what it is about. It stands at a place of its
/// own, from where it can be redacted.
pub(super) async fn keep_unnamed(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    (event, body): (&RoomEvent, &str),
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let Some(tuple) = event.outer_tuple() else { return Ok(()) };
    if event.sender == taker.keeper {
        return Ok(());
    }
    if event.is_redacted {
        let mut row = tuple_row(taker, db, room, &tuple).await?;
        if row.current_event_id.as_ref() == Some(&event.event_id) {
            row.redacted = true;
            tuples::put(&taker.store, db, &room.room_id, &row).await?;
        }
        let target = event.event_id.as_ref();
        return redaction::reach(taker, db, room, (target, target), arrival).await;
    }
    if tuples::is_kept(db, &event.event_id).await? {
        return Ok(());
    }
    if !arrival.fetched && !arrival.behind {
        let mut row = tuple_row(taker, db, room, &tuple).await?;
        row.current_event_id = Some(event.event_id.clone());
        row.current_sender = Some(event.sender.clone());
        (row.current_fit, row.redacted) = (false, false);
        tuples::put(&taker.store, db, &room.room_id, &row).await?;
    }
    let (seen, fresh) = see(taker, db, room, (event, body), tuple, arrival).await?;
    let refusal = if fresh { Refusal::PackedKeyMismatch } else { Refusal::Replayed };
    let mut seen = StateEventRow { breach: None, ..seen };
    conclude(taker, room, &mut seen, &refusal);
    keep(taker, db, room, &seen).await
}

/// Keeps an event that comes redacted, and says whether it was never allowed, by its packed key.
pub(super) async fn keep_redacted(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    (event, body): (&RoomEvent, &str),
    tuple: &StateTuple,
    arrival: Arrival,
) -> Result<bool, KeeperError> {
    let (seen, _) = see(taker, db, room, (event, body), tuple.clone(), arrival).await?;
    let verdict = "redacted".to_owned();
    let mut seen = StateEventRow { verdict, awaits: false, body: None, ..seen };
    // What its sender may do today says nothing of then.
    if !arrival.levels_known {
        seen.breach = seen.breach.filter(|rule| *rule == Rule::Critical);
    }
    keep(taker, db, room, &seen).await?;
    Ok(redaction::was_never_allowed(&seen))
}

/// An event as it comes, before it is read, and whether its index stood in no other one.
pub(super) async fn see(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    (event, body): (&RoomEvent, &str),
    tuple: StateTuple,
    arrival: Arrival,
) -> Result<(StateEventRow, bool), KeeperError> {
    let megolm = MegolmContent::parse(&event.content);
    let fresh = match &megolm {
        Ok(content) => {
            let (session, index) = (&content.session_id, content.message_index);
            held_sessions::used(db, &room.room_id, session, &event.sender, arrival.at).await?;
            tuples::record_index(db, &room.room_id, session, index, &event.sender, &event.event_id)
                .await?
        }
        Err(_) => true,
    };
    let power = power_levels(room);
    let mut seen = StateEventRow {
        event_id: event.event_id.clone(),
        sender: event.sender.clone(),
        tick: arrival.tick,
        received_at: arrival.at,
        session_id: megolm.as_ref().ok().map(|content| content.session_id.clone()),
        powerful: power.may_send_state(&event.sender, &tuple.event_type),
        levels: arrival.levels_known.then(|| room.power_levels.clone()),
        verdict: "unreadable".to_owned(),
        breach: broken_on_key(taker, room, &tuple, &event.sender),
        tuple,
        live: arrival.live || inbox::was_told(db, &event.event_id).await?,
        awaits: fresh,
        // What was a replay once is never read as anything else.
        body: fresh.then(|| body.to_owned()),
        content: None,
    };
    note_time(event, &mut seen);
    Ok((seen, fresh))
}

/// What was known of an event when it came holds when it is looked at anew: the power that its sender had then, what it
/// broke, and its place among the others, unless one of these stood in between. Where the levels of its time were not
/// known then and are now, it is judged by these.
pub(super) async fn recall(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    before: StateEventRow,
    seen: &mut StateEventRow,
) -> Result<(), KeeperError> {
    if !tuples::is_superseded(db, &room.room_id, &seen.tuple, before.tick).await? {
        seen.tick = before.tick;
    }
    seen.live |= before.live;
    seen.received_at = before.received_at;
    seen.verdict = before.verdict;
    seen.awaits = before.awaits;
    seen.content = before.content;
    if before.levels.is_some() || seen.levels.is_none() {
        (seen.powerful, seen.levels) = (before.powerful, before.levels);
        seen.breach = before.breach;
    }
    // The types that the rules speak of may be others than they were.
    if seen.levels.is_some() {
        let then = then(room, seen);
        let on_key = broken_on_key(taker, &then, &seen.tuple, &seen.sender);
        seen.breach = on_key.or(before.breach.filter(|rule| !rule.is_on_key()));
    }
    Ok(())
}
