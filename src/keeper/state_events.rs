//! Taking state events in: who gave a hidden tuple which value, and whether the keeper may stand on it.

use ruma::{OwnedUserId, RoomId};
use sqlx::SqliteConnection;

use super::{
    KeeperError, buried,
    clock::now_ms,
    copies,
    echoes::silence,
    enforcing::{conclude, keep, keep_value, owe_again, plain_beside, report},
    gone_back,
    ingest::{Arrival, Taker, power_levels},
    journal::{keep_plain, keep_redacted, keep_unnamed, recall, see},
    outbox::redaction_of,
    overtaken, places, plain, redaction,
    weighing::weigh,
};
use crate::{
    state::{
        Form, JsonMap, Judgement, MegolmContent, PowerLevels, Refusal, RoomEvent, StateTuple,
        Verdict, judge,
    },
    store::{RoomRow, SourceValue, TupleRow, held_sessions, inbox, marks, outbox, tuples},
};

/// Notes the session and index of an encrypted message, so that its ciphertext can never pass for state.
pub(super) async fn record_message(
    db: &mut SqliteConnection,
    room: &RoomId,
    event: &RoomEvent,
) -> Result<(), KeeperError> {
    if let Ok(megolm) = MegolmContent::parse(&event.content) {
        let (session, index) = (&megolm.session_id, megolm.message_index);
        tuples::record_message(db, room, session, index, &event.sender).await?;
        held_sessions::used(db, room, session, &event.sender, now_ms()).await?;
    }
    Ok(())
}

/// Takes in a state event of a room with encrypted state.
pub(super) async fn take_state(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    body: &str,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    if event.event_type == "m.room.encrypted" {
        return take_encrypted(taker, db, room, event, body, arrival).await;
    }
    take_plain(taker, db, room, event, arrival).await?;
    keep_plain(taker, db, room, event, arrival).await
}

/// State in plain counts where the tuple has nothing sealed yet, or where [`plain::counts`] says so.
async fn take_plain(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let Some(tuple) = event.outer_tuple() else { return Ok(()) };
    copies::note(taker, db, room, event, &tuple, arrival).await?;
    let rules = taker.rules.of(room);
    if rules.exempt.contains(&tuple.event_type)
        || rules.sender_bound.binds(&tuple)
        || event.is_redacted
        // A copy, or a stub in the place of one.
        || event.sender == taker.keeper
        || tuple.packed().is_err()
    {
        return Ok(());
    }
    if !arrival.live {
        owe_again(taker, db, room, event).await?;
    }
    let mut row = tuple_row(taker, db, room, &tuple).await?;
    let is_under = buried::is_plain(db, room, &row).await?;
    let follows = (row.current_event_id.is_some() || row.redacted) && !is_under;
    if follows && !plain::counts(taker, db, room, &row, event, arrival).await? {
        return plain_beside(taker, db, room, (event, &row), arrival).await;
    }
    let power = match arrival.live {
        true => power_levels(room),
        // The homeserver checked it when it was sent: what the sender may do today is not what counts.
        false => as_creator(room, &event.sender),
    };
    let verdict = judge(&Judgement {
        room_id: &room.room_id,
        tuple: &tuple,
        sender: &event.sender,
        power: &power,
        exempt: &rules.exempt,
        content: &event.content,
        payload: None,
        require_cross_signed: rules.require_cross_signed,
    });
    if let Verdict::Refuse(refusal) = verdict {
        report(taker, room, event.event_id.as_str(), &event.sender, &tuple, &refusal);
        return keep_value(taker, db, room, (event, &tuple), Some(&refusal), arrival).await;
    }
    let silent = match follows {
        true => silence(taker, room, &mut row, &event.sender, &event.content, arrival.at),
        false => 0,
    };
    let at = arrival.at.saturating_add(silent);
    // Whatever stood under encryption, this is newer.
    (row.redacted, row.current_fit) = (false, true);
    row.source = Some(source(event, Form::Plain, event.content.clone(), at, arrival.tick));
    warn_of_picture(room, &row);
    buried::at_hand(db, room, &mut row).await?;
    tuples::put(&taker.store, db, &room.room_id, &row).await?;
    keep_value(taker, db, room, (event, &tuple), None, arrival).await?;
    promise(taker, db, room, Arrival { at, ..arrival }).await
}

