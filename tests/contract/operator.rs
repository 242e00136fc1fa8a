//! The operator's commands where no keeper runs: the real binary on a real store.

use ruma::{room_id, user_id};
use secrecy::SecretString;
use serde_json::{Value, json};
use statekeeper::{
    policy::HoldReason,
    state::Membership,
    store::{MemberRow, RoomRow, Store, people, rooms},
};

use super::{CONFIG, Said, Site};

/// A store with a room that Bob is held in.
async fn site() -> Site {
    let site = Site::new(CONFIG);
    let passphrase = SecretString::from("a long random line");
    let store = Store::open(&site.path("data/statekeeper.db"), &passphrase).await.unwrap();
    let (room, bob) = (room_id!("!hall:localhost"), user_id!("@bob:localhost"));
    let mut db = store.begin().await.unwrap();
    let kept = RoomRow {
        loaded: true,
        encrypted: true,
        flagged: true,
        state_encrypted: true,
        elevated: true,
        ..RoomRow::new(room.to_owned(), Membership::Join)
    };
    rooms::put(&mut db, &kept).await.unwrap();
    let member = MemberRow {
        user_id: bob.to_owned(),
        membership: Membership::Join,
        since: 1,
        arrived_at: 1,
        tick: 1,
        inviter: None,
    };
    rooms::put_member(&mut db, room, &member).await.unwrap();
    people::hold(&mut db, room, bob, HoldReason::AwaitsApproval, 7).await.unwrap();
    db.commit().await.unwrap();
    store.close().await;
    site
}

fn ask(site: &Site, verb: &str, more: &[&str]) -> Said {
    site.run(&[&[verb, "--config", "config.yaml"], more].concat(), &[])
}

fn told(site: &Site, verb: &str, more: &[&str]) -> String {
    let said = ask(site, verb, more);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    said.out
}

#[tokio::test]
async fn rooms_and_holds_are_told_from_the_store_for_people_and_for_scripts() {
    let site = site().await;
    let rooms: Value = serde_json::from_str(&told(&site, "rooms", &["--json"])).unwrap();
    assert_eq!(
        rooms,
        json!([{
            "room_id": "!hall:localhost", "alias": null, "status": "kept", "joined": 1, "held": 1,
            "values": 0, "sealed": 0, "undecryptable": 0, "lost": 0, "public_pictures": 0, "promises": 0, "due_at": null,
        }])
    );
    let table = told(&site, "rooms", &[]);
    let lines: Vec<_> =
        table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[1], ["!hall:localhost", "kept", "1", "0/0", "0", "1", "0", "-"]);
    let holds: Value = serde_json::from_str(&told(&site, "holds", &["--json"])).unwrap();
    let bob = json!({
        "room_id": "!hall:localhost", "user_id": "@bob:localhost", "since": 7,
        "reason": "awaits_approval",
    });
    assert_eq!(holds, json!([bob]));
    assert_eq!(told(&site, "holds", &[]), "!hall:localhost @bob:localhost awaits_approval\n");
    let room: Value =
        serde_json::from_str(&told(&site, "room", &["!hall:localhost", "--json"])).unwrap();
    assert_eq!((&room["holds"], &room["elevated"]), (&json!([bob]), &json!(true)));
    let lines = told(&site, "room", &["!hall:localhost"]);
    assert!(lines.starts_with("room       !hall:localhost (version 1)\n"), "{lines}");
}

#[tokio::test]
async fn what_needs_a_running_keeper_says_so_and_where_it_was_looked_for() {
    let site = site().await;
    for (verb, more) in [
        ("status", vec![]),
        ("why", vec!["@bob:localhost", "!hall:localhost"]),
        ("noop", vec!["on"]),
    ] {
        let said = ask(&site, verb, &more);
        let socket = site.path("data/statekeeper.sock").display().to_string();
        said.mistakes(&[&format!("{socket}: no keeper answers (")]);
    }
}

#[tokio::test]
async fn a_command_is_carried_out_on_the_store_and_stands_in_the_ledger() {
    let site = site().await;
    let (room, bob) = ("!hall:localhost", "@bob:localhost");
    let approved = format!("approved {bob} in {room}, until they leave\n");
    assert_eq!(told(&site, "approve", &[room, bob]), approved);
    let shared = format!("the entitled devices of {bob} are given the keys of {room} once more\n");
    assert_eq!(told(&site, "share", &[bob, room]), shared);
    assert_eq!(told(&site, "refresh", &[room]), format!("{room}: nothing is sealed there yet\n"));
    ask(&site, "rotate", &["!other:localhost"])
        .mistakes(&["!other:localhost: the keeper is in no"]);
    let lines = told(&site, "ledger", &["--commands", "--json"]);
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told_of = |field: &str| -> Vec<String> {
        rows.iter().map(|row| row[field].as_str().unwrap_or("-").to_owned()).collect()
    };
    assert_eq!(told_of("verb"), ["approve", "share", "refresh", "rotate"]);
    assert_eq!(told_of("outcome"), ["done", "done", "done", "refused:unknown_room"]);
    assert_eq!(told_of("user_id"), [bob, bob, "-", "-"]);
    let some = told(&site, "ledger", &["--commands", "--user", bob, "--limit", "1", "--json"]);
    assert_eq!(some.lines().count(), 1);
    assert!(some.contains("\"share\""), "{some}");
    let table = told(&site, "ledger", &["--commands"]);
    assert_eq!(table.lines().count(), 5, "{table}");
}

#[test]
fn a_socket_whose_path_the_system_would_refuse_is_a_mistake() {
    let long = "a".repeat(120);
    let site = Site::complete(&CONFIG.replace(
        "admin:      { listen: \"127.0.0.1:29331\" }",
        &format!("admin: {{ listen: \"127.0.0.1:29331\", socket: \"/run/{long}.sock\" }}"),
    ));
    site.check().mistakes(&[&format!("config.yaml: admin.socket: /run/{long}.sock has 130 bytes")]);
}
