//! Trouble on purpose: errors, limits, delays, silence, dead servers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing: it is the one after it that counts.
    Nothing,
    /// Answered with this status and `M_UNKNOWN`, nothing done.
    Status(u16),
    /// 429 `M_LIMIT_EXCEEDED`, to be repeated after so many milliseconds.
    Limited { retry_after_ms: u64 },
    /// Never answered, nothing done.
    Hang,
    /// Done, and never answered.
    DoneThenHang,
    /// Done, and answered with this status.
    DoneThenStatus(u16),
}

/// A remote server that does not answer.
#[derive(Clone, Copy, Debug)]
pub struct DeadServer {
    /// How long the own server waits for it.
    pub delay: Duration,
    /// False: device lists are cached here, and only `/keys/claim` fails.
    pub fails_queries: bool,
}

/// The trouble that is set up.
#[derive(Default)]
pub struct Faults {
    planned: HashMap<String, VecDeque<Fault>>,
    latency: HashMap<String, Duration>,
    held: BTreeSet<String>,
    pub dead_servers: BTreeMap<String, DeadServer>,
}

impl Faults {
    /// The next `times` requests to an endpoint go wrong.
    pub fn plan(&mut self, endpoint: &str, fault: &Fault, times: usize) {
        let planned = self.planned.entry(endpoint.to_owned()).or_default();
        planned.extend(std::iter::repeat_n(fault.clone(), times));
    }

    /// Every answer of an endpoint (or of all: `*`) takes so long.
    pub fn set_latency(&mut self, endpoint: &str, latency: Duration) {
        self.latency.insert(endpoint.to_owned(), latency);
    }

    /// An endpoint answers nothing, and does nothing, until it is released.
    pub fn hold(&mut self, endpoint: &str) {
        self.held.insert(endpoint.to_owned());
    }

    /// What was held is done and answered.
    pub fn release(&mut self, endpoint: &str) {
        self.held.remove(endpoint);
    }

    pub(super) fn is_held(&self, endpoint: &str) -> bool {
        self.held.contains(endpoint)
    }

    pub(super) fn take(&mut self, endpoint: &str) -> Option<Fault> {
        self.planned.get_mut(endpoint)?.pop_front()
    }

    /// How many planned faults an endpoint has left.
    pub fn left(&self, endpoint: &str) -> usize {
        self.planned.get(endpoint).map_or(0, VecDeque::len)
    }

    pub(super) fn latency(&self, endpoint: &str) -> Duration {
        let own = self.latency.get(endpoint).or_else(|| self.latency.get("*"));
        own.copied().unwrap_or_default()
    }
}
