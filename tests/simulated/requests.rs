//! What was asked of the homeserver, when, and how it was answered.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub endpoint: &'static str,
    pub method: String,
    pub path: String,
    /// The user under whose name it came.
    pub user_id: String,
    /// The body, kept for the few endpoints whose bodies tests look at.
    pub body: Option<String>,
    /// The time of day when it had arrived.
    pub at: Instant,
    /// The clock when it had arrived.
    pub arrived: u64,
    /// The clock when its answer was ready; `None` while it runs, or when the caller went away.
    pub answered: Option<u64>,
    pub status: Option<u16>,
    /// How long the homeserver itself took.
    pub took: Duration,
}

/// All requests, in the order of their arrival.
#[derive(Default)]
pub struct RequestLog {
    pub all: Vec<Request>,
}

impl RequestLog {
    pub(super) fn arrive(&mut self, request: Request) -> usize {
        self.all.push(request);
        self.all.len() - 1
    }

    pub(super) fn answer(&mut self, place: usize, tick: u64, status: u16, took: Duration) {
        if let Some(request) = self.all.get_mut(place) {
            request.answered = Some(tick);
            request.status = Some(status);
            request.took = took;
        }
    }

    /// The requests to one endpoint.
    pub fn to<'a>(&'a self, endpoint: &'a str) -> impl Iterator<Item = &'a Request> {
        self.all.iter().filter(move |request| request.endpoint == endpoint)
    }

    /// How many requests went to each endpoint since the log's `start`, without `/sync`.
    pub fn counts(&self, start: usize) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for request in self.all.iter().skip(start).filter(|r| r.endpoint != "sync") {
            *counts.entry(request.endpoint).or_insert(0) += 1;
        }
        counts
    }

    /// The homeserver's own time for all requests since `start`, without `/sync`.
    pub fn time_spent(&self, start: usize) -> Duration {
        self.all.iter().skip(start).filter(|r| r.endpoint != "sync").map(|r| r.took).sum()
    }
}
