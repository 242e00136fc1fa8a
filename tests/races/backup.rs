//! Backups: made while the keeper works, and put back where there is no store.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use matrix_sdk_crypto::{decrypt_room_key_export, encrypt_room_key_export, olm::ExportedRoomKey};
use serde_json::{Value, json};
use vodozemac::megolm::{InboundGroupSession, MegolmMessage, SessionConfig};

use crate::{
    races::stage::{NAME, Stage},
    simulated::World,
};

/// The passphrase of all backups here.
const PASSPHRASE: &str = "a passphrase of the backup's own";

fn path(stage: &Stage, name: &str) -> PathBuf {
    stage.keeper.folder().join(name)
}

/// A command about a file in the keeper's folder, with the passphrase in a file.
fn prepared(stage: &Stage, names: &[&str], file: &str) -> Command {
    fs::write(path(stage, "backup-passphrase"), format!("{PASSPHRASE}\n")).unwrap();
    let (file, passphrase) = (path(stage, file), path(stage, "backup-passphrase"));
    let arguments = [file.to_str().unwrap(), "--passphrase-file", passphrase.to_str().unwrap()];
    stage.keeper.prepared(names, &arguments)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs it. It has to succeed, and must not say what is secret.
fn run(stage: &Stage, names: &[&str], file: &str) -> String {
    let done = prepared(stage, names, file).output().unwrap();
    let said = is_discreet(&done);
    assert!(done.status.success(), "{names:?}: {said}");
    text(&done.stdout)
}

/// Runs it. It has to be refused.
fn refused(stage: &Stage, names: &[&str], file: &str) -> String {
    let done = prepared(stage, names, file).output().unwrap();
    let said = is_discreet(&done);
    assert_eq!(done.status.code(), Some(1), "{names:?}: {said}");
    text(&done.stderr)
}

/// What a command said, which is never a secret.
fn is_discreet(done: &Output) -> String {
    let said = format!("{}{}", text(&done.stdout), text(&done.stderr));
    for secret in [PASSPHRASE, "a passphrase for tests"] {
        assert!(!said.contains(secret), "{said}");
    }
    said
}

/// Loses the store: what is left is what an operator keeps elsewhere.
fn lose_the_store(stage: &Stage) {
    for name in ["statekeeper.db", "statekeeper.db-wal", "statekeeper.db-shm"] {
        let _ = fs::remove_file(path(stage, name));
    }
    fs::remove_dir_all(path(stage, "statekeeper-crypto")).unwrap();
}

/// Whether there is a whole store: a half-made one does not say what rooms there are.
fn has_a_store(stage: &Stage) -> bool {
    if !path(stage, "statekeeper.db").exists() {
        return false;
    }
    let (code, out, err) = stage.keeper.command("rooms", &["--json"]);
    assert_eq!(code, Some(0), "{err}");
    let rooms: Value = serde_json::from_str(&out).unwrap();
    assert!(!rooms.as_array().unwrap().is_empty());
    assert!(path(stage, "statekeeper-crypto/matrix-sdk-crypto.sqlite3").exists());
    true
}

#[tokio::test]
async fn a_backup_made_while_the_keeper_writes_is_whole_and_disturbs_nothing() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let mut made = Vec::new();
    for round in 0..3 {
        let file = format!("backup-{round}.age");
        let mut export = prepared(&stage, &["export", "store"], &file);
        let mut export = export.stdout(Stdio::null()).spawn().unwrap();
        let mut names = 0;
        while export.try_wait().unwrap().is_none() {
            names += 1;
            stage.name(&room, &format!("Tea {round} {names}")).await;
        }
        assert!(export.wait().unwrap().success() && names > 0, "{names}");
        made.push(file);
    }
    stage.keeper.terminate().await;
    for file in made {
        assert_eq!(fs::metadata(path(&stage, &file)).unwrap().mode() & 0o777, 0o600);
        lose_the_store(&stage);
        let said = run(&stage, &["import", "store"], &file);
        assert!(said.contains("new device") && said.contains("@statekeeper:localhost"), "{said}");
        assert!(has_a_store(&stage));
    }
    let left: Vec<String> = fs::read_dir(stage.keeper.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("export") || name.contains("import") || name.contains("part"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    assert!(!stage.keeper.log().contains(PASSPHRASE));
}

#[tokio::test]
async fn nothing_is_put_back_beside_a_running_keeper_nor_over_a_store() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    run(&stage, &["export", "store"], "backup.age");
    let told = refused(&stage, &["import", "store"], "backup.age");
    assert!(told.contains("a keeper is running"), "{told}");
    stage.name(&room, "Coffee").await;
    assert_eq!(stage.seals(&room, NAME), 2);
    stage.keeper.terminate().await;
    let before = fs::read(path(&stage, "statekeeper.db")).unwrap();
    let told = refused(&stage, &["import", "store"], "backup.age");
    assert!(told.contains("statekeeper.db: is there already"), "{told}");
    assert_eq!(fs::read(path(&stage, "statekeeper.db")).unwrap(), before);
}

#[tokio::test]
async fn a_backup_is_not_overwritten_unless_that_is_said() {
    let stage = Stage::open().await;
    stage.named_room("Tea").await;
    run(&stage, &["export", "store"], "backup.age");
    let before = fs::read(path(&stage, "backup.age")).unwrap();
    let told = refused(&stage, &["export", "store"], "backup.age");
    assert!(told.contains("--force"), "{told}");
    assert_eq!(fs::read(path(&stage, "backup.age")).unwrap(), before);
    let forced = prepared(&stage, &["export", "store", "--force"], "backup.age").output().unwrap();
    assert!(forced.status.success(), "{}", text(&forced.stderr));
    assert_ne!(fs::read(path(&stage, "backup.age")).unwrap(), before);
}

#[tokio::test]
async fn a_backup_that_was_damaged_or_is_anothers_is_not_put_back() {
    let mut stage = Stage::open().await;
    stage.named_room("Tea").await;
    run(&stage, &["export", "store"], "backup.age");
    stage.keeper.terminate().await;
    lose_the_store(&stage);
    let whole = fs::read(path(&stage, "backup.age")).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (name, content) in [("cut.age", &whole[..whole.len() / 2]), ("flipped.age", &flipped)] {
        fs::write(path(&stage, name), content).unwrap();
        let told = refused(&stage, &["import", "store"], name);
        assert!(told.contains("damaged or not whole"), "{name}: {told}");
        assert!(!has_a_store(&stage) && !path(&stage, "statekeeper-crypto").exists());
    }
    fs::write(path(&stage, "wrong"), "another").unwrap();
    let (file, wrong) = (path(&stage, "backup.age"), path(&stage, "wrong"));
    let arguments = [file.to_str().unwrap(), "--passphrase-file", wrong.to_str().unwrap()];
    let done = stage.keeper.prepared(&["import", "store"], &arguments).output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).contains("the passphrase is not the one"), "{done:?}");
    assert!(!has_a_store(&stage));
}

