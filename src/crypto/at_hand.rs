//! Devices and identities as the key store has them, kept at hand: the machine reads the same few again and again
//! on a newcomer's way, and what is not written yet could not be read from the disk at all.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use matrix_sdk_crypto::{
    DeviceData, UserIdentityData,
    store::types::{DeviceChanges, IdentityChanges},
};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

/// Of how many users at most.
const MOST_USERS: usize = 256;

/// A user's devices and identity.
#[derive(Clone, Debug, Default)]
pub(super) struct Person {
    /// The user's devices.
    pub(super) devices: HashMap<OwnedDeviceId, DeviceData>,
    /// As JSON: the machine's copies share what can be changed in them, and may be changed without being saved.
    identity: Option<Vec<u8>>,
}

impl Person {
    /// As they were read. An identity that is no JSON is none that can be kept.
    pub(super) fn new(
        devices: HashMap<OwnedDeviceId, DeviceData>,
        identity: Option<&UserIdentityData>,
    ) -> Option<Self> {
        let identity = identity.map(serde_json::to_vec).transpose().ok()?;
        Some(Self { devices, identity })
    }

    /// The identity; `Err` when it has to be read again.
    pub(super) fn identity(&self) -> Result<Option<UserIdentityData>, serde_json::Error> {
        self.identity.as_deref().map(serde_json::from_slice).transpose()
    }
}

/// Users with their devices and identities.
#[derive(Debug, Default)]
pub(super) struct AtHand {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    people: HashMap<OwnedUserId, Person>,
    /// How many changes there were.
    generation: u64,
}

impl AtHand {
    /// What `read` finds in a user who is at hand, or else the generation that [`AtHand::put`] wants.
    pub(super) fn get<T>(&self, user: &UserId, read: impl FnOnce(&Person) -> T) -> Result<T, u64> {
        let inner = self.lock();
        inner.people.get(user).map(read).ok_or(inner.generation)
    }

    /// Keeps what was read of `user` at `generation`, unless something has changed since.
    pub(super) fn put(&self, user: &UserId, person: Person, generation: u64) {
        let mut inner = self.lock();
        if inner.generation != generation {
            return;
        }
        if inner.people.len() >= MOST_USERS {
            inner.people.clear();
        }
        inner.people.insert(user.to_owned(), person);
    }

    /// Brings those who are at hand up to date with what the key store was told.
    pub(super) fn apply(&self, devices: &DeviceChanges, identities: &IdentityChanges) {
        let mut inner = self.lock();
        inner.generation = inner.generation.wrapping_add(1);
        for device in devices.new.iter().chain(&devices.changed) {
            if let Some(person) = inner.people.get_mut(device.user_id()) {
                person.devices.insert(device.device_id().to_owned(), device.clone());
            }
        }
        for device in &devices.deleted {
            if let Some(person) = inner.people.get_mut(device.user_id()) {
                person.devices.remove(device.device_id());
            }
        }
        for identity in identities.new.iter().chain(&identities.changed) {
            let Some(person) = inner.people.get_mut(identity.user_id()) else { continue };
            match serde_json::to_vec(identity) {
                Ok(json) => person.identity = Some(json),
                Err(_) => drop(inner.people.remove(identity.user_id())),
            }
        }
    }

    /// Forgets users of whom the disk knows something new.
    pub(super) fn forget(&self, changed: &[OwnedUserId]) {
        if changed.is_empty() {
            return;
        }
        let mut inner = self.lock();
        inner.generation = inner.generation.wrapping_add(1);
        for user in changed {
            inner.people.remove(user);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
