//! `statekeeper doctor`: each kind of sabotage is named by its own check, with what mends it.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::{
    races::stage::Stage,
    simulated::{Fault, World, sim::PATIENCE},
};

const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// What the doctor says, and its exit code. The homeserver has to answer it meanwhile.
async fn examined(stage: &Stage) -> (i32, Value) {
    let folder = stage.keeper.folder();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    let (code, out, err) = stage.keeper.command_while_served("doctor", &["--json"]).await;
    assert_eq!(err, "");
    (code.unwrap(), serde_json::from_str(&out).unwrap())
}

fn findings<'a>(said: &'a Value, level: &str) -> Vec<&'a Value> {
    let findings = said["findings"].as_array().unwrap();
    findings.iter().filter(|finding| finding["level"] == level).collect()
}

fn checks(said: &Value, level: &str) -> Vec<String> {
    let found = findings(said, level);
    found.iter().map(|finding| finding["check"].as_str().unwrap().to_owned()).collect()
}

/// Asks until a check finds trouble (or gives a warning). What it says.
pub async fn comes_to(stage: &Stage, level: &str, check: &str) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (code, said) = examined(stage).await;
        let found = findings(&said, level);
        if let Some(finding) = found.iter().find(|finding| finding["check"] == check) {
            assert!(finding["fix"].is_string(), "{finding}");
            assert_ne!(code, 0);
            return (*finding).clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "no {level} of {check}: {said:#}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[tokio::test]
async fn a_sound_keeper_is_told_so_and_the_exit_code_is_0() {
    let stage = Stage::open().await;
    stage.named_room("Tea").await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let said = loop {
        let (code, said) = examined(&stage).await;
        if code == 0 {
            break said;
        }
        assert!(tokio::time::Instant::now() < deadline, "{said:#}");
        tokio::time::sleep(LOOK_EVERY).await;
    };
    assert_eq!(said["level"], "fine");
    let fine = checks(&said, "fine");
    for check in [
        "config",
        "store",
        "writable",
        "permissions",
        "disk",
        "keeper",
        "homeserver",
        "clock",
        "token",
        "sender",
        "namespace",
        "ping",
        "device",
        "cross_signing",
        "one_time_keys",
        "to_device",
        "sync",
        "room",
    ] {
        assert!(fine.iter().any(|fine| fine == check), "{check}: {said:#}");
    }
    let (code, out, _) = stage.keeper.command_while_served("doctor", &[]).await;
    assert_eq!(code, Some(0));
    assert!(out.lines().all(|line| line.starts_with("ok ")), "{out}");
}

#[tokio::test]
async fn a_keeper_that_is_down_is_named_and_the_rest_is_looked_at_all_the_same() {
    let mut stage = Stage::open().await;
    stage.named_room("Tea").await;
    stage.keeper.kill();
    let (code, said) = examined(&stage).await;
    assert_eq!(code, 2, "{said:#}");
    assert_eq!(checks(&said, "trouble"), ["keeper"]);
    let fine = checks(&said, "fine");
    for check in ["ping", "device", "token", "room"] {
        assert!(fine.iter().any(|fine| fine == check), "{check}: {said:#}");
    }
    stage.sim.change(World::delete_keepers_device);
    comes_to(&stage, "trouble", "device").await;
}

#[tokio::test]
async fn a_wrong_token_and_a_wrong_localpart_are_named() {
    let stage = Stage::open().await;
    stage.sim.change(|world| world.registration.as_token = "another-token-0123456789".to_owned());
    let finding = comes_to(&stage, "trouble", "token").await;
    assert!(finding["fix"].as_str().unwrap().contains("app_service_config_files"), "{finding}");
    stage.keeper.configure(&json!({ "appservice": { "bot": { "localpart": "other" } } }));
    let (code, said) = examined(&stage).await;
    assert_eq!((code, checks(&said, "trouble")), (2, vec!["config".to_owned()]), "{said:#}");
}

#[tokio::test]
async fn another_sender_localpart_at_the_homeserver_is_named() {
    let stage = Stage::open().await;
    let other = "_another_sender".to_owned();
    stage.sim.change(|world| world.registration.sender_localpart = other);
    let finding = comes_to(&stage, "trouble", "sender").await;
    assert!(finding["text"].as_str().unwrap().contains("_another_sender"), "{finding}");
}

#[tokio::test]
async fn a_homeserver_that_does_not_answer_is_named() {
    let stage = Stage::open().await;
    stage.sim.fault("versions", Fault::Status(502), 1000);
    comes_to(&stage, "trouble", "homeserver").await;
    stage.sim.fault("versions", Fault::Status(502), 0);
}

#[tokio::test]
async fn a_homeserver_that_has_another_hs_token_is_named_by_the_ping() {
    let stage = Stage::open().await;
    stage.sim.change(|world| world.registration.hs_token = "another-token-0123456789".to_owned());
    comes_to(&stage, "trouble", "ping").await;
}

#[tokio::test]
async fn a_keeper_that_lost_its_power_is_named_with_the_room() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    room.set_power(&stage.sim.keeper(), 0);
    let finding = comes_to(&stage, "trouble", "room").await;
    assert_eq!(finding["about"], json!(room.room_id));
}

#[tokio::test]
async fn a_reset_of_the_keepers_cross_signing_is_named() {
    let stage = Stage::open().await;
    stage.named_room("Tea").await;
    stage.sim.change(|world| {
        let keeper = world.keeper();
        world.user_mut(&keeper).identity = None;
        world.user_mut(&keeper).cross_signing.clear();
        world.create_identity(&keeper);
    });
    comes_to(&stage, "trouble", "cross_signing").await;
}

#[tokio::test]
async fn drained_one_time_keys_are_named_as_long_as_there_are_no_new_ones() {
    let stage = Stage::open().await;
    stage.named_room("Tea").await;
    stage.sim.hold("keys/upload");
    stage.sim.change(|world| {
        let keeper = world.keeper();
        for device in world.user_mut(&keeper).uploaded.values_mut() {
            device.one_time_keys.clear();
        }
    });
    comes_to(&stage, "warning", "one_time_keys").await;
    stage.sim.release("keys/upload");
}
