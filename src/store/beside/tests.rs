//! An administrator's commands beside an open store, on real files.

use ruma::{UserId, owned_user_id, room_id, user_id};
use secrecy::SecretString;

use super::*;
use crate::{
    policy::Word,
    state::Membership,
    store::{Asked, MemberRow, RoomRow, Store, marks},
};

const NOW: i64 = 1000;

fn room() -> &'static RoomId {
    room_id!("!room:localhost")
}

fn bob() -> &'static UserId {
    user_id!("@bob:localhost")
}

/// Who commands.
const OPS: &str = "uid:0";

fn approve_bob() -> Command {
    Command::Approve { room: room().to_owned(), user: bob().to_owned() }
}

fn deny_bob() -> Command {
    Command::Deny { room: room().to_owned(), user: bob().to_owned() }
}

fn confirm_bob() -> Command {
    Command::ConfirmIdentity { user: bob().to_owned() }
}

async fn keeper(folder: &tempfile::TempDir) -> Store {
    Store::open(&folder.path().join("keeper.db"), &SecretString::from("right")).await.unwrap()
}

async fn beside(folder: &tempfile::TempDir) -> Beside {
    Beside::open(&folder.path().join("keeper.db")).await.unwrap()
}

/// A keeper's store with a kept room that Bob is joined to.
async fn with_bob(folder: &tempfile::TempDir) -> Store {
    let store = keeper(folder).await;
    let mut transaction = store.begin().await.unwrap();
    let kept =
        RoomRow { state_encrypted: true, ..RoomRow::new(room().to_owned(), Membership::Join) };
    rooms::put(&mut transaction, &kept).await.unwrap();
    let member = MemberRow {
        user_id: bob().to_owned(),
        membership: Membership::Join,
        since: 1,
        arrived_at: 1,
        tick: 1,
        inviter: None,
    };
    rooms::put_member(&mut transaction, room(), &member).await.unwrap();
    transaction.commit().await.unwrap();
    store
}

async fn word_about_bob(store: &Store) -> Option<Word> {
    let db = &mut *store.read().await.unwrap();
    people::People::of_room(db, room(), None).await.unwrap().word(bob())
}

#[tokio::test]
async fn a_store_that_is_not_there_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keeper.db");
    assert!(matches!(Beside::open(&path).await, Err(NotBeside::NoStore(named)) if named == path));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_store_of_another_version_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    keeper(&folder).await.close().await;
    let path = folder.path().join("keeper.db");
    let change = async |sql: &'static str| {
        let options = SqliteConnectOptions::new().filename(&path);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    };
    change("UPDATE _sqlx_migrations SET version = 9999 WHERE version = 3").await;
    assert!(matches!(Beside::open(&path).await, Err(NotBeside::OtherVersion(_))));
    change("DELETE FROM _sqlx_migrations WHERE version = 9999").await;
    assert!(matches!(Beside::open(&path).await, Err(NotBeside::OtherVersion(_))));
    let empty = folder.path().join("empty.db");
    std::fs::write(&empty, "").unwrap();
    assert!(matches!(Beside::open(&empty).await, Err(NotBeside::OtherVersion(_))));
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "no database at all").unwrap();
    assert!(matches!(Beside::open(&text).await, Err(NotBeside::Store(_))));
    assert_eq!(std::fs::read_to_string(&text).unwrap(), "no database at all");
}

#[tokio::test]
async fn a_promise_that_the_keeper_is_about_to_settle_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_bob(&folder).await;
    let mut transaction = store.begin().await.unwrap();
    marks::mark(&mut transaction, room(), Some(bob()), NOW, store.next_tick()).await.unwrap();
    transaction.commit().await.unwrap();
    let read = marks::due(&mut store.read().await.unwrap(), room(), NOW).await.unwrap().remove(0);

    beside(&folder).await.command(OPS, &approve_bob(), NOW).await.unwrap();

    let mut transaction = store.begin().await.unwrap();
    marks::settle(&mut transaction, room(), &read).await.unwrap();
    let left = marks::due(&mut transaction, room(), NOW).await.unwrap();
    assert_eq!(left.len(), 1, "the administrator's word was not looked at yet");
    assert!(left[0].tick > read.tick && left[0].tick != store.next_tick());
}

