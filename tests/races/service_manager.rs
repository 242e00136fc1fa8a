//! What whoever starts the keeper hears of it, and what it does when it may not write.

use std::{os::unix::net::UnixDatagram, process::Command};

use serde_json::json;

use crate::{
    races::stage::{NAME, Stage},
    simulated::Keeper,
};

/// The words of the next datagram, which comes within a while.
fn next(heard: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let length = heard.recv(&mut buffer).expect("the keeper says something");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// Waits until this is said, and gives what was said before it.
async fn said(heard: UnixDatagram, words: &'static str) -> (UnixDatagram, Vec<String>) {
    let waiting = tokio::task::spawn_blocking(move || {
        let mut before = Vec::new();
        loop {
            match next(&heard) {
                said if said == words => return (heard, before),
                said => before.push(said),
            }
        }
    });
    waiting.await.expect("it is said")
}

#[tokio::test]
async fn the_service_manager_hears_of_start_reload_and_end() {
    let (_sim, mut keeper) = Keeper::with_sim(json!({})).await;
    let path = keeper.folder().join("notify");
    let heard = UnixDatagram::bind(&path).unwrap();
    heard.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    keeper.set_environment("NOTIFY_SOCKET", path.to_str().unwrap());
    keeper.set_environment("WATCHDOG_USEC", "200000");
    keeper.spawn();
    let (heard, before) = said(heard, "READY=1").await;
    assert!(before.is_empty(), "{before:?}");
    let (heard, before) = said(heard, "STATUS=ready").await;
    assert!(before.iter().any(|said| said.starts_with("STATUS=waits for ")), "{before:?}");
    let (heard, _) = said(heard, "WATCHDOG=1").await;

    keeper.hang_up();
    let (heard, _) = said(heard, "RELOADING=1").await;
    let (heard, _) = said(heard, "READY=1").await;
    keeper.configure(&json!({ "rotation": { "messages": "many" } }));
    keeper.hang_up();
    let (heard, _) = said(heard, "RELOADING=1").await;
    let (heard, _) = said(heard, "READY=1").await;

    keeper.terminate().await;
    said(heard, "STOPPING=1\nSTATUS=brings to its end what is under way").await;
}

#[tokio::test]
async fn a_keeper_whose_disk_is_full_waits_for_room_and_says_so() {
    let mut stage = Stage::prepare(json!({})).await;
    // A file may have six blocks of 512 bytes: room for the log, and not for a page of the store.
    let full = "trap '' XFSZ; ulimit -S -f 6; exec \"$@\"";
    stage.keeper.start_by(&["sh", "-c", full, "sh"]);
    stage.keeper.spawn();
    stage.keeper.wait_for_log("the store cannot be written").await;
    let (status, said) = stage.keeper.health().await;
    assert_eq!(status, 503);
    let missing = json!(["device", "homeserver", "rooms", "store"]);
    assert_eq!((&said["status"], &said["missing"]), (&json!("not_ready"), &missing));
    assert_eq!(said["troubles"][0]["cause"], "store", "the system does not call it a full disk");
    let metric = stage.keeper.metric("statekeeper_missing", &["part=\"store\""]).await;
    assert!((metric - 1.0).abs() < f64::EPSILON, "{metric}");

    let pid = stage.keeper.pid().to_string();
    let freed = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
    assert!(freed.is_ok_and(|status| status.success()), "prlimit, of util-linux, is missing");
    stage.keeper.wait_until_ready().await;
    let room = stage.named_room("Tea").await;
    assert!(stage.seals(&room, NAME) > 0);
    assert!(stage.keeper.metric("statekeeper_missing", &[]).await < f64::EPSILON);
}
