//! The rules that the homeserver cannot hold for encrypted state, held by the keeper: what was not allowed goes back.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{DeviceRef, Fault, RoomRef, World, sim::PATIENCE},
};

const LEVELS: &str = "m.room.power_levels:";
const WAR: &str = "statekeeper_state_refused_total{rule=\"war\"}";

/// A room in which anybody may send encrypted state, with a name of Alice's, and Bob in it.
async fn scene(settings: Value) -> (Stage, RoomRef, DeviceRef) {
    let stage = Stage::with(settings).await;
    let room = stage.sim.room().encrypted_power(0).create();
    stage.invite_keeper(&room).await;
    stage.name(&room, "Alice's").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Alice's").await;
    (stage, room, bob.device(1))
}

fn stands(world: &World, room: &RoomRef, packed: &str, event_id: &str) -> bool {
    let current = world.room(&room.room_id).current("m.room.encrypted", packed);
    current.is_some_and(|event| event.event_id == event_id)
}

fn is_redacted(world: &World, room: &RoomRef, event_id: &str) -> bool {
    world.room(&room.room_id).event(event_id).is_some_and(|event| event.redacted.is_some())
}

/// Waits until the keeper has said something over this event.
async fn goes_back(stage: &Stage, room: &RoomRef, packed: &str, event_id: &str) {
    let back = |world: &mut World| {
        let current = world.room(&room.room_id).current("m.room.encrypted", packed);
        !stands(world, room, packed, event_id)
            && current.is_some_and(|event| event.sender == world.keeper())
    };
    stage.sim.wait_for(&format!("{event_id} goes back"), back).await;
}

/// Waits until the keeper has counted one violation of a rule with this action.
async fn counted(stage: &Stage, (rule, action): (&str, &str)) {
    let labels = [rule, action];
    eventually(&format!("a violation of {rule} is counted as {action}"), async || {
        stage.keeper.metric("statekeeper_policy_violations_total", &labels).await >= 1.0
    })
    .await;
}

/// Asks again and again until it holds, for no longer than a test waits for anything.
async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "within {PATIENCE:?} it did not come about that {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn logged(stage: &Stage, words: &str) {
    eventually(&format!("the log says {words}"), async || stage.keeper.log().contains(words)).await;
}

fn name_is(stage: &Stage, device: &DeviceRef, room: &RoomRef, name: &str) -> bool {
    stage.sim.with(|world| device.reads_name_in(world, room, name))
}

#[tokio::test]
async fn a_rename_without_the_power_for_it_goes_back_at_once() {
    let (stage, room, bob) = scene(json!({})).await;
    // An edit that is allowed would wait for longer than this test does.
    stage.keeper.configure(&json!({ "state": { "reseal_delay": "1h" } }));
    stage.keeper.hang_up();
    logged(&stage, "the configuration is reloaded").await;
    let rename = bob.rename(&room, "Bob's");
    goes_back(&stage, &room, NAME, &rename).await;
    assert!(name_is(&stage, &bob, &room, "Alice's"));
    assert!(name_is(&stage, &stage.alice_device(), &room, "Alice's"));
    stage.keeper.wait_for_metric("statekeeper_state_restored_total", 1.0).await;
}

#[tokio::test]
async fn a_rename_whose_key_the_keeper_is_not_given_goes_back_as_well() {
    let (stage, room, bob) = scene(json!({})).await;
    bob.withhold(&room);
    let rename = bob.rename(&room, "Bob's");
    goes_back(&stage, &room, NAME, &rename).await;
    assert!(name_is(&stage, &stage.alice_device(), &room, "Alice's"));
}

#[tokio::test]
async fn where_policy_only_reports_a_rename_stands() {
    let (stage, room, bob) = scene(json!({ "enforce": { "power": "report" } })).await;
    let rename = bob.rename(&room, "Bob's");
    stage.settle(&room, "after the rename").await;
    assert!(stage.sim.with(|world| stands(world, &room, NAME, &rename)));
    counted(&stage, ("power", "report")).await;
}

#[tokio::test]
async fn where_policy_redacts_the_rename_goes_back_and_is_redacted() {
    let (stage, room, bob) = scene(json!({ "enforce": { "power": "redact" } })).await;
    let rename = bob.rename(&room, "Bob's");
    goes_back(&stage, &room, NAME, &rename).await;
    stage.sim.wait_for("it is redacted", |world| is_redacted(world, &room, &rename)).await;
    stage.settle(&room, "after the redaction").await;
    assert!(name_is(&stage, &bob, &room, "Alice's"), "and the name stays");
}

