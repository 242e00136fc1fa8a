//! State that the keeper cannot read: it asks for the key, the maker of the session first and then the powerful, and
//! looks at what it is told before it uses it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{DeviceRef, Fault, RoomRef, Trust, World, withholding::nobodys_key},
};

const UNREADABLE: &str = "statekeeper_undecryptable_state_events";

/// A room in which Alice says something under a session that she keeps from the keeper.
struct Scene {
    stage: Stage,
    room: RoomRef,
    alice: DeviceRef,
    /// Members with power 90, 80, 70 and 60, who have the key of Alice's session.
    members: Vec<DeviceRef>,
}

impl Scene {
    async fn open(settings: Value) -> Self {
        let stage = Stage::with(settings).await;
        let room = stage.named_room("Before").await;
        let mut members = Vec::new();
        for (name, power) in [("bob", 90), ("carol", 80), ("dave", 70), ("eve", 60)] {
            let user = stage.sim.user(name).create();
            stage.sim.join(&room, name);
            room.set_power(name, power);
            stage.shows(&user.device(1), &room, "Before").await;
            members.push(user.device(1));
        }
        let alice = stage.alice_device();
        Self { stage, room, alice, members }
    }

    /// Alice names the room, and the keeper cannot read it.
    async fn named(settings: Value) -> Self {
        let scene = Self::open(settings).await;
        scene.alice.withhold(&scene.room);
        scene.alice.rename(&scene.room, "After");
        for member in &scene.members {
            scene.alice.give_key_to(&scene.room, member);
        }
        scene.stage.keeper.wait_for_metric(UNREADABLE, 1.0).await;
        scene
    }

    /// Waits until a device was asked; the request id.
    async fn is_asked(&self, device: &DeviceRef) -> String {
        let what = format!("{} is asked", device.device_id);
        let mut request_id = String::new();
        let asked = |world: &mut World| {
            let asked = world.asked_of(device);
            request_id = asked.first().map(|asked| asked.request_id.clone()).unwrap_or_default();
            !asked.is_empty()
        };
        self.stage.sim.wait_for(&what, asked).await;
        request_id
    }

    /// Waits until Alice is asked for her session in a room.
    async fn is_asked_for(&self, room: &RoomRef) {
        let wanted = self.alice.session_id(room);
        let is_asked = |world: &mut World| {
            let asked = world.asked_of(&self.alice);
            asked.iter().any(|asked| asked.session_id.as_deref() == Some(&wanted))
        };
        self.stage.sim.wait_for("Alice is asked for it", is_asked).await;
    }

    /// Waits until a request was taken back from everybody who was asked.
    async fn is_taken_back(&self, devices: &[&DeviceRef]) {
        let all = |world: &mut World| {
            devices.iter().all(|device| {
                let asked = world.asked_of(device);
                let of = |action: &str| {
                    let asked = asked.iter().filter(|asked| asked.action == action);
                    asked.map(|asked| asked.request_id.clone()).collect::<BTreeSet<_>>()
                };
                !asked.is_empty() && of("request") == of("request_cancellation")
            })
        };
        self.stage.sim.wait_for("every request is taken back", all).await;
    }

    async fn heard(&self) {
        let heard = |world: &mut World| world.keeper_heard_all();
        self.stage.sim.wait_for("the keeper heard everything", heard).await;
    }

    fn says(&self, words: &str) -> bool {
        self.stage.keeper.log().contains(words)
    }

    /// Makes sure that the keeper has dealt with all that happened in the room: what Bob says later was sealed.
    async fn settle(&self, token: &str) {
        let content = json!({ "topic": token });
        self.members[0].send_state(&self.room, ("m.room.topic", ""), &content);
        self.stage.sealed(&self.room, "m.room.topic:", &content).await;
    }

    async fn unread(&self) -> f64 {
        self.stage.keeper.metric(UNREADABLE, &[]).await
    }
}

#[tokio::test]
async fn whoever_made_the_session_is_asked_first_and_his_answer_is_sealed() {
    let scene = Scene::named(json!({})).await;
    let asked = scene.is_asked(&scene.alice).await;
    let first = scene.alice.asked();
    assert_eq!(first[0].session_id, Some(scene.alice.session_id(&scene.room)));
    assert!(scene.members.iter().all(|member| member.asked().is_empty()), "Alice alone");
    scene.alice.answer_as_maker(&scene.room);
    scene.stage.sealed(&scene.room, NAME, &json!({ "name": "After" })).await;
    scene.stage.keeper.wait_for_metric(UNREADABLE, 0.0).await;
    scene.is_taken_back(&[&scene.alice]).await;
    assert_eq!(scene.alice.asked().last().unwrap().request_id, asked);
}

