//! What the waiting queue promises to the honest and to the flooder.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};

use super::{
    limits::{RateLimits, Scope},
    queue::{Offer, Queue},
    request::KeyRequest,
};
use crate::keeper::rules::Rate;

const WIDE: Rate = Rate { burst: 1000, per_second: 1000 };
const ONE: Rate = Rate { burst: 1, per_second: 1 };
const NO_LIMIT: RateLimits = RateLimits { device: WIDE, user: WIDE, room: WIDE, overall: WIDE };

fn request(user: &str, device: &str, room: &str, id: u32) -> KeyRequest {
    KeyRequest {
        sender: OwnedUserId::try_from(user).unwrap(),
        device: OwnedDeviceId::from(device),
        request_id: id.to_string(),
        room_id: OwnedRoomId::try_from(format!("!{room}:example.org")).unwrap(),
        session_id: "session".to_owned(),
        sender_key: None,
        heard_at: 0,
    }
}

fn limited(offer: &Offer) -> Option<Scope> {
    match offer {
        Offer::Parked { limited, .. } | Offer::Dropped { limited } => Some(*limited),
        Offer::Ready(_) | Offer::Duplicate => None,
    }
}

#[test]
fn the_narrowest_budget_that_is_short_is_named() {
    for (limits, scope) in [
        (RateLimits { device: ONE, ..NO_LIMIT }, Scope::Device),
        (RateLimits { user: ONE, ..NO_LIMIT }, Scope::User),
        (RateLimits { room: ONE, ..NO_LIMIT }, Scope::Room),
        (RateLimits { overall: ONE, ..NO_LIMIT }, Scope::Overall),
    ] {
        let start = Instant::now();
        let mut queue = Queue::new(&limits, 10, start);
        assert!(matches!(queue.offer(request("@a:x", "D", "r", 1), start), Offer::Ready(_)));
        assert_eq!(limited(&queue.offer(request("@a:x", "D", "r", 2), start)), Some(scope));
        assert_eq!(queue.next(start), None);
        let wait = queue.wait(start).unwrap();
        assert_eq!(wait, Duration::from_secs(1));
        assert_eq!(queue.next(start + wait).unwrap().request_id, "2");
        assert_eq!(queue.wait(start + wait), None);
    }
}

#[test]
fn a_repeat_is_not_served_twice_and_much_later_is_a_new_request() {
    let start = Instant::now();
    let mut queue = Queue::new(&RateLimits { device: ONE, ..NO_LIMIT }, 10, start);
    assert!(matches!(queue.offer(request("@a:x", "D", "r", 1), start), Offer::Ready(_)));
    assert_eq!(queue.offer(request("@a:x", "D", "r", 1), start), Offer::Duplicate);
    queue.offer(request("@a:x", "D", "r", 2), start);
    assert_eq!(queue.offer(request("@a:x", "D", "r", 2), start), Offer::Duplicate);
    assert_eq!(queue.len(), 1);
    let later = start + Duration::from_secs(301);
    assert!(matches!(queue.offer(request("@b:x", "D", "r", 1), later), Offer::Parked { .. }));
    assert!(queue.next(later).is_some() && queue.next(later).is_some());
    assert!(matches!(queue.offer(request("@c:x", "D", "r", 1), later), Offer::Ready(_)));
    let much_later = later + Duration::from_secs(301);
    assert!(matches!(queue.offer(request("@a:x", "D", "r", 1), much_later), Offer::Ready(_)));
}

#[test]
fn one_request_behind_ten_thousand_of_a_flooder_is_the_next_but_one() {
    let start = Instant::now();
    let mut queue = Queue::new(&RateLimits { overall: ONE, ..NO_LIMIT }, 20_000, start);
    for id in 0..10_001 {
        queue.offer(request("@flooder:x", &id.to_string(), "r", id), start);
    }
    queue.offer(request("@honest:x", "D", "r", 1), start);
    let served: Vec<_> =
        (1..=2).filter_map(|s| queue.next(start + Duration::from_secs(s))).collect();
    assert!(served.iter().any(|request| request.sender == "@honest:x"), "{served:?}");
}

