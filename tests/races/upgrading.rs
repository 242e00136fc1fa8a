//! Rooms that the keeper moves: everything goes over, once, and nothing of it is to be seen.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{DeviceRef, Fault, RoomRef, UserRef, World, sim::PATIENCE},
};

const LOOK_EVERY: Duration = Duration::from_millis(50);

const TOPIC: &str = "m.room.topic:";
pub const AVATAR: &str = "m.room.avatar:";

/// A room in plain that Alice and Bob are in, with a name, a topic, a picture and an address, in a space.
pub struct Old {
    pub stage: Stage,
    pub bob: UserRef,
    pub room: RoomRef,
    pub space: RoomRef,
}

impl Old {
    pub async fn plain(version: &str) -> Self {
        Self::of(version, false).await
    }

    pub async fn of(version: &str, encrypted: bool) -> Self {
        Self::on(Stage::open().await, version, encrypted).await
    }

    pub async fn on(stage: Stage, version: &str, encrypted: bool) -> Self {
        let bob = stage.sim.user("bob").create();
        let space = stage.sim.room().space().create();
        stage.invite_keeper(&space).await;
        stage.sim.change(|world| {
            world.files.insert("cat".to_owned(), b"a picture of a cat".to_vec());
            world.aliases.insert("#garden:localhost".to_owned(), "!none".to_owned());
        });
        let mut builder = stage
            .sim
            .room()
            .version(version)
            .encrypted_state(encrypted)
            .encrypted_power(if encrypted { 0 } else { 50 })
            .invite_only()
            .state(("m.room.server_acl", ""), json!({ "allow": ["*"], "deny": ["evil.example"] }))
            .state(("m.space.parent", &space.room_id), json!({ "via": ["localhost"] }));
        if !encrypted {
            builder = builder
                .state(("m.room.name", ""), json!({ "name": "Garden Club" }))
                .state(("m.room.topic", ""), json!({ "topic": "Tomatoes" }))
                .state(
                    ("m.room.avatar", ""),
                    json!({ "url": "mxc://localhost/cat", "info": { "mimetype": "image/png" } }),
                );
        }
        let room = builder.create();
        stage.sim.join(&room, "bob");
        room.membership("alice", "@mallory:localhost", "ban");
        space.put_state(
            "alice",
            ("m.space.child", &room.room_id),
            json!({ "via": ["localhost"], "order": "a" }),
        );
        stage.sim.change(|world| {
            world.aliases.insert("#garden:localhost".to_owned(), room.room_id.clone());
            world.owns_aliases = true;
        });
        stage.invite_keeper(&room).await;
        let old = Self { stage, bob, room, space };
        old.is_known(&old.space).await;
        old.is_known(&old.room).await;
        old
    }

    pub async fn is_known(&self, room: &RoomRef) {
        self.stage.keeper.wait_for_log(&format!("a room was loaded room={}", room.room_id)).await;
    }

    pub async fn upgrade(&self, more: &[&str]) -> (Option<i32>, String, String) {
        let arguments = [&[self.room.room_id.as_str()], more].concat();
        self.stage.keeper.room_command("upgrade", &arguments).await
    }

    /// The one room that the old one leads to, once everybody is invited there.
    pub async fn new_room(&self) -> RoomRef {
        let old = self.room.room_id.clone();
        let invited = |world: &mut World| {
            let made = world.made_rooms();
            made.len() == 1
                && ["@alice:localhost", "@bob:localhost"]
                    .iter()
                    .all(|user| world.room(&made[0]).membership(user) == "invite")
                && world.room(&old).current("m.room.tombstone", "").is_some()
        };
        self.stage.sim.wait_for("the room is moved", invited).await;
        let room_id = self.stage.sim.with(|world| world.made_rooms().remove(0));
        RoomRef { sim: self.stage.sim.clone(), room_id, creator: self.stage.sim.keeper() }
    }

