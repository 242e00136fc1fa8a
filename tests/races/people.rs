//! Who is given keys, who is refused them, and who waits for an administrator's word.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{UserRef, World, sim::PATIENCE},
};

const HOLDS: &str = "statekeeper_holds";
/// How far apart it is asked who is held.
const LOOK_EVERY: Duration = Duration::from_millis(50);

async fn open(settings: Value) -> Stage {
    let mut stage = Stage::prepare(settings).await;
    stage.keeper.start().await;
    stage
}

/// Alice needs nobody's word: she is an administrator.
async fn open_with_members(members: &str) -> Stage {
    let admins = ["@ops:localhost", "@alice:localhost"];
    open(json!({ "sharing": { "members": members }, "access": { "admins": admins } })).await
}

/// Runs an administrator's command, which has to succeed. What it said.
fn run(stage: &Stage, name: &str, arguments: &[&str]) -> String {
    let (code, out, err) = stage.keeper.command(name, arguments);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{name} {arguments:?}");
    out
}

/// Runs an administrator's command, which has to be refused. What it complained of.
fn refused(stage: &Stage, name: &str, arguments: &[&str]) -> String {
    let (code, out, err) = stage.keeper.command(name, arguments);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{name} {arguments:?}");
    err
}

/// Who is held, and why, as the command lists them.
fn held(stage: &Stage) -> Vec<(String, String)> {
    let rows: Vec<Value> = serde_json::from_str(&run(stage, "holds", &["--json"])).unwrap();
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    rows.iter().map(|row| (text(row, "user_id"), text(row, "reason"))).collect()
}

/// Waits until these are held and nobody else.
async fn held_are(stage: &Stage, expected: &[(String, String)]) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let now = held(stage);
        if now == expected {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "held are {now:?} and not {expected:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn keys(user: &UserRef) -> usize {
    user.device(1).keys_from_keeper().len()
}

fn hold_of(user: &UserRef, reason: &str) -> Vec<(String, String)> {
    vec![(user.user_id.clone(), reason.to_owned())]
}

#[tokio::test]
async fn a_denied_users_device_gets_nothing_though_it_is_joined() {
    let denied = json!({ "deny_users": ["@mallory:*"], "deny_servers": ["Evil.example"] });
    let stage = open(json!({ "access": denied })).await;
    let room = stage.named_room("Tea").await;
    let mallory = stage.sim.user("mallory").create();
    let eve = stage.sim.user("@eve:evil.example").create();
    let bob = stage.sim.user("bob").create();
    for user in [&mallory, &eve, &bob] {
        stage.sim.join(&room, &user.user_id);
    }
    stage.shows(&bob.device(1), &room, "Tea").await;
    stage.name(&room, "Coffee").await;
    stage.shows(&bob.device(1), &room, "Coffee").await;
    assert_eq!((keys(&mallory), keys(&eve)), (0, 0));
    // It is counted when the visit ends, which is after the name is there.
    stage.keeper.wait_for_metric("statekeeper_room_keys_withheld_total", 2.0).await;
    let blacklisted = ["code=\"m.blacklisted\""];
    let withheld = stage.keeper.metric("statekeeper_room_keys_withheld_total", &blacklisted).await;
    assert!(withheld >= 2.0, "{withheld}");
    assert!(held(&stage).is_empty(), "whoever is denied waits for nothing");
}

#[tokio::test]
async fn under_approved_a_joiner_is_held_in_sight_and_reads_the_name_once_approved() {
    let stage = open_with_members("approved").await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.keeper.wait_for_metric(HOLDS, 1.0).await;
    assert_eq!(held(&stage), hold_of(&bob, "awaits_approval"));
    stage.name(&room, "Coffee").await;
    assert_eq!(keys(&bob), 0);
    run(&stage, "approve", &[&room.room_id, &bob.user_id]);
    stage.shows(&bob.device(1), &room, "Coffee").await;
    stage.keeper.wait_for_metric(HOLDS, 0.0).await;
    let said = stage.keeper.log().matches("a member is held").count();
    assert_eq!(said, 1, "it is said once");
}