/// Killed at every tenth of the time that an import takes, and a little beyond it.
#[tokio::test]
async fn an_import_that_is_killed_leaves_a_whole_store_or_none_and_the_next_one_succeeds() {
    let mut stage = Stage::open().await;
    stage.named_room("Tea").await;
    run(&stage, &["export", "store"], "backup.age");
    stage.keeper.terminate().await;
    lose_the_store(&stage);
    let began = std::time::Instant::now();
    run(&stage, &["import", "store"], "backup.age");
    let whole = began.elapsed();
    assert!(has_a_store(&stage));
    for tenth in 0..12 {
        lose_the_store(&stage);
        let mut import = prepared(&stage, &["import", "store"], "backup.age");
        let mut import = import.stdout(Stdio::null()).spawn().unwrap();
        // What is tested is the very moment of the kill, which nothing announces.
        std::thread::sleep(whole * tenth / 10 + Duration::from_millis(3));
        let _ = import.kill();
        let _ = import.wait();
        if !has_a_store(&stage) {
            run(&stage, &["import", "store"], "backup.age");
            assert!(has_a_store(&stage));
        }
    }
}

#[tokio::test]
async fn the_passphrase_is_taken_from_a_file_from_input_or_from_the_environment_and_has_to_be_one()
{
    let stage = Stage::open().await;
    stage.named_room("Tea").await;
    let export = |arguments: &[&str], variable: Option<&str>, input: &str| {
        let mut command = stage.keeper.prepared(&["export", "store", "--force"], arguments);
        command.env_remove("STATEKEEPER_BACKUP_PASSPHRASE");
        command.envs(variable.map(|value| ("STATEKEEPER_BACKUP_PASSPHRASE", value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that does not read it has closed it, perhaps.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let done = child.wait_with_output().unwrap();
        (done.status.code(), is_discreet(&done))
    };
    let file = path(&stage, "backup.age");
    let file = file.to_str().unwrap();
    let (code, said) = export(&[file], None, "");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--passphrase-file") && said.contains("STATEKEEPER_BACKUP_PASSPHRASE"));
    assert_eq!(export(&[file], Some(PASSPHRASE), "").0, Some(0));
    let from_input = [file, "--passphrase-file", "-"];
    assert_eq!(export(&from_input, None, &format!("{PASSPHRASE}\n")).0, Some(0));
    let (code, said) = export(&from_input, None, "\n");
    assert_eq!(code, Some(1));
    assert!(said.contains("the passphrase is empty"), "{said}");
}

/// Reads an exported file as any client does.
fn exported(stage: &Stage, file: &str) -> Vec<ExportedRoomKey> {
    let text = fs::read_to_string(path(stage, file)).unwrap();
    decrypt_room_key_export(text.as_bytes(), PASSPHRASE).unwrap()
}

/// Writes a file with keys as any client does.
fn write_keys(stage: &Stage, file: &str, keys: &[Value]) {
    let keys: Vec<ExportedRoomKey> =
        keys.iter().map(|key| serde_json::from_value(key.clone()).unwrap()).collect();
    let text = encrypt_room_key_export(&keys, PASSPHRASE, 1000).unwrap();
    fs::write(path(stage, file), text).unwrap();
}

#[tokio::test]
async fn exported_keys_are_read_by_any_client_and_open_what_the_keeper_sealed() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    stage.name(&room, "Coffee").await;
    let told = run(&stage, &["export", "keys"], "keys.txt");
    assert!(told.contains("keys.txt"), "{told}");
    assert_eq!(fs::metadata(path(&stage, "keys.txt")).unwrap().mode() & 0o777, 0o600);
    let keys = exported(&stage, "keys.txt");
    let seal = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME)).unwrap();
    let content = seal.sent_content();
    let own = keys.iter().find(|key| content["session_id"] == key.session_id.as_str()).unwrap();
    assert_eq!(content["sender_key"], own.sender_key.to_base64());
    assert!(!own.shared_history);
    let mut session = InboundGroupSession::import(&own.session_key, SessionConfig::version_1());
    let ciphertext = content["ciphertext"].as_str().unwrap();
    let opened = session.decrypt(&MegolmMessage::from_base64(ciphertext).unwrap()).unwrap();
    let opened: Value = serde_json::from_slice(&opened.plaintext).unwrap();
    assert_eq!(opened["content"], json!({ "name": "Coffee" }));
    let members = stage.alice_device().session_id(&room);
    assert!(keys.iter().any(|key| key.session_id == members), "what a member encrypted under");
    for key in &keys {
        assert!(!stage.keeper.log().contains(&key.session_key.to_base64()));
    }
}

