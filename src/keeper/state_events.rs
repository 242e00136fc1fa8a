//! Taking state events in: who gave a hidden tuple which value, and whether the keeper may stand on it.

use ruma::{OwnedUserId, RoomId};
use sqlx::SqliteConnection;

use super::{
    KeeperError, buried,
    clock::now_ms,
    copies,
    echoes::silence,
    enforcing::{
        broken_on_key, conclude, keep, note_time, plain_beside, refusal_on_key, report, then,
    },
    gone_back,
    ingest::{Arrival, Taker, power_levels},
    judging::{Reading, device_trust, judge_encrypted},
    outbox::redaction_of,
    overtaken, places, plain, redaction,
};
use crate::{
    crypto::Decrypted,
    state::{
        Form, JsonMap, Judgement, MegolmContent, PowerLevels, Refusal, RoomEvent, Rule, StateTuple,
        Verdict, judge,
    },
    store::{
        RoomRow, SourceValue, StateEventRow, TupleRow, held_sessions, inbox, marks, outbox, tuples,
    },
};

/// The types of which the room itself is made, besides memberships.
const SETTINGS: [&str; 5] = [
    "m.room.create",
    "m.room.power_levels",
    "m.room.encryption",
    "m.room.join_rules",
    "m.room.history_visibility",
];

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

/// Keeps an event of a type that says how the room itself is set or who is in it: the homeserver has checked it.
pub(super) async fn keep_setting(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let is_setting = SETTINGS.contains(&event.event_type.as_str());
    // Who was in the room when the keeper came stands with its members.
    let is_member = arrival.live && event.event_type == "m.room.member";
    if is_setting || is_member { keep_plain(taker, db, room, event, arrival).await } else { Ok(()) }
}

/// Keeps an event in plain of which nothing else is kept yet.
async fn keep_plain(
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
        return remember(taker, db, room, event, &tuple, refusal.as_label(), arrival).await;
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
    remember(taker, db, room, event, &tuple, "accepted", arrival).await?;
    promise(taker, db, room, Arrival { at, ..arrival }).await
}

/// Says of an avatar that it hides its picture from nobody: the event is sealed, and what it leads to is not.
fn warn_of_picture(room: &RoomRow, row: &TupleRow) {
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

async fn promise(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let due = arrival.at.saturating_add(taker.rules.of(room).reseal_delay);
    Ok(marks::mark(db, &room.room_id, None, due, arrival.tick).await?)
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
    let levels = arrival.levels_known.then(|| room.power_levels.clone());
    let row = StateEventRow {
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
    };
    Ok(tuples::put_event(&taker.store, db, &room.room_id, &row).await?)
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
    if seen.session_id.is_none() {
        row.current_fit = false;
        tuples::put(&taker.store, db, &room.room_id, &row).await?;
        let refusal = refusal_on_key(room, &seen).unwrap_or(Refusal::Shape("it is no ciphertext"));
        conclude(taker, room, &mut seen, &refusal);
        return keep(taker, db, room, &seen).await;
    }
    weigh(taker, db, room, &mut row, &mut seen, arrival.at).await?;
    places::take_sealed(taker, db, room, &row, arrival.live).await
}

/// Keeps an event that comes redacted, and says whether it was never allowed, by its packed key.
async fn keep_redacted(
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

/// Keeps an encrypted event whose state key names no tuple: no client knows what it is about. It stands at a place of its
/// own, from where it can be redacted.
async fn keep_unnamed(
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

/// An event as it comes, before it is read, and whether its index stood in no other one.
async fn see(
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
async fn recall(
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
    weigh(taker, db, room, &mut row, &mut seen, now).await?;
    places::take_sealed(taker, db, room, &row, true).await
}

/// Reads an event, judges it, and notes what came of that.
async fn weigh(
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
            if let Some(refusal) = refusal_on_key(room, seen) {
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
    if origin.is_some_and(known) {
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
