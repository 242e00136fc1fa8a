//! Key requests that have to wait: how many a second one core reads and parks, and how much memory
//! those that wait take.
//!
//! `STATEKEEPER_BENCH_PARKED` (50000), `STATEKEEPER_BENCH_USERS` (10000).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use statekeeper::keeper::{
    requests::{
        limits::RateLimits,
        queue::{Offer, Queue},
        request::Incoming,
    },
    rules::Rate,
};

const ONE: Rate = Rate { burst: 1, per_second: 1 };
const ROOMS: usize = 500;

/// A request as it comes in, with identifiers of the lengths that are usual.
fn event(number: usize, user: usize) -> String {
    let room = number % ROOMS;
    format!(
        r#"{{"type":"m.room_key_request","sender":"@person.number{user:05}:example.org","content":{{"action":"request","requesting_device_id":"DEVICE{user:05}","request_id":"request-{number:030}","body":{{"algorithm":"m.megolm.v1.aes-sha2","room_id":"!room{room:014}:example.org","session_id":"session{number:036}","sender_key":"sender{number:037}"}}}}}}"#
    )
}

fn size(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Reads and offers `count` requests; how long that took, and how many were ready.
fn offer(queue: &mut Queue, first: usize, count: usize, users: usize) -> (Duration, usize) {
    let mut took = Duration::ZERO;
    let mut ready = 0;
    for number in first..first + count {
        let json = event(number, number % users);
        let started = Instant::now();
        let Ok(Incoming::Request(request)) = Incoming::parse(&json, 0) else {
            panic!("no request")
        };
        let offer = black_box(queue.offer(request, started));
        black_box(queue.next(started));
        took += started.elapsed();
        ready += usize::from(matches!(offer, Offer::Ready(_)));
    }
    (took, ready)
}

fn print(what: &str, count: usize, took: Duration, ready: usize) {
    let rate = count as f64 / took.as_secs_f64();
    println!("{what:<44} {rate:>9.0} requests/s (reach: 2000), {ready} ready at once");
}

/// How long the one call takes that wakes everybody who waits for the same room's budget.
fn herd(parked: usize, users: usize) {
    let wide = Rate { burst: 1_000_000, per_second: 1_000_000 };
    let limits = RateLimits { device: wide, user: wide, room: ONE, overall: wide };
    let start = Instant::now();
    let mut queue = Queue::new(&limits, parked, start);
    for number in 0..parked {
        let json = event(number * ROOMS, number % users);
        let Ok(Incoming::Request(request)) = Incoming::parse(&json, 0) else {
            panic!("no request")
        };
        queue.offer(request, start);
    }
    let waiting = queue.len();
    let later = start + Duration::from_secs(1);
    let started = Instant::now();
    assert!(queue.next(later).is_some() && queue.next(later).is_none());
    let took = started.elapsed().as_secs_f64() * 1000.0;
    println!(
        "{waiting} waiting for one room: {took:.1} ms for one to be served and all to sleep on"
    );
}

fn main() {
    let parked = size("STATEKEEPER_BENCH_PARKED", 50_000);
    let users = size("STATEKEEPER_BENCH_USERS", 10_000).max(1);
    let limits = RateLimits { device: ONE, user: ONE, room: ONE, overall: ONE };
    let mut queue = Queue::new(&limits, parked, Instant::now());
    let before = resident_kib();
    let (took, ready) = offer(&mut queue, 0, parked, users);
    let grown = resident_kib().saturating_sub(before);
    println!("== {} requests parked by {users} users", queue.len());
    print("read and parked", parked, took, ready);
    println!("resident memory: {:.1} MiB more than at rest (reach: 64 MiB)", grown as f64 / 1024.0);
    let (took, ready) = offer(&mut queue, parked, parked, users);
    print("read and parked, another dropped for it", parked, took, ready);
    let (took, ready) = offer(&mut queue, 2 * parked, parked, 1);
    print("the same, all from one user", parked, took, ready);
    println!("waiting in the end: {}", queue.len());
    herd(parked, users);
}
