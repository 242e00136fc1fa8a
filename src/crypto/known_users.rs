//! Users with their devices, kept at hand: a decision about a room of thousands reads all of them, again and again,
//! and each costs several reads of the key store.
//!
//! What stands here is what the key store says. It is forgotten when the store is told of a change, and nothing
//! enters that was read before the newest change.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use matrix_sdk_crypto::store::types::Changes;
use ruma::{OwnedUserId, UserId};

use super::device::KnownUser;

/// Of how many users at most.
const MOST_USERS: usize = 8192;
/// Of how many changes it is remembered whom they were about.
const MOST_CHANGES: usize = 1024;

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
    /// Whom the newest changes were about, each with the generation that it made.
    changed: VecDeque<(u64, OwnedUserId)>,
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
        let generation = inner.generation;
        inner.changed.extend(changed.iter().map(|user| (generation, user.clone())));
        let many = inner.changed.len().saturating_sub(MOST_CHANGES);
        inner.changed.drain(..many);
    }

    /// How many changes there were.
    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// About whom the changes after `generation` were; `None` where that is not remembered any more.
    pub(super) fn changed_since(&self, generation: u64) -> Option<Vec<OwnedUserId>> {
        let inner = self.lock();
        // The oldest one that is remembered may stand beside others of its generation that are not.
        let reaches_back = inner.changed.len() < MOST_CHANGES
            || inner.changed.front().is_some_and(|(oldest, _)| *oldest <= generation);
        let later = inner.changed.iter().filter(|(number, _)| *number > generation);
        reaches_back.then(|| later.map(|(_, user)| user.clone()).collect())
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
    fn it_is_known_about_whom_the_changes_were() {
        let known = KnownUsers::default();
        let (alice, bob) = (user_id!("@alice:localhost"), user_id!("@bob:localhost"));
        known.forget(&[alice.to_owned()]);
        let between = known.generation();
        known.forget(&[bob.to_owned()]);
        assert_eq!(known.changed_since(between), Some(vec![bob.to_owned()]));
        assert_eq!(known.changed_since(known.generation()), Some(Vec::new()));
        let crowd = vec![alice.to_owned(); MOST_CHANGES];
        known.forget(&crowd);
        assert_eq!(known.changed_since(between), None, "Bob was forgotten");
        assert_eq!(known.changed_since(known.generation()), Some(Vec::new()));
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
