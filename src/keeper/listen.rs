//! Hearing to-device messages, device lists and key counts over the homeserver's long poll.
//!
//! The key store commits what it takes in by itself. What follows from it stands in the keeper's commit
//! together with the new `since`; a kill between the two replays the same answer, which is harmless.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ruma::{OneTimeKeyAlgorithm, OwnedRoomId, OwnedUserId, UserId};
use tokio::sync::{Notify, mpsc::UnboundedReceiver};

use super::{
    KeeperError,
    asking::answers,
    clock::now_ms,
    ingest::Taker,
    inherited, keys,
    lane::Lanes,
    meeting::Newcomers,
    reaching::{cause_of, only},
    spaces::news,
};
use crate::{
    admin::{Readiness, Trouble, Troubles},
    homeserver::{Backoff, Homeserver, SyncSlice},
    store::{asking, ledger, marks, rooms, set_meta},
};

/// How long the homeserver may hold a poll open when there is nothing to say.
const POLL: Duration = Duration::from_secs(30);
/// Under which key the sync token is kept.
const SINCE: &str = "since";

/// Listens.
pub struct Listener {
    /// Takes in what concerns rooms.
    pub taker: Taker,
    /// Judges key requests.
    pub lanes: Lanes,
    /// The homeserver, spoken to as the keeper's device.
    pub homeserver: Homeserver,
    /// Told when something is promised.
    pub promised: Arc<Notify>,
    /// Who is being served.
    pub newcomers: Newcomers,
    /// Whether the homeserver answers.
    pub readiness: Readiness,
    /// Told when the keeper's own devices have changed.
    pub own_changed: Arc<Notify>,
}

