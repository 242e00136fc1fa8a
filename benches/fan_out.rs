//! One new state session to many devices that the keeper has Olm sessions with: the keeper's way,
//! outbox and all, beside `OlmMachine::share_room_key` of matrix-sdk-crypto over its SQLite store.
//!
//! `STATEKEEPER_BENCH_DEVICES` (2000), `STATEKEEPER_BENCH_ROUNDS` (10). The keeper's time runs from
//! the state event's entering the room, over the transaction, its commit, decryption, session,
//! encryption and outbox, to the last 200; the library's from the call to the last 200. Both send
//! to a simulated homeserver over loopback.
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
    Keeper,
    measure::{mark, median_and_p95, ms, quiet, report, size},
    yardstick::{Library, cannot_read, last_handed_over},
};

const PATIENCE: Duration = Duration::from_secs(300);

async fn keepers_way(devices: usize, rounds: usize) -> Vec<Duration> {
    let settings = json!({ "state": { "reseal_delay": "1ms" } });
    let (sim, mut keeper) = Keeper::with_sim(settings).await;
    let alice = sim.user("alice").create().device(1);
    let room = sim.room().keeper_power(100).members(devices.saturating_sub(1)).create();
    println!("start to ready: {}", ms(keeper.start().await));
    let mut times = Vec::new();
    let mut start = mark(&sim);
    // The first round opens the Olm sessions, and is not counted.
    for round in 0..=rounds {
        quiet(&sim).await;
        if round == 1 {
            report(&sim, "first share (query, claim, new Olm sessions)", &times, start);
            times.clear();
            start = mark(&sim);
        }
        let (before, started) = (mark(&sim), Instant::now());
        // A tuple that is new has a session that is new.
        let tuple = (format!("org.example.round{round}"), String::new());
        alice.send_state(&room, (&tuple.0, &tuple.1), &json!({ "round": round }));
        let packed = format!("{}:", tuple.0);
        let sealed =
            |world: &mut simulated::World| world.keeper_seal(&room.room_id, &packed).is_some();
        assert!(sim.holds_within(PATIENCE, sealed).await, "round {round} was not sealed");
        times.push(last_handed_over(&sim, before).duration_since(started));
    }
    quiet(&sim).await;
    report(&sim, "the keeper, per share", &times, start);
    let missing = cannot_read(&sim, &room);
    println!("members' devices that cannot read everything: {missing}");
    times
}

fn rate(devices: usize, time: Duration) -> f64 {
    devices as f64 / time.as_secs_f64()
}

#[tokio::main]
async fn main() {
    let devices = size("STATEKEEPER_BENCH_DEVICES", 2000);
    let rounds = size("STATEKEEPER_BENCH_ROUNDS", 10).max(1);
    println!("== a new state session to {devices} devices with Olm sessions");
    let library = Library::met(devices).await.shares(rounds).await;
    let keeper = keepers_way(devices, rounds).await;
    let (library, _) = median_and_p95(&library);
    let (keeper, _) = median_and_p95(&keeper);
    println!(
        "devices a second: keeper {:.0}, library {:.0}; ratio {:.2} (reach: 2)",
        rate(devices, keeper),
        rate(devices, library),
        library.as_secs_f64() / keeper.as_secs_f64(),
    );
}