#[tokio::test]
async fn under_approved_those_from_before_the_keeper_are_approved_at_one_word_and_later_ones_are_not()
 {
    let stage = open_with_members("approved").await;
    let room = stage.sim.room().create();
    let [bob, carol, dave, mallory] =
        ["bob", "carol", "dave", "mallory"].map(|name| stage.sim.user(name).create());
    for user in [&bob, &carol, &mallory] {
        stage.sim.join(&room, &user.user_id);
    }
    room.invite("dave");
    stage.invite_keeper(&room).await;
    stage.name(&room, "Tea").await;
    stage.keeper.wait_for_metric(HOLDS, 4.0).await;
    run(&stage, "deny", &[&room.room_id, &mallory.user_id]);
    let said = run(&stage, "approve", &[&room.room_id, "--all-present"]);
    let named = |user: &UserRef| said.contains(&format!("approved {} in ", user.user_id));
    assert!(named(&bob) && named(&carol) && !named(&dave) && !named(&mallory), "{said}");
    stage.shows(&bob.device(1), &room, "Tea").await;
    stage.shows(&carol.device(1), &room, "Tea").await;
    held_are(&stage, &hold_of(&dave, "awaits_approval")).await;
    assert_eq!((keys(&dave), keys(&mallory)), (0, 0));
    // It was a word about those who were there.
    stage.sim.join(&room, "dave");
    stage.settle(&room, "after the join").await;
    held_are(&stage, &hold_of(&dave, "awaits_approval")).await;
    let (code, _, said) = stage.keeper.command("approve", &[&room.room_id]);
    assert_eq!(code, Some(2), "somebody has to be named: {said}");
}

#[tokio::test]
async fn under_approved_an_invitee_gets_nothing_before_the_approval_and_the_name_after_it() {
    let stage = open_with_members("approved").await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    room.invite("bob");
    stage.keeper.wait_for_metric(HOLDS, 1.0).await;
    stage.settle(&room, "after the invite").await;
    assert_eq!(keys(&bob), 0);
    run(&stage, "approve", &[&room.room_id, &bob.user_id]);
    let current = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    let device = bob.device(1);
    let has_key = |world: &mut World| world.open(device.id(), &current).is_ok();
    stage.sim.wait_for("the approved invitee gets the name's key", has_key).await;
}

#[tokio::test]
async fn whoever_leaves_is_held_no_longer_and_needs_a_new_approval_for_coming_again() {
    let stage = open_with_members("approved").await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    held_are(&stage, &hold_of(&bob, "awaits_approval")).await;
    room.leave("bob");
    held_are(&stage, &[]).await;
    stage.sim.join(&room, "bob");
    held_are(&stage, &hold_of(&bob, "awaits_approval")).await;
    run(&stage, "approve", &[&room.room_id, &bob.user_id]);
    stage.shows(&bob.device(1), &room, "Tea").await;
    room.leave("bob");
    stage.name(&room, "Coffee").await;
    stage.sim.join(&room, "bob");
    held_are(&stage, &hold_of(&bob, "awaits_approval")).await;
    let coffee = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    assert!(bob.device(1).opens(&coffee).is_err());
}

#[tokio::test]
async fn whom_an_administrator_denies_gets_no_new_value_of_that_room() {
    let stage = Stage::open().await;
    let (room, other) = (stage.named_room("Tea").await, stage.named_room("Milk").await);
    let bob = stage.sim.user("bob").create();
    for room in [&room, &other] {
        stage.sim.join(room, "bob");
    }
    stage.shows(&bob.device(1), &room, "Tea").await;
    run(&stage, "deny", &[&room.room_id, &bob.user_id]);
    stage.name(&room, "Coffee").await;
    stage.name(&other, "Cream").await;
    stage.shows(&bob.device(1), &other, "Cream").await;
    let coffee = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    assert!(bob.device(1).opens(&coffee).is_err());
    run(&stage, "approve", &[&room.room_id, &bob.user_id]);
    stage.shows(&bob.device(1), &room, "Coffee").await;
}