    /// Waits until each of these lists of the plan has an entry with such words.
    async fn plan_says(&self, lists: &[&str], words: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (_, out, err) = self.upgrade(&["--plan", "--json"]).await;
            let plan: Value = serde_json::from_str(&out).unwrap_or_default();
            let says = |list: &str| {
                let entries = plan[list].as_array().into_iter().flatten();
                entries.filter_map(Value::as_str).any(|entry| entry.contains(words))
            };
            if lists.iter().all(|list| says(list)) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{out}{err}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub fn content(&self, room: &RoomRef, kind: &str, key: &str) -> Option<Value> {
        self.stage.sim.with(|world| {
            world.room(&room.room_id).current(kind, key).map(|event| event.content.clone())
        })
    }
}

/// Waits until a device opens what the keeper sealed for a tuple, and what it says.
pub async fn opens(stage: &Stage, device: &DeviceRef, room: &RoomRef, packed: &str) -> Value {
    let mut found = Value::Null;
    let what = format!("{} opens {packed}", device.device_id);
    stage
        .sim
        .wait_for(&what, |world| {
            let Some(event) = world.keeper_seal(&room.room_id, packed) else { return false };
            let Ok(opened) = world.open(device.id(), &event) else { return false };
            found = opened.content().clone();
            true
        })
        .await;
    found
}

async fn everything_went_over(old: &Old, version: &str) {
    let stage = &old.stage;
    let new = old.new_room().await;
    let bob = old.bob.device(1);
    assert_eq!(opens(stage, &bob, &new, NAME).await["name"], "Garden Club");
    assert_eq!(opens(stage, &bob, &new, TOPIC).await["topic"], "Tomatoes");
    let avatar = opens(stage, &bob, &new, AVATAR).await;
    assert!(avatar["url"].is_null(), "the picture is not public: {avatar}");
    let uploaded = avatar["file"]["url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let (files, power) = stage.sim.with(|world| {
        let room = world.room(&new.room_id);
        (world.files.clone(), (room.power_of("@alice:localhost"), room.power_of("@bob:localhost")))
    });
    assert_ne!(files[&uploaded], files["cat"], "what lies there is ciphertext");
    assert!(power.0 >= 100 && power.1 == 0, "{power:?}");
    let create = old.content(&new, "m.room.create", "").unwrap();
    assert_eq!(create["predecessor"]["room_id"], old.room.room_id.as_str());
    assert_eq!(create["room_version"], version);
    if version == "12" {
        assert_eq!(create["additional_creators"], json!(["@alice:localhost"]));
    }
    let tombstone = old.content(&old.room, "m.room.tombstone", "").unwrap();
    assert_eq!(tombstone["replacement_room"], new.room_id.as_str());
    let acl = old.content(&new, "m.room.server_acl", "").unwrap();
    assert_eq!(acl["deny"], json!(["evil.example"]));
    let mallory = old.content(&new, "m.room.member", "@mallory:localhost").unwrap();
    assert_eq!(mallory["membership"], "ban");
    let child = old.content(&old.space, "m.space.child", &new.room_id).unwrap();
    assert_eq!(child, json!({ "via": ["localhost"], "order": "a" }));
    let before = old.content(&old.space, "m.space.child", &old.room.room_id).unwrap();
    assert_eq!(before, json!({}));
    let leads_to = stage.sim.with(|world| world.aliases["#garden:localhost"].clone());
    assert_eq!(leads_to, new.room_id);
    let seen = stage.sim.with(|world| format!("{:?}", world.room(&new.room_id).timeline));
    assert!(
        !seen.contains("Garden") && !seen.contains("Tomatoes") && !seen.contains("/cat"),
        "{seen}"
    );
    for (kind, key) in [("m.room.encrypted", NAME), ("m.room.member", "@bob:localhost")] {
        let times = stage.sim.with(|world| {
            let events = world.room(&new.room_id).timeline.iter();
            events
                .filter(|it| it.event_type == kind && it.state_key.as_deref() == Some(key))
                .count()
        });
        assert_eq!(times, 1, "{kind} {key}");
    }
    stage.sim.join(&new, "bob");
    stage.shows(&bob, &new, "Garden Club").await;
}

#[tokio::test]
async fn a_room_in_plain_is_moved_with_all_that_stands_there() {
    for version in ["11", "12"] {
        let old = Old::plain("11").await;
        let (code, out, err) = old.upgrade(&["--yes", "--room-version", version]).await;
        assert_eq!(code, Some(0), "{out}{err}");
        everything_went_over(&old, version).await;
    }
}

