//! Who is logged in. Sessions are kept in memory alone: a restart ends all of them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rand::distr::{Alphanumeric, SampleString as _};

/// How many there are at most; beyond it the one that was used the longest ago goes.
const MOST: usize = 1_000;
/// How many characters a token of our own has: over 250 bits.
const LENGTH: usize = 43;

/// Somebody who is let in.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Session {
    /// Under which name the ledger knows whoever it is.
    pub actor: String,
    /// What a form of theirs has to bring: nobody else can know it.
    pub guard: String,
    /// Whether it can be ended here; a proxy's are the proxy's affair.
    pub is_ours: bool,
}

/// All sessions.
pub(super) struct Sessions {
    idle: Duration,
    lifetime: Duration,
    kept: Mutex<Table>,
}

/// What a session is found by.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    /// The cookie.
    Cookie(String),
    /// The name that a proxy gives.
    Proxied(String),
}

struct Kept {
    session: Session,
    began: Instant,
    used: Instant,
}

/// Everybody who is let in, by the key of what lets them in.
type Table = HashMap<Key, Kept>;

impl fmt::Debug for Session {
    /// Without what its forms bring.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("actor", &self.actor).finish_non_exhaustive()
    }
}

impl fmt::Debug for Key {
    /// Without the cookie.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(_) => f.debug_tuple("Cookie").finish_non_exhaustive(),
            Self::Proxied(user) => f.debug_tuple("Proxied").field(user).finish(),
        }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Sessions {
    /// None yet. They end after `idle` without a request, and after `lifetime` in any case.
    pub(super) fn new(idle: Duration, lifetime: Duration) -> Self {
        Self { idle, lifetime, kept: Mutex::default() }
    }

    /// Lets whoever had the token in. The cookie's value.
    pub(super) fn open(&self, now: Instant) -> String {
        let id = secret();
        let session = Session { actor: "dashboard".to_owned(), guard: secret(), is_ours: true };
        keep(&mut self.lock(), Key::Cookie(id.clone()), session, now);
        id
    }

    /// The session of a cookie, which counts as used; `None` where there is none or it has ended.
    pub(super) fn of_cookie(&self, id: &str, now: Instant) -> Option<Session> {
        self.find(&mut self.lock(), &Key::Cookie(id.to_owned()), now)
    }

    /// The session of somebody whom a proxy let in.
    pub(super) fn of_proxied(&self, user: &str, now: Instant) -> Session {
        let key = Key::Proxied(user.to_owned());
        // Two requests at once are of one session: the lock is held until it is kept.
        let mut kept = self.lock();
        if let Some(session) = self.find(&mut kept, &key, now) {
            return session;
        }
        let actor = format!("dashboard:{user}");
        let session = Session { actor, guard: secret(), is_ours: false };
        keep(&mut kept, key, session.clone(), now);
        session
    }

    /// Ends the session of a cookie.
    pub(super) fn end(&self, id: &str) {
        self.lock().remove(&Key::Cookie(id.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, kept: &mut Table, key: &Key, now: Instant) -> Option<Session> {
        kept.retain(|_, kept| self.lasts(kept, now));
        let found = kept.get_mut(key)?;
        found.used = now;
        Some(found.session.clone())
    }

    fn lasts(&self, kept: &Kept, now: Instant) -> bool {
        now.saturating_duration_since(kept.used) < self.idle
            && now.saturating_duration_since(kept.began) < self.lifetime
    }
}

fn keep(kept: &mut Table, key: Key, session: Session, now: Instant) {
    if kept.len() >= MOST {
        let oldest = kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
        oldest.and_then(|oldest| kept.remove(&oldest));
    }
    kept.insert(key, Kept { session, began: now, used: now });
}

fn secret() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), LENGTH)
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn sessions() -> (Sessions, Instant) {
        (Sessions::new(30 * MINUTE, 12 * 60 * MINUTE), Instant::now())
    }

    #[test]
    fn a_session_ends_when_nothing_is_done_and_after_its_lifetime_in_any_case() {
        let (sessions, start) = sessions();
        let id = sessions.open(start);
        assert!(sessions.of_cookie(&id, start + 29 * MINUTE).is_some());
        assert!(sessions.of_cookie(&id, start + 58 * MINUTE).is_some(), "it was used since");
        assert!(sessions.of_cookie(&id, start + 88 * MINUTE).is_none(), "it was not");
        assert!(sessions.of_cookie(&id, start + 89 * MINUTE).is_none(), "the dead stay dead");

        let id = sessions.open(start);
        for minutes in (20..720).step_by(20) {
            assert!(sessions.of_cookie(&id, start + minutes * MINUTE).is_some(), "{minutes}");
        }
        assert!(sessions.of_cookie(&id, start + 720 * MINUTE).is_none());
    }

    #[test]
    fn each_session_has_secrets_of_its_own() {
        let (sessions, now) = sessions();
        let (one, other) = (sessions.open(now), sessions.open(now));
        assert_ne!(one, other);
        let guard = |id: &str| sessions.of_cookie(id, now).unwrap().guard;
        assert_ne!(guard(&one), guard(&other));
        assert_ne!(guard(&one), one);
        sessions.end(&one);
        assert!(sessions.of_cookie(&one, now).is_none());
        assert!(sessions.of_cookie(&other, now).is_some());
    }

    #[test]
    fn what_lets_somebody_in_is_never_printed() {
        let (sessions, now) = sessions();
        let id = sessions.open(now);
        let session = sessions.of_cookie(&id, now).unwrap();
        let printed = format!("{sessions:?} {session:?} {:?}", Key::Cookie(id.clone()));
        assert!(!printed.contains(&id) && !printed.contains(&session.guard), "{printed}");
        assert_eq!(format!("{:?}", Key::Proxied("eve".to_owned())), "Proxied(\"eve\")");
    }

    #[test]
    fn requests_that_come_at_once_through_a_proxy_are_of_one_session() {
        for _ in 0..50 {
            let (sessions, now) = sessions();
            let (start, of) = (Barrier::new(4), |user| sessions.of_proxied(user, now).guard);
            let guards: Vec<String> = thread::scope(|scope| {
                let ask = || {
                    start.wait();
                    of("eve")
                };
                let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
                asking.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert!(guards.iter().all(|guard| *guard == guards[0]), "{guards:?}");
        }
    }

    #[test]
    fn a_proxys_user_is_no_cookie_and_has_the_same_token_on_each_page() {
        let (sessions, now) = sessions();
        let eve = sessions.of_proxied("eve", now);
        assert_eq!(sessions.of_proxied("eve", now + MINUTE), eve);
        assert_eq!((eve.actor.as_str(), eve.is_ours), ("dashboard:eve", false));
        assert!(sessions.of_cookie("eve", now).is_none());
        assert_ne!(sessions.of_proxied("eve", now + 40 * MINUTE).guard, eve.guard);
    }

    #[test]
    fn there_are_only_so_many_and_the_stalest_goes_first() {
        let (sessions, now) = sessions();
        let first = sessions.open(now);
        for _ in 0..MOST {
            sessions.open(now + MINUTE);
        }
        assert!(sessions.of_cookie(&first, now + MINUTE).is_none());
        assert_eq!(sessions.kept.lock().unwrap().len(), MOST);
    }
}
