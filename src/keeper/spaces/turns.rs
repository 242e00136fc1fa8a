//! What is done by turns, at the pace of each space, until there is nothing to do: providing, and inviting.

use std::{sync::Arc, time::Duration};

use super::{Bell, settled};
use crate::{
    homeserver::Backoff,
    keeper::{KeeperError, clock::now_ms},
    store::Store,
};

/// How long to wait where nothing is due.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Does something by turns.
pub(super) trait Turns {
    /// Who waits while it fails, for the log.
    const WAITING: &'static str;

    /// What it is told by that there is something to do.
    fn bell(&self) -> Arc<Bell>;

    /// Where it stands what there is to do.
    fn store(&self) -> &Store;

    /// Does a part of what there is to do. Returns how long to wait where that was nothing.
    fn turn(&mut self) -> impl Future<Output = Result<Option<Duration>, KeeperError>> + Send;
}

/// Takes turns for ever.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn take<T: Turns>(mut taker: T) -> Result<(), KeeperError> {
    let bell = taker.bell();
    let mut backoff = Backoff::new();
    loop {
        let wait = match taker.turn().await {
            Ok(Some(wait)) => wait,
            Ok(None) => {
                backoff.reset();
                continue;
            }
            Err(KeeperError::Store(error)) => return Err(error.into()),
            Err(error) => {
                let wait = backoff
                    .next_delay(&mut rand::rng())
                    .max(error.retry_after().unwrap_or_default());
                tracing::warn!(%error, ?wait, "{}", T::WAITING);
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        tokio::select! {
            () = bell.rung.notified() => settled(taker.store()).await?,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// How long there is to wait: until the next promise falls due (milliseconds), but no longer than `most`. One that fell
/// due while the others were looked at is due now.
pub(super) fn until_due(next: Option<i64>, most: Duration) -> Duration {
    let due = next.map(|at| u64::try_from(at.saturating_sub(now_ms())).unwrap_or(0));
    let due = due.map_or(LOOK_EVERY, Duration::from_millis);
    most.min(due).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fell_due_while_the_others_were_looked_at_is_not_waited_for() {
        let soon = Duration::from_millis(1);
        assert_eq!(until_due(Some(now_ms() - 5), LOOK_EVERY), soon);
        assert_eq!(until_due(Some(i64::MIN), LOOK_EVERY), soon);
        assert_eq!(until_due(Some(i64::MAX), LOOK_EVERY), LOOK_EVERY);
        assert_eq!(until_due(None, LOOK_EVERY), LOOK_EVERY);
    }
}
