//! Rooms that the keeper makes: encrypted from their birth, and made once whatever comes in between.

use serde_json::{Value, json};

use crate::{
    races::{
        stage::{NAME, Stage},
        upgrading::{AVATAR, opens},
    },
    simulated::{Fault, RoomRef, World},
};

const TOPIC: &str = "m.room.topic:";
/// How many pieces of state the keeper puts into such a room and its space.
const PUTS: usize = 5;

/// A keeper in a space of Alice's, with power there.
async fn in_a_space() -> (Stage, RoomRef) {
    in_a_space_with(json!({})).await
}

async fn in_a_space_with(settings: Value) -> (Stage, RoomRef) {
    let stage = Stage::with(settings).await;
    stage.sim.user("bob").create();
    let space = stage.sim.room().space().create();
    stage.invite_keeper(&space).await;
    let loaded = format!("room={} status=\"state_not_encrypted\"", space.room_id);
    stage.keeper.wait_for_log(&loaded).await;
    (stage, space)
}

/// What a room is ordered with.
fn wishes(space: &RoomRef) -> Vec<String> {
    let words = [
        "--name",
        "Garden Club",
        "--topic",
        "Tomatoes",
        "--restricted",
        "--admin",
        "@alice:localhost",
        "--invite",
        "@bob:localhost",
        "--space",
        &space.room_id,
    ];
    words.map(str::to_owned).to_vec()
}

async fn order(stage: &Stage, arguments: &[String], more: &[&str]) -> String {
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let (code, out, err) = stage.keeper.room_command("create", &arguments).await;
    assert_eq!(code, Some(0), "{out}{err}");
    out
}

/// The one room that the keeper has made and is in, once Alice and Bob are invited.
async fn the_room(stage: &Stage) -> RoomRef {
    let invited = |world: &mut World| {
        let rooms = world.made_rooms();
        let invited = |room: &String| {
            ["@alice:localhost", "@bob:localhost"]
                .iter()
                .all(|user| world.room(room).membership(user) == "invite")
        };
        rooms.len() == 1 && rooms.iter().all(invited)
    };
    stage.sim.wait_for("one room is made, and everybody invited", invited).await;
    let room_id = stage.sim.with(|world| world.made_rooms().remove(0));
    RoomRef { sim: stage.sim.clone(), room_id, creator: stage.sim.keeper() }
}

/// The events of a room in their order: type, state key, content.
fn timeline(stage: &Stage, room: &RoomRef) -> Vec<(String, String, Value)> {
    stage.sim.with(|world| {
        let events = world.room(&room.room_id).timeline.iter();
        events
            .map(|event| {
                let key = event.state_key.clone().unwrap_or_default();
                (event.event_type.clone(), key, event.content.clone())
            })
            .collect()
    })
}

fn place(timeline: &[(String, String, Value)], kind: &str, key: &str) -> usize {
    let is_it = |event: &(String, String, Value)| event.0 == kind && event.1 == key;
    timeline.iter().rposition(is_it).unwrap_or_else(|| panic!("no {kind} {key} in {timeline:#?}"))
}

/// The room is what was ordered, and nothing was done twice.
async fn is_as_ordered(stage: &Stage, space: &RoomRef) {
    let bob = stage.sim.device("bob", 1);
    let room = the_room(stage).await;
    let sealed = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    let reads = |world: &mut World| world.open(bob.id(), &sealed).is_ok();
    stage.sim.wait_for("an invitee has the name's key", reads).await;
    let events = timeline(stage, &room);
    for (kind, key) in [
        ("m.room.encrypted", NAME),
        ("m.room.encrypted", TOPIC),
        ("m.space.parent", &space.room_id),
        ("m.room.encryption", ""),
        ("m.room.member", "@bob:localhost"),
        ("m.room.member", "@alice:localhost"),
    ] {
        let times = events.iter().filter(|event| event.0 == kind && event.1 == key).count();
        assert_eq!(times, 1, "{kind} {key}: {events:#?}");
    }
    let text = format!("{events:?}");
    assert!(!text.contains("Garden") && !text.contains("Tomatoes"), "{text}");
    let at = |kind: &str, key: &str| place(&events, kind, key);
    let last_seal = at("m.room.encrypted", NAME).max(at("m.room.encrypted", TOPIC));
    let opened = at("m.room.join_rules", "");
    let invited =
        at("m.room.member", "@bob:localhost").min(at("m.room.member", "@alice:localhost"));
    assert!(last_seal < opened && opened < invited, "{events:#?}");
    assert_eq!(events[opened].2["allow"][0]["room_id"], space.room_id);
    let flags = &events[at("m.room.encryption", "")].2;
    assert_eq!(flags["io.element.msc4362.encrypt_state_events"], true);
    assert_eq!(flags["encrypt_state_events"], true);
    let listed = stage
        .sim
        .with(|world| world.room(&space.room_id).current("m.space.child", &room.room_id).is_some());
    assert!(listed, "the space lists it");
    stage.sim.join(&room, "bob");
    stage.shows(&bob, &room, "Garden Club").await;
    assert!(stage.sim.with(|world| world.reused_indices()).is_empty());
}

