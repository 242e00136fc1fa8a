//! Weighing what a member sealed: it is read, judged, and becomes its tuple's value or does not; and again, when more is
//! known of it.

use ruma::EventId;
use sqlx::SqliteConnection;

use super::{
    KeeperError, buried,
    clock::now_ms,
    copies,
    echoes::silence,
    enforcing::{broken_on_key, conclude, keep, refusal_on_key, then},
    ingest::{Arrival, Taker, power_levels},
    judging::{Reading, device_trust, judge_encrypted},
    places, redaction,
    state_events::{promise, tuple_row, warn_of_picture},
};
use crate::{
    crypto::Decrypted,
    state::{Form, Refusal, Rule, Verdict},
    store::{LevelsThen, RoomRow, SourceValue, StateEventRow, TupleRow, marks, tuples},
};

/// Reads an event whose key had been missing. It counts unless a newer one does, or did before it was taken back: what
/// was not allowed meanwhile hides nothing.
pub(super) async fn read_again(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    mut seen: StateEventRow,
    now: i64,
) -> Result<(), KeeperError> {
    // Nothing is known of it that was not known before.
    if !seen.awaits && seen.content.is_none() && decrypt(taker, room, &seen).await?.is_none() {
        return Ok(());
    }
    let mut row = tuple_row(taker, db, room, &seen.tuple).await?;
    // What was taken back stays so: nothing older comes in its place.
    if tuples::is_superseded(db, &room.room_id, &seen.tuple, seen.tick).await? {
        if let Some(decrypted) = decrypt(taker, room, &seen).await? {
            seen.content = Some(Reading::of(&decrypted).content);
        }
        if seen.awaits {
            (seen.verdict, seen.awaits) = ("superseded".to_owned(), false);
        }
        return keep(taker, db, room, &seen).await;
    }
    // It was weighed without its key before: nothing is written for having tried again.
    if seen.verdict == "unreadable"
        && refusal_on_key(room, &seen).is_none()
        && decrypt(taker, room, &seen).await?.is_none()
    {
        return Ok(());
    }
    weigh(taker, db, room, &mut row, &mut seen, now).await?;
    places::take_sealed(taker, db, room, &row, true).await
}

/// Reads an event, judges it, and notes what came of that.
pub(super) async fn weigh(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    row: &mut TupleRow,
    seen: &mut StateEventRow,
    now: i64,
) -> Result<(), KeeperError> {
    let stands = row.current_event_id.as_ref() == Some(&seen.event_id);
    let decrypted = decrypt(taker, room, seen).await?;
    let verdict = match &decrypted {
        Some(decrypted) => {
            let device = device_trust(db, &seen.sender, decrypted, now).await?;
            let exempt = &taker.rules.of(room).exempt;
            let judged = judge_encrypted(taker, room, seen, decrypted, (device, exempt));
            seen.content = Some(judged.1.content.clone());
            if matches!(judged.0, Verdict::Refuse(Refusal::Exempt))
                && copies::take_exempt(taker, room, row, seen, (decrypted, device), now)
            {
                let tick = taker.store.next_tick();
                promise(taker, db, room, Arrival::live(now, tick)).await?;
            }
            Some(judged)
        }
        None => None,
    };
    match verdict {
        // Power, exemption and ownership need no key: what is wrong with an event is said at once.
        None if judged_before(taker, db, room, row, seen).await? => {}
        None => {
            if stands {
                row.current_fit = false;
            }
            let none = seen.session_id.is_none().then_some(Refusal::Shape("it is no ciphertext"));
            if let Some(refusal) = refusal_on_key(room, seen).or(none) {
                conclude(taker, room, seen, &refusal);
                without(taker, db, room, row, seen).await?;
            } else {
                (seen.verdict, seen.awaits) = ("unreadable".to_owned(), true);
                tracing::info!(room = %room.room_id, event = %seen.event_id, sender = %seen.sender,
                    event_type = seen.tuple.event_type, "a state event's key is not here yet");
            }
        }
        Some((Verdict::Refuse(refusal), _)) => {
            if stands {
                row.current_fit = false;
            }
            conclude(taker, room, seen, &refusal);
            without(taker, db, room, row, seen).await?;
        }
        // What it was not allowed when it came, it is not because its sender was given more power since.
        Some((Verdict::Accept, _)) if refusal_on_key(room, seen).is_some() => {
            if stands {
                row.current_fit = false;
            }
            if let Some(refusal) = refusal_on_key(room, seen) {
                conclude(taker, room, seen, &refusal);
            }
            without(taker, db, room, row, seen).await?;
        }
        Some((Verdict::Accept, value)) => {
            seen.verdict = "accepted".to_owned();
            seen.breach = seen.breach.filter(|rule| *rule == Rule::Timestamp);
            seen.awaits = false;
            accept(taker, db, room, row, seen, value, now).await?;
        }
    }
    tuples::put(&taker.store, db, &room.room_id, row).await?;
    keep(taker, db, room, seen).await
}

/// An event's body in the clear; `None` where its key is not here, or it was never to be read.
async fn decrypt(
    taker: &Taker,
    room: &RoomRow,
    seen: &StateEventRow,
) -> Result<Option<Decrypted>, KeeperError> {
    let Some(body) = &seen.body else { return Ok(None) };
    Ok(taker.device.decrypt(&room.room_id, body).await?)
}

