//! Rooms that administrators have the keeper make: with encrypted state from their birth, or in place of another room.
//!
//! - [`order`] takes an order down, with all that is wanted;
//! - [`making`] has the homeserver create the room, and looks at what came of it;
//! - [`filling`] has its state sealed, says what stands in plain, and invites;
//! - [`upgrade`] plans what becomes of a room that is moved, [`gathering`] reads what stands in it;
//! - [`moving`] does what a new room alone does not need;
//! - [`link`] has spaces and room say that they belong together;
//! - [`carrying`] compares the old room with the new one once it is closed, and [`pictures`] encrypts what it shows.
//!
//! A sealed payload and its key are bound to the room's id, so nothing can be sealed before the room exists. It is
//! created with the flag in its first `m.room.encryption` and without anything that is to be hidden, and nobody can
//! join before all of that is sealed.
//!
//! Recovery: what is wanted stands in the database with its step, and each step is done again from where it was noted.
//! Creating a room has no transaction id. That it is asked for is noted before, and the commission's id stands in the
//! creation content: whoever may have lost the answer looks among the joined rooms for the room that has it, several
//! times, because the homeserver may still be at it, and asks again when there is none. Should two rooms have come of
//! it after all, the keeper leaves the one that is not used: nobody was ever invited there. A room that the homeserver
//! did not bring to its end is left, too, and another one is made. What is to be sealed becomes the tuple's value in
//! the store and goes the way of every other value. State in plain is said again as it was, which makes no new event
//! while it stands, and until people are let in nobody else can have changed it. Who is invited or joined already is
//! not invited again.

mod carrying;
mod filling;
mod gathering;
mod link;
mod making;
mod moving;
mod order;
mod pictures;
mod upgrade;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::OwnedUserId;
use sqlx::SqliteConnection;
use tokio::{sync::Notify, task::JoinSet};

pub use self::upgrade::UpgradePlan;
pub(super) use self::{order::order, upgrade::plan};
use super::{KeeperError, lane::Lanes, places};
use crate::{
    homeserver::Backoff,
    store::{Blueprint, CommissionRow, Step, commissions},
};

/// Where the commission's id stands in the creation content of its room.
pub const CREATION_FIELD: &str = "io.statekeeper.commission";
/// How often it is looked for new commissions.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How many are worked on at a time.
const AT_A_TIME: usize = 4;
/// How long one waits that an administrator has to mend something for.
const STUCK_WAITS: Duration = Duration::from_secs(5);
/// How long something is waited for at first that comes by itself.
const SOON: Duration = Duration::from_millis(50);
/// So many looks are as far apart before they are twice as far.
const LOOKS_AT_A_PACE: u32 = 20;
/// How often that is.
const MOST_PACES: u32 = 5;
/// Who waits as long makes room for others meanwhile.
const LONG: Duration = Duration::from_secs(1);

/// Works on commissions.
pub(super) struct Commissioner {
    /// Keeps the rooms that come of it.
    pub(super) lanes: Lanes,
    /// Told of rooms to decide upon.
    pub(super) promised: Arc<Notify>,
}

/// One commission at work. What is not in the store may be forgotten.
struct Work {
    lanes: Lanes,
    promised: Arc<Notify>,
    id: String,
    /// What is wanted, once it was read: nobody else changes it.
    wanted: Option<Arc<Blueprint>>,
    /// How often it was looked for something that may still come.
    looks: u32,
    /// How often something was tried that need not come to anything.
    tries: u32,
    /// Since when this step is being done.
    since: Instant,
    /// Whether nothing is left to be carried over.
    is_compared: bool,
    /// Whose invites nobody delivers: they come last.
    late: BTreeSet<OwnedUserId>,
    backoff: Backoff,
}

/// What came of working on a step.
enum Went {
    /// It may go on at once.
    On,
    /// Something is awaited that comes by itself.
    Waits(Duration),
    /// Something has to be mended, and what.
    Stuck(String),
}

