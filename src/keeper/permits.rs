//! What a visit may do at once: refreshes keep to their pace, and keys that nobody asked for to their allowance.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{
    KeeperError,
    clock::now_ms,
    decide::{Cause, Reason, Recipient, Seal},
    lane::{MOST_SEALS, Visit, earliest},
    pacing::Urgency,
};
use crate::store::rooms;

/// A room in which nothing happened for this long sleeps, in milliseconds.
const SLEEPS_AFTER: i64 = 3_600_000;

impl Visit<'_> {
    /// The refreshes that may happen now: they keep to their pace. Name, topic and avatar come first; the
    /// others' turn is the next round, or the next visit.
    pub(super) async fn permitted(
        &mut self,
        refreshes: Vec<Seal>,
    ) -> Result<Vec<Seal>, KeeperError> {
        let mut permitted = Vec::new();
        for seal in refreshes {
            if permitted.len() == MOST_SEALS {
                break;
            }
            let urgency = match seal.cause {
                Cause::Device => self.urgency().await?,
                // The copy in plain was paced: until the seal comes, clients show that.
                Cause::Plain => {
                    permitted.push(seal);
                    continue;
                }
                _ => Urgency::Joiner,
            };
            match self.lanes.pacer.take(urgency, Instant::now()) {
                Ok(()) => permitted.push(seal),
                Err(wait) => self.wait(wait),
            }
        }
        Ok(permitted)
    }

    /// Spends on the devices that are given keys unasked. What cannot be afforded is left for a later visit; a
    /// seal's own recipients cost nothing, because it cannot go out without them.
    pub(super) fn affords<'r>(&mut self, recipients: impl Iterator<Item = &'r Recipient>) -> bool {
        let devices: BTreeSet<_> = recipients
            .filter(|to| to.reason != Reason::Seal && !to.reason.is_asked())
            .map(|to| (&to.user_id, &to.device_id))
            .collect();
        let spent = self.lanes.unasked.spend(devices.len(), Instant::now());
        spent.map_err(|wait| self.wait(wait)).is_ok()
    }

    pub(super) fn wait(&mut self, wait: Duration) {
        let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX).max(1);
        self.again_at = earliest(self.again_at, Some(now_ms().saturating_add(wait)));
    }

    pub(super) async fn urgency(&self) -> Result<Urgency, KeeperError> {
        let db = &mut *self.lanes.taker.store.read().await?;
        let active_at = rooms::active_at(db, &self.room.room_id).await?;
        let sleeps = now_ms().saturating_sub(active_at) > SLEEPS_AFTER;
        Ok(if sleeps { Urgency::SleepingRoom } else { Urgency::ActiveRoom })
    }
}
