//! Sealing: key first, event second.
//!
//! What goes out is on disk before: the ciphertext, the advanced session, the keys' grants and the to-device
//! requests stand in one commit. So a kill repeats the same, and no index is ever taken twice.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, RoomId};
use sqlx::SqliteConnection;
use vodozemac::megolm::GroupSessionPickle;

use super::{
    KeeperError,
    clock::now_ms,
    decide::{Cause, Knowledge, Reason, Recipient, Seal, TupleView},
    knowledge::{session_scope, worn},
    lane::{Visit, earliest},
    letters::Letters,
    spaces::news,
};
use crate::{
    crypto::{KeySnapshot, StateSession},
    state::{Form, SealedPayload, StandsFor, StateTuple},
    store::{
        NewOutbox, OutboxKind, OutboxRow, SessionRow, StateDetail, TupleRow, ledger, marks, outbox,
        sessions, tuples,
    },
};

/// How long a room waits after the homeserver refused a sealed event, in milliseconds.
const REFUSED_WAITS: i64 = 60_000;

/// A sealed event that stands in the outbox.
pub(super) struct Prepared {
    pub(super) row: OutboxRow,
    pub(super) detail: StateDetail,
}

/// A tuple about to be sealed, with the session that does it.
struct Work {
    seal: Seal,
    tuple: TupleRow,
    session: StateSession,
    kept: SessionRow,
}

