//! How fast the keeper may go about what nobody waits for.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ruma::OwnedUserId;

use super::rules::Rate;

/// How long a device that could not be reached waits for the second try, in milliseconds.
const UNREACHABLE_WAITS: i64 = 15_000;
/// How long it waits at most: whoever comes back is served within that, whatever he missed before.
const UNREACHABLE_WAITS_AT_MOST: i64 = 15 * 60_000;
/// How long the keeper stays silent towards somebody who seals again what it sealed, the first time, in milliseconds.
const WAR_WAITS: i64 = 10 * 60_000;
/// And at most.
const WAR_WAITS_AT_MOST: i64 = 24 * 3_600_000;

/// How long to wait, in milliseconds, before a device is tried again that could not be reached, after so many
/// `attempts` to settle it: 15 s, twice as long each time, never more than 15 minutes.
pub fn unreachable_wait(attempts: i64) -> i64 {
    doubled(UNREACHABLE_WAITS, attempts, UNREACHABLE_WAITS_AT_MOST)
}

/// How long the keeper stays silent, in milliseconds, towards somebody who seals again what it sealed, after so many
/// `truces`: 10 minutes, twice as long each time, never more than a day.
pub fn war_wait(truces: u32) -> i64 {
    doubled(WAR_WAITS, i64::from(truces), WAR_WAITS_AT_MOST)
}

fn doubled(first: i64, times: i64, longest: i64) -> i64 {
    let factor = u32::try_from(times.max(0)).ok().and_then(|times| 2_i64.checked_pow(times));
    first.saturating_mul(factor.unwrap_or(i64::MAX)).min(longest)
}

/// Who waits for a refresh: those who stand first take from the bucket's bottom, the others leave them some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody just joined and looks at a room without a name.
    Joiner,
    /// A new device, in a room where something happens.
    ActiveRoom,
    /// A new device, in a room that sleeps.
    SleepingRoom,
}

/// A bucket of refreshes that fills at a steady rate.
#[derive(Debug)]
pub struct Pacer {
    per_second: f64,
    burst: f64,
    level: Mutex<(f64, Instant)>,
    /// When those who were sent away last are to ask again, by urgency: one after the other.
    slots: Mutex<[Instant; 3]>,
}

impl Pacer {
    /// A full bucket.
    pub fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second.max(1));
        let burst = per_second * 4.0;
        let now = Instant::now();
        Self { per_second, burst, level: Mutex::new((burst, now)), slots: Mutex::new([now; 3]) }
    }

    /// Takes one refresh out at `now`, or says how long to wait before asking again.
    ///
    /// # Errors
    ///
    /// The time after which the bucket may hold enough for this urgency.
    pub fn take(&self, urgency: Urgency, now: Instant) -> Result<(), Duration> {
        let mut guard = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let (level, at) = *guard;
        let level = (level + now.saturating_duration_since(at).as_secs_f64() * self.per_second)
            .min(self.burst);
        let left_for_others = match urgency {
            Urgency::Joiner => 0.0,
            Urgency::ActiveRoom => self.burst / 2.0,
            Urgency::SleepingRoom => self.burst * 0.75,
        };
        if level >= left_for_others + 1.0 {
            *guard = (level - 1.0, now);
            return Ok(());
        }
        *guard = (level, now);
        drop(guard);
        let wait = Duration::from_secs_f64((left_for_others + 1.0 - level) / self.per_second);
        Err(self.slot(urgency, now + wait).saturating_duration_since(now))
    }

    /// A place in the queue, `earliest` or later: a thousand who wait do not all come back at once.
    fn slot(&self, urgency: Urgency, earliest: Instant) -> Instant {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let [joiners, active, sleeping] = &mut *slots;
        let last = match urgency {
            Urgency::Joiner => joiners,
            Urgency::ActiveRoom => active,
            Urgency::SleepingRoom => sleeping,
        };
        *last = earliest.max(*last + Duration::from_secs_f64(1.0 / self.per_second));
        *last
    }
}

/// How long those wait, at the least, for whom an allowance is short: many rooms may wait for the same one.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);

