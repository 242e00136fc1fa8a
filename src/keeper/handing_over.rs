//! Handing over the session that comes next, batch by batch: each batch is a commit of its own, and what comes after
//! it is encrypted while it is committed, and sent while the next one is. Between two steps it gives way to newcomers,
//! wherever they come: they are waiting for one key, and this is many.
//!
//! Who was given it stands in the ledger, so a kill in the middle, or the end of a visit, leaves nothing to be
//! remembered: the next decision finds those who lack it.

use std::{collections::VecDeque, time::Instant};

use tokio::task::JoinSet;

use super::{
    KeeperError,
    clock::now_ms,
    decide::{Handover, Knowledge, Recipient, Seal, TupleView},
    knowledge::{session_scope, worn},
    lane::{LONGEST_VISIT, MOST_SEALS, Visit},
    letters::Letters,
    outbox::Delivered,
};
use crate::{
    config::RotateWhen,
    crypto::{CryptoError, Encrypted, IN_ONE_REQUEST, KeySnapshot, StateSession, Turn as _, wipe},
    store::{SessionRow, ledger, sessions},
};

/// How many devices are served by one commit.
const BATCH: usize = IN_ONE_REQUEST;
/// How many batches are being encrypted, or wait for their commit.
const AHEAD: usize = 3;
/// How many requests are under way at once: as many as keep the homeserver from waiting. Whoever else asks it for
/// something waits behind them.
const MOST_SENT: usize = 2;

/// The session that a tuple's next value is sealed under.
struct Next {
    kept: SessionRow,
    /// Whether the store has it yet.
    stands: bool,
    message_index: u32,
    snapshot: KeySnapshot,
}

/// Keys that are on their way to the homeserver.
type Sending = JoinSet<Result<Vec<Delivered>, KeeperError>>;

