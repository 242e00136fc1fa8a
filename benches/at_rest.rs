//! Many rooms at rest: how long from start to ready, and how much memory.
//!
//! `STATEKEEPER_BENCH_ROOMS` (1000), `STATEKEEPER_BENCH_MEMBERS` (50), `STATEKEEPER_BENCH_PEOPLE`
//! (5000: the organisation that the rooms' members come from). Every room has a sealed name, made
//! in a first run; what counts is the second start.
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
    Keeper, RoomRef, Sim,
    measure::{mark, ms, quiet, size},
};

const PATIENCE: Duration = Duration::from_secs(1800);
const MIB: u64 = 1024 * 1024;

fn build(sim: &Sim, rooms: usize, members: usize, people: usize) -> Vec<RoomRef> {
    // Alice and the keeper are two of them.
    let others = members.saturating_sub(2);
    let room = |number: usize| {
        let first = 1 + (number * 37) % people.saturating_sub(others).max(1);
        sim.room().keeper_power(100).members(others).members_from(first).create()
    };
    (0..rooms).map(room).collect()
}

async fn start(what: &str, sim: &Sim, keeper: &mut Keeper) {
    let before = mark(sim);
    let took = keeper.start().await;
    let (spent, counts) =
        sim.with(|world| (world.requests.time_spent(before), world.requests.counts(before)));
    let at_ready = keeper.resident_memory();
    quiet(sim).await;
    println!(
        "{what}: start to ready {}, homeserver {}, beyond it {}",
        ms(took),
        ms(spent),
        ms(took.saturating_sub(spent)),
    );
    println!(
        "  resident memory: {} MiB at ready, {} MiB at rest",
        at_ready / MIB,
        keeper.resident_memory() / MIB
    );
    println!("  requests: {counts:?}");
}

#[tokio::main]
async fn main() {
    let rooms = size("STATEKEEPER_BENCH_ROOMS", 1000);
    let members = size("STATEKEEPER_BENCH_MEMBERS", 50);
    let people = size("STATEKEEPER_BENCH_PEOPLE", 5000);
    println!("== {rooms} rooms of {members} members, {people} people");
    let settings = json!({ "sharing": { "refresh_per_second": 1000 } });
    let (sim, mut keeper) = Keeper::with_sim(settings).await;
    let alice = sim.user("alice").create().device(1);
    let rooms = build(&sim, rooms, members, people);
    start("first start, nothing in the store", &sim, &mut keeper).await;

    let naming = Instant::now();
    for room in &rooms {
        alice.rename(room, "A name");
    }
    let sealed = |world: &mut simulated::World| {
        rooms.iter().all(|room| world.keeper_seal(&room.room_id, "m.room.name:").is_some())
    };
    assert!(sim.holds_within(PATIENCE, sealed).await, "not all names were sealed");
    println!("all names sealed: {} after the first edit", ms(naming.elapsed()));
    quiet(&sim).await;
    println!("  resident memory: {} MiB", keeper.resident_memory() / MIB);

    println!("SIGTERM to the end: {}", ms(keeper.terminate().await));
    start("second start, at rest (reach: 10 s beyond, 100 MiB)", &sim, &mut keeper).await;
}
