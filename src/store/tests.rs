//! What the store promises, on real files.

use ruma::{OwnedUserId, event_id, owned_event_id, owned_room_id, room_id, user_id};

use super::*;
use crate::state::{Membership, StateTuple};

mod migrating;

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
async fn a_members_session_is_its_states_only_from_behind_its_last_message_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, "right").await.unwrap();
    let (room, alice) = (room_id!("!room:localhost"), user_id!("@alice:localhost"));
    let mut db = store.begin().await.unwrap();
    for (index, event_type) in [(3, "m.room.name"), (7, "m.room.topic")] {
        let event_id = ruma::EventId::parse(format!("$state{index}")).unwrap();
        let tuple = StateTuple::new(event_type, "");
        tuples::record_index(&mut db, room, "s", index, alice, &event_id).await.unwrap();
        let mut row = TupleRow::new(tuple.clone());
        row.current_event_id = Some(event_id.clone());
        tuples::put(&store, &mut db, room, &row).await.unwrap();
        let event = StateEventRow {
            event_id,
            tuple,
            sender: alice.to_owned(),
            tick: i64::from(index),
            received_at: 1,
            session_id: Some("s".to_owned()),
            powerful: true,
            levels: None,
            verdict: "accepted".to_owned(),
            breach: None,
            live: true,
            awaits: false,
            body: None,
            content: None,
        };
        tuples::put_event(&store, &mut db, room, &event).await.unwrap();
    }
    let mut from = async |message: Option<u32>| {
        if let Some(index) = message {
            tuples::record_message(&mut db, room, "s", index, alice).await.unwrap();
        }
        let session = member_sessions::get(&mut db, room, "s").await.unwrap();
        session.map(|session| (session.message_index, session.tuples.len()))
    };
    assert_eq!(from(None).await, Some((3, 2)));
    assert_eq!(from(Some(2)).await, Some((3, 2)), "a message before it stays closed");
    assert_eq!(from(Some(5)).await, Some((7, 1)));
    assert_eq!(from(Some(8)).await, None, "it would open the message");
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
        preview: false,
        tuple: StateTuple::new("m.room.name", ""),
        policy: "devices=cross_signed".to_owned(),
    };
    ledger::grant(&store, &mut db, room, &[grant], 1).await.unwrap();
    let bob = user_id!("@bob:localhost");
    let why = (Retired::MemberLeft, 7);
    assert_eq!(sessions::retire_known_to(&store, &mut db, room, bob, why).await.unwrap(), 1);
    assert!(sessions::is_retired(&mut db, "known").await.unwrap());
    assert!(!sessions::is_retired(&mut db, "unknown").await.unwrap());
    let over = sessions::over(&mut db, room, None, "known").await.unwrap();
    assert_eq!(over, Some(Over { at: 7, by_use: false }));
    assert_eq!(sessions::over(&mut db, room, None, "unknown").await.unwrap(), None);
    assert_eq!(sessions::count(&mut db).await.unwrap(), (1, 1));
    let counted = [("member_left".to_owned(), 1)];
    assert_eq!(sessions::take_uncounted(&mut db).await.unwrap(), counted);
    assert!(!sessions::any_uncounted(&mut db).await.unwrap(), "each is counted once");
}

#[tokio::test]
async fn a_room_is_in_a_space_that_lists_it_and_that_it_claims_or_lets_in() {
    use places::Side;
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, "right").await.unwrap();
    let (room, space) = (room_id!("!room:localhost"), room_id!("!space:localhost"));
    let event = event_id!("$says");
    let let_in = r#"{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!space:localhost"}]}"#;
    // Whether the keeper is in the space, it lists the room, the room claims it, or lets its members in.
    for case in 0..16_u8 {
        let [is_in, lists, claims, lets_in] = [1, 2, 4, 8].map(|bit| case & bit != 0);
        let mut transaction = store.begin().await.unwrap();
        let membership = if is_in { Membership::Join } else { Membership::Leave };
        let row = RoomRow::new(space.to_owned(), membership);
        rooms::put(&mut transaction, &row).await.unwrap();
        let join_rules = lets_in.then(|| let_in.to_owned());
        let row = RoomRow { join_rules, ..RoomRow::new(room.to_owned(), Membership::Join) };
        rooms::put(&mut transaction, &row).await.unwrap();
        for (side, says) in [(Side::Space, lists), (Side::Room, claims)] {
            let event = says.then_some(event);
            places::say(&mut transaction, room, space, side, event).await.unwrap();
        }
        let spaces = rooms::get(&mut transaction, room).await.unwrap().unwrap().spaces;
        let expected = is_in && lists && (claims || lets_in);
        assert_eq!(!spaces.is_empty(), expected, "{is_in} {lists} {claims} {lets_in}");
        assert!(spaces.iter().all(|id| id == space));
        assert_eq!(places::is_said_by(&mut transaction, space, event).await.unwrap(), lists);
        places::forget(&mut transaction, space).await.unwrap();
        assert!(places::listed(&mut transaction, space).await.unwrap().is_empty());
        transaction.commit().await.unwrap();
    }
}

