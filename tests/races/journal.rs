//! Who gave a room's state which value, allowed or not, and what is made of that when more is known.

use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{DeviceRef, Fault, RoomRef, World, sim::PATIENCE},
};

const UNREADABLE: &str = "statekeeper_undecryptable_state_events";

/// A room in which anybody may send encrypted state, with a name of Alice's, Bob, who has no power, and Carol, who has.
pub struct Scene {
    pub stage: Stage,
    pub room: RoomRef,
    pub bob: DeviceRef,
    pub carol: DeviceRef,
}

impl Scene {
    pub async fn open(settings: Value) -> Self {
        let stage = Stage::with(settings).await;
        let room = stage.sim.room().encrypted_power(0).create();
        stage.invite_keeper(&room).await;
        stage.name(&room, "Alice's").await;
        let [bob, carol] = ["bob", "carol"].map(|name| {
            let user = stage.sim.user(name).create();
            stage.sim.join(&room, name);
            user.device(1)
        });
        room.set_power("carol", 100);
        stage.shows(&bob, &room, "Alice's").await;
        stage.shows(&carol, &room, "Alice's").await;
        Self { stage, room, bob, carol }
    }

    fn alice(&self) -> DeviceRef {
        self.stage.alice_device()
    }

    /// Alice says something that the keeper cannot read.
    async fn unread(&self, name: &str) -> String {
        self.alice().withhold(&self.room);
        let event = self.alice().rename(&self.room, name);
        self.stage.keeper.wait_for_metric(UNREADABLE, 1.0).await;
        event
    }

    /// The keeper is given the key after all, and has heard of it.
    async fn key_comes(&self) {
        self.alice().answer_as_maker(&self.room);
        let heard = |world: &mut World| world.keeper_heard_all();
        self.stage.sim.wait_for("the keeper heard the key", heard).await;
        self.stage.settle(&self.room, "after the key").await;
    }

    fn stands(&self, event_id: &str) -> bool {
        self.stage.sim.with(|world| {
            let current = world.room(&self.room.room_id).current("m.room.encrypted", NAME);
            current.is_some_and(|event| event.event_id == event_id)
        })
    }

    /// Waits until the keeper has said something over an event.
    pub async fn goes_back(&self, event_id: &str) {
        let back = |world: &mut World| {
            let current = world.room(&self.room.room_id).current("m.room.encrypted", NAME);
            current.is_some_and(|now| now.event_id != event_id && now.sender == world.keeper())
        };
        self.stage.sim.wait_for(&format!("{event_id} goes back"), back).await;
    }

    /// What the keeper sealed last as the room's name is redacted.
    pub async fn is_gone(&self) {
        let gone = |world: &mut World| {
            let current = world.room(&self.room.room_id).current("m.room.encrypted", NAME);
            current.is_some_and(|event| event.sender == world.keeper() && event.redacted.is_some())
        };
        self.stage.sim.wait_for("what the keeper sealed is redacted", gone).await;
    }

    pub async fn is_sealed(&self, name: &str) {
        self.stage.sealed(&self.room, NAME, &json!({ "name": name })).await;
    }

    /// The state is fetched anew, by rules that differ in how it is read.
    pub fn is_fetched_anew(&self, settings: Value) {
        self.stage.keeper.configure(&settings);
        let never = json!({ "state": { "never_reseal": ["com.example.bound"] } });
        self.stage.keeper.configure(&never);
        self.stage.keeper.hang_up();
    }
}

#[tokio::test]
async fn a_late_key_makes_an_older_allowed_value_the_newest_one() {
    let scene = Scene::open(json!({})).await;
    scene.unread("Hers").await;
    let his = scene.bob.rename(&scene.room, "Bob's");
    scene.goes_back(&his).await;
    scene.is_sealed("Alice's").await;
    scene.alice().answer_as_maker(&scene.room);
    scene.is_sealed("Hers").await;
}

#[tokio::test]
async fn a_late_key_brings_nothing_back_that_a_newer_value_replaced() {
    let scene = Scene::open(json!({})).await;
    scene.unread("Hers").await;
    scene.carol.rename(&scene.room, "Carol's");
    scene.is_sealed("Carol's").await;
    let seals = scene.stage.seals(&scene.room, NAME);
    scene.key_comes().await;
    assert_eq!(scene.stage.seals(&scene.room, NAME), seals);
}

