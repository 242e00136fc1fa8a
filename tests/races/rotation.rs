//! When a session is retired and when it is not, and what follows it.
//!
//! The names of complement-crypto's scenarios stand in those of the tests that show the same of the keeper.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{
        RoomRef, Trust, UserRef, World, device::SimDevice, queries::megolm_place, sim::PATIENCE,
    },
};

const PLAN: &str = "org.example.plan";
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The session of the keeper's current value of a tuple.
fn session(stage: &Stage, room: &RoomRef, packed: &str) -> String {
    let seal = stage.sim.with(|world| world.keeper_seal(&room.room_id, packed));
    megolm_place(seal.expect("it is sealed").sent_content()).expect("a ciphertext").0
}

/// Waits until so many sessions were retired for this reason.
async fn retired(stage: &Stage, reason: &str, count: f64) {
    let label = format!("reason=\"{reason}\"");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = stage.keeper.metric("statekeeper_rotations_total", &[&label]).await;
        if (now - count).abs() < f64::EPSILON {
            return;
        }
        assert!(Instant::now() < deadline, "{reason}: {now} and not {count}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn reader(stage: &Stage, room: &RoomRef, name: &str, shown: &str) -> UserRef {
    let user = stage.sim.user(name).create();
    stage.sim.join(room, &user.user_id);
    stage.shows(&user.device(1), room, shown).await;
    user
}

fn opens(stage: &Stage, user: &UserRef, room: &RoomRef, packed: &str) -> bool {
    let seal = stage.sim.with(|world| world.keeper_seal(&room.room_id, packed));
    user.device(1).opens(&seal.expect("it is sealed")).is_ok()
}

/// A room whose name Bob and Carol read; Bob goes as told, the room is renamed, and only Carol reads that.
async fn is_cycled_when_bob_goes(goes: impl Fn(&RoomRef, &UserRef)) {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = reader(&stage, &room, "bob", "Tea").await;
    let carol = reader(&stage, &room, "carol", "Tea").await;
    assert!(opens(&stage, &bob, &room, NAME), "he can, as long as he is there");
    let before = session(&stage, &room, NAME);
    goes(&room, &bob);
    stage.name(&room, "Without Bob").await;
    assert_ne!(session(&stage, &room, NAME), before);
    assert!(!opens(&stage, &bob, &room, NAME) && opens(&stage, &carol, &room, NAME));
    retired(&stage, "member_left", 1.0).await;
    let active = ["state=\"active\""];
    let deadline = Instant::now() + PATIENCE;
    while stage.keeper.metric("statekeeper_sessions", &active).await < 1.0 {
        assert!(Instant::now() < deadline, "the session in use is shown");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[tokio::test]
async fn room_key_is_cycled_on_member_leaving() {
    is_cycled_when_bob_goes(|room, bob| room.leave(&bob.user_id)).await;
}

#[tokio::test]
async fn room_key_is_cycled_on_a_kick() {
    is_cycled_when_bob_goes(|room, bob| room.membership(&room.creator, &bob.user_id, "leave"))
        .await;
}

#[tokio::test]
async fn room_key_is_cycled_on_a_ban() {
    is_cycled_when_bob_goes(|room, bob| room.membership(&room.creator, &bob.user_id, "ban")).await;
}

/// Dave is invited into a room and given the name's key; the invite ends as told, and he cannot read the next name.
async fn is_cycled_when_an_invite_ends(ends: impl Fn(&RoomRef, &UserRef)) {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let dave = stage.sim.user("dave").create();
    room.invite("dave");
    let has_key = |world: &mut World| {
        let seal = world.keeper_seal(&room.room_id, NAME).expect("it is sealed");
        world.open(dave.device(1).id(), &seal).is_ok()
    };
    stage.sim.wait_for("the invitee has the key", has_key).await;
    ends(&room, &dave);
    stage.name(&room, "Without Dave").await;
    assert!(!opens(&stage, &dave, &room, NAME));
    retired(&stage, "invite_withdrawn", 1.0).await;
}

#[tokio::test]
async fn room_key_is_cycled_when_an_invite_that_was_given_keys_is_withdrawn() {
    let withdraw = |room: &RoomRef, dave: &UserRef| {
        room.membership(&room.creator, &dave.user_id, "leave");
    };
    is_cycled_when_an_invite_ends(withdraw).await;
}

#[tokio::test]
async fn room_key_is_cycled_when_an_invitee_who_was_given_keys_refuses() {
    is_cycled_when_an_invite_ends(|room, dave| room.leave(&dave.user_id)).await;
}

/// Logs a device out: what it held stays with whoever has it.
fn log_out(stage: &Stage, user: &UserRef) -> SimDevice {
    let device = user.device(1);
    stage.sim.change(|world| {
        let gone = world.user_mut(&user.user_id).devices.remove(&device.device_id);
        world.devices_changed(&user.user_id);
        gone.expect("it was there")
    })
}

#[tokio::test]
async fn room_key_is_cycled_on_device_logout() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = reader(&stage, &room, "bob", "Tea").await;
    let gone = log_out(&stage, &bob);
    retired(&stage, "device_gone", 1.0).await;
    stage.name(&room, "Without his phone").await;
    stage.sim.with(|world| {
        world.user_mut(&bob.user_id).devices.insert(bob.device(1).device_id, gone);
    });
    assert!(!opens(&stage, &bob, &room, NAME));
}

#[tokio::test]
async fn room_key_is_cycled_when_an_identity_changes() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = reader(&stage, &room, "bob", "Tea").await;
    bob.reset_identity();
    retired(&stage, "identity_changed", 1.0).await;
    stage.name(&room, "Without him").await;
    assert!(!opens(&stage, &bob, &room, NAME));
}

#[tokio::test]
async fn room_key_is_cycled_after_enough_messages() {
    let stage = Stage::with(json!({ "rotation": { "messages": 2 } })).await;
    let room = stage.named_room("0").await;
    let mut sessions = vec![session(&stage, &room, NAME)];
    for name in 1..6 {
        stage.name(&room, &name.to_string()).await;
        sessions.push(session(&stage, &room, NAME));
    }
    let distinct: BTreeSet<&String> = sessions.iter().collect();
    assert_eq!(distinct.len(), 3, "two events each: {sessions:?}");
    assert!(sessions.chunks(2).all(|pair| pair[0] == pair[1]), "{sessions:?}");
    retired(&stage, "messages", 3.0).await;
}

#[tokio::test]
async fn a_session_for_the_whole_room_is_cycled_between_two_values_of_one_commit() {
    let settings = json!({
        "rotation": { "messages": 2 },
        "state": { "session_scope": "room", "reseal_delay": "300ms" },
    });
    let stage = Stage::with(settings).await;
    let room = stage.named_room("Tea").await;
    let tuples = ["a", "b", "c", "d", "e"].map(|key| format!("{PLAN}.{key}"));
    for event_type in &tuples {
        stage.alice_device().send_state(&room, (event_type, ""), &json!({ "step": 1 }));
    }
    let all = |world: &mut World| {
        tuples.iter().all(|it| world.keeper_seal(&room.room_id, &format!("{it}:")).is_some())
    };
    stage.sim.wait_for("all are sealed", all).await;
    let mut used = BTreeMap::<String, usize>::new();
    for packed in tuples.iter().map(|it| format!("{it}:")).chain([NAME.to_owned()]) {
        *used.entry(session(&stage, &room, &packed)).or_default() += 1;
    }
    assert!(used.values().all(|count| *count <= 2), "two events each: {used:?}");
}

#[tokio::test]
async fn room_key_is_cycled_after_enough_time() {
    const AGE: Duration = Duration::from_millis(1500);
    let stage = Stage::with(json!({ "rotation": { "milliseconds": 1500 } })).await;
    let started = Instant::now();
    let room = stage.named_room("Tea").await;
    let before = session(&stage, &room, NAME);
    stage.name(&room, "At once").await;
    assert!(session(&stage, &room, NAME) == before || started.elapsed() >= AGE);
    let mut renames = 0;
    while session(&stage, &room, NAME) == before {
        assert!(started.elapsed() < AGE + PATIENCE, "it is still in use");
        renames += 1;
        stage.name(&room, &format!("rename {renames}")).await;
    }
    assert!(started.elapsed() >= AGE, "it was in use for {:?}", started.elapsed());
}

#[tokio::test]
async fn what_the_rules_name_is_sealed_anew_when_its_session_has_grown_old() {
    let rotation = json!({ "milliseconds": 1500, "reseal": "aesthetic", "settle": "20ms" });
    let stage = Stage::with(json!({ "rotation": rotation })).await;
    let room = stage.named_room("Tea").await;
    stage.set(&room, (PLAN, ""), json!({ "plan": "Scones" })).await;
    let plan = format!("{PLAN}:");
    let before = [NAME, &plan].map(|packed| session(&stage, &room, packed));
    let of = |world: &mut World, packed: &str| {
        let seal = world.keeper_seal(&room.room_id, packed).expect("it is sealed");
        megolm_place(seal.sent_content()).expect("a ciphertext").0
    };
    let anew = |world: &mut World| of(world, NAME) != before[0];
    stage.sim.wait_for("the name is sealed anew", anew).await;
    assert_eq!(session(&stage, &room, &plan), before[1], "nothing but what the rules name");
    let deadline = Instant::now() + PATIENCE;
    let of_age = ["reason=\"age\""];
    while stage.keeper.metric("statekeeper_rotations_total", &of_age).await < 1.0 {
        assert!(Instant::now() < deadline, "it is not counted");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[tokio::test]
async fn room_key_is_cycled_at_once_when_it_has_grown_old() {
    let more = json!({ "rotation": { "milliseconds": 1500 } });
    let stage = Stage::with(at_once("20ms", &more)).await;
    let room = stage.named_room("Tea").await;
    let bob = reader(&stage, &room, "bob", "Tea").await;
    let before = session(&stage, &room, NAME);
    let deadline = Instant::now() + PATIENCE;
    while sessions_of(&bob).len() < 2 {
        assert!(Instant::now() < deadline, "nobody is given the next session");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    assert_eq!(session(&stage, &room, NAME), before, "nothing is sealed for it");
}

#[tokio::test]
async fn room_key_is_cycled_when_a_device_loses_its_signature() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = reader(&stage, &room, "bob", "Tea").await;
    bob.device(1).lose_signature();
    retired(&stage, "device_unsigned", 1.0).await;
    stage.name(&room, "Without it").await;
    assert!(!opens(&stage, &bob, &room, NAME));
}

#[tokio::test]
async fn room_key_is_cycled_when_fewer_may_read_the_past_since_the_keeper_was_away() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let before = session(&stage, &room, NAME);
    stage.keeper.kill();
    let content = json!({ "history_visibility": "joined" });
    room.put_state(&room.creator, ("m.room.history_visibility", ""), content);
    stage.keeper.start().await;
    stage.name(&room, "Later").await;
    assert_ne!(session(&stage, &room, NAME), before);
}

#[tokio::test]
async fn values_are_sealed_anew_no_faster_than_the_rules_say_and_a_room_s_session_for_all_of_them()
{
    for scope in ["tuple", "room"] {
        let rotation = json!({ "reseal": "all", "reseal_per_second": 1, "settle": "20ms" });
        let settings = json!({ "rotation": rotation, "state": { "session_scope": scope } });
        let stage = Stage::with(settings).await;
        let room = stage.named_room("Tea").await;
        let kinds = ["a", "b", "c"].map(|key| format!("{PLAN}.{key}"));
        for kind in &kinds {
            stage.set(&room, (kind, ""), json!({ "plan": "Scones" })).await;
        }
        let packed: Vec<String> =
            kinds.iter().map(|kind| format!("{kind}:")).chain([NAME.to_owned()]).collect();
        let before: BTreeSet<_> = packed.iter().map(|it| session(&stage, &room, it)).collect();
        let bob = reader(&stage, &room, "bob", "Tea").await;
        room.leave(&bob.user_id);
        let anew = |world: &mut World| {
            packed.iter().all(|packed| {
                let seal = world.keeper_seal(&room.room_id, packed).expect("it is sealed");
                let place = megolm_place(seal.sent_content()).expect("a ciphertext");
                !before.contains(&place.0)
            })
        };
        stage.sim.wait_for("all are sealed anew", anew).await;
        let mut times: Vec<u64> = stage.sim.with(|world| {
            let seals = packed.iter().filter_map(|it| world.keeper_seal(&room.room_id, it));
            seals.map(|seal| seal.timestamp).collect()
        });
        times.sort_unstable();
        // One may go out at once, each of the others a second after the one before it. The clocks are whole
        // milliseconds, and the first may have been under way for a while.
        assert!(times[3] - times[0] >= 2_000, "{scope}: {times:?}");
        let now: BTreeSet<_> = packed.iter().map(|it| session(&stage, &room, it)).collect();
        assert_eq!(now.len(), if scope == "room" { 1 } else { 4 });
        assert!(packed.iter().all(|packed| !opens(&stage, &bob, &room, packed)));
    }
}

#[tokio::test]
async fn a_rotation_is_one_query_one_claim_and_one_send_for_each_batch() {
    const MEMBERS: usize = 350;
    let mut stage = Stage::prepare(at_once("20ms", &json!({}))).await;
    let room = stage.sim.room().keeper_power(100).members(MEMBERS).create();
    stage.keeper.start().await;
    stage.alice_device().rename(&room, "Tea");
    let patience = Duration::from_secs(120);
    let named = |world: &mut World| world.keeper_seal(&room.room_id, NAME).is_some();
    assert!(stage.sim.holds_within(patience, named).await);
    stage.settle(&room, "after the name").await;
    let start = stage.sim.with(|world| world.requests.all.len());
    room.leave("m1");
    let rotated = "statekeeper_rotation_seconds_count";
    stage.keeper.wait_for_metric(rotated, 1.0).await;
    let counts = stage.sim.with(|world| world.requests.counts(start));
    let of = |endpoint: &str| counts.get(endpoint).copied().unwrap_or_default();
    let batches = MEMBERS.div_ceil(100);
    assert!((1..=batches).contains(&of("sendToDevice")), "{counts:?}");
    // Everybody's devices are known, and there is an Olm session with each of them.
    assert!(of("keys/query") <= 1 && of("keys/claim") <= batches, "{counts:?}");
}

#[tokio::test]
async fn room_key_is_not_cycled_by_a_join_a_display_name_or_a_new_device() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let before = session(&stage, &room, NAME);
    let bob = reader(&stage, &room, "bob", "Tea").await;
    stage.name(&room, "After the join").await;
    let renamed = json!({ "membership": "join", "displayname": "Robert" });
    let member = ("m.room.member", Some(bob.user_id.as_str()));
    stage.sim.change(|world| world.append(&room.room_id, &bob.user_id, member, renamed));
    stage.name(&room, "After the display name").await;
    let phone = stage.sim.add_device(&bob.user_id, 2, Trust::CrossSigned);
    let has_key = |world: &mut World| {
        let seal = world.keeper_seal(&room.room_id, NAME).expect("it is sealed");
        world.open(phone.id(), &seal).is_ok()
    };
    stage.sim.wait_for("the new device has the key", has_key).await;
    stage.name(&room, "After the new device").await;
    assert_eq!(session(&stage, &room, NAME), before);
}

#[tokio::test]
async fn room_key_is_not_cycled_on_client_restart() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let before = session(&stage, &room, NAME);
    stage.keeper.terminate().await;
    stage.keeper.start().await;
    stage.name(&room, "After the end").await;
    stage.keeper.kill();
    stage.keeper.start().await;
    stage.name(&room, "After the kill").await;
    assert_eq!(session(&stage, &room, NAME), before);
}