#[test]
fn a_server_of_a_thousand_users_gets_every_other_turn() {
    let start = Instant::now();
    let mut queue = Queue::new(&RateLimits { overall: ONE, ..NO_LIMIT }, 20_000, start);
    for id in 0..1000 {
        queue.offer(request(&format!("@f{id}:flood"), "D", "r", id), start);
    }
    for id in 0..3 {
        queue.offer(request("@honest:x", "D", "r", id), start);
    }
    let honest = (1..=6)
        .filter_map(|s| queue.next(start + Duration::from_secs(s)))
        .filter(|request| request.sender == "@honest:x")
        .count();
    assert_eq!(honest, 3);
}

#[test]
fn a_room_that_others_flood_does_not_hold_up_a_users_other_rooms() {
    let start = Instant::now();
    let mut queue = Queue::new(&RateLimits { room: ONE, ..NO_LIMIT }, 100, start);
    queue.offer(request("@flooder:x", "D", "flooded", 1), start);
    let offer = queue.offer(request("@honest:x", "D", "flooded", 1), start);
    assert_eq!(limited(&offer), Some(Scope::Room));
    assert!(matches!(queue.offer(request("@honest:x", "D", "quiet", 2), start), Offer::Ready(_)));
}

#[test]
fn everybody_who_waits_for_a_room_gets_his_turn_before_anybody_gets_two() {
    let start = Instant::now();
    let mut queue = Queue::new(&RateLimits { room: ONE, ..NO_LIMIT }, 1000, start);
    queue.offer(request("@first:x", "D", "r", 0), start);
    for (user, id) in (0..20).flat_map(|user| (0..20).map(move |id| (user, id))) {
        queue.offer(request(&format!("@u{user}:s{}", user % 4), "D", "r", id), start);
    }
    let served: BTreeSet<_> = (1..=20)
        .filter_map(|s| queue.next(start + Duration::from_secs(s)))
        .map(|request| request.sender)
        .collect();
    assert_eq!(served.len(), 20);
}

#[test]
fn the_oldest_of_the_greediest_goes_first() {
    let start = Instant::now();
    let mut queue = Queue::new(&RateLimits { overall: ONE, ..NO_LIMIT }, 4, start);
    queue.offer(request("@first:x", "D", "r", 0), start);
    queue.offer(request("@honest:x", "D", "r", 1), start);
    for id in 1..=3 {
        queue.offer(request("@greedy:x", "D", "r", id), start);
    }
    let offer = queue.offer(request("@late:y", "D", "r", 1), start);
    let Offer::Parked { dropped: Some(dropped), .. } = offer else { panic!("{offer:?}") };
    assert_eq!((dropped.sender.as_str(), dropped.request_id.as_str()), ("@greedy:x", "1"));
    assert_eq!(queue.len(), 4);
}

#[derive(Clone, Debug)]
enum Step {
    Offer(u8, u8, u8, u8),
    Cancel(u8, u8, u8),
    Next,
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6_u8, 0..3_u8, 0..3_u8, 0..30_u8).prop_map(|(u, d, r, i)| Step::Offer(u, d, r, i)),
        1 => (0..6_u8, 0..3_u8, 0..30_u8).prop_map(|(u, d, i)| Step::Cancel(u, d, i)),
        3 => Just(Step::Next),
        2 => (0..900_u16).prop_map(Step::Pass),
    ]
}

fn small_limits() -> impl Strategy<Value = RateLimits> {
    let limit = || (1..5_u32, 1..5_u32).prop_map(|(burst, per_second)| Rate { burst, per_second });
    (limit(), limit(), limit(), limit()).prop_map(|(device, user, room, overall)| RateLimits {
        device,
        user,
        room,
        overall,
    })
}

fn user(number: u8) -> String {
    format!("@u{number}:s{}", number % 2)
}

/// No window of `served` holds more than the burst and what the rate adds in its time.
fn within(limit: Rate, served: &[Duration]) -> bool {
    served.iter().enumerate().all(|(first, from)| {
        served.iter().enumerate().skip(first).all(|(last, until)| {
            let most = f64::from(limit.burst)
                + (*until - *from).as_secs_f64() * f64::from(limit.per_second);
            (last - first + 1) as f64 <= most + 1e-6
        })
    })
}

