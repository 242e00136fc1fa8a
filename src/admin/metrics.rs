//! The keeper's numbers, in the names that the contract promises.
//!
//! Labels are `&'static str` wherever the keeper chooses them, so that nothing a stranger sends can
//! become a time series.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

use crate::appservice::{TransactionObserver, TransactionOutcome};

/// Seconds. A share is measured in tens of milliseconds, and the worst of them is the gate's
/// timeout and a homeserver's retries after it.
const JOIN_TO_KEY_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Seconds. From a local request up to a long poll.
const REQUEST_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

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
    rooms: LabelledGauge,
    transactions: IntCounterVec,
    events_dropped: IntCounter,
    room_keys_shared: IntCounterVec,
    room_keys_withheld: IntCounterVec,
    state_events_sealed: IntCounterVec,
    state_refused: IntCounterVec,
    policy_violations: IntCounterVec,
    state_restored: IntCounter,
    membership_reasons: IntCounter,
    undecryptable_state_events: IntGauge,
    holds: IntGauge,
    intents: LabelledGauge,
    join_to_key: Histogram,
    homeserver_requests: IntCounterVec,
    homeserver_request_seconds: HistogramVec,
    key_requests: IntCounterVec,
    key_requests_queued: IntGauge,
    rate_limited: IntCounterVec,
    key_request_seconds: Histogram,
    rotations: IntCounterVec,
    sessions: LabelledGauge,
    rotation_seconds: Histogram,
}

/// A gauge that is set as a whole: a label that is no longer named falls to zero.
#[derive(Debug)]
struct LabelledGauge {
    gauge: IntGaugeVec,
    known: Mutex<BTreeSet<String>>,
}

impl LabelledGauge {
    fn new(registry: &Registry, name: &str, help: &str, label: &str) -> Result<Self, MetricsError> {
        let gauge = register(registry, IntGaugeVec::new(Opts::new(name, help), &[label])?)?;
        Ok(Self { gauge, known: Mutex::default() })
    }

    fn set_all(&self, values: &BTreeMap<&str, i64>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(values.keys().map(|label| (*label).to_owned()));
        for label in &*known {
            let value = values.get(label.as_str()).copied().unwrap_or(0);
            self.gauge.with_label_values(&[label]).set(value);
        }
    }
}

