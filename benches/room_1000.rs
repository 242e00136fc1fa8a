//! One large room: what a join, a rename and a hundred joins at once cost in time and in requests.
//!
//! `STATEKEEPER_BENCH_MEMBERS` (1000), `STATEKEEPER_BENCH_BURST` (100), `STATEKEEPER_BENCH_ROUNDS`
//! (10). The same is measured in a room of a tenth of the size, so that growth shows.
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
    DeviceRef, Keeper, RoomRef, Sim,
    measure::{mark, ms, quiet, report, size},
};

const PATIENCE: Duration = Duration::from_secs(300);

struct Bench {
    sim: Sim,
    room: RoomRef,
    alice: DeviceRef,
    joined: usize,
}

impl Bench {
    async fn until(&self, what: &str, mut done: impl FnMut(&mut simulated::World) -> bool) {
        let came = self.sim.holds_within(PATIENCE, &mut done).await;
        assert!(came, "{what}: not in {PATIENCE:?}");
    }

    async fn rename(&self, name: &str) -> Duration {
        let started = Instant::now();
        self.alice.rename(&self.room, name);
        let done = |world: &mut simulated::World| self.alice.reads_name_in(world, &self.room, name);
        self.until("the rename", done).await;
        started.elapsed()
    }

    /// Joins so many strangers at once: how long until the last of them reads the name.
    async fn join(&mut self, count: usize, name: &str) -> Duration {
        let names: Vec<String> =
            (1..=count).map(|n| format!("joiner{}", self.joined + n)).collect();
        self.joined += count;
        let mut waiting: Vec<DeviceRef> =
            names.iter().map(|name| self.sim.user(name).create().device(1)).collect();
        let started = Instant::now();
        for name in &names {
            self.sim.join(&self.room, name);
        }
        let (sim, room) = (self.sim.clone(), self.room.clone());
        let done = |world: &mut simulated::World| {
            waiting.retain(|device| !device.reads_name_in(world, &room, name));
            waiting.is_empty()
        };
        assert!(sim.holds_within(PATIENCE, done).await, "the joins: not in {PATIENCE:?}");
        started.elapsed()
    }
}

async fn measure(members: usize, burst: usize, rounds: usize) {
    println!("\n== a room of {members} members");
    let (sim, mut keeper) = Keeper::with_sim(json!({})).await;
    let alice = sim.user("alice").create().device(1);
    // Alice and the keeper are two of them.
    let room = sim.room().keeper_power(100).members(members.saturating_sub(2)).create();
    let ready = keeper.start().await;
    println!("start to ready: {}", ms(ready));
    let mut bench = Bench { sim, room, alice, joined: 0 };
    quiet(&bench.sim).await;

    let start = mark(&bench.sim);
    let first = bench.rename("first").await;
    quiet(&bench.sim).await;
    report(&bench.sim, "first rename (new Olm sessions with all)", &[first], start);

    let (mut renames, start) = (Vec::new(), mark(&bench.sim));
    for round in 0..rounds {
        renames.push(bench.rename(&format!("rename {round}")).await);
        quiet(&bench.sim).await;
    }
    report(&bench.sim, "one rename", &renames, start);

    let name = format!("rename {}", rounds.saturating_sub(1));
    let (mut joins, start) = (Vec::new(), mark(&bench.sim));
    for _ in 0..rounds {
        joins.push(bench.join(1, &name).await);
        quiet(&bench.sim).await;
    }
    report(&bench.sim, "one join, to the name", &joins, start);

    let start = mark(&bench.sim);
    let together = bench.join(burst, &name).await;
    quiet(&bench.sim).await;
    report(&bench.sim, &format!("{burst} joins in a burst, to the last name"), &[together], start);

    bench.room.leave("joiner1");
    quiet(&bench.sim).await;
    let start = mark(&bench.sim);
    let after = bench.join(1, &name).await;
    quiet(&bench.sim).await;
    report(&bench.sim, "first join after a departure (rotation)", &[after], start);
    println!("resident memory: {} MiB", keeper.resident_memory() / (1024 * 1024));
}

#[tokio::main]
async fn main() {
    let members = size("STATEKEEPER_BENCH_MEMBERS", 1000);
    let burst = size("STATEKEEPER_BENCH_BURST", 100);
    let rounds = size("STATEKEEPER_BENCH_ROUNDS", 10);
    measure(members / 10, burst, rounds).await;
    measure(members, burst, rounds).await;
}
