//! Hearing key requests: which of them are worth an answer is said here, before any of them takes from a budget or
//! holds anybody up.
//!
//! In the commit of the `since` that brought it, a request gets its row if the session is one of the room's. After
//! that commit it is judged by what is known then: whoever is entitled waits for a turn, whoever has to be told is
//! told, and whoever has no business in the room hears nothing. A flood of invented things ends at the first step.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use ruma::{OwnedRoomId, OwnedUserId};
use sqlx::SqliteConnection;

use super::{
    KeeperError,
    answering::{Asked, from_row, refusal_of, to_row},
    clock::now_ms,
    decide::{Answer, decide},
    lane::{Lanes, Visit},
    requests::{
        Outcome,
        desk::Taken,
        request::{Incoming, KeyRequest},
    },
    rules::Rules,
};
use crate::{
    policy::{Entitlement, PreviewPolicy},
    state::{Membership, StateTuple},
    store::{AskedSession, key_requests, ledger, marks, previews, rooms},
};

/// A request whose device knows already that it gets no key.
struct Told {
    request: KeyRequest,
    refused: Entitlement,
    rules: Arc<Rules>,
}

/// What judging the requests of one `/sync` leaves to be done in one commit.
#[derive(Default)]
struct News {
    told_again: Vec<Told>,
    waiting: Vec<(OwnedRoomId, OwnedUserId)>,
}

/// The tuples whose keys are asked for: a room may have thousands of others, and all that is heard waits until these are
/// looked at. `None` where it may be any of the room's.
fn asked_of(asked: &[Asked]) -> Option<BTreeSet<StateTuple>> {
    let mut tuples = BTreeSet::new();
    for asked in asked {
        match &asked.session {
            AskedSession::Keepers(tuple) => tuples.insert(tuple.clone()?),
            AskedSession::Members => false,
        };
    }
    Some(tuples)
}

impl Lanes {
    /// Takes in what was heard, as part of the transaction that notes the `since`. Returns the requests that are to
    /// be judged once it is committed.
    pub(super) async fn hear(
        &self,
        db: &mut SqliteConnection,
        heard: &[String],
    ) -> Result<Vec<Asked>, KeeperError> {
        for name in self.desk.take_gone() {
            let name = (&*name.sender, &*name.device, name.request_id.as_str());
            key_requests::remove(db, name).await?;
        }
        let mut asked: Vec<Asked> = Vec::new();
        let mut names = BTreeSet::new();
        for json in heard {
            match Incoming::parse(json, now_ms()) {
                Err(error) => {
                    tracing::debug!(error = error.as_str(), "a key request was not heard");
                    self.count(Outcome::Malformed);
                }
                Ok(Incoming::Cancellation(name)) => {
                    let before = asked.len();
                    asked.retain(|asked| asked.request.name() != name);
                    names.remove(&name);
                    let key = (&*name.sender, &*name.device, name.request_id.as_str());
                    let stood = key_requests::remove(db, key).await?;
                    // One that is being answered finds its row gone, and counts itself.
                    if self.desk.cancel(&name) || (stood && asked.len() < before) {
                        self.count(Outcome::Cancelled);
                    }
                }
                Ok(Incoming::Request(request)) => {
                    let name = request.name();
                    if names.contains(&name) || self.desk.knows(&name, Instant::now()) {
                        self.count(Outcome::Duplicate);
                        continue;
                    }
                    let Some(session) = self.session_of(db, &request).await? else {
                        self.count(Outcome::Silence);
                        continue;
                    };
                    key_requests::insert(db, &to_row(&request)).await?;
                    names.insert(name);
                    asked.push(Asked { request, session, paid: false, waits: false });
                }
            }
        }
        Ok(asked)
    }

    /// Whose session is asked for; `None` where nobody gets an answer who asks for it.
    async fn session_of(
        &self,
        db: &mut SqliteConnection,
        request: &KeyRequest,
    ) -> Result<Option<AskedSession>, KeeperError> {
        if request.sender == self.taker.keeper {
            return Ok(None);
        }
        let session =
            key_requests::asked_session(db, &request.room_id, &request.session_id).await?;
        let forwards = self.taker.rules.any(|rules| rules.forward_member_sessions);
        Ok(session.filter(|session| forwards || *session != AskedSession::Members))
    }

    /// Judges requests that were heard, by what is committed now.
    pub(super) async fn judge_requests(&self, heard: Vec<Asked>) -> Result<(), KeeperError> {
        let mut by_asker: BTreeMap<(OwnedRoomId, OwnedUserId), Vec<Asked>> = BTreeMap::new();
        for asked in heard {
            let asker = (asked.request.room_id.clone(), asked.request.sender.clone());
            by_asker.entry(asker).or_default().push(asked);
        }
        let mut news = News::default();
        for ((room, user), asked) in by_asker {
            let known = rooms::get(&mut *self.taker.store.read().await?, &room).await?;
            let kept =
                known.filter(|room| room.membership == Membership::Join && room.state_encrypted);
            let Some(kept) = kept else {
                for asked in asked {
                    self.end_unheard(asked.request, Outcome::Silence);
                }
                continue;
            };
            let mut visit = Visit::new(self, kept, Some(BTreeSet::from([user])));
            visit.only = asked_of(&asked);
            visit.asked = asked;
            self.judge_askers(visit, &mut news).await?;
        }
        self.count_told(news.told_again).await?;
        news.waiting.dedup();
        self.look_for_news(news.waiting).await?;
        self.count_queued();
        Ok(())
    }

