//! Looking after itself: whether the homeserver shows the keeper's device and identity as they are, and whether the
//! clocks agree. What is wrong is told; it is mended by whoever is on call.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::clock::now_ms;
use crate::{
    admin::{Trouble, Troubles},
    crypto::{KeeperDevice, Published, Shown},
    homeserver::Homeserver,
};

/// How often it is looked, unless something gives cause.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// How far two clocks may be apart, in milliseconds.
pub const APART: i64 = 30_000;

/// Looks after the keeper.
pub(super) struct Vigil {
    /// Its device.
    pub(super) device: KeeperDevice,
    /// Says what it shows, and what time it has.
    pub(super) homeserver: Homeserver,
    /// Where it is told what is wrong.
    pub(super) troubles: Troubles,
    /// Told when the homeserver says that the keeper's own devices have changed.
    pub(super) changed: Arc<Notify>,
}

impl Vigil {
    /// Looks, for ever.
    pub(super) async fn run(self) {
        loop {
            self.look_at_clock().await;
            self.look_at_device().await;
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    async fn look_at_clock(&self) {
        // One that says no time, or does not answer, says nothing of its clock.
        let Ok(Some(theirs)) = self.homeserver.clock().await else { return };
        let apart = now_ms().saturating_sub(theirs).saturating_abs();
        self.set(Trouble::Clock, apart >= APART);
    }

    async fn look_at_device(&self) {
        let Ok(shown) = self.device.shown().await else { return };
        self.set(Trouble::OtherDevice, shown.device == Published::Other);
        self.set(Trouble::Identity, is_reset(shown));
    }

    fn set(&self, trouble: Trouble, is: bool) {
        let now = now_ms();
        match is {
            true if self.troubles.begin(trouble, now) => {
                tracing::error!(mend = trouble.mend(), "{}", trouble.cause());
            }
            false if self.troubles.end(trouble, now) => {
                tracing::info!("this is over: {}", trouble.cause());
            }
            _ => {}
        }
    }
}

/// Notes at the start whether the homeserver shows the keeper otherwise than it is, before its keys are published again,
/// which mends that: a keeper whose identity was reset may not have been able to tell.
pub(super) async fn look_back(device: &KeeperDevice, troubles: &Troubles) {
    let Ok(shown) = device.shown().await else { return };
    if is_reset(shown) {
        let now = now_ms();
        troubles.was(Trouble::Identity, now, now);
        tracing::error!(mend = Trouble::Identity.mend(), "{}", Trouble::Identity.cause());
    }
}

/// Whether clients have no reason to trust the device any more. A device that is not there is being made again.
fn is_reset(shown: Shown) -> bool {
    shown.device == Published::Same && !(shown.identity == Published::Same && shown.signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_without_its_identity_is_not_trusted() {
        use Published::{Missing, Other, Same};
        for (device, identity, signed, reset) in [
            (Same, Same, true, false),
            (Same, Other, true, true),
            (Same, Missing, false, true),
            (Same, Same, false, true),
            (Missing, Same, false, false),
        ] {
            assert_eq!(is_reset(Shown { device, identity, signed }), reset);
        }
    }
}
