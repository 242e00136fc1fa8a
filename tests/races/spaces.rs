//! Spaces: what lies beneath them is joined, and whoever may join a room reads its name before he does.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{DeviceRef, RoomRef, UserRef, World, builder::restricted, sim::PATIENCE},
};

const LOOK_EVERY: Duration = Duration::from_millis(10);
pub const ALICE: &str = "@alice:localhost";

/// A keeper that follows one space of Alice's, which lists nothing yet.
pub async fn following(settings: Value) -> (Stage, RoomRef) {
    let mut stage = Stage::prepare(json!({})).await;
    let space = stage.sim.room().space().create();
    let mut entry = json!({ "room": space.room_id });
    crate::simulated::keeper::merge(&mut entry, &settings);
    stage.keeper.configure(&json!({ "spaces": [entry] }));
    stage.keeper.start().await;
    joined(&stage, &space).await;
    (stage, space)
}

pub async fn joined(stage: &Stage, room: &RoomRef) {
    let is_in = |world: &mut World| world.room(&room.room_id).membership(&world.keeper()) == "join";
    stage.sim.wait_for("the keeper joins", is_in).await;
}

/// A space lists a room.
pub fn list(space: &RoomRef, room_id: &str, via: &str) {
    space.put_state(ALICE, ("m.space.child", room_id), json!({ "via": [via] }));
}

/// A room of Alice's into which the members of these are let, with power for the keeper.
pub fn restricted_room(stage: &Stage, lets_in: &[&str]) -> RoomRef {
    let room = stage.sim.room().restricted_to(lets_in).create();
    room.set_power(&stage.sim.keeper(), 100);
    room
}

/// A room of the space's, with a name that the keeper sealed.
pub async fn named_child(stage: &Stage, space: &RoomRef, name: &str) -> RoomRef {
    let room = restricted_room(stage, &[&space.room_id]);
    list(space, &room.room_id, "localhost");
    joined(stage, &room).await;
    stage.name(&room, name).await;
    room
}

/// Whether the user's device can open the room's current name.
pub fn opens(world: &mut World, room: &RoomRef, user: &UserRef) -> bool {
    let event = world.keeper_seal(&room.room_id, NAME);
    event.is_some_and(|event| world.open(user.device(1).id(), &event).is_ok())
}

pub async fn is_given(stage: &Stage, room: &RoomRef, user: &UserRef) {
    let what = format!("{} is given the name's key", user.user_id);
    stage.sim.wait_for(&what, |world| opens(world, room, user)).await;
}