/// How many devices may be given keys over time. A room's devices are served together, however many they are;
/// what that costs beyond what is there is paid off before the next one's turn.
#[derive(Debug)]
pub struct Allowance {
    per_second: f64,
    burst: f64,
    level: Mutex<(f64, Instant)>,
}

impl Allowance {
    /// A full one.
    pub fn new(rate: Rate) -> Self {
        let burst = f64::from(rate.burst.max(1));
        let per_second = f64::from(rate.per_second.max(1));
        Self { per_second, burst, level: Mutex::new((burst, Instant::now())) }
    }

    /// How long to wait at `now` until there is something to spend; `None` where there is.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let (level, at) = *self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let level = level + now.saturating_duration_since(at).as_secs_f64() * self.per_second;
        (level < 1.0).then(|| Duration::from_secs_f64((1.0 - level) / self.per_second))
    }

    /// Spends on so many devices at `now`, or says how long to wait before asking again. Nothing costs nothing.
    ///
    /// # Errors
    ///
    /// The time after which there is something to spend.
    pub fn spend(&self, devices: usize, now: Instant) -> Result<(), Duration> {
        if devices == 0 {
            return Ok(());
        }
        let mut guard = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let (level, at) = *guard;
        let earned = now.saturating_duration_since(at).as_secs_f64() * self.per_second;
        let level = (level + earned).min(self.burst);
        if level < 1.0 {
            *guard = (level, now);
            let wait = Duration::from_secs_f64((1.0 - level) / self.per_second);
            return Err(wait.max(SHORTEST_WAIT));
        }
        *guard = (level - f64::from(u32::try_from(devices).unwrap_or(u32::MAX)), now);
        Ok(())
    }
}

/// How many inviters in debt are remembered at once.
const MOST_INVITERS: usize = 10_000;

/// A budget of invites for each inviter.
pub type Inviters = Budgets<OwnedUserId>;

/// A budget for each of many.
///
/// Only those in debt are remembered. Where they are too many, whoever owes least is let off for the sake of one who
/// owes nothing: somebody with thousands of names wins a little by that, and takes nothing from anybody.
#[derive(Debug)]
pub struct Budgets<K> {
    burst: u32,
    /// How long it takes until what was spent is there again.
    refill: Duration,
    /// When each will have the whole budget again.
    whole_at: Mutex<HashMap<K, Instant>>,
}

impl Inviters {
    /// Everybody may invite `burst` times at once and `per_minute` times a minute in the long run.
    pub fn new(burst: u32, per_minute: u32) -> Self {
        Self::every(Duration::from_secs(60) / per_minute.max(1), burst)
    }
}

impl<K: Clone + Eq + Hash> Budgets<K> {
    /// Everybody may have `burst` at once, and one every `refill` in the long run.
    pub fn every(refill: Duration, burst: u32) -> Self {
        Self { burst: burst.max(1), refill, whole_at: Mutex::default() }
    }

    /// Whether somebody has something left at `now`; if so, it is spent.
    pub fn spend<Q>(&self, who: &Q, now: Instant) -> bool
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + Eq + Hash + ?Sized,
    {
        let mut whole_at = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        let known = whole_at.get(who).copied();
        let then = known.map_or(now, |known| known.max(now)) + self.refill;
        if then.saturating_duration_since(now) > self.refill * self.burst {
            return false;
        }
        if known.is_none() && whole_at.len() >= MOST_INVITERS {
            whole_at.retain(|_, then| *then > now);
            let least =
                whole_at.iter().min_by_key(|(_, then)| **then).map(|(user, _)| user.clone());
            if let Some(user) = least.filter(|_| whole_at.len() >= MOST_INVITERS) {
                whole_at.remove::<K>(&user);
            }
        }
        whole_at.insert(who.to_owned(), then);
        true
    }
}

#[cfg(test)]
mod tests {
    use ruma::{UserId, user_id};

    use super::*;

    #[test]
    fn an_unreachable_device_is_tried_again_within_a_quarter_of_an_hour() {
        let waits: Vec<i64> = (0..8).map(|attempts| unreachable_wait(attempts) / 1000).collect();
        assert_eq!(waits, [15, 30, 60, 120, 240, 480, 900, 900]);
        for attempts in [62, 63, 64, i64::MAX] {
            assert_eq!(unreachable_wait(attempts), 900_000, "{attempts} attempts");
        }
        assert_eq!(unreachable_wait(-1), 15_000);
    }

