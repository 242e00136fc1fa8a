//! The budgets of key requests: per device, per user, per room, and overall.
//!
//! A request takes from all four or from none. governor tests one bucket at a time and gives nothing
//! back, so it is shown each bucket's state in turn, and what it makes of them is written down only when
//! all four agree. A flood that is over a budget of its own therefore spends nothing of anybody's.
//!
//! Only what is served makes a bucket differ from a new one. So there are never more buckets than
//! requests that the overall budget let through while a bucket refills, whatever the number of senders.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};

use super::fingerprint::Fingerprint;
use crate::keeper::rules::{GlobalRules, Rate};

/// How many buckets each scope may hold at once: 4 MiB of them.
const MOST_BUCKETS: usize = 65_536;

/// The rate of each scope. Zero counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// For each device.
    pub device: Rate,
    /// For each user, over all devices.
    pub user: Rate,
    /// For each room, over all users.
    pub room: Rate,
    /// For everything.
    pub overall: Rate,
}

impl RateLimits {
    /// As the rules state them.
    pub fn of(rules: &GlobalRules) -> Self {
        let requests = &rules.requests;
        Self {
            device: requests.device,
            user: requests.user,
            room: requests.room,
            overall: requests.overall,
        }
    }
}

/// Whose budget it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One device's.
    Device,
    /// One user's.
    User,
    /// One room's.
    Room,
    /// The keeper's own.
    Overall,
}

impl Scope {
    /// Every scope there is, the narrowest first.
    pub const ALL: [Self; 4] = [Self::Device, Self::User, Self::Room, Self::Overall];

    /// The scope's name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::User => "user",
            Self::Room => "room",
            Self::Overall => "overall",
        }
    }
}

/// Whose budgets a request takes from, besides the overall one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payers {
    /// The device, together with its user.
    pub device: Fingerprint,
    /// The user.
    pub user: Fingerprint,
    /// The room.
    pub room: Fingerprint,
}

/// A budget is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    /// The narrowest budget that is short.
    pub scope: Scope,
    /// How long until it holds one more, if nobody else takes it.
    pub wait: Duration,
}

/// The four budgets. Time is the time since they were made, and comes from the caller.
#[derive(Debug)]
pub struct Limits {
    devices: Buckets,
    users: Buckets,
    rooms: Buckets,
    overall: Buckets,
}

/// The overall budget's only key.
const EVERYTHING: Fingerprint = 0;

impl Limits {
    /// Budgets that are all full.
    pub fn new(limits: &RateLimits) -> Self {
        Self {
            devices: Buckets::new(limits.device, MOST_BUCKETS),
            users: Buckets::new(limits.user, MOST_BUCKETS),
            rooms: Buckets::new(limits.room, MOST_BUCKETS),
            overall: Buckets::new(limits.overall, 1),
        }
    }

    /// Takes one from each of the payers' budgets and the overall one.
    ///
    /// # Errors
    ///
    /// [`Short`], from the narrowest scope to the widest; then none of them was taken from.
    pub fn take(&mut self, payers: &Payers, now: Duration) -> Result<(), Short> {
        let [device, user, room, overall] = self.after(payers, now)?;
        self.devices.set(payers.device, device);
        self.users.set(payers.user, user);
        self.rooms.set(payers.room, room);
        self.overall.set(EVERYTHING, overall);
        Ok(())
    }

    /// What [`Limits::take`] would say, without taking.
    pub fn short(&mut self, payers: &Payers, now: Duration) -> Option<Short> {
        self.after(payers, now).err()
    }

    /// How long the overall budget needs until it holds one more, if it is short.
    pub fn overall_wait(&mut self, now: Duration) -> Option<Duration> {
        self.overall.after(EVERYTHING, now).err()
    }

    /// How long `user`'s own budget needs until it holds one more, if it is short.
    pub fn user_wait(&mut self, user: Fingerprint, now: Duration) -> Option<Duration> {
        self.users.after(user, now).err()
    }

    /// The state of all four once one more was taken from each.
    fn after(&mut self, payers: &Payers, now: Duration) -> Result<[Nanos; 4], Short> {
        let test = |buckets: &mut Buckets, key, scope| {
            buckets.after(key, now).map_err(|wait| Short { scope, wait })
        };
        Ok([
            test(&mut self.devices, payers.device, Scope::Device)?,
            test(&mut self.users, payers.user, Scope::User)?,
            test(&mut self.rooms, payers.room, Scope::Room)?,
            test(&mut self.overall, EVERYTHING, Scope::Overall)?,
        ])
    }
}

/// A bucket's state as governor reads and writes it: its theoretical arrival time. The bucket is full
/// from that time on, and nothing tells it from a new one any more.
#[derive(Clone, Debug, Default)]
struct Shown(Arc<AtomicU64>);

impl StateStore for Shown {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, test: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, next) = test(Some(self.0.load(Ordering::Relaxed).into()))?;
        self.0.store(next.into(), Ordering::Relaxed);
        Ok(outcome)
    }
}

impl Clock for Shown {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed).into()
    }
}