#[tokio::test]
async fn a_lost_store_and_its_exported_keys_bring_the_names_back() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    run(&stage, &["export", "keys"], "keys.txt");
    stage.keeper.kill();
    lose_the_store(&stage);
    stage.keeper.start().await;
    stage.keeper.wait_for_log("looking for what it was made from").await;
    let before = stage.seals(&room, NAME);
    let told = run(&stage, &["import", "keys"], "keys.txt");
    assert!(told.contains("keys of"), "{told}");
    stage.sealed(&room, NAME, &json!({ "name": "Tea" })).await;
    stage
        .sim
        .wait_for("it is sealed anew", |world| {
            world.keeper_seals(&room.room_id, NAME).len() > before
        })
        .await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    // It stands for whom it stood.
    let seal = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME)).unwrap();
    let opened = bob.device(1).opens(&seal).unwrap();
    assert_eq!(opened.payload["io.statekeeper.stands_for"]["sender"], "@alice:localhost");
    assert_eq!(stage.sim.with(|world| world.reused_indices()), []);
}

#[tokio::test]
async fn what_was_taken_back_stays_so_though_its_key_is_imported() {
    let mut stage = Stage::open().await;
    let (first, taken_back) = (stage.named_room("Tea").await, stage.named_room("Nonsense").await);
    let last = stage.named_room("Coffee").await;
    let said = stage.sim.with(|world| world.keeper_seal(&taken_back.room_id, NAME)).unwrap();
    run(&stage, &["export", "keys"], "keys.txt");
    stage.keeper.kill();
    lose_the_store(&stage);
    // What a value stands for is redacted while the keeper is away; the keeper's own event is not.
    let said = stage.alice_device().opens(&said).unwrap().payload;
    taken_back.redact(said["io.statekeeper.stands_for"]["event_id"].as_str().unwrap());
    stage.keeper.start().await;
    stage.keeper.wait_for_log("looking for what it was made from").await;
    run(&stage, &["import", "keys"], "keys.txt");
    // Those beside it come back, whichever is looked at first.
    for room in [&first, &last] {
        let anew = |world: &mut World| world.keeper_seals(&room.room_id, NAME).len() == 2;
        stage.sim.wait_for("a name is sealed anew", anew).await;
    }
    stage.settle(&taken_back, "it is looked at as well").await;
    assert_eq!(stage.seals(&taken_back, NAME), 1);
}