#[tokio::test]
async fn a_room_has_its_name_under_encryption_before_anybody_can_come_in() {
    let (stage, space) = in_a_space().await;
    let told = order(&stage, &wishes(&space), &[]).await;
    is_as_ordered(&stage, &space).await;
    let made = the_room_id(&stage);
    assert!(told.ends_with(&format!("{made}\n")), "{told}");
    assert!(told.starts_with("creating the room\n") && told.contains("\ndone\n"), "{told}");
    let log = stage.keeper.log();
    assert!(!log.contains("Garden") && !log.contains("Tomatoes"), "a name in the log: {log}");
}

fn the_room_id(stage: &Stage) -> String {
    stage.sim.with(|world| world.made_rooms().remove(0))
}

#[tokio::test]
async fn alice_governs_the_room_that_she_had_made() {
    for version in ["11", "12"] {
        let (stage, space) = in_a_space().await;
        order(&stage, &wishes(&space), &["--room-version", version]).await;
        let room = the_room(&stage).await;
        let power = stage.sim.with(|world| {
            let room = world.room(&room.room_id);
            (
                room.version.clone(),
                room.power_of("@alice:localhost"),
                room.power_of("@bob:localhost"),
            )
        });
        assert!(power.0 == version && power.1 >= 100 && power.2 == 0, "{power:?}");
    }
}

#[tokio::test]
async fn a_kill_at_any_step_makes_no_second_room_and_loses_nothing() {
    let mut cuts: Vec<(&str, usize, Fault)> = Vec::new();
    for fault in [Fault::Hang, Fault::DoneThenHang] {
        cuts.push(("createRoom", 0, fault.clone()));
        cuts.extend((0..PUTS).map(|number| ("state/put", number, fault.clone())));
        cuts.extend((0..2).map(|number| ("invite", number, fault.clone())));
    }
    for (endpoint, number, fault) in cuts {
        let (mut stage, space) = in_a_space().await;
        stage.sim.fault(endpoint, Fault::Nothing, number);
        stage.sim.fault(endpoint, fault.clone(), 1);
        order(&stage, &wishes(&space), &["--no-wait"]).await;
        let reached = |world: &mut World| world.faults.left(endpoint) == 0;
        stage.sim.wait_for(&format!("{endpoint} {number} {fault:?}"), reached).await;
        stage.keeper.kill();
        stage.keeper.start().await;
        is_as_ordered(&stage, &space).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_makes_no_second_room() {
    let (stage, space) = in_a_space().await;
    stage.sim.fault("createRoom", Fault::DoneThenStatus(502), 1);
    order(&stage, &wishes(&space), &[]).await;
    is_as_ordered(&stage, &space).await;
    assert_eq!(stage.sim.requests("createRoom"), 1);
}

#[tokio::test]
async fn a_room_that_the_homeserver_did_not_bring_to_its_end_is_left_and_made_anew() {
    let (stage, space) = in_a_space().await;
    stage.sim.with(|world| world.breaks_creation = 1);
    order(&stage, &wishes(&space), &[]).await;
    is_as_ordered(&stage, &space).await;
    assert_eq!(stage.sim.requests("createRoom"), 2);
}

#[tokio::test]
async fn a_homeserver_that_brings_no_room_to_its_end_is_not_asked_for_ever() {
    let (stage, space) = in_a_space().await;
    stage.sim.with(|world| world.breaks_creation = 10);
    let arguments = wishes(&space);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, _, err) = stage.keeper.room_command("create", &arguments).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("2 rooms were made and left"), "{err}");
    assert!(stage.sim.with(|world| world.made_rooms()).is_empty());
    assert_eq!(stage.sim.requests("createRoom"), 2);
}

