//! Providing: the keys of rooms for those who may join them and have not.
//!
//! It is a task of its own beside the lanes, at the pace of each space, one small batch at a time: nobody waits for it,
//! and it keeps nobody waiting. The newest comer is served first; the rounds through all who may read a room come after.
//!
//! Recovery: who lacks what is derived from the grants, like everything else. A promise stands until its people were
//! decided upon, and a round goes on where the last batch was noted; a key that was being sent is sent again by the
//! room's lane.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use tokio::sync::Notify;

use super::{
    Bell, news,
    paces::Paces,
    rules::SpaceRules,
    survey::roots,
    turns::{self, LOOK_EVERY, Turns, until_due},
};
use crate::{
    keeper::{
        KeeperError,
        clock::now_ms,
        decide::{Knowledge, PreviewPlan, Share, decide_previews},
        ingest::Arrival,
        lane::{Lanes, Visit, earliest},
        pacing::{Allowance, unreachable_wait},
    },
    policy::PreviewPolicy,
    state::{Membership, StateTuple},
    store::{
        Candidate, Previewed, RoomRow, Store, marks, outbox, previewed_tuples, previews, rooms,
        sessions, tuples,
    },
};

/// How many people are looked at in one batch.
const BATCH: u32 = 50;
/// How long a promise waits whose room is not known well enough, in milliseconds.
const UNREADY_WAITS: i64 = 250;

/// What became of a key for somebody who has not joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::keeper) enum Provided {
    /// The homeserver took it.
    Given,
    /// No channel to the device could be made yet.
    Unreachable,
    /// The homeserver refused it.
    Refused,
}

impl Provided {
    /// Every outcome there is.
    pub(in crate::keeper) const ALL: [Self; 3] = [Self::Given, Self::Unreachable, Self::Refused];

    /// The label in metrics.
    pub(in crate::keeper) fn as_str(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
        }
    }
}

/// Provides.
pub(in crate::keeper) struct Provider {
    lanes: Lanes,
    promised: Arc<Notify>,
    /// How fast each space's people are provided for.
    paces: Paces,
}

/// People who are looked at.
struct Batch {
    room_id: OwnedRoomId,
    people: Vec<Candidate>,
    why: Why,
    /// Whether it was known for certain, before they were read, who may read the room.
    surety: Option<i64>,
}

/// Why people are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Each was promised for by himself.
    Marked,
    /// A round through all has come to them.
    Round,
}

/// What came of a batch.
enum Served {
    /// Everybody was decided upon; these could not be reached.
    Done(BTreeSet<OwnedUserId>),
    /// Something changed under us, or the room is not ready.
    NotYet,
    /// There is nobody to serve in this room.
    Nobody,
}

impl Provider {
    pub(in crate::keeper) fn new(lanes: Lanes, promised: Arc<Notify>, paces: Paces) -> Self {
        Self { lanes, promised, paces }
    }

    /// Provides for ever.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub(in crate::keeper) async fn run(self) -> Result<(), KeeperError> {
        turns::take(self).await
    }
}

impl Turns for Provider {
    const WAITING: &'static str = "people who may join rooms wait for their keys";

    fn bell(&self) -> Arc<Bell> {
        self.lanes.taker.spaces.provide.clone()
    }

    fn store(&self) -> &Store {
        &self.lanes.taker.store
    }

    /// Serves one batch of each space that has the means. Returns how long to wait where there was none to serve.
    async fn turn(&mut self) -> Result<Option<Duration>, KeeperError> {
        let (store, began) = (self.lanes.taker.store.clone(), now_ms());
        let roots = roots(&self.lanes.taker, &mut *store.read().await?).await?;
        self.paces.retain(&roots);
        let (mut served, mut shortest) = (false, LOOK_EVERY);
        for (root, rules) in roots {
            let pace = self.paces.of(&root, &rules);
            if let Some(wait) = pace.wait(Instant::now()) {
                shortest = shortest.min(wait);
                continue;
            }
            let Some(batch) = self.next_batch(&root, &rules).await? else { continue };
            served = true;
            self.serve(&pace, batch).await?;
        }
        if served {
            return Ok(None);
        }
        // What has fallen due since is not overlooked.
        let next = previews::next_due(&mut *store.read().await?, began).await?;
        Ok(Some(until_due(next, shortest)))
    }
}

