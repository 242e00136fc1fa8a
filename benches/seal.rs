//! Sealing one event in a room whose devices all have the key: what it costs the keeper itself, beside
//! `OlmMachine::encrypt_state_event_raw` of matrix-sdk-crypto over its SQLite store, with a session that as many
//! devices were given.
//!
//! `STATEKEEPER_BENCH_DEVICES` (8000), `STATEKEEPER_BENCH_ROUNDS` (200). The keeper's own time is the processor time of
//! its whole process for one rename, from the transaction over its commits, decryption, decision and sealing to the
//! echo of the sealed event; so neither the disk nor the homeserver is in it. The same is measured in a room of ten
//! devices: the difference is what a large room costs. The library's time is that of the call, and the sealing's is that
//! of the same work with the keeper's parts: the session is read from the store and unlocked, it encrypts, and the moved
//! session and the request are written in one transaction; its commit, which is waiting for the disk, counts apart.
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

use ruma::{OwnedRoomId, owned_event_id, room_id, serde::Raw};
use secrecy::SecretString;
use serde_json::{json, value::to_raw_value};
use simulated::{
    DeviceRef, Keeper, RoomRef, Sim, World,
    measure::{mark, median_and_p95, ms, quiet, report, size},
    yardstick::Library,
};

use statekeeper::{
    crypto::StateSession,
    state::{SealedPayload, StateTuple},
    store::{NewOutbox, OutboxKind, SessionRow, StateDetail, Store, outbox, sessions},
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

/// What the library's call does, with the keeper's parts: how long, and how long the commit. A visit looks at more: that
/// is in the time of a whole rename.
async fn seal_one(store: &Store, tuple: &StateTuple, name: &str) -> (Duration, Duration) {
    let (room, started) = (room_id!("!room:localhost"), Instant::now());
    let kept = sessions::active(&mut store.read().await.unwrap(), room, Some(tuple)).await;
    let kept = kept.unwrap().expect("a session");
    let mut session = StateSession::from_pickle(store.unlock(&kept.pickle).unwrap());
    let content = serde_json::from_value(json!({ "name": name })).unwrap();
    let (tuple, room_id) = (tuple.clone(), room.to_owned());
    let payload = SealedPayload { tuple, room_id, content, stands_for: None };
    let sealed = session.seal(&payload.to_json(), &"k".repeat(43), "KEEPER");
    let tuple = payload.tuple;
    let detail = StateDetail {
        session_id: kept.session_id.clone(),
        message_index: sealed.message_index,
        stands_for: owned_event_id!("$source"),
        based_on: Some(owned_event_id!("$before")),
        cause: "reseal".to_owned(),
        redacts: None,
        snapshot: sealed.snapshot.as_base64().to_owned(),
        tick: store.next_tick(),
    };
    let request = NewOutbox {
        kind: OutboxKind::State,
        txn_id: String::new(),
        event_type: tuple.event_type.clone(),
        state_key: tuple.state_key.clone(),
        body: serde_json::to_string(&sealed.content).unwrap(),
        detail: store.lock(&detail).unwrap(),
    };
    let mut transaction = store.begin().await.unwrap();
    assert!(!sessions::is_retired(&mut transaction, &kept.session_id).await.unwrap());
    let pickle = store.lock(&session.pickle()).unwrap();
    let kept = SessionRow { pickle, messages: kept.messages + 1, ..kept };
    sessions::put(&mut transaction, room, Some(&tuple), &kept).await.unwrap();
    outbox::insert(&mut transaction, room, &request, 1).await.unwrap();
    let (worked, committing) = (started.elapsed(), Instant::now());
    transaction.commit().await.unwrap();
    (worked, committing.elapsed())
}

async fn the_sealing_alone(rounds: usize) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.db");
    let store = Store::open(&path, &SecretString::from("a passphrase")).await.unwrap();
    let tuple = StateTuple { event_type: "m.room.name".to_owned(), state_key: String::new() };
    let session = StateSession::new();
    let pickle = store.lock(&session.pickle()).unwrap();
    let kept = SessionRow { session_id: session.id(), pickle, created_at: 1, messages: 0 };
    let mut transaction = store.begin().await.unwrap();
    sessions::put(&mut transaction, room_id!("!room:localhost"), Some(&tuple), &kept)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let (mut working, mut committing) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (worked, committed) = seal_one(&store, &tuple, &format!("{round}")).await;
        working.push(worked);
        committing.push(committed);
    }
    let (median, p95) = median_and_p95(&working);
    let (commit, _) = median_and_p95(&committing);
    println!("the sealing: median {}, p95 {}; its commit {}", ms(median), ms(p95), ms(commit));
    median
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
    let sealing = the_sealing_alone(rounds).await;
    let (small, large) = keepers_way(devices, rounds).await;
    let of_size = large.saturating_sub(small);
    println!("a whole rename, of the keeper's own time: {}", ms(large));
    println!(
        "one event's sealing: {}, and {} for the room's size (reach: 1 ms); the library's call: {}",
        ms(sealing),
        ms(of_size),
        ms(library),
    );
}
