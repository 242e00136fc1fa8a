//! `statekeeper ledger`: the real binary on a real store.

use ruma::{RoomId, UserId, device_id, owned_device_id, room_id, user_id};
use secrecy::SecretString;
use serde_json::Value;
use statekeeper::{
    state::StateTuple,
    store::{NewGrant, Refusal, Store, ledger},
};

use super::{CONFIG, Said, Site};

const PASSPHRASE: &str = "a long random line";
const JANUARY: i64 = 1_767_225_600_000;
const DAY: i64 = 86_400_000;
const POLICY: &str = "devices=cross_signed invitees=aesthetic";
/// What stands in the store's rows of sessions, in plain: nothing of it is ever printed.
const SECRET: &str = "AgAAAABsecretsecretsecretsecretsecret";
const FIELDS: [&str; 14] = [
    "count",
    "device_id",
    "event_id",
    "event_type",
    "last_time",
    "message_index",
    "outcome",
    "policy",
    "reason",
    "room_id",
    "session_id",
    "state_key",
    "time",
    "user_id",
];

fn bob() -> &'static UserId {
    user_id!("@bob:localhost")
}

fn carol() -> &'static UserId {
    user_id!("@carol:localhost")
}

fn hall() -> &'static RoomId {
    room_id!("!hall:localhost")
}

fn attic() -> &'static RoomId {
    room_id!("!attic:localhost")
}

fn key(session_id: &str, to: &UserId) -> NewGrant {
    NewGrant {
        session_id: session_id.to_owned(),
        user_id: to.to_owned(),
        device_id: owned_device_id!("PHONE"),
        message_index: 3,
        reason: "join",
        again: false,
        preview: false,
        tuple: StateTuple::new("m.room.name", ""),
        policy: POLICY.to_owned(),
    }
}

async fn open(site: &Site) -> Store {
    let passphrase = SecretString::from(PASSPHRASE);
    Store::open(&site.path("data/statekeeper.db"), &passphrase).await.unwrap()
}

/// One row of each outcome: the first on the first of January 2026, and one on each day after it.
async fn one_of_each(store: &Store) {
    let mut db = store.begin().await.unwrap();
    let day = |number: i64| JANUARY + number * DAY;
    let phone = device_id!("PHONE");
    for (number, (session, room, user)) in [
        ("delivered", hall(), bob()),
        ("unknown", hall(), bob()),
        ("refused", hall(), carol()),
        ("withdrawn", attic(), carol()),
    ]
    .into_iter()
    .enumerate()
    {
        let at = day(i64::try_from(number).unwrap());
        ledger::grant(store, &mut db, room, &[key(session, user)], at).await.unwrap();
    }
    let took = [(bob().to_owned(), phone.to_owned())];
    ledger::delivered(store, &mut db, "delivered", &took, day(0) + 40, 1).await.unwrap();
    ledger::withdraw(store, &mut db, "refused", (carol(), phone), day(2) + 40).await.unwrap();
    ledger::withdraw_unsent(store, &mut db, attic(), day(3) + 40).await.unwrap();
    let unsigned = Refusal {
        holder: (bob(), device_id!("UNSIGNED")),
        session_id: "",
        outcome: "withheld:m.unverified",
        policy: POLICY,
    };
    for at in [day(4), day(4) + 1_000, day(4) + 61_000] {
        ledger::refuse(store, &mut db, hall(), unsigned, at).await.unwrap();
    }
    let held = Refusal {
        holder: (bob(), phone),
        session_id: "delivered",
        outcome: "held",
        policy: POLICY,
    };
    ledger::refuse(store, &mut db, hall(), held, day(5)).await.unwrap();
    let locked = store.lock(&SECRET).unwrap();
    sqlx::query(
        "INSERT INTO sessions (session_id, room_id, event_type, state_key, pickle, created_at) \
         VALUES ('delivered', '!hall:localhost', '', '', ?, 1)",
    )
    .bind(locked)
    .execute(&mut *db)
    .await
    .unwrap();
    db.commit().await.unwrap();
}

async fn filled() -> Site {
    let site = Site::new(CONFIG);
    let store = open(&site).await;
    one_of_each(&store).await;
    store.close().await;
    site
}

fn ask(site: &Site, more: &[&str]) -> Said {
    let said = site.run(&[&["ledger", "--config", "config.yaml"], more].concat(), &[]);
    for secret in [SECRET, PASSPHRASE] {
        assert!(!said.out.contains(secret) && !said.err.contains(secret), "{said:?}");
    }
    said
}

/// The rows that are printed with these arguments.
fn rows(site: &Site, more: &[&str]) -> Vec<Value> {
    let said = ask(site, &[more, &["--json"]].concat());
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn each<'a>(rows: &'a [Value], field: &str) -> Vec<&'a str> {
    rows.iter().map(|row| row[field].as_str().unwrap()).collect()
}

#[tokio::test]
async fn every_outcome_is_told_with_who_what_when_and_why() {
    let site = filled().await;
    let rows = rows(&site, &[]);
    assert_eq!(
        each(&rows, "outcome"),
        [
            "delivered",
            "delivery_unknown",
            "refused_by_homeserver",
            "withdrawn",
            "withheld:m.unverified",
            "held",
        ]
    );
    for row in &rows {
        // Exactly these: a script relies on them, and there is no place for a key.
        let mut fields: Vec<_> = row.as_object().unwrap().keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, FIELDS);
    }
    let delivered = serde_json::json!({
        "time": "2026-01-01T00:00:00.000Z", "last_time": "2026-01-01T00:00:00.040Z",
        "outcome": "delivered", "count": null, "reason": "join",
        "user_id": "@bob:localhost", "device_id": "PHONE", "room_id": "!hall:localhost",
        "event_type": "m.room.name", "state_key": "", "message_index": 3,
        "session_id": "delivered", "policy": POLICY, "event_id": null,
    });
    assert_eq!(rows[0], delivered);
    let refusal = &rows[4];
    assert_eq!((&refusal["count"], &refusal["session_id"]), (&3.into(), &Value::Null));
    assert_eq!(refusal["last_time"], "2026-01-05T00:01:01.000Z");
    assert_eq!(refusal["device_id"], "UNSIGNED");
}

