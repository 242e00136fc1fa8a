//! What is counted of spaces.

use std::collections::BTreeMap;

use super::Metrics;

impl Metrics {
    /// Makes the series of spaces stand at zero.
    pub fn expect_spaces(&self, rooms: &[&'static str], outcomes: &[&'static str]) {
        self.inner.space_rooms.set_all(&rooms.iter().map(|status| (*status, 0)).collect());
        self.inner.spaces.set_all(&BTreeMap::from([("followed", 0)]));
        for outcome in outcomes {
            self.inner.space_provisioned.with_label_values(&[outcome]);
        }
    }

    /// Sets `statekeeper_spaces` and `statekeeper_space_rooms`, by status.
    pub fn set_spaces(&self, spaces: &BTreeMap<String, i64>, rooms: &BTreeMap<String, i64>) {
        self.inner.spaces.set_all(&borrowed(spaces));
        self.inner.space_rooms.set_all(&borrowed(rooms));
    }

    /// Counts keys for people who have not joined in `statekeeper_space_provisioned_total`.
    pub fn space_provisioned(&self, outcome: &'static str, count: u64) {
        self.inner.space_provisioned.with_label_values(&[outcome]).inc_by(count);
    }

    /// Counts devices that were given a bundle of history keys in `statekeeper_bundles_sent_total`.
    pub fn bundles_sent(&self, devices: usize) {
        self.inner.bundles_sent.inc_by(u64::try_from(devices).unwrap_or(u64::MAX));
    }

    /// Sets `statekeeper_space_backlog`, over all spaces.
    pub fn set_space_backlog(&self, count: i64) {
        self.inner.space_backlog.set(count);
    }
}

fn borrowed(counts: &BTreeMap<String, i64>) -> BTreeMap<&str, i64> {
    counts.iter().map(|(status, count)| (status.as_str(), *count)).collect()
}
