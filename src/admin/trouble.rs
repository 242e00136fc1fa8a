//! Troubles: what keeps the keeper from its work, or soon will. Each has one cause and one mend, in words that health,
//! the doctor, the alerts and the management room share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// How many troubles that are over are remembered until they are told.
const MOST_PAST: usize = 32;

/// For how long somebody is asked to look into what the keeper has mended by itself, in milliseconds.
const LOOKED_INTO: i64 = 3_600_000;

/// A trouble, by its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// The homeserver does not answer.
    Homeserver,
    /// It does not know the `as_token`.
    Token,
    /// It does not let the keeper speak for its user.
    Localpart,
    /// It does not reach the keeper.
    Unreached,
    /// It has lost the keeper's device.
    Device,
    /// It shows another device in its place.
    OtherDevice,
    /// It shows another identity, or none, or no signature.
    Identity,
    /// Its clock and this machine's are apart.
    Clock,
    /// It runs out of the keeper's one-time keys.
    OneTimeKeys,
    /// The store's disk is full.
    StoreFull,
    /// The store cannot be written.
    StoreReadOnly,
    /// The store fails in another way.
    Store,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Homeserver,
        Self::Token,
        Self::Localpart,
        Self::Unreached,
        Self::Device,
        Self::OtherDevice,
        Self::Identity,
        Self::Clock,
        Self::OneTimeKeys,
        Self::StoreFull,
        Self::StoreReadOnly,
        Self::Store,
    ];

    /// Its word: the label of its metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Homeserver => "homeserver",
            Self::Token => "token",
            Self::Localpart => "localpart",
            Self::Unreached => "unreached",
            Self::Device => "device",
            Self::OtherDevice => "other_device",
            Self::Identity => "identity",
            Self::Clock => "clock",
            Self::OneTimeKeys => "one_time_keys",
            Self::StoreFull => "store_full",
            Self::StoreReadOnly => "store_read_only",
            Self::Store => "store",
        }
    }

    /// What is the matter, in one sentence without its full stop.
    #[must_use]
    pub const fn cause(self) -> &'static str {
        match self {
            Self::Homeserver => "the homeserver does not answer",
            Self::Token => {
                "the homeserver does not know the keeper's `as_token`: it has another registration, or none"
            }
            Self::Localpart => {
                "the homeserver does not let the keeper speak for its user: `appservice.bot.localpart` is not in its copy of the registration"
            }
            Self::Unreached => {
                "the homeserver does not reach the keeper, or with another `hs_token`"
            }
            Self::Device => {
                "the homeserver had lost the keeper's device: somebody deleted it there"
            }
            Self::OtherDevice => {
                "the homeserver shows other keys for the keeper's device than it has"
            }
            Self::Identity => {
                "the keeper's cross-signing identity was reset at the homeserver, so clients do not trust its device"
            }
            Self::Clock => {
                "this machine's clock and the homeserver's are more than half a minute apart"
            }
            Self::OneTimeKeys => {
                "the homeserver runs out of the keeper's one-time keys: somebody takes them all, or new ones are refused"
            }
            Self::StoreFull => "the store cannot be written: its disk is full",
            Self::StoreReadOnly => {
                "the store cannot be written: its files or their disk are read-only"
            }
            Self::Store => "the store cannot be read or written",
        }
    }

    /// What mends it, as sentences to whoever is on call, without the last full stop.
    #[must_use]
    pub const fn mend(self) -> &'static str {
        match self {
            Self::Homeserver => {
                "Start the homeserver; if it runs, see whether `homeserver.address` leads to it. The keeper goes on by itself"
            }
            Self::Token => {
                "Name the keeper's registration in the homeserver's `app_service_config_files` and restart the homeserver: the keeper goes on by itself. If its own registration is the one that changed, restart the keeper as well"
            }
            Self::Localpart => {
                "Make `namespaces.users` of the registration match the keeper, give the homeserver that file and restart it: the keeper goes on by itself"
            }
            Self::Unreached => {
                "See whether the registration's `url` leads to `appservice.listen` from where the homeserver runs, and whether it has the keeper's very registration and was restarted since. The keeper goes on by itself"
            }
            Self::Device => {
                "Nothing is to be done: the keeper made it again, with the same keys. See who deleted it, an administrator or a script that prunes devices, and whether `delete_stale_devices_after` is set"
            }
            Self::OtherDevice => {
                "Stop every keeper on this registration: a second one runs, or the store was put back from a copy. Then start the one with the newest store"
            }
            Self::Identity => {
                "See who has the `as_token` and give both sides a new one; then restart the keeper, which publishes an identity of its own again"
            }
            Self::Clock => "Let both machines keep time, with chrony or systemd-timesyncd",
            Self::OneTimeKeys => {
                "See in the homeserver's log who calls `/keys/claim`, and block that user or server there; if nobody does, see in the keeper's log why `keys_upload` is refused"
            }
            Self::StoreFull => {
                "Make room on the disk of `store.url`: the keeper goes on by itself within half a minute"
            }
            Self::StoreReadOnly => {
                "Mount the disk of `store.url` for writing, and give its files and folder to the keeper's user: the keeper goes on by itself within half a minute"
            }
            Self::Store => {
                "See in the keeper's log what the database says; if the disk is broken, mend it and bring back a backup. The keeper goes on by itself once the store can be used"
            }
        }
    }
}

/// A trouble that lasts, or one that the keeper has mended by itself and somebody has to look into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// Which.
    pub trouble: Trouble,
    /// Since when, in milliseconds.
    pub since: i64,
    /// Until when it lasted, where it was mended.
    pub until: Option<i64>,
}

/// A trouble that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// Which.
    pub trouble: Trouble,
    /// From when, in milliseconds.
    pub since: i64,
    /// Until when, in milliseconds.
    pub until: i64,
}

