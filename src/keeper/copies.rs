//! Copies in plain: what stands beside what is sealed is noted here as it comes, and what is decided about it is
//! performed.
//!
//! Recovery: a copy is on disk before it is sent, and [`sending`] says what is done with one that may have been sent.

mod sending;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use ruma::{EventId, OwnedEventId, OwnedUserId};
use serde_json::Value;
use sqlx::SqliteConnection;

use super::{
    KeeperError,
    clock::now_ms,
    decide::{
        CopyKind, ExemptView, Knowledge, MOST_ANSWERS, PlainPut, PlainView, Plan, QUIET_AFTER,
        Warning,
    },
    enforcing::refusal_on_key,
    ingest::{Arrival, Taker, power_levels},
    journal::remember,
    judging::judge_encrypted,
    knowledge::source_view,
    lane::{MOST_SEALS, Visit},
    redaction,
    rules::Rules,
    state_events::{source, tuple_row},
};
use crate::{
    config::{ExemptSealed, PlainCopy as PlainPolicy},
    crypto::Decrypted,
    state::{DeviceTrust, ExemptTypes, Form, JsonMap, PowerLevels, RoomEvent, StateTuple},
    store::{
        NewOutbox, OutboxKind, OutboxRow, PlainCopy, PlainDetail, RoomRow, SourceValue,
        StateEventRow, TupleRow, copies, marks, outbox, tuples,
    },
};

/// The label of a copy that is left to somebody who writes over the keeper's.
const WAR: &str = "war";
/// The label of a copy that the homeserver refused.
const REFUSED: &str = "refused";
/// Every label under which copies are counted.
pub(super) const COUNTED: [&str; 8] = [
    CopyKind::Mirror.as_str(),
    CopyKind::Stub.as_str(),
    CopyKind::Clear.as_str(),
    CopyKind::Publish.as_str(),
    Warning::Stale.as_str(),
    Warning::Telling.as_str(),
    REFUSED,
    WAR,
];

/// What stands in plain in a room, for one decision.
pub(super) struct Places {
    copies: BTreeMap<StateTuple, PlainCopy>,
    rules: Arc<Rules>,
    keeper: OwnedUserId,
    /// Where policy has the keeper write at all.
    power: Option<PowerLevels>,
}

impl Places {
    /// Gathers what stands in plain in a room.
    pub(super) async fn of_room(
        taker: &Taker,
        db: &mut SqliteConnection,
        room: &RoomRow,
    ) -> Result<Self, KeeperError> {
        let mut places = Self::unseen(taker, room);
        let (rules, publishes) = (&places.rules, places.publishes());
        let counts = |event_type: &str| publishes || !rules.exempt.contains(event_type);
        let rows = copies::of_room(&taker.store, db, &room.room_id, counts).await?;
        places.copies = rows.into_iter().map(|copy| (copy.tuple.clone(), copy)).collect();
        Ok(places)
    }

    /// The same, where nobody asks what stands there.
    pub(super) fn unseen(taker: &Taker, room: &RoomRow) -> Self {
        let (rules, copies) = (taker.rules.of(room), BTreeMap::new());
        let mut places = Self { copies, rules, keeper: taker.keeper.clone(), power: None };
        if places.publishes() || places.rules.plain_copy != PlainPolicy::Keep {
            places.power = Some(power_levels(room));
        }
        places
    }

    fn publishes(&self) -> bool {
        self.rules.exempt_sealed == ExemptSealed::Publish
    }

    /// Whether the keeper may write this tuple in plain.
    pub(super) fn may_write(&self, tuple: &StateTuple) -> bool {
        let has = |power: &PowerLevels| power.may_send_state(&self.keeper, &tuple.event_type);
        self.power.as_ref().is_some_and(has) && !self.rules.sender_bound.binds(tuple)
    }