/// The buckets of one scope, by whom they belong to. Those that are full again are not kept.
#[derive(Debug)]
struct Buckets {
    limiter: RateLimiter<NotKeyed, Shown, Shown, NoOpMiddleware<Nanos>>,
    state: Shown,
    clock: Shown,
    most: usize,
    full_at: HashMap<Fingerprint, Nanos>,
    /// One entry for each bucket, at a time not later than that at which it is full.
    by_time: BinaryHeap<Reverse<(Nanos, Fingerprint)>>,
    /// What all share who come while there is no place for a bucket of their own: a bucket in debt is
    /// never given up for a newcomer, or inventing names would wash a debt away.
    common: Nanos,
}

impl Buckets {
    fn new(rate: Rate, most: usize) -> Self {
        let at_least_one = |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let quota =
            Quota::per_second(at_least_one(rate.per_second)).allow_burst(at_least_one(rate.burst));
        let (state, clock) = (Shown::default(), Shown::default());
        Self {
            limiter: RateLimiter::new(quota, state.clone(), clock.clone()),
            state,
            clock,
            most: most.max(1),
            full_at: HashMap::new(),
            by_time: BinaryHeap::new(),
            common: Nanos::default(),
        }
    }

    /// The state of `key`'s bucket once one more was taken from it, or how long that has to wait.
    fn after(&mut self, key: Fingerprint, now: Duration) -> Result<Nanos, Duration> {
        let now = nanos(now);
        let state = match self.full_at.get(&key) {
            Some(kept) => *kept,
            None => self.unknown(now),
        };
        self.state.0.store(state.into(), Ordering::Relaxed);
        self.clock.0.store(now.into(), Ordering::Relaxed);
        match self.limiter.check() {
            Ok(()) => Ok(self.state.now()),
            Err(not_yet) => Err(not_yet.wait_time_from(now)),
        }
    }

    /// The state of a bucket that is not kept.
    fn unknown(&mut self, now: Nanos) -> Nanos {
        self.forget_full(now);
        if self.full_at.len() < self.most { Nanos::default() } else { self.common }
    }

    fn set(&mut self, key: Fingerprint, state: Nanos) {
        if let Some(kept) = self.full_at.get_mut(&key) {
            *kept = state;
            return;
        }
        if self.full_at.len() >= self.most {
            self.common = state;
            return;
        }
        self.full_at.insert(key, state);
        self.by_time.push(Reverse((state, key)));
    }

    /// Forgets the buckets that are full at `now`. Each bucket that was taken from since it was last
    /// looked at is looked at once more, so this costs no more than the taking did.
    fn forget_full(&mut self, now: Nanos) {
        while let Some(Reverse((_, key))) =
            self.by_time.peek().copied().filter(|Reverse((full_at, _))| *full_at <= now)
        {
            self.by_time.pop();
            match self.full_at.get(&key).copied() {
                Some(later) if later > now => self.by_time.push(Reverse((later, key))),
                _ => {
                    self.full_at.remove(&key);
                }
            }
        }
    }
}

/// Saturates after 584 years.
fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Rate = Rate { burst: 1, per_second: 1 };
    const MANY: Rate = Rate { burst: 100, per_second: 100 };

    fn payers(device: Fingerprint, user: Fingerprint, room: Fingerprint) -> Payers {
        Payers { device, user, room }
    }

    #[test]
    fn what_is_over_one_budget_spends_none_of_the_others() {
        let limits =
            RateLimits { device: MANY, user: ONE, room: Rate { burst: 2, ..ONE }, overall: MANY };
        let mut limits = Limits::new(&limits);
        let now = Duration::from_secs(1);
        assert_eq!(limits.take(&payers(1, 1, 1), now), Ok(()));
        for device in 2..1000 {
            let short = limits.take(&payers(device, 1, 1), now).unwrap_err();
            assert_eq!(short.scope, Scope::User);
        }
        assert_eq!(limits.take(&payers(9, 9, 1), now), Ok(()), "the room has what it had");
        assert_eq!(limits.take(&payers(8, 8, 1), now).unwrap_err().scope, Scope::Room);
    }

    #[test]
    fn after_the_wait_there_is_one_more_and_not_before() {
        let mut limits =
            Limits::new(&RateLimits { device: ONE, user: MANY, room: MANY, overall: MANY });
        let now = Duration::from_secs(1);
        limits.take(&payers(1, 1, 1), now).unwrap();
        let wait = limits.take(&payers(1, 1, 1), now).unwrap_err().wait;
        assert!(limits.take(&payers(1, 1, 1), now + wait - Duration::from_nanos(1)).is_err());
        assert_eq!(limits.take(&payers(1, 1, 1), now + wait), Ok(()));
    }

    #[test]
    fn a_bucket_in_debt_is_kept_and_newcomers_share_one_when_there_is_no_place() {
        let mut buckets = Buckets::new(ONE, 2);
        let now = Duration::from_secs(1);
        for key in [1, 2, 3] {
            let state = buckets.after(key, now).unwrap();
            buckets.set(key, state);
        }
        assert_eq!(buckets.full_at.len(), 2);
        for key in [1, 2, 3, 4] {
            assert!(buckets.after(key, now).is_err(), "{key}");
        }
        let later = now + Duration::from_secs(1);
        assert!(buckets.after(4, later).is_ok());
        assert!(buckets.full_at.is_empty(), "full buckets are as good as new ones");
    }
}
