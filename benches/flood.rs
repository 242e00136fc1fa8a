//! Honest joiners who ask for a key, alone and while attackers ask as fast as they can, with
//! `sharing.unasked: false`: how long each waits for the key, and the keeper's memory.
//!
//! `STATEKEEPER_BENCH_HONEST` (50), `STATEKEEPER_BENCH_ATTACKERS` (10),
//! `STATEKEEPER_BENCH_PER_SECOND` (1000: the attackers' requests, all together),
//! `STATEKEEPER_BENCH_ROUNDS` (5). The time runs from the request's being put into the keeper's
//! inbox to the homeserver's 200 for the message with the key. The attackers make sessions, rooms,
//! devices and request ids up.
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
    Attack, DeviceRef, Flood, Keeper, RoomRef, Sim, World,
    measure::{mark, median_and_p95, ms, quiet, report, size},
    room::Event,
};

const NAME: &str = "m.room.name:";
const PATIENCE: Duration = Duration::from_secs(300);
const MIB: f64 = 1024.0 * 1024.0;

struct Bench {
    sim: Sim,
    keeper: Keeper,
    room: RoomRef,
    seal: Event,
    honest: usize,
}

impl Bench {
    async fn prepare(honest: usize) -> Self {
        let settings = json!({
            "sharing": { "unasked": false },
            "state": { "reseal_delay": "1ms" },
        });
        let (sim, mut keeper) = Keeper::with_sim(settings).await;
        let alice = sim.user("alice").create().device(1);
        let room = sim.room().keeper_power(100).create();
        keeper.start().await;
        alice.rename(&room, "Tea");
        let sealed = |world: &mut World| world.keeper_seal(&room.room_id, NAME).is_some();
        assert!(sim.holds_within(PATIENCE, sealed).await, "the name was not sealed");
        let seal = sim.with(|world| world.keeper_seal(&room.room_id, NAME)).unwrap();
        quiet(&sim).await;
        Self { sim, keeper, room, seal, honest }
    }

    fn session_id(&self) -> String {
        self.seal.sent_content()["session_id"].as_str().unwrap().to_owned()
    }

    /// New people join and ask, all at once: how long each of them waits.
    async fn serve(&self, round: &str) -> Vec<Duration> {
        let start = mark(&self.sim);
        let joiners: Vec<DeviceRef> = (0..self.honest)
            .map(|number| self.sim.user(&format!("{round}x{number}x")).create().device(1))
            .collect();
        let mut asked = Vec::with_capacity(joiners.len());
        for joiner in &joiners {
            self.sim.join(&self.room, &joiner.user_id);
            asked.push(Instant::now());
            joiner.ask_for_key(&self.room.room_id, &self.session_id(), "honest");
        }
        let all_heard = |world: &mut World| {
            joiners.iter().all(|joiner| world.waiting_for(&joiner.user_id, &joiner.device_id) > 0)
        };
        assert!(self.sim.holds_within(PATIENCE, all_heard).await, "not everybody was served");
        let answered: Vec<Instant> =
            joiners.iter().map(|joiner| self.handed_over(joiner, start)).collect();
        // The name may have been refreshed since: under the same session.
        let all_read = |world: &mut World| {
            let Some(seal) = world.keeper_seal(&self.room.room_id, NAME) else { return false };
            joiners.iter().all(|joiner| world.open(joiner.id(), &seal).is_ok())
        };
        assert!(self.sim.holds_within(PATIENCE, all_read).await, "not everybody reads the name");
        answered.iter().zip(&asked).map(|(answered, asked)| *answered - *asked).collect()
    }

    /// When the homeserver had taken the first message for a device.
    fn handed_over(&self, device: &DeviceRef, start: usize) -> Instant {
        let named = format!("\"{}\"", device.device_id);
        self.sim.with(|world| {
            let mut sent = world.requests.all.iter().skip(start).filter(|request| {
                request.endpoint == "sendToDevice"
                    && request.body.as_ref().is_some_and(|body| body.contains(&named))
            });
            sent.next().map(|request| request.at + request.took).expect("the key was sent")
        })
    }

    fn memory(&self) -> f64 {
        self.keeper.resident_memory() as f64 / MIB
    }

    async fn queued(&self) -> f64 {
        self.keeper.metric("statekeeper_key_requests_queued", &[]).await
    }
}

/// The rounds of one kind, and the largest memory after any of them.
async fn rounds(bench: &Bench, kind: &str, rounds: usize) -> (Vec<Duration>, f64) {
    let (mut times, mut memory, start) = (Vec::new(), 0.0_f64, mark(&bench.sim));
    for round in 0..rounds {
        times.extend(bench.serve(&format!("{kind}{round}")).await);
        memory = memory.max(bench.memory());
    }
    let what = format!("{kind}: asked, to the key's 200");
    report(&bench.sim, &what, &times, start);
    (times, memory)
}

fn longest(times: &[Duration]) -> Duration {
    times.iter().max().copied().unwrap_or_default()
}

/// Attackers who go on for longer than anybody measures.
fn attack(bench: &Bench, attackers: usize, per_second: usize) -> Attack {
    let flood = Flood { attackers, each: usize::MAX / attackers, per_second, seed: 11 };
    flood.start(&bench.room, &bench.session_id())
}

#[tokio::main]
async fn main() {
    let honest = size("STATEKEEPER_BENCH_HONEST", 50).max(1);
    let attackers = size("STATEKEEPER_BENCH_ATTACKERS", 10).max(1);
    let per_second = size("STATEKEEPER_BENCH_PER_SECOND", 1000).max(1);
    let count = size("STATEKEEPER_BENCH_ROUNDS", 5).max(1);
    println!("== {honest} joiners ask; {attackers} attackers at {per_second} requests/s together");
    let bench = Bench::prepare(honest).await;
    // The first round is not counted.
    bench.serve("warm").await;
    quiet(&bench.sim).await;
    let at_rest = bench.memory();
    let (alone, after_alone) = rounds(&bench, "alone", count).await;

    let attack = attack(&bench, attackers, per_second);
    let begun = |_: &mut World| attack.sent() >= per_second;
    assert!(bench.sim.holds_within(PATIENCE, begun).await, "the attack did not begin");
    let (started, sent) = (Instant::now(), attack.sent());
    let (attacked, after_attack) = rounds(&bench, "attacked", count).await;
    let rate = (attack.sent() - sent) as f64 / started.elapsed().as_secs_f64();
    assert!(attack.is_under_way(), "the attack ended too soon");
    let queued = bench.queued().await;
    let answered = attack.attackers.iter().map(|device| device.heard_from_keeper().len());
    let answered: usize = answered.sum();
    let sent = attack.sent();
    drop(attack);

    println!(
        "attack: {sent} requests sent, {rate:.0}/s while measured; {queued:.0} waiting; {answered} answered (reach: 0)"
    );
    println!(
        "memory: {at_rest:.1} MiB at rest, {after_alone:.1} MiB alone, {after_attack:.1} MiB attacked"
    );
    let (alone_median, _) = median_and_p95(&alone);
    let (attacked_median, _) = median_and_p95(&attacked);
    println!(
        "the last one served: {} alone, {} attacked; ratio {:.2} (reach: at most 2), of the medians {:.2}",
        ms(longest(&alone)),
        ms(longest(&attacked)),
        longest(&attacked).as_secs_f64() / longest(&alone).as_secs_f64(),
        attacked_median.as_secs_f64() / alone_median.as_secs_f64(),
    );
}
