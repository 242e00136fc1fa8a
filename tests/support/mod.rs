//! The real parts that the end-to-end tests and the demo are made of: a Synapse, the keeper's own
//! binary, stock clients on both SDKs, and clients on no SDK at all.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

pub mod api;
pub mod client;
pub mod js;
pub mod keeper;
pub mod line_host;
pub mod metrics;
pub mod ports;
pub mod process;
pub mod python;
pub mod room;
pub mod rust;
pub mod synapse;
pub mod timeline;
pub mod world;

use std::{
    path::{Path, PathBuf},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How long a condition may take that holds within a second on an idle machine. Two cores shared by
/// several Synapses are not idle.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `look` again and again until it answers, and fails with `what` when it has not by
/// [`PATIENCE`].
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    match within(PATIENCE, look).await {
        Some(found) => found,
        None => panic!("within {PATIENCE:?} it did not come about that {what}"),
    }
}

/// Asks `look` again and again until it answers or `limit` has passed.
pub async fn within<T>(limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look().await {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The repository's top level.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A name that no other test of this run uses.
pub fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{stem}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Milliseconds since the epoch, the clock that all clients report in.
pub fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0
}

/// A directory of its own for one run of one component, under `.work/run`. It stays when the test
/// fails, for whoever reads the logs, and is removed when the value is dropped otherwise.
#[derive(Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    pub fn new(stem: &str) -> Self {
        static SWEPT: Once = Once::new();
        let runs = repository().join(".work/run");
        SWEPT.call_once(|| sweep(&runs));
        let path = runs.join(format!("{}-{}", unique(stem), std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Removes what earlier runs left behind, an hour after they ended.
fn sweep(runs: &Path) {
    for run in std::fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = run.file_name().to_string_lossy().into_owned();
        let process = name.rsplit_once('-').map_or("", |(_, process)| process);
        let age = run.metadata().ok().and_then(|data| data.modified().ok()?.elapsed().ok());
        let old = age.is_some_and(|age| age > Duration::from_secs(3600));
        if old && !Path::new("/proc").join(process).exists() {
            let _ = std::fs::remove_dir_all(run.path());
        }
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