#[tokio::test]
async fn the_powerful_are_asked_two_at_a_time_and_what_one_forwards_is_read_and_not_sealed() {
    let scene = Scene::named(json!({})).await;
    let [bob, carol, dave, eve] = &scene.members[..] else { panic!("four members") };
    scene.is_asked(eve).await;
    let together: Vec<BTreeSet<String>> = scene.stage.sim.with(|world| sent_to(world));
    let of = |devices: &[&DeviceRef]| devices.iter().map(|device| device.user_id.clone()).collect();
    assert_eq!(together, [of(&[&scene.alice]), of(&[bob, carol]), of(&[dave, eve])]);
    // The key from the session's beginning, as a member has it.
    dave.forward(&dave.forwarded_key(&scene.room, &scene.alice, 0));
    scene.stage.keeper.wait_for_metric(UNREADABLE, 0.0).await;
    scene.is_taken_back(&[&scene.alice, bob, carol, dave, eve]).await;
    // Nobody vouches for who made it: the keeper does not lend its name to that.
    let seals = scene.stage.seals(&scene.room, NAME);
    scene.settle("after the answer").await;
    assert_eq!(scene.stage.seals(&scene.room, NAME), seals);
    // Whoever made it can still say so.
    scene.alice.answer_as_maker(&scene.room);
    scene.stage.sealed(&scene.room, NAME, &json!({ "name": "After" })).await;
}

#[tokio::test]
async fn what_a_member_forwarded_is_sealed_where_any_device_counts() {
    let scene = Scene::named(json!({ "state": { "reseal_from": "all" } })).await;
    let bob = &scene.members[0];
    scene.is_asked(bob).await;
    bob.forward(&bob.forwarded_key(&scene.room, &scene.alice, 0));
    scene.stage.sealed(&scene.room, NAME, &json!({ "name": "After" })).await;
    scene.stage.keeper.wait_for_metric(UNREADABLE, 0.0).await;
}

#[tokio::test]
async fn a_forged_answer_changes_nothing() {
    let scene = Scene::named(json!({ "state": { "reseal_from": "all" } })).await;
    let (bob, eve) = (&scene.members[0], &scene.members[3]);
    let unsigned = scene.stage.sim.add_device("bob", 2, Trust::Unsigned);
    scene.alice.give_key_to(&scene.room, &unsigned);
    scene.is_asked(bob).await;
    let truth = bob.forwarded_key(&scene.room, &scene.alice, 0);
    // A session of Bob's own, which says something else.
    bob.seal(&scene.room, ("m.room.name", ""), &json!({ "name": "Bob's" }));
    let own = bob.forwarded_key(&scene.room, bob, 0);
    let with = |field: &str, value: &Value| {
        let mut content = truth.clone();
        content[field] = value.clone();
        content
    };
    let lies = [
        (bob, with("session_key", &own["session_key"]), "its session has another id than it says"),
        (bob, own.clone(), "that device was not asked for it"),
        (bob, with("room_id", &json!("!other:localhost")), "that device was not asked for it"),
        (bob, with("sender_key", &json!(nobodys_key())), "another than the event's sender"),
        (
            bob,
            with("sender_claimed_ed25519_key", &own["sender_claimed_ed25519_key"]),
            "another than the event's sender",
        ),
        (&unsigned, truth.clone(), "that device was not asked for it"),
    ];
    for (from, content, why) in &lies {
        let before = scene.stage.keeper.log().matches(why).count();
        from.forward(content);
        scene.heard().await;
        let after = scene.stage.keeper.log().matches(why).count();
        assert_eq!(after, before + 1, "{why}");
    }
    // From somebody who was not asked at all; something that is no forwarded key, or one in another algorithm.
    eve.forward(&truth);
    for content in [json!({}), with("algorithm", &json!("m.megolm.v2.aes-sha2"))] {
        bob.forward(&content);
    }
    scene.heard().await;
    scene.settle("after the lies").await;
    assert!((scene.unread().await - 1.0).abs() < f64::EPSILON, "nothing was read");
    // None of it stands in the truth's way.
    bob.forward(&truth);
    scene.stage.sealed(&scene.room, NAME, &json!({ "name": "After" })).await;
    assert!(!scene.says(truth["session_key"].as_str().unwrap()), "no key is logged");
}

#[tokio::test]
async fn a_key_that_begins_after_the_event_is_not_used() {
    let scene = Scene::named(json!({ "state": { "reseal_from": "all" } })).await;
    let bob = &scene.members[0];
    scene.alice.send_message(&scene.room, "one more");
    scene.is_asked(bob).await;
    bob.forward(&bob.forwarded_key(&scene.room, &scene.alice, 1));
    scene.heard().await;
    assert!(scene.says("it begins after the event"), "{}", scene.stage.keeper.log());
    bob.forward(&bob.forwarded_key(&scene.room, &scene.alice, 0));
    scene.stage.keeper.wait_for_metric(UNREADABLE, 0.0).await;
}