    /// What stands in plain beside a tuple.
    pub(super) fn beside(&mut self, row: &TupleRow) -> Option<PlainView> {
        let copy = self.copies.remove(&row.tuple)?;
        let value = row.source.as_ref().map(|source| &source.content);
        Some(PlainView {
            ours: copy.sender.as_ref() == Some(&self.keeper),
            says_nothing: says_nothing(&copy.content),
            says_value: value == Some(&copy.content),
            says_stub: copy.content == stub(&self.rules),
            event_id: copy.event_id,
            tick: copy.tick,
            rounds: copy.rounds,
            said_at: copy.said_at,
            warned: copy.warned.as_deref().and_then(Warning::from_label),
            refused: copy.refused,
        })
    }

    /// A tuple of an exempt type, if a member sealed it and was allowed to.
    pub(super) fn exempt(&mut self, row: &TupleRow) -> Option<ExemptView> {
        let source = row.source.as_ref().filter(|_| !row.redacted)?;
        let exempt = &self.rules.exempt;
        if exempt.is_critical(&row.tuple.event_type) || !exempt.contains(&row.tuple.event_type) {
            return None;
        }
        let may_write = self.may_write(&row.tuple);
        let source = source_view(source);
        let tuple = row.tuple.clone();
        Some(ExemptView { tuple, source, plain: self.beside(row), may_write })
    }
}

/// What stands in the place of a name where policy wants a fixed text.
fn stub(rules: &Rules) -> JsonMap {
    JsonMap::from_iter([("name".to_owned(), Value::String(rules.plain_stub.clone()))])
}

/// What stands in the place of a copy that is emptied. Homeservers want a name and a topic to be a text.
fn emptied(event_type: &str) -> JsonMap {
    let field = match event_type {
        "m.room.name" => "name",
        "m.room.topic" => "topic",
        _ => return JsonMap::new(),
    };
    JsonMap::from_iter([(field.to_owned(), Value::String(String::new()))])
}

fn says_nothing(content: &JsonMap) -> bool {
    content.values().all(|value| value.is_null() || value.as_str() == Some(""))
}

/// Notes an event in plain as what stands at its tuple's place now.
pub(super) async fn note(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    tuple: &StateTuple,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let rules = taker.rules.of(room);
    if rules.exempt.is_critical(&tuple.event_type)
        || rules.sender_bound.binds(tuple)
        || tuple.packed().is_err()
    {
        return Ok(());
    }
    let store = &taker.store;
    let before = copies::get(store, db, &room.room_id, tuple).await?;
    let mut copy = before.unwrap_or_else(|| PlainCopy::none(tuple.clone()));
    if copy.event_id.as_ref() == Some(&event.event_id) {
        if event.is_redacted && !copy.content.is_empty() {
            copy.content = JsonMap::new();
            copies::put(store, db, &room.room_id, &copy).await?;
        }
        return Ok(());
    }
    let others = event.sender != taker.keeper;
    if others && arrival.live {
        said(taker, room, &mut copy, arrival.at);
    }
    copy.event_id = Some(event.event_id.clone());
    copy.sender = Some(event.sender.clone());
    copy.tick = arrival.tick;
    copy.content = if event.is_redacted { JsonMap::new() } else { event.content.clone() };
    copy.refused = None;
    if says_nothing(&copy.content) {
        copy.warned = None;
    }
    copies::put(store, db, &room.room_id, &copy).await?;
    if others && arrival.live {
        if rules.exempt.contains(&tuple.event_type) {
            note_exempt(taker, db, room, event, tuple, arrival).await?;
        }
        let due = arrival.at.saturating_add(rules.reseal_delay);
        marks::mark(db, &room.room_id, None, due, arrival.tick).await?;
    }
    Ok(())
}

/// Somebody wrote there: over the keeper's copy again and again, and the keeper lets him.
fn said(taker: &Taker, room: &RoomRow, copy: &mut PlainCopy, at: i64) {
    if copy.sender.as_ref() == Some(&taker.keeper) {
        let quiet = at.saturating_sub(copy.said_at) > QUIET_AFTER;
        copy.rounds = if quiet { 1 } else { copy.rounds.saturating_add(1) };
        if copy.rounds == MOST_ANSWERS.saturating_add(1) {
            taker.metrics.plain_copy(WAR);
            tracing::warn!(room = %room.room_id, event_type = copy.tuple.event_type,
                "somebody writes over the keeper's copy in plain again and again; the keeper leaves what stands there \
                 until nobody has written there for ten minutes");
        }
    }
    copy.said_at = at;
}

