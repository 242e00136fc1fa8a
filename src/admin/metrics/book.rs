//! Where metrics are made: none can be made without saying what it means.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, core::Collector,
};

use super::MetricsError;

/// What is said of a metric where it is made, in the words that `docs/METRICS.md` prints.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name.
    pub name: &'static str,
    /// What it counts or measures, in one sentence; Prometheus shows it as the metric's help.
    pub help: &'static str,
    /// Each label, and which values it has and what they mean.
    pub labels: &'static [(&'static str, &'static str)],
    /// When somebody has to look at it, and why.
    pub worry: &'static str,
}

/// What kind of number a metric is, in Prometheus' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the process ends.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It counts how often a value was at most this large.
    Histogram,
}

impl Kind {
    /// Prometheus' word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric in the book.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What is said of it.
    pub about: About,
    /// What kind of number it is.
    pub kind: Kind,
}

/// Makes metrics, puts them into one registry, and remembers what was said of each.
#[derive(Debug, Default)]
pub struct Book {
    registry: Registry,
    entries: Vec<Entry>,
}

impl Book {
    /// A counter without labels.
    pub fn counter(&mut self, about: About) -> Result<IntCounter, MetricsError> {
        self.enter(about, Kind::Counter, IntCounter::with_opts(opts(about))?)
    }

    /// A counter for each combination of its labels' values.
    pub fn counters(&mut self, about: About) -> Result<IntCounterVec, MetricsError> {
        self.enter(about, Kind::Counter, IntCounterVec::new(opts(about), &names(about))?)
    }

    /// A whole number that goes up and down, without labels.
    pub fn gauge(&mut self, about: About) -> Result<IntGauge, MetricsError> {
        self.enter(about, Kind::Gauge, IntGauge::with_opts(opts(about))?)
    }

    /// A number that goes up and down, without labels.
    pub fn seconds(&mut self, about: About) -> Result<Gauge, MetricsError> {
        self.enter(about, Kind::Gauge, Gauge::with_opts(opts(about))?)
    }

    /// A gauge for each value of its one label, set as a whole.
    pub fn labelled_gauge(&mut self, about: About) -> Result<LabelledGauge, MetricsError> {
        let gauge =
            self.enter(about, Kind::Gauge, IntGaugeVec::new(opts(about), &names(about))?)?;
        Ok(LabelledGauge { gauge, known: Mutex::default() })
    }

    /// A histogram without labels, in seconds.
    pub fn histogram(&mut self, about: About, buckets: &[f64]) -> Result<Histogram, MetricsError> {
        let options = HistogramOpts::from(opts(about)).buckets(buckets.to_vec());
        self.enter(about, Kind::Histogram, Histogram::with_opts(options)?)
    }

    /// A histogram for each combination of its labels' values, in seconds.
    pub fn histograms(
        &mut self,
        about: About,
        buckets: &[f64],
    ) -> Result<HistogramVec, MetricsError> {
        let options = HistogramOpts::from(opts(about)).buckets(buckets.to_vec());
        self.enter(about, Kind::Histogram, HistogramVec::new(options, &names(about))?)
    }

    /// Puts a collector that says its own names into the registry. What is said of them in `entries` is all
    /// that the book knows of them.
    pub fn collector(
        &mut self,
        collector: impl Collector + 'static,
        entries: &[Entry],
    ) -> Result<(), MetricsError> {
        self.registry.register(Box::new(collector))?;
        self.entries.extend_from_slice(entries);
        Ok(())
    }

    /// The registry, and what was said of each metric in it.
    pub fn close(self) -> (Registry, Vec<Entry>) {
        (self.registry, self.entries)
    }

    fn enter<M: Collector + Clone + 'static>(
        &mut self,
        about: About,
        kind: Kind,
        metric: M,
    ) -> Result<M, MetricsError> {
        self.registry.register(Box::new(metric.clone()))?;
        self.entries.push(Entry { about, kind });
        Ok(metric)
    }
}

fn opts(about: About) -> Opts {
    Opts::new(about.name, about.help)
}

fn names(about: About) -> Vec<&'static str> {
    about.labels.iter().map(|(name, _)| *name).collect()
}

/// A gauge that is set as a whole: a label that is no longer named falls to zero.
#[derive(Debug)]
pub struct LabelledGauge {
    gauge: IntGaugeVec,
    known: Mutex<BTreeSet<String>>,
}

impl LabelledGauge {
    /// Sets the gauge of each label's value; those that are not in `values` any more fall to zero.
    pub fn set_all(&self, values: &BTreeMap<&str, i64>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(values.keys().map(|label| (*label).to_owned()));
        for label in &*known {
            let value = values.get(label.as_str()).copied().unwrap_or(0);
            self.gauge.with_label_values(&[label]).set(value);
        }
    }
}