/// A work that gave its place to others: for how long it rests, if it is not at its end.
type Rested = (Work, Result<Option<Duration>, KeeperError>);

impl Commissioner {
    /// Works on commissions for ever.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub(super) async fn run(self) -> Result<(), KeeperError> {
        let mut under_way: BTreeSet<String> = BTreeSet::new();
        let mut resting: BTreeMap<String, (Instant, Work)> = BTreeMap::new();
        let mut works: JoinSet<Rested> = JoinSet::new();
        loop {
            let open = commissions::open(&mut *self.lanes.taker.store.read().await?).await?;
            resting.retain(|id, _| open.contains(id));
            for id in open {
                let rests = resting.get(&id).is_some_and(|(until, _)| *until > Instant::now());
                if works.len() >= AT_A_TIME || rests || !under_way.insert(id.clone()) {
                    continue;
                }
                let work = resting.remove(&id).map_or_else(|| self.work(&id), |(_, work)| work);
                works.spawn(work.run());
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                Some(ended) = works.join_next() => {
                    // A work that panicked is a defect; it is taken up by the next start.
                    let Ok((work, done)) = ended else {
                        tracing::error!("work on a commission ended unexpectedly");
                        continue;
                    };
                    under_way.remove(&work.id);
                    if let Some(rest) = done? {
                        resting.insert(work.id.clone(), (Instant::now() + rest, work));
                    }
                }
            }
        }
    }

    fn work(&self, id: &str) -> Work {
        Work {
            lanes: self.lanes.clone(),
            promised: self.promised.clone(),
            id: id.to_owned(),
            wanted: None,
            looks: 0,
            tries: 0,
            since: Instant::now(),
            is_compared: false,
            late: BTreeSet::new(),
            backoff: Backoff::new(),
        }
    }
}

impl Work {
    /// Works on until the commission is at its end, or has to wait for long.
    async fn run(mut self) -> Rested {
        let rest = self.work_on().await;
        (self, rest)
    }

    async fn work_on(&mut self) -> Result<Option<Duration>, KeeperError> {
        loop {
            let Some(row) = self.row().await?.filter(|row| !row.step.is_end()) else {
                return Ok(None);
            };
            match self.step(&row).await {
                Ok(Went::On) => self.backoff.reset(),
                Ok(Went::Waits(wait)) if wait < LONG => tokio::time::sleep(wait).await,
                Ok(Went::Waits(wait)) => return Ok(Some(wait)),
                Ok(Went::Stuck(trouble)) => {
                    self.tell(&row, &trouble).await?;
                    return Ok(Some(STUCK_WAITS));
                }
                Err(KeeperError::Store(error)) => return Err(KeeperError::Store(error)),
                Err(error) => {
                    self.tell(&row, &error.to_string()).await?;
                    let wait = self.backoff.next_delay(&mut rand::rng());
                    return Ok(Some(wait.max(error.retry_after().unwrap_or_default())));
                }
            }
        }
    }

    /// Waits for something that comes by itself: not for long at first.
    fn comes(&mut self) -> Went {
        let pace = (self.looks / LOOKS_AT_A_PACE).min(MOST_PACES);
        self.looks = self.looks.saturating_add(1);
        Went::Waits(SOON * 2_u32.saturating_pow(pace))
    }

    async fn step(&mut self, row: &CommissionRow) -> Result<Went, KeeperError> {
        if self.lanes.taker.rules.is_noop() {
            return Ok(Went::Stuck(
                "noop is on: nothing is sent until `statekeeper noop off`".to_owned(),
            ));
        }
        let Some(wanted) = self.wanted().await? else { return self.go_on(row, Step::Failed).await };
        if row.step == Step::Create {
            return self.create(row, &wanted).await;
        }
        let Some(room) = row.room_id.clone() else { return self.go_on(row, Step::Create).await };
        match row.step {
            Step::Load => self.load(row, &room).await,
            Step::Picture => self.picture(row, &wanted).await,
            Step::Address => self.address(row, &room, &wanted).await,
            Step::Tombstone => self.tombstone(row, &room, &wanted).await,
            Step::Carry => self.carry(row, &room, &wanted).await,
            Step::Link => self.link(row, &room, &wanted).await,
            Step::Seal => self.seal(row, &room, &wanted).await,
            Step::Open => self.open(row, &room, &wanted).await,
            Step::Invite => self.invite(row, &room, &wanted).await,
            Step::Create | Step::Done | Step::Failed => self.next(row).await,
        }
    }

