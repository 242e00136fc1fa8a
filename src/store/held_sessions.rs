//! Which of members' Megolm sessions the device's key store holds, and since when each is not needed.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{Result, StoreError};

/// How many sessions of one device are kept in a room, used or not: whoever gives the keeper more than that loses the
/// oldest.
const MOST_OF_ONE_DEVICE: i64 = 100;
/// How many of one device are kept as the history of those who are invited: the newest.
const MOST_SHARED_OF_ONE_DEVICE: i64 = 1000;
/// How many sessions a bundle has at most, those of all devices together: the newest.
const MOST_IN_A_BUNDLE: i64 = 5000;

/// A session whose key came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSession {
    /// The room where it is used.
    pub room_id: OwnedRoomId,
    /// Its id.
    pub session_id: String,
    /// Who made it; empty where that was not written down.
    pub maker: String,
    /// The Curve25519 key of the device that made it, unpadded base64.
    pub sender_key: String,
    /// Whether its maker marked it as shared history (MSC3061).
    pub shared: bool,
}

/// Notes that a session's key came at `now` (milliseconds). When it was seen in use before, what its maker's device
/// gave earlier is superseded by it.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn put(
    connection: &mut SqliteConnection,
    session: &HeldSession,
    tick: i64,
    now: i64,
) -> Result<()> {
    let (room, id) = (session.room_id.as_str(), &session.session_id);
    sqlx::query(
        "INSERT INTO held_sessions (room_id, session_id, maker, sender_key, tick, shared) \
         VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (room_id, session_id) DO UPDATE SET \
         shared = MAX(shared, excluded.shared), \
         tick = CASE WHEN shared < excluded.shared THEN excluded.tick ELSE tick END",
    )
    .bind(room)
    .bind(id)
    .bind(&session.maker)
    .bind(&session.sender_key)
    .bind(tick)
    .bind(session.shared)
    .execute(&mut *connection)
    .await?;
    let (is_used,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM megolm_indices \
         WHERE room_id = ?1 AND session_id = ?2 AND (sender = ?3 OR ?3 = '')) \
         OR EXISTS (SELECT 1 FROM message_indices \
         WHERE room_id = ?1 AND session_id = ?2 AND (sender = ?3 OR ?3 = ''))",
    )
    .bind(room)
    .bind(id)
    .bind(&session.maker)
    .fetch_one(&mut *connection)
    .await?;
    if is_used {
        supersede(connection, &session.room_id, id, &session.maker, now).await?;
    }
    sqlx::query(
        "UPDATE held_sessions SET needless_since = ?1 WHERE room_id = ?2 AND sender_key = ?3 \
         AND needless_since IS NULL AND tick < (SELECT tick FROM held_sessions \
         WHERE room_id = ?2 AND sender_key = ?3 ORDER BY tick DESC LIMIT 1 OFFSET ?4)",
    )
    .bind(now)
    .bind(room)
    .bind(&session.sender_key)
    .bind(MOST_OF_ONE_DEVICE - 1)
    .execute(&mut *connection)
    .await?;
    if session.shared {
        sqlx::query(
            "UPDATE held_sessions SET shared = 0 WHERE room_id = ?1 AND sender_key = ?2 \
             AND shared = 1 AND tick < (SELECT tick FROM held_sessions WHERE room_id = ?1 \
             AND sender_key = ?2 AND shared = 1 ORDER BY tick DESC LIMIT 1 OFFSET ?3)",
        )
        .bind(room)
        .bind(&session.sender_key)
        .bind(MOST_SHARED_OF_ONE_DEVICE - 1)
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// The sessions of a room that its members share with whoever is invited: everybody's newest in turn, as far as those who
/// made them are or were members, or somebody who invited the keeper answers for them.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn shared(connection: &mut SqliteConnection, room: &RoomId) -> Result<BTreeSet<String>> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT session_id FROM (SELECT h.session_id, h.tick, \
         ROW_NUMBER() OVER (PARTITION BY h.maker ORDER BY h.tick DESC) AS nth \
         FROM held_sessions h WHERE h.room_id = ?1 AND h.shared = 1 \
         AND (h.maker = '' OR EXISTS (SELECT 1 FROM members m WHERE m.room_id = ?1 \
         AND m.user_id = h.maker))) ORDER BY nth, tick DESC LIMIT ?2",
    )
    .bind(room.as_str())
    .bind(MOST_IN_A_BUNDLE)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// Notes that `sender` used a session in an event, at `now` (milliseconds): the earlier ones of the device that made