/// The power levels in plain, with their sender, when the keeper has said them again because of `forged`.
fn said_again(world: &World, room: &RoomRef, forged: &str) -> Option<Value> {
    let event = world.room(&room.room_id).current("m.room.power_levels", "")?;
    let mut content = event.content.clone();
    let mark = content.as_object_mut()?.remove("io.statekeeper.said_again")?;
    (event.sender == world.keeper() && mark["because_of"] == forged).then_some(content)
}

fn levels_of(world: &World, room: &RoomRef) -> Value {
    world.room(&room.room_id).current("m.room.power_levels", "").unwrap().content.clone()
}

#[tokio::test]
async fn forged_power_levels_are_redacted_and_the_true_ones_said_again() {
    let (stage, room, bob) = scene(json!({})).await;
    let mut truly = stage.sim.with(|world| levels_of(world, &room));
    // A second time as well: what is said again then differs from what stands there.
    for _ in 0..2 {
        let levels = json!({ "users": { "@bob:localhost": 100 } });
        let forged = bob.send_state(&room, ("m.room.power_levels", ""), &levels);
        stage.sim.wait_for("they are redacted", |world| is_redacted(world, &room, &forged)).await;
        let again = |world: &mut World| said_again(world, &room, &forged).is_some();
        stage.sim.wait_for("the true ones are said again", again).await;
        let said = stage.sim.with(|world| said_again(world, &room, &forged)).unwrap();
        truly.as_object_mut().unwrap().remove("io.statekeeper.said_again");
        assert_eq!(said, truly);
    }
    assert_eq!(stage.seals(&room, LEVELS), 0, "the keeper seals nothing in their place");
    stage.keeper.wait_for_metric("statekeeper_state_restored_total", 2.0).await;
}

#[tokio::test]
async fn a_keeper_that_may_not_redact_says_the_true_power_levels_again() {
    let (stage, room, bob) = scene(json!({})).await;
    let mut truly = stage.sim.with(|world| levels_of(world, &room));
    truly["redact"] = json!(101);
    room.put_state("@alice:localhost", ("m.room.power_levels", ""), truly.clone());
    stage.settle(&room, "after the power is gone").await;
    let levels = json!({ "users": { "@bob:localhost": 100 } });
    let forged = bob.send_state(&room, ("m.room.power_levels", ""), &levels);
    let again = |world: &mut World| said_again(world, &room, &forged).is_some();
    stage.sim.wait_for("the true ones are said again", again).await;
    assert_eq!(stage.sim.with(|world| said_again(world, &room, &forged)).unwrap(), truly);
    counted(&stage, ("critical", "restore")).await;
    // Once, and not at each further look at the room.
    let events = |world: &World| {
        let timeline = world.room(&room.room_id).timeline.iter();
        timeline.filter(|event| event.event_type == "m.room.power_levels").count()
    };
    let before = stage.sim.with(|world| events(world));
    bob.rename(&room, "Bob's");
    stage.settle(&room, "after a rename").await;
    assert_eq!(stage.sim.with(|world| events(world)), before);
    assert!(!stage.sim.with(|world| is_redacted(world, &room, &forged)));
    // Once it has the power it goes on by itself.
    truly["redact"] = json!(100);
    room.put_state("@alice:localhost", ("m.room.power_levels", ""), truly);
    stage.sim.wait_for("it is redacted", |world| is_redacted(world, &room, &forged)).await;
}

#[tokio::test]
async fn levels_that_change_while_the_true_ones_are_said_again_are_not_lost() {
    let (stage, room, bob) = scene(json!({})).await;
    let (changing, carol) = (room.clone(), "@carol:localhost");
    stage.sim.before_next_state_put(move |world| {
        let mut levels = levels_of(world, &changing);
        levels["users"][carol] = json!(75);
        let kind = ("m.room.power_levels", Some(""));
        let creator = world.room(&changing.room_id).creator.clone();
        world.append(&changing.room_id, &creator, kind, levels);
    });
    let forged = bob.send_state(&room, ("m.room.power_levels", ""), &json!({}));
    let kept = |world: &mut World| {
        said_again(world, &room, &forged).is_some_and(|levels| levels["users"][carol] == 75)
    };
    stage.sim.wait_for("Carol has what she was given", kept).await;
}

