//! A store of the first version, with rows in every table, brought to today's shape.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::{Column as _, Connection as _, Row as _, SqliteConnection, migrate::Migrator};

use super::*;

const PASSPHRASE: &str = "right";
/// Tables of the first version that its successors dropped.
const DROPPED: [&str; 2] = ["grants", "refusals"];
/// What the keeper and its members were called in the first version's plain rows of who holds what.
const HOLDERS: [&str; 2] = ["OLDBOBSPHONE", "OLDCAROLSPHONE"];

/// The rows of a table, each as its columns in SQL's own notation.
type Rows = Vec<BTreeMap<String, String>>;

async fn connect(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqliteConnection::connect_with(&options.journal_mode(SqliteJournalMode::Wal)).await.unwrap()
}

/// A store as the first version left it: its own migration alone was applied, and each table has rows.
async fn first_version(path: &Path) {
    let mut db = connect(path).await;
    let first = MIGRATIONS.iter().find(|migration| migration.version == 1).unwrap().clone();
    Migrator::with_migrations(vec![first]).run(&mut db).await.unwrap();
    let cipher = StoreCipher::new().unwrap();
    set_meta(&mut db, "ticks", "77").await.unwrap();
    set_meta(&mut db, "since", "s1_2_3").await.unwrap();
    sqlx::query("INSERT INTO meta (key, value) VALUES ('store_cipher', ?)")
        .bind(cipher.export(PASSPHRASE).unwrap())
        .execute(&mut db)
        .await
        .unwrap();
    sqlx::raw_sql(include_str!("first_version.sql")).execute(&mut db).await.unwrap();
    for (sql, value) in [
        ("UPDATE tuples SET content = ?", json!({ "name": "A secret plan" })),
        ("UPDATE tuples SET snapshot = ?", json!("a snapshot")),
        ("UPDATE sessions SET pickle = ?", json!("a pickle")),
        ("UPDATE state_events SET body = ?", json!("a body")),
        ("UPDATE outbox SET detail = ?", json!("a detail")),
    ] {
        let locked = cipher.encrypt_value(&value).unwrap();
        sqlx::query(sql).bind(locked).execute(&mut db).await.unwrap();
    }
    db.close().await.unwrap();
}

/// Every table of the database with all its rows.
async fn dump(db: &mut SqliteConnection) -> BTreeMap<String, Rows> {
    let names: Vec<(String,)> = sqlx::query_as(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' \
         AND name NOT LIKE '\\_sqlx%' ESCAPE '\\'",
    )
    .fetch_all(&mut *db)
    .await
    .unwrap();
    let mut tables = BTreeMap::new();
    for (name,) in names {
        let columns: Vec<(String,)> = sqlx::query_as("SELECT name FROM pragma_table_info(?)")
            .bind(&name)
            .fetch_all(&mut *db)
            .await
            .unwrap();
        let quoted: Vec<_> =
            columns.iter().map(|(column,)| format!("quote({column}) AS {column}")).collect();
        let order = if columns.len() > 1 { "1, 2" } else { "1" };
        let sql = format!("SELECT {} FROM {name} ORDER BY {order}", quoted.join(", "));
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *db).await.unwrap();
        let rows = rows.iter().map(|row| {
            let cell = |column: &sqlx::sqlite::SqliteColumn| {
                (column.name().to_owned(), row.get::<String, _>(column.name()))
            };
            row.columns().iter().map(cell).collect()
        });
        tables.insert(name, rows.collect());
    }
    tables
}

#[tokio::test]
async fn a_store_of_the_first_version_keeps_all_but_who_holds_what() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.db");
    first_version(&path).await;
    let mut db = connect(&path).await;
    let before = dump(&mut db).await;
    assert!(before.values().all(|rows| !rows.is_empty()), "each table is to be tested: {before:?}");
    db.close().await.unwrap();

    let store = open(&folder, PASSPHRASE).await.unwrap();
    let mut db = store.begin().await.unwrap();
    let after = dump(&mut db).await;
    for (name, rows) in before {
        if DROPPED.contains(&name.as_str()) {
            continue;
        }
        let mut after = after[&name].clone();
        // Later versions add columns, and the opening takes ticks out.
        let columns: Vec<_> = rows[0].keys().collect();
        after.iter_mut().for_each(|row| row.retain(|column, _| columns.contains(&column)));
        let mut expected = rows;
        for row in &mut expected {
            if name == "sessions" && row["retired"] == "NULL" {
                row.insert("retired".to_owned(), "'who holds it was forgotten'".to_owned());
            }
            if name == "rooms" {
                // What policies are chosen by was not kept: the state is fetched anew.
                row.insert("loaded".to_owned(), "0".to_owned());
            }
        }
        for row in expected.iter_mut().chain(&mut after) {
            if name == "meta" && row["key"] == "'ticks'" {
                row.remove("value");
            }
        }
        assert_eq!(after, expected, "{name}");
    }
    assert!(after["grants"].is_empty() && after["ledger"].is_empty() && after["names"].is_empty());
    assert!(!after.contains_key("refusals"));
    db.rollback().await.unwrap();
    assert!(store.next_tick() >= 77);
}

#[tokio::test]
async fn the_keeper_works_on_with_a_store_of_the_first_version() {
    let folder = tempfile::tempdir().unwrap();
    first_version(&folder.path().join("keeper.db")).await;
    let store = open(&folder, PASSPHRASE).await.unwrap();
    let room = room_id!("!room:localhost");
    let mut db = store.begin().await.unwrap();
    assert!(sessions::is_retired(&mut db, "active").await.unwrap());
    let (why,): (String,) =
        sqlx::query_as("SELECT retired FROM sessions WHERE session_id = 'retired'")
            .fetch_one(&mut *db)
            .await
            .unwrap();
    assert_eq!(why, "a member who holds it is gone");
    let known = rooms::get(&mut db, room).await.unwrap().unwrap();
    assert!(known.state_encrypted && known.elevated);
    let bob = user_id!("@bob:localhost");
    assert!(rooms::get_member(&mut db, room, bob).await.unwrap().unwrap().inviter.is_none());
    let name = StateTuple::new("m.room.name", "");
    let tuple = tuples::get(&store, &mut db, room, &name).await.unwrap().unwrap();
    assert_eq!(tuple.source.unwrap().content["name"], "A secret plan");
    assert_eq!(inbox::waiting(&mut db, 10).await.unwrap().len(), 1);
    assert_eq!(marks::due(&mut db, room, 10).await.unwrap().len(), 1);
    assert!(ledger::of_room(&store, &mut db, room, None).await.unwrap().is_empty());
    let grant = NewGrant {
        session_id: "new".to_owned(),
        user_id: bob.to_owned(),
        device_id: "B".into(),
        message_index: 0,
        reason: "join",
        again: false,
        preview: false,
        tuple: name,
        policy: "devices=cross_signed".to_owned(),
    };
    ledger::grant(&store, &mut db, room, &[grant], 1).await.unwrap();
    assert_eq!(ledger::of_room(&store, &mut db, room, Some(bob)).await.unwrap().len(), 1);
    db.commit().await.unwrap();
}

#[tokio::test]
async fn of_the_first_versions_plain_rows_of_who_holds_what_nothing_stays_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.db");
    first_version(&path).await;
    let found = |name: &str| {
        let file = std::fs::read(&path).unwrap();
        file.windows(name.len()).any(|window| window == name.as_bytes())
    };
    assert!(HOLDERS.iter().all(|name| found(name)));
    open(&folder, PASSPHRASE).await.unwrap().close().await;
    for name in HOLDERS {
        assert!(!found(name), "{name}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