impl Metrics {
    /// Metrics that all stand at zero, with the process's own beside them where the platform has
    /// them.
    ///
    /// # Errors
    /// When two metrics were given one name; no input can cause it.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        register_process_metrics(&registry)?;
        let build_info = register(
            &registry,
            IntGaugeVec::new(
                Opts::new("statekeeper_build_info", "Always 1; the label says what is running."),
                &["version"],
            )?,
        )?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);

        let counter = |name, help, label| counters(&registry, name, help, &[label]);
        let inner = Inner {
            rooms: LabelledGauge::new(
                &registry,
                "statekeeper_rooms",
                "Rooms that the keeper knows, by status.",
                "status",
            )?,
            transactions: counter(
                "statekeeper_transactions_total",
                "Transactions that the homeserver pushed, by what became of them.",
                "outcome",
            )?,
            events_dropped: register(
                &registry,
                IntCounter::new(
                    "statekeeper_events_dropped_total",
                    "Pushed events without a usable event id or room id.",
                )?,
            )?,
            room_keys_shared: counter(
                "statekeeper_room_keys_shared_total",
                "Room keys that the homeserver took for a device, by the reason for sharing.",
                "reason",
            )?,
            room_keys_withheld: counter(
                "statekeeper_room_keys_withheld_total",
                "Room keys that policy withheld from a device, by withheld code.",
                "code",
            )?,
            state_events_sealed: counter(
                "statekeeper_state_events_sealed_total",
                "State events that the keeper encrypted and sent, by cause.",
                "cause",
            )?,
            state_refused: counter(
                "statekeeper_state_refused_total",
                "State that the keeper found unfit to reseal, by the rule that it broke.",
                "rule",
            )?,
            policy_violations: counters(
                &registry,
                "statekeeper_policy_violations_total",
                "State events that broke a rule of `enforce`, by what the keeper does about it.",
                &["rule", "action"],
            )?,
            state_restored: register(
                &registry,
                IntCounter::new(
                    "statekeeper_state_restored_total",
                    "Values that were said again over what broke a rule.",
                )?,
            )?,
            membership_reasons: register(
                &registry,
                IntCounter::new(
                    "statekeeper_membership_reasons_total",
                    "Membership events that gave a reason, where the policy warns of that.",
                )?,
            )?,
            undecryptable_state_events: register(
                &registry,
                IntGauge::new(
                    "statekeeper_undecryptable_state_events",
                    "Current encrypted state events that the keeper itself cannot read.",
                )?,
            )?,
            holds: register(
                &registry,
                IntGauge::new(
                    "statekeeper_holds",
                    "Members about whom an administrator has to decide.",
                )?,
            )?,
            intents: LabelledGauge::new(
                &registry,
                "statekeeper_intents",
                "What the keeper decided to do and has not finished, by state.",
                "state",
            )?,
            join_to_key: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "statekeeper_join_to_key_seconds",
                        "From a membership event's arrival to the 200 of its last key.",
                    )
                    .buckets(JOIN_TO_KEY_BUCKETS.to_vec()),
                )?,
            )?,
            homeserver_requests: counters(
                &registry,
                "statekeeper_homeserver_requests_total",
                "Requests to the homeserver, by endpoint and status.",
                &["endpoint", "status"],
            )?,
            homeserver_request_seconds: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "statekeeper_homeserver_request_seconds",
                        "How long the homeserver took to answer, by endpoint.",
                    )
                    .buckets(REQUEST_BUCKETS.to_vec()),
                    &["endpoint"],
                )?,
            )?,
            key_requests: counter(
                "statekeeper_key_requests_total",
                "Key requests that devices sent, by what became of them.",
                "outcome",
            )?,
            key_requests_queued: register(
                &registry,
                IntGauge::new(
                    "statekeeper_key_requests_queued",
                    "Key requests that wait for a budget.",
                )?,
            )?,
            rate_limited: counter(
                "statekeeper_rate_limited_total",
                "Key requests that had to wait or were dropped, by the budget that was short.",
                "scope",
            )?,
            key_request_seconds: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "statekeeper_key_request_seconds",
                        "From a key request's arrival to the 200 of its answer.",
                    )
                    .buckets(JOIN_TO_KEY_BUCKETS.to_vec()),
                )?,
            )?,
            rotations: counter(
                "statekeeper_rotations_total",
                "State sessions that were retired, by reason.",
                "reason",
            )?,
            sessions: LabelledGauge::new(
                &registry,
                "statekeeper_sessions",
                "State sessions that the keeper made, by whether they may still encrypt.",
                "state",
            )?,
            rotation_seconds: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "statekeeper_rotation_seconds",
                        "From a session's retirement to the 200 of the last key of the one that \
                         follows, where that is shared at once.",
                    )
                    .buckets(JOIN_TO_KEY_BUCKETS.to_vec()),
                )?,
            )?,
            registry,
        };
        // An alert on a rate needs the series before the first failure, not after it.
        for outcome in TransactionOutcome::ALL {
            inner.transactions.with_label_values(&[outcome.as_str()]);
        }
        Ok(Self { inner: Arc::new(inner) })
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

    /// Counts one membership event that gave a reason in `statekeeper_membership_reasons_total`.
    pub fn membership_reason(&self) {
        self.inner.membership_reasons.inc();
    }

    /// Sets `statekeeper_undecryptable_state_events`, over all rooms.
    pub fn set_undecryptable_state_events(&self, count: i64) {
        self.inner.undecryptable_state_events.set(count);
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

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, MetricsError> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn register<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> Result<M, MetricsError> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(target_os = "linux")]
fn register_process_metrics(registry: &Registry) -> Result<(), MetricsError> {
    let process = prometheus::process_collector::ProcessCollector::for_self();
    Ok(registry.register(Box::new(process))?)
}