impl Visit<'_> {
    /// What a rotation has to be followed by, as far as its pace allows: values to seal anew in this round.
    pub(super) fn paced(&mut self, rotations: Vec<Seal>) -> Vec<Seal> {
        let mut permitted = Vec::new();
        for seal in rotations.into_iter().take(MOST_SEALS) {
            let (room, rate) = (&self.room.room_id, self.rules.rotate_reseal_per_second);
            match self.lanes.rotations.take(room, rate, Instant::now()) {
                Ok(()) => permitted.push(seal),
                Err(wait) => {
                    self.wait(wait);
                    break;
                }
            }
        }
        permitted
    }

    /// Seals, or, where many have to be given the session for it, hands that one over first: they are not given it in
    /// one commit. Returns whether it calls for another look.
    pub(super) async fn seal_in_order(
        &mut self,
        known: &Knowledge,
        seals: &[Seal],
    ) -> Result<bool, KeeperError> {
        let first: Vec<Handover> = seals
            .iter()
            .filter(|seal| seal.recipients.len() > BATCH)
            .map(|seal| Handover { tuple: seal.tuple, recipients: seal.recipients.clone() })
            .collect();
        if first.is_empty() {
            return self.seal(known, seals).await;
        }
        self.hand_over(known, &first).await
    }

    /// Hands sessions over, as long as one visit may last. Returns whether it calls for another look, which it does.
    pub(super) async fn hand_over(
        &mut self,
        known: &Knowledge,
        handovers: &[Handover],
    ) -> Result<bool, KeeperError> {
        let began = Instant::now();
        self.reach(handovers.iter().flat_map(|handover| &handover.recipients)).await?;
        for handover in handovers {
            let Some(view) = known.tuples.get(handover.tuple) else { continue };
            let Some(mut next) = self.next_session(view).await? else { return Ok(true) };
            if !self.hand_to_all(&mut next, view, &handover.recipients, began).await? {
                return Ok(true);
            }
            self.note_handed_over(known, view, &next).await?;
        }
        // Whoever could not be reached has had his turn on this visit: what waits for the keys goes out now.
        self.pressing = true;
        Ok(true)
    }

    /// The session that comes next, a new one where none stands; `None` when another does than was decided upon.
    async fn next_session(&self, view: &TupleView) -> Result<Option<Next>, KeeperError> {
        let store = &self.lanes.taker.store;
        let (rules, now) = (&self.rules, now_ms());
        let db = &mut *store.read().await?;
        let active =
            sessions::active(db, &self.room.room_id, session_scope(rules, &view.tuple)).await?;
        let active = active.filter(|active| worn(active, rules, now).is_none());
        if active.as_ref().map(|kept| &kept.session_id) != view.active.as_ref().map(|(id, _)| id) {
            return Ok(None);
        }
        let stands = active.is_some();
        let (session, kept) = match active {
            Some(kept) => (StateSession::from_pickle(store.unlock(&kept.pickle)?), kept),
            None => {
                let session = StateSession::new();
                let kept = SessionRow {
                    session_id: session.id(),
                    pickle: store.lock(&session.pickle())?,
                    created_at: now,
                    messages: 0,
                };
                (session, kept)
            }
        };
        let (message_index, snapshot) = (session.message_index(), session.snapshot());
        Ok(Some(Next { kept, stands, message_index, snapshot }))
    }

    /// Hands a session to devices. Returns whether all of them had their turn.
    async fn hand_to_all(
        &mut self,
        next: &mut Next,
        view: &TupleView,
        recipients: &[Recipient],
        began: Instant,
    ) -> Result<bool, KeeperError> {
        let mut sending = Sending::new();
        let mut content = next.snapshot.room_key_content(&self.room.room_id, &next.kept.session_id);
        let batches = recipients.chunks(BATCH).take_while(|_| began.elapsed() <= LONGEST_VISIT);
        let done = self.hand_batches_to(next, view, batches, &content, &mut sending).await;
        wipe(&mut content);
        // What is on its way is noted whatever came after it.
        let sent = self.note_sent(&mut sending, 0).await;
        let handed_over = done?;
        sent?;
        Ok(handed_over == recipients.len())
    }

    /// Returns how many had their turn.
    async fn hand_batches_to<'r>(
        &mut self,
        next: &mut Next,
        view: &TupleView,
        mut batches: impl Iterator<Item = &'r [Recipient]>,
        content: &serde_json::Value,
        sending: &mut Sending,
    ) -> Result<usize, KeeperError> {
        let (device, newcomers) = (self.lanes.taker.device.clone(), self.lanes.newcomers.clone());
        let (mut ahead, mut handed_over) = (VecDeque::new(), 0);
        loop {
            while ahead.len() < AHEAD
                && let Some(batch) = batches.next()
            {
                let (devices, turn) = (self.devices_of(batch.iter()), newcomers.clone());
                let encrypting = device.encrypt_apart(devices, "m.room_key", content, turn);
                ahead.push_back((batch, encrypting));
            }
            let Some((batch, encrypting)) = ahead.pop_front() else { return Ok(handed_over) };
            let encrypted = encrypting.await?;
            // What was encrypted ahead goes to nobody when this does not.
            if !self.hand_to(next, view, batch, encrypted, sending).await? {
                return Ok(handed_over);
            }
            handed_over += batch.len();
        }
    }

    /// Hands a session to one batch of devices. Returns whether it was still to be handed over.
    async fn hand_to(
        &mut self,
        next: &mut Next,
        view: &TupleView,
        batch: &[Recipient],
        encrypted: Encrypted,
        sending: &mut Sending,
    ) -> Result<bool, KeeperError> {
        let (store, room_id) = (self.lanes.taker.store.clone(), self.room_id());
        let mut letters = Letters::default();
        let session_id = next.kept.session_id.clone();
        let key = (&view.tuple, session_id.as_str());
        self.take_written(&mut letters, batch, key, next.message_index, encrypted);
        if letters.grants.is_empty() {
            return Ok(true);
        }
        self.lanes.newcomers.come().await;
        // Before anybody waits for the right to write.
        self.lanes.taker.device.written().await?;
        // That took its time, and who came meanwhile would wait for that right.
        self.lanes.newcomers.come().await;
        let now = now_ms();
        let mut transaction = store.begin().await?;
        if !self.still_present(&mut transaction, &letters).await?
            || (next.stands && sessions::is_retired(&mut transaction, &session_id).await?)
        {
            return Ok(false);
        }
        if !next.stands {
            let scope = session_scope(&self.rules, &view.tuple);
            sessions::put(&mut transaction, &room_id, scope, &next.kept).await?;
        }
        self.note_delivered(&mut transaction).await?;
        ledger::grant(&store, &mut transaction, &room_id, &letters.grants, now).await?;
        let requests = self.insert(&mut transaction, &room_id, letters, now).await?;
        transaction.commit().await?;
        next.stands = true;
        self.note_sent(sending, MOST_SENT - 1).await?;
        let (sender, newcomers) = (self.lanes.sender.clone(), self.lanes.newcomers.clone());
        sending.spawn(async move {
            // The homeserver is busy with so many messages for a while, and newcomers need it, too.
            newcomers.come().await;
            sender.send_keys(requests).await
        });
        Ok(true)
    }

    /// Keeps in mind what was sent, until no more than `most` requests are under way. After a failure the others are
    /// waited for, too.
    async fn note_sent(&mut self, sending: &mut Sending, most: usize) -> Result<(), KeeperError> {
        let mut failed = None;
        loop {
            let sent = match sending.try_join_next() {
                Some(sent) => sent,
                None if sending.len() <= most && failed.is_none() => return Ok(()),
                None => match sending.join_next().await {
                    Some(sent) => sent,
                    None => return failed.map_or(Ok(()), Err),
                },
            };
            let interrupted = |error| CryptoError::Interrupted(format!("{error}"));
            match sent.map_err(interrupted).map_err(KeeperError::from).flatten() {
                Ok(delivered) => self.take_delivered(delivered).await?,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
    }

    /// All who are to have the session were given it: how long that took is told, once.
    async fn note_handed_over(
        &self,
        known: &Knowledge,
        view: &TupleView,
        next: &Next,
    ) -> Result<(), KeeperError> {
        if !known.whole_room || !next.stands || self.rules.rotate_when != RotateWhen::AtOnce {
            return Ok(());
        }
        let now = now_ms();
        let scope = session_scope(&self.rules, &view.tuple);
        let mut transaction = self.lanes.taker.store.begin().await?;
        let (room, session) = (&self.room.room_id, &next.kept.session_id);
        let before = sessions::shared(&mut transaction, room, scope, session, now).await?;
        transaction.commit().await?;
        if let Some(retired_at) = before {
            let took = u32::try_from(now.saturating_sub(retired_at)).unwrap_or(0);
            self.lanes.taker.metrics.rotation_done(f64::from(took) / 1000.0);
        }
        Ok(())
    }
}
