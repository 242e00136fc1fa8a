//! How often somebody may try a secret.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock, Reference},
    middleware::NoOpMiddleware,
    state::keyed::DefaultKeyedStateStore,
};

/// So many at once from one address.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);
/// How long until there is another one.
const AGAIN: Duration = Duration::from_secs(10);
/// How many addresses are remembered at most.
const MOST: usize = 10_000;

/// Attempts by address. One of IPv6 counts with all that share its first 64 bits: nobody has fewer.
pub(super) struct Attempts<C: Clock = DefaultClock> {
    clock: C,
    limiter: RateLimiter<
        IpAddr,
        DefaultKeyedStateStore<IpAddr>,
        C,
        NoOpMiddleware<<C as Clock>::Instant>,
    >,
}

impl Default for Attempts {
    fn default() -> Self {
        Self::by(DefaultClock::default())
    }
}

impl<C: Clock + Clone> Attempts<C> {
    fn by(clock: C) -> Self {
        let quota =
            Quota::with_period(AGAIN).unwrap_or(Quota::per_minute(BURST)).allow_burst(BURST);
        let limiter = RateLimiter::new(quota, DefaultKeyedStateStore::default(), clock.clone());
        Self { clock, limiter }
    }

    /// Counts one attempt; or says how long there is to wait, whatever the attempt is worth.
    pub(super) fn attempt(&self, from: IpAddr) -> Result<(), Duration> {
        if self.limiter.len() >= MOST {
            self.limiter.retain_recent();
        }
        if self.limiter.len() >= MOST {
            return Err(AGAIN);
        }
        let now = self.clock.now();
        self.limiter
            .check_key(&group(from))
            .map_err(|early| early.earliest_possible().duration_since(now).into())
    }
}

fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn an_address_has_a_few_attempts_and_then_one_every_ten_seconds() {
        let clock = FakeRelativeClock::default();
        let attempts = Attempts::by(clock.clone());
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..5 {
            assert_eq!(attempts.attempt(one), Ok(()));
        }
        assert_eq!(attempts.attempt(one), Err(AGAIN));
        assert_eq!(attempts.attempt(other), Ok(()), "it is not another one's fault");
        clock.advance(AGAIN);
        assert_eq!(attempts.attempt(one), Ok(()));
        assert!(attempts.attempt(one).is_err());
    }

    #[test]
    fn whoever_has_a_network_of_addresses_has_the_attempts_of_one() {
        let attempts = Attempts::by(FakeRelativeClock::default());
        for host in 1..=5 {
            assert_eq!(attempts.attempt(format!("2001:db8::{host}").parse().unwrap()), Ok(()));
        }
        assert!(attempts.attempt("2001:db8::beef".parse().unwrap()).is_err());
        assert_eq!(attempts.attempt("2001:db8:0:1::1".parse().unwrap()), Ok(()));
    }
}