#[cfg(not(target_os = "linux"))]
fn register_process_metrics(_registry: &Registry) -> Result<(), MetricsError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(metrics: &Metrics) -> Vec<String> {
        metrics.render().unwrap().lines().map(ToOwned::to_owned).collect()
    }

    #[track_caller]
    fn assert_shows(metrics: &Metrics, line: &str) {
        let lines = rendered(metrics);
        assert!(lines.iter().any(|shown| shown == line), "no `{line}` in {lines:#?}");
    }

    #[test]
    fn every_metric_of_the_contract_is_shown_under_its_name() {
        let metrics = Metrics::new().unwrap();
        metrics.set_rooms(&BTreeMap::from([("active", 3), ("not_elevated", 1)]));
        metrics.transaction(TransactionOutcome::Duplicate);
        metrics.events_dropped(2);
        metrics.room_keys_shared("join", 7);
        metrics.room_keys_withheld("m.unverified", 1);
        metrics.state_event_sealed("reseal");
        metrics.state_refused("replayed");
        metrics.membership_reason();
        metrics.set_undecryptable_state_events(4);
        metrics.set_holds(6);
        metrics.set_intents(&BTreeMap::from([("pending", 5)]));
        metrics.join_to_key(0.04);
        metrics.homeserver_request("keys_query", "200", 0.006);
        metrics.key_request("answered");
        metrics.set_key_requests_queued(6);
        metrics.rate_limited("room");
        metrics.key_request_answered(0.02);
        metrics.rotations("member_left", 2);
        metrics.set_sessions(&BTreeMap::from([("active", 3), ("retired", 1)]));
        metrics.rotation_done(5.5);

        let version = env!("CARGO_PKG_VERSION");
        for line in [
            &format!("statekeeper_build_info{{version=\"{version}\"}} 1"),
            "statekeeper_rooms{status=\"active\"} 3",
            "statekeeper_rooms{status=\"not_elevated\"} 1",
            "statekeeper_transactions_total{outcome=\"duplicate\"} 1",
            "statekeeper_events_dropped_total 2",
            "statekeeper_room_keys_shared_total{reason=\"join\"} 7",
            "statekeeper_room_keys_withheld_total{code=\"m.unverified\"} 1",
            "statekeeper_state_events_sealed_total{cause=\"reseal\"} 1",
            "statekeeper_state_refused_total{rule=\"replayed\"} 1",
            "statekeeper_membership_reasons_total 1",
            "statekeeper_undecryptable_state_events 4",
            "statekeeper_holds 6",
            "statekeeper_intents{state=\"pending\"} 5",
            "statekeeper_join_to_key_seconds_bucket{le=\"0.05\"} 1",
            "statekeeper_join_to_key_seconds_bucket{le=\"0.035\"} 0",
            "statekeeper_homeserver_requests_total{endpoint=\"keys_query\",status=\"200\"} 1",
            "statekeeper_homeserver_request_seconds_count{endpoint=\"keys_query\"} 1",
            "statekeeper_key_requests_total{outcome=\"answered\"} 1",
            "statekeeper_key_requests_queued 6",
            "statekeeper_rate_limited_total{scope=\"room\"} 1",
            "statekeeper_key_request_seconds_bucket{le=\"0.02\"} 1",
            "statekeeper_rotations_total{reason=\"member_left\"} 2",
            "statekeeper_sessions{state=\"retired\"} 1",
            "statekeeper_rotation_seconds_bucket{le=\"10\"} 1",
        ] {
            assert_shows(&metrics, line);
        }
    }

    #[test]
    fn every_transaction_outcome_is_shown_before_it_first_happens() {
        let metrics = Metrics::new().unwrap();
        for outcome in ["accepted", "duplicate", "unauthorized", "malformed", "too_large", "failed"]
        {
            assert_shows(
                &metrics,
                &format!("statekeeper_transactions_total{{outcome=\"{outcome}\"}} 0"),
            );
        }
    }

    #[test]
    fn a_status_that_no_room_has_any_more_falls_to_zero() {
        let metrics = Metrics::new().unwrap();
        metrics.set_rooms(&BTreeMap::from([("not_elevated", 1)]));
        metrics.set_rooms(&BTreeMap::from([("active", 1)]));
        assert_shows(&metrics, "statekeeper_rooms{status=\"not_elevated\"} 0");
        assert_shows(&metrics, "statekeeper_rooms{status=\"active\"} 1");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_resident_memory_of_the_process_is_shown() {
        let metrics = Metrics::new().unwrap();
        let resident = rendered(&metrics)
            .iter()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "))
            .map(|bytes| bytes.parse::<f64>().unwrap());
        assert!(resident.is_some_and(|bytes| bytes > 0.0), "{resident:?}");
    }

    #[test]
    fn two_keepers_in_one_process_do_not_share_their_numbers() {
        let (one, other) = (Metrics::new().unwrap(), Metrics::new().unwrap());
        one.set_undecryptable_state_events(9);
        assert_shows(&other, "statekeeper_undecryptable_state_events 0");
    }
}
