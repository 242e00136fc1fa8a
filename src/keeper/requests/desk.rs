//! The desk at which key requests are taken: some wait until they can be judged, some for a budget, and some are
//! ready and wait for the next visit to their room.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId};

use super::{
    early::Early,
    limits::{RateLimits, Scope},
    queue::{Offer, Queue},
    request::{KeyRequest, RequestName},
};

/// How many requests are ready at once; the others go on waiting in the queue, which is fair and bounded.
const MOST_READY: usize = 4096;

/// What became of a request that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is within every budget: the next visit to its room answers it.
    Ready,
    /// This budget is short: it waits.
    Parked(Scope),
    /// This budget is short, and there is no place to wait.
    Dropped(Scope),
    /// It is here already, or was lately answered.
    Duplicate,
}

/// Key requests between their arrival and their answer. What goes from here without an answer is noted, so that its
/// row goes as well.
#[derive(Debug)]
pub struct Desk {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: Queue,
    ready: BTreeMap<OwnedRoomId, Vec<KeyRequest>>,
    ready_count: usize,
    early: Early,
    /// Requests that went without an answer and whose rows still stand.
    gone: Vec<RequestName>,
}

impl Desk {
    /// An empty desk with budgets that are full at `now`, and places for `capacity` requests over them.
    pub fn new(limits: &RateLimits, capacity: usize, now: Instant) -> Self {
        let inner = Inner {
            queue: Queue::new(limits, capacity, now),
            ready: BTreeMap::new(),
            ready_count: 0,
            early: Early::default(),
            gone: Vec::new(),
        };
        Self { inner: Mutex::new(inner) }
    }

    /// Whether a request of that name is here, or was lately answered.
    pub fn knows(&self, name: &RequestName, now: Instant) -> bool {
        let mut inner = self.lock();
        inner.early.contains(name)
            || inner.queue.knows(&name.sender, &name.device, &name.request_id, now)
    }

    /// Offers a request of somebody who is entitled.
    pub fn offer(&self, request: KeyRequest, now: Instant) -> Taken {
        let mut inner = self.lock();
        let name = request.name();
        match inner.queue.offer(request, now) {
            Offer::Ready(request) => {
                inner.make_ready(request);
                Taken::Ready
            }
            Offer::Parked { limited, dropped } => {
                inner.gone.extend(dropped.map(|request| request.name()));
                Taken::Parked(limited)
            }
            Offer::Duplicate => Taken::Duplicate,
            Offer::Dropped { limited } => {
                inner.gone.push(name);
                Taken::Dropped(limited)
            }
        }
    }

    /// Makes a request ready past all budgets, because it is refused: that is said once, and takes nobody's turn.
    /// Where too many are ready, it goes unanswered.
    pub fn make_ready(&self, request: KeyRequest) {
        let mut inner = self.lock();
        if inner.ready_count >= 2 * MOST_READY {
            inner.gone.push(request.name());
        } else {
            inner.make_ready(request);
        }
    }

    /// Gives requests back that a visit took and could not answer: they stay ready.
    pub fn give_back(&self, requests: Vec<KeyRequest>) {
        let mut inner = self.lock();
        for request in requests {
            inner.make_ready(request);
        }
    }

    /// Lets a request wait until its sender is heard of. Whoever had to go for it has waited in vain.
    pub fn wait_for_sender(&self, request: KeyRequest) {
        let mut inner = self.lock();
        let gone = inner.early.put(request);
        inner.gone.extend(gone.map(|request| request.name()));
    }

    /// Notes that a request needs no answer.
    pub fn dismiss(&self, name: RequestName) {
        self.lock().gone.push(name);
    }

    /// Takes a request back, wherever it waits. One that is being answered is not here any more. Returns whether it
    /// was.
    pub fn cancel(&self, name: &RequestName) -> bool {
        let mut inner = self.lock();
        if inner.early.cancel(name).is_some()
            || inner.queue.cancel(&name.sender, &name.device, &name.request_id)
        {
            return true;
        }
        let mut found = false;
        inner.ready.retain(|_, requests| {
            requests.retain(|request| {
                let is_it = request.name() == *name;
                found |= is_it;
                !is_it
            });
            !requests.is_empty()
        });
        inner.ready_count -= usize::from(found);
        found
    }

    /// The rooms in which somebody waits for an answer that can be given now. Returns how many have waited in vain
    /// for their senders as well; `now` and `now_ms` (milliseconds) are the same time on two clocks.
    pub fn rooms(&self, now: Instant, now_ms: i64) -> (Vec<OwnedRoomId>, usize) {
        let mut inner = self.lock();
        while inner.ready_count < MOST_READY
            && let Some(request) = inner.queue.next(now)
        {
            inner.make_ready(request);
        }
        let expired = inner.early.expired(now_ms);
        let in_vain = expired.len();
        inner.gone.extend(expired.iter().map(KeyRequest::name));
        (inner.ready.keys().cloned().collect(), in_vain)
    }

