//! The keeper's numbers, in the names that the contract promises.
//!
//! Labels are `&'static str` wherever the keeper chooses them, so that nothing a stranger sends can
//! become a time series.

mod book;
mod catalogue;
pub mod reference;
mod spaces;
mod tally;

use std::{collections::BTreeMap, sync::Arc};

use prometheus::{
    Encoder, Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry,
    TextEncoder,
};

use self::book::{Book, LabelledGauge};
pub use self::{
    book::{About, Entry, Kind},
    tally::Tally,
};
use super::{Trouble, Troubles};
use crate::appservice::{TransactionObserver, TransactionOutcome};

/// Seconds. A share is measured in tens of milliseconds, and the worst of them is the gate's
/// timeout and a homeserver's retries after it.
const JOIN_TO_KEY_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Seconds. From a local request up to a long poll.
const REQUEST_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// What the keeper waits for before it can work, in the names of [`Readiness`](super::Readiness).
const PARTS: [&str; 4] = ["store", "homeserver", "device", "rooms"];

/// A metric was defined twice or with a name that Prometheus does not take.
#[derive(Debug, thiserror::Error)]
#[error("a metric cannot be registered: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// All metrics of one keeper, in a registry of their own. Clones share the numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    entries: Vec<Entry>,
    missing: LabelledGauge,
    trouble: LabelledGauge,
    trouble_last_begun: LabelledGauge,
    rooms: LabelledGauge,
    transactions: IntCounterVec,
    events_dropped: IntCounter,
    room_keys_shared: IntCounterVec,
    room_keys_withheld: IntCounterVec,
    state_events_sealed: IntCounterVec,
    state_refused: IntCounterVec,
    policy_violations: IntCounterVec,
    state_restored: IntCounter,
    plain_copies: IntCounterVec,
    membership_reasons: IntCounter,
    undecryptable_state_events: IntGauge,
    holds: IntGauge,
    wars: IntGauge,
    intents: LabelledGauge,
    oldest_due: Gauge,
    join_to_key: Histogram,
    homeserver_requests: IntCounterVec,
    homeserver_request_seconds: HistogramVec,
    key_requests: IntCounterVec,
    key_requests_queued: IntGauge,
    rate_limited: IntCounterVec,
    key_request_seconds: Histogram,
    one_time_keys: LabelledGauge,
    rotations: IntCounterVec,
    sessions: LabelledGauge,
    rotation_seconds: Histogram,
    spaces: LabelledGauge,
    space_rooms: LabelledGauge,
    space_provisioned: IntCounterVec,
    space_backlog: IntGauge,
    bundles_sent: IntCounter,
}

