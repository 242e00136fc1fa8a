//! What an operator asks of the running keeper: how it fares, why somebody lacks a key, and to mend it.

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{RoomRef, UserRef, World, sim::PATIENCE},
};

/// How far apart the keeper is asked again.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_millis(50);

/// Runs a command that has to succeed. What it said.
fn run(stage: &Stage, name: &str, arguments: &[&str]) -> String {
    let (code, out, err) = stage.keeper.command(name, arguments);
    assert_eq!(code, Some(0), "{name} {arguments:?}: {err}");
    out
}

/// Runs a command that has to be refused. What it complained of.
fn refused(stage: &Stage, name: &str, arguments: &[&str]) -> String {
    let (code, out, err) = stage.keeper.command(name, arguments);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{name} {arguments:?}");
    err
}

fn json_of(stage: &Stage, name: &str, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(stage, name, &[arguments, &["--json"]].concat())).unwrap()
}

fn why(stage: &Stage, user: &UserRef, room: &RoomRef) -> Value {
    json_of(stage, "why", &[&user.user_id, &room.room_id])
}

/// What is found of the room and the user, by its codes.
fn codes(why: &Value) -> Vec<String> {
    let findings = why["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

/// What is found of a user's only device.
fn device_code(why: &Value) -> String {
    let devices = why["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 1, "{why:#}");
    devices[0]["finding"]["code"].as_str().unwrap().to_owned()
}

/// Asks until the answer is such. The keeper may not have heard yet that it is in the room.
async fn comes_to(
    stage: &Stage,
    what: &str,
    (user, room): (&UserRef, &RoomRef),
    such: impl Fn(&Value) -> bool,
) -> Value {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let asked = [user.user_id.as_str(), room.room_id.as_str(), "--json"];
        let (code, out, err) = stage.keeper.command("why", &asked);
        if code == Some(0) {
            let now = serde_json::from_str(&out).unwrap();
            if such(&now) {
                return now;
            }
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: {out}{err}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn with_members(members: &str) -> Stage {
    let admins = ["@ops:localhost", "@alice:localhost"];
    Stage::with(json!({ "sharing": { "members": members }, "access": { "admins": admins } })).await
}

#[tokio::test]
async fn why_says_that_a_key_was_sent_and_when() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    let sent = |why: &Value| device_code(why) == "key_sent";
    let why = comes_to(&stage, "the refresh is over", (&bob, &room), sent).await;
    assert_eq!(codes(&why), Vec::<String>::new());
    assert_eq!(why["membership"], "join");
    let device = &why["devices"][0];
    assert_eq!((&device["entitled"], &device["cross_signed"]), (&json!(true), &json!(true)));
    let value = &device["values"][0];
    assert_eq!(
        (&value["event_type"], &value["state"]),
        (&json!("m.room.name"), &json!("key_sent"))
    );
    assert!(value["at"].as_i64().unwrap() > 1_700_000_000_000, "{value}");
    let told = run(&stage, "why", &[&bob.user_id, &room.room_id]);
    assert!(told.contains("the homeserver took the last at 20"), "{told}");
    assert!(
        told.contains(&format!("statekeeper share {} {}", room.room_id, bob.user_id)),
        "{told}"
    );
}

#[tokio::test]
async fn why_names_what_keeps_somebody_from_a_key() {
    let stage = Stage::with(json!({ "access": { "deny_users": ["@mallory:*"] } })).await;
    let room = stage.named_room("Tea").await;
    let [bob, carol, dave, mallory] =
        ["bob", "carol", "dave", "mallory"].map(|name| stage.sim.user(name).create());
    let ursula = stage.sim.user("ursula").cross_signed(false).create();
    let empty = stage.sim.user("empty").without_one_time_keys().create();
    let nobody = stage.sim.user("nobody").create();
    for user in [&bob, &carol, &dave, &mallory, &ursula, &empty] {
        stage.sim.join(&room, &user.user_id);
    }
    stage.shows(&bob.device(1), &room, "Tea").await;
    run(&stage, "block", &[&bob.user_id]);
    run(&stage, "block", &[&carol.user_id, &carol.device(1).device_id]);
    run(&stage, "deny", &[&room.room_id, &dave.user_id]);
    for (user, code, of_user) in [
        (&bob, "user_blocked", true),
        (&carol, "device_blocked", false),
        (&dave, "denied", true),
        (&mallory, "not_admitted", true),
        (&ursula, "unsigned", false),
        (&empty, "no_one_time_key", false),
    ] {
        let found = |why: &Value| device_code(why) == code;
        let why = comes_to(&stage, code, (user, &room), found).await;
        let of_all: &[&str] = if of_user { &[code] } else { &[] };
        assert_eq!(codes(&why), of_all, "{why:#}");
        assert!(why["devices"][0]["finding"]["fix"].is_string(), "{why:#}");
    }
    let text = why(&stage, &mallory, &room)["findings"][0]["text"].to_string();
    assert!(text.contains("access.deny_users"), "{text}");
    let why = why(&stage, &nobody, &room);
    assert_eq!(codes(&why)[0], "not_a_member");
    assert_eq!(why["membership"], Value::Null);
    room.leave("carol");
    let left = |why: &Value| codes(why).first().is_some_and(|code| code == "not_a_member");
    let why = comes_to(&stage, "Carol is gone", (&carol, &room), left).await;
    assert_eq!(why["membership"], "leave");
    let said = refused(&stage, "why", &[&bob.user_id, "!nowhere:localhost"]);
    assert!(said.starts_with("!nowhere:localhost: the keeper is in no such room"), "{said}");
}

#[tokio::test]
async fn why_tells_of_an_invitee_which_values_wait_for_the_join() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    stage.set(&room, ("org.example.plan", ""), json!({ "plan": "secret" })).await;
    let bob = stage.sim.user("bob").create();
    room.invite("bob");
    let sent = |why: &Value| {
        !why["devices"].as_array().unwrap().is_empty() && device_code(why) == "key_sent"
    };
    let why = comes_to(&stage, "the invitee has the name's key", (&bob, &room), sent).await;
    let states: Vec<_> = why["devices"][0]["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|value| (value["event_type"].as_str().unwrap(), value["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, [("m.room.name", "key_sent"), ("org.example.plan", "not_entitled")]);
}

#[tokio::test]
async fn why_says_for_which_word_a_member_waits() {
    for (members, code) in [("approved", "awaits_approval"), ("vouched", "not_vouched")] {
        let stage = with_members(members).await;
        let room = stage.named_room("Tea").await;
        let bob = stage.sim.user("bob").create();
        stage.sim.join(&room, "bob");
        let held = |why: &Value| codes(why) == [code] && device_code(why) == code;
        let why = comes_to(&stage, code, (&bob, &room), held).await;
        let fix = why["findings"][0]["fix"].as_str().unwrap();
        assert_eq!(fix, format!("`statekeeper approve {} {}`", room.room_id, bob.user_id));
        run(&stage, "approve", &[&room.room_id, &bob.user_id]);
        stage.shows(&bob.device(1), &room, "Tea").await;
    }
}

#[tokio::test]
async fn why_names_a_changed_identity() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    bob.reset_identity();
    let changed = |why: &Value| codes(why) == ["identity_changed"];
    comes_to(&stage, "the identity changed", (&bob, &room), changed).await;
}

#[tokio::test]
async fn why_names_what_is_the_matter_with_the_room() {
    let stage = Stage::open().await;
    let plain = stage.sim.room().encrypted_state(false).create();
    stage.invite_keeper(&plain).await;
    let found =
        |code: &'static str| move |why: &Value| codes(why).iter().any(|found| found == code);
    let at = (&stage.alice, &plain);
    comes_to(&stage, "state is plain", at, found("state_not_encrypted")).await;

    let room = stage.named_room("Tea").await;
    let alice = stage.alice_device();
    alice.rotate(&room);
    alice.withhold(&room);
    alice.rename(&room, "Coffee");
    let at = (&stage.alice, &room);
    let why = comes_to(&stage, "the name cannot be read", at, found("undecryptable")).await;
    assert_eq!(why["devices"][0]["values"][0]["state"], "undecryptable");
    room.set_power(&stage.sim.keeper(), 0);
    comes_to(&stage, "the keeper is demoted", at, found("not_elevated")).await;
    let said = refused(&stage, "refresh", &[&room.room_id]);
    assert!(said.contains("is not elevated there"), "{said}");
}

#[tokio::test]
async fn why_says_that_a_device_has_to_ask() {
    let stage = Stage::with(json!({ "sharing": { "unasked": false } })).await;
    let room = stage.room().await;
    stage.alice_device().rename(&room, "Tea");
    let sealed = |world: &mut World| world.keeper_seal(&room.room_id, NAME).is_some();
    stage.sim.wait_for("the keeper seals the name", sealed).await;
    let asks = |why: &Value| device_code(why) == "has_to_ask";
    comes_to(&stage, "Alice has to ask", (&stage.alice, &room), asks).await;
}

#[tokio::test]
async fn a_share_gives_the_keys_once_more_and_shows_the_name_again() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    let sent = |why: &Value| device_code(why) == "key_sent";
    comes_to(&stage, "the refresh is over", (&bob, &room), sent).await;
    let (keys, seals) = (bob.device(1).keys_from_keeper().len(), stage.seals(&room, NAME));
    let said = run(&stage, "share", &[&bob.user_id, &room.room_id]);
    assert!(said.starts_with(&format!("the entitled devices of {} are given", bob.user_id)));
    let device = bob.device(1);
    let again = |world: &mut World| {
        let from_keeper = world.keeper();
        let received = &world.read_inbox(&device.user_id, &device.device_id).received;
        let of_keeper = received.iter().filter(|message| message.sender == from_keeper);
        of_keeper.count() > keys
    };
    stage.sim.wait_for("the key comes once more", again).await;
    let refreshed = |world: &mut World| world.keeper_seals(&room.room_id, NAME).len() > seals;
    stage.sim.wait_for("the name is refreshed", refreshed).await;
    stage.shows(&device, &room, "Tea").await;
}

#[tokio::test]
async fn neither_a_share_nor_an_approval_overrides_membership_trust_or_a_block() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    let ursula = stage.sim.user("ursula").cross_signed(false).create();
    let nobody = stage.sim.user("nobody").create();
    for user in [&bob, &ursula] {
        stage.sim.join(&room, &user.user_id);
    }
    stage.shows(&bob.device(1), &room, "Tea").await;
    run(&stage, "block", &[&bob.user_id]);
    stage.name(&room, "Coffee").await;
    for user in [&bob, &ursula] {
        let (code, _, err) = stage.keeper.command("share", &[&user.user_id, &room.room_id]);
        assert_eq!(code, Some(0));
        assert!(err.contains("gets none: "), "{err}");
        run(&stage, "approve", &[&room.room_id, &user.user_id]);
    }
    for verb in ["share", "approve"] {
        let mut about = [nobody.user_id.as_str(), room.room_id.as_str()];
        if verb == "approve" {
            about.reverse();
        }
        let said = refused(&stage, verb, &about);
        assert!(said.contains("is neither joined to nor invited into"), "{said}");
    }
    stage.settle(&room, "after the commands").await;
    let coffee = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    for user in [&bob, &ursula, &nobody] {
        assert!(user.device(1).opens(&coffee).is_err(), "{}", user.user_id);
    }
}

#[tokio::test]
async fn a_refresh_seals_every_value_once_more_and_then_no_more() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    stage.set(&room, ("m.room.topic", ""), json!({ "topic": "Assam" })).await;
    let topic = "m.room.topic:";
    let before = (stage.seals(&room, NAME), stage.seals(&room, topic));
    let said = run(&stage, "refresh", &[&room.room_id]);
    assert_eq!(said, format!("{}: values that are sealed once more: 2\n", room.room_id));
    let (name, other) = (before.0 + 1, before.1 + 1);
    let again = |world: &mut World| {
        world.keeper_seals(&room.room_id, NAME).len() == name
            && world.keeper_seals(&room.room_id, topic).len() == other
    };
    stage.sim.wait_for("both are sealed once more", again).await;
    // Whatever else is decided there does not begin it again.
    stage.set(&room, ("org.example.plan", ""), json!({ "plan": "none" })).await;
    let sealed = stage.keeper.metric("statekeeper_state_events_sealed_total", &["admin"]).await;
    assert!((sealed - 2.0).abs() < f64::EPSILON, "{sealed}");
    assert_eq!((stage.seals(&room, NAME), stage.seals(&room, topic)), (name, other));
}

