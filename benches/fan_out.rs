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

use matrix_sdk_crypto::OlmMachine;
use matrix_sdk_sqlite::SqliteCryptoStore;
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::json;
use simulated::{
    Keeper, Registration, Sim,
    measure::{mark, median_and_p95, ms, quiet, report, size},
    stand_in::{DEVICE, StandIn},
};

const PATIENCE: Duration = Duration::from_secs(300);

/// The instant of the last answer to a to-device request since `start`, and how many there were.
fn last_handed_over(sim: &Sim, start: usize) -> (Option<Instant>, usize) {
    sim.with(|world| {
        let requests = world.requests.all.iter().skip(start);
        let sent: Vec<Instant> = requests
            .filter(|request| request.endpoint == "sendToDevice" && request.status == Some(200))
            .map(|request| request.at + request.took)
            .collect();
        (sent.iter().max().copied(), sent.len())
    })
}

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
        let (last, _) = last_handed_over(&sim, before);
        times.push(last.expect("keys were sent").duration_since(started));
    }
    quiet(&sim).await;
    report(&sim, "the keeper, per share", &times, start);
    let missing = sim.with(|world| {
        let members = world.room(&room.room_id).members("join");
        let keeper = world.keeper();
        let lacks = |user_id: &&String| {
            let device = sim.device(user_id, 1);
            **user_id != keeper && !world.closed_state(&room.room_id, device.id()).is_empty()
        };
        members.iter().filter(lacks).count()
    });
    println!("members' devices that cannot read everything: {missing}");
    times
}

async fn the_librarys_way(devices: usize, rounds: usize) -> Vec<Duration> {
    let sim = Sim::start(Registration::new("http://127.0.0.1:9")).await;
    let members: Vec<OwnedUserId> = (1..=devices)
        .map(|number| OwnedUserId::try_from(format!("@m{number}:localhost")).unwrap())
        .collect();
    for member in &members {
        sim.user(member.as_str()).create();
    }
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteCryptoStore::open(folder.path(), Some("a passphrase")).await.unwrap();
    let user_id = OwnedUserId::try_from(sim.keeper()).unwrap();
    let machine = OlmMachine::with_store(&user_id, DEVICE.into(), store, None).await.unwrap();
    let stand_in = StandIn::publish_machine(&sim, machine).await;
    stand_in.meet(&members).await;
    let (mut times, start) = (Vec::new(), mark(&sim));
    for round in 0..rounds {
        let room_id = OwnedRoomId::try_from(format!("!round{round}:localhost")).unwrap();
        let started = Instant::now();
        stand_in.share_room_key(&room_id, &members).await;
        times.push(started.elapsed());
    }
    report(&sim, "OlmMachine::share_room_key, per share", &times, start);
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
    let library = the_librarys_way(devices, rounds).await;
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
