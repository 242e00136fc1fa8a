//! A symbolic keeper at work: what `lane`, `seal`, `handing_over` and `enforcing` do with a plan, in their order and
//! with their commits. What it sends is a session's name and an index.
//!
//! Wherever the real one waits for a disk or a network, [`Sim::meanwhile`] lets other things happen, or kills it.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedEventId, OwnedUserId};

use super::{
    Done, Fault, Halt, Sim,
    rows::{Holder, Outgoing},
    taking::KnownDevice,
};
use statekeeper::{
    keeper::{
        decide::{
            Breach, Cause, Handover, Knowledge, Plan, Reason, Recipient, Seal, Share, decide,
        },
        knowledge::{session_scope, worn},
        lane::earliest,
        pacing::unreachable_wait,
        performing::split,
    },
    state::StateTuple,
    store::{Mark, NewGrant, Retired},
};

/// As in `lane`.
const MOST_ROUNDS: usize = 12;
/// As in `lane`.
const MOST_SEALS: usize = 8;
/// `handing_over::BATCH`, as small as the rooms are here.
const BATCH: usize = 3;

/// A request that the homeserver took.
pub struct Delivery {
    pub number: u64,
    pub session_id: String,
    pub recipients: Vec<Holder>,
    pub at: i64,
    pub tick: i64,
}

/// `lane::Visit`: what is gone with a kill.
#[derive(Default)]
pub struct Visit {
    pub scope: Option<BTreeSet<OwnedUserId>>,
    pub heeded: BTreeMap<OwnedUserId, i64>,
    pub devices: BTreeMap<Holder, KnownDevice>,
    pub unreachable: BTreeSet<Holder>,
    pub delivered: Vec<Delivery>,
    pub sightings: BTreeMap<OwnedUserId, u32>,
    again_at: Option<i64>,
    wears_out_at: Option<i64>,
}

/// `letters::Letters`.
#[derive(Default)]
pub struct Letters {
    pub grants: Vec<NewGrant>,
    requests: Vec<(String, u32, Vec<Holder>)>,
}

impl Sim {
    /// `Lanes::keep`.
    ///
    /// # Errors
    ///
    /// [`Halt`] when the keeper was killed, the homeserver is away, or something happened that must not.
    pub fn visit(&mut self) -> Done<()> {
        self.flush()?;
        let due = self.rows.due(self.now);
        let users: BTreeSet<OwnedUserId> =
            due.iter().filter_map(|mark| mark.user_id.clone()).collect();
        let whole = due.iter().any(|mark| mark.user_id.is_none());
        if !users.is_empty() {
            self.track(&users);
            self.meanwhile()?;
            self.pump();
            self.look_again(None);
        }
        if due.is_empty() {
            return Ok(());
        }
        let members = due.iter().filter_map(|mark| Some((mark.user_id.clone()?, mark.tick)));
        let heeded = members.collect();
        let scope = (!whole).then_some(users);
        let mut visit = Visit { scope, heeded, ..Visit::default() };
        let done = self.work(&mut visit);
        if matches!(done, Err(Halt::Killed | Halt::Broken(_))) {
            return done;
        }
        self.close(&mut visit, &due, done.is_ok());
        done
    }

    /// `Visit::work`.
    fn work(&mut self, visit: &mut Visit) -> Done<()> {
        for _ in 0..MOST_ROUNDS {
            let mut known = self.know(visit);
            if self.is(Fault::RedactedStaysCurrent) {
                known.tuples.iter_mut().for_each(|view| view.redacted = false);
            }
            let mut plan = decide(&known, &self.rules, self.now);
            self.spoil(&known, &mut plan);
            self.note(|| format!("  {}", told(&plan)));
            if plan.needs_whole_room && visit.scope.is_some() {
                // Everybody is weighed now, also of whom nothing was heard before.
                visit.scope = None;
                continue;
            }
            if !self.perform(visit, &known, &plan)? {
                visit.again_at = earliest(visit.again_at, plan.again_at);
                visit.wears_out_at = plan.wears_out_at;
                return Ok(());
            }
        }
        visit.again_at = Some(self.now);
        Ok(())
    }