impl Visit<'_> {
    /// Seals tuples. Returns whether it calls for another look.
    pub(super) async fn seal(
        &mut self,
        known: &Knowledge,
        seals: &[Seal],
    ) -> Result<bool, KeeperError> {
        self.look_whether_gone_back(known, seals).await?;
        self.reach(seals.iter().flat_map(|seal| &seal.recipients)).await?;
        let store = self.lanes.taker.store.clone();
        let room_id = self.room_id();
        let mut letters = Letters::default();
        let mut prepared = Vec::new();
        let mut worked: Vec<Work> = Vec::new();
        for seal in seals {
            let Some(view) = known.tuples.get(seal.tuple) else { continue };
            let Some(mut work) = self.take_up(&room_id, view, seal, &worked).await? else {
                continue;
            };
            let Some(request) = self.encrypt(&room_id, &mut work, &mut letters).await? else {
                continue;
            };
            prepared.push(request);
            worked.push(work);
        }
        let now = now_ms();
        self.lanes.taker.device.written().await?;
        let mut transaction = store.begin().await?;
        // Whatever was encrypted is forgotten here, if somebody left in the meantime: it was nowhere but here.
        if !self.still_present(&mut transaction, &letters).await?
            || self.any_retired(&mut transaction, &worked).await?
        {
            return Ok(true);
        }
        let news = self.news_of_holders(&mut transaction, &worked, &letters).await?;
        if !news.is_empty() {
            drop(transaction);
            self.heed(news).await?;
            return Ok(true);
        }
        self.note_delivered(&mut transaction).await?;
        for work in &worked {
            self.keep_session(&mut transaction, &room_id, work).await?;
            let what = (&work.tuple.tuple, work.kept.session_id.as_str());
            let taker = &self.lanes.taker;
            news::sealed_anew(taker, &mut transaction, &room_id, what, now).await?;
        }
        ledger::grant(&store, &mut transaction, &room_id, &letters.grants, now).await?;
        let requests = self.insert(&mut transaction, &room_id, letters, now).await?;
        let mut rows = Vec::with_capacity(prepared.len());
        for (request, detail) in prepared {
            let id = outbox::insert(&mut transaction, &room_id, &request, now).await?;
            let (session, index) = (&detail.session_id, detail.message_index);
            tuples::put_prepared(&mut transaction, session, index, &detail.stands_for).await?;
            rows.push(Prepared {
                row: OutboxRow { id, room_id: room_id.clone(), request },
                detail,
            });
        }
        transaction.commit().await?;
        self.lanes.taker.spaces.ring();
        self.sealed = true;
        self.deliver(requests).await?;
        // Whoever's key was taken before this tick had it before the event.
        for prepared in &mut rows {
            prepared.detail.tick = store.next_tick();
        }
        self.put(rows).await
    }

    /// Whether a session that was in use before has been retired since it was taken up.
    async fn any_retired(
        &self,
        db: &mut SqliteConnection,
        worked: &[Work],
    ) -> Result<bool, KeeperError> {
        for work in worked.iter().filter(|work| !work.kept.pickle.is_empty()) {
            if sessions::is_retired(db, &work.kept.session_id).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Who holds a session that is sealed under, or is given it now, and was heard of since the decision: a device of
    /// theirs may be gone or have lost its signature, or an administrator have refused them.
    async fn news_of_holders(
        &self,
        db: &mut SqliteConnection,
        worked: &[Work],
        letters: &Letters,
    ) -> Result<Vec<(OwnedUserId, i64)>, KeeperError> {
        let (store, room_id) = (&self.lanes.taker.store, &self.room.room_id);
        let mut news = Vec::new();
        for mark in marks::due(db, room_id, now_ms()).await? {
            let Some(user) = mark.user_id else { continue };
            if self.heeded.get(&user) == Some(&mark.tick) {
                continue;
            }
            let mut concerned = letters.grants.iter().any(|grant| grant.user_id == user);
            for work in worked {
                let session = &work.kept.session_id;
                concerned = concerned || sessions::is_known_to(store, db, session, &user).await?;
            }
            if concerned {
                news.push((user, mark.tick));
            }
        }
        Ok(news)
    }

    /// Makes members who were heard of a part of the visit; their promises stand until the next one.
    async fn heed(&mut self, news: Vec<(OwnedUserId, i64)>) -> Result<(), KeeperError> {
        let users: BTreeSet<OwnedUserId> = news.iter().map(|(user, _)| user.clone()).collect();
        self.lanes.taker.device.track(users.iter().map(AsRef::as_ref)).await?;
        self.lanes.taker.device.pump().await?;
        self.heeded.extend(news);
        if let Some(scope) = &mut self.scope {
            scope.extend(users);
        }
        Ok(())
    }

    /// Takes up a tuple as it stands now; `None` when it changed since it was decided upon.
    async fn take_up(
        &self,
        room_id: &RoomId,
        view: &TupleView,
        seal: &Seal,
        worked: &[Work],
    ) -> Result<Option<Work>, KeeperError> {
        let store = &self.lanes.taker.store;
        let db = &mut *store.read().await?;
        let Some(tuple) = tuples::get(store, db, room_id, &view.tuple).await? else {
            return Ok(None);
        };
        let wanted = view.source.as_ref().map(|source| &source.event_id);
        if tuple.redacted || tuple.source.as_ref().map(|source| &source.event_id) != wanted {
            return Ok(None);
        }
        let rules = &self.rules;
        let scope = session_scope(rules, &tuple.tuple);
        // One session for the room: the tuple before this one has moved it on.
        if scope.is_none()
            && let Some(before) = worked.last()
        {
            // It is worn out by now: another one goes on, in the next round.
            if worn(&before.kept, rules, now_ms()).is_some() {
                return Ok(None);
            }
            let session = StateSession::from_pickle(before.session.pickle());
            let kept = before.kept.clone();
            return Ok(Some(Work { seal: seal.clone(), tuple, session, kept }));
        }
        let active = sessions::active(db, room_id, scope).await?;
        let now = now_ms();
        let active = active.filter(|active| worn(active, rules, now).is_none());
        // The recipients were decided for one session: with another one, decide anew.
        if active.as_ref().map(|kept| &kept.session_id) != view.active.as_ref().map(|(id, _)| id) {
            return Ok(None);
        }
        let (session, kept) = match active {
            Some(kept) => {
                let pickle: GroupSessionPickle = store.unlock(&kept.pickle)?;
                (StateSession::from_pickle(pickle), kept)
            }
            None => {
                let session = StateSession::new();
                let kept = SessionRow {
                    session_id: session.id(),
                    pickle: Vec::new(),
                    created_at: now,
                    messages: 0,
                };
                (session, kept)
            }
        };
        Ok(Some(Work { seal: seal.clone(), tuple, session, kept }))
    }

    /// Encrypts the tuple's value, and its key for whoever lacks it.
    async fn encrypt(
        &mut self,
        room_id: &RoomId,
        work: &mut Work,
        letters: &mut Letters,
    ) -> Result<Option<(NewOutbox, StateDetail)>, KeeperError> {
        let Some(source) = work.tuple.source.clone() else { return Ok(None) };
        let tuple = work.tuple.tuple.clone();
        let payload = SealedPayload {
            tuple: tuple.clone(),
            room_id: room_id.to_owned(),
            content: source.content,
            stands_for: (source.form != Form::Own).then(|| StandsFor {
                event_id: source.event_id.clone(),
                sender: source.sender.clone(),
                form: source.form,
            }),
        };
        let device = &self.lanes.taker.device;
        let (sender_key, device_id) = (device.curve25519_key(), device.device_id().to_string());
        let sealed = work.session.seal(&payload.to_json(), &sender_key, &device_id);
        work.kept.messages += 1;
        let session_id = work.kept.session_id.clone();
        let recipients = work.seal.recipients.clone();
        let before = self.value_before(room_id, work).await?;
        let (index, snapshot) = match &before {
            Some((index, snapshot)) => (*index, snapshot),
            None => (sealed.message_index, &sealed.snapshot),
        };
        self.write(letters, &recipients, (&tuple, &session_id), index, snapshot).await?;
        if before.is_some() && self.is_for_nobody(&recipients) {
            return Ok(None);
        }
        let detail = StateDetail {
            session_id,
            message_index: sealed.message_index,
            stands_for: source.event_id,
            based_on: work.tuple.current_event_id.clone(),
            cause: work.seal.cause.as_str().to_owned(),
            redacts: work.seal.redacts.clone(),
            snapshot: sealed.snapshot.as_base64().to_owned(),
            tick: self.lanes.taker.store.next_tick(),
        };
        let request = NewOutbox {
            kind: OutboxKind::State,
            txn_id: String::new(),
            event_type: tuple.event_type,
            state_key: tuple.state_key,
            body: serde_json::to_string(&sealed.content)?,
            detail: self.lanes.taker.store.lock(&detail)?,
        };
        Ok(Some((request, detail)))
    }

    /// Whether a refresh would be for those alone who could not be given the key: they are shown the value once
    /// they can be. Who shares the session already needs no key, and is decided upon without them.
    fn is_for_nobody(&self, recipients: &[Recipient]) -> bool {
        let mut lacking = recipients.iter().filter(|to| to.reason != Reason::Seal).peekable();
        lacking.peek().is_some()
            && lacking
                .all(|to| self.unreachable.contains(&(to.user_id.clone(), to.device_id.clone())))
    }

    /// The key snapshot of the event that a refresh repeats, where the session goes on: it opens the same value
    /// twice, so a client that reads the room before the refresh comes is not left with nothing.
    async fn value_before(
        &self,
        room_id: &RoomId,
        work: &Work,
    ) -> Result<Option<(u32, KeySnapshot)>, KeeperError> {
        let store = &self.lanes.taker.store;
        let repeats = work.tuple.sealed.as_ref().filter(|sealed| {
            !matches!(work.seal.cause, Cause::Reseal | Cause::Restore)
                && sealed.session_id == work.kept.session_id
                && work.tuple.source.as_ref().is_some_and(|source| source.event_id == sealed.from)
        });
        let (Some(sealed), false) = (repeats, work.seal.recipients.is_empty()) else {
            return Ok(None);
        };
        let db = &mut *store.read().await?;
        let locked = tuples::snapshot(db, room_id, &work.tuple.tuple).await?;
        let key = locked.map(|locked| store.unlock(&locked)).transpose()?;
        Ok(key.map(|key| (sealed.message_index, KeySnapshot::from_base64(key))))
    }

    async fn keep_session(
        &self,
        db: &mut SqliteConnection,
        room_id: &RoomId,
        work: &Work,
    ) -> Result<(), KeeperError> {
        let rules = &self.rules;
        let tuple: &StateTuple = &work.tuple.tuple;
        let scope = session_scope(rules, tuple);
        let pickle = self.lanes.taker.store.lock(&work.session.pickle())?;
        let kept = SessionRow { pickle, ..work.kept.clone() };
        Ok(sessions::put(db, room_id, scope, &kept).await?)
    }

    /// Sends prepared events, in their order, and notes what became of them.
    pub(super) async fn put(&mut self, prepared: Vec<Prepared>) -> Result<bool, KeeperError> {
        let mut sent = Vec::with_capacity(prepared.len());
        let mut away = None;
        for Prepared { row, detail } in prepared {
            match self.lanes.sender.send_state(&row, &detail).await {
                Ok(event_id) => sent.push((row, detail, event_id)),
                Err(error) => {
                    away = Some(error);
                    break;
                }
            }
        }
        let refused = sent.iter().any(|(_, _, event_id)| event_id.is_none());
        let mut transaction = self.lanes.taker.store.begin().await?;
        self.note_delivered(&mut transaction).await?;
        for (row, detail, event_id) in &sent {
            let sender = &self.lanes.sender;
            sender.conclude_state(&mut transaction, row, detail, event_id.as_ref()).await?;
        }
        transaction.commit().await?;
        if let Some(error) = away {
            return Err(error);
        }
        if refused {
            self.again_at = earliest(self.again_at, Some(now_ms().saturating_add(REFUSED_WAITS)));
        }
        Ok(!refused)
    }
}