impl Metrics {
    /// Metrics that all stand at zero, with the process's own beside them where the platform has
    /// them.
    ///
    /// # Errors
    /// When two metrics were given one name; no input can cause it.
    pub fn new() -> Result<Self, MetricsError> {
        let mut book = Book::default();
        register_process_metrics(&mut book)?;
        let build_info = book.labelled_gauge(catalogue::BUILD_INFO)?;
        let mut inner = Inner {
            missing: book.labelled_gauge(catalogue::MISSING)?,
            trouble: book.labelled_gauge(catalogue::TROUBLE)?,
            trouble_last_begun: book.labelled_gauge(catalogue::TROUBLE_LAST_BEGUN)?,
            rooms: book.labelled_gauge(catalogue::ROOMS)?,
            transactions: book.counters(catalogue::TRANSACTIONS)?,
            events_dropped: book.counter(catalogue::EVENTS_DROPPED)?,
            room_keys_shared: book.counters(catalogue::ROOM_KEYS_SHARED)?,
            room_keys_withheld: book.counters(catalogue::ROOM_KEYS_WITHHELD)?,
            state_events_sealed: book.counters(catalogue::STATE_EVENTS_SEALED)?,
            state_refused: book.counters(catalogue::STATE_REFUSED)?,
            policy_violations: book.counters(catalogue::POLICY_VIOLATIONS)?,
            state_restored: book.counter(catalogue::STATE_RESTORED)?,
            plain_copies: book.counters(catalogue::PLAIN_COPIES)?,
            membership_reasons: book.counter(catalogue::MEMBERSHIP_REASONS)?,
            undecryptable_state_events: book.gauge(catalogue::UNDECRYPTABLE)?,
            holds: book.gauge(catalogue::HOLDS)?,
            wars: book.gauge(catalogue::WARS)?,
            intents: book.labelled_gauge(catalogue::INTENTS)?,
            oldest_due: book.seconds(catalogue::OLDEST_DUE)?,
            join_to_key: book.histogram(catalogue::JOIN_TO_KEY, JOIN_TO_KEY_BUCKETS)?,
            homeserver_requests: book.counters(catalogue::HOMESERVER_REQUESTS)?,
            homeserver_request_seconds: book
                .histograms(catalogue::HOMESERVER_REQUEST_SECONDS, REQUEST_BUCKETS)?,
            key_requests: book.counters(catalogue::KEY_REQUESTS)?,
            key_requests_queued: book.gauge(catalogue::KEY_REQUESTS_QUEUED)?,
            rate_limited: book.counters(catalogue::RATE_LIMITED)?,
            key_request_seconds: book
                .histogram(catalogue::KEY_REQUEST_SECONDS, JOIN_TO_KEY_BUCKETS)?,
            one_time_keys: book.labelled_gauge(catalogue::ONE_TIME_KEYS)?,
            rotations: book.counters(catalogue::ROTATIONS)?,
            sessions: book.labelled_gauge(catalogue::SESSIONS)?,
            rotation_seconds: book.histogram(catalogue::ROTATION_SECONDS, JOIN_TO_KEY_BUCKETS)?,
            spaces: book.labelled_gauge(catalogue::SPACES)?,
            space_rooms: book.labelled_gauge(catalogue::SPACE_ROOMS)?,
            space_provisioned: book.counters(catalogue::SPACE_PROVISIONED)?,
            space_backlog: book.gauge(catalogue::SPACE_BACKLOG)?,
            bundles_sent: book.counter(catalogue::BUNDLES_SENT)?,
            registry: Registry::new(),
            entries: Vec::new(),
        };
        (inner.registry, inner.entries) = book.close();
        build_info.set_all(&BTreeMap::from([(env!("CARGO_PKG_VERSION"), 1)]));
        inner.missing.set_all(&BTreeMap::from(PARTS.map(|part| (part, 0))));
        for gauge in [&inner.trouble, &inner.trouble_last_begun] {
            gauge.set_all(&Trouble::ALL.iter().map(|trouble| (trouble.as_str(), 0)).collect());
        }
        // An alert on a rate needs the series before the first failure, not after it.
        for outcome in TransactionOutcome::ALL {
            inner.transactions.with_label_values(&[outcome.as_str()]);
        }
        inner.state_refused.with_label_values(&["war"]);
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What is said of each metric, in no particular order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.inner.entries
    }

    /// Sets `statekeeper_missing`: the parts that the keeper waits for.
    pub fn set_missing(&self, parts: &[&str]) {
        self.inner.missing.set_all(&parts.iter().map(|part| (*part, 1)).collect());
    }

    /// Sets `statekeeper_trouble` and `statekeeper_trouble_last_begun_seconds`.
    pub fn set_troubles(&self, troubles: &Troubles) {
        let lasting = troubles.lasting();
        self.inner.trouble.set_all(&lasting.iter().map(|it| (it.trouble.as_str(), 1)).collect());
        let begun = troubles.last_begun();
        let begun = begun.iter().map(|(trouble, at)| (trouble.as_str(), at / 1000)).collect();
        self.inner.trouble_last_begun.set_all(&begun);
    }

    /// Sets `statekeeper_one_time_keys`: how many the homeserver says are left, by algorithm.
    pub fn set_one_time_keys(&self, by_algorithm: &BTreeMap<&str, i64>) {
        self.inner.one_time_keys.set_all(by_algorithm);
    }