    /// What a keeper would plan that is broken in some way.
    fn spoil(&self, known: &Knowledge, plan: &mut Plan) {
        match self.fault {
            Some(Fault::NoRefresh) => plan.seals.retain(|seal| seal.cause != Cause::Join),
            Some(Fault::NothingRetiresOnDecision) => plan.retire.clear(),
            Some(Fault::SealsBeforeKeys) => {
                plan.seals.iter_mut().for_each(|seal| seal.recipients.clear());
            }
            Some(Fault::PlainRedactedFirst) => {
                plan.redactions.retain(|breach| !breach.rule.is_in_plain());
                plan.redactions.extend(known.owed.iter().map(|owed| owed.breach.clone()));
                let is_plain = |seal: &Seal| {
                    known.tuples[seal.tuple].breach.as_ref().is_some_and(|it| it.rule.is_in_plain())
                };
                plan.seals.retain(|seal| seal.cause != Cause::Restore || !is_plain(seal));
            }
            Some(Fault::PlainLeft) => plan.redactions.retain(|breach| !breach.rule.is_in_plain()),
            Some(Fault::NothingRestored) => {
                plan.seals.retain(|seal| seal.cause != Cause::Restore);
            }
            _ => {}
        }
    }

    /// `Visit::perform`.
    fn perform(&mut self, visit: &mut Visit, known: &Knowledge, plan: &Plan) -> Done<bool> {
        if !plan.retire.is_empty() {
            self.meanwhile()?;
            for (session, why) in &plan.retire {
                self.rows.retire(*why, self.now, |id| id == session);
            }
            self.note(|| format!("retired {:?}", plan.retire));
            return Ok(true);
        }
        let such = |cause: fn(Cause) -> bool| -> Vec<Seal> {
            plan.seals.iter().filter(|seal| cause(seal.cause)).take(MOST_SEALS).cloned().collect()
        };
        let restores = such(|cause| cause == Cause::Restore);
        if !restores.is_empty() {
            return self.seal(visit, known, &restores);
        }
        if !plan.redactions.is_empty() {
            let count = plan.redactions.len().min(MOST_SEALS);
            self.redact(&plan.redactions[..count])?;
            return Ok(true);
        }
        let (invitees, members): (Vec<Share>, Vec<Share>) = plan
            .shares
            .iter()
            .flat_map(split)
            .partition(|share| share.recipients.iter().all(|to| to.reason == Reason::Invite));
        let refreshes = such(|cause| matches!(cause, Cause::Join | Cause::Device));
        if !refreshes.is_empty() && self.is_permitted(visit) {
            return self.seal_in_order(visit, known, &refreshes);
        }
        if !members.is_empty() && self.is_permitted(visit) {
            self.share(visit, known, &members)?;
            return Ok(true);
        }
        let reseals = such(|cause| cause == Cause::Reseal);
        if !reseals.is_empty() {
            return self.seal_in_order(visit, known, &reseals);
        }
        if !invitees.is_empty() && self.is_permitted(visit) {
            self.share(visit, known, &invitees)?;
            return Ok(true);
        }
        if !plan.handovers.is_empty() {
            return self.hand_over(visit, known, &plan.handovers);
        }
        let rotations = such(|cause| cause == Cause::Rotation);
        if !rotations.is_empty() && self.is_permitted(visit) {
            return self.seal_in_order(visit, known, &rotations);
        }
        Ok(false)
    }

    /// `Visit::permitted`, `affords` and `paced`: other rooms may have used a budget up.
    fn is_permitted(&mut self, visit: &mut Visit) -> bool {
        if self.chance(15) {
            visit.again_at = earliest(visit.again_at, Some(self.now + 50));
            return false;
        }
        true
    }

    /// `Visit::share`.
    fn share(&mut self, visit: &mut Visit, known: &Knowledge, shares: &[Share]) -> Done<()> {
        self.meanwhile()?;
        let mut letters = Letters::default();
        for share in shares {
            let view = &known.tuples[share.tuple];
            let Some(sealed) = &view.sealed else { continue };
            // The snapshot is read now, the index was read with the decision.
            let Some(opens) = self.rows.snapshots.get(&view.tuple).copied() else { continue };
            let index = sealed.message_index;
            let opens = if self.is(Fault::OldIndexShared) { 0 } else { opens };
            let key = (&view.tuple, sealed.session_id.as_str());
            self.write(visit, &mut letters, &share.recipients, key, (index, opens));
        }
        self.meanwhile()?;
        if !self.still_present(&letters.grants) {
            return Ok(());
        }
        self.note_delivered(visit);
        self.rows.grant(&letters.grants, self.now);
        let requests = self.insert(letters);
        self.deliver(visit, &requests)
    }