#[tokio::test]
async fn the_table_says_the_same_to_people() {
    let site = filled().await;
    let said = ask(&site, &[]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    let lines: Vec<_> = said.out.lines().collect();
    assert_eq!(lines.len(), 7, "{said:?}");
    let words = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
    assert_eq!(
        words(0),
        [
            "TIME", "OUTCOME", "COUNT", "REASON", "USER", "DEVICE", "ROOM", "TUPLE", "INDEX",
            "SESSION", "POLICY"
        ]
    );
    assert_eq!(
        words(2),
        [
            "2026-01-02T00:00:00Z",
            "delivery_unknown",
            "-",
            "join",
            "@bob:localhost",
            "PHONE",
            "!hall:localhost",
            "m.room.name",
            "3",
            "unknown",
            "devices=cross_signed",
            "invitees=aesthetic"
        ]
    );
    assert!(lines[5].starts_with("2026-01-05T00:00:00Z..2026-01-05T00:01:01Z  "), "{said:?}");
    let column = lines[0].find("ROOM").unwrap();
    assert!(lines[1..].iter().all(|line| line[column..].starts_with('!')), "{said:?}");
}

#[tokio::test]
async fn rows_are_chosen_by_room_user_and_time() {
    let site = filled().await;
    let sessions = |more: &[&str]| {
        let rows = rows(&site, more);
        rows.iter()
            .map(|row| row["session_id"].as_str().unwrap_or("").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(sessions(&["--user", "@carol:localhost"]), ["refused", "withdrawn"]);
    assert_eq!(sessions(&["--room", "!attic:localhost"]), ["withdrawn"]);
    let both = ["--room", "!hall:localhost", "--user", "@carol:localhost"];
    assert_eq!(sessions(&both), ["refused"]);
    let bobs = ["delivered", "unknown", "", "delivered"];
    assert_eq!(sessions(&["--user", "@bob:localhost"]), bobs);
    for (since, left) in [
        ("2025-12-31", 6),
        ("2026-01-02", 5),
        ("2026-01-05T00:01:00Z", 2),
        ("2026-01-05T01:01:00+01:00", 2),
        ("2026-01-06T00:00:00.001Z", 0),
        ("100000d", 6),
    ] {
        let said = ask(&site, &["--since", since, "--json"]);
        assert_eq!((said.code, said.out.lines().count()), (0, left), "{since}: {said:?}");
    }
    assert_eq!(sessions(&["--limit", "2"]), ["", "delivered"]);
    let newest = ["--user", "@bob:localhost", "--limit", "3"];
    assert_eq!(sessions(&newest), ["unknown", "", "delivered"]);
}

#[tokio::test]
async fn somebody_unknown_is_no_error_and_no_rows() {
    let site = filled().await;
    for more in [["--user", "@nobody:localhost"], ["--room", "!nowhere:localhost"]] {
        for json in [&[][..], &["--json"]] {
            let said = ask(&site, &[&more[..], json].concat());
            assert_eq!((said.code, said.out.as_str()), (0, ""), "{said:?}");
            let expected = format!("warning: {}: the ledger has never heard of it\n", more[1]);
            assert_eq!(said.err, expected);
        }
    }
    let said = ask(&site, &["--user", "@carol:localhost", "--since", "1ms"]);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "{said:?}");
    assert_eq!(said.err, "warning: the ledger has no such rows\n");
}

#[tokio::test]
async fn a_wrong_question_is_answered_with_what_may_be_asked() {
    let site = filled().await;
    for since in ["yesterday", "7", "2026-02-30", "2026-01-31T09:30:00", ""] {
        let said = ask(&site, &["--since", since]);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{said:?}");
        for allowed in ["--since", "2026-01-31T09:30:00Z", "7d", "12h", "ms, s, m, h, d"] {
            assert!(said.err.contains(allowed), "{allowed}: {said:?}");
        }
    }
    for wrong in [["--user", "bob"], ["--room", "@bob:localhost"], ["--limit", "many"]] {
        let said = ask(&site, &wrong);
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.err.contains(wrong[0]), "{said:?}");
    }
}

#[tokio::test]
async fn a_ledger_that_cannot_be_opened_is_said_so() {
    let site = Site::new(CONFIG);
    let said = ask(&site, &[]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("there is no store yet"), "{said:?}");
    let store = open(&site).await;
    let said = ask(&site, &[]);
    assert_eq!((said.code, said.err.as_str()), (0, "warning: the ledger has no such rows\n"));
    store.close().await;
    std::fs::write(site.path("data/passphrase"), "another line\n").unwrap();
    let said = ask(&site, &[]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("the passphrase does not open the store"), "{said:?}");
}

#[tokio::test]
async fn the_ledger_is_read_beside_an_open_store() {
    let site = Site::new(CONFIG);
    let store = open(&site).await;
    one_of_each(&store).await;
    let mut db = store.begin().await.unwrap();
    ledger::grant(&store, &mut db, hall(), &[key("uncommitted", bob())], JANUARY).await.unwrap();
    assert_eq!(rows(&site, &[]).len(), 6);
    db.commit().await.unwrap();
    assert_eq!(rows(&site, &[]).len(), 7);
}
