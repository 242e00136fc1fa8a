//! Lanes: in order within a room, rooms side by side, bounded.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::OwnedRoomId;
use tokio::{sync::Notify, task::JoinSet};

use super::{KeeperError, clock::now_ms, lane::Lanes, rooms::put_off};
use crate::{homeserver::Backoff, store::marks};

/// How many rooms are visited at a time.
const AT_A_TIME: usize = 8;
/// How long a room waits whose trouble time alone does not mend, in milliseconds.
const TROUBLED_WAITS: i64 = 60_000;

/// Visits rooms whose promises are due, until `stop` is notified; then lets those under way end.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn run(
    lanes: Lanes,
    promised: Arc<Notify>,
    stop: Arc<Notify>,
) -> Result<(), KeeperError> {
    let mut scheduler = Scheduler {
        lanes,
        under_way: BTreeSet::new(),
        resting: BTreeMap::new(),
        visits: JoinSet::new(),
    };
    loop {
        let notified = promised.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        let next = scheduler.start_due().await?;
        tokio::select! {
            () = stop.notified() => break,
            () = &mut notified => {}
            () = tokio::time::sleep(next) => {}
            Some(ended) = scheduler.visits.join_next() => scheduler.end(ended).await?,
        }
    }
    while let Some(ended) = scheduler.visits.join_next().await {
        scheduler.end(ended).await?;
    }
    Ok(())
}

/// One of each in turn: those who ask do not hold up those who are promised something, nor the other way round.
fn in_turn(promised: Vec<OwnedRoomId>, asked: Vec<OwnedRoomId>) -> Vec<OwnedRoomId> {
    let mut rooms = Vec::with_capacity(promised.len() + asked.len());
    let (mut promised, mut asked) = (promised.into_iter(), asked.into_iter());
    loop {
        let pair = (promised.next(), asked.next());
        if pair == (None, None) {
            return rooms;
        }
        rooms.extend(pair.0.into_iter().chain(pair.1));
    }
}

type Ended = Result<(OwnedRoomId, Result<(), KeeperError>), tokio::task::JoinError>;

struct Scheduler {
    lanes: Lanes,
    under_way: BTreeSet<OwnedRoomId>,
    /// Rooms that wait because the homeserver was away, until when.
    resting: BTreeMap<OwnedRoomId, (Instant, Backoff)>,
    visits: JoinSet<(OwnedRoomId, Result<(), KeeperError>)>,
}

impl Scheduler {
    /// Starts as many visits as may run. Returns how long to wait for the next one to fall due.
    async fn start_due(&mut self) -> Result<Duration, KeeperError> {
        let now = Instant::now();
        let mut busy = self.under_way.clone();
        busy.extend(
            self.resting
                .iter()
                .filter(|(_, (until, _))| *until > now)
                .map(|(room, _)| room.clone()),
        );
        let db = &mut *self.lanes.taker.store.read().await?;
        let at = now_ms();
        let (due, next) = marks::due_rooms(db, at, &busy).await?;
        let mut asked = self.lanes.rooms_with_requests();
        asked.retain(|room| !busy.contains(room));
        for room in in_turn(due, asked) {
            if self.under_way.len() >= AT_A_TIME {
                break;
            }
            if !self.under_way.insert(room.clone()) {
                continue;
            }
            let lanes = self.lanes.clone();
            self.visits.spawn(async move {
                let done = lanes.visit(&room).await;
                (room, done)
            });
        }
        let mut wait = next
            .and_then(|next| u64::try_from(next.saturating_sub(at)).ok())
            .map_or(Duration::from_secs(60), Duration::from_millis);
        if let Some(asked) = self.lanes.desk.wait(Instant::now(), at) {
            wait = wait.min(asked);
        }
        for (until, _) in self.resting.values() {
            if *until > now {
                wait = wait.min(until.saturating_duration_since(now));
            }
        }
        Ok(wait.clamp(Duration::from_millis(1), Duration::from_secs(60)))
    }

    async fn end(&mut self, ended: Ended) -> Result<(), KeeperError> {
        let Ok((room, done)) = ended else {
            // A visit that panicked is a defect; its promises stand, and the next start keeps them.
            tracing::error!("a visit to a room ended unexpectedly");
            return Ok(());
        };
        self.under_way.remove(&room);
        let Err(error) = done else {
            self.resting.remove(&room);
            return Ok(());
        };
        if let KeeperError::Store(_) | KeeperError::Renewal = error {
            return Err(error);
        }
        if error.is_transient() {
            let mut backoff =
                self.resting.remove(&room).map_or_else(Backoff::new, |(_, backoff)| backoff);
            let wait =
                backoff.next_delay(&mut rand::rng()).max(error.retry_after().unwrap_or_default());
            tracing::warn!(%room, %error, ?wait, "a room waits for the homeserver");
            self.resting.insert(room, (Instant::now() + wait, backoff));
            return Ok(());
        }
        tracing::error!(%room, %error, "a room could not be kept; trying again in a minute");
        let mut transaction = self.lanes.taker.store.begin().await?;
        put_off(&mut transaction, &room, now_ms().saturating_add(TROUBLED_WAITS)).await?;
        Ok(transaction.commit().await?)
    }
}