    /// `Visit::write`: the grants say `index`, the key opens what it opens.
    pub fn write(
        &mut self,
        visit: &mut Visit,
        letters: &mut Letters,
        recipients: &[Recipient],
        (tuple, session_id): (&StateTuple, &str),
        (index, opens): (u32, u32),
    ) {
        let mut to = Vec::new();
        for recipient in recipients {
            let holder = (recipient.user_id.clone(), recipient.device_id.clone());
            let covered = letters.grants.iter().any(|grant| {
                grant.session_id == session_id
                    && grant.message_index <= index
                    && (&grant.user_id, &grant.device_id) == (&holder.0, &holder.1)
            });
            if covered || !visit.devices.contains_key(&holder) {
                continue;
            }
            if !self.is_reachable(&holder) {
                visit.unreachable.insert(holder);
                continue;
            }
            letters.grants.push(NewGrant {
                session_id: session_id.to_owned(),
                user_id: holder.0.clone(),
                device_id: holder.1.clone(),
                message_index: index,
                reason: recipient.reason.as_str(),
                again: false,
                preview: false,
                tuple: tuple.clone(),
                policy: String::new(),
            });
            to.push(holder);
        }
        if !to.is_empty() {
            letters.requests.push((session_id.to_owned(), opens, to));
        }
    }

    fn is_reachable(&self, (user, device): &Holder) -> bool {
        let person = self.world.people.iter().find(|person| person.id == *user).unwrap();
        person.devices.iter().any(|known| known.id == *device && known.reachable && !known.gone)
    }

    /// `Visit::insert`.
    pub fn insert(&mut self, letters: Letters) -> Vec<u64> {
        let rows = letters.requests.into_iter().map(|(session_id, index, recipients)| {
            self.rows.write_down(Outgoing::Keys { session_id, index, recipients })
        });
        rows.collect()
    }

    /// `Visit::seal_in_order`.
    fn seal_in_order(
        &mut self,
        visit: &mut Visit,
        known: &Knowledge,
        seals: &[Seal],
    ) -> Done<bool> {
        let first: Vec<Handover> = seals
            .iter()
            .filter(|seal| seal.recipients.len() > BATCH)
            .map(|seal| Handover { tuple: seal.tuple, recipients: seal.recipients.clone() })
            .collect();
        if first.is_empty() {
            return self.seal(visit, known, seals);
        }
        self.hand_over(visit, known, &first)
    }

    /// `Visit::hand_over`, with `next_session` and `hand_to`.
    fn hand_over(
        &mut self,
        visit: &mut Visit,
        known: &Knowledge,
        handovers: &[Handover],
    ) -> Done<bool> {
        self.meanwhile()?;
        for handover in handovers {
            let view = &known.tuples[handover.tuple];
            let scope = session_scope(&self.rules, &view.tuple).cloned();
            let now = self.now;
            let active = self.rows.active(scope.as_ref());
            let active = active.filter(|kept| worn(kept, &self.rules, now).is_none());
            let decided = view.active.as_ref().map(|(id, _)| id);
            if active.as_ref().map(|kept| &kept.session_id) != decided {
                return Ok(true);
            }
            let mut stands = active.is_some();
            let next = active.unwrap_or_else(|| self.new_session());
            let index = u32::try_from(next.messages).unwrap();
            for batch in handover.recipients.chunks(BATCH) {
                let mut letters = Letters::default();
                let key = (&view.tuple, next.session_id.as_str());
                self.write(visit, &mut letters, batch, key, (index, index));
                if letters.grants.is_empty() {
                    continue;
                }
                self.meanwhile()?;
                if !self.still_present(&letters.grants)
                    || (stands && self.rows.is_retired(&next.session_id))
                {
                    return Ok(true);
                }
                if !stands {
                    self.rows.put_session(scope.as_ref(), &next);
                }
                self.note_delivered(visit);
                self.rows.grant(&letters.grants, self.now);
                let requests = self.insert(letters);
                stands = true;
                self.deliver(visit, &requests)?;
            }
        }
        Ok(true)
    }

    /// `Visit::redact`.
    fn redact(&mut self, breaches: &[Breach]) -> Done<()> {
        self.meanwhile()?;
        for breach in breaches {
            if breach.rule.is_in_plain() {
                self.redact_plain(&breach.event_id);
                continue;
            }
            let Some(row) = self.rows.tuples.get_mut(&breach.tuple) else { continue };
            if row.current_event_id.as_ref() != Some(&breach.event_id) || row.redacted {
                continue;
            }
            row.redacted = true;
            self.rows.redact(&breach.event_id);
        }
        self.flush()
    }