#[tokio::test]
async fn true_levels_whose_answer_was_lost_are_said_again_once() {
    let (mut stage, room, bob) = scene(json!({})).await;
    let events = |world: &World| {
        let timeline = world.room(&room.room_id).timeline.iter();
        timeline.filter(|event| event.event_type == "m.room.power_levels").count()
    };
    let before = stage.sim.with(|world| events(world));
    stage.sim.fault("state/put", Fault::DoneThenHang, 1);
    let forged = bob.send_state(&room, ("m.room.power_levels", ""), &json!({}));
    let again = |world: &mut World| said_again(world, &room, &forged).is_some();
    stage.sim.wait_for("the true ones are said again", again).await;
    stage.keeper.kill();
    stage.keeper.start().await;
    stage.settle(&room, "after the restart").await;
    assert_eq!(stage.sim.with(|world| events(world)), before + 1);
}

#[tokio::test]
async fn a_forged_membership_is_redacted_and_nothing_said_in_its_place() {
    let (stage, room, bob) = scene(json!({})).await;
    let gone = json!({ "membership": "leave" });
    let forged = bob.send_state(&room, ("m.room.member", "@alice:localhost"), &gone);
    stage.sim.wait_for("it is redacted", |world| is_redacted(world, &room, &forged)).await;
    stage.settle(&room, "after the membership").await;
    assert_eq!(
        stage.sim.with(|world| world.room(&room.room_id).membership("@alice:localhost").to_owned()),
        "join"
    );
}

#[tokio::test]
async fn forged_power_levels_stand_where_policy_only_reports() {
    let (stage, room, bob) = scene(json!({ "enforce": { "critical": "report" } })).await;
    let forged = bob.send_state(&room, ("m.room.power_levels", ""), &json!({}));
    stage.settle(&room, "after the levels").await;
    assert!(!stage.sim.with(|world| is_redacted(world, &room, &forged)));
}

#[tokio::test]
async fn state_under_another_users_key_goes_back_to_what_its_owner_said() {
    let (stage, room, bob) = scene(json!({})).await;
    let owned = ("com.example.note", "@alice:localhost");
    let packed = "com.example.note:@alice:localhost";
    room.set_power("bob", 100);
    let hers = stage.alice_device().send_state(&room, owned, &json!({ "note": "mine" }));
    stage.settle(&room, "after her note").await;
    assert!(stage.sim.with(|world| stands(world, &room, packed, &hers)), "it is left to her");
    let forged = bob.send_state(&room, owned, &json!({ "note": "yours" }));
    goes_back(&stage, &room, packed, &forged).await;
    stage.sealed(&room, packed, &json!({ "note": "mine" })).await;
}

#[tokio::test]
async fn what_was_redacted_is_never_restored() {
    let (stage, room, bob) = scene(json!({})).await;
    let plan = ("com.example.plan", "");
    let packed = "com.example.plan:";
    let said = stage.alice_device().send_state(&room, plan, &json!({ "plan": "secret" }));
    stage.sealed(&room, packed, &json!({ "plan": "secret" })).await;
    room.redact(&said);
    stage.settle(&room, "after the redaction").await;
    let seals = stage.seals(&room, packed);
    let forged = bob.send_state(&room, plan, &json!({ "plan": "Bob's" }));
    stage.settle(&room, "after Bob's plan").await;
    assert!(stage.sim.with(|world| stands(world, &room, packed, &forged)));
    assert_eq!(stage.seals(&room, packed), seals);
}

#[tokio::test]
async fn a_replayed_name_goes_back_where_policy_says_so() {
    let stage = Stage::with(json!({ "enforce": { "replay": "restore" } })).await;
    let room = stage.room().await;
    let first = stage.alice_device().rename(&room, "Sold");
    stage.sealed(&room, NAME, &json!({ "name": "Sold" })).await;
    stage.name(&room, "Not sold").await;
    let old =
        stage.sim.with(|world| world.room(&room.room_id).event(&first).unwrap().content.clone());
    let replay = room.put_state("alice", ("m.room.encrypted", NAME), old);
    goes_back(&stage, &room, NAME, &replay).await;
    assert!(name_is(&stage, &stage.alice_device(), &room, "Not sold"));
}