    #[test]
    fn a_truce_is_twice_as_long_as_the_one_before_and_no_longer_than_a_day() {
        let waits: Vec<i64> = (0..3).map(|truces| war_wait(truces) / 60_000).collect();
        assert_eq!(waits, [10, 20, 40]);
        assert_eq!((war_wait(20), war_wait(u32::MAX)), (86_400_000, 86_400_000));
    }

    #[test]
    fn an_allowance_serves_a_room_at_once_and_pays_it_off_before_the_next() {
        let allowance = Allowance::new(Rate { burst: 10, per_second: 10 });
        let now = Instant::now();
        assert!(allowance.spend(0, now).is_ok());
        assert!(allowance.spend(5, now).is_ok());
        assert!(allowance.spend(25, now).is_ok(), "one room's devices are served together");
        let wait = allowance.spend(1, now).unwrap_err();
        // From 20 below nothing to one.
        assert!(wait.abs_diff(Duration::from_millis(2100)) < Duration::from_millis(1), "{wait:?}");
        assert!(allowance.spend(0, now).is_ok(), "what costs nothing does not wait");
        assert!(allowance.spend(1, now + wait / 2).is_err());
        assert!(allowance.spend(1, now + wait + Duration::from_millis(1)).is_ok());
    }

    #[test]
    fn an_allowance_saves_no_more_than_its_burst() {
        let allowance = Allowance::new(Rate { burst: 2, per_second: 1000 });
        let later = Instant::now() + Duration::from_secs(3600);
        assert!(allowance.spend(1, later).is_ok() && allowance.spend(1, later).is_ok());
        assert_eq!(allowance.spend(1, later), Err(SHORTEST_WAIT));
    }

    #[test]
    fn joiners_are_served_when_new_devices_have_to_wait() {
        let start = Instant::now();
        let pacer = Pacer::new(5);
        let devices =
            std::iter::from_fn(|| pacer.take(Urgency::ActiveRoom, start).ok()).take(100).count();
        assert_eq!(devices, 10, "devices take half of the bucket");
        assert!(pacer.take(Urgency::SleepingRoom, start).is_err());
        let joiners =
            std::iter::from_fn(|| pacer.take(Urgency::Joiner, start).ok()).take(100).count();
        assert_eq!(joiners, 10, "joiners get what devices had to leave");
        let wait = pacer.take(Urgency::Joiner, start).unwrap_err();
        assert!(pacer.take(Urgency::Joiner, start + wait).is_ok());
    }

    #[test]
    fn an_inviter_spends_only_his_own_budget() {
        let start = Instant::now();
        let inviters = Inviters::new(2, 60);
        let (noisy, quiet) = (user_id!("@noisy:localhost"), user_id!("@quiet:localhost"));
        assert!(inviters.spend(noisy, start) && inviters.spend(noisy, start));
        assert!(!inviters.spend(noisy, start));
        assert!(inviters.spend(quiet, start));
        assert!(inviters.spend(noisy, start + Duration::from_secs(1)));
    }

    #[test]
    fn whoever_owes_nothing_may_invite_however_many_are_in_debt() {
        let start = Instant::now();
        let inviters = Inviters::new(2, 60);
        let user = |number: usize| UserId::parse(format!("@user{number}:localhost")).unwrap();
        let deep = user(0);
        assert!(inviters.spend(&deep, start) && inviters.spend(&deep, start));
        for number in 1..=MOST_INVITERS + 100 {
            assert!(inviters.spend(&user(number), start), "{number}");
        }
        assert!(!inviters.spend(&deep, start), "the deepest debt is the last to be forgiven");
        assert_eq!(inviters.whole_at.lock().unwrap().len(), MOST_INVITERS);
        let later = start + Duration::from_secs(2);
        assert!(inviters.spend(user_id!("@quiet:localhost"), later));
        assert_eq!(inviters.whole_at.lock().unwrap().len(), 1, "the debts are paid");
    }
}