    /// Sets `statekeeper_oldest_due_seconds`.
    pub fn set_oldest_due(&self, seconds: f64) {
        self.inner.oldest_due.set(seconds);
    }

    /// Sets `statekeeper_rooms`: how many rooms stand at each status. A status that is not in
    /// `by_status` any more falls to zero.
    pub fn set_rooms(&self, by_status: &BTreeMap<&str, i64>) {
        self.inner.rooms.set_all(by_status);
    }

    /// Sets `statekeeper_intents`: how many intents stand in each state. A state that is not in
    /// `by_state` any more falls to zero.
    pub fn set_intents(&self, by_state: &BTreeMap<&str, i64>) {
        self.inner.intents.set_all(by_state);
    }

    /// Counts one transaction of the homeserver in `statekeeper_transactions_total`.
    pub fn transaction(&self, outcome: TransactionOutcome) {
        self.inner.transactions.with_label_values(&[outcome.as_str()]).inc();
    }

    /// Counts events in `statekeeper_events_dropped_total`.
    pub fn events_dropped(&self, count: u64) {
        self.inner.events_dropped.inc_by(count);
    }

    /// Counts `count` room keys, each handed to one device, in
    /// `statekeeper_room_keys_shared_total`.
    pub fn room_keys_shared(&self, reason: &'static str, count: u64) {
        self.inner.room_keys_shared.with_label_values(&[reason]).inc_by(count);
    }

    /// Counts `count` room keys withheld from devices in `statekeeper_room_keys_withheld_total`.
    /// `code` is a withheld code of the specification, such as `m.unverified`.
    pub fn room_keys_withheld(&self, code: &'static str, count: u64) {
        self.inner.room_keys_withheld.with_label_values(&[code]).inc_by(count);
    }

    /// Counts one sealed state event in `statekeeper_state_events_sealed_total`.
    pub fn state_event_sealed(&self, cause: &'static str) {
        self.inner.state_events_sealed.with_label_values(&[cause]).inc();
    }

    /// Counts one broken rule in `statekeeper_policy_violations_total`.
    pub fn policy_violation(&self, rule: &'static str, action: &'static str) {
        self.inner.policy_violations.with_label_values(&[rule, action]).inc();
    }

    /// Counts one value that was said again in `statekeeper_state_restored_total`.
    pub fn state_restored(&self) {
        self.inner.state_restored.inc();
    }

    /// Counts one state event that the keeper refused to reseal in
    /// `statekeeper_state_refused_total`.
    pub fn state_refused(&self, rule: &'static str) {
        self.inner.state_refused.with_label_values(&[rule]).inc();
    }

    /// Counts one copy in plain in `statekeeper_plain_copies_total`.
    pub fn plain_copy(&self, what: &'static str) {
        self.inner.plain_copies.with_label_values(&[what]).inc();
    }

    /// Counts one membership event that gave a reason in `statekeeper_membership_reasons_total`.
    pub fn membership_reason(&self) {
        self.inner.membership_reasons.inc();
    }

    /// Sets `statekeeper_undecryptable_state_events`, over all rooms.
    pub fn set_undecryptable_state_events(&self, count: i64) {
        self.inner.undecryptable_state_events.set(count);
    }