    /// How long after `now` to look again, if nothing is offered meanwhile.
    pub fn wait(&self, now: Instant, now_ms: i64) -> Option<Duration> {
        let mut inner = self.lock();
        let queue = if inner.ready_count < MOST_READY { inner.queue.wait(now) } else { None };
        let early = inner.early.next_expiry().map(|at| {
            Duration::from_millis(u64::try_from(at.saturating_sub(now_ms)).unwrap_or_default())
        });
        match (queue, early) {
            (Some(queue), Some(early)) => Some(queue.min(early)),
            (queue, early) => queue.or(early),
        }
    }

    /// Takes the requests of a room that are ready, to answer them.
    pub fn take(&self, room: &RoomId) -> Vec<KeyRequest> {
        let mut inner = self.lock();
        let taken = inner.ready.remove(room).unwrap_or_default();
        inner.ready_count -= taken.len();
        taken
    }

    /// Whose requests for a room wait to be judged.
    pub fn unheard_of(&self, room: &RoomId) -> BTreeSet<OwnedUserId> {
        self.lock().early.senders(room)
    }

    /// Takes the requests of these users for a room that wait to be judged: something was heard of them.
    pub fn recall(&self, room: &RoomId, users: &BTreeSet<OwnedUserId>) -> Vec<KeyRequest> {
        self.lock().early.of_users(room, users)
    }

    /// How many requests wait for a budget, or for the visit that answers them.
    pub fn queued(&self) -> usize {
        let inner = self.lock();
        inner.queue.len() + inner.ready_count
    }

    /// The requests that went without an answer since this was last asked.
    pub fn take_gone(&self) -> Vec<RequestName> {
        std::mem::take(&mut self.lock().gone)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn make_ready(&mut self, request: KeyRequest) {
        self.ready_count += 1;
        self.ready.entry(request.room_id.clone()).or_default().push(request);
    }
}

#[cfg(test)]
mod tests {
    use ruma::{OwnedDeviceId, room_id};

    use super::*;
    use crate::keeper::rules::Rate;

    fn request(user: &str, id: usize) -> KeyRequest {
        KeyRequest {
            sender: format!("@{user}:localhost").try_into().unwrap(),
            device: OwnedDeviceId::from("D"),
            request_id: id.to_string(),
            room_id: room_id!("!room:localhost").to_owned(),
            session_id: "session".to_owned(),
            sender_key: None,
            heard_at: 0,
        }
    }

    fn desk(per_user: u32, capacity: usize, now: Instant) -> Desk {
        let wide = Rate { burst: 1_000_000, per_second: 1_000_000 };
        let user = Rate { burst: per_user, per_second: 1 };
        let limits = RateLimits { device: wide, user, room: wide, overall: wide };
        Desk::new(&limits, capacity, now)
    }

    #[test]
    fn a_request_is_taken_back_wherever_it_waits() {
        let now = Instant::now();
        let desk = desk(1, 10, now);
        let [ready, parked, early] = ["a", "a", "b"].map(|user| request(user, user.len()));
        let parked = KeyRequest { request_id: "parked".to_owned(), ..parked };
        assert_eq!(desk.offer(ready.clone(), now), Taken::Ready);
        assert_eq!(desk.offer(parked.clone(), now), Taken::Parked(Scope::User));
        desk.wait_for_sender(early.clone());
        assert_eq!(desk.queued(), 2);
        for request in [&ready, &parked, &early] {
            assert!(desk.knows(&request.name(), now));
            assert!(desk.cancel(&request.name()), "{}", request.request_id);
            assert!(!desk.cancel(&request.name()));
        }
        assert_eq!(desk.queued(), 0);
        assert!(desk.take(&ready.room_id).is_empty());
        assert!(desk.take_gone().is_empty(), "whoever takes it back strikes it off");
    }

    #[test]
    fn what_goes_without_an_answer_is_noted_once() {
        let now = Instant::now();
        let desk = desk(1, 1, now);
        for id in 0..3 {
            desk.offer(request("a", id), now);
        }
        desk.wait_for_sender(request("b", 9));
        let (rooms, in_vain) = desk.rooms(now, i64::MAX);
        assert_eq!((rooms.len(), in_vain), (1, 1));
        let ids: Vec<String> = desk.take_gone().into_iter().map(|name| name.request_id).collect();
        assert_eq!(ids, ["1", "9"], "one that had to go, and one that waited in vain");
        assert!(desk.take_gone().is_empty());
    }

    #[test]
    fn no_more_are_ready_than_can_be_answered_soon() {
        let now = Instant::now();
        let wide = Rate { burst: 1_000_000, per_second: 1 };
        let overall = Rate { burst: 1, per_second: 1_000_000 };
        let limits = RateLimits { device: wide, user: wide, room: wide, overall };
        let desk = Desk::new(&limits, 1_000_000, now);
        for id in 0..2 * MOST_READY {
            desk.offer(request("a", id), now);
        }
        for step in 0..20_000 {
            desk.rooms(now + Duration::from_micros(step), 0);
        }
        let room = room_id!("!room:localhost");
        assert_eq!(desk.take(room).len(), MOST_READY);
        assert_eq!(desk.queued(), MOST_READY);
    }
}