proptest! {
    #[test]
    fn budgets_capacity_and_cancellations_hold_whatever_comes(
        limits in small_limits(),
        capacity in 1..12_usize,
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let start = Instant::now();
        let mut queue = Queue::new(&limits, capacity, start);
        let mut now = Duration::ZERO;
        let mut once = BTreeSet::new();
        let mut waiting = BTreeSet::new();
        let name = |r: &KeyRequest| (r.sender.to_string(), r.device.to_string(), r.request_id.clone());
        let mut served: BTreeMap<(u8, String), Vec<Duration>> = BTreeMap::new();
        for step in steps {
            let ready = match step {
                Step::Pass(ms) => { now += Duration::from_millis(ms.into()); None }
                Step::Next => queue.next(start + now),
                Step::Offer(u, d, r, i) => {
                    let (device, room) = (d.to_string(), r.to_string());
                    let offered = request(&user(u), &device, &room, i.into());
                    match queue.offer(offered.clone(), start + now) {
                        Offer::Ready(request) => Some(request),
                        Offer::Parked { dropped, .. } => {
                            waiting.insert(name(&offered));
                            dropped.map(|dropped| waiting.remove(&name(&dropped)));
                            None
                        }
                        Offer::Duplicate | Offer::Dropped { .. } => None,
                    }
                }
                Step::Cancel(u, d, i) => {
                    let before = queue.len();
                    let sender = OwnedUserId::try_from(user(u)).unwrap();
                    let device = OwnedDeviceId::from(d.to_string());
                    let removed = queue.cancel(&sender, &device, &i.to_string());
                    let waited = waiting.remove(&(user(u), d.to_string(), i.to_string()));
                    prop_assert_eq!(removed, waited);
                    prop_assert_eq!(queue.len(), before - usize::from(removed));
                    prop_assert!(!queue.cancel(&sender, &device, &i.to_string()));
                    None
                }
            };
            if let Some(ready) = &ready {
                waiting.remove(&name(ready));
            }
            prop_assert!(queue.len() <= capacity);
            prop_assert_eq!(queue.len(), waiting.len());
            prop_assert_eq!(queue.wait(start + now).is_none(), queue.is_empty());
            if let Some(r) = ready {
                let device = format!("{} {}", r.sender, r.device);
                prop_assert!(once.insert(format!("{device} {}", r.request_id)), "served twice");
                let (sender, room) = (r.sender.to_string(), r.room_id.to_string());
                for key in [(0, device), (1, sender), (2, room), (3, String::new())] {
                    served.entry(key).or_default().push(now);
                }
            }
        }
        let limit_of = [limits.device, limits.user, limits.room, limits.overall];
        for ((scope, whose), times) in &served {
            prop_assert!(within(limit_of[usize::from(*scope)], times), "{} {}", scope, whose);
        }
        // What waits is all served in the end, if one only waits as long as one is told to.
        while let Some(wait) = queue.wait(start + now) {
            now += wait;
            let before = queue.len();
            while queue.next(start + now).is_some() {}
            let wait = queue.wait(start + now);
            prop_assert!(queue.len() < before || wait.is_none_or(|wait| !wait.is_zero()));
        }
    }

    #[test]
    fn an_honest_user_is_served_within_a_bound_whatever_the_flooders_do(
        flood in prop::collection::vec((0..5_u8, 0..50_u8, 0..50_u8), 1..400),
        honest_at in 0..400_usize,
    ) {
        let overall = Rate { burst: 2, per_second: 10 };
        let user_limit = Rate { burst: 3, per_second: 3 };
        let limits = RateLimits { overall, user: user_limit, ..NO_LIMIT };
        let start = Instant::now();
        let mut queue = Queue::new(&limits, 50, start);
        let honest_at = honest_at.min(flood.len() - 1);
        let mut served = None;
        let mut asked = Duration::ZERO;
        let mut now = Duration::ZERO;
        for (id, (flooder, device, room)) in flood.iter().enumerate() {
            now += Duration::from_millis(1);
            if id == honest_at {
                asked = now;
                let offer = queue.offer(request("@honest:h", "D", "home", 0), start + now);
                served = matches!(offer, Offer::Ready(_)).then_some(now);
            }
            let sender = format!("@f{flooder}:flood");
            let flooding = request(&sender, &device.to_string(), &room.to_string(), id as u32);
            queue.offer(flooding, start + now);
            while let Some(request) = queue.next(start + now) {
                if request.sender == "@honest:h" { served = Some(now); }
            }
        }
        while served.is_none() {
            now += queue.wait(start + now).expect("the honest request was dropped");
            while let Some(request) = queue.next(start + now) {
                if request.sender == "@honest:h" { served = Some(now); }
            }
        }
        // Two servers take turns: at most one request of the flooders' goes before it.
        prop_assert!(served.unwrap() - asked <= Duration::from_millis(200));
    }
}