/// The levels that stood when an event was sent are known at last: it is judged by these, where it was not.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn judge_by(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &EventId,
    levels: &LevelsThen,
) -> Result<(), KeeperError> {
    let seen = tuples::get_event(&taker.store, db, event).await?;
    let Some(mut seen) = seen.filter(|seen| seen.levels.is_none() && seen.verdict != "redacted")
    else {
        return Ok(());
    };
    seen.levels = Some(levels.clone());
    let then = then(room, &seen);
    seen.powerful = power_levels(&then).may_send_state(&seen.sender, &seen.tuple.event_type);
    let on_key = broken_on_key(taker, &then, &seen.tuple, &seen.sender);
    seen.breach = on_key.or(seen.breach.filter(|rule| !rule.is_on_key()));
    if let Some(refusal) = refusal_on_key(room, &seen) {
        let mut row = tuple_row(taker, db, room, &seen.tuple).await?;
        conclude(taker, room, &mut seen, &refusal);
        without(taker, db, room, &mut row, &seen).await?;
        tuples::put(&taker.store, db, &room.room_id, &row).await?;
    }
    keep(taker, db, room, &seen).await
}

/// An event turns out not to have been allowed. If it was taken for its tuple's value, that is the newest other one that
/// was allowed.
async fn without(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    row: &mut TupleRow,
    seen: &StateEventRow,
) -> Result<(), KeeperError> {
    let is_value = row.source.as_ref().is_some_and(|source| source.event_id == seen.event_id);
    // Of what waits for a signature it is not known yet.
    if !is_value || seen.awaits || taker.rules.of(room).exempt.contains(&row.tuple.event_type) {
        return Ok(());
    }
    let but = (&seen.tuple, seen.event_id.as_ref());
    let allowed = tuples::newest_allowed(&taker.store, db, &room.room_id, but).await?;
    row.source = allowed.and_then(|allowed| {
        Some(SourceValue {
            event_id: allowed.event_id,
            sender: allowed.sender,
            form: if allowed.session_id.is_some() { Form::Encrypted } else { Form::Plain },
            at: allowed.received_at,
            tick: allowed.tick,
            content: allowed.content?,
        })
    });
    Ok(marks::mark(db, &room.room_id, None, now_ms(), taker.store.next_tick()).await?)
}

/// Whether an event that cannot be read was read and judged when its key was here: what was said of it then holds.
async fn judged_before(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    row: &mut TupleRow,
    seen: &mut StateEventRow,
) -> Result<bool, KeeperError> {
    let Some(before) = tuples::get_event(&taker.store, db, &seen.event_id).await? else {
        return Ok(false);
    };
    let is_source = row.source.as_ref().is_some_and(|source| source.event_id == seen.event_id);
    // What was said of it by other levels than those of its time does not hold against these.
    let now_known = before.levels.is_none() && seen.levels.is_some();
    let on_key = |rule: Option<Rule>| rule.filter(|rule| rule.is_on_key());
    if now_known && on_key(before.breach) != on_key(seen.breach) {
        return Ok(false);
    }
    let holds = match before.verdict.as_str() {
        "unreadable" | "superseded" => false,
        "accepted" => is_source || taker.rules.of(room).sender_bound.binds(&row.tuple),
        _ => !before.awaits,
    };
    if holds {
        if row.current_event_id.as_ref() == Some(&seen.event_id) {
            row.current_fit = before.verdict == "accepted";
        }
        let (levels, powerful) = match now_known {
            true => (seen.levels.take(), seen.powerful),
            false => (before.levels.clone(), before.powerful),
        };
        *seen = StateEventRow { live: seen.live, levels, powerful, ..before };
    }
    Ok(holds)
}

/// An event that the keeper may stand on becomes the tuple's source, unless it is somebody's reseal of what
/// the keeper has sealed already: two keepers must not answer each other for ever.
async fn accept(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    row: &mut TupleRow,
    seen: &StateEventRow,
    value: Reading,
    now: i64,
) -> Result<(), KeeperError> {
    if row.current_event_id.as_ref() == Some(&seen.event_id) {
        row.current_fit = true;
    }
    let bound = taker.rules.of(room).sender_bound.binds(&row.tuple);
    // Looked at anew, it says what it said before.
    if row.source.as_ref().is_some_and(|source| source.event_id == seen.event_id) {
        return Ok(());
    }
    let origin = value.stands_for.as_ref().and_then(|mark| mark.get("event_id")?.as_str());
    let known = |id: &str| {
        row.source.as_ref().is_some_and(|source| source.event_id == id)
            || row.sealed.as_ref().is_some_and(|sealed| sealed.from == id)
    };
    // Anybody can write that his event stands for another one: what says something else is a value of its own.
    let says_another = row.source.as_ref().is_some_and(|source| source.content != value.content);
    if origin.is_some_and(known) && !says_another {
        return Ok(());
    }
    let silent =
        if bound { 0 } else { silence(taker, room, row, &seen.sender, &value.content, now) };
    let at = now.saturating_add(silent);
    if row.redacted {
        let said = redaction::current_says(taker, db, row).await?;
        redaction::stand_anew(row, seen, said.as_ref(), &taker.keeper);
    }
    row.source = Some(SourceValue {
        event_id: seen.event_id.clone(),
        sender: seen.sender.clone(),
        form: if origin.is_some() { Form::Sealed } else { Form::Encrypted },
        at,
        tick: seen.tick,
        content: value.content,
    });
    warn_of_picture(room, row);
    buried::at_hand(db, room, row).await?;
    let tick = taker.store.next_tick();
    promise(taker, db, room, Arrival::live(at, tick)).await
}