/// Waits until a series stands at a value.
pub async fn counts(stage: &Stage, name: &str, label: &str, value: f64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = stage.keeper.metric(name, &[label]).await;
        if (now - value).abs() < f64::EPSILON {
            return;
        }
        assert!(Instant::now() < deadline, "{name} {label} is {now} and not {value}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Somebody who comes into the space after this has been given what there is: so was whoever came before.
pub async fn a_late_comer_is_given(stage: &Stage, space: &RoomRef, room: &RoomRef, name: &str) {
    let late = stage.sim.user(name).create();
    stage.sim.join(space, &late.user_id);
    is_given(stage, room, &late).await;
}

#[tokio::test]
async fn what_lies_beneath_a_space_is_joined_and_what_cannot_be_is_reported() {
    let (stage, space) = following(json!({})).await;
    let inner = stage.sim.room().space().create();
    let near = restricted_room(&stage, &[&space.room_id]);
    let far = restricted_room(&stage, &[&inner.room_id]);
    let powerless = stage.sim.room().restricted_to(&[&space.room_id]).create();
    let closed = stage.sim.room().invite_only().create();
    stage.sim.kill_server("dead.example", Duration::from_millis(50));
    // A cycle, a room that is not there, and one whose server is down.
    list(&space, &inner.room_id, "localhost");
    list(&inner, &space.room_id, "localhost");
    list(&inner, &inner.room_id, "localhost");
    list(&inner, &far.room_id, "localhost");
    list(&space, &near.room_id, "localhost");
    list(&space, &powerless.room_id, "localhost");
    list(&space, &closed.room_id, "localhost");
    list(&space, "!missing:localhost", "localhost");
    list(&space, "!far:dead.example", "dead.example");
    for room in [&inner, &near, &far, &powerless] {
        joined(&stage, room).await;
    }
    for (status, count) in [
        ("space", 1.0),
        ("kept", 2.0),
        ("no_power", 1.0),
        ("cannot_join", 1.0),
        ("missing", 1.0),
        ("unreachable", 1.0),
    ] {
        counts(&stage, "statekeeper_space_rooms", &format!("status=\"{status}\""), count).await;
    }
    counts(&stage, "statekeeper_spaces", "status=\"followed\"", 1.0).await;
    let log = stage.keeper.log();
    let told = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    let keeper = stage.sim.keeper();
    assert_eq!(told(&format!("invite {keeper} into {}", closed.room_id)), 1);
    let power = format!("of {}, set users[\\\"{keeper}\\\"] to 50 or more", powerless.room_id);
    assert_eq!(told(&power), 1, "{log}");
    // Power that is given is noticed, and so is an invite.
    powerless.set_power(&keeper, 50);
    closed.set_power(&keeper, 50);
    closed.invite(&keeper);
    counts(&stage, "statekeeper_space_rooms", "status=\"kept\"", 4.0).await;
}

#[tokio::test]
async fn a_space_of_five_thousand_rooms_keeps_nobody_else_waiting() {
    let (stage, space) = following(json!({ "max_rooms": 40 })).await;
    let other = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.kill_server("dead.example", Duration::from_secs(3));
    stage.sim.change(|world| {
        for number in 0..5000 {
            let child = format!("!a{number}:dead.example");
            let content = json!({ "via": ["dead.example"] });
            world.put_state(&space.room_id, ALICE, ("m.space.child", &child), content).unwrap();
        }
    });
    let all_told = |world: &mut World| world.all_pushed();
    stage.sim.wait_for("the keeper hears of all rooms", all_told).await;
    // One room of the dead server is tried at a time: what is beside it is not held up.
    stage.sim.join(&other, "bob");
    stage.shows(&bob.device(1), &other, "Tea").await;
    counts(&stage, "statekeeper_space_rooms", "", 40.0).await;
    let told = stage.keeper.log().matches("lie beyond `max_rooms`").count();
    assert_eq!(told, 1, "that there are more is said once");
}

#[tokio::test]
async fn a_member_of_the_space_reads_the_name_before_he_opens_the_room() {
    let (stage, space) = following(json!({})).await;
    let room = named_child(&stage, &space, "Tea").await;
    let plan = json!({ "plan": "secret" });
    stage.set(&room, ("org.example.plan", ""), plan).await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&space, "bob");
    is_given(&stage, &room, &bob).await;
    let sealed = stage.sim.with(|world| {
        world.keeper_seal(&room.room_id, "org.example.plan:").expect("the plan is sealed")
    });
    assert!(
        bob.device(1).opens(&sealed).is_err(),
        "before the join he reads the name, and no more"
    );
    // It stands in the ledger when the next thing happens.
    stage.settle(&room, "given").await;
    let seals = stage.seals(&room, NAME);
    stage.sim.join(&room, "bob");
    let reads = |world: &mut World| world.open(bob.device(1).id(), &sealed).is_ok();
    stage.sim.wait_for("the joiner is given the rest", reads).await;
    stage.settle(&room, "joined").await;
    stage.shows(&bob.device(1), &room, "Tea").await;
    assert_eq!(stage.seals(&room, NAME), seals, "the name was there at the join: no refresh");
    let given = stage.keeper.metric("statekeeper_space_provisioned_total", &["given"]).await;
    assert!(given >= 1.0, "{given}");
}

#[tokio::test]
async fn whoever_leaves_the_space_reads_nothing_that_is_sealed_after_it() {
    let (stage, space) = following(json!({ "preview_interval": "1ms" })).await;
    let room = named_child(&stage, &space, "Tea").await;
    let (bob, carol) = (stage.sim.user("bob").create(), stage.sim.user("carol").create());
    for user in [&bob, &carol] {
        stage.sim.join(&space, &user.user_id);
        is_given(&stage, &room, user).await;
    }
    space.leave("bob");
    stage.settle(&space_settler(&stage).await, "bob is out").await;
    stage.name(&room, "Coffee").await;
    is_given(&stage, &room, &carol).await;
    assert!(!stage.sim.with(|world| opens(world, &room, &bob)), "bob opens what came after him");
}

/// A room in which something that the keeper seals shows that it has taken in all that came before it.
async fn space_settler(stage: &Stage) -> RoomRef {
    stage.room().await
}

#[tokio::test]
async fn nobody_gets_the_companys_ear_by_restricting_his_own_room_to_its_space() {
    let (stage, space) = following(json!({})).await;
    let room = named_child(&stage, &space, "Tea").await;
    // Mallory's room is kept, and restricted to the space: but the space does not list it.
    let megaphone = restricted_room(&stage, &[&space.room_id]);
    stage.invite_keeper(&megaphone).await;
    stage.name(&megaphone, "Buy now").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&space, "bob");
    is_given(&stage, &room, &bob).await;
    a_late_comer_is_given(&stage, &space, &room, "carol").await;
    assert!(!stage.sim.with(|world| opens(world, &megaphone, &bob)));
    // Listed, it is one of the company's.
    list(&space, &megaphone.room_id, "localhost");
    is_given(&stage, &megaphone, &bob).await;
}

