//! What the key store was told and has not written yet.
//!
//! Writing is waiting for the disk, and most of what the machine saves on a newcomer's way needs none of that: it is
//! read from memory, and after a kill it is asked for again. So it is put off, and goes to the disk while the
//! homeserver is being asked, or together with what has to be there.
//!
//! It is written in the order in which it came, and all of it or nothing: the disk always holds what the machine
//! had at some earlier moment, as after a kill at that moment. Whoever lets something out that would not bear this
//! asks for [`PutOff::write`] first. What may be lost with a kill, and why:
//!
//! - devices, identities, and that these are up to date: the homeserver is asked for them again;
//! - that somebody's devices are of interest: `KeeperDevice::track` returns after it is written;
//! - a new Olm session that nothing was encrypted with: its one-time key is lost, and another one is claimed;
//! - a ratchet that has moved on: no message of its own is in the outbox before it is written.
//!
//! While a sync is taken in, the sessions with whoever sent its messages are left alone ([`PutOff::hold`]): one that has
//! moved past a message must not be on the disk before the key that was in the message.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use matrix_sdk_crypto::{
    DeviceData, UserIdentityData,
    olm::Session,
    store::{
        CryptoStore,
        types::{Changes, DeviceChanges, IdentityChanges},
    },
};
use matrix_sdk_sqlite::SqliteCryptoStore;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use tokio::sync::watch;

type Result<T> = std::result::Result<T, <SqliteCryptoStore as CryptoStore>::Error>;

/// How many sessions wait for somebody to ask before they are written unasked.
const MOST_SESSIONS: usize = 256;

/// Changes of which the later ones replace the earlier ones.
#[derive(Clone, Debug, Default)]
struct Batch {
    /// By the other device's key, and by their ids.
    sessions: HashMap<String, BTreeMap<String, Session>>,
    /// Each with whether it is there: deleted ones have to be named, too.
    devices: HashMap<OwnedUserId, BTreeMap<OwnedDeviceId, (DeviceData, bool)>>,
    identities: HashMap<OwnedUserId, UserIdentityData>,
    /// Whether each has to be asked for.
    tracked: BTreeMap<OwnedUserId, bool>,
}

/// The two are apart so that what is told during a write is not taken for written.
#[derive(Debug, Default)]
struct Batches {
    /// What is being written, or could not be.
    writing: Batch,
    waiting: Batch,
}

/// A key store with what it has not written yet.
#[derive(Debug)]
pub(super) struct PutOff {
    store: SqliteCryptoStore,
    batches: Mutex<Batches>,
    one_at_a_time: tokio::sync::Mutex<()>,
    /// The keys of the devices whose sessions are not to be written now.
    held: watch::Sender<HashSet<String>>,
}

/// Until this is dropped, the sessions with some devices are not written.
#[derive(Debug)]
pub(super) struct Hold<'a>(&'a PutOff);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.held.send_replace(HashSet::new());
    }
}

impl PutOff {
    /// With nothing to write.
    pub(super) fn new(store: SqliteCryptoStore) -> Self {
        Self {
            store,
            batches: Mutex::default(),
            one_at_a_time: tokio::sync::Mutex::default(),
            held: watch::Sender::default(),
        }
    }

