//! The numbers that the dashboard draws over time, as they stand now.

use std::collections::BTreeMap;

use prometheus::{IntCounterVec, core::Collector as _};

use super::{JOIN_TO_KEY_BUCKETS, Metrics};

/// What was counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Keys that the homeserver took for a device.
    pub given: u64,
    /// Keys that policy withheld from one.
    pub refused: u64,
    /// Joins by how long their keys took: one number for each bound of [`Tally::bounds`], not cumulated, and one for
    /// those beyond.
    pub joins: Vec<u64>,
    /// Retired sessions, by reason.
    pub rotations: BTreeMap<String, u64>,
    /// How many members are held now.
    pub held: u64,
}

impl Tally {
    /// The bounds of [`Tally::joins`], in seconds.
    pub fn bounds() -> &'static [f64] {
        JOIN_TO_KEY_BUCKETS
    }
}

impl Metrics {
    /// What was counted so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally {
            given: by_label(&self.inner.room_keys_shared).values().sum(),
            refused: by_label(&self.inner.room_keys_withheld).values().sum(),
            joins: self.joins(),
            rotations: by_label(&self.inner.rotations),
            held: u64::try_from(self.inner.holds.get()).unwrap_or(0),
        }
    }

    /// How long ago the oldest of what is due fell due, in seconds.
    #[must_use]
    pub fn oldest_due(&self) -> f64 {
        self.inner.oldest_due.get()
    }

    fn joins(&self) -> Vec<u64> {
        let mut joins = Vec::new();
        let mut before = 0;
        for family in self.inner.join_to_key.collect() {
            for metric in family.get_metric() {
                let histogram = metric.get_histogram();
                for bucket in histogram.get_bucket() {
                    joins.push(bucket.cumulative_count().saturating_sub(before));
                    before = bucket.cumulative_count();
                }
                joins.push(histogram.get_sample_count().saturating_sub(before));
            }
        }
        joins
    }
}

/// The counters of a family with one label, by its value.
fn by_label(counters: &IntCounterVec) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for family in counters.collect() {
        for metric in family.get_metric() {
            let label = metric.get_label().first().map(|label| label.value().to_owned());
            if let Ok(counter) =
                counters.get_metric_with_label_values(&[label.as_deref().unwrap_or_default()])
            {
                all.insert(label.unwrap_or_default(), counter.get());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_has_each_number_once() {
        let metrics = Metrics::new().unwrap();
        metrics.room_keys_shared("join", 3);
        metrics.room_keys_shared("seal", 2);
        metrics.room_keys_withheld("m.unverified", 1);
        metrics.rotations("admin", 2);
        metrics.set_holds(4);
        for seconds in [0.001, 0.2, 0.24, 1000.0] {
            metrics.join_to_key(seconds);
        }
        let tally = metrics.tally();
        assert_eq!((tally.given, tally.refused, tally.held), (5, 1, 4));
        assert_eq!(tally.rotations.get("admin"), Some(&2));
        assert_eq!(tally.joins.len(), Tally::bounds().len() + 1);
        assert_eq!((tally.joins[0], tally.joins[8], tally.joins.iter().sum::<u64>()), (1, 2, 4));
        assert_eq!(tally.joins.last(), Some(&1));
    }
}