/// The troubles that there are, and were since the start. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    lasting: BTreeMap<Trouble, i64>,
    last_begun: BTreeMap<Trouble, i64>,
    past: Vec<Past>,
    /// The last one that the keeper has mended.
    mended: Option<Past>,
}

impl Known {
    fn remember(&mut self, past: Past) {
        if self.past.len() >= MOST_PAST {
            self.past.remove(0);
        }
        self.past.push(past);
        if past.trouble == Trouble::Device {
            self.mended = Some(past);
        }
    }
}

impl Troubles {
    /// A trouble was found at `now` (milliseconds). Returns whether it is new.
    pub fn begin(&self, trouble: Trouble, now: i64) -> bool {
        let mut known = self.lock();
        if known.lasting.contains_key(&trouble) {
            return false;
        }
        known.lasting.insert(trouble, now);
        known.last_begun.insert(trouble, now);
        drop(known);
        self.inner.changed.notify_one();
        true
    }

    /// A trouble was found, and is over: it lasted from `since` until `until` (milliseconds).
    pub fn was(&self, trouble: Trouble, since: i64, until: i64) {
        let mut known = self.lock();
        known.last_begun.insert(trouble, since);
        known.remember(Past { trouble, since, until });
        drop(known);
        self.inner.changed.notify_one();
    }

    /// A trouble was found to be over at `now`. Returns whether there was any.
    pub fn end(&self, trouble: Trouble, now: i64) -> bool {
        let mut known = self.lock();
        let Some(since) = known.lasting.remove(&trouble) else { return false };
        known.remember(Past { trouble, since, until: now });
        drop(known);
        self.inner.changed.notify_one();
        true
    }

    /// It was found at `now` whether there is such a trouble.
    pub fn set(&self, trouble: Trouble, is: bool, now: i64) {
        match is {
            true => self.begin(trouble, now),
            false => self.end(trouble, now),
        };
    }

    /// Those that last.
    #[must_use]
    pub fn lasting(&self) -> Vec<Lasting> {
        let known = self.lock();
        let lasting = |(trouble, since): (&Trouble, &i64)| Lasting {
            trouble: *trouble,
            since: *since,
            until: None,
        };
        known.lasting.iter().map(lasting).collect()
    }

    /// Those that last, and the one that the keeper has mended by itself in the hour before `now`.
    #[must_use]
    pub fn to_look_into(&self, now: i64) -> Vec<Lasting> {
        let mut found = self.lasting();
        let mended = self.lock().mended.filter(|past| now.saturating_sub(past.until) < LOOKED_INTO);
        found.extend(mended.map(|Past { trouble, since, until }| Lasting {
            trouble,
            since,
            until: Some(until),
        }));
        found
    }

    /// When each last began, in milliseconds, of those that there were since the start.
    #[must_use]
    pub fn last_begun(&self) -> BTreeMap<Trouble, i64> {
        self.lock().last_begun.clone()
    }

    /// Those that are over and `wanted`, each given out once.
    #[must_use]
    pub fn take_past(&self, wanted: impl Fn(&Past) -> bool) -> Vec<Past> {
        let mut known = self.lock();
        let (taken, left) = std::mem::take(&mut known.past).into_iter().partition(wanted);
        known.past = left;
        taken
    }

    /// Resolves when something has changed since it last did; for one waiter.
    pub async fn changed(&self) {
        self.inner.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_begins_once_and_is_given_out_once_when_it_is_over() {
        let troubles = Troubles::default();
        assert!(troubles.begin(Trouble::Clock, 5));
        assert!(!troubles.begin(Trouble::Clock, 6));
        assert_eq!(
            troubles.lasting(),
            [Lasting { trouble: Trouble::Clock, since: 5, until: None }]
        );
        assert!(troubles.take_past(|_| true).is_empty());
        troubles.set(Trouble::Clock, false, 9);
        troubles.set(Trouble::Clock, false, 10);
        assert!(troubles.lasting().is_empty());
        let past = Past { trouble: Trouble::Clock, since: 5, until: 9 };
        assert!(troubles.take_past(|_| false).is_empty());
        assert_eq!(troubles.take_past(|_| true), [past]);
        assert!(troubles.take_past(|_| true).is_empty());
        assert_eq!(troubles.last_begun(), BTreeMap::from([(Trouble::Clock, 5)]));
    }

    #[test]
    fn what_the_keeper_mended_is_to_be_looked_into_for_an_hour() {
        let troubles = Troubles::default();
        for trouble in [Trouble::Clock, Trouble::Device] {
            troubles.was(trouble, 1, 2);
        }
        let found = troubles.to_look_into(3);
        assert_eq!(found, [Lasting { trouble: Trouble::Device, since: 1, until: Some(2) }]);
        assert!(troubles.to_look_into(LOOKED_INTO + 2).is_empty());
    }

    #[test]
    fn of_those_that_nobody_takes_the_newest_are_kept() {
        let troubles = Troubles::default();
        for at in 0..100 {
            troubles.was(Trouble::Device, at, at);
        }
        let past = troubles.take_past(|_| true);
        assert_eq!((past.len(), past.last().unwrap().since), (MOST_PAST, 99));
    }

    #[test]
    fn each_has_a_word_of_its_own_and_its_sentences_end_open() {
        let words: std::collections::BTreeSet<_> =
            Trouble::ALL.iter().map(|it| it.as_str()).collect();
        assert_eq!(words.len(), Trouble::ALL.len());
        for trouble in Trouble::ALL {
            assert_eq!(serde_json::to_value(trouble).unwrap(), trouble.as_str());
            assert!(!trouble.cause().ends_with('.') && !trouble.mend().ends_with('.'));
        }
    }
}