#[tokio::test]
async fn a_user_whose_identity_changed_is_held_until_an_administrator_confirms_it() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    refused(&stage, "confirm-identity", &[&bob.user_id]);
    bob.reset_identity();
    stage.keeper.wait_for_metric(HOLDS, 1.0).await;
    assert_eq!(held(&stage), hold_of(&bob, "identity_changed"));
    stage.name(&room, "Coffee").await;
    let coffee = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    assert!(bob.device(1).opens(&coffee).is_err());
    let said = run(&stage, "confirm-identity", &[&bob.user_id]);
    let key = stage.sim.with(|world| {
        let master = &world.users[&bob.user_id].cross_signing["master_key"];
        master["keys"].as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    });
    assert!(said.contains(&key), "{said} does not name {key}");
    stage.shows(&bob.device(1), &room, "Coffee").await;
    stage.keeper.wait_for_metric(HOLDS, 0.0).await;
}

#[tokio::test]
async fn under_vouched_the_invitee_of_a_powerful_inviter_is_served_and_that_of_another_is_held() {
    let stage = open(json!({ "sharing": { "members": "vouched" } })).await;
    let room = stage.named_room("Tea").await;
    let [bob, carol, dave] = ["bob", "carol", "dave"].map(|name| stage.sim.user(name).create());
    room.invite("bob");
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    room.membership("bob", "carol", "invite");
    stage.sim.join(&room, "carol");
    held_are(&stage, &hold_of(&carol, "not_vouched")).await;
    stage.name(&room, "Coffee").await;
    stage.shows(&bob.device(1), &room, "Coffee").await;
    assert_eq!(keys(&carol), 0);
    // Whoever comes by himself has nobody to answer for him either.
    stage.sim.join(&room, "dave");
    let both = [hold_of(&carol, "not_vouched"), hold_of(&dave, "not_vouched")].concat();
    held_are(&stage, &both).await;
    assert_eq!(keys(&dave), 0);
    // The power that counts is that of the moment of the invite.
    room.set_power("bob", 50);
    stage.settle(&room, "after Bob's rise").await;
    assert_eq!(held(&stage), both);
}

#[tokio::test]
async fn under_vouched_a_space_that_the_room_lets_in_vouches_for_its_members() {
    let stage = open(json!({ "sharing": { "members": "vouched" } })).await;
    let space = stage.sim.room().encrypted_state(false).create();
    stage.invite_keeper(&space).await;
    let [bob, carol] = ["bob", "carol"].map(|name| stage.sim.user(name).create());
    stage.sim.join(&space, "bob");
    let allow = json!([{ "type": "m.room_membership", "room_id": space.room_id }]);
    let room = stage.room().await;
    room.put_state(
        "alice",
        ("m.room.join_rules", ""),
        json!({ "join_rule": "restricted", "allow": allow }),
    );
    stage.name(&room, "Tea").await;
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    stage.sim.join(&room, "carol");
    held_are(&stage, &hold_of(&carol, "not_vouched")).await;
    assert_eq!(keys(&carol), 0);
    stage.sim.join(&space, "carol");
    stage.shows(&carol.device(1), &room, "Tea").await;
    space.leave("bob");
    held_are(&stage, &hold_of(&bob, "not_vouched")).await;
}