#[tokio::test]
async fn nor_when_the_newer_value_was_taken_back() {
    let scene = Scene::open(json!({})).await;
    scene.unread("Hers").await;
    let newer = scene.carol.rename(&scene.room, "Carol's");
    scene.is_sealed("Carol's").await;
    scene.room.redact(&newer);
    scene.key_comes().await;
    let seals = scene.stage.seals(&scene.room, NAME);
    let his = scene.bob.rename(&scene.room, "Bob's");
    scene.stage.settle(&scene.room, "after Bob's").await;
    assert!(scene.stands(&his), "there is nothing to put in its place");
    assert_eq!(scene.stage.seals(&scene.room, NAME), seals);
}

#[tokio::test]
async fn a_broken_rule_is_remembered_when_the_state_is_fetched_anew() {
    let scene = Scene::open(json!({ "enforce": { "power": "report" } })).await;
    let his = scene.bob.rename(&scene.room, "Bob's");
    scene.stage.settle(&scene.room, "after Bob's").await;
    assert!(scene.stands(&his), "it is reported");
    scene.is_fetched_anew(json!({ "enforce": { "power": "restore" } }));
    scene.goes_back(&his).await;
    scene.is_sealed("Alice's").await;
}

#[tokio::test]
async fn what_was_allowed_is_still_when_its_sender_has_lost_his_power() {
    let scene = Scene::open(json!({ "state": { "reseal": "on_need" } })).await;
    scene.carol.rename(&scene.room, "Carol's");
    scene.room.set_power("carol", 0);
    scene.is_fetched_anew(json!({}));
    let fetched = |world: &mut World| world.requests.to("state").count() >= 2;
    scene.stage.sim.wait_for("the state is fetched anew", fetched).await;
    let dave = scene.stage.sim.user("dave").create().device(1);
    scene.stage.sim.join(&scene.room, "dave");
    scene.stage.shows(&dave, &scene.room, "Carol's").await;
}

/// Bob names a room with one power and has another one when the keeper comes, who is given the key then.
async fn found(then: i64, today: i64) -> (Stage, RoomRef) {
    let stage = Stage::open().await;
    let room = stage.sim.room().encrypted_power(0).create();
    let bob = stage.sim.user("bob").create().device(1);
    stage.sim.join(&room, "bob");
    room.set_power("bob", then);
    bob.rename(&room, "Bob's");
    room.set_power("bob", today);
    stage.invite_keeper(&room).await;
    stage.settle(&room, "after the keeper came").await;
    bob.answer_as_maker(&room);
    (stage, room)
}

#[tokio::test]
async fn what_somebody_was_allowed_before_the_keeper_came_is_sealed() {
    let (stage, room) = found(100, 0).await;
    stage.sealed(&room, NAME, &json!({ "name": "Bob's" })).await;
}

/// Bob names a room with one power and has another one when the keeper learns of it, under whose own event it lies.
async fn untold(then: i64, today: i64) -> (Stage, RoomRef) {
    let stage = Stage::open().await;
    let room = stage.sim.room().encrypted_power(0).create();
    stage.invite_keeper(&room).await;
    stage.name(&room, "First").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "First").await;
    room.set_power("bob", then);
    stage.settle(&room, "after Bob's power").await;
    let bobs = bob.device(1).seal(&room, ("m.room.name", ""), &json!({ "name": "Bob's" }));
    let (room_id, bob) = (room.room_id.clone(), bob.user_id.clone());
    stage.sim.before_next_state_put(move |world| {
        world.append(&room_id, &bob, ("m.room.encrypted", Some(NAME)), bobs);
        world.lose_newest();
        let levels = world.room(&room_id).current("m.room.power_levels", "");
        let mut content = levels.map_or(json!({}), |event| event.content.clone());
        content["users"][&bob] = json!(today);
        let alice = "@alice:localhost";
        world.append(&room_id, alice, ("m.room.power_levels", Some("")), content);
    });
    stage.alice_device().rename(&room, "Older");
    let looked = |world: &mut World| world.requests.to("context").count() > 0;
    stage.sim.wait_for("what stood then is looked at", looked).await;
    stage.settle(&room, "after the missed one").await;
    (stage, room)
}