#[tokio::test]
async fn an_imported_key_of_a_members_is_read_and_lends_nobody_the_keepers_name() {
    let stage = Stage::open().await;
    let room = stage.named_room("Before").await;
    let bob = stage.sim.user("bob").create().device(1);
    stage.sim.join(&room, "bob");
    room.set_power("bob", 90);
    stage.shows(&bob, &room, "Before").await;
    let alice = stage.alice_device();
    alice.withhold(&room);
    alice.rename(&room, "After");
    alice.give_key_to(&room, &bob);
    stage.keeper.wait_for_metric("statekeeper_undecryptable_state_events", 1.0).await;
    let mut key = bob.forwarded_key(&room, &alice, 0);
    key["sender_claimed_keys"] = json!({ "ed25519": key["sender_claimed_ed25519_key"] });
    write_keys(&stage, "keys.txt", &[key]);
    run(&stage, &["import", "keys"], "keys.txt");
    stage.keeper.wait_for_metric("statekeeper_undecryptable_state_events", 0.0).await;
    let seals = stage.seals(&room, NAME);
    bob.send_state(&room, ("m.room.topic", ""), &json!({ "topic": "later" }));
    stage.sealed(&room, "m.room.topic:", &json!({ "topic": "later" })).await;
    assert_eq!(stage.seals(&room, NAME), seals, "nobody vouches for whose key it is");
    alice.answer_as_maker(&room);
    stage.sealed(&room, NAME, &json!({ "name": "After" })).await;
}

#[tokio::test]
async fn a_file_of_keys_that_does_not_open_or_is_none_is_refused() {
    let stage = Stage::open().await;
    stage.named_room("Tea").await;
    run(&stage, &["export", "keys"], "keys.txt");
    let whole = fs::read_to_string(path(&stage, "keys.txt")).unwrap();
    let cut = whole[..whole.len() / 2].to_owned();
    let changed = whole.replacen("A", "B", 3);
    for (name, content) in [("cut.txt", cut), ("changed.txt", changed), ("no.txt", "no".to_owned())]
    {
        fs::write(path(&stage, name), content).unwrap();
        let told = refused(&stage, &["import", "keys"], name);
        assert!(told.contains(name), "{told}");
    }
}
