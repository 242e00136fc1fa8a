//! How long a request for a key takes on a quiet Synapse, with `sharing.unasked: false`: from the asking client's
//! request to the key in its `/sync`, and from the keeper's hearing of it to the homeserver's 200 for the answer.
//! The askers are clients of an independent implementation (Python `vodozemac`).
//!
//! `STATEKEEPER_BENCH_ROUNDS` (20). Install Synapse and the client first with `tests/setup.sh`. A busy machine
//! shows in every figure here, so let nothing else run beside it.
// The futures of matrix-sdk are nested deeper than the default.
#![recursion_limit = "256"]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use serde_json::json;
use support::{
    eventually, now_ms,
    python::{PythonClient, PythonHost},
    room::RoomSpec,
    synapse,
    world::World,
};

/// For how long nothing may be going on before somebody asks.
const QUIET: Duration = Duration::from_millis(500);

fn median_and_p95(times: &mut [f64]) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    (at(0.5), at(0.95))
}

fn print(what: &str, times: &mut [f64], reach: &str) {
    let (median, p95) = median_and_p95(times);
    println!("  {what:<48} median {median:>6.1} ms   p95 {p95:>6.1} ms   {reach}");
}

/// Sum and count of the keeper's own measurement.
async fn measured(world: &World) -> (f64, f64) {
    let metrics = world.keeper.metrics().await;
    let of = |name: &str| metrics.sum(name, &[]);
    (of("statekeeper_key_request_seconds_sum"), of("statekeeper_key_request_seconds_count"))
}

/// What the homeserver has taken so far for all requests but the long poll, in seconds.
async fn homeservers(world: &World) -> f64 {
    let metrics = world.keeper.metrics().await;
    let name = "statekeeper_homeserver_request_seconds_sum";
    metrics.sum(name, &[]) - metrics.sum(name, &[("endpoint", "sync")])
}

async fn quiet(world: &World) {
    let mut last = (-1.0, std::time::Instant::now());
    eventually("the keeper comes to rest", async || {
        let metrics = world.keeper.metrics().await;
        let name = "statekeeper_homeserver_requests_total";
        let asked = metrics.sum(name, &[]) - metrics.sum(name, &[("endpoint", "sync")]);
        if (last.0 - asked).abs() > 0.5 {
            last = (asked, std::time::Instant::now());
        }
        (last.1.elapsed() > QUIET).then_some(())
    })
    .await;
}

#[tokio::main]
async fn main() {
    let rounds = std::env::var("STATEKEEPER_BENCH_ROUNDS").ok();
    let rounds: usize = rounds.and_then(|value| value.parse().ok()).unwrap_or(20).max(1);
    println!("Starting Synapse, the keeper and {} clients ...", rounds + 1);
    let unasked = json!({ "sharing": { "unasked": false } });
    let world = World::with(synapse::Options::default(), &unasked).await;
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    let original = owner.set_name(&room_id, "The Orchard").await;
    world.sealed(&owner.api, &room_id, "m.room.name", &original).await;
    let host = PythonHost::start();
    let (mut seen, mut own, mut homeserver) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let asker = PythonClient::register(&host, &world, "asker", true).await;
        asker.join(&room_id).await;
        let event = asker.name_event(&room_id).await;
        quiet(&world).await;
        let before = (measured(&world).await, homeservers(&world).await);
        let asked_at = now_ms();
        asker.ask(&event).await;
        asker.wait_key(&event).await;
        let got_at = now_ms();
        let answered = async || {
            let now = measured(&world).await;
            (now.1 > before.0.1).then_some(now)
        };
        let after = eventually("the answer is counted", answered).await;
        // The first one is not counted.
        if round > 0 {
            seen.push(got_at - asked_at);
            own.push((after.0 - before.0.0) * 1000.0);
            homeserver.push((homeservers(&world).await - before.1) * 1000.0);
        }
    }
    println!("\nA member asks for the key of the room's name ({rounds})");
    print("heard by the keeper, to the 200 of the answer", &mut own, "(reach: 30 ms)");
    print("  of that, the homeserver's requests", &mut homeserver, "");
    print("asked, to the key in the asking client's hands", &mut seen, "");
}