#[tokio::test]
async fn only_a_room_that_the_keeper_is_in_lets_anybody_read() {
    let (stage, space) = following(json!({})).await;
    let strange = stage.sim.room().space().create();
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&strange, "bob");
    let room = named_child(&stage, &space, "Tea").await;
    let rooms = [space.room_id.as_str(), strange.room_id.as_str()];
    room.put_state(ALICE, ("m.room.join_rules", ""), restricted(rooms.into_iter()));
    a_late_comer_is_given(&stage, &space, &room, "carol").await;
    assert!(!stage.sim.with(|world| opens(world, &room, &bob)));
    strange.invite(&stage.sim.keeper());
    is_given(&stage, &room, &bob).await;
}

#[tokio::test]
async fn the_worked_example_of_msc3414() {
    // Room A and room B exist, where B is restricted to members of A. Alice is admin of both.
    let (stage, a) = following(json!({ "preview": "all", "preview_interval": "1ms" })).await;
    let b = named_child(&stage, &a, "Tea").await;
    let c = stage.room().await;
    let (bob, carol) = (stage.sim.user("bob").create(), stage.sim.user("carol").create());
    stage.sim.join(&c, "carol");
    stage.settle(&c, "carol is in C").await;
    let widget = json!({ "url": "https://widget.example" });
    stage.set(&b, ("im.vector.modular.widgets", "w"), widget).await;
    let all_of_b = |world: &mut World, user: &UserRef| {
        world.closed_state(&b.room_id, user.device(1).id()).is_empty()
    };
    // Bob is invited to A and joins: he is sent B's state.
    a.invite("bob");
    stage.sim.join(&a, "bob");
    stage.sim.wait_for("bob reads B's state", |world| all_of_b(world, &bob)).await;
    assert!(!stage.sim.with(|world| all_of_b(world, &carol)));
    // Alice adds C as a room for members to join B with: all of C's members are sent B's state.
    let rooms = [a.room_id.as_str(), c.room_id.as_str()];
    b.put_state(ALICE, ("m.room.join_rules", ""), restricted(rooms.into_iter()));
    stage.sim.wait_for("carol reads B's state", |world| all_of_b(world, &carol)).await;
    // And C is taken out again: what is sealed from then on is not for Carol.
    b.put_state(ALICE, ("m.room.join_rules", ""), restricted([a.room_id.as_str()].into_iter()));
    stage.name(&b, "Coffee").await;
    assert!(!stage.sim.with(|world| opens(world, &b, &carol)));
    is_given(&stage, &b, &bob).await;
}

