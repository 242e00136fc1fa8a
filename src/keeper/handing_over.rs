//! Handing over the session that comes next, batch by batch: each batch is a commit of its own.
//!
//! Who was given it stands in the ledger, so a kill in the middle, or the end of a visit, leaves nothing to be
//! remembered: the next decision finds those who lack it.

use std::time::Instant;

use super::{
    KeeperError,
    clock::now_ms,
    decide::{Handover, Knowledge, Recipient, Seal, TupleView},
    knowledge::{session_scope, worn},
    lane::{LONGEST_VISIT, MOST_SEALS, Visit},
    letters::Letters,
};
use crate::{
    config::RotateWhen,
    crypto::{KeySnapshot, StateSession},
    store::{SessionRow, ledger, sessions},
};

/// How many devices are served by one commit.
const BATCH: usize = 250;

/// The session that a tuple's next value is sealed under.
struct Next {
    kept: SessionRow,
    /// Whether the store has it yet.
    stands: bool,
    message_index: u32,
    snapshot: KeySnapshot,
}

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

    /// Seals, or, where a session follows another in a large room, hands that one over first: what many have to be
    /// given is not given in one commit. Returns whether it calls for another look.
    pub(super) async fn seal_in_order(
        &mut self,
        known: &Knowledge,
        seals: &[Seal],
    ) -> Result<bool, KeeperError> {
        let large = |seal: &&Seal| {
            let view = known.tuples.get(seal.tuple);
            seal.recipients.len() > BATCH && view.is_some_and(|view| view.over.is_some())
        };
        let first: Vec<Handover> = seals
            .iter()
            .filter(large)
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
            for batch in handover.recipients.chunks(BATCH) {
                if !self.hand_to(&mut next, view, batch).await? || began.elapsed() > LONGEST_VISIT {
                    return Ok(true);
                }
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

    /// Hands a session to one batch of devices. Returns whether it was still to be handed over.
    async fn hand_to(
        &mut self,
        next: &mut Next,
        view: &TupleView,
        batch: &[Recipient],
    ) -> Result<bool, KeeperError> {
        let (store, room_id) = (self.lanes.taker.store.clone(), self.room_id());
        let mut letters = Letters::default();
        let session_id = next.kept.session_id.clone();
        let key = (&view.tuple, session_id.as_str());
        self.write(&mut letters, batch, key, next.message_index, &next.snapshot).await?;
        if letters.grants.is_empty() {
            return Ok(true);
        }
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
        self.deliver(requests).await?;
        Ok(true)
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