#[tokio::test]
async fn an_address_is_kept_with_its_room_until_the_rooms_state_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, "right").await.unwrap();
    let (room, event) = (room_id!("!room:localhost"), event_id!("$says"));
    let mut db = store.begin().await.unwrap();
    let row = RoomRow::new(room.to_owned(), Membership::Join);
    rooms::put(&mut db, &row).await.unwrap();
    places::put_alias(&mut db, room, Some("#a:b"), event).await.unwrap();
    rooms::put(&mut db, &row).await.unwrap();
    let alias = rooms::get(&mut db, room).await.unwrap().unwrap().canonical_alias;
    assert_eq!(alias.as_deref(), Some("#a:b"), "other writes leave it");
    assert!(places::is_said_by(&mut db, room, event).await.unwrap());
    places::forget(&mut db, room).await.unwrap();
    assert_eq!(rooms::get(&mut db, room).await.unwrap().unwrap().canonical_alias, None);
}

#[tokio::test]
async fn what_many_users_are_in_a_room_is_looked_up_for_them_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, "right").await.unwrap();
    let (room, elsewhere) = (room_id!("!room:localhost"), room_id!("!elsewhere:localhost"));
    let users: Vec<OwnedUserId> =
        (0..1203).map(|number| format!("@m{number}:localhost").try_into().unwrap()).collect();
    let is = |number: usize| match number % 4 {
        0 => Some(Membership::Join),
        1 => Some(Membership::Leave),
        2 => Some(Membership::Invite),
        _ => None,
    };
    let mut db = store.begin().await.unwrap();
    for (number, user) in users.iter().enumerate() {
        let row = MemberRow {
            user_id: user.clone(),
            membership: is(number).unwrap_or(Membership::Join),
            since: 1,
            arrived_at: 1,
            tick: 1,
            inviter: None,
        };
        let at = if is(number).is_some() { room } else { elsewhere };
        rooms::put_member(&mut db, at, &row).await.unwrap();
    }
    for count in [0, 1, 500, 501, 1201] {
        let asked = users.iter().take(count).map(AsRef::as_ref);
        let found = rooms::memberships(&mut db, room, asked).await.unwrap();
        let expected = users.iter().take(count).enumerate();
        let expected = expected.filter_map(|(number, user)| Some((user.clone(), is(number)?)));
        assert_eq!(found, expected.collect(), "of {count}");
    }
}

#[tokio::test]
async fn a_full_or_read_only_disk_may_pass_and_a_wrong_passphrase_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(folder.path().join("some.db"))
        .create_if_missing(true);
    let mut db =
        <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    async fn failure(db: &mut sqlx::SqliteConnection, statement: &'static str) -> StoreError {
        sqlx::query(statement).execute(db).await.unwrap_err().into()
    }
    sqlx::query("CREATE TABLE t (x)").execute(&mut db).await.unwrap();
    assert!(!failure(&mut db, "INSERT INTO nowhere VALUES (1)").await.may_pass());
    sqlx::query("PRAGMA max_page_count = 2").execute(&mut db).await.unwrap();
    assert!(failure(&mut db, "INSERT INTO t VALUES (zeroblob(100000))").await.may_pass(), "full");
    sqlx::query("PRAGMA query_only = 1").execute(&mut db).await.unwrap();
    assert!(failure(&mut db, "INSERT INTO t VALUES (1)").await.may_pass(), "read-only");
    assert!(!StoreError::WrongPassphrase.may_pass());
}
