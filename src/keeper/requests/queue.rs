//! Key requests that wait for a budget.
//!
//! Servers take turns, and so do the users of a server: whoever asks once is served soon, however many
//! requests others have waiting. When the queue is full, the oldest request of whoever has most of them
//! waiting goes. Every operation takes a time logarithmic in what is parked, except that
//! [`Queue::next`] looks once more at each request whose budget somebody else may have taken meanwhile.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use ruma::{DeviceId, UserId};

use super::{
    fingerprint::{Fingerprint, Fingerprints},
    limits::{Limits, Payers, RateLimits, Scope, Short},
    request::KeyRequest,
    turns::Turns,
};

/// For how long a request that was served is remembered, so that its repeat is not served again.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How many served requests are remembered at once.
const MOST_REMEMBERED: usize = 16_384;

/// What became of a request that was offered.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is within every budget, and nobody was before it: to be answered now.
    Ready(KeyRequest),
    /// It waits.
    Parked {
        /// The budget that was short; [`Scope::Overall`] also when others are before it.
        limited: Scope,
        /// The older request that had to go for it.
        dropped: Option<KeyRequest>,
    },
    /// It waits already, or was lately served.
    Duplicate,
    /// The queue is full, and of all requests this is the one to go.
    Dropped {
        /// The budget that was short.
        limited: Scope,
    },
}

#[derive(Debug)]
struct Parked {
    request: KeyRequest,
    fingerprint: Fingerprint,
    payers: Payers,
}

/// The waiting requests and their budgets. Time comes from the caller and is monotonic; an earlier time
/// than the last counts as the last.
#[derive(Debug)]
pub struct Queue {
    fingerprints: Fingerprints,
    limits: Limits,
    capacity: usize,
    start: Instant,
    latest: Duration,
    parked: HashMap<u64, Parked>,
    numbers: HashMap<Fingerprint, u64>,
    turns: Turns,
    last_number: u64,
    served: HashMap<Fingerprint, Duration>,
    served_in_order: VecDeque<(Fingerprint, Duration)>,
}

impl Queue {
    /// An empty queue with room for `capacity` requests (at least one), and budgets that are full at
    /// `start`.
    pub fn new(limits: &RateLimits, capacity: usize, start: Instant) -> Self {
        Self {
            fingerprints: Fingerprints::default(),
            limits: Limits::new(limits),
            capacity: capacity.max(1),
            start,
            latest: Duration::ZERO,
            parked: HashMap::new(),
            numbers: HashMap::new(),
            turns: Turns::default(),
            last_number: 0,
            served: HashMap::new(),
            served_in_order: VecDeque::new(),
        }
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.parked.len()
    }