#[tokio::test]
async fn ticks_of_commands_are_none_of_the_keepers_and_the_next_start_is_beyond_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_bob(&folder).await;
    beside(&folder)
        .await
        .command(OPS, &Command::Block { user: bob().to_owned(), device: None }, NOW)
        .await
        .unwrap();
    let first = marks::due(&mut store.read().await.unwrap(), room(), NOW).await.unwrap()[0].tick;
    beside(&folder)
        .await
        .command(OPS, &Command::Unblock { user: bob().to_owned(), device: None }, NOW)
        .await
        .unwrap();
    let second = marks::due(&mut store.read().await.unwrap(), room(), NOW).await.unwrap()[0].tick;
    assert!(store.next_tick() < first && first < second);
    store.close().await;
    assert!(keeper(&folder).await.next_tick() > second);
}

#[tokio::test]
async fn a_command_waits_for_the_keepers_commit_and_never_makes_it_fail() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_bob(&folder).await;
    let mut administrator = beside(&folder).await;
    let mut transaction = store.begin().await.unwrap();
    // The keeper has read, and has not written yet.
    assert!(rooms::get(&mut transaction, room()).await.unwrap().is_some());
    let mut command =
        tokio::spawn(async move { administrator.command(OPS, &deny_bob(), NOW).await });
    let a_while = std::time::Duration::from_millis(200);
    assert!(tokio::time::timeout(a_while, &mut command).await.is_err(), "it did not wait");
    rooms::touch(&mut transaction, room(), 5).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(command.await.unwrap().unwrap(), Done::Denied { present: true });
    assert_eq!(word_about_bob(&store).await, Some(Word::Denied));
}

#[tokio::test]
async fn the_keeper_notices_what_another_process_commits_and_not_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_bob(&folder).await;
    let before = store.others_version().await.unwrap();
    let mut transaction = store.begin().await.unwrap();
    rooms::touch(&mut transaction, room(), 5).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(store.others_version().await.unwrap(), before);
    beside(&folder).await.command(OPS, &approve_bob(), NOW).await.unwrap();
    assert_ne!(store.others_version().await.unwrap(), before);
}

#[tokio::test]
async fn an_approval_goes_with_the_member_and_a_denial_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_bob(&folder).await;
    let mut administrator = beside(&folder).await;
    let leave = async || {
        let mut transaction = store.begin().await.unwrap();
        people::left(&mut transaction, room(), bob()).await.unwrap();
        transaction.commit().await.unwrap();
    };
    administrator.command(OPS, &approve_bob(), NOW).await.unwrap();
    assert_eq!(word_about_bob(&store).await, Some(Word::Approved));
    leave().await;
    assert_eq!(word_about_bob(&store).await, None);
    administrator.command(OPS, &deny_bob(), NOW).await.unwrap();
    leave().await;
    assert_eq!(word_about_bob(&store).await, Some(Word::Denied));
}

