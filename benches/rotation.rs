//! One departure in a large room, with `rotation.when: at_once`: until the last device has the session that
//! follows, beside `OlmMachine::share_room_key` of matrix-sdk-crypto for the same devices; and a join elsewhere in
//! that time, beside one with an idle keeper.
//!
//! `STATEKEEPER_BENCH_DEVICES` (5000), `STATEKEEPER_BENCH_ROUNDS` (5). The keeper's time runs from the departure's
//! entering the room, over the transaction, its commit and `rotation.settle` (which is taken off again), to the
//! homeserver's last 200; the library's from the call to the last 200. Both have Olm sessions with all devices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "../tests/simulated/mod.rs"]
mod simulated;

use std::time::{Duration, Instant};

use ruma::OwnedRoomId;
use serde_json::json;
use simulated::{
    Keeper, RoomRef, Sim, World,
    measure::{mark, median_and_p95, ms, quiet, size},
    yardstick::{Library, cannot_read, last_handed_over},
};

const PATIENCE: Duration = Duration::from_secs(600);
const SETTLE: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After how many of a rotation's requests the joins elsewhere come, in turns; there are 50 for 5,000 devices.
const MOMENTS: [usize; 5] = [2, 11, 18, 25, 5];
const DONE: &str = "statekeeper_rotation_seconds_count";

async fn named(sim: &Sim, room: &RoomRef, name: &str) {
    let alice = sim.device("alice", 1);
    alice.rename(room, name);
    let reads = |world: &mut World| alice.reads_name_in(world, room, name);
    assert!(sim.holds_within(PATIENCE, reads).await, "{name} was not sealed");
}

/// A stranger joins: how long until he reads the name.
async fn join(sim: &Sim, room: &RoomRef, name: &str, stranger: &str) -> Duration {
    let device = sim.user(stranger).create().device(1);
    let started = Instant::now();
    sim.join(room, stranger);
    let reads = |world: &mut World| device.reads_name_in(world, room, name);
    assert!(sim.holds_within(PATIENCE, reads).await, "{stranger} reads nothing");
    started.elapsed()
}

/// A keeper in a large room, and in a small one elsewhere.
struct Subject {
    sim: Sim,
    keeper: Keeper,
    room: RoomRef,
    elsewhere: RoomRef,
    devices: usize,
    departed: usize,
    memory: u64,
}

/// One departure: how long until the last device had the session that follows, and the requests that it took.
struct Departure {
    took: Duration,
    requests: usize,
    /// Of whoever joined elsewhere in that time.
    joiner: Option<Duration>,
}

impl Subject {
    async fn new(devices: usize, rounds: usize) -> Self {
        let settle = format!("{}ms", SETTLE.as_millis());
        let settings = json!({
            "rotation": { "when": "at_once", "settle": settle },
            "sharing": { "refresh_window": "1ms", "refresh_per_second": 1000 },
        });
        let (sim, mut keeper) = Keeper::with_sim(settings).await;
        sim.user("alice").create();
        let elsewhere = sim.room().keeper_power(100).create();
        // Those who leave are counted in, two in a round, and so is Alice.
        let room = sim.room().keeper_power(100).members(devices + 2 * rounds - 1).create();
        println!("start to ready: {}", ms(keeper.start().await));
        named(&sim, &elsewhere, "Elsewhere").await;
        named(&sim, &room, "Large").await;
        quiet(&sim).await;
        Self { sim, keeper, room, elsewhere, devices, departed: 0, memory: 0 }
    }

    async fn join_elsewhere(&self, stranger: &str) -> Duration {
        join(&self.sim, &self.elsewhere, "Elsewhere", stranger).await
    }

    /// Somebody leaves the large room; `joiner`, if any, joins elsewhere after so many of the rotation's requests.
    async fn departure(&mut self, joiner: Option<(&str, usize)>) -> Departure {
        let (before, started) = (mark(&self.sim), Instant::now());
        self.departed += 1;
        self.room.leave(&format!("m{}", self.departed));
        let mut joined = None;
        if let Some((stranger, so_far)) = joiner {
            let handing_over = |world: &mut World| {
                let since = world.requests.all.iter().skip(before);
                since.filter(|one| one.endpoint == "sendToDevice").count() >= so_far
            };
            assert!(self.sim.holds_within(PATIENCE, handing_over).await, "no rotation");
            joined = Some(self.join_elsewhere(stranger).await);
        }
        while self.keeper.metric(DONE, &[]).await < self.departed as f64 {
            assert!(started.elapsed() < PATIENCE, "the rotation does not end");
            self.memory = self.memory.max(self.keeper.resident_memory());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.memory = self.memory.max(self.keeper.resident_memory());
        let took = last_handed_over(&self.sim, before).duration_since(started);
        let requests = mark(&self.sim) - before;
        quiet(&self.sim).await;
        Departure { took: took.saturating_sub(SETTLE), requests, joiner: joined }
    }

    /// After how many of its requests a rotation meets the joiner of a round.
    fn moment(&self, round: usize) -> usize {
        MOMENTS[round % MOMENTS.len()].min(self.devices.div_ceil(200))
    }
}

fn told(what: &str, times: &[Duration]) -> Duration {
    let (median, p95) = median_and_p95(times);
    println!("{what:<60} median {:>11}   p95 {:>11}", ms(median), ms(p95));
    median
}

#[tokio::main]
async fn main() {
    let devices = size("STATEKEEPER_BENCH_DEVICES", 5000);
    let rounds = size("STATEKEEPER_BENCH_ROUNDS", 5).max(1);
    println!("== one departure in a room of {devices} devices, at once");
    let library = Library::met(devices).await;
    let mut subject = Subject::new(devices, rounds).await;
    let (mut shares, mut alone, mut accompanied) = (Vec::new(), Vec::new(), Vec::new());
    let (mut idle, mut busy, mut requests) = (Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        // In turns, so that all meet the machine in the same mood.
        let round_of_library = OwnedRoomId::try_from(format!("!round{round}:localhost")).unwrap();
        shares.push(library.share(&round_of_library).await);
        idle.push(subject.join_elsewhere(&format!("idle{round}")).await);
        quiet(&subject.sim).await;
        let departure = subject.departure(None).await;
        alone.push(departure.took);
        requests = departure.requests;
        let joiner = format!("busy{round}");
        let departure = subject.departure(Some((&joiner, subject.moment(round)))).await;
        accompanied.push(departure.took);
        busy.extend(departure.joiner);
    }
    let shares = told("OlmMachine::share_room_key, per share", &shares);
    let alone = told("the keeper, per departure (without settle)", &alone);
    told("the same while somebody joins elsewhere", &accompanied);
    println!("requests per departure: {requests}");
    println!("peak resident memory: {} MiB", subject.memory / (1024 * 1024));
    told("a join elsewhere, of an idle keeper", &idle);
    told("a join elsewhere, during a rotation", &busy);
    named(&subject.sim, &subject.room, "Without them").await;
    let missing = cannot_read(&subject.sim, &subject.room);
    println!("members' devices that cannot read what came after: {missing}");
    println!(
        "keeper {}, library {}; ratio {:.2} (reach: 3)",
        ms(alone),
        ms(shares),
        shares.as_secs_f64() / alone.as_secs_f64(),
    );
}