#[tokio::test]
async fn room_key_is_cycled_when_fewer_may_read_the_past_and_not_when_more_may() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let sets = |visibility: &str| {
        let content = json!({ "history_visibility": visibility });
        room.put_state(&room.creator, ("m.room.history_visibility", ""), content);
    };
    let mut before = session(&stage, &room, NAME);
    let steps = [
        ("joined", true),
        ("invited", false),
        ("joined", true),
        ("world_readable", false),
        ("shared", true),
    ];
    for (visibility, cycles) in steps {
        sets(visibility);
        stage.name(&room, visibility).await;
        let now = session(&stage, &room, NAME);
        assert_eq!(now != before, cycles, "{visibility}");
        before = now;
    }
    retired(&stage, "history_visibility", 3.0).await;
}

#[tokio::test]
async fn room_key_is_cycled_when_an_administrator_says_so() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let before = session(&stage, &room, NAME);
    let (code, out, err) = stage.keeper.command("rotate", &[&room.room_id]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("sessions retired: 1"), "{out}");
    stage.name(&room, "Anew").await;
    assert_ne!(session(&stage, &room, NAME), before);
    retired(&stage, "admin", 1.0).await;
    let (code, _, err) = stage.keeper.command("rotate", &["!nowhere:localhost"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("no such room"), "{err}");
}

