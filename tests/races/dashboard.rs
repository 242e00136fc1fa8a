//! The dashboard of a running keeper, in a real Chromium: each page is looked at, driven and attacked.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::json;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use crate::races::{
    spaces::{counts, joined, list, named_child},
    stage::Stage,
};

/// How long a browser may take for all of it.
const PATIENCE: Duration = Duration::from_secs(300);
const TOKEN: &str = "a token for the tests' own dashboard";
/// Who is named so that a page would have to be broken by it.
const WILD: &str = "<img src=x onerror=alert(1)>";

/// Runs the browser with what it has to know. What it complained of, where it did.
async fn look(stage: &Stage, given: serde_json::Value) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut browser = Command::new("node")
        .arg(root.join("tests/dashboard/check.mjs"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("Node.js runs");
    let mut input = browser.stdin.take().unwrap();
    input.write_all(given.to_string().as_bytes()).await.unwrap();
    drop(input);
    let done =
        timeout(PATIENCE, browser.wait_with_output()).await.expect("it ends in time").unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}\n{}", stage.keeper.log());
}

#[tokio::test]
async fn every_page_can_be_read_and_used_by_everybody_and_driven_by_nobody_else() {
    let mut stage = Stage::prepare(json!({
        "admin": { "dashboard": { "token": TOKEN } },
        "access": { "admins": ["@ops:localhost", "@alice:localhost", "@bob:localhost"] },
        "sharing": { "members": "approved" },
    }))
    .await;
    let space = stage.sim.room().space().create();
    stage.keeper.configure(&json!({ "spaces": [{ "room": space.room_id }] }));
    stage.keeper.start().await;
    joined(&stage, &space).await;
    // One room beneath it that is kept, and one that an administrator has to open.
    let child = named_child(&stage, &space, "Pantry").await;
    let closed = stage.sim.room().invite_only().create();
    list(&space, &closed.room_id, "localhost");
    counts(&stage, "statekeeper_space_rooms", "status=\"cannot_join\"", 1.0).await;
    let room = stage.named_room("Tea").await;
    let (bob, carol) = (stage.sim.user("bob").create(), stage.sim.user("carol").create());
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    stage.set(&room, ("org.example.note", WILD), json!({ "text": "a secret of the room's" })).await;
    stage.sim.join(&room, "carol");
    stage.keeper.wait_for_metric("statekeeper_holds", 1.0).await;
    // A room in which the keeper may not work, and so something that needs somebody.
    let powerless = stage.sim.room().create();
    powerless.invite(&stage.sim.keeper());
    counts(&stage, "statekeeper_rooms", "status=\"not_elevated\"", 1.0).await;
    look(
        &stage,
        json!({
            "base": format!("http://{}", stage.keeper.admin()),
            "token": TOKEN,
            "room": room.room_id,
            "member": bob.user_id,
            "held": carol.user_id,
            "child": child.room_id,
            "closed": closed.room_id,
            "pictures": Path::new(env!("CARGO_MANIFEST_DIR")).join(".work/dashboard"),
        }),
    )
    .await;
    // What was decided there counts.
    stage.shows(&carol.device(1), &room, "Tea").await;
    let log = stage.keeper.log();
    assert!(!log.contains(TOKEN) && !log.contains("a secret of the room's"), "{log}");
}