    /// Leaves the sessions with these devices alone, named by their Curve25519 keys in base64. One caller at a time.
    /// Who holds them writes them with [`PutOff::write_before`], among the changes.
    pub(super) async fn hold(&self, sender_keys: HashSet<String>) -> Hold<'_> {
        // A write that has begun before is over before the first message is decrypted.
        let _one_at_a_time = self.one_at_a_time.lock().await;
        self.held.send_replace(sender_keys);
        Hold(self)
    }

    /// Takes changes over that may wait. Returns whether they should be written soon: sessions should not, because
    /// they are about to be used, and to be written with that.
    pub(super) fn add(
        &self,
        sessions: Vec<Session>,
        devices: DeviceChanges,
        identities: IdentityChanges,
    ) -> bool {
        let waiting = &mut self.lock().waiting;
        for session in sessions {
            let of_device = waiting.sessions.entry(session.sender_key().to_base64()).or_default();
            of_device.insert(session.session_id().to_owned(), session);
        }
        let DeviceChanges { new, changed, deleted } = devices;
        let there = new.into_iter().chain(changed).map(|device| (device, true));
        for (device, is_there) in there.chain(deleted.into_iter().map(|device| (device, false))) {
            let of_user = waiting.devices.entry(device.user_id().to_owned()).or_default();
            of_user.insert(device.device_id().to_owned(), (device, is_there));
        }
        for identity in identities.new.into_iter().chain(identities.changed) {
            waiting.identities.insert(identity.user_id().to_owned(), identity);
        }
        waiting.sessions.len() > MOST_SESSIONS
            || !waiting.devices.is_empty()
            || !waiting.identities.is_empty()
    }

    /// Takes over whose devices are of interest, and whether they have to be asked for.
    pub(super) fn track(&self, users: &[(&UserId, bool)]) {
        let users = users.iter().map(|(user, dirty)| ((*user).to_owned(), *dirty));
        self.lock().waiting.tracked.extend(users);
    }

    /// Whether something about `user` is not on the disk yet.
    pub(super) fn concerns(&self, user: &UserId) -> bool {
        let batches = self.lock();
        batches
            .both()
            .any(|batch| batch.devices.contains_key(user) || batch.identities.contains_key(user))
    }

    /// Returns once everything that was told before is on the disk, but for sessions that are held: whether there were
    /// any.
    pub(super) async fn write(&self) -> Result<bool> {
        if self.lock().both().all(Batch::is_empty) {
            return Ok(false);
        }
        let _one_at_a_time = self.one_at_a_time.lock().await;
        self.write_all().await
    }

    /// Returns once everything that was told before is on the disk. The machine must not be waiting for the caller:
    /// whoever holds sessions needs it.
    pub(super) async fn write_held_too(&self) -> Result<()> {
        // From before the writing on, so that what is let go meanwhile is heard of.
        let mut held = self.held.subscribe();
        while self.write().await? {
            // The sender lives as long as `self`, so that this ends with a change only.
            let _ = held.changed().await;
        }
        Ok(())
    }

    /// Writes `changes`, which may not wait, after what was told before.
    pub(super) async fn write_before(
        &self,
        changes: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        self.write_all().await?;
        changes.await
    }

    /// Returns whether sessions were left out because they are held.
    async fn write_all(&self) -> Result<bool> {
        // Nobody begins to hold one while `one_at_a_time` is taken.
        let held = self.held.borrow().clone();
        let (batch, left_out) = {
            let mut batches = self.lock();
            let later = std::mem::take(&mut batches.waiting);
            batches.writing.append(later);
            let Batches { writing, waiting } = &mut *batches;
            waiting.sessions = writing.sessions.extract_if(|key, _| held.contains(key)).collect();
            (writing.clone(), !waiting.sessions.is_empty())
        };
        if batch.is_empty() {
            return Ok(left_out);
        }
        let Batch { tracked, .. } = &batch;
        let tracked: Vec<(&UserId, bool)> =
            tracked.iter().map(|(user, dirty)| (user.as_ref(), *dirty)).collect();
        let changes = batch.changes();
        if !changes.is_empty() {
            self.store.save_changes(changes).await?;
        }
        // After the devices: who stands there as known is not asked for again.
        if !tracked.is_empty() {
            self.store.save_tracked_users(&tracked).await?;
        }
        self.lock().writing = Batch::default();
        Ok(left_out)
    }

    fn lock(&self) -> MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batches {
    fn both(&self) -> impl Iterator<Item = &Batch> {
        [&self.writing, &self.waiting].into_iter()
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.sessions.is_empty()
            && self.devices.is_empty()
            && self.identities.is_empty()
            && self.tracked.is_empty()
    }

    /// Takes in what came later.
    fn append(&mut self, later: Self) {
        for (sender_key, sessions) in later.sessions {
            self.sessions.entry(sender_key).or_default().extend(sessions);
        }
        for (user, devices) in later.devices {
            self.devices.entry(user).or_default().extend(devices);
        }
        self.identities.extend(later.identities);
        self.tracked.extend(later.tracked);
    }

    /// A session is written as it is at that moment, which may be later than when it was told, and never earlier.
    fn changes(&self) -> Changes {
        let mut changes = Changes {
            sessions: self.sessions.values().flat_map(BTreeMap::values).cloned().collect(),
            ..Changes::default()
        };
        changes.identities.changed = self.identities.values().cloned().collect();
        for (device, is_there) in self.devices.values().flat_map(BTreeMap::values).cloned() {
            let list = match is_there {
                true => &mut changes.devices.changed,
                false => &mut changes.devices.deleted,
            };
            list.push(device);
        }
        changes
    }
}