fn at_once(settle: &str, more: &Value) -> Value {
    let mut settings = json!({ "rotation": { "when": "at_once", "settle": settle } });
    crate::simulated::keeper::merge(&mut settings, more);
    settings
}

/// The sessions of which a device was given a key by the keeper.
fn sessions_of(user: &UserRef) -> BTreeSet<String> {
    let keys = user.device(1).keys_from_keeper();
    keys.iter().filter_map(|key| Some(key.content["session_id"].as_str()?.to_owned())).collect()
}

#[tokio::test]
async fn departures_close_together_are_one_rotation_and_the_next_change_costs_no_key() {
    let stage = Stage::with(at_once("2s", &json!({}))).await;
    let room = stage.named_room("Tea").await;
    let carol = reader(&stage, &room, "carol", "Tea").await;
    let mut leavers = Vec::new();
    for name in ["bob", "dave", "eve"] {
        leavers.push(reader(&stage, &room, name, "Tea").await);
    }
    let started = Instant::now();
    let before = session(&stage, &room, NAME);
    for leaver in &leavers {
        room.leave(&leaver.user_id);
    }
    stage.keeper.wait_for_metric("statekeeper_rotation_seconds_count", 1.0).await;
    assert!(started.elapsed() >= Duration::from_secs(2), "others have time to go as well");
    assert_eq!(session(&stage, &room, NAME), before, "nothing was sealed for it");
    let held = sessions_of(&carol);
    assert_eq!(held.len(), 2, "one that is over and one that follows it");
    stage.name(&room, "Without them").await;
    assert_eq!(sessions_of(&carol), held);
    assert!(held.contains(&session(&stage, &room, NAME)) && opens(&stage, &carol, &room, NAME));
    for leaver in &leavers {
        assert!(!opens(&stage, leaver, &room, NAME));
    }
    retired(&stage, "member_left", 1.0).await;
}

