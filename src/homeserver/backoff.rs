//! How long to wait before a request is repeated.

use std::time::Duration;

use rand::Rng;

/// The ceiling of the first wait.
const FIRST: Duration = Duration::from_millis(500);
/// The ceiling of every wait.
const LONGEST: Duration = Duration::from_secs(60);

/// Exponential backoff with full jitter: the `n`th wait is drawn evenly from nothing up to
/// `min(60 s, 500 ms × 2ⁿ)`.
///
/// Full jitter because many rooms wait for the same homeserver: when it comes back they must not
/// all ask in the same instant.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// A backoff that has seen no failure, from 500 ms to 60 s.
    pub fn new() -> Self {
        Self::between(FIRST, LONGEST)
    }

    /// A backoff whose first wait is at most `first` and none of whose waits exceeds `longest`.
    pub fn between(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// Counts a failure and says how long to wait before the next try.
    pub fn next_delay<R: Rng + ?Sized>(&mut self, rng: &mut R) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(rng.random::<f64>())
    }

    /// Forgets the failures: the next wait is a short one again. Call it after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The number of failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    fn ceiling(&self) -> Duration {
        let factor = 2u32.checked_pow(self.failures).unwrap_or(u32::MAX);
        self.first.checked_mul(factor).unwrap_or(self.longest).min(self.longest)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngCore, SeedableRng, rngs::StdRng};

    use super::*;

    /// Draws the highest value there is, so that a delay shows its ceiling.
    struct Highest;

    impl RngCore for Highest {
        fn next_u32(&mut self) -> u32 {
            u32::MAX
        }
        fn next_u64(&mut self) -> u64 {
            u64::MAX
        }
        fn fill_bytes(&mut self, dst: &mut [u8]) {
            dst.fill(u8::MAX);
        }
    }

    fn ceilings(backoff: &mut Backoff, count: usize) -> Vec<u128> {
        (0..count)
            .map(|_| (backoff.next_delay(&mut Highest).as_secs_f64() * 1000.0).round() as u128)
            .collect()
    }

    #[test]
    fn the_ceiling_doubles_from_half_a_second_to_a_minute_and_stays() {
        let mut backoff = Backoff::new();
        assert_eq!(
            ceilings(&mut backoff, 9),
            [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]
        );
    }

    #[test]
    fn a_success_makes_the_next_wait_short_again() {
        let mut backoff = Backoff::new();
        ceilings(&mut backoff, 6);
        assert_eq!(backoff.failures(), 6);
        backoff.reset();
        assert_eq!(ceilings(&mut backoff, 2), [500, 1000]);
    }

    #[test]
    fn a_million_failures_do_not_overflow() {
        let mut backoff = Backoff::new();
        backoff.failures = u32::MAX;
        assert!(backoff.next_delay(&mut Highest) <= LONGEST);
        assert_eq!(backoff.failures(), u32::MAX);
    }

    #[test]
    fn the_same_randomness_gives_the_same_waits_and_other_randomness_others() {
        let draw = |seed| {
            let (mut rng, mut backoff) = (StdRng::seed_from_u64(seed), Backoff::new());
            (0..5).map(|_| backoff.next_delay(&mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
