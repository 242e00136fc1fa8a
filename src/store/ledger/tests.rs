//! What the ledger promises, on real files.

use ruma::{device_id, owned_user_id, room_id, user_id};
use secrecy::SecretString;

use super::*;

const POLICY: &str = "devices=cross_signed invitees=aesthetic";

async fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(&folder.path().join("keeper.db"), &SecretString::from("right")).await.unwrap()
}

fn room() -> &'static RoomId {
    room_id!("!secretroom:localhost")
}

fn bob() -> (&'static UserId, &'static DeviceId) {
    (user_id!("@bob:localhost"), device_id!("BOBSPHONE"))
}

fn to_bob(session_id: &str) -> NewGrant {
    NewGrant {
        session_id: session_id.to_owned(),
        user_id: owned_user_id!("@bob:localhost"),
        device_id: "BOBSPHONE".into(),
        message_index: 3,
        reason: "join",
        again: false,
        preview: false,
        tuple: StateTuple::new("org.example.hidden", "a key"),
        policy: POLICY.to_owned(),
    }
}

fn refused<'a>(holder: (&'a UserId, &'a DeviceId), outcome: &'a str) -> Refusal<'a> {
    Refusal { holder, session_id: "", outcome, policy: POLICY }
}

/// The outcome and count of every row of the history, oldest first.
async fn history(store: &Store) -> Vec<(String, Option<i64>)> {
    sqlx::query_as("SELECT outcome, count FROM ledger ORDER BY id")
        .fetch_all(&mut *store.read().await.unwrap())
        .await
        .unwrap()
}

async fn give(store: &Store, session_id: &str, now: i64) {
    let mut db = store.begin().await.unwrap();
    grant(store, &mut db, room(), &[to_bob(session_id)], now).await.unwrap();
    db.commit().await.unwrap();
}

async fn held(store: &Store) -> Vec<GrantRow> {
    of_room(store, &mut store.read().await.unwrap(), room(), None).await.unwrap()
}

#[tokio::test]
async fn a_grant_is_of_unknown_delivery_until_the_homeserver_says_what_it_did() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    for session in ["taken", "refused", "unknown"] {
        give(&store, session, 1).await;
    }
    let mut db = store.begin().await.unwrap();
    let (user, device) = bob();
    let stranger = (owned_user_id!("@carol:localhost"), "CAROLS".into());
    let took = [stranger, (user.to_owned(), device.to_owned())];
    delivered(&store, &mut db, "taken", &took, 2, 7).await.unwrap();
    withdraw(&store, &mut db, "refused", bob(), 2).await.unwrap();
    db.commit().await.unwrap();
    let outcomes: Vec<String> = history(&store).await.into_iter().map(|(what, _)| what).collect();
    assert_eq!(outcomes, ["delivered", "refused_by_homeserver", "granted"]);
    let mut held: Vec<_> = held(&store)
        .await
        .into_iter()
        .map(|row| (row.session_id, row.user_id, row.device_id, row.grant.sent_tick))
        .collect();
    held.sort();
    let row = |session: &str, tick| (session.to_owned(), user.to_owned(), device.to_owned(), tick);
    assert_eq!(held, [row("taken", Some(7)), row("unknown", None)]);
}

#[tokio::test]
async fn a_grant_of_a_room_that_was_left_is_withdrawn_unless_its_key_arrived_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    for session in ["taken", "unsent", "on its way"] {
        give(&store, session, 1).await;
    }
    let mut db = store.begin().await.unwrap();
    let took = [(bob().0.to_owned(), bob().1.to_owned())];
    delivered(&store, &mut db, "taken", &took, 2, 7).await.unwrap();
    let other = room_id!("!other:localhost");
    grant(&store, &mut db, other, &[to_bob("elsewhere")], 3).await.unwrap();
    withdraw_unsent(&store, &mut db, room(), 4).await.unwrap();
    db.commit().await.unwrap();
    let outcomes = async || -> Vec<String> {
        history(&store).await.into_iter().map(|(outcome, _)| outcome).collect()
    };
    assert_eq!(outcomes().await, ["delivered", "withdrawn", "withdrawn", "granted"]);
    let held: Vec<_> = held(&store).await.into_iter().map(|row| row.session_id).collect();
    assert_eq!(held, ["taken"]);
    // The answer to a request that was under way when the keeper left comes in after that.
    let mut db = store.begin().await.unwrap();
    delivered(&store, &mut db, "on its way", &took, 5, 8).await.unwrap();
    db.commit().await.unwrap();
    assert_eq!(outcomes().await, ["delivered", "withdrawn", "delivered", "granted"]);
}