#[tokio::test]
async fn what_the_rules_say_is_sealed_anew_and_a_later_joiner_opens_nothing_from_before() {
    for (reseal, plan_too) in [("aesthetic", false), ("all", true)] {
        let settings = json!({ "rotation": { "reseal": reseal, "settle": "20ms" } });
        let stage = Stage::with(settings).await;
        let room = stage.named_room("Tea").await;
        stage.set(&room, (PLAN, ""), json!({ "plan": "Scones" })).await;
        let bob = reader(&stage, &room, "bob", "Tea").await;
        let packed_plan = format!("{PLAN}:");
        let old: Vec<_> = stage.sim.with(|world| {
            let seals = world.keeper_seals(&room.room_id, NAME);
            seals.into_iter().chain(world.keeper_seals(&room.room_id, &packed_plan)).collect()
        });
        let before = [NAME, &packed_plan].map(|packed| session(&stage, &room, packed));
        room.leave(&bob.user_id);
        let anew = |world: &mut World| {
            let of = |packed: &str| {
                let seal = world.keeper_seal(&room.room_id, packed);
                seal.and_then(|seal| megolm_place(seal.sent_content())).map(|(session, _)| session)
            };
            let now = [of(NAME), of(&packed_plan)];
            now[0].as_ref() != Some(&before[0])
                && (!plan_too || now[1].as_ref() != Some(&before[1]))
        };
        stage.sim.wait_for("it is sealed anew", anew).await;
        stage.settle(&room, "all is done").await;
        assert_eq!(session(&stage, &room, &packed_plan) != before[1], plan_too, "{reseal}");
        let standing = stage.sim.with(|world| world.keeper_seal(&room.room_id, &packed_plan));
        let carol = reader(&stage, &room, "carol", "Tea").await;
        let has_plan = |world: &mut World| {
            let seal = world.keeper_seal(&room.room_id, &packed_plan).expect("it is sealed");
            world.open(carol.device(1).id(), &seal).is_ok()
        };
        stage.sim.wait_for("the joiner has the plan's key", has_plan).await;
        let opened = old.iter().filter(|seal| carol.device(1).opens(seal).is_ok()).count();
        assert!(!plan_too || opened == 0, "{opened} of {}", old.len());
        assert!(carol.device(1).opens(&standing.expect("it is sealed")).is_ok(), "{reseal}");
        assert!(!opens(&stage, &bob, &room, NAME));
    }
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_large_room_s_rotation_goes_on_with_those_who_were_not_served() {
    const MEMBERS: usize = 400;
    let mut stage = Stage::prepare(at_once("20ms", &json!({}))).await;
    let room = stage.sim.room().keeper_power(100).members(MEMBERS).create();
    stage.keeper.start().await;
    stage.alice_device().rename(&room, "Tea");
    let patience = Duration::from_secs(120);
    let named = |world: &mut World| world.keeper_seal(&room.room_id, NAME).is_some();
    assert!(stage.sim.holds_within(patience, named).await);
    let before = session(&stage, &room, NAME);
    let served = |world: &mut World| {
        let has_next = |number: &usize| {
            let user = format!("@m{number}:localhost");
            let device = crate::simulated::sim::device_name(&user, 1);
            let keys = &world.read_inbox(&user, &device).room_keys;
            keys.keys().any(|(_, session)| *session != before)
        };
        (2..=MEMBERS).filter(has_next).count()
    };
    stage.sim.latency("sendToDevice", Duration::from_millis(300));
    room.leave("m1");
    stage.sim.wait_for("some were served", |world| served(world) > 0).await;
    stage.keeper.kill();
    let so_far = stage.sim.with(served);
    assert!(so_far < MEMBERS - 1, "the kill fell into the middle");
    stage.sim.latency("sendToDevice", Duration::ZERO);
    stage.keeper.start().await;
    let all = |world: &mut World| served(world) == MEMBERS - 1;
    assert!(stage.sim.holds_within(patience, all).await);
    stage.name(&room, "Without the first").await;
    let twice = (2..=MEMBERS)
        .filter(|number| {
            stage.sim.device(&format!("@m{number}:localhost"), 1).keys_from_keeper().len() != 2
        })
        .count();
    assert_eq!(twice, 0, "nobody was given it twice, and the change cost no key");
    let gone = stage.sim.device("@m1:localhost", 1);
    let seal =
        stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME)).expect("it is sealed");
    assert!(gone.opens(&seal).is_err());
}