/// What a member says in plain of an exempt type is newer than what was sealed of it before. The keeper may have written
/// a copy of that in the same moment, which must not stand for longer than it takes to see it.
async fn note_exempt(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    tuple: &StateTuple,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let mut row = tuple_row(taker, db, room, tuple).await?;
    if row.source.is_none() || event.is_redacted {
        return Ok(());
    }
    let content = event.content.clone();
    row.source = Some(source(event, Form::Plain, content, arrival.at, arrival.tick));
    tuples::put(&taker.store, db, &room.room_id, &row).await?;
    remember(taker, db, room, event, tuple, "accepted", arrival).await
}

/// An exempt type stays as it is. Its value is taken up all the same if nothing but that speaks against it: policy may
/// want it in plain. Returns whether it is news.
pub(super) fn take_exempt(
    taker: &Taker,
    room: &RoomRow,
    row: &mut TupleRow,
    seen: &StateEventRow,
    (decrypted, device): (&Decrypted, DeviceTrust),
    now: i64,
) -> bool {
    let nothing = ExemptTypes::new([]);
    let (verdict, value) = judge_encrypted(taker, room, seen, decrypted, (device, &nothing));
    let is_old = row
        .source
        .as_ref()
        .is_some_and(|source| source.tick >= seen.tick || source.event_id == seen.event_id);
    if is_old || !verdict.is_accept() || refusal_on_key(room, seen).is_some() {
        return false;
    }
    row.source = Some(SourceValue {
        event_id: seen.event_id.clone(),
        sender: seen.sender.clone(),
        form: if value.stands_for.is_some() { Form::Sealed } else { Form::Encrypted },
        at: now,
        tick: seen.tick,
        content: value.content,
    });
    true
}

/// Takes the redaction of what stands in plain in. Returns whether it is one of those with which the keeper itself
/// empties a copy: what that said goes on standing under encryption.
pub(super) async fn take_redaction(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    (event, target): (&RoomEvent, &EventId),
    arrival: Arrival,
) -> Result<bool, KeeperError> {
    let store = &taker.store;
    let own = event.sender == taker.keeper;
    if let Some(mut copy) = copies::by_event(store, db, &room.room_id, target).await?
        && redaction::may_redact(room, &event.sender, copy.sender.as_ref())
    {
        copy.content = JsonMap::new();
        copy.warned = None;
        if !own {
            said(taker, room, &mut copy, arrival.at);
            // It does not come back by the keeper's doing.
            let row = tuples::get(store, db, &room.room_id, &copy.tuple).await?;
            copy.refused = row.and_then(|row| row.source).map(|source| source.event_id);
        }
        copies::put(store, db, &room.room_id, &copy).await?;
        marks::mark(db, &room.room_id, None, arrival.at, arrival.tick).await?;
    }
    let seen = tuples::get_event(store, db, target).await?;
    let emptied =
        own && seen.is_some_and(|seen| [CLEARED, EMPTIED].contains(&seen.verdict.as_str()));
    if emptied {
        tuples::settle(db, target).await?;
    }
    Ok(emptied)
}

/// The verdict of an allowed value that the keeper redacts because its copy is emptied: it goes on counting.
pub(super) const CLEARED: &str = "cleared";
/// The verdict of another copy that the keeper redacts.
pub(super) const EMPTIED: &str = "emptied";