impl Listener {
    /// Polls for ever, through every absence of the homeserver.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when a store fails, or the homeserver refuses the keeper for good.
    pub async fn run(&self) -> Result<(), KeeperError> {
        let mut since = self.taker.store.meta(SINCE).await?;
        let mut backoff = Backoff::new();
        loop {
            match self.poll(since.as_deref(), backoff.failures() > 0).await {
                Ok(next) => {
                    if backoff.failures() > 0 {
                        tracing::info!("the homeserver answers again");
                        self.readiness.regained("homeserver");
                        only(self.readiness.troubles(), None);
                        backoff.reset();
                        self.promised.notify_one();
                    }
                    since = Some(next);
                }
                Err(error) if error.is_unknown_device() => self.mend_device().await?,
                Err(error) if error.is_transient() => {
                    let wait = backoff
                        .next_delay(&mut rand::rng())
                        .max(error.retry_after().unwrap_or_default());
                    let trouble = error.of_homeserver().and_then(cause_of);
                    let trouble = trouble.unwrap_or(Trouble::Homeserver);
                    tracing::warn!(cause = trouble.cause(), mend = trouble.mend(), %error, ?wait,
                        "nothing is heard of the homeserver");
                    self.readiness.lost("homeserver");
                    only(self.readiness.troubles(), Some(trouble));
                    tokio::time::sleep(wait).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The homeserver has lost the device: it is made again, with the same id and the same keys.
    ///
    /// Recovery: a kill between the device and its keys leaves one without; the next start finds that and
    /// publishes them.
    async fn mend_device(&self) -> Result<(), KeeperError> {
        self.readiness.lost("device");
        let found = now_ms();
        tracing::error!(
            "the homeserver does not know the keeper's device any more; making it again"
        );
        let mut backoff = Backoff::new();
        loop {
            match self.make_device_again().await {
                Err(error) if error.is_transient() => {
                    let wait = backoff
                        .next_delay(&mut rand::rng())
                        .max(error.retry_after().unwrap_or_default());
                    tracing::warn!(%error, ?wait, "the keeper's device could not be made again yet");
                    tokio::time::sleep(wait).await;
                }
                done => {
                    done?;
                    self.readiness.regained("device");
                    note_lost_device(self.readiness.troubles(), found);
                    return Ok(());
                }
            }
        }
    }

    async fn make_device_again(&self) -> Result<(), KeeperError> {
        let device = &self.taker.device;
        self.homeserver.ensure_device(device.device_id(), "State Keeper").await?;
        Ok(device.republish().await?)
    }

    async fn poll(&self, since: Option<&str>, at_once: bool) -> Result<String, KeeperError> {
        // Without a token there is nothing to wait for; and that the homeserver is back is to be known at once.
        let timeout = if since.is_some() && !at_once { POLL } else { Duration::ZERO };
        let slice = self.homeserver.sync(since, timeout).await?;
        self.count_keys(&slice);
        let next = slice.next_batch.clone();
        self.lanes.heartbeat.hear(&slice, &self.taker.keeper, now_ms());
        let lacks_keys = self.lanes.heartbeat.lacks_keys(now_ms());
        self.readiness.troubles().set(Trouble::OneTimeKeys, lacks_keys, now_ms());
        let changed: Vec<OwnedUserId> = slice.device_lists.changed.clone();
        if slice.to_device.is_empty() {
            self.newcomers.serve_first(&changed).await;
        }
        let quiet = changed.is_empty() && slice.to_device.is_empty();
        let device = &self.taker.device;
        let awaited = asking::awaited(&mut *self.taker.store.read().await?).await?;
        let forwarded = device.open_forwarded(&slice, &awaited).await?;
        let received = device.receive(slice).await?;
        let forwarded = answers::take(&self.taker, forwarded, &received.forwarders).await?;

        let mut transaction = self.taker.store.begin().await?;
        set_meta(&mut transaction, SINCE, &next).await?;
        if changed.contains(&self.taker.keeper) {
            self.own_changed.notify_one();
        }
        for user in &changed {
            mark_rooms_of(&self.taker, &mut transaction, user).await?;
        }
        let forwarded_now: Vec<_> = forwarded
            .iter()
            .map(|session| (session.room_id.clone(), session.session_id.clone()))
            .collect();
        let sessions = received.sessions.into_iter().chain(forwarded).collect();
        keys::note(&self.taker, &mut transaction, sessions).await?;
        for (room, session) in received.keys.into_iter().chain(forwarded_now) {
            self.taker.read_session(&mut transaction, &room, &session).await?;
        }
        for (room, sender) in received.bundles {
            inherited::told(&self.taker, &mut transaction, &room, &sender).await?;
        }
        for (user, device) in received.mended {
            ledger::doubt(&self.taker.store, &mut transaction, &user, &device).await?;
            mark_rooms_of(&self.taker, &mut transaction, &user).await?;
        }
        let asked = self.lanes.hear(&mut transaction, &received.key_requests).await?;
        transaction.commit().await?;
        self.taker.spaces.ring();
        self.lanes.judge_requests(asked).await?;
        if !quiet {
            self.promised.notify_one();
        }
        let device = self.taker.device.clone();
        tokio::spawn(async move {
            if let Err(error) = device.pump().await {
                tracing::warn!(%error, "the device's own requests wait");
            }
        });
        Ok(next)
    }

    /// One algorithm alone is counted: the homeserver must not choose the names of time series.
    fn count_keys(&self, slice: &SyncSlice) {
        let counts = &slice.one_time_keys_counts;
        if counts.is_empty() {
            return;
        }
        let left = counts.get(&OneTimeKeyAlgorithm::SignedCurve25519).copied().unwrap_or_default();
        let left = i64::try_from(u64::from(left)).unwrap_or(i64::MAX);
        self.taker.metrics.set_one_time_keys(&BTreeMap::from([("signed_curve25519", left)]));
    }
}

/// The homeserver had lost the keeper's device, as was found at `found` (milliseconds), and it was made again.
pub(super) fn note_lost_device(troubles: &Troubles, found: i64) {
    troubles.was(Trouble::Device, found, now_ms());
    tracing::error!(mend = Trouble::Device.mend(), "{}", Trouble::Device.cause());
}

/// Promises to look at every room of `user`: his devices changed.
async fn mark_rooms_of(
    taker: &Taker,
    db: &mut sqlx::SqliteConnection,
    user: &UserId,
) -> Result<(), KeeperError> {
    if user == taker.keeper {
        return Ok(());
    }
    let rooms: BTreeSet<OwnedRoomId> = rooms::rooms_of(db, user).await?.into_iter().collect();
    for room in rooms {
        marks::mark(db, &room, Some(user), now_ms(), taker.store.next_tick()).await?;
    }
    news::come(taker, db, user, taker.store.next_tick(), now_ms()).await
}

/// Looks again at the rooms of users whose servers answered after somebody stopped waiting for them.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn hear_late(
    taker: Taker,
    mut late: UnboundedReceiver<Vec<OwnedUserId>>,
    promised: Arc<Notify>,
) -> Result<(), KeeperError> {
    while let Some(users) = late.recv().await {
        let mut transaction = taker.store.begin().await?;
        for user in &users {
            mark_rooms_of(&taker, &mut transaction, user).await?;
        }
        transaction.commit().await?;
        taker.spaces.ring();
        promised.notify_one();
    }
    Ok(())
}