/// The keeper goes on from an older copy of its store.
async fn put_back(stage: &mut Stage, copy: &tempfile::TempDir) {
    stage.keeper.kill();
    stage.keeper.put_store_back(copy);
    stage.keeper.start().await;
}

#[tokio::test]
async fn room_key_is_cycled_when_the_store_was_put_back_from_an_older_copy() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("One").await;
    let elsewhere = stage.named_room("Elsewhere").await;
    stage.keeper.terminate().await;
    let copy = stage.keeper.copy_store();
    stage.keeper.start().await;
    for name in ["Two", "Three"] {
        stage.name(&room, name).await;
    }
    let (before, elsewhere_before) =
        (session(&stage, &room, NAME), session(&stage, &elsewhere, NAME));
    put_back(&mut stage, &copy).await;
    stage.alice_device().rename(&room, "Four");
    let follows = |world: &mut World| {
        let seal = world.keeper_seal(&room.room_id, NAME);
        seal.is_some_and(|seal| {
            megolm_place(seal.sent_content()).expect("a ciphertext").0 != before
        })
    };
    stage.sim.wait_for("the next name stands under another session", follows).await;
    assert_eq!(stage.sim.with(|world| world.reused_indices()), []);
    // One for each room: where nothing shows it, the session went back all the same.
    retired(&stage, "restored", 2.0).await;
    reader(&stage, &room, "bob", "Four").await;
    stage.alice_device().rename(&elsewhere, "Elsewhere too");
    let follows = |world: &mut World| {
        let seal = world.keeper_seal(&elsewhere.room_id, NAME);
        let place = seal.and_then(|seal| megolm_place(seal.sent_content()));
        place.is_some_and(|place| place.0 != elsewhere_before)
    };
    stage.sim.wait_for("so it does elsewhere", follows).await;
}