#[tokio::test]
async fn with_noop_on_nothing_is_sent_over_a_restart_and_with_it_off_what_was_left_is_done() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let rehearsed = || stage.keeper.log().matches("noop: this would be done").count();
    assert!(run(&stage, "noop", &["on"]).starts_with("noop is on"));
    stage.alice_device().rename(&room, "Coffee");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while rehearsed() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "it was not rehearsed");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    assert_eq!(json_of(&stage, "status", &[])["noop"], json!(true));
    assert_eq!(json_of(&stage, "room", &[&room.room_id])["noop"], json!(true));
    stage.keeper.kill();
    stage.keeper.start().await;
    assert_eq!(json_of(&stage, "status", &[])["noop"], json!(true));
    let tea = stage.sim.with(|world| world.keeper_seals(&room.room_id, NAME).len());
    run(&stage, "noop", &["off"]);
    stage.sealed(&room, NAME, &json!({ "name": "Coffee" })).await;
    assert_eq!(stage.seals(&room, NAME), tea + 1);
}

#[tokio::test]
async fn rooms_and_status_tell_what_stands_and_what_is_missing() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let status = json_of(&stage, "status", &[]);
    assert_eq!((&status["ready"], &status["rooms"]["kept"]), (&json!(true), &json!(1)));
    assert_eq!(status["user_id"], json!(stage.sim.keeper()));
    let rooms = json_of(&stage, "rooms", &[]);
    assert_eq!(rooms[0]["room_id"], json!(room.room_id));
    assert_eq!((&rooms[0]["status"], &rooms[0]["sealed"]), (&json!("kept"), &json!(1)));
    let told = json_of(&stage, "room", &[&room.room_id]);
    assert_eq!(told["tuples"][0]["event_type"], "m.room.name");
    assert_eq!(told["tuples"][0]["state"], "sealed");
    assert!(told["policy"].as_str().unwrap().contains("devices=cross_signed"));
    let table = run(&stage, "rooms", &[]);
    assert!(table.lines().next().unwrap().starts_with("ROOM"), "{table}");
    assert!(table.contains("1/1"), "{table}");

    stage.sim.hold("sync");
    stage.keeper.terminate().await;
    // Rooms are told from the store, and how a keeper fares only by one that runs.
    assert_eq!(json_of(&stage, "rooms", &[])[0]["status"], "kept");
    assert_eq!(json_of(&stage, "room", &[&room.room_id])["noop"], Value::Null);
    let said = refused(&stage, "status", &[]);
    assert!(said.contains("no keeper answers") && said.contains("statekeeper.sock"), "{said}");
}