/// Says of an avatar that it hides its picture from nobody: the event is sealed, and what it leads to is not.
pub(super) fn warn_of_picture(room: &RoomRow, row: &TupleRow) {
    let Some(source) = row.source.as_ref().filter(|_| row.has_public_picture()) else { return };
    tracing::warn!(room = %room.room_id, event = %source.event_id,
        "an avatar is hidden, and its picture lies on the server for everybody to see");
}

/// The power of somebody who may do everything.
pub(super) fn as_creator(room: &RoomRow, sender: &OwnedUserId) -> PowerLevels {
    PowerLevels::from_content(None, std::slice::from_ref(sender), &room.version)
}

pub(super) async fn tuple_row(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    tuple: &StateTuple,
) -> Result<TupleRow, KeeperError> {
    let row = tuples::get(&taker.store, db, &room.room_id, tuple).await?;
    Ok(row.unwrap_or_else(|| TupleRow::new(tuple.clone())))
}

pub(super) fn source(
    event: &RoomEvent,
    form: Form,
    content: JsonMap,
    at: i64,
    tick: i64,
) -> SourceValue {
    SourceValue {
        event_id: event.event_id.clone(),
        sender: event.sender.clone(),
        form,
        at,
        tick,
        content,
    }
}

pub(super) async fn promise(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let due = arrival.at.saturating_add(taker.rules.of(room).reseal_delay);
    Ok(marks::mark(db, &room.room_id, None, due, arrival.tick).await?)
}

/// Takes in an `m.room.encrypted` state event: the keeper's own echo, or somebody's value.
async fn take_encrypted(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    body: &str,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let Some(tuple) = event.state_key.as_deref().and_then(StateTuple::from_packed) else {
        return keep_unnamed(taker, db, room, (event, body), arrival).await;
    };
    let mut row = tuple_row(taker, db, room, &tuple).await?;
    if arrival.fetched && event.sender == taker.keeper {
        let strange = match MegolmContent::parse(&event.content) {
            Ok(megolm) => gone_back::weigh(taker, db, &room.room_id, event, &megolm).await?,
            Err(_) => return Ok(()),
        };
        return buried::take_fetched(taker, db, room, event, (&tuple, strange), arrival).await;
    }
    if arrival.behind || arrival.fetched && overtaken::is_overtaken(&row, &taker.keeper) {
        if event.is_redacted {
            let target = event.event_id.as_ref();
            return redaction::reach(taker, db, room, (target, target), arrival).await;
        }
        let seen = see(taker, db, room, (event, body), tuple, arrival).await?;
        return overtaken::take(taker, db, room, &row, seen).await;
    }
    row.current_event_id = Some(event.event_id.clone());
    row.current_sender = Some(event.sender.clone());
    row.current_fit = true;
    let own = tuples::seal(db, &event.event_id).await?;
    let known = tuples::get_event(&taker.store, db, &event.event_id).await?;
    // Whoever sends an empty one has redacted nothing by that.
    let was_sealed = known.as_ref().is_some_and(|known| known.session_id.is_some());
    let is_emptied = event.content.is_empty() && (own.is_some() || was_sealed);
    if event.is_redacted || is_emptied {
        let stood = row.source.as_ref().map(|source| source.event_id.clone());
        let stands_for = own.map_or_else(|| event.event_id.clone(), |(_, stands_for)| stands_for);
        let broke = match &known {
            Some(known) => redaction::was_never_allowed(known),
            None if event.sender == taker.keeper => false,
            None => keep_redacted(taker, db, room, (event, body), &tuple, arrival).await?,
        };
        let reached = (event.event_id.as_ref(), stands_for.as_ref());
        redaction::reach(taker, db, room, reached, arrival).await?;
        redaction::take_back(&mut row, (&event.event_id, &stands_for), &taker.keeper, broke);
        row.current_fit = !broke;
        if row.redacted {
            row.source = None;
        }
        if let (Some(stood), None) = (stood, &row.source) {
            places::take_sealed_back(taker, db, room, &row.tuple, &stood).await?;
        }
        return Ok(tuples::put(&taker.store, db, &room.room_id, &row).await?);
    }
    if event.sender == taker.keeper {
        let mut strange = false;
        if let Ok(megolm) = MegolmContent::parse(&event.content) {
            strange = gone_back::weigh(taker, db, &room.room_id, event, &megolm).await?;
            let (session, index) = (&megolm.session_id, megolm.message_index);
            let (sender, event) = (&event.sender, &event.event_id);
            tuples::record_index(db, &room.room_id, session, index, sender, event).await?;
        }
        note_own(taker, db, room, event, &row, arrival).await?;
        // The homeserver refused it once, or the keeper was put out before it was sent.
        if !arrival.live && tuples::is_said_redacted(db, &event.event_id).await? {
            outbox::insert(db, &room.room_id, &redaction_of(&event.event_id), arrival.at).await?;
        }
        if strange {
            buried::take(taker, db, room, event, &mut row, arrival).await?;
        } else {
            buried::replaced(db, room, &row).await?;
            look_under(taker, db, room, event, arrival).await?;
        }
        tuples::put(&taker.store, db, &room.room_id, &row).await?;
        return places::take_sealed(taker, db, room, &row, arrival.live).await;
    }
    // Somebody else's value: whatever was redacted before, this one stands for itself.
    row.redacted = false;
    buried::replaced(db, room, &row).await?;
    let (mut seen, fresh) = see(taker, db, room, (event, body), tuple, arrival).await?;
    if let Some(before) = known {
        if before.verdict == "redacted" {
            row.redacted = true;
            return Ok(tuples::put(&taker.store, db, &room.room_id, &row).await?);
        }
        recall(taker, db, room, before, &mut seen).await?;
    }
    if !fresh {
        row.current_fit = false;
        tuples::put(&taker.store, db, &room.room_id, &row).await?;
        conclude(taker, room, &mut seen, &Refusal::Replayed);
        return keep(taker, db, room, &seen).await;
    }
    weigh(taker, db, room, &mut row, &mut seen, arrival.at).await?;
    places::take_sealed(taker, db, room, &row, arrival.live).await
}

