//! Sending what was written down.
//!
//! Recovery, by kind. A to-device request goes out again with the same transaction id and body: the
//! homeserver knows it. A redaction likewise. Of copies in plain [`super::copies`] says it. A state event has no transaction id, so its tuple is read
//! first: the keeper's ciphertext stands there → it was sent; what it was made from still stands there →
//! the same ciphertext goes out; anything else → it is dropped and decided anew, and its index is never
//! used again. For a restatement see [`super::restating`].

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::future::join_all;
use ruma::{OwnedEventId, RoomId};
use serde_json::{Value, value::RawValue};

use super::{KeeperError, clock::now_ms, enforcing, rule_book::RuleBook};
use crate::{
    admin::Metrics,
    homeserver::{Homeserver, HomeserverError},
    state::{RoomEvent, StateTuple},
    store::{
        OutboxKind, OutboxRow, SealedValue, StateDetail, Store, ToDeviceDetail, ledger, marks,
        outbox, tuples,
    },
};

/// Sends what the outbox holds.
#[derive(Clone)]
pub struct Sender {
    /// The store.
    pub store: Store,
    /// The homeserver, spoken to as the keeper's device.
    pub homeserver: Homeserver,
    /// Counters.
    pub metrics: Metrics,
    /// The organisation's rules.
    pub rules: Arc<RuleBook>,
    /// Requests that are being sent, or were and are not noted yet, by their numbers in the outbox.
    in_flight: Arc<Mutex<BTreeSet<i64>>>,
}

/// That a request is being sent, or was and is not noted yet: nobody else sends it meanwhile.
#[derive(Debug)]
struct Flight {
    outbox_id: i64,
    in_flight: Arc<Mutex<BTreeSet<i64>>>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.outbox_id);
    }
}

/// A to-device request that the homeserver took, or refused for good.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// Its number in the outbox.
    pub outbox_id: i64,
    /// What it handed over to whom.
    pub detail: Arc<ToDeviceDetail>,
    /// Whether the homeserver took it.
    pub taken: bool,
    /// When, in milliseconds.
    pub at: i64,
    /// The tick of that.
    pub tick: i64,
    /// Until it is noted.
    _flight: Arc<Flight>,
}

impl Sender {
    /// A sender on this store and homeserver.
    pub fn new(
        store: Store,
        homeserver: Homeserver,
        metrics: Metrics,
        rules: Arc<RuleBook>,
    ) -> Self {
        Self { store, homeserver, metrics, rules, in_flight: Arc::default() }
    }