    /// Sets `statekeeper_wars`, over the rooms that the keeper is in.
    pub fn set_wars(&self, count: usize) {
        self.inner.wars.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets `statekeeper_holds`, over all rooms.
    pub fn set_holds(&self, count: i64) {
        self.inner.holds.set(count);
    }

    /// Records one join in `statekeeper_join_to_key_seconds`: the time from the membership event's
    /// arrival to the 200 of its last key.
    pub fn join_to_key(&self, seconds: f64) {
        self.inner.join_to_key.observe(seconds);
    }

    /// Records one request to the homeserver. `endpoint` is a name of the client, never a path;
    /// `status` is the HTTP status, or a word such as `timeout` when there was none.
    pub fn homeserver_request(&self, endpoint: &'static str, status: &str, seconds: f64) {
        self.inner.homeserver_requests.with_label_values(&[endpoint, status]).inc();
        self.inner.homeserver_request_seconds.with_label_values(&[endpoint]).observe(seconds);
    }

    /// Makes the series of `statekeeper_key_requests_total` and `statekeeper_rate_limited_total` stand at zero: an
    /// alert on a rate needs them before the first request.
    pub fn expect_key_requests(&self, outcomes: &[&'static str], scopes: &[&'static str]) {
        for outcome in outcomes {
            self.inner.key_requests.with_label_values(&[outcome]);
        }
        for scope in scopes {
            self.inner.rate_limited.with_label_values(&[scope]);
        }
    }

    /// Counts one `m.room_key_request` in `statekeeper_key_requests_total`.
    pub fn key_request(&self, outcome: &'static str) {
        self.inner.key_requests.with_label_values(&[outcome]).inc();
    }

    /// Sets `statekeeper_key_requests_queued`.
    pub fn set_key_requests_queued(&self, count: i64) {
        self.inner.key_requests_queued.set(count);
    }

    /// Counts one key request that was over a budget in `statekeeper_rate_limited_total`. `scope` is
    /// the budget that was short: `device`, `user`, `room` or `overall`.
    pub fn rate_limited(&self, scope: &'static str) {
        self.inner.rate_limited.with_label_values(&[scope]).inc();
    }

    /// Records one answer in `statekeeper_key_request_seconds`: the time from the key request's
    /// arrival to the answer's 200.
    pub fn key_request_answered(&self, seconds: f64) {
        self.inner.key_request_seconds.observe(seconds);
    }

    /// Makes the series of `statekeeper_rotations_total` stand at zero.
    pub fn expect_rotations(&self, reasons: &[&'static str]) {
        for reason in reasons {
            self.inner.rotations.with_label_values(&[reason]);
        }
    }

    /// Makes the series of `statekeeper_plain_copies_total` stand at zero.
    pub fn expect_plain_copies(&self, whats: &[&'static str]) {
        for what in whats {
            self.inner.plain_copies.with_label_values(&[what]);
        }
    }

    /// Counts retired sessions in `statekeeper_rotations_total`.
    pub fn rotations(&self, reason: &str, count: u64) {
        self.inner.rotations.with_label_values(&[reason]).inc_by(count);
    }

    /// Sets `statekeeper_sessions`.
    pub fn set_sessions(&self, by_state: &BTreeMap<&str, i64>) {
        self.inner.sessions.set_all(by_state);
    }

    /// Puts one rotation into `statekeeper_rotation_seconds`.
    pub fn rotation_done(&self, seconds: f64) {
        self.inner.rotation_seconds.observe(seconds);
    }

    /// All metrics in Prometheus' text format 0.0.4.
    ///
    /// # Errors
    /// When the registry holds a metric that cannot be written; no input can cause it.
    pub fn render(&self) -> Result<String, MetricsError> {
        Ok(TextEncoder::new().encode_to_string(&self.inner.registry.gather())?)
    }

    /// The media type of what [`Metrics::render`] returns.
    #[must_use]
    pub fn content_type() -> String {
        TextEncoder::new().format_type().to_owned()
    }
}

impl TransactionObserver for Metrics {
    fn transaction(&self, outcome: TransactionOutcome) {
        Metrics::transaction(self, outcome);
    }

    fn events_dropped(&self, count: u64) {
        Metrics::events_dropped(self, count);
    }
}

#[cfg(target_os = "linux")]
fn register_process_metrics(book: &mut Book) -> Result<(), MetricsError> {
    let process = prometheus::process_collector::ProcessCollector::for_self();
    book.collector(process, &catalogue::PROCESS)
}

#[cfg(not(target_os = "linux"))]
fn register_process_metrics(_book: &mut Book) -> Result<(), MetricsError> {
    Ok(())
}

#[cfg(test)]
mod tests;