#[tokio::test]
async fn a_room_that_came_of_a_refusal_is_left() {
    let (stage, space) = in_a_space().await;
    stage.sim.fault("createRoom", Fault::DoneThenStatus(400), 1);
    let arguments = wishes(&space);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, _, err) = stage.keeper.room_command("create", &arguments).await;
    assert_eq!(code, Some(1), "{err}");
    let made = |world: &mut World| {
        let keeper = world.keeper();
        world.rooms.values().filter(|room| room.creator == keeper).count()
    };
    assert_eq!(stage.sim.with(made), 1);
    assert!(stage.sim.with(|world| world.made_rooms()).is_empty(), "it is left");
}

#[tokio::test]
async fn an_invitee_whose_server_swallows_everything_keeps_nobody_waiting() {
    let (stage, space) =
        in_a_space_with(json!({ "homeserver": { "request_timeout": "1s" } })).await;
    for fault in [Fault::Hang, Fault::Nothing, Fault::Hang] {
        stage.sim.fault("invite", fault, 1);
    }
    let arguments = wishes(&space);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, _, err) = stage.keeper.room_command("create", &arguments).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("@alice:localhost could not be invited"), "{err}");
    let room = the_room_id(&stage);
    let bob = stage.sim.with(|world| world.room(&room).membership("@bob:localhost").to_owned());
    assert_eq!(bob, "invite");
    assert_eq!(stage.sim.requests("invite"), 3);
}

#[tokio::test]
async fn a_room_that_the_homeserver_makes_for_a_cancelled_order_is_left() {
    let (stage, space) = in_a_space().await;
    stage.sim.hold("createRoom");
    let out = order(&stage, &wishes(&space), &["--no-wait", "--json"]).await;
    let order: Value = serde_json::from_str(&out).unwrap();
    let asked = |world: &mut World| world.requests.to("createRoom").count() > 0;
    stage.sim.wait_for("the room is about to be made", asked).await;
    let (code, told, err) =
        stage.keeper.room_command("cancel", &[order["id"].as_str().unwrap()]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(told.contains("the keeper leaves it"), "{told}");
    stage.sim.release("createRoom");
    let left = |world: &mut World| {
        let keeper = world.keeper();
        let mut made = world.rooms.values().filter(|room| room.creator == keeper);
        made.next().is_some_and(|room| room.membership(&keeper) == "leave")
    };
    stage.sim.wait_for("what was made is left", left).await;
}

#[tokio::test]
async fn a_picture_goes_up_as_ciphertext() {
    let (stage, _) = in_a_space().await;
    let path = stage.keeper.folder().join("cat.png");
    let picture = b"\x89PNG\r\n\x1a\n a picture of a cat";
    std::fs::write(&path, picture).unwrap();
    let arguments = ["--avatar", path.to_str().unwrap(), "--admin", "@alice:localhost"];
    let (code, _, err) = stage.keeper.room_command("create", &arguments).await;
    assert_eq!(code, Some(0), "{err}");
    let room_id = the_room_id(&stage);
    let room = RoomRef { sim: stage.sim.clone(), room_id, creator: stage.sim.keeper() };
    let avatar = opens(&stage, &stage.alice_device(), &room, AVATAR).await;
    assert_eq!(avatar["info"]["mimetype"], "image/png");
    let files = stage.sim.with(|world| world.files.clone());
    let file = files.values().next().unwrap();
    assert!(files.len() == 1 && file.len() == picture.len() && file != picture);
    let url = avatar["file"]["url"].as_str().unwrap();
    assert!(files.contains_key(url.rsplit('/').next().unwrap()), "{avatar}");
}

#[tokio::test]
async fn a_space_in_which_the_keeper_has_no_power_is_named_and_the_room_is_made() {
    let (stage, space) = in_a_space().await;
    space.set_power(&stage.sim.keeper(), 0);
    let arguments: Vec<String> = wishes(&space);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, _, err) = stage.keeper.room_command("create", &arguments).await;
    assert_eq!(code, Some(0), "{err}");
    let room = the_room(&stage).await;
    assert!(err.contains(&format!("put m.space.child of {} there", room.room_id)), "{err}");
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_with_the_reason() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let refused = async |arguments: &[&str]| {
        let (code, out, err) = stage.keeper.room_command("create", arguments).await;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        err
    };
    let said = refused(&["--space", &room.room_id]).await;
    assert!(said.contains("is no space that the keeper is in"), "{said}");
    let said = refused(&["--room-version", "13"]).await;
    assert!(said.contains("the homeserver offers 11, 12, 9"), "{said}");
    let (code, ..) = stage.keeper.command("noop", &["on"]);
    assert_eq!(code, Some(0));
    assert!(refused(&["--name", "Garden Club"]).await.contains("noop is on"));
    assert!(stage.sim.with(|world| world.made_rooms()).is_empty());
}