    fn is_in_flight(&self, row: &OutboxRow) -> bool {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).contains(&row.id)
    }

    fn take_off(&self, outbox_id: i64) -> Arc<Flight> {
        let in_flight = self.in_flight.clone();
        in_flight.lock().unwrap_or_else(PoisonError::into_inner).insert(outbox_id);
        Arc::new(Flight { outbox_id, in_flight })
    }

    /// Sends all that a room's outbox holds: what a kill, or a homeserver that was away, left behind.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the homeserver is away or the store fails; what was not sent stays.
    pub async fn flush(&self, room: &RoomId) -> Result<(), KeeperError> {
        let mut rows = outbox::of_room(&mut *self.store.read().await?, room).await?;
        rows.retain(|row| !self.is_in_flight(row));
        // Keys before events, whatever their order.
        let mut delivered = Vec::new();
        for row in rows.iter().filter(|row| row.request.kind == OutboxKind::ToDevice) {
            let detail = Arc::new(row.to_device(&self.store)?);
            delivered.push(self.send_to_device(row, detail).await?);
        }
        self.commit_delivered(room, &delivered).await?;
        for row in &rows {
            match row.request.kind {
                OutboxKind::ToDevice => {}
                OutboxKind::State => {
                    let detail = row.state(&self.store)?;
                    self.repeat_state(row, &detail).await?;
                }
                OutboxKind::Plain => self.repeat_copy(row).await?,
                OutboxKind::Redaction => self.send_redaction(row).await?,
                OutboxKind::Restatement => self.restate(row).await?,
            }
        }
        Ok(())
    }

    /// Sends what a kill, or a homeserver that was away, left behind of a room's bundles. Whether none of them is on
    /// its way any more.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the homeserver is away or the store fails; what was not sent stays.
    pub(super) async fn flush_bundles(&self, room: &RoomId) -> Result<bool, KeeperError> {
        let rows = outbox::of_room(&mut *self.store.read().await?, room).await?;
        let mut delivered = Vec::new();
        for row in rows.iter().filter(|row| row.request.kind == OutboxKind::ToDevice) {
            let detail = Arc::new(row.to_device(&self.store)?);
            if detail.bundle_id.is_none() {
                continue;
            }
            if self.is_in_flight(row) {
                return Ok(false);
            }
            delivered.push(self.send_to_device(row, detail).await?);
        }
        self.commit_delivered(room, &delivered).await?;
        Ok(true)
    }

    /// Sends to-device requests side by side.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the homeserver is away: what was not sent stays in the outbox.
    pub async fn send_keys(
        &self,
        requests: Vec<(OutboxRow, Arc<ToDeviceDetail>)>,
    ) -> Result<Vec<Delivered>, KeeperError> {
        let sending = requests.iter().map(|(row, detail)| self.send_to_device(row, detail.clone()));
        join_all(sending).await.into_iter().collect()
    }

    async fn send_to_device(
        &self,
        row: &OutboxRow,
        detail: Arc<ToDeviceDetail>,
    ) -> Result<Delivered, KeeperError> {
        let request = &row.request;
        let flight = self.take_off(row.id);
        let answer = self
            .homeserver
            .send_to_device(&request.event_type, &request.txn_id, request.body.clone())
            .await;
        let taken = match answer {
            Ok(()) => true,
            Err(error) if is_passing(&error) => return Err(error.into()),
            Err(error) => {
                tracing::error!(room = %row.room_id, %error,
                    "the homeserver refused keys; their grants are taken back");
                false
            }
        };
        if taken && detail.bundle_id.is_some() {
            self.metrics.bundles_sent(detail.recipients.len());
        }
        Ok(Delivered {
            outbox_id: row.id,
            detail,
            taken,
            at: now_ms(),
            tick: self.store.next_tick(),
            _flight: flight,
        })
    }

    async fn commit_delivered(
        &self,
        room: &RoomId,
        delivered: &[Delivered],
    ) -> Result<(), KeeperError> {
        if delivered.is_empty() {
            return Ok(());
        }
        let mut transaction = self.store.begin().await?;
        note_delivered(&self.store, &mut transaction, delivered).await?;
        // Who got a key this way may have to be refreshed: decide.
        marks::mark(&mut transaction, room, None, now_ms(), self.store.next_tick()).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Sends a sealed event for the first time.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the homeserver is away; the event stays in the outbox and is looked at first.
    pub async fn send_state(
        &self,
        row: &OutboxRow,
        detail: &StateDetail,
    ) -> Result<Option<OwnedEventId>, KeeperError> {
        let tuple = tuple_of(row);
        let Ok(packed) = tuple.packed() else { return Ok(None) };
        let content = RawValue::from_string(row.request.body.clone())?;
        let answer = self
            .homeserver
            .put_state(&row.room_id, "m.room.encrypted", packed.as_str(), &content)
            .await;
        match answer {
            Ok(event_id) => Ok(Some(event_id)),
            Err(error) if is_passing(&error) => Err(error.into()),
            Err(error) => {
                tracing::warn!(room = %row.room_id, %error, cause = detail.cause,
                    "the homeserver refused a sealed event");
                Ok(None)
            }
        }
    }

    async fn repeat_state(&self, row: &OutboxRow, detail: &StateDetail) -> Result<(), KeeperError> {
        let tuple = tuple_of(row);
        let known =
            tuples::get(&self.store, &mut *self.store.read().await?, &row.room_id, &tuple).await?;
        let wanted = known
            .as_ref()
            .and_then(|row| row.source.as_ref())
            .is_some_and(|source| source.event_id == detail.stands_for);
        let event_id = match self.standing(row, &tuple).await? {
            Standing::Ours(event_id) => Some(event_id),
            Standing::Other(current) if wanted && current == detail.based_on => {
                self.send_state(row, detail).await?
            }
            Standing::Other(_) => None,
        };
        let mut transaction = self.store.begin().await?;
        self.conclude_state(&mut transaction, row, detail, event_id.as_ref()).await?;
        marks::mark(&mut transaction, &row.room_id, None, now_ms(), self.store.next_tick()).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn standing(&self, row: &OutboxRow, tuple: &StateTuple) -> Result<Standing, KeeperError> {
        let Ok(packed) = tuple.packed() else { return Ok(Standing::Other(None)) };
        let answer = self
            .homeserver
            .get_state_event(&row.room_id, "m.room.encrypted", packed.as_str())
            .await;
        let event = match answer {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(Standing::Other(None)),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(_) => return Ok(Standing::Other(None)),
        };
        let Ok(event) = RoomEvent::parse_str(event.0.get()) else {
            return Ok(Standing::Other(None));
        };
        let ours: Value = serde_json::from_str(&row.request.body)?;
        if ours.get("ciphertext").is_some()
            && event.content.get("ciphertext") == ours.get("ciphertext")
        {
            return Ok(Standing::Ours(event.event_id));
        }
        Ok(Standing::Other(Some(event.event_id)))
    }

    /// Notes what became of a sealed event and strikes it off: `event_id` is `None` when it was not sent.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub async fn conclude_state(
        &self,
        db: &mut sqlx::SqliteConnection,
        row: &OutboxRow,
        detail: &StateDetail,
        event_id: Option<&OwnedEventId>,
    ) -> Result<(), KeeperError> {
        outbox::remove(db, row.id).await?;
        let Some(event_id) = event_id else { return Ok(()) };
        let tuple = tuple_of(row);
        let room = &row.room_id;
        let snapshot = self.store.lock(&detail.snapshot)?;
        let sealed = SealedValue {
            event_id: event_id.clone(),
            from: detail.stands_for.clone(),
            session_id: detail.session_id.clone(),
            message_index: detail.message_index,
            tick: detail.tick,
        };
        tuples::put_sealed(db, room, &tuple, &sealed, &snapshot).await?;
        tuples::put_seal(db, room, &tuple, event_id, &detail.stands_for).await?;
        let (session, index) = (&detail.session_id, detail.message_index);
        let keeper = self.homeserver.user_id();
        tuples::record_index(db, room, session, index, keeper, event_id).await?;
        if let Some(mut known) = tuples::get(&self.store, db, room, &tuple).await? {
            // Its echo says the same in the order of the stream, when this is not the newest any more.
            if known.current_event_id == detail.based_on {
                known.current_event_id = Some(event_id.clone());
                known.current_sender = Some(self.homeserver.user_id().to_owned());
                known.current_fit = true;
            }
            match detail.cause.as_str() {
                "join" => known.refreshed_at = now_ms(),
                "device" => known.device_refresh_at = now_ms(),
                _ => {}
            }
            tuples::put(&self.store, db, room, &known).await?;
        }
        if let Some(offence) = &detail.redacts {
            enforcing::redact_after(&self.store, db, room, offence).await?;
            marks::mark(db, room, None, now_ms(), self.store.next_tick()).await?;
        }
        self.redact_if_source_is(db, room, &detail.stands_for).await?;
        let cause = match detail.cause.as_str() {
            "join" => "join",
            "device" => "device",
            "rotation" => "rotation",
            "restore" => "restore",
            "admin" => "admin",
            "plain" => "plain",
            _ => "reseal",
        };
        if cause == "restore" {
            self.metrics.state_restored();
            tracing::info!(room = %room, event = %event_id, "the last allowed value is sealed again");
        }
        self.metrics.state_event_sealed(cause);
        Ok(())
    }

    /// The source was redacted while a copy of it was on its way: the copy goes the same way.
    pub(super) async fn redact_if_source_is(
        &self,
        db: &mut sqlx::SqliteConnection,
        room: &RoomId,
        source: &OwnedEventId,
    ) -> Result<(), KeeperError> {
        let seen = tuples::get_event(&self.store, db, source).await?;
        if seen.is_none_or(|seen| seen.verdict != "redacted") {
            return Ok(());
        }
        for sealed in tuples::take_seals_of(db, source).await? {
            outbox::insert(db, room, &redaction_of(&sealed), now_ms()).await?;
        }
        Ok(marks::mark(db, room, None, now_ms(), self.store.next_tick()).await?)
    }

    async fn send_redaction(&self, row: &OutboxRow) -> Result<(), KeeperError> {
        let Ok(target) = OwnedEventId::try_from(row.request.state_key.as_str()) else {
            return Ok(outbox::remove(&mut *self.store.begin().await?, row.id).await?);
        };
        let reason = match row.request.body.as_str() {
            "" => Some("The event that this one stood for was redacted"),
            reason => Some(reason),
        };
        let answer =
            self.homeserver.redact(&row.room_id, &target, &row.request.txn_id, reason).await;
        match answer {
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => {
                tracing::error!(room = %row.room_id, event = %target, %error,
                    "an event could not be redacted");
            }
            Ok(_) => {}
        }
        let mut transaction = self.store.begin().await?;
        outbox::remove(&mut transaction, row.id).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Whether a request may succeed later as it is. A device that the homeserver has lost is being mended.
pub(super) fn is_passing(error: &HomeserverError) -> bool {
    error.is_transient() || error.is_unknown_device()
}

/// What stands at an outbox row's packed state key.
enum Standing {
    /// The row's own ciphertext.
    Ours(OwnedEventId),
    /// Another event, or none.
    Other(Option<OwnedEventId>),
}

/// The request that redacts one of the keeper's sealed events.
pub fn redaction_of(sealed: &ruma::EventId) -> crate::store::NewOutbox {
    crate::store::NewOutbox {
        kind: OutboxKind::Redaction,
        txn_id: ruma::TransactionId::new().to_string(),
        event_type: String::new(),
        state_key: sealed.to_string(),
        body: String::new(),
        detail: Vec::new(),
    }
}

pub(super) fn tuple_of(row: &OutboxRow) -> StateTuple {
    StateTuple::new(row.request.event_type.clone(), row.request.state_key.clone())
}

/// Notes in the ledger what the homeserver took, and strikes the requests off.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn note_delivered(
    store: &Store,
    db: &mut sqlx::SqliteConnection,
    delivered: &[Delivered],
) -> Result<(), KeeperError> {
    for delivery in delivered {
        let session = &delivery.detail.session_id;
        let (recipients, at) = (&delivery.detail.recipients, delivery.at);
        if delivery.taken {
            ledger::delivered(store, db, session, recipients, at, delivery.tick).await?;
        } else {
            for (user, device) in recipients {
                ledger::withdraw(store, db, session, (user.as_ref(), device.as_ref()), at).await?;
            }
        }
        if let Some(bundle_id) = delivery.detail.bundle_id {
            let outcome = (delivery.taken, at);
            ledger::bundle_taken(store, db, bundle_id, recipients, outcome).await?;
        }
        outbox::remove(db, delivery.outbox_id).await?;
    }
    Ok(())
}