#[tokio::test]
async fn what_somebody_was_allowed_when_the_keeper_was_not_told_is_sealed() {
    let (stage, room) = untold(100, 0).await;
    stage.sealed(&room, NAME, &json!({ "name": "Bob's" })).await;
    assert!(stage.keeper.metric("statekeeper_policy_violations_total", &["power"]).await < 1.0);
}

#[tokio::test]
async fn what_somebody_was_not_allowed_when_the_keeper_was_not_told_is_not_sealed() {
    let (stage, room) = untold(0, 100).await;
    stage.settle(&room, "later").await;
    stage.sealed(&room, NAME, &json!({ "name": "Older" })).await;
    assert!(stage.keeper.metric("statekeeper_policy_violations_total", &["power"]).await >= 1.0);
}

#[tokio::test]
async fn what_somebody_was_not_allowed_before_the_keeper_came_is_not_sealed() {
    let (stage, room) = found(0, 100).await;
    let heard = |world: &mut World| world.keeper_heard_all();
    stage.sim.wait_for("the keeper heard the key", heard).await;
    stage.settle(&room, "after the key").await;
    assert_eq!(stage.seals(&room, NAME), 0);
    let violations = "statekeeper_policy_violations_total";
    assert_eq!(stage.keeper.metric(violations, &["power", "report"]).await, 1.0);
}

#[tokio::test]
async fn a_name_in_plain_is_sealed_whatever_its_sender_may_do_today() {
    let stage = Stage::open().await;
    let room = stage.sim.room().create();
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    room.set_power("bob", 100);
    room.put_state(&bob.user_id, ("m.room.name", ""), json!({ "name": "Bob's" }));
    room.set_power("bob", 0);
    stage.invite_keeper(&room).await;
    stage.sealed(&room, NAME, &json!({ "name": "Bob's" })).await;
}

#[tokio::test]
async fn the_ledger_tells_which_event_broke_which_rule_and_what_follows() {
    let scene = Scene::open(json!({ "enforce": { "critical": "report" } })).await;
    let rename = scene.bob.rename(&scene.room, "Bob's");
    let forged = scene.bob.send_state(&scene.room, ("m.room.power_levels", ""), &json!({}));
    scene.goes_back(&rename).await;
    scene.stage.settle(&scene.room, "after both").await;
    let (code, rows, said) =
        scene.stage.keeper.command("ledger", &["--json", "--user", "@bob:localhost"]);
    assert_eq!(code, Some(0), "{said}");
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<_> = rows
        .filter(|row| row["event_id"].is_string())
        .map(|row| {
            assert_eq!((&row["device_id"], &row["session_id"]), (&Value::Null, &Value::Null));
            ["event_id", "event_type", "reason", "outcome", "room_id"]
                .map(|field| row[field].clone())
        })
        .collect();
    let wanted = [
        [&rename, "m.room.name", "power", "violation:restore", &scene.room.room_id],
        [&forged, "m.room.power_levels", "critical", "violation:report", &scene.room.room_id],
    ];
    assert_eq!(told, wanted.map(|row| row.map(Value::from)));
}

/// What is kept of an event: what became of it, whether its ciphertext, its content and the levels of its time are there,
/// and whether it is looked at again.
pub type Kept = (String, bool, bool, bool, bool);

