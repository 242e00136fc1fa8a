//! Readiness: what still keeps the service from doing its work.

use std::collections::BTreeSet;

use tokio::sync::watch;

use super::Troubles;

/// The list of what the service still waits for; it is ready when the list is empty.
///
/// Each part of the service holds a [`Latch`] from the start and releases it when it can work. A
/// part that fails later puts its name back with [`Readiness::lost`]. Names are a set: to lose the
/// same part twice is to lose it once.
///
/// Clones share one list. Take every latch before the admin listener is served, otherwise the
/// service looks ready before it has begun.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    missing: watch::Sender<BTreeSet<&'static str>>,
    troubles: Troubles,
}

impl Readiness {
    /// A service that waits for nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `name` to what is missing, and returns the latch that takes it away again.
    #[must_use = "the service is never ready until the latch is released"]
    pub fn latch(&self, name: &'static str) -> Latch {
        self.lost(name);
        Latch { name, readiness: self.clone() }
    }

    /// `name` cannot work at present: the service is not ready until [`Readiness::regained`].
    pub fn lost(&self, name: &'static str) {
        self.missing.send_if_modified(|missing| missing.insert(name));
    }

    /// `name` works again.
    pub fn regained(&self, name: &'static str) {
        self.missing.send_if_modified(|missing| missing.remove(name));
    }

    /// The names of what is missing, in alphabetical order; empty when the service is ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.missing.borrow().iter().copied().collect()
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.missing.borrow().is_empty()
    }

    /// What is wrong, and was: why something is missing, and what does harm though nothing is.
    #[must_use]
    pub fn troubles(&self) -> &Troubles {
        &self.troubles
    }

    /// Wakes at each change of what is missing.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<BTreeSet<&'static str>> {
        self.missing.subscribe()
    }

    /// Resolves when nothing is missing; at once if that is so already.
    pub async fn ready(&self) {
        let mut changes = self.missing.subscribe();
        // Fails only when the sender is gone, and `self` holds it.
        let _ = changes.wait_for(BTreeSet::is_empty).await;
    }
}

/// One part's hold on the service's readiness.
///
/// Only [`Latch::release`] lets go. A latch that is merely dropped, as by a task that failed before
/// it could work, leaves the service not ready: that is the truth.
#[derive(Debug)]
pub struct Latch {
    name: &'static str,
    readiness: Readiness,
}

impl Latch {
    /// The part can work: its name leaves the list of what is missing.
    pub fn release(self) {
        self.readiness.regained(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_only_when_the_last_latch_is_released() {
        let readiness = Readiness::new();
        let homeserver = readiness.latch("homeserver");
        let rooms = readiness.latch("rooms");
        assert_eq!(readiness.missing(), ["homeserver", "rooms"]);

        homeserver.release();
        assert!(!readiness.is_ready());
        rooms.release();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_latch_that_is_dropped_unreleased_keeps_the_service_from_being_ready() {
        let readiness = Readiness::new();
        drop(readiness.latch("device"));
        assert_eq!(readiness.missing(), ["device"]);
    }

    #[test]
    fn a_part_that_is_lost_twice_is_regained_once() {
        let readiness = Readiness::new();
        readiness.lost("homeserver");
        readiness.lost("homeserver");
        readiness.regained("homeserver");
        assert!(readiness.is_ready());
    }

    #[tokio::test]
    async fn whoever_waits_for_readiness_is_woken_by_the_last_release() {
        let readiness = Readiness::new();
        let latch = readiness.latch("listening");
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        latch.release();
        waiting.await.unwrap();
    }
}
