//! The history as it is read, on a real file with more rows than a page has.

use std::path::PathBuf;

use ruma::{OwnedUserId, owned_room_id, owned_user_id};
use secrecy::SecretString;

use super::*;
use crate::{
    state::StateTuple,
    store::{Beside, NewGrant, NotBeside, Store, ledger},
};

const USERS: i64 = 7;
const ROOMS: i64 = 3;
/// Rows, of which number `n` is of time `n`, of user `n % USERS` and of room `n % ROOMS`.
const ROWS: i64 = 2_500;

struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    async fn filled() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        let store = Store::open(&site.path(), &SecretString::from("right")).await.unwrap();
        let mut db = store.begin().await.unwrap();
        for number in 0..ROWS {
            let grant = NewGrant {
                session_id: format!("session{number}"),
                user_id: user(number),
                device_id: "PHONE".into(),
                message_index: 3,
                reason: "join",
                again: false,
                preview: false,
                tuple: StateTuple::new("org.example.hidden", "a key with spaces"),
                policy: "devices=cross_signed".to_owned(),
            };
            ledger::grant(&store, &mut db, &room(number), &[grant], number).await.unwrap();
        }
        db.commit().await.unwrap();
        store.close().await;
        site
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("keeper.db")
    }

    /// The times of the rows that a filter lets through.
    async fn times(&self, filter: HistoryFilter) -> Vec<i64> {
        let mut beside = Beside::open(&self.path()).await.unwrap();
        let right = SecretString::from("right");
        let mut history = beside.history(&right, &filter).await.unwrap();
        let mut times = Vec::new();
        loop {
            let page = history.next_page().await.unwrap();
            if page.is_empty() {
                break;
            }
            assert!(page.len() as u64 <= PAGE);
            times.extend(page.iter().map(|row| row.at));
        }
        beside.close().await.unwrap();
        times
    }
}

fn user(number: i64) -> OwnedUserId {
    format!("@user{}:localhost", number % USERS).try_into().unwrap()
}

fn room(number: i64) -> OwnedRoomId {
    format!("!room{}:localhost", number % ROOMS).try_into().unwrap()
}