#[tokio::test]
async fn a_name_of_the_wrong_shape_goes_back_where_policy_says_so() {
    let stage = Stage::with(json!({ "enforce": { "shape": "restore" } })).await;
    let room = stage.named_room("Tea").await;
    let odd = stage.alice_device().send_state(&room, ("m.room.name", ""), &json!({ "name": 5 }));
    goes_back(&stage, &room, NAME, &odd).await;
    assert!(name_is(&stage, &stage.alice_device(), &room, "Tea"));
}

#[tokio::test]
async fn a_name_in_plain_is_answered_by_the_sealed_one_where_policy_says_so() {
    let stage = Stage::with(json!({ "enforce": { "plain": "redact" } })).await;
    let room = stage.named_room("Tea").await;
    let seals = stage.seals(&room, NAME);
    let plain = room.put_state("alice", ("m.room.name", ""), json!({ "name": "Plain" }));
    let redacted = |world: &mut World| is_redacted(world, &room, &plain);
    stage.sim.wait_for("the name in plain is redacted", redacted).await;
    stage.settle(&room, "after the name in plain").await;
    assert_eq!(stage.seals(&room, NAME), seals + 1, "said once, and not for ever");
    assert!(name_is(&stage, &stage.alice_device(), &room, "Tea"));
}

#[tokio::test]
async fn what_the_keeper_finds_when_it_comes_is_left() {
    let stage = Stage::open().await;
    let room = stage.sim.room().encrypted_power(0).create();
    room.put_state("alice", ("m.room.name", ""), json!({ "name": "Long ago" }));
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    let found = bob.device(1).rename(&room, "Bob's, when he was allowed to");
    stage.invite_keeper(&room).await;
    stage.settle(&room, "after the keeper came").await;
    assert!(stage.sim.with(|world| stands(world, &room, NAME, &found)));
}

/// Bob names the room again and again, until the keeper leaves it: his last name stands.
async fn war(settings: Value) -> (Stage, RoomRef, DeviceRef, String) {
    let (stage, room, bob) = scene(settings).await;
    for round in 0..4 {
        let rename = bob.rename(&room, &format!("Bob's {round}"));
        goes_back(&stage, &room, NAME, &rename).await;
    }
    let last = bob.rename(&room, "Bob's last");
    counted(&stage, ("power", "report")).await;
    stage.keeper.wait_for_metric(WAR, 1.0).await;
    logged(&stage, "the keeper restores what he changes no more").await;
    stage.settle(&room, "after the war").await;
    assert!(stage.sim.with(|world| stands(world, &room, NAME, &last)));
    stage.keeper.wait_for_metric("statekeeper_wars", 1.0).await;
    (stage, room, bob, last)
}