#[tokio::test]
async fn a_room_that_the_space_drops_is_read_by_nobody_before_he_joins() {
    let (stage, space) = following(json!({ "preview_interval": "1ms" })).await;
    let room = named_child(&stage, &space, "Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&space, "bob");
    is_given(&stage, &room, &bob).await;
    // The gauge lags behind: it has to have counted the room before it can count it no more.
    counts(&stage, "statekeeper_space_rooms", "", 1.0).await;
    space.put_state(ALICE, ("m.space.child", &room.room_id), json!({}));
    counts(&stage, "statekeeper_space_rooms", "", 0.0).await;
    stage.name(&room, "Coffee").await;
    stage.settle(&room, "after").await;
    assert!(!stage.sim.with(|world| opens(world, &room, &bob)));
    list(&space, &room.room_id, "localhost");
    is_given(&stage, &room, &bob).await;
}

#[tokio::test]
async fn everybody_is_provided_for_though_the_keeper_is_killed_in_the_middle() {
    let (mut stage, space) = following(json!({ "per_second": 40 })).await;
    let users: Vec<UserRef> =
        (0..60).map(|n| stage.sim.user(&format!("user{n}")).create()).collect();
    for user in &users {
        stage.sim.join(&space, &user.user_id);
    }
    let room = named_child(&stage, &space, "Tea").await;
    let given = |world: &mut World| users.iter().filter(|user| opens(world, &room, user)).count();
    stage.sim.wait_for("some are provided for", |world| given(world) >= 10).await;
    stage.keeper.kill();
    let before = stage.sim.with(given);
    assert!(before < users.len(), "the kill came too late to tell");
    stage.keeper.start().await;
    stage.sim.wait_for("all are provided for", |world| given(world) == users.len()).await;
    counts(&stage, "statekeeper_space_backlog", "", 0.0).await;
    assert!(stage.sim.with(|world| world.reused_indices()).is_empty());
}

#[tokio::test]
async fn a_new_device_of_somebody_who_has_not_joined_is_provided_for() {
    let (stage, space) = following(json!({})).await;
    let room = named_child(&stage, &space, "Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&space, "bob");
    is_given(&stage, &room, &bob).await;
    let second = stage.sim.add_device("bob", 2, crate::simulated::Trust::CrossSigned);
    let event = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    let reads = |world: &mut World| world.open(second.id(), &event).is_ok();
    stage.sim.wait_for("the second device is given the key", reads).await;
}

#[tokio::test]
async fn spaces_waits_until_the_keeper_is_through_with_them_and_says_what_to_change() {
    let (stage, space) = following(json!({})).await;
    let room = named_child(&stage, &space, "Tea").await;
    let closed = stage.sim.room().invite_only().create();
    list(&space, &closed.room_id, "localhost");
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&space, "bob");
    counts(&stage, "statekeeper_space_rooms", "", 2.0).await;
    let (code, out, err) = stage.keeper.command_while_served("spaces", &["--wait"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("rooms and spaces: 3 of 3\n"), "{out}");
    let change = format!("invite {} into {}", stage.sim.keeper(), closed.room_id);
    assert!(
        out.lines().any(|line| line.contains("cannot_join") && line.contains(&change)),
        "{out}"
    );
    let (_, out, _) = stage.keeper.command_while_served("spaces", &["--json"]).await;
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found["spaces"][0]["status"], "followed");
    let kept = found["rooms"].as_array().unwrap().iter().find(|it| it["room_id"] == room.room_id);
    assert_eq!(kept.unwrap()["status"], "kept");
    is_given(&stage, &room, &bob).await;
}

#[tokio::test]
async fn a_room_that_is_listed_under_encryption_is_followed_and_one_that_nobody_may_list_is_not() {
    let mut stage = Stage::prepare(json!({})).await;
    let space = stage.sim.room().space().encrypted_state(true).encrypted_power(0).create();
    stage.keeper.configure(&json!({ "spaces": [{ "room": space.room_id }] }));
    stage.keeper.start().await;
    joined(&stage, &space).await;
    let alice = stage.alice_device();
    let seal = |by: &DeviceRef, room: &RoomRef, via: &[&str]| {
        by.send_state(&space, ("m.space.child", &room.room_id), &json!({ "via": via }))
    };
    let near = restricted_room(&stage, &[&space.room_id]);
    seal(&alice, &near, &["localhost"]);
    joined(&stage, &near).await;
    // Mallory may seal what she likes; but she may not list rooms.
    let mallory = stage.sim.user("mallory").create().device(1);
    stage.sim.join(&space, "mallory");
    let megaphone = restricted_room(&stage, &[&space.room_id]);
    seal(&mallory, &megaphone, &["localhost"]);
    seal(&mallory, &near, &[]);
    let far = restricted_room(&stage, &[&space.room_id]);
    let listed = seal(&alice, &far, &["localhost"]);
    joined(&stage, &far).await;
    counts(&stage, "statekeeper_space_rooms", "", 2.0).await;
    let keeper = stage.sim.keeper();
    let has_joined =
        |world: &mut World| world.room(&megaphone.room_id).membership(&keeper) == "join";
    assert!(!stage.sim.with(has_joined), "whoever lacks the power lists nothing");
    // Of what is said in plain and under encryption, the newer counts.
    list(&space, &near.room_id, "localhost");
    seal(&alice, &near, &[]);
    counts(&stage, "statekeeper_space_rooms", "", 1.0).await;
    list(&space, &near.room_id, "other.example");
    counts(&stage, "statekeeper_space_rooms", "", 2.0).await;
    // And what is taken back says nothing any more.
    space.redact(&listed);
    counts(&stage, "statekeeper_space_rooms", "", 1.0).await;
}