impl Provider {
    async fn next_batch(
        &self,
        root: &RoomId,
        rules: &SpaceRules,
    ) -> Result<Option<Batch>, KeeperError> {
        let db = &mut *self.lanes.taker.store.read().await?;
        let (now, most) = (now_ms(), i64::from(rules.per_second.min(BATCH)));
        if let Some((room_id, people)) = previews::newest(db, root, now, most).await? {
            let surety = previews::surety(db, &room_id).await?;
            return Ok(Some(Batch { room_id, people, why: Why::Marked, surety }));
        }
        while let Some(round) = previews::due_round(db, root, now).await? {
            let room_id = round.room_id;
            let surety = previews::surety(db, &room_id).await?;
            let below = match round.below {
                Some(below) => below,
                None if self.begin_round(&room_id, rules).await? => i64::MAX,
                // It was put off, and keeps none of the others waiting.
                None => continue,
            };
            let people = previews::candidates(db, &room_id, below, most).await?;
            return Ok(Some(Batch { room_id, people, why: Why::Round, surety }));
        }
        Ok(None)
    }

    /// Begins a round through all who may read a room before they join it, unless something is being sealed there: it is
    /// due a little later, then. Notes what they are given: of each tuple the session of its current value, but not of
    /// one that they were given another session of a short while ago; for that there is another round.
    async fn begin_round(&self, room: &RoomId, rules: &SpaceRules) -> Result<bool, KeeperError> {
        let store = &self.lanes.taker.store;
        let mut transaction = store.begin().await?;
        let now = now_ms();
        if outbox::is_sealing(&mut transaction, room).await? {
            let due = now.saturating_add(UNREADY_WAITS);
            previews::put_round_off(&mut transaction, room, due).await?;
            transaction.commit().await?;
            return Ok(false);
        }
        let given = previewed_tuples::of_room(&mut transaction, room).await?;
        let mut again_at: Option<i64> = None;
        for row in tuples::of_room(store, &mut transaction, room).await? {
            let Some(sealed) = row.sealed.filter(|_| rules.preview.shows(&row.tuple)) else {
                continue;
            };
            let last = given.get(&row.tuple);
            if last.is_some_and(|last| last.session_id == sealed.session_id) {
                continue;
            }
            let due = last.map_or(now, |last| last.given_at.saturating_add(rules.interval));
            if due > now {
                again_at = earliest(again_at, Some(due));
                continue;
            }
            let previewed = Previewed { session_id: sealed.session_id, given_at: now };
            previewed_tuples::put(&mut transaction, room, &row.tuple, &previewed).await?;
        }
        let count = previews::count_candidates(&mut transaction, room).await?;
        previews::begin_round(&mut transaction, room, count, again_at).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn serve(&mut self, pace: &Allowance, batch: Batch) -> Result<(), KeeperError> {
        let Batch { room_id: room, people, why, surety } = &batch;
        let served = match self.provide(pace, &batch).await {
            Err(error) if !matches!(error, KeeperError::Store(_)) => {
                // What stands in the outbox is the lane's to send.
                self.call_lane(room, people).await?;
                return Err(error);
            }
            served => served?,
        };
        let store = &self.lanes.taker.store;
        let mut transaction = store.begin().await?;
        let now = now_ms();
        match (why, served) {
            (Why::Marked, Served::Done(missed)) => {
                for one in people {
                    previews::settle(&mut transaction, room, &one.user_id, one.tick).await?;
                    if missed.contains(&one.user_id) {
                        put_off(&mut transaction, room, one, one.attempts.saturating_add(1))
                            .await?;
                    }
                }
                previews::once_more_unless_sure(&mut transaction, room, *surety, now).await?;
            }
            (Why::Marked, Served::NotYet) => {
                let due = now.saturating_add(UNREADY_WAITS);
                for one in people {
                    let whom = (one.user_id.as_ref(), one.attempts);
                    previews::mark(&mut transaction, room, whom, one.tick, due).await?;
                }
            }
            (Why::Round, Served::Done(missed)) => {
                for one in people.iter().filter(|one| missed.contains(&one.user_id)) {
                    put_off(&mut transaction, room, one, 0).await?;
                }
                match people.last() {
                    Some(last) => {
                        let done = i64::try_from(people.len()).unwrap_or(i64::MAX);
                        previews::advance_round(&mut transaction, room, (last.tick, done), now)
                            .await?;
                    }
                    None => previews::end_round(&mut transaction, room).await?,
                }
                previews::once_more_unless_sure(&mut transaction, room, *surety, now).await?;
            }
            (Why::Round, Served::NotYet) => {
                let due = now.saturating_add(UNREADY_WAITS);
                previews::put_round_off(&mut transaction, room, due).await?;
            }
            (_, Served::Nobody) => previews::forget(&mut transaction, room).await?,
        }
        Ok(transaction.commit().await?)
    }

    /// Gives people what they lack of a room.
    async fn provide(&mut self, pace: &Allowance, batch: &Batch) -> Result<Served, KeeperError> {
        let Batch { room_id, people, why, surety } = batch;
        let lanes = self.lanes.clone();
        let room = rooms::get(&mut *lanes.taker.store.read().await?, room_id).await?;
        let room = match room {
            Some(room) if room.membership == Membership::Join && !room.loaded => {
                return Ok(Served::NotYet);
            }
            Some(room) if room.membership == Membership::Join && room.state_encrypted => room,
            _ => return Ok(Served::Nobody),
        };
        if lanes.taker.rules.of(&room).noop || people.is_empty() {
            return Ok(Served::Done(BTreeSet::new()));
        }
        let users: BTreeSet<OwnedUserId> = people.iter().map(|one| one.user_id.clone()).collect();
        let device = &lanes.taker.device;
        device.track(users.iter().map(AsRef::as_ref)).await?;
        device.pump().await?;
        let unsettled: BTreeSet<OwnedUserId> =
            users.iter().filter(|user| !device.is_settled(user)).cloned().collect();
        // Asked before anything is read: what is sealed after this promises another round.
        if outbox::is_sealing(&mut *lanes.taker.store.read().await?, room_id).await? {
            return Ok(Served::NotYet);
        }
        let mut visit = Visit::new(&lanes, room, Some(users));
        let mut known = visit.know().await?;
        let sure = previews::surety(&mut *lanes.taker.store.read().await?, room_id).await?;
        if sure.is_none() || sure != *surety {
            // Who seems to be let in no more may be so all the same.
            known.previewers.retain(|one| one.standing.preview != PreviewPolicy::None);
        }
        let PreviewPlan { mut shares, retire } = decide_previews(&known, &visit.rules);
        if *why == Why::Round {
            let db = &mut *lanes.taker.store.read().await?;
            let given = previewed_tuples::of_room(db, room_id).await?;
            shares.retain(|share| is_given(&known, share, &given));
        }
        if !retire.is_empty() {
            self.retire(&visit.room, &retire).await?;
        }
        let keys: usize = shares.iter().map(|share| share.recipients.len()).sum();
        // The turn began with something to spend; what a batch costs beyond it is paid off before the next.
        let _ = pace.spend(keys, Instant::now());
        let held = shares.is_empty() || visit.share(&known, &shares).await?;
        let missed = self.note(visit, keys, unsettled).await?;
        self.recall_early(room_id, people).await?;
        Ok(if held { Served::Done(missed) } else { Served::NotYet })
    }

    /// Retires what is held by those who should not hold it, or by devices that are gone.
    async fn retire(
        &self,
        room: &RoomRow,
        retire: &[(String, crate::store::Retired)],
    ) -> Result<(), KeeperError> {
        let taker = &self.lanes.taker;
        let arrival = Arrival::live(now_ms(), taker.store.next_tick());
        let mut transaction = taker.store.begin().await?;
        let mut retired = 0;
        for (session, why) in retire {
            retired += sessions::retire(&mut transaction, session, *why, arrival.at).await?;
        }
        news::promise(taker, &mut transaction, &room.room_id, retired, arrival).await?;
        transaction.commit().await?;
        self.promised.notify_one();
        Ok(())
    }

    /// Notes what was delivered, and who has joined meanwhile: for him, a key that came so late may call for more.
    /// Returns who could not be reached.
    async fn note(
        &self,
        mut visit: Visit<'_>,
        keys: usize,
        mut missed: BTreeSet<OwnedUserId>,
    ) -> Result<BTreeSet<OwnedUserId>, KeeperError> {
        let taker = &self.lanes.taker;
        let mut counts = BTreeMap::from(Provided::ALL.map(|outcome| (outcome.as_str(), 0_u64)));
        let mut served = BTreeSet::new();
        for delivery in &visit.delivered {
            let outcome = if delivery.taken { Provided::Given } else { Provided::Refused };
            let devices = &delivery.detail.recipients;
            *counts.entry(outcome.as_str()).or_default() +=
                u64::try_from(devices.len()).unwrap_or(u64::MAX);
            served.extend(devices.iter().map(|(user, _)| user.clone()));
        }
        let sent: u64 = counts.values().sum();
        let unreachable = u64::try_from(keys).unwrap_or(u64::MAX).saturating_sub(sent);
        missed.extend(visit.unreachable.iter().map(|(user, _)| user.clone()));
        if !visit.unreachable.is_empty() {
            *counts.entry(Provided::Unreachable.as_str()).or_default() += unreachable;
        }
        let room_id = visit.room.room_id.clone();
        let mut transaction = taker.store.begin().await?;
        visit.note_delivered(&mut transaction).await?;
        let mut has_come = false;
        for user in &served {
            let member = rooms::get_member(&mut transaction, &room_id, user).await?;
            if member.is_some_and(|member| member.membership == Membership::Join) {
                let tick = taker.store.next_tick();
                marks::mark(&mut transaction, &room_id, Some(user), now_ms(), tick).await?;
                has_come = true;
            }
        }
        transaction.commit().await?;
        if has_come {
            self.promised.notify_one();
        }
        for (outcome, count) in counts {
            taker.metrics.space_provisioned(outcome, count);
        }
        Ok(missed)
    }

    /// A request may have overtaken the news that its sender may read the room: the lane answers it now.
    async fn recall_early(&self, room: &RoomId, people: &[Candidate]) -> Result<(), KeeperError> {
        let early = self.lanes.desk.unheard_of(room);
        let asked: Vec<&Candidate> =
            people.iter().filter(|one| early.contains(&one.user_id)).collect();
        if asked.is_empty() {
            return Ok(());
        }
        let store = &self.lanes.taker.store;
        let mut transaction = store.begin().await?;
        for one in asked {
            let tick = store.next_tick();
            marks::mark(&mut transaction, room, Some(&one.user_id), now_ms(), tick).await?;
        }
        transaction.commit().await?;
        self.promised.notify_one();
        Ok(())
    }

    async fn call_lane(&self, room: &RoomId, people: &[Candidate]) -> Result<(), KeeperError> {
        let Some(one) = people.first() else { return Ok(()) };
        let store = &self.lanes.taker.store;
        let mut transaction = store.begin().await?;
        let tick = store.next_tick();
        marks::mark(&mut transaction, room, Some(&one.user_id), now_ms(), tick).await?;
        transaction.commit().await?;
        self.promised.notify_one();
        Ok(())
    }
}

/// Whether a round gives everybody what is shared.
fn is_given(known: &Knowledge, share: &Share, given: &BTreeMap<StateTuple, Previewed>) -> bool {
    known.tuples.get(share.tuple).is_some_and(|view| {
        let session = view.sealed.as_ref().map(|sealed| &sealed.session_id);
        session.is_some() && given.get(&view.tuple).map(|given| &given.session_id) == session
    })
}

/// Promises to try somebody again who could not be reached.
async fn put_off(
    db: &mut sqlx::SqliteConnection,
    room: &RoomId,
    one: &Candidate,
    attempts: i64,
) -> Result<(), KeeperError> {
    let due = now_ms().saturating_add(unreachable_wait(attempts));
    Ok(previews::mark(db, room, (&one.user_id, attempts), one.tick, due).await?)
}