#[tokio::test]
async fn a_blocked_user_gets_no_new_value_in_any_room_until_the_block_is_taken_back() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").devices(2).create();
    stage.sim.join(&room, "bob");
    for number in [1, 2] {
        stage.shows(&bob.device(number), &room, "Tea").await;
    }
    let current = || stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    run(&stage, "block", &[&bob.user_id, &bob.device(2).device_id]);
    stage.name(&room, "Coffee").await;
    stage.shows(&bob.device(1), &room, "Coffee").await;
    assert!(bob.device(2).opens(&current()).is_err(), "one device is blocked");
    run(&stage, "block", &[&bob.user_id]);
    stage.name(&room, "Water").await;
    let water = current();
    assert!(bob.device(1).opens(&water).is_err() && bob.device(2).opens(&water).is_err());
    run(&stage, "unblock", &[&bob.user_id]);
    stage.shows(&bob.device(1), &room, "Water").await;
    assert!(bob.device(2).opens(&current()).is_err(), "the device is blocked still");
    let said = refused(&stage, "unblock", &[&bob.user_id]);
    assert!(said.contains("is not blocked"), "{said}");
}

#[tokio::test]
async fn a_block_alone_retires_what_the_blocked_user_holds() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    let withheld = "statekeeper_room_keys_withheld_total";
    let before = stage.keeper.metric(withheld, &["m.blacklisted"]).await;
    run(&stage, "block", &[&bob.user_id]);
    // Nothing else happens in the room: the keeper has to notice by itself.
    stage.keeper.wait_for_metric(withheld, before + 1.0).await;
    // Carol's join would be refreshed under the session that Bob holds.
    let carol = stage.sim.user("carol").create();
    stage.sim.join(&room, "carol");
    stage.shows(&carol.device(1), &room, "Tea").await;
    let current = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    assert!(carol.device(1).opens(&current).is_ok() && bob.device(1).opens(&current).is_err());
}

#[tokio::test]
async fn joiners_beyond_the_budget_are_served_in_their_turn() {
    let budget = json!({ "burst": 1, "per_second": 1 });
    let stage = open(json!({ "sharing": { "budget": budget } })).await;
    let room = stage.named_room("Tea").await;
    let [bob, carol] = ["bob", "carol"].map(|name| stage.sim.user(name).create());
    let began = Instant::now();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    stage.sim.join(&room, "carol");
    stage.shows(&carol.device(1), &room, "Tea").await;
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn where_devices_have_to_ask_a_joiner_is_given_nothing_unasked() {
    let stage = open(json!({ "sharing": { "unasked": false } })).await;
    let room = stage.room().await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.alice_device().rename(&room, "Tea");
    let sealed = |world: &mut World| world.keeper_seal(&room.room_id, NAME).is_some();
    stage.sim.wait_for("the keeper seals the name", sealed).await;
    stage.alice_device().rename(&room, "Coffee");
    let again = |world: &mut World| world.keeper_seals(&room.room_id, NAME).len() >= 2;
    stage.sim.wait_for("the keeper seals the next name", again).await;
    assert_eq!((keys(&bob), keys(&stage.alice)), (0, 0));
}

#[tokio::test]
async fn a_word_about_nobody_or_nowhere_is_refused_with_the_reason() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let said = refused(&stage, "approve", &["!nowhere:localhost", "@alice:localhost"]);
    assert!(said.starts_with("!nowhere:localhost: the keeper is in no such room"), "{said}");
    let said = refused(&stage, "approve", &[&room.room_id, "@nobody:localhost"]);
    assert!(said.starts_with("@nobody:localhost: is neither joined to nor invited"), "{said}");
    // A refusal may come before the one whom it concerns.
    for (name, arguments) in [
        ("deny", vec![room.room_id.as_str(), "@nobody:localhost"]),
        ("block", vec!["@nobody:localhost"]),
    ] {
        let (code, _, err) = stage.keeper.command(name, &arguments);
        assert_eq!(code, Some(0), "{err}");
        assert!(err.starts_with("warning: @nobody:localhost: "), "{err}");
    }
    assert_eq!(run(&stage, "holds", &[]), "nobody is held\n");
}
