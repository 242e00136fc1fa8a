//! What benchmarks share: sizes, waiting for quiet, and how figures are printed.

use std::time::{Duration, Instant};

use super::sim::Sim;

/// For how long nothing may be asked of the homeserver before it counts as quiet.
const QUIET: Duration = Duration::from_millis(1500);

/// A size from the environment, or the usual one.
pub fn size(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

/// Where the request log stands.
pub fn mark(sim: &Sim) -> usize {
    sim.with(|world| world.requests.all.len())
}

/// Waits until the keeper asks nothing more, apart from its long poll.
pub async fn quiet(sim: &Sim) {
    let asked =
        || sim.with(|world| world.requests.all.iter().filter(|r| r.endpoint != "sync").count());
    let (mut before, mut since) = (asked(), Instant::now());
    while since.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = asked();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
}

/// The middle one and the 95th of a hundred.
pub fn median_and_p95(times: &[Duration]) -> (Duration, Duration) {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |share: f64| {
        let last = sorted.len().saturating_sub(1);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let place = (last as f64 * share).round() as usize;
        sorted.get(place).copied().unwrap_or_default()
    };
    (at(0.5), at(0.95))
}

/// Milliseconds with one decimal.
pub fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Prints one measured thing with what it asked of the homeserver since `start`.
pub fn report(sim: &Sim, what: &str, times: &[Duration], start: usize) {
    let (median, p95) = median_and_p95(times);
    let (counts, spent) =
        sim.with(|world| (world.requests.counts(start), world.requests.time_spent(start)));
    let total: usize = counts.values().sum();
    let runs = times.len().max(1);
    println!(
        "{what:<46} median {:>11}   p95 {:>11}   requests {:>7.1}   homeserver {:>11}",
        ms(median),
        ms(p95),
        total as f64 / runs as f64,
        ms(spent / u32::try_from(runs).unwrap_or(1)),
    );
    let shown: Vec<String> = counts
        .iter()
        .map(|(endpoint, count)| format!("{endpoint} {:.1}", *count as f64 / runs as f64))
        .collect();
    println!("{:<46} {}", "", shown.join(", "));
}
