//! Sealing, as `seal` does it: what is encrypted, the keys and their grants stand in one commit, the keys go first.

use ruma::OwnedUserId;

use super::{
    Done, Fault, Sim,
    performing::{Letters, Visit},
    rows::Outgoing,
};
use statekeeper::{
    keeper::{
        decide::{Cause, Knowledge, Reason, Recipient, Seal},
        knowledge::{session_scope, worn},
    },
    store::{SessionRow, StateDetail, TupleRow},
};

/// `seal::Work`.
struct Work {
    seal: Seal,
    tuple: TupleRow,
    kept: SessionRow,
}

impl Sim {
    /// `Visit::seal`.
    pub fn seal(&mut self, visit: &mut Visit, known: &Knowledge, seals: &[Seal]) -> Done<bool> {
        self.meanwhile()?;
        let mut letters = Letters::default();
        let (mut prepared, mut worked) = (Vec::new(), Vec::<Work>::new());
        for seal in seals {
            let Some(mut work) = self.take_up(known, seal, &worked) else { continue };
            let Some(detail) = self.encrypt(visit, &mut work, &mut letters) else { continue };
            prepared.push((work.tuple.tuple.clone(), detail));
            worked.push(work);
        }
        self.meanwhile()?;
        let was_in_use = |work: &&Work| !work.kept.pickle.is_empty();
        let any_retired = worked
            .iter()
            .filter(was_in_use)
            .any(|work| self.rows.is_retired(&work.kept.session_id));
        if !self.still_present(&letters.grants)
            || (any_retired && !self.is(Fault::RetirementOverlooked))
        {
            return Ok(true);
        }
        let news = self.news_of_holders(visit, &worked, &letters);
        if !news.is_empty() {
            self.track(news.iter().map(|(user, _)| user));
            self.meanwhile()?;
            self.pump();
            if let Some(scope) = &mut visit.scope {
                scope.extend(news.iter().map(|(user, _)| user.clone()));
            }
            visit.heeded.extend(news);
            return Ok(true);
        }
        self.note_delivered(visit);
        for work in &worked {
            let tuple = work.tuple.tuple.clone();
            let scope = session_scope(&self.rules, &tuple);
            self.rows.put_session(scope, &work.kept);
        }
        self.rows.grant(&letters.grants, self.now);
        let requests = self.insert(letters);
        let mut rows = Vec::new();
        for (tuple, detail) in prepared {
            let key = (detail.session_id.clone(), detail.message_index);
            self.rows.prepared.insert(key, detail.stands_for.clone());
            self.check_seal(&tuple, &detail)?;
            rows.push(self.rows.write_down(Outgoing::State { tuple, detail }));
        }
        self.meanwhile()?;
        self.deliver(visit, &requests)?;
        // Whoever's key was taken before this tick had it before the event.
        let ticks: Vec<(u64, i64)> =
            rows.into_iter().map(|number| (number, self.rows.next_tick())).collect();
        self.put(visit, &ticks)
    }

    /// `Visit::news_of_holders`.
    fn news_of_holders(
        &self,
        visit: &Visit,
        worked: &[Work],
        letters: &Letters,
    ) -> Vec<(OwnedUserId, i64)> {
        if self.is(Fault::NewsOverheard) {
            return Vec::new();
        }
        let mut news = Vec::new();
        for mark in self.rows.due(self.now) {
            let Some(user) = mark.user_id else { continue };
            let holds = |work: &Work| {
                let mut holders = self.rows.grants.keys();
                holders
                    .any(|(session, holder, _)| *session == work.kept.session_id && *holder == user)
            };
            let is_given = letters.grants.iter().any(|grant| grant.user_id == user);
            let concerned = is_given || worked.iter().any(holds);
            if visit.heeded.get(&user) != Some(&mark.tick) && concerned {
                news.push((user, mark.tick));
            }
        }
        news
    }

    /// `Visit::take_up`.
    fn take_up(&mut self, known: &Knowledge, seal: &Seal, worked: &[Work]) -> Option<Work> {
        let view = &known.tuples[seal.tuple];
        let tuple = self.rows.tuples.get(&view.tuple)?.clone();
        let wanted = view.source.as_ref().map(|source| &source.event_id);
        if !self.is(Fault::RedactedStaysCurrent)
            && (tuple.redacted || tuple.source.as_ref().map(|source| &source.event_id) != wanted)
        {
            return None;
        }
        let scope = session_scope(&self.rules, &tuple.tuple);
        let seal = seal.clone();
        if scope.is_none()
            && let Some(before) = worked.last()
        {
            let is_worn = worn(&before.kept, &self.rules, self.now).is_some();
            if is_worn && !self.is(Fault::UsedUpOverlooked) {
                return None;
            }
            let kept = before.kept.clone();
            return Some(Work { seal, tuple, kept });
        }
        let now = self.now;
        let active = self.rows.active(scope).filter(|kept| worn(kept, &self.rules, now).is_none());
        if active.as_ref().map(|kept| &kept.session_id) != view.active.as_ref().map(|(id, _)| id) {
            return None;
        }
        let kept = active.unwrap_or_else(|| self.new_session());
        Some(Work { seal, tuple, kept })
    }

    /// `StateSession::new`, not kept yet.
    pub fn new_session(&mut self) -> SessionRow {
        self.sessions_made += 1;
        let session_id = format!("k{}", self.sessions_made);
        SessionRow { session_id, pickle: Vec::new(), created_at: self.now, messages: 0 }
    }

    /// `Visit::encrypt`.
    fn encrypt(
        &mut self,
        visit: &mut Visit,
        work: &mut Work,
        letters: &mut Letters,
    ) -> Option<StateDetail> {
        let source = work.tuple.source.clone()?;
        let tuple = work.tuple.tuple.clone();
        let message_index = u32::try_from(work.kept.messages).unwrap();
        work.kept.messages += 1;
        let session_id = work.kept.session_id.clone();
        let recipients = work.seal.recipients.clone();
        let before = self.value_before(work);
        let index = before.unwrap_or(message_index);
        let key = (&tuple, session_id.as_str());
        self.write(visit, letters, &recipients, key, (index, index));
        if before.is_some() && is_for_nobody(visit, &recipients) {
            return None;
        }
        Some(StateDetail {
            session_id,
            message_index,
            stands_for: source.event_id,
            based_on: work.tuple.current_event_id.clone(),
            cause: work.seal.cause.as_str().to_owned(),
            redacts: work.seal.redacts.clone(),
            snapshot: String::new(),
            tick: self.rows.next_tick(),
        })
    }

    /// `Visit::value_before`.
    fn value_before(&self, work: &Work) -> Option<u32> {
        let sealed = work.tuple.sealed.as_ref()?;
        let repeats = !matches!(work.seal.cause, Cause::Reseal | Cause::Restore)
            && sealed.session_id == work.kept.session_id
            && work.tuple.source.as_ref().is_some_and(|source| source.event_id == sealed.from);
        (repeats && !work.seal.recipients.is_empty()).then_some(sealed.message_index)
    }
}

/// `Visit::is_for_nobody`.
fn is_for_nobody(visit: &Visit, recipients: &[Recipient]) -> bool {
    let mut lacking = recipients.iter().filter(|to| to.reason != Reason::Seal).peekable();
    let unreached =
        |to: &Recipient| visit.unreachable.contains(&(to.user_id.clone(), to.device_id.clone()));
    lacking.peek().is_some() && lacking.all(unreached)
}