#[tokio::test]
async fn the_first_identity_counts_until_a_later_one_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_bob(&folder).await;
    let see = async |key: &str| {
        let mut transaction = store.begin().await.unwrap();
        people::see_identity(&mut transaction, bob(), key, NOW).await.unwrap();
        transaction.commit().await.unwrap();
        let users = BTreeSet::from([owned_user_id!("@bob:localhost")]);
        let db = &mut *store.read().await.unwrap();
        let one = people::identities(db, room(), Some(&users)).await.unwrap().remove(bob());
        let all = people::identities(db, room(), None).await.unwrap().remove(bob());
        assert_eq!(one, all);
        let identity = one.unwrap();
        (identity.master_key, identity.changed_to)
    };
    let mut administrator = beside(&folder).await;
    let pinned = |changed: Option<&str>| ("first".to_owned(), changed.map(str::to_owned));
    assert_eq!(see("first").await, pinned(None));
    let refused = administrator.command(OPS, &confirm_bob(), NOW).await;
    assert!(matches!(refused, Err(Refused::Unchanged(_))));
    assert_eq!(see("second").await, pinned(Some("second")));
    assert_eq!(see("first").await, pinned(None), "it was only for a while");
    assert_eq!(see("third").await, pinned(Some("third")));
    let confirmed = administrator.command(OPS, &confirm_bob(), NOW).await.unwrap();
    assert_eq!(confirmed, Done::Confirmed { master_key: "third".to_owned() });
    assert_eq!(see("third").await, ("third".to_owned(), None));
    assert_eq!(see("first").await, ("third".to_owned(), Some("first".to_owned())));
}

#[tokio::test]
async fn a_hold_is_news_once_for_each_reason() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_bob(&folder).await;
    let mut transaction = store.begin().await.unwrap();
    use crate::policy::HoldReason::{AwaitsApproval, IdentityChanged};
    for (reason, news) in [(AwaitsApproval, true), (AwaitsApproval, false), (IdentityChanged, true)]
    {
        let new = people::hold(&mut transaction, room(), bob(), reason, NOW).await.unwrap();
        assert_eq!(new, news, "{reason}");
    }
    assert_eq!(people::count_holds(&mut transaction).await.unwrap(), 1);
    let elsewhere = room_id!("!other:localhost");
    people::let_go(&mut transaction, elsewhere, None).await.unwrap();
    assert_eq!(people::holds(&mut transaction, Some(room()), None).await.unwrap().len(), 1);
    people::let_go(&mut transaction, room(), Some(bob())).await.unwrap();
    assert_eq!(people::count_holds(&mut transaction).await.unwrap(), 0);
}

#[tokio::test]
async fn each_command_stands_in_the_ledger_with_who_gave_it_and_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_bob(&folder).await;
    let mut administrator = beside(&folder).await;
    administrator.command(OPS, &approve_bob(), NOW).await.unwrap();
    administrator.command("@ops:localhost", &confirm_bob(), NOW + 1).await.unwrap_err();
    let rows = administrator.commands(&CommandsFilter::default()).await.unwrap();
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row.at, row.actor.as_str(), row.verb.as_str(), row.outcome.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (NOW, OPS, "approve", "done"),
            (NOW + 1, "@ops:localhost", "confirm-identity", "refused:unchanged")
        ]
    );
    assert_eq!(
        (rows[0].room_id.as_str(), rows[0].user_id.as_str()),
        (room().as_str(), bob().as_str())
    );
    let newest = CommandsFilter { newest: Some(1), ..CommandsFilter::default() };
    assert_eq!(administrator.commands(&newest).await.unwrap(), rows[1..]);
    let mut transaction = store.begin().await.unwrap();
    commands::prune(&mut transaction, NOW + 1).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(administrator.commands(&CommandsFilter::default()).await.unwrap(), rows[1..]);
}

#[tokio::test]
async fn whoever_reads_the_same_again_and_again_has_one_row_an_hour() {
    let folder = tempfile::tempdir().unwrap();
    let store = keeper(&folder).await;
    let asked = Asked::about("status", None, None);
    let hour = 3_600_000;
    let mut transaction = store.begin().await.unwrap();
    for (actor, at) in [("a", 1), ("a", 2), ("b", 3), ("a", hour), ("a", hour + 2)] {
        commands::note_reading(&mut transaction, actor, &asked, "done", at).await.unwrap();
    }
    let rows = commands::of_filter(&mut transaction, &CommandsFilter::default()).await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.actor.as_str(), row.at, row.count)).collect();
    assert_eq!(told, [("a", 1, 3), ("b", 3, 1), ("a", hour + 2, 1)]);
}
