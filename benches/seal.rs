//! Sealing one event in a room whose devices all have the key: what it costs the keeper itself, beside
//! `OlmMachine::encrypt_state_event_raw` of matrix-sdk-crypto over its SQLite store, with a session that as many
//! devices were given.
//!
//! `STATEKEEPER_BENCH_DEVICES` (8000), `STATEKEEPER_BENCH_ROUNDS` (200). The keeper's own time is the processor time of
//! its whole process for one rename, from the transaction over its commits, decryption, decision and sealing to the
//! echo of the sealed event; so neither the disk nor the homeserver is in it. The same is measured in a room of ten
//! devices: the difference is what a large room costs. The library's time is that of the call.
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

use ruma::{OwnedRoomId, serde::Raw};
use serde_json::{json, value::to_raw_value};
use simulated::{
    DeviceRef, Keeper, RoomRef, Sim, World,
    measure::{mark, median_and_p95, ms, quiet, report, size},
    yardstick::Library,
};

const PATIENCE: Duration = Duration::from_secs(600);
const SMALL: usize = 10;

async fn rename(sim: &Sim, alice: &DeviceRef, room: &RoomRef, name: &str) -> Duration {
    let started = Instant::now();
    alice.rename(room, name);
    let reads = |world: &mut World| alice.reads_name_in(world, room, name);
    assert!(sim.holds_within(PATIENCE, reads).await, "{name} was not sealed");
    started.elapsed()
}

/// The keeper's processor time for one rename.
async fn measure(
    sim: &Sim,
    keeper: &Keeper,
    alice: &DeviceRef,
    (room, members): (&RoomRef, usize),
    rounds: usize,
) -> Duration {
    rename(sim, alice, room, "first").await;
    quiet(sim).await;
    // Every device has the key now; nothing else is left to be done before this one.
    rename(sim, alice, room, "second").await;
    quiet(sim).await;
    let (mut times, start) = (Vec::new(), mark(sim));
    let before = keeper.processor_time();
    for round in 0..rounds {
        times.push(rename(sim, alice, room, &format!("rename {round}")).await);
    }
    quiet(sim).await;
    let spent = keeper.processor_time() - before;
    report(sim, &format!("a rename in a room of {members} devices"), &times, start);
    let each = spent / u32::try_from(rounds).unwrap_or(1);
    println!("{:<46} {} of the keeper's own time", "", ms(each));
    each
}

async fn keepers_way(devices: usize, rounds: usize) -> (Duration, Duration) {
    let settings = json!({
        "state": { "reseal_delay": "1ms" },
        // No session wears out: a rotation is another benchmark.
        "rotation": { "messages": 1_000_000 },
    });
    let (sim, mut keeper) = Keeper::with_sim(settings).await;
    let alice = sim.user("alice").create().device(1);
    // They stand before the keeper starts, which finds itself in them.
    let room = |members: usize| sim.room().keeper_power(100).members(members - 1).create();
    let (small, large) = (room(SMALL), room(devices));
    println!("start to ready: {}", ms(keeper.start().await));
    let small = measure(&sim, &keeper, &alice, (&small, SMALL), rounds).await;
    let large = measure(&sim, &keeper, &alice, (&large, devices), rounds).await;
    println!("resident memory: {} MiB", keeper.resident_memory() / (1024 * 1024));
    (small, large)
}

async fn the_librarys_way(devices: usize, rounds: usize) -> Duration {
    let library = Library::met(devices).await;
    let room_id = OwnedRoomId::try_from("!room:localhost").unwrap();
    println!("OlmMachine::share_room_key: {}", ms(library.share(&room_id).await));
    let mut times = Vec::new();
    for round in 0..rounds {
        let content = Raw::from_json(to_raw_value(&json!({ "name": format!("{round}") })).unwrap());
        let started = Instant::now();
        let machine = &library.stand_in.machine;
        machine.encrypt_state_event_raw(&room_id, "m.room.name", "", &content).await.unwrap();
        times.push(started.elapsed());
    }
    let (median, p95) = median_and_p95(&times);
    println!("OlmMachine::encrypt_state_event_raw: median {}, p95 {}", ms(median), ms(p95));
    median
}

#[tokio::main]
async fn main() {
    let devices = size("STATEKEEPER_BENCH_DEVICES", 8000);
    let rounds = size("STATEKEEPER_BENCH_ROUNDS", 200).max(1);
    println!("== one event in a room of {devices} devices that have the key");
    let library = the_librarys_way(devices, rounds).await;
    let (small, large) = keepers_way(devices, rounds).await;
    println!(
        "the keeper's own time: {}, of which {} for the room's size (reach: 1 ms); the library's call: {}",
        ms(large),
        ms(large.saturating_sub(small)),
        ms(library),
    );
}
