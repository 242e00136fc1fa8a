//! Repeating a request until it succeeds.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Backoff, HomeserverError};

/// Calls `attempt` until it succeeds, fails for good, or `until` has come.
///
/// Only what [`HomeserverError::is_transient`] calls transient is repeated, after a wait with
/// backoff and jitter, or after the homeserver's own `retry_after` if that is longer. With `until`
/// `None` it goes on for ever. An attempt that began before `until` is finished; no wait goes beyond
/// it: if the next attempt would begin too late, the last error is returned at once. To cancel,
/// drop the future; whatever was under way may have taken effect.
///
/// `attempt` must make the same request each time (same transaction id, same body).
pub async fn retrying<T, F, Fut>(
    until: Option<Instant>,
    mut attempt: F,
) -> Result<T, HomeserverError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, HomeserverError>>,
{
    let mut backoff = Backoff::new();
    loop {
        let error = match attempt().await {
            Ok(done) => {
                if backoff.failures() > 0 {
                    info!(failures = backoff.failures(), "the homeserver answers again");
                }
                return Ok(done);
            }
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error),
        };
        let delay = wait(&mut backoff, &error);
        if until.is_some_and(|until| Instant::now() + delay >= until) {
            return Err(error);
        }
        warn!(%error, failures = backoff.failures(), ?delay, "a homeserver request is repeated later");
        sleep(delay).await;
    }
}

/// How long to wait after `error`: never shorter than the homeserver asks for.
fn wait(backoff: &mut Backoff, error: &HomeserverError) -> Duration {
    let delay = backoff.next_delay(&mut rand::rng());
    match error.retry_after() {
        // The jitter stays, on top: a limit hits many requests, which must not return together.
        Some(asked) => delay.max(asked + delay.min(asked / 4)),
        None => delay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::homeserver::Endpoint;

    fn limited(retry_after: Duration) -> HomeserverError {
        HomeserverError::Api {
            endpoint: Endpoint::Join,
            status: 429,
            errcode: String::new(),
            error: String::new(),
            retry_after: Some(retry_after),
        }
    }

    #[test]
    fn a_wait_is_never_shorter_than_the_homeserver_asks_for() {
        let asked = Duration::from_secs(100);
        let wait = wait(&mut Backoff::new(), &limited(asked));
        assert!(wait >= asked && wait < asked + Duration::from_secs(1), "{wait:?}");
    }

    #[test]
    fn a_homeserver_that_asks_for_no_wait_at_all_is_not_hammered() {
        let mut backoff = Backoff::new();
        let total: Duration = (0..20).map(|_| wait(&mut backoff, &limited(Duration::ZERO))).sum();
        assert!(total > Duration::from_secs(10), "{total:?}");
    }
}