/// it are not needed any more. Does nothing when the session is somebody else's, or unknown.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn used(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
    sender: &UserId,
    now: i64,
) -> Result<()> {
    supersede(connection, room, session_id, sender.as_str(), now).await
}

async fn supersede(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
    sender: &str,
    now: i64,
) -> Result<()> {
    sqlx::query(
        "UPDATE held_sessions SET needless_since = ?1 FROM (SELECT sender_key, tick \
         FROM held_sessions WHERE room_id = ?2 AND session_id = ?3 AND maker IN ('', ?4)) newer \
         WHERE held_sessions.room_id = ?2 AND held_sessions.sender_key = newer.sender_key \
         AND held_sessions.tick < newer.tick AND held_sessions.needless_since IS NULL",
    )
    .bind(now)
    .bind(room.as_str())
    .bind(session_id)
    .bind(sender)
    .execute(connection)
    .await?;
    Ok(())
}

/// Notes that `user` left a room, or with `None` that nobody's session is needed there any more.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn left(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: Option<&UserId>,
    now: i64,
) -> Result<()> {
    sqlx::query(
        "UPDATE held_sessions SET needless_since = ?1 WHERE room_id = ?2 \
         AND needless_since IS NULL AND (?3 IS NULL OR maker = ?3)",
    )
    .bind(now)
    .bind(room.as_str())
    .bind(user.map(UserId::as_str))
    .execute(connection)
    .await?;
    Ok(())
}

/// Sessions that have not been needed since `before` (milliseconds), and for which no state event waits: their
/// rooms and ids. With `keep_current` those under which a current value stands are needed as well: whoever asks is
/// given them.
///
/// What is shared history is needed as long as people are invited into the room, or with `knocks` are let in who knock.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn needless(
    connection: &mut SqliteConnection,
    before: i64,
    (keep_current, knocks): (bool, bool),
    limit: i64,
) -> Result<Vec<(OwnedRoomId, String)>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT h.room_id, h.session_id FROM held_sessions h WHERE h.needless_since <= ?1 \
         AND NOT EXISTS (SELECT 1 FROM state_events e WHERE e.room_id = h.room_id \
         AND e.session_id = h.session_id AND e.awaits = 1) \
         AND NOT (?2 AND EXISTS (SELECT 1 FROM state_events e JOIN tuples t \
         ON t.room_id = e.room_id AND t.event_type = e.event_type AND t.state_key = e.state_key \
         AND t.current_event_id = e.event_id \
         WHERE e.room_id = h.room_id AND e.session_id = h.session_id)) \
         AND NOT (h.shared = 1 AND EXISTS (SELECT 1 FROM rooms r \
         LEFT JOIN space_rooms s ON s.room_id = r.room_id WHERE r.room_id = h.room_id \
         AND r.membership = 'join' AND r.state_encrypted = 1 \
         AND COALESCE(r.history_visibility, 'shared') IN ('shared', 'world_readable') \
         AND (s.invites = 1 OR (?4 AND COALESCE(json_extract(r.join_rules, '$.join_rule'), '') \
         IN ('knock', 'knock_restricted'))))) LIMIT ?3",
    )
    .bind(before)
    .bind(keep_current)
    .bind(limit)
    .bind(knocks)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(room, id)| Ok((room.try_into().map_err(StoreError::corrupt("room id"))?, id)))
        .collect()
}