#[tokio::test]
async fn a_refusal_is_one_counted_row() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let mut db = store.begin().await.unwrap();
    for (now, first) in [(1, true), (2, false), (3, false)] {
        let noted = refuse(&store, &mut db, room(), refused(bob(), "withheld:m.unverified"), now)
            .await
            .unwrap();
        assert_eq!(noted, first);
    }
    assert!(
        refuse(&store, &mut db, room(), refused(bob(), "withheld:m.blacklisted"), 4).await.unwrap()
    );
    db.commit().await.unwrap();
    let expected = [("withheld:m.unverified", 3), ("withheld:m.blacklisted", 1)];
    let expected = expected.map(|(outcome, count)| (outcome.to_owned(), Some(count)));
    assert_eq!(history(&store).await, expected);
}

#[tokio::test]
async fn history_is_pruned_in_steps_and_who_holds_what_never() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    for (session, now) in [("one", 1), ("two", 2), ("three", 3), ("new", 100)] {
        give(&store, session, now).await;
    }
    let mut db = store.begin().await.unwrap();
    assert_eq!(prune(&mut db, 100, 2).await.unwrap(), 2);
    assert_eq!(prune(&mut db, 100, 2).await.unwrap(), 1);
    assert_eq!(prune(&mut db, 100, 2).await.unwrap(), 0);
    db.commit().await.unwrap();
    assert_eq!(history(&store).await.len(), 1);
    assert_eq!(held(&store).await.len(), 4);
}

#[tokio::test]
async fn no_identifier_of_the_ledger_stands_in_the_database_in_plain() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    give(&store, "asession", 1).await;
    let mut db = store.begin().await.unwrap();
    refuse(&store, &mut db, room(), refused(bob(), "withheld:m.unverified"), 2).await.unwrap();
    db.commit().await.unwrap();
    store.close().await;
    let file = std::fs::read(folder.path().join("keeper.db")).unwrap();
    let holds = |text: &str| file.windows(text.len()).any(|window| window == text.as_bytes());
    // Sessions are named, so the rows are in the file and not in a log beside it.
    assert!(holds("asession"));
    for name in ["secretroom", "@bob", "BOBSPHONE", "org.example.hidden", "a key", POLICY] {
        assert!(!holds(name), "{name}");
    }
}

#[tokio::test]
async fn a_number_from_a_transaction_that_was_rolled_back_is_not_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let mut db = store.begin().await.unwrap();
    grant(&store, &mut db, room(), &[to_bob("lost")], 1).await.unwrap();
    of_room(&store, &mut db, room(), None).await.unwrap();
    db.rollback().await.unwrap();
    // Somebody else takes the numbers that Bob's names had.
    let mut db = store.begin().await.unwrap();
    let carol = (user_id!("@carol:localhost"), device_id!("CAROLS"));
    for code in ["m.unverified", "m.blacklisted"] {
        refuse(&store, &mut db, room_id!("!other:localhost"), refused(carol, code), 1)
            .await
            .unwrap();
    }
    db.commit().await.unwrap();
    give(&store, "kept", 2).await;
    // Once more, with numbers that are remembered by now.
    give(&store, "again", 3).await;
    for row in held(&store).await {
        assert_eq!((row.user_id.as_ref(), row.device_id.as_ref()), bob());
    }
    assert_eq!(held(&store).await.len(), 2);
    let user: Vec<(i64,)> = sqlx::query_as("SELECT DISTINCT user FROM ledger")
        .fetch_all(&mut *store.read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(user.len(), 2);
}

#[tokio::test]
async fn what_broke_a_rule_is_counted_by_when_it_was_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder).await;
    let mut db = store.begin().await.unwrap();
    let tuple = StateTuple::new("m.room.name", "");
    for (at, rule) in [(5, "power"), (6, "power"), (7, "exempt"), (9, "power")] {
        let violation = Violation {
            event_id: ruma::event_id!("$bad"),
            sender: bob().0,
            tuple: &tuple,
            rule,
            action: "report",
            policy: "default",
        };
        violated(&store, &mut db, room(), violation, at).await.unwrap();
    }
    refuse(&store, &mut db, room(), refused(bob(), "withheld:m.unverified"), 6).await.unwrap();
    let mut found = found_between(&store, &mut db, (5, 8)).await.unwrap();
    found.sort();
    let (room, bob) = (room().to_string(), bob().0.to_string());
    let told = |rule: &str, count| (room.clone(), bob.clone(), rule.to_owned(), count);
    assert_eq!(found, [told("exempt", 1), told("power", 1)]);
    assert!(found_between(&store, &mut db, (9, 20)).await.unwrap().is_empty());
}
