//! Keys that an administrator gives the keeper out of a file.
//!
//! A file says whose sessions are in it, and nobody vouches for that: the keeper lends no authority to what an imported key
//! opens beyond what the event itself has. So a key is worth two things, and no more:
//!
//! - One of a member's session is worth what a forwarded one is (`asking::answers`): it is taken where an event waits for
//!   it and opens, from that event on, and the event counts as one whose device nobody vouches for.
//! - One of the keeper's own opens what the keeper sealed in a life of which its store knows nothing ([`buried`]). That the
//!   event is the keeper's, the homeserver says; that whoever made the session made the event, its signature does; and that
//!   the session was the keeper's, the administrator who imports it. The keeper had weighed that value when it sealed
//!   it, and goes on saying for whom it stands. What was redacted since stays so.
//!
//! Recovery: the keys stand in the store until they were of use, and are looked at anew.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use tokio::sync::Notify;

use super::{
    KeeperError, asking::answers, buried, clock::now_ms, ingest::Taker, keys,
    state_events::tuple_row,
};
use crate::{
    crypto::{MadeSession, RoomKey},
    homeserver::Homeserver,
    state::{Form, MegolmContent, RoomEvent, SealedPayload, StateTuple},
    store::{ImportedKey, SourceValue, buried as lost, imported, marks, rooms, tuples},
};

/// How often it is looked whether there are any.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a key that was of no use is left alone, in milliseconds.
const AGAIN: i64 = 60_000;
/// How many keys, or values, one look is about.
const AT_ONCE: i64 = 64;

/// Puts imported keys to use.
pub(super) struct Importer {
    pub(super) taker: Taker,
    pub(super) homeserver: Homeserver,
    pub(super) promised: Arc<Notify>,
}

/// Values that were looked at in vain, each with when that was, in milliseconds.
type InVain = BTreeMap<OwnedEventId, i64>;