#[tokio::test]
async fn commands_stand_in_the_ledger_with_who_gave_them_whether_a_keeper_ran_or_not() {
    let mut stage = with_members("approved").await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.keeper.wait_for_metric("statekeeper_holds", 1.0).await;
    run(&stage, "approve", &[&room.room_id, &bob.user_id]);
    stage.shows(&bob.device(1), &room, "Tea").await;
    refused(&stage, "unblock", &[&bob.user_id]);
    run(&stage, "holds", &[]);
    run(&stage, "holds", &[]);
    stage.keeper.kill();
    // The socket of a killed keeper is there, and nobody listens.
    run(&stage, "deny", &[&room.room_id, &bob.user_id]);
    let lines = run(&stage, "ledger", &["--commands", "--json"]);
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row["verb"].as_str().unwrap(), row["outcome"].as_str().unwrap(), &row["count"]))
        .collect();
    assert_eq!(
        told,
        [
            ("approve", "done", &json!(1)),
            ("unblock", "refused:not_blocked", &json!(1)),
            ("holds", "done", &json!(2)),
            ("deny", "done", &json!(1)),
        ]
    );
    for row in &rows {
        assert!(row["actor"].as_str().unwrap().starts_with("uid:"), "{row}");
    }
    assert_eq!(
        (&rows[0]["room_id"], &rows[0]["user_id"]),
        (&json!(room.room_id), &json!(bob.user_id))
    );
    stage.keeper.start().await;
    stage.name(&room, "Coffee").await;
    let coffee = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    assert!(bob.device(1).opens(&coffee).is_err(), "the denial that came while it was down counts");
}

#[tokio::test]
async fn a_second_keeper_on_the_same_store_does_not_start() {
    let stage = Stage::open().await;
    let (code, _, err) = stage.keeper.command("serve", &[]);
    assert_eq!(code, Some(1));
    assert!(err.contains("admin.listen") || err.contains("another process answers there"), "{err}");
}
