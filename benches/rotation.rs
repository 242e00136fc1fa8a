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

use serde_json::json;
use simulated::{
    Keeper, RoomRef, Sim, World,
    measure::{mark, median_and_p95, ms, quiet, report, size},
    yardstick::{Library, cannot_read, last_handed_over},
};

const PATIENCE: Duration = Duration::from_secs(600);
const SETTLE: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(20);
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

async fn keepers_way(devices: usize, rounds: usize) -> Duration {
    let settle = format!("{}ms", SETTLE.as_millis());
    let settings = json!({
        "rotation": { "when": "at_once", "settle": settle },
        "sharing": { "refresh_window": "1ms", "refresh_per_second": 1000 },
    });
    let (sim, mut keeper) = Keeper::with_sim(settings).await;
    sim.user("alice").create();
    let elsewhere = sim.room().keeper_power(100).create();
    // Those who leave are counted in, and so is Alice.
    let room = sim.room().keeper_power(100).members(devices + rounds - 1).create();
    println!("start to ready: {}", ms(keeper.start().await));
    named(&sim, &elsewhere, "Elsewhere").await;
    named(&sim, &room, "Large").await;
    quiet(&sim).await;
    let mut idle = Vec::new();
    for round in 0..rounds {
        idle.push(join(&sim, &elsewhere, "Elsewhere", &format!("idle{round}")).await);
        quiet(&sim).await;
    }
    let (mut times, mut busy, mut memory) = (Vec::new(), Vec::new(), 0);
    let mut requests = 0;
    for round in 0..rounds {
        quiet(&sim).await;
        let (before, started) = (mark(&sim), Instant::now());
        room.leave(&format!("m{}", round + 1));
        let handing_over = |world: &mut World| {
            world.requests.all.iter().skip(before).any(|one| one.endpoint == "sendToDevice")
        };
        assert!(sim.holds_within(PATIENCE, handing_over).await, "no rotation");
        busy.push(join(&sim, &elsewhere, "Elsewhere", &format!("busy{round}")).await);
        let wanted = round as f64 + 1.0;
        while keeper.metric(DONE, &[]).await < wanted {
            assert!(started.elapsed() < PATIENCE, "the rotation does not end");
            memory = memory.max(keeper.resident_memory());
            tokio::time::sleep(LOOK_EVERY).await;
        }
        memory = memory.max(keeper.resident_memory());
        times.push(last_handed_over(&sim, before).duration_since(started).saturating_sub(SETTLE));
        requests = mark(&sim) - before;
    }
    report(&sim, "the keeper, per departure (without settle)", &times, mark(&sim) - requests);
    println!("requests of the last departure, with a join elsewhere: {requests}");
    println!("peak resident memory: {} MiB", memory / (1024 * 1024));
    let ((idle, idle_p95), (busy, busy_p95)) = (median_and_p95(&idle), median_and_p95(&busy));
    println!(
        "a join elsewhere: idle {} (p95 {}), during a rotation {} (p95 {})",
        ms(idle),
        ms(idle_p95),
        ms(busy),
        ms(busy_p95)
    );
    named(&sim, &room, "Without them").await;
    let missing = cannot_read(&sim, &room);
    println!("members' devices that cannot read what came after: {missing}");
    median_and_p95(&times).0
}

#[tokio::main]
async fn main() {
    let devices = size("STATEKEEPER_BENCH_DEVICES", 5000);
    let rounds = size("STATEKEEPER_BENCH_ROUNDS", 5).max(1);
    println!("== one departure in a room of {devices} devices, at once");
    let library = median_and_p95(&Library::met(devices).await.shares(rounds).await).0;
    let keeper = keepers_way(devices, rounds).await;
    println!(
        "keeper {}, library {}; ratio {:.2} (reach: 3)",
        ms(keeper),
        ms(library),
        library.as_secs_f64() / keeper.as_secs_f64(),
    );
}
