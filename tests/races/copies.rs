//! Copies in plain beside what is sealed, by each policy: with edits that cross, answers that are lost, and kills.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{Fault, RoomRef, World, room::Event, sim::PATIENCE},
};

const TITLE: (&str, &str) = ("m.room.name", "");
const TOPIC: (&str, &str) = ("m.room.topic", "");
const ACL: (&str, &str) = ("m.room.server_acl", "");
const ALICE: &str = "@alice:localhost";
const NOTE: &str = "com.example.note";
const STUB: &str = "Ask inside";

fn copying(policy: &str) -> Value {
    json!({ "state": { "plain_copy": policy, "plain_stub": STUB } })
}

fn publishing() -> Value {
    json!({ "state": { "exempt_sealed": "publish" } })
}

/// What stands in plain.
fn plain(world: &World, room: &RoomRef, (kind, key): (&str, &str)) -> Option<Event> {
    world.room(&room.room_id).current(kind, key).map(|event| Event::clone(event))
}

/// Does the keeper's copy say this, and does what is sealed come after it?
fn copied(world: &World, room: &RoomRef, tuple: (&str, &str), content: &Value) -> bool {
    let sealed = world.keeper_seal(&room.room_id, &format!("{}:{}", tuple.0, tuple.1));
    let (Some(plain), Some(sealed)) = (plain(world, room, tuple), sealed) else { return false };
    plain.sender == world.keeper() && plain.content == *content && plain.tick < sealed.tick
}

async fn see_copy(stage: &Stage, room: &RoomRef, tuple: (&str, &str), content: &Value) {
    let what = format!("the copy says {content}, and the seal comes last");
    stage.sim.wait_for(&what, |world| copied(world, room, tuple, content)).await;
}

/// How many state events the keeper has sent in plain, but for copies of the notes of [`settle`].
fn written(stage: &Stage, room: &RoomRef) -> usize {
    stage.sim.with(|world| {
        let keeper = world.keeper();
        let timeline = world.room(&room.room_id).timeline.iter();
        let ours = timeline.filter(|event| event.sender == keeper && event.state_key.is_some());
        let others = ["m.room.encrypted", "m.room.member", NOTE];
        ours.filter(|event| !others.contains(&&*event.event_type)).count()
    })
}

/// Makes sure that the keeper has dealt with all that happened in a room so far, by a note that is sealed after it.
async fn settle(stage: &Stage, room: &RoomRef, token: &str) {
    let event = stage.alice_device().send_state(room, (NOTE, ""), &json!({ "note": token }));
    let over = |world: &mut World| {
        let current = world.room(&room.room_id).current("m.room.encrypted", &format!("{NOTE}:"));
        current.is_some_and(|current| current.event_id != event)
    };
    stage.sim.wait_for("the keeper seals the note", over).await;
}

/// A room that had a name in plain before the keeper came, and has the same under encryption.
async fn named_in_plain(stage: &Stage, name: &str) -> (RoomRef, String) {
    let room = stage.sim.room().create();
    let old = room.put_state(ALICE, TITLE, json!({ "name": name }));
    stage.invite_keeper(&room).await;
    stage.sealed(&room, NAME, &json!({ "name": name })).await;
    (room, old)
}

