//! What the store promises, on real files.

use ruma::{event_id, owned_event_id, owned_room_id, room_id, user_id};

use super::*;
use crate::state::StateTuple;

async fn open(folder: &tempfile::TempDir, passphrase: &str) -> Result<Store> {
    Store::open(&folder.path().join("keeper.db"), &SecretString::from(passphrase)).await
}

#[tokio::test]
async fn another_passphrase_does_not_open_the_store() {
    let folder = tempfile::tempdir().unwrap();
    open(&folder, "right").await.unwrap().close().await;
    assert!(matches!(open(&folder, "wrong").await, Err(StoreError::WrongPassphrase)));
    open(&folder, "right").await.unwrap();
}

#[tokio::test]
async fn ticks_grow_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(&folder, "right").await.unwrap();
    let before = (0..100).map(|_| first.next_tick()).max().unwrap();
    first.close().await;
    assert!(open(&folder, "right").await.unwrap().next_tick() > before);
}

#[tokio::test]
async fn what_is_locked_does_not_stand_in_the_file_and_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, "right").await.unwrap();
    let locked = store.lock(&"a secret value").unwrap();
    assert!(!locked.windows(8).any(|window| window == b"a secret"));
    assert_eq!(store.unlock::<String>(&locked).unwrap(), "a secret value");
}

#[tokio::test]
async fn an_event_that_comes_twice_is_taken_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, "right").await.unwrap();
    let event = NewEvent {
        event_id: owned_event_id!("$one"),
        room_id: owned_room_id!("!room:localhost"),
        body: "{}".to_owned(),
    };
    let mut transaction = store.begin().await.unwrap();
    assert_eq!(inbox::insert(&mut transaction, std::slice::from_ref(&event), 1).await.unwrap(), 1);
    let row = inbox::waiting(&mut transaction, 10).await.unwrap().remove(0);
    inbox::taken(&mut transaction, row.seq).await.unwrap();
    assert_eq!(inbox::insert(&mut transaction, &[event], 2).await.unwrap(), 0);
    assert!(inbox::waiting(&mut transaction, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_promise_made_anew_is_not_settled_by_who_kept_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, "right").await.unwrap();
    let room = room_id!("!room:localhost");
    let mut transaction = store.begin().await.unwrap();
    marks::mark(&mut transaction, room, None, 5, 1).await.unwrap();
    let old = marks::due(&mut transaction, room, 10).await.unwrap().remove(0);
    marks::mark(&mut transaction, room, None, 5, 2).await.unwrap();
    marks::settle(&mut transaction, room, &old).await.unwrap();
    let new = marks::due(&mut transaction, room, 10).await.unwrap().remove(0);
    marks::settle(&mut transaction, room, &new).await.unwrap();
    assert!(marks::due(&mut transaction, room, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_index_counts_once_for_each_sender() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, "right").await.unwrap();
    let room = room_id!("!room:localhost");
    let (alice, mallory) = (user_id!("@alice:localhost"), user_id!("@mallory:localhost"));
    let mut db = store.begin().await.unwrap();
    // Mallory labels an event of his with her session: that spoils nothing of hers.
    assert!(tuples::record_index(&mut db, room, "s", 3, mallory, event_id!("$m")).await.unwrap());
    assert!(tuples::record_index(&mut db, room, "s", 3, alice, event_id!("$a")).await.unwrap());
    assert!(tuples::record_index(&mut db, room, "s", 3, alice, event_id!("$a")).await.unwrap());
    assert!(!tuples::record_index(&mut db, room, "s", 3, alice, event_id!("$b")).await.unwrap());
}

#[tokio::test]
async fn a_departure_retires_what_the_leaver_was_granted_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, "right").await.unwrap();
    let room = room_id!("!room:localhost");
    let mut db = store.begin().await.unwrap();
    for id in ["known", "unknown"] {
        let session =
            SessionRow { session_id: id.to_owned(), pickle: vec![1], created_at: 1, messages: 0 };
        sessions::put(&mut db, room, None, &session).await.unwrap();
    }
    let grant = NewGrant {
        session_id: "known".to_owned(),
        user_id: user_id!("@bob:localhost").to_owned(),
        device_id: "B".into(),
        message_index: 0,
        reason: "join",
        again: false,
        tuple: StateTuple::new("m.room.name", ""),
        policy: "devices=cross_signed".to_owned(),
    };
    ledger::grant(&store, &mut db, room, &[grant], 1).await.unwrap();
    let bob = Some(user_id!("@bob:localhost"));
    assert_eq!(sessions::retire_known_to(&store, &mut db, room, bob, "gone").await.unwrap(), 1);
    assert!(sessions::is_retired(&mut db, "known").await.unwrap());
    assert!(!sessions::is_retired(&mut db, "unknown").await.unwrap());
}