    /// Whether no request waits.
    pub fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }

    /// Takes a request in at `now`: it is to be answered at once, waits, or is not wanted.
    ///
    /// Whatever the outcome, [`Queue::next`] and [`Queue::wait`] are worth asking afterwards.
    pub fn offer(&mut self, request: KeyRequest, now: Instant) -> Offer {
        let now = self.since_start(now);
        self.forget_served(now);
        let fingerprint = self.fingerprint(&request.sender, &request.device, &request.request_id);
        if self.numbers.contains_key(&fingerprint) || self.served.contains_key(&fingerprint) {
            return Offer::Duplicate;
        }
        let payers = self.payers(&request);
        self.turns.wake(now);
        let short = if self.turns.line_is_empty() {
            self.limits.take(&payers, now).err()
        } else {
            // Somebody is before it; which budget is short decides how long it may sleep.
            let overall = Short { scope: Scope::Overall, wait: Duration::ZERO };
            Some(self.limits.short(&payers, now).unwrap_or(overall))
        };
        let Some(short) = short else {
            self.remember_served(fingerprint, now);
            return Offer::Ready(request);
        };
        let number = self.park(Parked { request, fingerprint, payers }, short, now);
        self.make_room(number, short.scope)
    }

    /// Whether a request with this id waits, or was lately served.
    pub fn knows(
        &mut self,
        sender: &UserId,
        device: &DeviceId,
        request_id: &str,
        now: Instant,
    ) -> bool {
        let now = self.since_start(now);
        self.forget_served(now);
        let fingerprint = self.fingerprint(sender, device, request_id);
        self.numbers.contains_key(&fingerprint) || self.served.contains_key(&fingerprint)
    }

    /// Takes back the request with this id, if it waits; says whether it did.
    pub fn cancel(&mut self, sender: &UserId, device: &DeviceId, request_id: &str) -> bool {
        let fingerprint = self.fingerprint(sender, device, request_id);
        let Some(number) = self.numbers.get(&fingerprint).copied() else { return false };
        self.take_out(number).is_some()
    }

    /// The waiting request whose turn it is and that is within every budget at `now`. Its budgets are
    /// spent, and it waits no more.
    pub fn next(&mut self, now: Instant) -> Option<KeyRequest> {
        let now = self.since_start(now);
        self.forget_served(now);
        self.turns.wake(now);
        while self.limits.overall_wait(now).is_none() {
            let user = self.turns.first()?;
            let Some(number) = self.affordable(user, now) else { continue };
            self.turns.rotate(user);
            let parked = self.take_out(number)?;
            self.remember_served(parked.fingerprint, now);
            return Some(parked.request);
        }
        None
    }

    /// How long after `now` a request may be ready, if nothing is offered meanwhile; `None` when none
    /// waits.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        let now = self.since_start(now);
        self.turns.wake(now);
        let overall = self.limits.overall_wait(now).unwrap_or_default();
        if !self.turns.line_is_empty() {
            return Some(overall);
        }
        self.turns.first_to_wake().map(|until| until.saturating_sub(now).max(overall))
    }

    /// A request of `user` whose budgets have just been taken from; he sleeps when there is none.
    fn affordable(&mut self, user: Fingerprint, now: Duration) -> Option<u64> {
        if let Some(wait) = self.limits.user_wait(user, now) {
            self.turns.sleep(user, now.saturating_add(wait));
            return None;
        }
        while let Some(number) = self.turns.due(user, now) {
            let Some(parked) = self.parked.get(&number) else {
                self.turns.remove(user, number);
                continue;
            };
            match self.limits.take(&parked.payers, now) {
                Ok(()) => return Some(number),
                Err(short) => {
                    self.turns.postpone(user, number, now.saturating_add(short.wait));
                }
            }
        }
        if let Some(due) = self.turns.next_due(user) {
            self.turns.sleep(user, due);
        }
        None
    }

    fn park(&mut self, parked: Parked, short: Short, now: Duration) -> u64 {
        self.last_number = self.last_number.saturating_add(1);
        let number = self.last_number;
        let server = self.fingerprints.of(&[parked.request.sender.server_name().as_str()]);
        let who = (server, parked.payers.user);
        let later = now.saturating_add(short.wait);
        let (due, asleep) = match short.scope {
            // The user's budget is for all that he has; only the request itself waits for the others.
            Scope::User => (now, Some(later)),
            Scope::Device | Scope::Room => (later, Some(later)),
            Scope::Overall => (now, None),
        };
        self.turns.park(who, number, due, asleep);
        self.numbers.insert(parked.fingerprint, number);
        self.parked.insert(number, parked);
        number
    }

    /// Drops what is over the capacity, now that `newest` is parked.
    fn make_room(&mut self, newest: u64, limited: Scope) -> Offer {
        if self.parked.len() <= self.capacity {
            return Offer::Parked { limited, dropped: None };
        }
        let useless = self.turns.most_useless();
        let dropped = useless.and_then(|number| self.take_out(number));
        if useless == Some(newest) {
            return Offer::Dropped { limited };
        }
        Offer::Parked { limited, dropped: dropped.map(|parked| parked.request) }
    }

    fn take_out(&mut self, number: u64) -> Option<Parked> {
        let parked = self.parked.remove(&number)?;
        self.numbers.remove(&parked.fingerprint);
        self.turns.remove(parked.payers.user, number);
        Some(parked)
    }

    fn remember_served(&mut self, fingerprint: Fingerprint, now: Duration) {
        self.served.insert(fingerprint, now);
        self.served_in_order.push_back((fingerprint, now));
        if self.served_in_order.len() > MOST_REMEMBERED
            && let Some((oldest, _)) = self.served_in_order.pop_front()
        {
            self.served.remove(&oldest);
        }
    }

    fn forget_served(&mut self, now: Duration) {
        let old = |at: &Duration| now.saturating_sub(*at) >= REMEMBERED;
        while let Some((fingerprint, _)) =
            self.served_in_order.front().copied().filter(|(_, at)| old(at))
        {
            self.served_in_order.pop_front();
            self.served.remove(&fingerprint);
        }
    }

    fn fingerprint(&self, sender: &UserId, device: &DeviceId, request_id: &str) -> Fingerprint {
        self.fingerprints.of(&[sender.as_str(), device.as_str(), request_id])
    }

    fn payers(&self, request: &KeyRequest) -> Payers {
        let (user, device) = (request.sender.as_str(), request.device.as_str());
        Payers {
            device: self.fingerprints.of(&[user, device]),
            user: self.fingerprints.of(&[user]),
            room: self.fingerprints.of(&[request.room_id.as_str()]),
        }
    }

    fn since_start(&mut self, now: Instant) -> Duration {
        self.latest = self.latest.max(now.saturating_duration_since(self.start));
        self.latest
    }
}