    /// `Visit::redact_plain`.
    fn redact_plain(&mut self, event: &OwnedEventId) {
        if !self.rows.owed.remove(event) {
            return;
        }
        let Some(mut seen) = self.rows.events.get(event).cloned() else { return };
        match seen.verdict.as_str() {
            _ if self.is(Fault::PlainTakenBack) => {}
            "accepted" => seen.verdict = "cleared".to_owned(),
            "redacted" | "cleared" => {}
            _ => (seen.verdict, seen.content) = ("emptied".to_owned(), None),
        }
        self.rows.events.insert(event.clone(), seen);
        self.rows.redact(event);
    }

    /// `Visit::note_delivered`, as a part of the caller's commit.
    pub fn note_delivered(&mut self, visit: &mut Visit) {
        self.note_all_delivered(std::mem::take(&mut visit.delivered));
        for (user, identity) in std::mem::take(&mut visit.sightings) {
            self.rows.see_identity(&user, &identity.to_string());
        }
    }

    /// `Visit::put`.
    pub fn put(&mut self, visit: &mut Visit, rows: &[(u64, i64)]) -> Done<bool> {
        let (mut sent, mut away) = (Vec::new(), None);
        for (number, tick) in rows {
            let Some(Outgoing::State { tuple, mut detail }) = self.rows.outbox.get(number).cloned()
            else {
                continue;
            };
            detail.tick = *tick;
            match self.put_state(&tuple, &detail) {
                Ok(event_id) => sent.push((*number, tuple, detail, event_id)),
                Err(halt) => {
                    away = Some(halt);
                    break;
                }
            }
        }
        if let Some(halt @ (Halt::Killed | Halt::Broken(_))) = away {
            return Err(halt);
        }
        self.note_delivered(visit);
        for (number, tuple, detail, event_id) in &sent {
            self.conclude_state(*number, tuple, detail, Some(event_id));
        }
        away.map_or(Ok(true), Err)
    }

    /// `Visit::close`, with `come_again` and `retry_unreachable`.
    fn close(&mut self, visit: &mut Visit, due: &[Mark], settled: bool) {
        self.note_delivered(visit);
        if !settled {
            return;
        }
        for mark in due {
            self.rows.settle(mark);
        }
        if let Some(at) = visit.again_at {
            let tick = self.rows.next_tick();
            for mark in due {
                self.rows.put_mark(mark.user_id.as_ref(), at, tick, 0);
            }
        }
        if let Some(at) = visit.wears_out_at {
            self.rows.mark(None, at);
        }
        let users: BTreeSet<OwnedUserId> =
            visit.unreachable.iter().map(|(user, _)| user.clone()).collect();
        for user in users {
            let own = due.iter().find(|mark| mark.user_id.as_ref() == Some(&user));
            let attempts = own.map_or(0, |mark| mark.attempts);
            let tried = attempts + i64::from(visit.again_at.is_none());
            if own.is_some() || !self.rows.marks.contains_key(&Some(user.clone())) {
                let (due_at, tick) = (self.now + unreachable_wait(attempts), self.rows.next_tick());
                self.rows.put_mark(Some(&user), due_at, tick, tried);
            }
        }
    }

    /// An administrator's `rotate`, from another process.
    pub fn rotate(&mut self) {
        self.all_are_over();
        if !self.is(Fault::WordOverlooked) {
            self.rows.retire(Retired::Admin, self.now, |_| true);
        }
        self.rows.mark(None, self.now);
    }
}

/// A plan in a line.
fn told(plan: &Plan) -> String {
    let seals: Vec<_> =
        plan.seals.iter().map(|seal| (seal.tuple, seal.cause, seal.recipients.len())).collect();
    let shares: Vec<_> =
        plan.shares.iter().map(|share| (share.tuple, share.recipients.len())).collect();
    format!(
        "plans seals {seals:?} shares {shares:?} handovers {} redactions {} retires {:?} whole {} \
         again {:?} wears out {:?}",
        plan.handovers.len(),
        plan.redactions.len(),
        plan.retire,
        plan.needs_whole_room,
        plan.again_at,
        plan.wears_out_at
    )
}