    async fn row(&self) -> Result<Option<CommissionRow>, KeeperError> {
        Ok(commissions::get(&mut *self.lanes.taker.store.read().await?, &self.id).await?)
    }

    async fn wanted(&mut self) -> Result<Option<Arc<Blueprint>>, KeeperError> {
        if self.wanted.is_none() {
            let store = &self.lanes.taker.store;
            let found = commissions::wanted(store, &mut *store.read().await?, &self.id).await?;
            self.wanted = found.map(Arc::new);
        }
        Ok(self.wanted.clone())
    }

    /// Something else is wanted from now on.
    async fn want(&mut self, wanted: Blueprint) -> Result<(), KeeperError> {
        let store = &self.lanes.taker.store;
        let mut transaction = store.begin().await?;
        commissions::put_wanted(store, &mut transaction, &self.id, &wanted).await?;
        transaction.commit().await?;
        self.wanted = Some(Arc::new(wanted));
        Ok(())
    }

    /// The step is done.
    async fn next(&mut self, row: &CommissionRow) -> Result<Went, KeeperError> {
        self.go_on(row, row.step.next(row.kind)).await
    }

    async fn go_on(&mut self, row: &CommissionRow, step: Step) -> Result<Went, KeeperError> {
        (self.looks, self.tries, self.since) = (0, 0, Instant::now());
        let mut transaction = self.lanes.taker.store.begin().await?;
        go_on(&self.lanes, &mut transaction, row, step).await?;
        transaction.commit().await?;
        if step.is_end() {
            self.promised.notify_one();
        }
        let room = row.room_id.as_ref().map(|room| room.as_str());
        tracing::info!(commission = self.id, room, step = step.as_str(), "a commission goes on");
        Ok(Went::On)
    }

    async fn progress(&self, done: usize, total: usize) -> Result<(), KeeperError> {
        let mut transaction = self.lanes.taker.store.begin().await?;
        commissions::progress(&mut transaction, &self.id, done, total).await?;
        Ok(transaction.commit().await?)
    }

    /// Notes what the commission waits for, once.
    async fn tell(&self, row: &CommissionRow, trouble: &str) -> Result<(), KeeperError> {
        if row.trouble.as_deref() == Some(trouble) {
            return Ok(());
        }
        tracing::warn!(
            commission = self.id,
            step = row.step.as_str(),
            trouble,
            "a commission waits"
        );
        let mut transaction = self.lanes.taker.store.begin().await?;
        commissions::wait(&mut transaction, &self.id, Some(trouble)).await?;
        Ok(transaction.commit().await?)
    }

    /// Notes something that could not be done and does not hold the rest up.
    async fn note(&self, note: &str) -> Result<(), KeeperError> {
        tracing::warn!(commission = self.id, note, "a part of a commission could not be done");
        let mut transaction = self.lanes.taker.store.begin().await?;
        commissions::note(&mut transaction, &self.id, note).await?;
        Ok(transaction.commit().await?)
    }
}

/// Goes on to a step. At the end the room is told by what stands there, and its policy may be another one.
async fn go_on(
    lanes: &Lanes,
    db: &mut SqliteConnection,
    row: &CommissionRow,
    step: Step,
) -> Result<(), KeeperError> {
    let ends = row.room_id.as_ref().filter(|_| step.is_end());
    let before = places::rules_of(&lanes.taker, db, ends).await?;
    commissions::go_on(db, &row.id, step, super::clock::now_ms()).await?;
    places::mark_changed(&lanes.taker, db, before).await?;
    Ok(())
}