impl Visit<'_> {
    /// Warns of copies in plain that are left where they are.
    pub(super) async fn warn_of_copies(
        &self,
        warnings: &[(StateTuple, OwnedEventId, Warning)],
    ) -> Result<(), KeeperError> {
        if warnings.is_empty() {
            return Ok(());
        }
        let (taker, room) = (&self.lanes.taker, &self.room.room_id);
        let mut transaction = taker.store.begin().await?;
        for (tuple, event_id, warning) in warnings {
            let copy = copies::get(&taker.store, &mut transaction, room, tuple).await?;
            let Some(mut copy) = copy.filter(|copy| copy.event_id.as_ref() == Some(event_id))
            else {
                continue;
            };
            copy.warned = Some(warning.as_str().to_owned());
            copies::put(&taker.store, &mut transaction, room, &copy).await?;
            taker.metrics.plain_copy(warning.as_str());
            let what = match warning {
                Warning::Stale => "a copy in plain says something else than what is sealed",
                Warning::Telling => "a copy in plain tells the homeserver what is sealed",
            };
            tracing::warn!(room = %room, event = %event_id, event_type = tuple.event_type,
                state_key = tuple.state_key, warning = warning.as_str(), "{what}");
        }
        Ok(transaction.commit().await?)
    }

    /// The copies that may be written now. One that calls for a seal of its own keeps to the pace of refreshes; one that
    /// goes out before a seal that is due anyhow does not.
    pub(super) async fn permitted_copies(
        &mut self,
        known: &Knowledge,
        plan: &Plan,
    ) -> Result<Vec<PlainPut>, KeeperError> {
        let mut permitted = Vec::new();
        for put in plan.plain.iter() {
            if permitted.len() == MOST_SEALS {
                break;
            }
            let is_sealed = plan.seals.iter().any(|seal| {
                known.tuples.get(seal.tuple).is_some_and(|view| view.tuple == put.tuple)
            });
            if put.copy != CopyKind::Publish && !is_sealed {
                let urgency = self.urgency().await?;
                if let Err(wait) = self.lanes.pacer.take(urgency, Instant::now()) {
                    self.wait(wait);
                    continue;
                }
            }
            permitted.push(put.clone());
        }
        Ok(permitted)
    }

    /// Writes copies in plain. What comes of it calls for another look.
    pub(super) async fn write_copies(&mut self, puts: &[PlainPut]) -> Result<(), KeeperError> {
        let store = self.lanes.taker.store.clone();
        let room_id = self.room_id();
        let mut transaction = store.begin().await?;
        self.note_delivered(&mut transaction).await?;
        let mut rows = Vec::with_capacity(puts.len());
        for put in puts {
            let Some(detail) = self.copy(&mut transaction, put).await? else { continue };
            let request = NewOutbox {
                kind: OutboxKind::Plain,
                txn_id: String::new(),
                event_type: put.tuple.event_type.clone(),
                state_key: put.tuple.state_key.clone(),
                body: String::new(),
                detail: store.lock(&detail)?,
            };
            let id = outbox::insert(&mut transaction, &room_id, &request, now_ms()).await?;
            rows.push((OutboxRow { id, room_id: room_id.clone(), request }, detail));
        }
        transaction.commit().await?;
        self.lanes.sender.put_copies(&room_id, &rows).await
    }

    /// A copy as it will be sent; `None` when what it was decided upon has changed.
    async fn copy(
        &self,
        db: &mut SqliteConnection,
        put: &PlainPut,
    ) -> Result<Option<PlainDetail>, KeeperError> {
        let (store, room) = (&self.lanes.taker.store, &self.room.room_id);
        let row = tuples::get(store, db, room, &put.tuple).await?;
        let source = row.filter(|row| !row.redacted).and_then(|row| row.source);
        let Some(source) = source.filter(|source| source.event_id == put.source) else {
            return Ok(None);
        };
        let stands = copies::get(store, db, room, &put.tuple).await?;
        if stands.and_then(|copy| copy.event_id) != put.based_on {
            return Ok(None);
        }
        let content = match put.copy {
            CopyKind::Mirror | CopyKind::Publish => source.content,
            CopyKind::Stub => stub(&self.rules),
            CopyKind::Clear => emptied(&put.tuple.event_type),
        };
        Ok(Some(PlainDetail {
            what: put.copy.as_str().to_owned(),
            content,
            source: source.event_id,
            based_on: put.based_on.clone(),
            redacts: put.redacts.clone(),
        }))
    }
}