#[tokio::test]
async fn what_is_hidden_in_the_old_room_is_hidden_in_the_new_one_with_its_newest_value() {
    let old = Old::of("12", true).await;
    let (stage, room) = (&old.stage, &old.room);
    stage.name(room, "Garden Club").await;
    stage.set(room, ("m.room.topic", ""), json!({ "topic": "Tomatoes" })).await;
    stage.set(room, ("org.example.plan", ""), json!({ "plan": "secret" })).await;
    // Bob forges a name: it is not what goes over.
    old.bob.device(1).send_state(room, ("m.room.name", ""), &json!({ "name": "Bob's" }));
    let (code, out, err) = old.upgrade(&["--yes"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let new = old.new_room().await;
    let bob = old.bob.device(1);
    assert_eq!(opens(stage, &bob, &new, NAME).await["name"], "Garden Club");
    assert_eq!(opens(stage, &bob, &new, TOPIC).await["topic"], "Tomatoes");
    stage.sim.join(&new, "bob");
    assert_eq!(opens(stage, &bob, &new, "org.example.plan:").await["plan"], "secret");
}

#[tokio::test]
async fn a_rename_while_the_room_is_being_moved_goes_over_too() {
    let old = Old::plain("11").await;
    let room = old.room.clone();
    // What stands in the old room was read before the first thing is said in the new one.
    old.stage.sim.before_next_state_put(move |world| {
        let renamed = json!({ "name": "Vegetable Club" });
        world.put_state(&room.room_id, "@alice:localhost", ("m.room.name", ""), renamed).unwrap();
    });
    let (code, out, err) = old.upgrade(&["--yes"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let new = old.new_room().await;
    let bob = old.bob.device(1);
    let renamed = |world: &mut World| {
        let event = world.keeper_seal(&new.room_id, NAME).unwrap();
        world.open(bob.id(), &event).is_ok_and(|it| it.content()["name"] == "Vegetable Club")
    };
    old.stage.sim.wait_for("the newer name is there", renamed).await;
}

#[tokio::test]
async fn a_kill_at_any_step_moves_the_room_once() {
    let mut cuts: Vec<(&str, usize, Fault)> = Vec::new();
    for fault in [Fault::Hang, Fault::DoneThenHang] {
        for endpoint in ["createRoom", "download", "upload"] {
            cuts.push((endpoint, 0, fault.clone()));
        }
        // Of the addresses the first request is a question; then one is taken away, and given.
        cuts.extend((1..3).map(|number| ("directory", number, fault.clone())));
        // Child and parent, name, topic and picture, three things in plain, the tombstone, the old child.
        cuts.extend((0..10).map(|number| ("state/put", number, fault.clone())));
        cuts.push(("invite", 1, fault.clone()));
    }
    for (endpoint, number, fault) in cuts {
        let mut old = Old::plain("11").await;
        old.stage.sim.fault(endpoint, Fault::Nothing, number);
        old.stage.sim.fault(endpoint, fault.clone(), 1);
        let (code, out, err) = old.upgrade(&["--yes", "--no-wait", "--room-version", "11"]).await;
        assert_eq!(code, Some(0), "{out}{err}");
        let reached = |world: &mut World| world.faults.left(endpoint) == 0;
        old.stage.sim.wait_for(&format!("{endpoint} {number} {fault:?}"), reached).await;
        old.stage.keeper.kill();
        old.stage.keeper.start().await;
        everything_went_over(&old, "11").await;
    }
}

#[tokio::test]
async fn the_plan_says_what_is_missing_what_goes_over_and_what_stays() {
    let old = Old::plain("11").await;
    // She is banned, whatever she was.
    old.room.set_power("@mallory:localhost", 100);
    let (code, out, _) = old.upgrade(&["--plan", "--json", "--room-version", "12"]).await;
    assert_eq!(code, Some(0));
    let plan: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(plan["additional_creators"], json!(["@alice:localhost"]));
    assert_eq!(plan["creator"], json!(old.stage.sim.keeper()));
    assert_eq!((&plan["sealed"], &plan["picture"]), (&json!(3), &json!(true)));
    assert_eq!((&plan["invited"], &plan["admitted"]), (&json!(2), &json!(0)));
    assert_eq!(plan["spaces"], json!([old.space.room_id]));
    assert_eq!(plan["addresses"], json!(["#garden:localhost"]));
    assert_eq!(plan["missing"], json!([]));
    for stays in ["the power of @mallory:localhost", "messages", "bridges and bots"] {
        let losses = plan["losses"].as_array().unwrap();
        assert!(losses.iter().any(|it| it.as_str().unwrap().starts_with(stays)), "{losses:?}");
    }
    let inner = old.stage.sim.room().restricted_to(&[&old.room.room_id]).create();
    old.stage.invite_keeper(&inner).await;
    old.is_known(&inner).await;
    let (_, out, _) = old.upgrade(&["--plan"]).await;
    let told = format!("stays      {} lets in the members of the old room", inner.room_id);
    assert!(out.contains(&told), "{out}");
    // Nobody is there to ask.
    let (code, _, err) = old.upgrade(&[]).await;
    assert!(code == Some(1) && err.contains("--yes"), "{err}");
    old.room.set_power(&old.stage.sim.keeper(), 40);
    old.space.set_power(&old.stage.sim.keeper(), 0);
    let told = "in m.room.power_levels of";
    old.plan_says(&["missing", "losses"], told).await;
    let (code, out, err) = old.upgrade(&["--yes"]).await;
    assert!(code == Some(1) && out.contains("goes on listing the old room"), "{out}{err}");
    assert!(err.contains("set users[\"@statekeeper:localhost\"] to 50"), "{err}");
    assert!(old.stage.sim.with(|world| world.made_rooms()).is_empty());
}

#[tokio::test]
async fn an_address_that_the_service_may_not_move_is_named() {
    let old = Old::plain("11").await;
    old.stage.sim.with(|world| world.owns_aliases = false);
    let (code, out, err) = old.upgrade(&["--yes"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(err.contains("#garden:localhost still leads to the old room"), "{err}");
    old.new_room().await;
}