#[tokio::test]
async fn a_restoring_war_waits_for_an_administrator() {
    let (mut stage, room, bob, last) = war(json!({})).await;
    // Neither a restart nor another member's value ends it.
    stage.keeper.kill();
    stage.keeper.start().await;
    stage.settle(&room, "after the restart").await;
    assert!(stage.sim.with(|world| stands(world, &room, NAME, &last)));
    let (code, _, err) = stage.keeper.command("resume", &[&room.room_id, "@alice:localhost"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("has not stopped restoring what @alice:localhost"), "{err}");
    let (code, out, err) = stage.keeper.command("resume", &[&room.room_id, "@bob:localhost"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    goes_back(&stage, &room, NAME, &last).await;
    assert!(name_is(&stage, &stage.alice_device(), &room, "Alice's"));
    // What he did before is not held against him any more.
    let rename = bob.rename(&room, "Bob's once more");
    goes_back(&stage, &room, NAME, &rename).await;
    let wars = || stage.keeper.metric("statekeeper_wars", &[]);
    eventually("no war is left", async || wars().await < 1.0).await;
}

#[tokio::test]
async fn in_a_war_what_stands_in_plain_keeps_nobody_from_the_keys() {
    let (stage, room, _, _) = war(json!({ "enforce": { "plain": "restore" } })).await;
    stage.name(&room, "Alice's again").await;
    room.set_power("bob", 50);
    room.put_state("bob", ("m.room.name", ""), json!({ "name": "In plain" }));
    counted(&stage, ("plain", "report")).await;
    let dave = stage.sim.user("dave").create().device(1);
    stage.sim.join(&room, "dave");
    stage.shows(&dave, &room, "Alice's again").await;
}

#[tokio::test]
async fn in_a_war_a_value_that_is_allowed_counts() {
    let (stage, room, _, _) = war(json!({})).await;
    stage.name(&room, "Alice's again").await;
}

#[tokio::test]
async fn a_war_is_over_when_its_maker_is_removed_or_has_no_power_any_more() {
    let (stage, room, bob, last) = war(json!({})).await;
    room.membership(&room.creator, "@bob:localhost", "leave");
    goes_back(&stage, &room, NAME, &last).await;
    drop((stage, bob));
    let (stage, room, _, last) = war(json!({})).await;
    room.set_power("bob", -1);
    goes_back(&stage, &room, NAME, &last).await;
}

#[tokio::test]
async fn whoever_leaves_a_war_comes_back_into_it() {
    let (stage, room, bob, last) = war(json!({})).await;
    room.leave("@bob:localhost");
    goes_back(&stage, &room, NAME, &last).await;
    stage.sim.join(&room, "bob");
    stage.shows(&bob, &room, "Alice's").await;
    let rename = bob.rename(&room, "Bob's again");
    stage.settle(&room, "after he came back").await;
    assert!(stage.sim.with(|world| stands(world, &room, NAME, &rename)));
}

#[tokio::test]
async fn plain_state_beside_what_a_member_sealed_is_told_of_as_well() {
    let (stage, room, _) = scene(json!({})).await;
    stage.keeper.configure(&json!({ "state": { "reseal_delay": "1h" } }));
    stage.keeper.hang_up();
    logged(&stage, "the configuration is reloaded").await;
    let hers = stage.alice_device().rename(&room, "Hers");
    room.put_state("alice", ("m.room.name", ""), json!({ "name": "In plain" }));
    counted(&stage, ("plain", "report")).await;
    assert!(stage.sim.with(|world| stands(world, &room, NAME, &hers)), "it is reported");
}

#[tokio::test]
async fn what_is_only_reported_is_no_war_and_wears_no_patience_out() {
    let (stage, room, bob) = scene(json!({})).await;
    room.set_power("bob", 50);
    for round in 0..6 {
        room.put_state("bob", ("m.room.name", ""), json!({ "name": format!("plain {round}") }));
    }
    let labels = ["plain", "report"];
    eventually("six are counted", async || {
        stage.keeper.metric("statekeeper_policy_violations_total", &labels).await >= 6.0
    })
    .await;
    room.set_power("bob", 0);
    assert!(stage.keeper.metric(WAR, &[]).await < 1.0);
    let rename = bob.rename(&room, "Bob's");
    goes_back(&stage, &room, NAME, &rename).await;
}

#[tokio::test]
async fn a_sealed_acl_from_whoever_may_not_is_redacted_and_the_true_one_said_again() {
    const ACL: &str = "m.room.server_acl";
    let (stage, room, bob) = scene(json!({})).await;
    let truth = json!({ "allow": ["*"], "deny": ["evil.example"] });
    room.put_state("alice", (ACL, ""), truth.clone());
    let said_again = |world: &World, forged: &str| {
        let event = world.room(&room.room_id).current(ACL, "").expect("it stands");
        let mut content = event.content.clone();
        let mark = content.as_object_mut().and_then(|it| it.remove("io.statekeeper.said_again"));
        content == truth && mark.is_some_and(|mark| mark["because_of"] == forged)
    };
    let forged = bob.send_state(&room, (ACL, ""), &json!({ "allow": ["bob.example"] }));
    stage.sim.wait_for("it is redacted", |world| is_redacted(world, &room, &forged)).await;
    stage.sim.wait_for("the true one is said again", |world| said_again(world, &forged)).await;
    counted(&stage, ("power", "redact")).await;
    // Where nothing stands in plain, nothing is said.
    let forged = bob.send_state(&room, ("m.room.tombstone", ""), &json!({ "body": "Gone" }));
    stage.sim.wait_for("it is redacted, too", |world| is_redacted(world, &room, &forged)).await;
    stage.settle(&room, "afterwards").await;
    let tombstone =
        |world: &mut World| world.room(&room.room_id).current("m.room.tombstone", "").is_some();
    assert!(!stage.sim.with(tombstone));
}

#[tokio::test]
async fn where_no_value_was_ever_allowed_it_is_counted_as_reported() {
    let (stage, room, bob) = scene(json!({})).await;
    bob.send_state(&room, ("org.example.plan", ""), &json!({ "step": 1 }));
    counted(&stage, ("power", "report")).await;
    let labels = ["power", "restore"];
    assert!(stage.keeper.metric("statekeeper_policy_violations_total", &labels).await < 1.0);
}

#[tokio::test]
async fn with_noop_everything_is_told_and_nothing_is_sent() {
    let stage = Stage::with(json!({ "noop": true })).await;
    let room = stage.sim.room().encrypted_power(0).create();
    stage.invite_keeper(&room).await;
    logged(&stage, "a room was loaded").await;
    stage.alice_device().rename(&room, "Alice's");
    let bob = stage.sim.user("bob").create().device(1);
    stage.sim.join(&room, "bob");
    let rename = bob.rename(&room, "Bob's");
    let forged = bob.send_state(&room, ("m.room.power_levels", ""), &json!({}));
    for rule in ["power", "critical"] {
        counted(&stage, (rule, "noop")).await;
    }
    logged(&stage, "noop: this would be done").await;
    assert_eq!(stage.seals(&room, NAME), 0);
    assert!(stage.sim.with(|world| stands(world, &room, NAME, &rename)));
    assert!(!stage.sim.with(|world| is_redacted(world, &room, &forged)));
    assert!(bob.heard_from_keeper().is_empty());
    // Once it may, it does.
    stage.keeper.configure(&json!({ "noop": false }));
    stage.keeper.hang_up();
    goes_back(&stage, &room, NAME, &rename).await;
    stage.sim.wait_for("it is redacted", |world| is_redacted(world, &room, &forged)).await;
}

#[tokio::test]
async fn what_is_nested_too_deep_to_be_read_goes_back_as_well() {
    let (stage, room, bob) = scene(json!({})).await;
    let mut content = bob.seal(&room, ("m.room.name", ""), &json!({ "name": "Bob's" }));
    content["deep"] = (0..200).fold(json!(1), |inner, _| json!([inner]));
    let forged = room.put_state("bob", ("m.room.encrypted", NAME), content.clone());
    goes_back(&stage, &room, NAME, &forged).await;
    assert!(name_is(&stage, &stage.alice_device(), &room, "Alice's"));
    counted(&stage, ("power", "restore")).await;
    // From somebody who may, it is no ciphertext.
    room.set_power("bob", 100);
    room.put_state("bob", ("m.room.encrypted", NAME), content);
    counted(&stage, ("shape", "report")).await;
}

#[tokio::test]
async fn what_only_its_owner_can_say_and_somebody_else_said_is_redacted() {
    let (stage, room, bob) = scene(json!({})).await;
    room.set_power("bob", 100);
    let owned = ("org.matrix.msc3401.call.member", "_@alice:localhost_PHONE");
    let hers = stage.alice_device().send_state(&room, owned, &json!({ "calls": ["hers"] }));
    stage.settle(&room, "after her call").await;
    let packed = format!("{}:{}", owned.0, owned.1);
    assert!(stage.sim.with(|world| stands(world, &room, &packed, &hers)), "it is left to her");
    let forged = bob.send_state(&room, owned, &json!({ "calls": ["his"] }));
    stage.sim.wait_for("it is redacted", |world| is_redacted(world, &room, &forged)).await;
    counted(&stage, ("ownership", "redact")).await;
    assert_eq!(stage.seals(&room, &packed), 0, "nobody speaks in her place");
    let anew = stage.alice_device().send_state(&room, owned, &json!({ "calls": ["anew"] }));
    stage.settle(&room, "after her next call").await;
    assert!(stage.sim.with(|world| stands(world, &room, &packed, &anew)));
}

#[tokio::test]
async fn a_sealed_child_of_a_space_is_redacted_and_the_true_one_said_again() {
    const CHILD: &str = "m.space.child";
    let (stage, room, bob) = scene(json!({})).await;
    let child = "!child:localhost";
    let truth = json!({ "via": ["localhost"] });
    room.put_state("alice", (CHILD, child), truth.clone());
    let forged = bob.send_state(&room, (CHILD, child), &json!({}));
    stage.sim.wait_for("it is redacted", |world| is_redacted(world, &room, &forged)).await;
    let again = |world: &mut World| {
        let event = world.room(&room.room_id).current(CHILD, child).expect("it stands");
        event.sender == world.keeper() && event.content["via"] == truth["via"]
    };
    stage.sim.wait_for("the true one is said again", again).await;
}