/// Forgets a session: the key store does not hold it any more.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn remove(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
) -> Result<()> {
    sqlx::query("DELETE FROM held_sessions WHERE room_id = ? AND session_id = ?")
        .bind(room.as_str())
        .bind(session_id)
        .execute(connection)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};
    use secrecy::SecretString;

    use super::*;
    use crate::{
        state::StateTuple,
        store::{StateEventRow, Store, TupleRow, tuples},
    };

    fn room() -> &'static RoomId {
        room_id!("!room:localhost")
    }

    async fn gave(store: &Store, db: &mut SqliteConnection, session_id: &str, device: &str) {
        let session = HeldSession {
            room_id: room().to_owned(),
            session_id: session_id.to_owned(),
            maker: "@alice:localhost".to_owned(),
            sender_key: device.to_owned(),
            shared: false,
        };
        put(db, &session, store.next_tick(), 10).await.unwrap();
    }

    async fn needless_at(db: &mut SqliteConnection, now: i64, keep_current: bool) -> Vec<String> {
        let found = needless(db, now, (keep_current, false), 1000).await.unwrap();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// The room's name, as an event under a session says it.
    async fn name(store: &Store, db: &mut SqliteConnection, session_id: &str, body: Option<&str>) {
        let event = StateEventRow {
            event_id: ruma::owned_event_id!("$name"),
            tuple: StateTuple::new("m.room.name", ""),
            sender: user_id!("@alice:localhost").to_owned(),
            tick: store.next_tick(),
            received_at: 10,
            session_id: Some(session_id.to_owned()),
            powerful: true,
            levels: None,
            verdict: "accepted".to_owned(),
            breach: None,
            live: true,
            awaits: body.is_some(),
            body: body.map(str::to_owned),
            content: None,
        };
        let mut row = TupleRow::new(event.tuple.clone());
        row.current_event_id = Some(event.event_id.clone());
        tuples::put_event(store, db, room(), &event).await.unwrap();
        tuples::put(store, db, room(), &row).await.unwrap();
    }

    #[tokio::test]
    async fn nobody_crowds_the_others_out_of_what_is_shared() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.db");
        let store = Store::open(&path, &SecretString::from("passphrase")).await.unwrap();
        let db = &mut *store.begin().await.unwrap();
        sqlx::query(
            "INSERT INTO members VALUES (?1, '@alice:localhost', 'join', 1, 1, 1, NULL, NULL)",
        )
        .bind(room().as_str())
        .execute(&mut *db)
        .await
        .unwrap();
        let mut session = HeldSession {
            room_id: room().to_owned(),
            session_id: "hers".to_owned(),
            maker: "@alice:localhost".to_owned(),
            sender_key: "her device".to_owned(),
            shared: true,
        };
        put(db, &session, store.next_tick(), 10).await.unwrap();
        session.maker = String::new();
        for number in 0..=MOST_IN_A_BUNDLE {
            session.session_id = format!("session{number}");
            session.sender_key = format!("device{}", number % 6);
            put(db, &session, store.next_tick(), 10).await.unwrap();
        }
        let shared = shared(db, room()).await.unwrap();
        assert_eq!(i64::try_from(shared.len()).unwrap(), MOST_IN_A_BUNDLE);
        assert!(shared.contains("hers"));
    }

    #[tokio::test]
    async fn what_a_newer_one_of_the_same_device_supersedes_is_needless_unless_something_wants_it()
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.db");
        let store = Store::open(&path, &SecretString::from("passphrase")).await.unwrap();
        let db = &mut *store.begin().await.unwrap();
        let (alice, bob) = (user_id!("@alice:localhost"), user_id!("@bob:localhost"));
        for (session, device) in [("old", "phone"), ("other", "laptop"), ("new", "phone")] {
            gave(&store, db, session, device).await;
        }
        used(db, room(), "new", bob, 20).await.unwrap();
        assert!(needless_at(db, 100, false).await.is_empty(), "it is not Bob's");
        used(db, room(), "new", alice, 20).await.unwrap();
        assert!(needless_at(db, 19, false).await.is_empty(), "not yet");
        assert_eq!(needless_at(db, 20, false).await, ["old"]);

        name(&store, db, "old", Some("{}")).await;
        assert!(needless_at(db, 20, false).await.is_empty(), "an event waits for it");
        name(&store, db, "old", None).await;
        assert_eq!(needless_at(db, 20, false).await, ["old"]);
        assert!(needless_at(db, 20, true).await.is_empty(), "the current value may be forwarded");

        left(db, room(), Some(alice), 30).await.unwrap();
        assert_eq!(needless_at(db, 30, true).await, ["new", "other"]);
    }

    #[tokio::test]
    async fn a_device_does_not_pile_up_sessions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.db");
        let store = Store::open(&path, &SecretString::from("passphrase")).await.unwrap();
        let db = &mut *store.begin().await.unwrap();
        for number in 0..MOST_OF_ONE_DEVICE + 3 {
            gave(&store, db, &format!("{number:03}"), "phone").await;
        }
        assert_eq!(needless_at(db, 10, false).await, ["000", "001", "002"]);
    }
}