#[tokio::test]
async fn whoever_cannot_be_invited_is_named_and_keeps_nobody_waiting() {
    let (stage, space) = in_a_space().await;
    stage.sim.fault("invite", Fault::Status(502), 3);
    let arguments = wishes(&space);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["--json"]).collect();
    let (code, out, _) = stage.keeper.room_command("create", &arguments).await;
    assert_eq!(code, Some(0));
    let last: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(last["step"], json!("done"));
    let note = last["notes"][0].as_str().unwrap();
    assert!(note.starts_with("@alice:localhost could not be invited"), "{note}");
    let room_id = the_room_id(&stage);
    let bob = stage.sim.with(|world| world.room(&room_id).membership("@bob:localhost").to_owned());
    assert_eq!(bob, "invite");
}

#[tokio::test]
async fn a_homeserver_that_lets_nobody_make_rooms_is_quoted_and_asked_once() {
    let (stage, space) = in_a_space().await;
    stage.sim.fault("createRoom", Fault::Status(403), 1);
    let arguments = wishes(&space);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, out, err) = stage.keeper.room_command("create", &arguments).await;
    assert_eq!(code, Some(1), "{out}");
    assert!(err.contains("refused create_room with 403"), "{err}");
    assert_eq!(stage.sim.requests("createRoom"), 1);
}

#[tokio::test]
async fn an_order_that_is_cancelled_stops_where_it_is_for_good() {
    let (mut stage, space) = in_a_space().await;
    stage.sim.hold("invite");
    let out = order(&stage, &wishes(&space), &["--no-wait", "--json"]).await;
    let order: Value = serde_json::from_str(&out).unwrap();
    let id = order["id"].as_str().unwrap();
    let asked = |world: &mut World| world.requests.to("invite").count() > 0;
    stage.sim.wait_for("the first is about to be invited", asked).await;
    let (code, told, err) = stage.keeper.room_command("cancel", &[id]).await;
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(told, format!("cancelled; {} stays as it is\n", the_room_id(&stage)));
    stage.sim.release("invite");
    // The running keeper stops there: what is done in another room after it shows that nothing more came.
    stage.named_room("Coffee").await;
    let room = the_room_id(&stage);
    let bob = |world: &mut World| world.room(&room).membership("@bob:localhost").to_owned();
    assert_eq!(stage.sim.with(bob), "leave");
    stage.keeper.kill();
    stage.keeper.start().await;
    let (_, out, _) = stage.keeper.room_command("progress", &["--json"]).await;
    let row: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&row["step"], &row["notes"][0]), (&json!("failed"), &json!("it was cancelled")));
    let (code, _, err) = stage.keeper.room_command("cancel", &[id]).await;
    assert!(code == Some(1) && err.contains("no such order is being carried out"), "{err}");
    // What is done in another room shows that nothing more came here.
    stage.named_room("Tea").await;
    assert_eq!(stage.sim.with(bob), "leave", "he is the second who was to be invited");
}