/// What did the keeper's event land on? A homeserver may leave a transaction lying when the service comes back, and
/// tell of an edit much later, or never: its id stands in the echo of what replaced it.
async fn look_under(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let Some(replaced) = event.replaces_state.as_ref().filter(|_| arrival.live) else {
        return Ok(());
    };
    let seen = tuples::get_event(&taker.store, db, replaced).await?.is_some()
        || tuples::seal(db, replaced).await?.is_some();
    if !seen && inbox::miss(db, &room.room_id, replaced).await? {
        tracing::warn!(room = %room.room_id, event = %replaced,
            "the homeserver has not told of an event that the keeper's landed on; fetching it");
        marks::mark(db, &room.room_id, None, arrival.at, arrival.tick).await?;
    }
    Ok(())
}

/// The keeper's own event is seen. Where the answer to its sending was lost, this is how the keeper learns what
/// its id is: what it stands for may have been redacted since.
async fn note_own(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    row: &TupleRow,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let Ok(megolm) = MegolmContent::parse(&event.content) else { return Ok(()) };
    let (session, index) = (&megolm.session_id, megolm.message_index);
    let Some(stands_for) = tuples::take_prepared(db, session, index).await? else { return Ok(()) };
    tuples::put_seal(db, &room.room_id, &row.tuple, &event.event_id, &stands_for).await?;
    let source = tuples::get_event(&taker.store, db, &stands_for).await?;
    if redaction::was_taken_back(row, source.as_ref()) {
        for sealed in tuples::take_seals_of(db, &stands_for).await? {
            outbox::insert(db, &room.room_id, &redaction_of(&sealed), arrival.at).await?;
        }
        marks::mark(db, &room.room_id, None, arrival.at, arrival.tick).await?;
    }
    Ok(())
}