#[tokio::test]
async fn a_filter_lets_through_what_meets_all_of_it_the_newest_last() {
    let site = Site::filled().await;
    let all: Vec<i64> = (0..ROWS).collect();
    assert_eq!(site.times(HistoryFilter::default()).await, all);
    for chosen_user in [None, Some(2)] {
        for chosen_room in [None, Some(1)] {
            for since in [None, Some(0), Some(2_000), Some(ROWS)] {
                for newest in [None, Some(0), Some(1), Some(5), Some(1_500), Some(10_000)] {
                    let filter = HistoryFilter {
                        room: chosen_room.map(room),
                        user: chosen_user.map(user),
                        since,
                        newest,
                        ..HistoryFilter::default()
                    };
                    let mut expected = all.clone();
                    expected.retain(|number| {
                        chosen_user.is_none_or(|user| number % USERS == user)
                            && chosen_room.is_none_or(|room| number % ROOMS == room)
                            && since.is_none_or(|since| *number >= since)
                    });
                    let newest = newest.map_or(usize::MAX, |newest| newest as usize);
                    expected.drain(..expected.len().saturating_sub(newest));
                    assert_eq!(site.times(filter.clone()).await, expected, "{filter:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn pages_go_back_from_the_newest_and_leave_nothing_out() {
    let site = Site::filled().await;
    let store = Store::open(&site.path(), &SecretString::from("right")).await.unwrap();
    let db = &mut *store.read().await.unwrap();
    for chosen in [None, Some(room(1))] {
        let mut seen = Vec::new();
        let mut before = None;
        loop {
            let filter = HistoryFilter {
                room: chosen.clone(),
                newest: Some(400),
                before,
                ..HistoryFilter::default()
            };
            let rows = newest(&store, db, &filter).await.unwrap();
            let Some(last) = rows.last() else { break };
            before = Some(last.id);
            seen.extend(rows.iter().map(|row| row.at));
        }
        let mut expected: Vec<i64> = (0..ROWS).rev().collect();
        expected.retain(|number| chosen.is_none() || number % ROOMS == 1);
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn rows_are_told_apart_by_what_became_of_the_key() {
    let site = Site::filled().await;
    let store = Store::open(&site.path(), &SecretString::from("right")).await.unwrap();
    let mut db = store.begin().await.unwrap();
    let phone = ruma::OwnedDeviceId::from("PHONE");
    for outcome in ["withheld:m.unverified", "held"] {
        let asked = user(1);
        let holder = (&*asked, &*phone);
        let refusal = ledger::Refusal { holder, session_id: "", outcome, policy: "p" };
        ledger::refuse(&store, &mut db, &room(1), refusal, ROWS).await.unwrap();
    }
    db.commit().await.unwrap();
    let db = &mut *store.read().await.unwrap();
    for (outcome, count) in [
        (OutcomeKind::Given, 1_000),
        (OutcomeKind::Refused, 1),
        (OutcomeKind::Held, 1),
        (OutcomeKind::Violation, 0),
    ] {
        let filter = HistoryFilter { outcome: Some(outcome), ..HistoryFilter::default() };
        let rows = newest(&store, db, &filter).await.unwrap();
        assert_eq!(rows.len(), count, "{outcome:?}");
        assert!(rows.iter().all(|row| outcome != OutcomeKind::Held || row.outcome == "held"));
    }
}

/// How SQLite goes about a query.
async fn plan(db: &mut SqliteConnection, query: QueryBuilder<Sqlite>) -> String {
    let explained = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {}", query.sql().as_str()));
    let rows: Vec<(i64, i64, i64, String)> = sqlx::query_as(explained).fetch_all(db).await.unwrap();
    rows.into_iter().map(|(_, _, _, step)| step).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn what_was_not_given_is_found_without_a_look_at_what_was() {
    let site = Site::filled().await;
    let store = Store::open(&site.path(), &SecretString::from("right")).await.unwrap();
    let db = &mut *store.read().await.unwrap();
    for outcome in OutcomeKind::ALL {
        for (room, user) in [(None, None), (Some(1), None), (None, Some(1)), (Some(1), Some(1))] {
            let chosen = Chosen { room, user, outcome: Some(outcome), ..Chosen::default() };
            for query in [chosen.page(0, 50), chosen.nth_newest(0, 49)] {
                let plan = plan(db, query).await;
                let expected = match (outcome, room, user) {
                    (_, _, Some(_)) => "ledger_by_user",
                    (OutcomeKind::Given, None, None) => "PRIMARY KEY",
                    (OutcomeKind::Given, Some(_), None) => "ledger_by_room",
                    _ => "ledger_not_given",
                };
                assert!(plan.contains(expected), "{outcome:?} {room:?} {user:?}: {plan}");
            }
        }
    }
}

#[tokio::test]
async fn a_row_that_changed_since_is_shown_however_old_it_is() {
    let site = Site::filled().await;
    let store = Store::open(&site.path(), &SecretString::from("right")).await.unwrap();
    let mut db = store.begin().await.unwrap();
    let holders = [(user(4), "PHONE".into())];
    ledger::delivered(&store, &mut db, "session4", &holders, 9_000, 1).await.unwrap();
    db.commit().await.unwrap();
    store.close().await;
    let since = HistoryFilter { since: Some(ROWS - 2), ..HistoryFilter::default() };
    assert_eq!(site.times(since).await, [4, ROWS - 2, ROWS - 1]);
}

#[tokio::test]
async fn who_is_not_in_the_ledger_is_named() {
    let site = Site::filled().await;
    let mut beside = Beside::open(&site.path()).await.unwrap();
    let filter = HistoryFilter {
        room: Some(owned_room_id!("!nowhere:localhost")),
        user: Some(owned_user_id!("@nobody:localhost")),
        ..HistoryFilter::default()
    };
    let right = SecretString::from("right");
    let mut history = beside.history(&right, &filter).await.unwrap();
    assert_eq!(history.unknown(), ["!nowhere:localhost", "@nobody:localhost"]);
    assert!(history.next_page().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_row_says_is_what_was_written() {
    let site = Site::filled().await;
    let mut beside = Beside::open(&site.path()).await.unwrap();
    let right = SecretString::from("right");
    let filter = HistoryFilter { newest: Some(1), ..HistoryFilter::default() };
    let mut history = beside.history(&right, &filter).await.unwrap();
    let last = ROWS - 1;
    let expected = HistoryRow {
        id: ROWS,
        at: last,
        last_at: last,
        room_id: room(last).as_str().into(),
        user_id: user(last).as_str().into(),
        device_id: "PHONE".into(),
        session_id: Some(format!("session{last}")),
        message_index: Some(3),
        tuple: Some(("org.example.hidden".to_owned(), "a key with spaces".to_owned())),
        reason: "join".to_owned(),
        policy: Some("devices=cross_signed".into()),
        outcome: "delivery_unknown".to_owned(),
        count: None,
        event_id: None,
    };
    assert_eq!(history.next_page().await.unwrap(), [expected]);
}

#[tokio::test]
async fn without_the_passphrase_nothing_is_told_and_reading_changes_nothing() {
    let site = Site::filled().await;
    let mut beside = Beside::open(&site.path()).await.unwrap();
    let (wrong, right) = (SecretString::from("wrong"), SecretString::from("right"));
    let filter = HistoryFilter::default();
    let refused = beside.history(&wrong, &filter).await;
    assert!(matches!(refused, Err(NotBeside::Store(StoreError::WrongPassphrase))));
    let history = beside.history(&right, &filter).await.unwrap();
    let changed = sqlx::query("DELETE FROM ledger").execute(&mut *history.connection).await;
    assert!(changed.is_err());
}

#[tokio::test]
async fn what_is_read_slowly_keeps_nobody_from_writing_and_pruning() {
    let site = Site::filled().await;
    let mut beside = Beside::open(&site.path()).await.unwrap();
    let right = SecretString::from("right");
    let mut history = beside.history(&right, &HistoryFilter::default()).await.unwrap();
    assert_eq!(history.next_page().await.unwrap().len() as u64, PAGE);
    let store = Store::open(&site.path(), &SecretString::from("right")).await.unwrap();
    let mut db = store.begin().await.unwrap();
    ledger::prune(&mut db, 2_400, 10_000).await.unwrap();
    db.commit().await.unwrap();
    // All of the log goes back into the database: no reader holds it.
    let (busy, _, _): (i64, i64, i64) =
        sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&store.writer).await.unwrap();
    assert_eq!(busy, 0);
    assert_eq!(history.next_page().await.unwrap().len(), 100);
    assert!(history.next_page().await.unwrap().is_empty());
}