impl Importer {
    /// Looks for ever.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when a store fails.
    pub(super) async fn run(&self) -> Result<(), KeeperError> {
        let mut in_vain = InVain::new();
        loop {
            match self.look(&mut in_vain).await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "the homeserver is away; imported keys wait");
                }
                done => done?,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self, in_vain: &mut InVain) -> Result<(), KeeperError> {
        let store = &self.taker.store;
        let Some(newest) = imported::newest(&mut *store.read().await?).await? else {
            return Ok(());
        };
        let now = now_ms();
        let awaited = imported::awaited(store, &mut *store.read().await?, now, AT_ONCE).await?;
        for key in awaited {
            self.read_members(key, now).await?;
        }
        let sealed = imported::own_awaited(&mut *store.read().await?).await?;
        let mut looked_at = 0;
        for (room, tuple, event) in sealed {
            // What was imported since may be what was missing.
            let waits = in_vain.get(&event).is_some_and(|at| *at > newest && now < at + AGAIN);
            if waits || looked_at >= AT_ONCE {
                continue;
            }
            looked_at += 1;
            if self.read_own(&room, &tuple, &event).await? {
                in_vain.remove(&event);
            } else {
                in_vain.insert(event, now);
            }
        }
        Ok(())
    }

    /// Reads the events of a member's that wait for a key.
    async fn read_members(
        &self,
        imported: ImportedKey<RoomKey>,
        now: i64,
    ) -> Result<(), KeeperError> {
        let ImportedKey { room_id, session_id, key, .. } = imported;
        let taker = &self.taker;
        let waiting = {
            let db = &mut *taker.store.read().await?;
            tuples::awaiting(&taker.store, db, &room_id, Some(&session_id)).await?
        };
        let weighed = match key.into_forwarded(&taker.keeper) {
            Some(key) => Some((answers::open_first(taker, &key, &waiting).await?, key)),
            None => None,
        };
        let (opening, key) = match weighed {
            Some((Ok(opening), key)) => (opening, key),
            useless => {
                if let Some((Err(unfit), _)) = useless {
                    tracing::info!(room = %room_id, session = session_id,
                        "an imported key is of no use yet: {unfit}");
                }
                let later = now.saturating_add(AGAIN);
                let mut transaction = taker.store.begin().await?;
                imported::wait(&mut transaction, &room_id, &session_id, later).await?;
                return Ok(transaction.commit().await?);
            }
        };
        taker.device.take_forwarded(opening).await?;
        let session = MadeSession {
            room_id: room_id.clone(),
            session_id: session_id.clone(),
            // It is what the event says that a device of its sender made it; nobody vouches for that.
            maker: None,
            sender_key: key.creator_curve25519.clone(),
            shared_history: false,
        };
        let mut transaction = taker.store.begin().await?;
        keys::note(taker, &mut transaction, vec![session]).await?;
        taker.read_session(&mut transaction, &room_id, &session_id).await?;
        imported::remove(&mut transaction, &room_id, &session_id).await?;
        transaction.commit().await?;
        tracing::info!(room = %room_id, session = session_id, "a member's key was imported");
        self.promised.notify_one();
        Ok(())
    }

    /// Reads what the keeper sealed in a life that its store does not know. Returns whether that was possible, or is not
    /// called for any more: what stands there may have changed meanwhile.
    async fn read_own(
        &self,
        room: &OwnedRoomId,
        tuple: &StateTuple,
        event_id: &EventId,
    ) -> Result<bool, KeeperError> {
        let Some(payload) = self.open_own(room, tuple, event_id).await? else { return Ok(false) };
        if self.was_redacted(room, &payload).await? {
            tracing::info!(%room, event = %event_id, event_type = tuple.event_type,
                "what a value stood for that an imported key opens was redacted since: it is left");
            return Ok(false);
        }
        let taker = &self.taker;
        let mut transaction = taker.store.begin().await?;
        let Some(known) = rooms::get(&mut transaction, room).await? else { return Ok(false) };
        let rules = taker.rules.of(&known);
        if rules.exempt.contains(&tuple.event_type) || rules.sender_bound.binds(tuple) {
            return Ok(false);
        }
        let stands = lost::get(&mut transaction, room, tuple).await?;
        let mut row = tuple_row(taker, &mut transaction, &known, tuple).await?;
        // It may come back, and must not have to wait then.
        if !stands.is_some_and(|it| it.event_id == event_id.as_str() && !it.found) {
            return Ok(true);
        }
        if row.current_event_id.as_deref() != Some(event_id) || row.redacted {
            return Ok(false);
        }
        let (now, tick) = (now_ms(), taker.store.next_tick());
        row.source = Some(value(payload, event_id, taker, (now, tick)));
        buried::at_hand(&mut transaction, &known, &mut row).await?;
        tuples::put(&taker.store, &mut transaction, room, &row).await?;
        marks::mark(&mut transaction, room, None, now, tick).await?;
        transaction.commit().await?;
        tracing::info!(%room, event = %event_id, event_type = tuple.event_type,
            "an imported key opens what the keeper had sealed; it is sealed anew");
        self.promised.notify_one();
        Ok(true)
    }

    /// What stands in an event of the keeper's own, where an imported key opens it.
    async fn open_own(
        &self,
        room: &RoomId,
        tuple: &StateTuple,
        event_id: &EventId,
    ) -> Result<Option<SealedPayload>, KeeperError> {
        let Some(body) = self.homeserver.event(room, event_id).await? else { return Ok(None) };
        let Ok(event) = RoomEvent::parse_str(body.get()) else { return Ok(None) };
        let packed = event.state_key.as_deref().and_then(StateTuple::from_packed);
        if event.sender != self.taker.keeper
            || event.event_type != "m.room.encrypted"
            || event.is_redacted
            || packed.as_ref() != Some(tuple)
        {
            return Ok(None);
        }
        let Ok(megolm) = MegolmContent::parse(&event.content) else { return Ok(None) };
        let store = &self.taker.store;
        let db = &mut *store.read().await?;
        let key: Option<RoomKey> = imported::get(store, db, room, &megolm.session_id).await?;
        // Who labels another's session as the keeper's has to mislabel the event as well.
        let Some(key) = key.filter(|key| {
            megolm.sender_key.as_ref().is_none_or(|maker| *maker == key.claimed_maker())
        }) else {
            return Ok(None);
        };
        let Some(opened) = key.open(&megolm.ciphertext) else { return Ok(None) };
        let payload = std::str::from_utf8(&opened).ok().map(SealedPayload::parse);
        let Some(Ok(payload)) = payload else { return Ok(None) };
        let is_this = payload.tuple == *tuple && payload.room_id == room;
        Ok(is_this.then_some(payload))
    }

    /// Whether the event that a value stands for was redacted.
    async fn was_redacted(
        &self,
        room: &RoomId,
        payload: &SealedPayload,
    ) -> Result<bool, KeeperError> {
        let Some(origin) = &payload.stands_for else { return Ok(false) };
        let event = self.homeserver.event(room, &origin.event_id).await?;
        let event = event.and_then(|body| RoomEvent::parse_str(body.get()).ok());
        Ok(event.is_some_and(|event| event.is_redacted))
    }
}

/// The value that an event of the keeper's holds, and for whom it stands.
fn value(
    payload: SealedPayload,
    event_id: &EventId,
    taker: &Taker,
    (at, tick): (i64, i64),
) -> SourceValue {
    let content = payload.content;
    match payload.stands_for {
        Some(origin) => SourceValue {
            event_id: origin.event_id,
            sender: origin.sender,
            form: origin.form,
            at,
            tick,
            content,
        },
        // An administrator had the keeper say it.
        None => SourceValue {
            event_id: event_id.to_owned(),
            sender: taker.keeper.clone(),
            form: Form::Own,
            at,
            tick,
            content,
        },
    }
}