#[tokio::test]
async fn an_event_forged_in_the_keepers_name_retires_nothing_that_this_process_made() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let before = session(&stage, &room, NAME);
    let plan =
        stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME)).expect("it is sealed");
    let mut forged = plan.sent_content().clone();
    forged["session_id"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let keeper = stage.sim.keeper();
    stage.sim.change(|world| {
        let packed = format!("{PLAN}:");
        world.append(&room.room_id, &keeper, ("m.room.encrypted", Some(&packed)), forged);
    });
    stage.name(&room, "Coffee").await;
    assert_eq!(session(&stage, &room, NAME), before);
    retired(&stage, "restored", 0.0).await;
}

#[tokio::test]
async fn room_key_is_cycled_when_somebody_who_left_is_back_as_an_invitee_and_the_keeper_was_away() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    stage.set(&room, (PLAN, ""), json!({ "plan": "Scones" })).await;
    let bob = reader(&stage, &room, "bob", "Tea").await;
    let plan = format!("{PLAN}:");
    stage
        .sim
        .wait_for("Bob reads the plan", |world| bob.device(1).reads_in(world, &room, &plan).is_ok())
        .await;
    let before = session(&stage, &room, &plan);
    stage.keeper.kill();
    for membership in ["leave", "invite"] {
        room.membership(&room.creator, &bob.user_id, membership);
        stage.sim.with(World::lose_newest);
    }
    stage.keeper.start().await;
    stage.keeper.configure(&json!({ "state": { "never_reseal": ["com.example.bound"] } }));
    stage.keeper.hang_up();
    retired(&stage, "member_left", 2.0).await;
    stage.set(&room, (PLAN, ""), json!({ "plan": "Toast" })).await;
    assert_ne!(session(&stage, &room, &plan), before);
    assert!(!opens(&stage, &bob, &room, &plan));
}