async fn counted(stage: &Stage, what: &str, times: f64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = stage.keeper.metric("statekeeper_plain_copies_total", &[what]).await;
        if now >= times {
            return;
        }
        assert!(Instant::now() < deadline, "{what} is counted {now} times and not {times}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn is_redacted(world: &World, room: &RoomRef, event_id: &str) -> bool {
    world.room(&room.room_id).event(event_id).is_some_and(|event| event.redacted.is_some())
}

#[tokio::test]
async fn by_default_a_copy_stays_untouched_and_is_warned_of() {
    let stage = Stage::open().await;
    let (room, old) = named_in_plain(&stage, "Tea").await;
    counted(&stage, "telling", 1.0).await;
    stage.name(&room, "Coffee").await;
    counted(&stage, "stale", 1.0).await;
    stage.name(&room, "Water").await;
    settle(&stage, &room, "later").await;
    assert_eq!(written(&stage, &room), 0);
    assert!(!stage.sim.with(|world| is_redacted(world, &room, &old)));
    assert_eq!(stage.keeper.log().matches("a copy in plain says something else").count(), 1);
    assert!(!stage.keeper.log().contains("Coffee"));
}

#[tokio::test]
async fn mirrored_both_copies_are_kept_in_step() {
    let stage = Stage::with(copying("mirror")).await;
    let room = stage.room().await;
    for name in ["Tea", "Coffee"] {
        stage.alice_device().rename(&room, name);
        see_copy(&stage, &room, TITLE, &json!({ "name": name })).await;
    }
    // Somebody's word in plain is none in a room that says that its state is encrypted.
    room.put_state(ALICE, TITLE, json!({ "name": "Milk" }));
    see_copy(&stage, &room, TITLE, &json!({ "name": "Coffee" })).await;
    let (name, seals) = (written(&stage, &room), stage.seals(&room, NAME));
    assert_eq!((name, seals), (3, 3), "each said once");
    settle(&stage, &room, "later").await;
    assert_eq!(stage.seals(&room, NAME), seals, "and not for ever");
}

#[tokio::test]
async fn a_stub_stands_in_the_place_of_the_name_and_other_copies_are_emptied() {
    let stage = Stage::with(copying("stub")).await;
    let room = stage.sim.room().create();
    let topic = room.put_state(ALICE, TOPIC, json!({ "topic": "Secret" }));
    stage.invite_keeper(&room).await;
    stage.alice_device().rename(&room, "Tea");
    see_copy(&stage, &room, TITLE, &json!({ "name": STUB })).await;
    see_copy(&stage, &room, TOPIC, &json!({ "topic": "" })).await;
    stage.name(&room, "Coffee").await;
    settle(&stage, &room, "later").await;
    assert_eq!(written(&stage, &room), 2, "a rename changes nothing in plain");
    assert!(!stage.sim.with(|world| is_redacted(world, &room, &topic)));
}

#[tokio::test]
async fn cleared_it_is_emptied_and_redacted_and_the_sealed_value_stays() {
    let stage = Stage::with(copying("clear")).await;
    let (room, old) = named_in_plain(&stage, "Tea").await;
    see_copy(&stage, &room, TITLE, &json!({ "name": "" })).await;
    stage.sim.wait_for("the old one is redacted", |world| is_redacted(world, &room, &old)).await;
    settle(&stage, &room, "later").await;
    stage.sealed(&room, NAME, &json!({ "name": "Tea" })).await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    // Redacted by a member, the value goes after all.
    room.redact(&old);
    let gone = |world: &mut World| {
        let current = world.room(&room.room_id).current("m.room.encrypted", NAME);
        current.is_some_and(|event| event.redacted.is_some())
    };
    stage.sim.wait_for("the seal is redacted", gone).await;
}

#[tokio::test]
async fn where_clients_go_on_in_plain_each_of_their_names_is_sealed_and_cleared() {
    let mut settings = copying("clear");
    settings["state"]["seal"] = json!("encrypted_rooms");
    let stage = Stage::with(settings).await;
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    let setting = ("m.room.encryption", "");
    let room = stage.sim.room().encrypted_state(false).state(setting, encryption).create();
    stage.invite_keeper(&room).await;
    for name in ["Tea", "Coffee"] {
        let said = room.put_state(ALICE, TITLE, json!({ "name": name }));
        stage.sealed(&room, NAME, &json!({ "name": name })).await;
        see_copy(&stage, &room, TITLE, &json!({ "name": "" })).await;
        stage.sim.wait_for("it is redacted", |world| is_redacted(world, &room, &said)).await;
    }
    settle(&stage, &room, "later").await;
    stage.sealed(&room, NAME, &json!({ "name": "Coffee" })).await;
}

#[tokio::test]
async fn a_redaction_of_the_value_takes_its_mirror_with_it() {
    let stage = Stage::with(copying("mirror")).await;
    let room = stage.room().await;
    let said = stage.alice_device().rename(&room, "Oops");
    see_copy(&stage, &room, TITLE, &json!({ "name": "Oops" })).await;
    let copy = stage.sim.with(|world| plain(world, &room, TITLE).unwrap().event_id);
    room.redact(&said);
    stage.sim.wait_for("the copy is redacted", |world| is_redacted(world, &room, &copy)).await;
    settle(&stage, &room, "later").await;
    assert_eq!(written(&stage, &room), 1, "what was redacted stays redacted");
}

#[tokio::test]
async fn a_copy_whose_answer_was_lost_is_not_sent_twice() {
    for policy in ["mirror", "stub"] {
        let mut stage = Stage::with(copying(policy)).await;
        let room = stage.room().await;
        let name = if policy == "mirror" { "Tea" } else { STUB };
        stage.sim.fault("state/put", Fault::DoneThenHang, 1);
        stage.alice_device().rename(&room, "Tea");
        let done = |world: &mut World| plain(world, &room, TITLE).is_some();
        stage.sim.wait_for("the copy arrives and its answer does not", done).await;
        stage.keeper.kill();
        stage.keeper.start().await;
        see_copy(&stage, &room, TITLE, &json!({ "name": name })).await;
        stage.sealed(&room, NAME, &json!({ "name": "Tea" })).await;
        settle(&stage, &room, "after the restart").await;
        assert_eq!(written(&stage, &room), 1, "{policy}");
    }
}

#[tokio::test]
async fn a_copy_that_was_not_sent_is_sent_after_the_kill_and_the_old_one_redacted() {
    let mut stage = Stage::open().await;
    let (room, old) = named_in_plain(&stage, "Tea").await;
    counted(&stage, "telling", 1.0).await;
    stage.keeper.terminate().await;
    stage.keeper.configure(&copying("clear"));
    stage.sim.fault("state/put", Fault::Hang, 1);
    let before = stage.sim.requests("state/put");
    stage.keeper.start().await;
    let asked = |world: &mut World| world.requests.to("state/put").count() > before;
    stage.sim.wait_for("the copy is on its way", asked).await;
    stage.keeper.kill();
    stage.keeper.start().await;
    see_copy(&stage, &room, TITLE, &json!({ "name": "" })).await;
    stage.sim.wait_for("the old one is redacted", |world| is_redacted(world, &room, &old)).await;
    assert_eq!(written(&stage, &room), 1);
}

#[tokio::test]
async fn a_copy_that_lands_nowhere_any_more_is_dropped_and_decided_anew() {
    let mut stage = Stage::with(copying("mirror")).await;
    let room = stage.room().await;
    stage.sim.fault("state/put", Fault::Hang, 1);
    let before = stage.sim.requests("state/put");
    stage.alice_device().rename(&room, "Tea");
    let asked = |world: &mut World| world.requests.to("state/put").count() > before;
    stage.sim.wait_for("the copy is on its way", asked).await;
    stage.keeper.kill();
    // What it was made from stands there no more.
    room.put_state(ALICE, TITLE, json!({ "name": "Milk" }));
    stage.alice_device().rename(&room, "Coffee");
    stage.keeper.start().await;
    see_copy(&stage, &room, TITLE, &json!({ "name": "Coffee" })).await;
    let said = stage.sim.with(|world| {
        let timeline = world.room(&room.room_id).timeline.iter();
        timeline.filter(|event| event.content["name"] == "Tea").count()
    });
    assert_eq!(said, 0, "the one from before was never sent");
}

#[tokio::test]
async fn a_bot_that_writes_the_name_back_is_not_answered_for_ever() {
    let stage = Stage::with(copying("clear")).await;
    let (room, _) = named_in_plain(&stage, "Tea").await;
    see_copy(&stage, &room, TITLE, &json!({ "name": "" })).await;
    for _ in 0..4 {
        room.put_state(ALICE, TITLE, json!({ "name": "Tea" }));
        see_copy(&stage, &room, TITLE, &json!({ "name": "" })).await;
    }
    room.put_state(ALICE, TITLE, json!({ "name": "Tea" }));
    counted(&stage, "war", 1.0).await;
    settle(&stage, &room, "after the quarrel").await;
    assert_eq!(written(&stage, &room), 5);
    // The sealed value is given out all the same.
    stage.name(&room, "Coffee").await;
}

#[tokio::test]
async fn a_copy_that_the_homeserver_refuses_holds_nothing_up() {
    let stage = Stage::with(copying("mirror")).await;
    let room = stage.room().await;
    stage.sim.fault("state/put", Fault::Status(400), 1);
    stage.name(&room, "Tea").await;
    counted(&stage, "refused", 1.0).await;
    settle(&stage, &room, "later").await;
    assert!(stage.sim.with(|world| plain(world, &room, TITLE).is_none()));
    stage.alice_device().rename(&room, "Coffee");
    see_copy(&stage, &room, TITLE, &json!({ "name": "Coffee" })).await;
}

#[tokio::test]
async fn a_policy_of_its_own_and_a_reload_change_what_becomes_of_the_copy() {
    let stage = Stage::open().await;
    let (secret, _) = named_in_plain(&stage, "Tea").await;
    let (open, old) = named_in_plain(&stage, "Tea").await;
    let rooms = json!([open.room_id]);
    stage.keeper.configure(&json!({
        "state": { "plain_copy": "stub", "plain_stub": STUB },
        "policies": [{ "match": { "rooms": rooms }, "state": { "plain_copy": "keep" } }],
    }));
    stage.keeper.hang_up();
    see_copy(&stage, &secret, TITLE, &json!({ "name": STUB })).await;
    settle(&stage, &open, "later").await;
    assert_eq!(written(&stage, &open), 0);
    assert_eq!(stage.sim.with(|world| plain(world, &open, TITLE).unwrap().event_id), old);
}

#[tokio::test]
async fn with_noop_no_copy_is_written() {
    let mut settings = copying("mirror");
    settings["noop"] = json!(true);
    let stage = Stage::with(settings).await;
    let room = stage.sim.room().create();
    room.put_state(ALICE, TITLE, json!({ "name": "Tea" }));
    stage.invite_keeper(&room).await;
    let deadline = Instant::now() + PATIENCE;
    while !stage.keeper.log().contains("noop: this would be done") {
        assert!(Instant::now() < deadline, "nothing is rehearsed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(written(&stage, &room), 0);
}

fn acl(server: &str) -> Value {
    json!({ "allow": ["*"], "deny": [server] })
}

fn acl_is(world: &World, room: &RoomRef, content: &Value) -> bool {
    plain(world, room, ACL).is_some_and(|event| event.content == *content)
}

#[tokio::test]
async fn a_sealed_acl_is_put_back_where_the_homeserver_reads_it() {
    let stage = Stage::with(publishing()).await;
    let room = stage.named_room("Tea").await;
    stage.alice_device().send_state(&room, ACL, &acl("evil.example"));
    let published = |world: &mut World| acl_is(world, &room, &acl("evil.example"));
    stage.sim.wait_for("it is put back in plain", published).await;
    settle(&stage, &room, "later").await;
    assert_eq!(written(&stage, &room), 1);
    assert_eq!(stage.seals(&room, "m.room.server_acl:"), 0, "and never sealed by the keeper");
    // What is said in plain since is newer, and counts.
    room.put_state(ALICE, ACL, acl("worse.example"));
    settle(&stage, &room, "later still").await;
    assert!(stage.sim.with(|world| acl_is(world, &room, &acl("worse.example"))));
    stage.alice_device().send_state(&room, ACL, &acl("worst.example"));
    let published = |world: &mut World| acl_is(world, &room, &acl("worst.example"));
    stage.sim.wait_for("the next one is put back, too", published).await;
}

#[tokio::test]
async fn by_default_a_sealed_acl_is_reported_and_left() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    stage.alice_device().send_state(&room, ACL, &acl("evil.example"));
    settle(&stage, &room, "later").await;
    assert_eq!(written(&stage, &room), 0);
    assert!(stage.keeper.metric("statekeeper_state_refused_total", &["exempt"]).await >= 1.0);
    let told = ["rule=\"exempt\"", "action=\"report\""];
    assert_eq!(stage.keeper.metric("statekeeper_policy_violations_total", &told).await, 1.0);
    let (code, rows, err) = stage.keeper.command("ledger", &["--user", ALICE, "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let told = rows.lines().filter(|row| row.contains("\"violation:report\"")).count();
    assert_eq!(told, 1, "{rows}");
}

#[tokio::test]
async fn a_type_that_is_exempt_no_more_is_sealed_after_a_reload() {
    let plan = ("org.example.plan", "");
    let exempt = json!({ "state": { "exempt": ["m.room.server_acl", "org.example.plan"] } });
    let stage = Stage::with(exempt).await;
    let room = stage.named_room("Tea").await;
    stage.alice_device().send_state(&room, plan, &json!({ "step": 1 }));
    settle(&stage, &room, "later").await;
    assert_eq!(stage.seals(&room, "org.example.plan:"), 0);
    stage.keeper.configure(&json!({ "state": { "exempt": ["m.room.server_acl"] } }));
    stage.keeper.hang_up();
    stage.sealed(&room, "org.example.plan:", &json!({ "step": 1 })).await;
}

#[tokio::test]
async fn publishing_launders_nothing() {
    let stage = Stage::with(publishing()).await;
    let room = stage.sim.room().encrypted_power(0).create();
    stage.invite_keeper(&room).await;
    stage.name(&room, "Tea").await;
    // Without the power for the true type.
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    bob.device(1).send_state(&room, ACL, &acl("bob.example"));
    settle(&stage, &room, "after Bob").await;
    // From a device that its owner did not sign.
    let ursula = stage.sim.user("ursula").trust(crate::simulated::Trust::Unsigned).create();
    stage.sim.join(&room, "ursula");
    room.set_power("ursula", 100);
    ursula.device(1).send_state(&room, ACL, &acl("ursula.example"));
    settle(&stage, &room, "after Ursula").await;
    // Another tuple's ciphertext.
    let tombstone = ("m.room.tombstone", "");
    let sealed = stage.alice_device().seal(&room, tombstone, &acl("swapped.example"));
    room.put_state("alice", ("m.room.encrypted", "m.room.server_acl:"), sealed);
    settle(&stage, &room, "after the swap").await;
    // An old ciphertext again.
    let said = stage.alice_device().send_state(&room, ACL, &acl("evil.example"));
    let published = |world: &mut World| acl_is(world, &room, &acl("evil.example"));
    stage.sim.wait_for("what is allowed is put back", published).await;
    stage.alice_device().send_state(&room, ACL, &acl("worse.example"));
    let published = |world: &mut World| acl_is(world, &room, &acl("worse.example"));
    stage.sim.wait_for("and the next", published).await;
    let old =
        stage.sim.with(|world| world.room(&room.room_id).event(&said).unwrap().content.clone());
    room.put_state("alice", ("m.room.encrypted", "m.room.server_acl:"), old);
    settle(&stage, &room, "after the replay").await;
    assert_eq!(written(&stage, &room), 2);
    assert!(stage.sim.with(|world| acl_is(world, &room, &acl("worse.example"))));
}

#[tokio::test]
async fn what_is_said_in_plain_while_an_acl_is_put_back_is_not_lost() {
    let stage = Stage::with(publishing()).await;
    let room = stage.named_room("Tea").await;
    let room_id = room.room_id.clone();
    stage.sim.before_next_state_put(move |world| {
        world.put_state(&room_id, ALICE, ACL, acl("newer.example")).expect("Alice may");
    });
    stage.alice_device().send_state(&room, ACL, &acl("older.example"));
    let back = |world: &mut World| {
        acl_is(world, &room, &acl("newer.example"))
            && plain(world, &room, ACL).is_some_and(|event| event.sender == world.keeper())
    };
    stage.sim.wait_for("the newer one is put back over the older", back).await;
    settle(&stage, &room, "later").await;
    assert_eq!(written(&stage, &room), 2);
}

#[tokio::test]
async fn a_published_acl_whose_answer_was_lost_is_not_sent_twice() {
    let mut stage = Stage::with(publishing()).await;
    let room = stage.named_room("Tea").await;
    stage.sim.fault("state/put", Fault::DoneThenHang, 1);
    stage.alice_device().send_state(&room, ACL, &acl("evil.example"));
    let published = |world: &mut World| acl_is(world, &room, &acl("evil.example"));
    stage.sim.wait_for("it arrives and its answer does not", published).await;
    stage.keeper.kill();
    room.put_state(ALICE, ACL, acl("newer.example"));
    stage.keeper.start().await;
    settle(&stage, &room, "after the restart").await;
    assert_eq!(written(&stage, &room), 1);
    assert!(stage.sim.with(|world| acl_is(world, &room, &acl("newer.example"))));
}
