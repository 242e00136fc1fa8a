//! How long the keeper waits before it tries those again who could not be reached.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{races::stage::Stage, simulated::sim::PATIENCE};

const QUARTER_OF_AN_HOUR: i64 = 15 * 60_000;
/// How far apart the store is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

async fn database(stage: &Stage) -> SqliteConnection {
    let path = stage.keeper.folder().join("statekeeper.db");
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(PATIENCE);
    SqliteConnection::connect_with(&options).await.unwrap()
}

/// When a member is to be tried again, and how often that was done.
async fn promise(stage: &Stage, user: &str) -> Option<(i64, i64)> {
    sqlx::query_as("SELECT due_at, attempts FROM marks WHERE user_id = ?")
        .bind(user)
        .fetch_optional(&mut database(stage).await)
        .await
        .unwrap()
}

/// Waits until a member was tried so often. When it will be done again.
async fn tried(stage: &Stage, user: &str, attempts: i64) -> i64 {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match promise(stage, user).await {
            Some((due_at, tried)) if tried == attempts => return due_at,
            found => {
                assert!(tokio::time::Instant::now() < deadline, "{found:?}, not {attempts}");
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Kills the keeper, and starts it with another promise in its store.
async fn restart_with(stage: &mut Stage, user: &str, (due_at, attempts): (i64, i64)) {
    stage.keeper.kill();
    let done = sqlx::query("UPDATE marks SET due_at = ?, attempts = ? WHERE user_id = ?")
        .bind(due_at)
        .bind(attempts)
        .bind(user)
        .execute(&mut database(stage).await)
        .await
        .unwrap();
    assert_eq!(done.rows_affected(), 1);
    stage.keeper.start().await;
}

#[tokio::test]
async fn what_others_do_in_the_room_does_not_begin_the_wait_anew_which_ends_at_a_quarter_of_an_hour()
 {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let empty = stage.sim.user("empty").without_one_time_keys().create().user_id;
    stage.sim.join(&room, "empty");
    let first = tried(&stage, &empty, 1).await;
    assert!((0..=15_000).contains(&(first - now())), "{first}");

    let later = now() + QUARTER_OF_AN_HOUR / 2;
    restart_with(&mut stage, &empty, (later, 40)).await;
    stage.name(&room, "Coffee").await;
    stage.settle(&room, "after the rename").await;
    assert_eq!(promise(&stage, &empty).await, Some((later, 40)));

    restart_with(&mut stage, &empty, (0, 40)).await;
    let before = now();
    let wait = tried(&stage, &empty, 41).await - before;
    assert!((QUARTER_OF_AN_HOUR - 60_000..=QUARTER_OF_AN_HOUR + 60_000).contains(&wait), "{wait}");
}