#[tokio::test]
async fn room_key_is_cycled_when_invitees_are_given_less_by_the_next_rules() {
    let stage = Stage::with(json!({ "sharing": { "invitees": "all" } })).await;
    let room = stage.named_room("Tea").await;
    stage.set(&room, (PLAN, ""), json!({ "plan": "Scones" })).await;
    let dave = stage.sim.user("dave").create();
    room.invite("dave");
    let plan = format!("{PLAN}:");
    stage
        .sim
        .wait_for("Dave has the plan's key", |world| {
            let seal = world.keeper_seal(&room.room_id, &plan).expect("it is sealed");
            world.open(dave.device(1).id(), &seal).is_ok()
        })
        .await;
    let name = session(&stage, &room, NAME);
    stage.keeper.configure(&json!({ "sharing": { "invitees": "aesthetic" } }));
    stage.keeper.hang_up();
    stage.set(&room, (PLAN, ""), json!({ "plan": "Toast" })).await;
    retired(&stage, "not_entitled", 1.0).await;
    stage.set(&room, (PLAN, ""), json!({ "plan": "Butter" })).await;
    assert!(!opens(&stage, &dave, &room, &plan));
    stage.name(&room, "Coffee").await;
    assert_eq!(session(&stage, &room, NAME), name, "what he still may read goes on");
}

#[tokio::test]
async fn a_value_of_a_large_room_is_restored_under_the_session_that_follows_a_departure() {
    const MEMBERS: usize = 350;
    let mut stage = Stage::prepare(json!({})).await;
    let room = stage.sim.room().keeper_power(100).encrypted_power(0).members(MEMBERS).create();
    stage.keeper.start().await;
    stage.alice_device().rename(&room, "Tea");
    let patience = Duration::from_secs(120);
    let named = |world: &mut World| world.keeper_seal(&room.room_id, NAME).is_some();
    assert!(stage.sim.holds_within(patience, named).await);
    let bob = reader(&stage, &room, "bob", "Tea").await;
    room.leave("m1");
    let before = session(&stage, &room, NAME);
    retired(&stage, "member_left", 1.0).await;
    let start = stage.sim.with(|world| world.requests.all.len());
    bob.device(1).rename(&room, "Bob's");
    let back = |world: &mut World| {
        let seal = world.keeper_seal(&room.room_id, NAME);
        let place = seal.and_then(|seal| megolm_place(seal.sent_content()));
        place.is_some_and(|(session, _)| session != before)
    };
    assert!(stage.sim.holds_within(patience, back).await);
    let sent = stage.sim.with(|world| world.requests.counts(start)["sendToDevice"]);
    assert!(sent <= MEMBERS.div_ceil(100) + 1, "{sent} requests");
}