async fn database(stage: &Stage) -> SqliteConnection {
    let path = stage.keeper.folder().join("statekeeper.db");
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(PATIENCE);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn kept(stage: &Stage, event_id: &str) -> Option<Kept> {
    sqlx::query_as(
        "SELECT verdict, body IS NOT NULL, content IS NOT NULL, levels_id IS NOT NULL, awaits \
         FROM state_events WHERE event_id = ?",
    )
    .bind(event_id)
    .fetch_optional(&mut database(stage).await)
    .await
    .unwrap()
}

/// Waits until this is kept of an event.
pub async fn becomes(stage: &Stage, event_id: &str, wanted: &Option<Kept>) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = kept(stage, event_id).await;
        if found == *wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{found:?} and not {wanted:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

pub fn row(verdict: &str, flags: [bool; 4]) -> Option<Kept> {
    let [body, content, levels, awaits] = flags;
    Some((verdict.to_owned(), body, content, levels, awaits))
}

#[tokio::test]
async fn what_was_not_allowed_is_kept_and_read_when_its_key_comes() {
    let scene = Scene::open(json!({})).await;
    scene.bob.withhold(&scene.room);
    let his = scene.bob.rename(&scene.room, "Bob's");
    scene.goes_back(&his).await;
    assert_eq!(kept(&scene.stage, &his).await, row("no_power", [true, false, true, false]));
    scene.bob.answer_as_maker(&scene.room);
    becomes(&scene.stage, &his, &row("no_power", [true, true, true, false])).await;
    scene.is_sealed("Alice's").await;
    let broken = "statekeeper_policy_violations_total";
    assert_eq!(scene.stage.keeper.metric(broken, &["power"]).await, 1.0, "told once");
}

#[tokio::test]
async fn every_state_event_is_kept_sealed_or_not() {
    let scene = Scene::open(json!({})).await;
    let room = &scene.room;
    let allowed = scene.carol.rename(room, "Carol's");
    scene.is_sealed("Carol's").await;
    let say = |event_type: &str, content: Value| room.put_state("alice", (event_type, ""), content);
    let acl = say("m.room.server_acl", json!({ "allow": ["*"] }));
    let rules = say("m.room.join_rules", json!({ "join_rule": "invite" }));
    room.leave("@carol:localhost");
    scene.stage.sim.join(room, "@carol:localhost");
    let member = scene.stage.sim.with(|world| {
        let event = world.room(&room.room_id).current("m.room.member", "@carol:localhost");
        event.unwrap().event_id.clone()
    });
    let beside = say("m.room.name", json!({ "name": "In plain" }));
    let first = say("org.example.plan", json!({ "step": 1 }));
    let strange = scene.bob.seal(room, ("m.room.name", ""), &json!({ "name": "Nowhere" }));
    let strange = room.put_state("bob", ("m.room.encrypted", "nowhere"), strange);
    scene.stage.settle(room, "after all of them").await;
    for (event, wanted) in [
        (allowed, row("accepted", [true, true, true, false])),
        (acl, row("in_plain", [false, true, true, false])),
        (rules, row("in_plain", [false, true, true, false])),
        (member, row("in_plain", [false, true, true, false])),
        (beside, row("plain", [false, true, true, false])),
        (first, row("accepted", [false, true, true, false])),
        (strange.clone(), row("packed_key_mismatch", [true, false, true, false])),
    ] {
        assert_eq!(kept(&scene.stage, &event).await, wanted, "{event}");
    }
    // What means nothing to anybody is told of, and can be redacted.
    let broken = "statekeeper_policy_violations_total";
    assert_eq!(scene.stage.keeper.metric(broken, &["shape", "report"]).await, 1.0);
    scene.stage.keeper.configure(&json!({ "enforce": { "shape": "redact" } }));
    scene.stage.keeper.hang_up();
    let redacted = |world: &mut World| {
        world.room(&room.room_id).event(&strange).is_some_and(|event| event.redacted.is_some())
    };
    scene.stage.sim.wait_for("it is redacted", redacted).await;
    // A redaction reaches all of it.
    let gone = say("m.room.server_acl", json!({ "allow": ["*"], "deny": ["evil.example"] }));
    let hers = scene.carol.rename(room, "Carol's second");
    scene.is_sealed("Carol's second").await;
    room.redact(&gone);
    room.redact(&hers);
    scene.stage.settle(room, "after the redactions").await;
    for (event, verdict) in [(gone, "in_plain"), (hers, "redacted")] {
        let found = kept(&scene.stage, &event).await;
        assert_eq!(found, row(verdict, [false, false, true, false]));
    }
}

#[tokio::test]
async fn what_is_older_than_the_journal_is_forgotten_and_current_state_is_not() {
    let mut scene = Scene::open(json!({ "state": { "journal_days": 30 } })).await;
    let older = scene.carol.rename(&scene.room, "Carol's");
    scene.is_sealed("Carol's").await;
    let his = scene.bob.rename(&scene.room, "Bob's");
    scene.goes_back(&his).await;
    let value = scene.carol.rename(&scene.room, "Carol's second");
    scene.is_sealed("Carol's second").await;
    scene.stage.settle(&scene.room, "after the names").await;
    scene.stage.keeper.kill();
    sqlx::query("UPDATE state_events SET received_at = received_at - 31 * 24 * 3600000")
        .execute(&mut database(&scene.stage).await)
        .await
        .unwrap();
    scene.stage.keeper.start().await;
    becomes(&scene.stage, &his, &None).await;
    // The id of what was sealed is kept, since its redaction has to find the seal; what stood in it is not.
    becomes(&scene.stage, &older, &row("accepted", [false; 4])).await;
    assert_eq!(kept(&scene.stage, &value).await, row("accepted", [true, true, true, false]));
}

#[tokio::test]
async fn what_was_judged_by_today_s_levels_is_judged_anew_once_those_of_its_time_are_known() {
    let stage = Stage::with(json!({ "state": { "reseal_delay": "1h" } })).await;
    let room = stage.sim.room().encrypted_power(0).create();
    let bob = stage.sim.user("bob").create().device(1);
    stage.sim.join(&room, "bob");
    let his = bob.rename(&room, "Bob's");
    room.set_power("bob", 100);
    stage.sim.fault("context", Fault::Status(404), 1);
    stage.invite_keeper(&room).await;
    becomes(&stage, &his, &row("accepted", [true, true, false, false])).await;
    stage.keeper.configure(&json!({ "state": { "never_reseal": ["com.example.bound"] } }));
    stage.keeper.hang_up();
    becomes(&stage, &his, &row("no_power", [true, true, true, false])).await;
}

#[tokio::test]
async fn an_empty_event_takes_no_value_away() {
    let scene = Scene::open(json!({})).await;
    let empty = scene.room.put_state("bob", ("m.room.encrypted", NAME), json!({}));
    scene.goes_back(&empty).await;
    scene.is_sealed("Alice's").await;
    assert_eq!(kept(&scene.stage, &empty).await, row("no_power", [true, false, true, false]));
    // From whoever has the power it is of the wrong shape, which is reported.
    let empty = scene.room.put_state("carol", ("m.room.encrypted", NAME), json!({}));
    becomes(&scene.stage, &empty, &row("shape", [true, false, true, false])).await;
    // It is still none when the state is fetched anew.
    let fetched = |world: &mut World| world.requests.to("state").count();
    let before = scene.stage.sim.with(fetched);
    scene.is_fetched_anew(json!({}));
    scene.stage.sim.wait_for("it is fetched anew", |world| fetched(world) > before).await;
    scene.stage.settle(&scene.room, "after the state was fetched").await;
    let found = kept(&scene.stage, &empty).await;
    assert_eq!(found, row("shape", [true, false, true, false]));
    let dave = scene.stage.sim.user("dave").create().device(1);
    scene.stage.sim.join(&scene.room, "dave");
    scene.carol.rename(&scene.room, "Carol's");
    scene.stage.shows(&dave, &scene.room, "Carol's").await;
}

#[tokio::test]
async fn what_is_redacted_in_plain_supersedes_no_value_that_waits_for_its_key() {
    let stage = Stage::open().await;
    let room = stage.sim.room().create();
    let alice = stage.alice_device();
    let plain = room.put_state("alice", ("m.room.name", ""), json!({ "name": "Before" }));
    alice.withhold(&room);
    let hers = alice.rename(&room, "Hers");
    stage.invite_keeper(&room).await;
    becomes(&stage, &hers, &row("unreadable", [true, false, true, true])).await;
    room.redact(&plain);
    let forgotten = async || {
        let found = kept(&stage, &plain).await;
        found.is_some_and(|(_, _, content, ..)| !content)
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !forgotten().await {
        assert!(tokio::time::Instant::now() < deadline, "the redaction does not reach it");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    alice.answer_as_maker(&room);
    stage.sealed(&room, NAME, &json!({ "name": "Hers" })).await;
}

#[tokio::test]
async fn a_redaction_that_only_the_fetched_state_shows_reaches_the_journal_and_the_seal() {
    let mut scene = Scene::open(json!({})).await;
    let hers = scene.carol.rename(&scene.room, "Carol's");
    scene.is_sealed("Carol's").await;
    let unread = scene.unread("Hers").await;
    scene.stage.keeper.kill();
    for event in [&hers, &unread] {
        scene.room.redact(event);
        scene.stage.sim.with(World::lose_newest);
    }
    scene.stage.keeper.start().await;
    scene.is_fetched_anew(json!({}));
    becomes(&scene.stage, &unread, &row("redacted", [false, false, true, false])).await;
    scene.alice().answer_as_maker(&scene.room);
    scene.stage.settle(&scene.room, "after the key").await;
    let before = scene.stage.seals(&scene.room, NAME);
    let his = scene.bob.rename(&scene.room, "Bob's");
    scene.stage.settle(&scene.room, "after Bob's").await;
    assert!(scene.stands(&his), "there is nothing to put in its place");
    assert_eq!(scene.stage.seals(&scene.room, NAME), before, "what was redacted stays so");
}

#[tokio::test]
async fn after_a_redaction_that_only_the_fetched_state_shows_the_next_name_in_plain_counts() {
    let mut stage = Stage::with(json!({ "state": { "reseal_delay": "1h" } })).await;
    let room = stage.sim.room().create();
    let plain = room.put_state("alice", ("m.room.name", ""), json!({ "name": "Before" }));
    stage.invite_keeper(&room).await;
    becomes(&stage, &plain, &row("accepted", [false, true, false, false])).await;
    stage.keeper.kill();
    room.redact(&plain);
    stage.sim.with(World::lose_newest);
    stage.keeper.start().await;
    stage.keeper.configure(&json!({ "state": { "never_reseal": ["com.example.bound"] } }));
    stage.keeper.hang_up();
    becomes(&stage, &plain, &row("redacted", [false; 4])).await;
    stage.keeper.configure(&json!({ "state": { "reseal_delay": "20ms" } }));
    stage.keeper.hang_up();
    room.put_state("alice", ("m.room.name", ""), json!({ "name": "After" }));
    stage.sealed(&room, NAME, &json!({ "name": "After" })).await;
}

#[tokio::test]
async fn what_was_sealed_by_today_s_levels_is_judged_anew_once_those_of_its_time_are_known() {
    let stage = Stage::open().await;
    let room = stage.sim.room().encrypted_power(0).create();
    let bob = stage.sim.user("bob").create().device(1);
    stage.sim.join(&room, "bob");
    let his = bob.rename(&room, "Bob's");
    room.set_power("bob", 100);
    stage.sim.fault("context", Fault::Status(404), 1);
    stage.invite_keeper(&room).await;
    stage.sealed(&room, NAME, &json!({ "name": "Bob's" })).await;
    assert_eq!(kept(&stage, &his).await, row("accepted", [true, true, false, false]));
    stage.keeper.configure(&json!({ "state": { "never_reseal": ["com.example.bound"] } }));
    stage.keeper.hang_up();
    becomes(&stage, &his, &row("no_power", [true, true, true, false])).await;
}

#[tokio::test]
async fn somebody_of_the_authors_server_takes_a_value_back_without_any_power() {
    let scene = Scene::open(json!({})).await;
    let hers = scene.carol.rename(&scene.room, "Carol's");
    scene.is_sealed("Carol's").await;
    let dave = scene.stage.sim.user("@dave:elsewhere").create();
    scene.stage.sim.join(&scene.room, &dave.user_id);
    let room_id = &scene.room.room_id;
    // The homeserver tells of it, and does not go by it.
    let says = |world: &mut World, of: &str, sender: &str| {
        let content = json!({ "redacts": hers });
        world.append(of, sender, ("m.room.redaction", None), content);
    };
    scene.stage.sim.change(|world| says(world, room_id, &dave.user_id));
    // Nor does anybody take anything back in another room.
    let other = scene.stage.named_room("Elsewhere").await;
    scene.stage.sim.change(|world| says(world, &other.room_id, &other.creator));
    scene.stage.settle(&other, "after the redaction there").await;
    scene.stage.settle(&scene.room, "after Dave's").await;
    assert_eq!(kept(&scene.stage, &hers).await, row("accepted", [true, true, true, false]));
    scene.stage.sim.change(|world| world.redact(room_id, &scene.bob.user_id, &hers));
    becomes(&scene.stage, &hers, &row("redacted", [false, false, true, false])).await;
}

#[tokio::test]
async fn what_says_that_it_stands_for_the_value_and_is_another_one_is_a_value() {
    let scene = Scene::open(json!({})).await;
    let hers = scene.carol.rename(&scene.room, "Carol's");
    scene.is_sealed("Carol's").await;
    let payload = json!({
        "type": "m.room.name", "state_key": "", "content": { "name": "Another" },
        "room_id": scene.room.room_id,
        "io.statekeeper.stands_for": { "event_id": hers, "sender": "@carol:localhost" },
    });
    let content = scene.carol.seal_payload(&scene.room, &payload);
    scene.room.put_state("carol", ("m.room.encrypted", NAME), content);
    scene.is_sealed("Another").await;
}