    async fn judge_askers(&self, mut visit: Visit<'_>, news: &mut News) -> Result<(), KeeperError> {
        let known = visit.know().await?;
        let plan = decide(&known, &visit.rules, now_ms());
        let asked = std::mem::take(&mut visit.asked);
        let (own, members): (Vec<Asked>, Vec<Asked>) =
            asked.into_iter().partition(|asked| matches!(asked.session, AskedSession::Keepers(_)));
        for (asked, answer) in own.into_iter().zip(&plan.answers) {
            self.place(&visit, asked.request, *answer, news).await?;
        }
        for asked in members {
            let answer = visit.judge_forwarding(&known, &asked).await?;
            self.place(&visit, asked.request, answer, news).await?;
        }
        Ok(())
    }

    /// Puts a request where it waits for what comes of it.
    async fn place(
        &self,
        visit: &Visit<'_>,
        request: KeyRequest,
        answer: Answer,
        news: &mut News,
    ) -> Result<(), KeeperError> {
        match answer {
            Answer::Give => {
                self.offer(request);
            }
            Answer::Wait => {
                news.waiting.push((request.room_id.clone(), request.sender.clone()));
                self.desk.wait_for_sender(request);
            }
            Answer::Holds => self.end_unheard(request, Outcome::Repeated),
            Answer::Silence => self.end_unheard(request, Outcome::Silence),
            Answer::Refuse(refused) if self.was_told(visit, &request, refused).await? => {
                self.count(Outcome::Withheld);
                news.told_again.push(Told { request, refused, rules: visit.rules.clone() });
            }
            Answer::Refuse(_) => self.desk.make_ready(request),
        }
        Ok(())
    }

    /// Of those who wait until they are heard of, the news may have come while they were judged, and the visit that it
    /// caused may be over: then there has to be another one.
    async fn look_for_news(
        &self,
        waiting: Vec<(OwnedRoomId, OwnedUserId)>,
    ) -> Result<(), KeeperError> {
        let store = &self.taker.store;
        let mut heard_of = Vec::new();
        for (room, user) in waiting {
            let member = rooms::get_member(&mut *store.read().await?, &room, &user).await?;
            let is_present = member.is_some_and(|member| {
                matches!(member.membership, Membership::Join | Membership::Invite)
            });
            let db = &mut *store.read().await?;
            let may_read =
                is_present || previews::of_user(db, &room, &user).await? != PreviewPolicy::None;
            heard_of.extend(may_read.then_some((room, user)));
        }
        if heard_of.is_empty() {
            return Ok(());
        }
        let mut transaction = store.begin().await?;
        for (room, user) in heard_of {
            marks::mark(&mut transaction, &room, Some(&user), now_ms(), store.next_tick()).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Whether a device has been told before that it gets no key.
    async fn was_told(
        &self,
        visit: &Visit<'_>,
        request: &KeyRequest,
        refused: Entitlement,
    ) -> Result<bool, KeeperError> {
        let Some((code, outcome)) = refused.code().zip(refused.outcome()) else { return Ok(false) };
        let refusal = refusal_of(request, code, &outcome, &visit.rules.policy);
        let (store, room) = (&self.taker.store, &visit.room.room_id);
        Ok(ledger::is_refused(store, &mut *store.read().await?, room, refusal).await?)
    }

    /// Counts refusals that the ledger knows once more, all in one commit: a flood of them is cheap.
    async fn count_told(&self, told: Vec<Told>) -> Result<(), KeeperError> {
        if told.is_empty() {
            return Ok(());
        }
        let mut transaction = self.taker.store.begin().await?;
        for Told { request, refused, rules } in told {
            let name = (&*request.sender, &*request.device, request.request_id.as_str());
            key_requests::remove(&mut transaction, name).await?;
            let Some((code, outcome)) = refused.code().zip(refused.outcome()) else { continue };
            let refusal = refusal_of(&request, code, &outcome, &rules.policy);
            let (store, room) = (&self.taker.store, &request.room_id);
            ledger::refuse(store, &mut transaction, room, refusal, now_ms()).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Offers a request to the queue, and counts what became of it.
    pub(super) fn offer(&self, request: KeyRequest) -> Taken {
        let taken = self.desk.offer(request, Instant::now());
        match taken {
            Taken::Ready => {}
            Taken::Parked(scope) => self.taker.metrics.rate_limited(scope.as_str()),
            Taken::Dropped(scope) => {
                self.taker.metrics.rate_limited(scope.as_str());
                self.count(Outcome::Dropped);
            }
            Taken::Duplicate => self.count(Outcome::Duplicate),
        }
        taken
    }

    /// A request that gets no answer: its row goes with the next `since`.
    fn end_unheard(&self, request: KeyRequest, outcome: Outcome) {
        self.count(outcome);
        self.desk.dismiss(request.name());
    }

    fn count(&self, outcome: Outcome) {
        self.taker.metrics.key_request(outcome.as_str());
    }

    /// Sets the gauge of the requests that wait.
    pub(super) fn count_queued(&self) {
        let queued = i64::try_from(self.desk.queued()).unwrap_or(i64::MAX);
        self.taker.metrics.set_key_requests_queued(queued);
    }

    /// The rooms in which requests are ready to be answered.
    pub(super) fn rooms_with_requests(&self) -> Vec<OwnedRoomId> {
        let (rooms, in_vain) = self.desk.rooms(Instant::now(), now_ms());
        for _ in 0..in_vain {
            self.count(Outcome::Silence);
        }
        self.count_queued();
        rooms
    }

    /// Takes up again what a kill left unanswered.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub async fn restore_requests(&self) -> Result<(), KeeperError> {
        let rows = key_requests::all(&mut *self.taker.store.read().await?).await?;
        for row in rows {
            self.offer(from_row(row));
        }
        Ok(())
    }
}