#[tokio::test]
async fn what_is_overtaken_is_asked_for_no_longer() {
    let scene = Scene::named(json!({})).await;
    scene.is_asked(&scene.alice).await;
    scene.alice.rotate(&scene.room);
    scene.stage.name(&scene.room, "Said again").await;
    scene.is_taken_back(&[&scene.alice]).await;
    assert!(scene.members.iter().all(|member| member.asked().is_empty()));
}

#[tokio::test]
async fn nobody_is_asked_for_what_the_keeper_would_leave_alone() {
    let scene = Scene::open(json!({})).await;
    let mut left_alone = BTreeSet::new();
    let tuples = [
        ("m.room.power_levels", ""),
        ("m.room.server_acl", ""),
        ("org.matrix.msc3401.call.member", "@alice:localhost"),
    ];
    for tuple in tuples {
        scene.alice.withhold(&scene.room);
        scene.alice.send_state(&scene.room, tuple, &json!({ "some": "thing" }));
        left_alone.insert(scene.alice.session_id(&scene.room));
    }
    scene.alice.withhold(&scene.room);
    scene.alice.rename(&scene.room, "After");
    scene.is_asked(&scene.members[3]).await;
    let everybody = scene.members.iter().chain([&scene.alice]);
    let asked: Vec<_> = everybody.flat_map(DeviceRef::asked).collect();
    assert!(asked.iter().all(|asked| !left_alone.contains(&asked.session_id.clone().unwrap())));
}

/// Where each key request went, its transaction id included, and what was in it.
fn sent(world: &World) -> Vec<(String, Option<String>)> {
    let requests = world.requests.to("sendToDevice");
    let sent = requests.map(|request| (request.path.clone(), request.body.clone()));
    sent.filter(|(path, _)| path.contains("m.room_key_request")).collect()
}

/// Whom each key request went to.
fn sent_to(world: &World) -> Vec<BTreeSet<String>> {
    let bodies = sent(world).into_iter().filter_map(|(_, body)| body);
    let users = bodies.map(|body| {
        let body: Value = serde_json::from_str(&body).unwrap();
        body["messages"].as_object().unwrap().keys().cloned().collect()
    });
    users.collect()
}

#[tokio::test]
async fn asking_goes_on_after_a_kill_with_the_same_request() {
    let mut scene = Scene::open(json!({})).await;
    scene.stage.sim.fault("sendToDevice", Fault::DoneThenHang, 1);
    scene.alice.withhold(&scene.room);
    scene.alice.rename(&scene.room, "After");
    scene.stage.sim.wait_for("the request is on its way", |world| !sent(world).is_empty()).await;
    scene.stage.keeper.kill();
    scene.stage.keeper.start().await;
    scene.stage.sim.wait_for("it went out again", |world| sent(world).len() > 1).await;
    let requests = scene.stage.sim.with(|world| sent(world));
    assert_eq!(requests[0], requests[1], "the same message under the same transaction id");
    scene.is_asked(&scene.alice).await;
    scene.alice.answer_as_maker(&scene.room);
    scene.stage.sealed(&scene.room, NAME, &json!({ "name": "After" })).await;
    scene.is_taken_back(&[&scene.alice]).await;
}

#[tokio::test]
async fn with_noop_nothing_is_taken_back() {
    let scene = Scene::named(json!({})).await;
    let first = scene.is_asked(&scene.alice).await;
    let other = scene.stage.named_room("Elsewhere").await;
    let noop = json!({ "match": { "rooms": [scene.room.room_id] }, "noop": true });
    scene.stage.keeper.configure(&json!({ "policies": [noop] }));
    scene.stage.keeper.hang_up();
    scene.stage.keeper.wait_for_log("the configuration is reloaded").await;
    // Whoever is asked for this was looked for after the other requests were looked through.
    scene.alice.withhold(&other);
    scene.alice.rename(&other, "Unread");
    scene.is_asked_for(&other).await;
    let of_first = scene.alice.asked().into_iter().filter(|asked| asked.request_id == first);
    assert_eq!(of_first.count(), 1, "to take it back is to send something");
}

#[tokio::test]
async fn a_room_full_of_what_cannot_be_read_keeps_no_other_room_s_keys_from_being_asked_for() {
    let scene = Scene::open(json!({})).await;
    let other = scene.stage.named_room("Elsewhere").await;
    for number in 0..300 {
        scene.alice.withhold(&scene.room);
        let kind = ("org.example.note", number.to_string());
        scene.alice.send_state(&scene.room, (kind.0, &kind.1), &json!({ "note": number }));
    }
    scene.stage.keeper.wait_for_metric(UNREADABLE, 300.0).await;
    scene.alice.withhold(&other);
    scene.alice.rename(&other, "Unread");
    scene.is_asked_for(&other).await;
}
