//! Rooms that are moved while something happens in them, or where something is in the way.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    races::{
        stage::{NAME, Stage},
        successors::is_kept_as,
        upgrading::{AVATAR, Old, opens},
    },
    simulated::{Fault, RoomRef, World},
};

/// The room that was made, whoever is in it.
fn made(old: &Old) -> RoomRef {
    let room_id = old.stage.sim.with(|world| world.made_rooms().remove(0));
    RoomRef { sim: old.stage.sim.clone(), room_id, creator: old.stage.sim.keeper() }
}

async fn moved(old: &Old, more: &[&str]) -> (RoomRef, String) {
    let (code, out, err) = old.upgrade(&[&["--yes"], more].concat()).await;
    assert_eq!(code, Some(0), "{out}{err}");
    (made(old), err)
}

/// Orders the move and stops it once all is sealed in the new room, before the addresses are moved.
async fn half_way(old: &Old) -> RoomRef {
    old.stage.sim.hold("directory");
    let asked = old.stage.sim.requests("directory");
    let (code, out, err) = old.upgrade(&["--yes", "--no-wait"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let reached = move |world: &mut World| world.requests.to("directory").count() > asked;
    old.stage.sim.wait_for("the addresses are to be moved", reached).await;
    made(old)
}

async fn is_done(old: &Old) {
    let (code, out, err) = progress(old).await;
    assert_eq!(code, Some(0), "{out}{err}");
}

/// Waits until the one order is carried out: the exit code, standard output and standard error.
async fn progress(old: &Old) -> (Option<i32>, String, String) {
    let keeper = &old.stage.keeper;
    let (_, out, _) = keeper.room_command("progress", &["--json"]).await;
    let row: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    keeper.room_command("progress", &[row["id"].as_str().unwrap()]).await
}

#[tokio::test]
async fn who_came_or_was_banned_meanwhile_and_what_was_said_in_plain_goes_over() {
    let old = Old::plain("11").await;
    let (sim, room) = (&old.stage.sim, &old.room);
    for user in ["carol", "dora"] {
        sim.user(user).create();
    }
    sim.join(room, "dora");
    room.set_power("@dora:localhost", 60);
    let new = half_way(&old).await;
    sim.join(room, "carol");
    room.set_power("@carol:localhost", 100);
    room.membership("alice", "@bob:localhost", "ban");
    room.membership("alice", "@mallory:localhost", "leave");
    room.set_power("@dora:localhost", 0);
    room.put_state("alice", ("m.room.server_acl", ""), json!({ "allow": ["*"] }));
    room.put_state("alice", ("m.room.join_rules", ""), json!({ "join_rule": "knock" }));
    let visible = json!({ "history_visibility": "joined" });
    room.put_state("alice", ("m.room.history_visibility", ""), visible.clone());
    sim.release("directory");
    is_done(&old).await;
    let standing =
        |user: &str| sim.with(|world| world.room(&new.room_id).membership(user).to_owned());
    for (user, membership) in [
        ("@alice:localhost", "invite"),
        ("@carol:localhost", "invite"),
        ("@bob:localhost", "ban"),
        ("@mallory:localhost", "leave"),
    ] {
        assert_eq!(standing(user), membership, "{user}");
    }
    let content = |kind| old.content(&new, kind, "").unwrap();
    assert_eq!(content("m.room.server_acl"), json!({ "allow": ["*"] }));
    assert_eq!(content("m.room.join_rules"), json!({ "join_rule": "knock" }));
    assert_eq!(content("m.room.history_visibility"), visible);
    let power = |user: &str| sim.with(|world| world.room(&new.room_id).power_of(user));
    assert_eq!((power("@carol:localhost"), power("@dora:localhost")), (100, 0));
}

#[tokio::test]
async fn a_name_that_was_sealed_just_before_the_end_is_waited_for() {
    let old = Old::of("12", true).await;
    let (stage, room) = (&old.stage, &old.room);
    stage.name(room, "Garden Club").await;
    let new = half_way(&old).await;
    stage.sim.hold("push");
    stage.alice_device().rename(room, "Vegetable Club");
    let looked = stage.sim.requests("state");
    stage.sim.release("directory");
    let closed = |world: &mut World| {
        world.room(&room.room_id).current("m.room.tombstone", "").is_some()
            && world.requests.to("state").count() >= looked + 2
    };
    stage.sim.wait_for("the old room is closed, and looked at once more", closed).await;
    stage.sim.release("push");
    stage.sim.touch();
    is_done(&old).await;
    assert_eq!(opens(stage, &old.bob.device(1), &new, NAME).await["name"], "Vegetable Club");
}

#[tokio::test]
async fn what_is_taken_back_while_the_room_is_moved_is_not_there_afterwards() {
    let old = Old::of("12", true).await;
    let (stage, room) = (&old.stage, &old.room);
    stage.name(room, "Garden Club").await;
    stage.set(room, ("org.example.plan", ""), json!({ "plan": "secret" })).await;
    let new = half_way(&old).await;
    let plan = "org.example.plan:";
    let sealed = stage.sim.with(|world| world.keeper_seal(&room.room_id, plan).unwrap());
    room.redact(&sealed.event_id);
    stage.sim.release("directory");
    is_done(&old).await;
    let bob = old.bob.device(1);
    assert_eq!(opens(stage, &bob, &new, NAME).await["name"], "Garden Club");
    let seals = stage.sim.with(|world| world.keeper_seals(&new.room_id, plan));
    assert_eq!(seals.len(), 2, "it was sealed before, and nothing after it");
    assert!(seals.iter().all(|seal| bob.opens(seal).is_err()), "nobody is given the plan");
}

#[tokio::test]
async fn a_sealed_picture_that_was_public_is_ciphertext_in_the_new_room() {
    let old = Old::of("12", true).await;
    let (stage, room) = (&old.stage, &old.room);
    let info =
        json!({ "mimetype": "image/png", "w": 8, "h": 9, "thumbnail_url": "mxc://localhost/cat" });
    let public = json!({ "url": "mxc://localhost/cat", "info": info });
    stage.set(room, ("m.room.avatar", ""), public).await;
    let (new, _) = moved(&old, &[]).await;
    let avatar = opens(stage, &old.bob.device(1), &new, AVATAR).await;
    assert!(avatar["url"].is_null() && avatar["file"]["key"]["k"].is_string(), "{avatar}");
    let expected = json!({ "mimetype": "image/png", "w": 8, "h": 9, "size": 18 });
    assert_eq!(avatar["info"], expected);
}

#[tokio::test]
async fn a_picture_that_cannot_be_had_is_told_of_and_holds_nothing_up() {
    for (endpoint, status, times) in [("download", 502, 3), ("upload", 413, 1)] {
        let old = Old::plain("11").await;
        old.stage.sim.fault(endpoint, Fault::Status(status), times);
        let (new, err) = moved(&old, &[]).await;
        assert!(err.contains("the picture could not be encrypted, and stays public"), "{err}");
        let avatar = opens(&old.stage, &old.bob.device(1), &new, AVATAR).await;
        assert_eq!(avatar["url"], "mxc://localhost/cat");
    }
}

#[tokio::test]
async fn levels_that_are_written_as_strings_are_no_obstacle() {
    let old = Old::plain("9").await;
    let mut levels = old.content(&old.room, "m.room.power_levels", "").unwrap();
    levels["users"]["@bob:localhost"] = json!("30");
    old.room.put_state("alice", ("m.room.power_levels", ""), levels);
    let (new, _) = moved(&old, &["--room-version", "11"]).await;
    let power = old.stage.sim.with(|world| world.room(&new.room_id).power_of("@bob:localhost"));
    assert_eq!(power, 30);
}

#[tokio::test]
async fn a_claim_that_is_none_any_more_holds_nothing_up() {
    let old = Old::plain("11").await;
    let claim = json!({ "canonical": true });
    old.room.put_state("alice", ("m.space.parent", &old.space.room_id), claim.clone());
    let puts = old.stage.sim.requests("state/put");
    let (new, _) = moved(&old, &[]).await;
    assert_eq!(old.content(&new, "m.space.parent", &old.space.room_id), Some(claim));
    let puts = old.stage.sim.requests("state/put") - puts;
    assert!(puts < 15, "each thing is said once: {puts}");
}

#[tokio::test]
async fn whoever_is_shown_out_of_the_closed_room_goes_on_without_it() {
    let old = Old::plain("11").await;
    let _ = half_way(&old).await;
    old.stage.sim.change(|world| world.faults.set_latency("state", Duration::from_secs(1)));
    old.stage.sim.release("directory");
    old.stage.sim.touch();
    let closed =
        |world: &mut World| world.room(&old.room.room_id).current("m.room.tombstone", "").is_some();
    old.stage.sim.wait_for("the old room is closed", closed).await;
    old.room.membership("alice", &old.stage.sim.keeper(), "leave");
    let (code, out, err) = progress(&old).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(err.contains("the keeper was shown out of it"), "{err}");
    old.new_room().await;
}

#[tokio::test]
async fn only_addresses_that_lead_to_the_new_room_are_named_there() {
    let old = Old::plain("11").await;
    old.stage.sim.change(|world| {
        world.aliases.insert("#other:localhost".to_owned(), "!other:localhost".to_owned());
        let named = json!({
            "alias": "#garden:localhost",
            "alt_aliases": ["#other:localhost", "#garden:elsewhere.example"],
        });
        let tuple = ("m.room.canonical_alias", Some(""));
        world.append(&old.room.room_id, "@alice:localhost", tuple, named);
    });
    let (new, err) = moved(&old, &[]).await;
    let named = old.content(&new, "m.room.canonical_alias", "").unwrap();
    assert_eq!(named, json!({ "alias": "#garden:localhost" }));
    let told = "does not lead to the new room: #other:localhost #garden:elsewhere.example";
    assert!(err.contains(told), "{err}");
}

#[tokio::test]
async fn an_address_that_somebody_gave_to_a_third_room_is_left_there() {
    let old = Old::plain("11").await;
    old.stage.sim.before_next_state_put(|world| {
        world.aliases.insert("#garden:localhost".to_owned(), "!third:localhost".to_owned());
    });
    let (_, err) = moved(&old, &[]).await;
    assert!(err.contains("#garden:localhost leads to !third:localhost by now"), "{err}");
    let leads_to = old.stage.sim.with(|world| world.aliases["#garden:localhost"].clone());
    assert_eq!(leads_to, "!third:localhost");
}

#[tokio::test]
async fn a_room_is_kept_by_the_old_ones_policy_before_it_has_its_address() {
    let policy =
        json!({ "match": { "aliases": ["#garden:*"] }, "sharing": { "members": "approved" } });
    let stage = Stage::with(json!({ "policies": [policy] })).await;
    let old = Old::on(stage, "12", true).await;
    let address = json!({ "alias": "#garden:localhost" });
    old.room.put_state("alice", ("m.room.canonical_alias", ""), address);
    is_kept_as(&old.stage, &old.room, "approved").await;
    old.stage.alice_device().rename(&old.room, "Garden Club");
    let new = half_way(&old).await;
    assert_eq!(old.content(&new, "m.room.canonical_alias", ""), None);
    is_kept_as(&old.stage, &new, "approved").await;
    old.stage.sim.release("directory");
    is_done(&old).await;
    is_kept_as(&old.stage, &new, "approved").await;
}

#[tokio::test]
async fn the_plan_tells_of_another_policy_and_of_one_by_which_nothing_is_sealed() {
    let mut stage = Stage::prepare(json!({})).await;
    let room = stage.sim.room().create();
    let other = stage.sim.room().create();
    let policies = json!([
        { "match": { "aliases": ["#tea:*"] }, "sharing": { "members": "approved" } },
        { "match": { "rooms": [other.room_id] }, "state": { "seal": "off" } },
    ]);
    stage.keeper.configure(&json!({ "policies": policies }));
    stage.keeper.start().await;
    let address = json!({ "alias": "#tea:elsewhere.example" });
    room.put_state("alice", ("m.room.canonical_alias", ""), address);
    for room in [&room, &other] {
        stage.invite_keeper(room).await;
        stage.keeper.wait_for_log(&format!("a room was loaded room={}", room.room_id)).await;
    }
    let told = async |room: &RoomRef| {
        let (_, out, _) = stage.keeper.room_command("upgrade", &[&room.room_id, "--plan"]).await;
        out
    };
    let out = told(&room).await;
    let changes = "the old room has policies[0], and the new one will have no policy";
    assert!(out.contains(changes), "{out}");
    let out = told(&other).await;
    assert!(out.contains("missing    `state.seal` is `off`"), "{out}");
}

/// A keeper in so many rooms in plain, each with an address.
async fn in_rooms(number: usize) -> (Stage, Vec<RoomRef>) {
    let stage = Stage::open().await;
    stage.sim.change(|world| world.owns_aliases = true);
    let mut rooms = Vec::new();
    for number in 0..number {
        let name = json!({ "name": format!("Room {number}") });
        let builder = stage.sim.room().encrypted_state(false).invite_only();
        let room = builder.state(("m.room.name", ""), name).create();
        let address = format!("#room{number}:localhost");
        stage.sim.change(|world| world.aliases.insert(address, room.room_id.clone()));
        stage.invite_keeper(&room).await;
        stage.keeper.wait_for_log(&format!("a room was loaded room={}", room.room_id)).await;
        rooms.push(room);
    }
    (stage, rooms)
}

async fn order_all(stage: &Stage, rooms: &[RoomRef]) {
    for room in rooms {
        let arguments = [room.room_id.as_str(), "--yes", "--no-wait"];
        let (code, out, err) = stage.keeper.room_command("upgrade", &arguments).await;
        assert_eq!(code, Some(0), "{out}{err}");
    }
}

#[tokio::test]
async fn several_rooms_are_moved_at_a_time() {
    let (mut stage, rooms) = in_rooms(4).await;
    stage.sim.hold("directory");
    order_all(&stage, &rooms).await;
    let reached = |world: &mut World| world.requests.to("directory").count() == 4;
    stage.sim.wait_for("all wait for their addresses", reached).await;
    stage.sim.change(|world| world.faults.set_latency("state", Duration::from_millis(500)));
    stage.sim.release("directory");
    stage.sim.touch();
    let moved = |world: &mut World| {
        let made = world.made_rooms();
        made.len() == 4
            && made.iter().all(|room| world.room(room).membership("@alice:localhost") == "invite")
    };
    stage.sim.wait_for("all four are moved", moved).await;
    assert!(stage.keeper.is_running());
}

#[tokio::test]
async fn orders_that_wait_for_an_administrator_keep_no_other_one_waiting() {
    let (stage, rooms) = in_rooms(4).await;
    stage.sim.hold("directory");
    order_all(&stage, &rooms).await;
    let reached = |world: &mut World| world.requests.to("directory").count() == 4;
    stage.sim.wait_for("all wait for their addresses", reached).await;
    for room in &rooms {
        let elsewhere = json!({ "replacement_room": "!elsewhere:localhost" });
        room.put_state("alice", ("m.room.tombstone", ""), elsewhere);
    }
    stage.sim.release("directory");
    stage.sim.touch();
    let (code, _, err) = stage.keeper.room_command("create", &["--name", "Tea"]).await;
    assert_eq!(code, Some(0), "{err}");
    let (_, out, _) = stage.keeper.room_command("progress", &[]).await;
    assert_eq!(out.matches("somebody had it go on in").count(), 4, "{out}");
}

#[tokio::test]
async fn two_orders_at_once_move_a_room_once() {
    let old = Old::plain("11").await;
    old.stage.sim.change(|world| world.faults.set_latency("capabilities", Duration::from_secs(1)));
    let order = || old.upgrade(&["--yes", "--no-wait"]);
    let (one, two) = tokio::join!(order(), order());
    let mut codes = [one.0, two.0];
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(1)], "{one:?} {two:?}");
    assert!(format!("{}{}", one.2, two.2).contains("is being moved already"), "{one:?} {two:?}");
    old.new_room().await;
}
