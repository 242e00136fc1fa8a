//! Users with their devices, kept at hand: a decision about a room of thousands reads all of them, again and again,
//! and each costs several reads of the key store.
//!
//! What stands here is what the key store says. It is forgotten when the store is told of a change, and nothing
//! enters that was read before the newest change.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use matrix_sdk_crypto::store::types::Changes;
use ruma::{OwnedUserId, UserId};

use super::device::KnownUser;

/// Of how many users at most.
const MOST_USERS: usize = 8192;

/// Users with their devices, by user id.
#[derive(Debug, Default)]
pub(super) struct KnownUsers {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_user: HashMap<OwnedUserId, Arc<KnownUser>>,
    /// Whose devices are known as they are: the homeserver was asked since it last told of a change.
    settled: HashSet<OwnedUserId>,
    /// How many changes there were.
    generation: u64,
}

impl KnownUsers {
    /// What is known of `user` where it is at hand, or else the generation that [`KnownUsers::put`] wants.
    pub(super) fn get(&self, user: &UserId) -> Result<Arc<KnownUser>, u64> {
        let inner = self.lock();
        inner.by_user.get(user).cloned().ok_or(inner.generation)
    }

    /// Keeps what was read of `user` at `generation`, unless something has changed since.
    pub(super) fn put(&self, user: &UserId, known: Arc<KnownUser>, generation: u64) {
        let mut inner = self.lock();
        if inner.generation != generation {
            return;
        }
        if inner.by_user.len() >= MOST_USERS {
            inner.by_user.clear();
        }
        inner.by_user.insert(user.to_owned(), known);
    }

    /// Forgets everybody of whom the key store has just been told something.
    pub(super) fn forget(&self, changed: &[OwnedUserId]) {
        if changed.is_empty() {
            return;
        }
        let mut inner = self.lock();
        inner.generation = inner.generation.wrapping_add(1);
        for user in changed {
            inner.by_user.remove(user);
        }
    }

    /// Notes of whom the device lists are tracked, and whether they are out of date.
    pub(super) fn track<'a>(&self, users: impl IntoIterator<Item = (&'a UserId, bool)>) {
        let mut inner = self.lock();
        for (user, outdated) in users {
            if outdated {
                inner.settled.remove(user);
            } else {
                inner.settled.insert(user.to_owned());
            }
        }
    }

    /// Whether a device of `user` that is not known does not exist.
    pub(super) fn is_settled(&self, user: &UserId) -> bool {
        self.lock().settled.contains(user)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The users whose devices, or the identity that signs them, change with these.
pub(super) fn users_of(changes: &Changes) -> Vec<OwnedUserId> {
    let devices = &changes.devices;
    let devices = devices.new.iter().chain(&devices.changed).chain(&devices.deleted);
    let identities = changes.identities.new.iter().chain(&changes.identities.changed);
    devices
        .map(|device| device.user_id().to_owned())
        .chain(identities.map(|identity| identity.user_id().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn nothing() -> Arc<KnownUser> {
        Arc::new(KnownUser { devices: Vec::new(), master_key: None })
    }

    #[test]
    fn what_changed_is_read_anew() {
        let known = KnownUsers::default();
        let (alice, bob) = (user_id!("@alice:localhost"), user_id!("@bob:localhost"));
        let generation = known.get(alice).unwrap_err();
        known.put(alice, nothing(), generation);
        known.put(bob, nothing(), generation);
        assert!(known.get(alice).is_ok());
        known.forget(&[alice.to_owned()]);
        assert!(known.get(alice).is_err());
        assert!(known.get(bob).is_ok());
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept() {
        let known = KnownUsers::default();
        let alice = user_id!("@alice:localhost");
        let generation = known.get(alice).unwrap_err();
        known.forget(&[alice.to_owned()]);
        known.put(alice, nothing(), generation);
        assert!(known.get(alice).is_err());
    }

    #[test]
    fn a_user_is_settled_between_the_answer_and_the_next_change() {
        let known = KnownUsers::default();
        let alice = user_id!("@alice:localhost");
        assert!(!known.is_settled(alice), "nobody asked for her devices");
        known.track([(alice, true)]);
        assert!(!known.is_settled(alice));
        known.track([(alice, false)]);
        assert!(known.is_settled(alice));
        known.track([(alice, true)]);
        assert!(!known.is_settled(alice));
    }

    #[test]
    fn no_more_users_are_kept_than_there_is_room_for() {
        let known = KnownUsers::default();
        for number in 0..MOST_USERS + 10 {
            let user = UserId::parse(format!("@user{number}:localhost")).unwrap();
            let generation = known.get(&user).unwrap_err();
            known.put(&user, nothing(), generation);
        }
        assert!(known.lock().by_user.len() <= MOST_USERS);
    }
}
