//! Forgetting who gave a room's state which value, long ago.

use ruma::RoomId;
use sqlx::SqliteConnection;

use crate::store::Result;

/// Whether an event `e` of a room (`?1`) came before a time (`?2`), and is neither current nor anybody's value.
macro_rules! is_past {
    () => {
        "e.room_id = ?1 AND e.received_at < ?2 \
         AND NOT EXISTS (SELECT 1 FROM tuples t WHERE t.room_id = e.room_id \
             AND t.event_type = e.event_type AND t.state_key = e.state_key \
             AND e.event_id IN (t.current_event_id, t.source_event_id, t.sealed_from)) \
         AND (e.session_id IS NOT NULL OR EXISTS (SELECT 1 FROM state_events n \
             WHERE n.room_id = e.room_id AND n.event_type = e.event_type \
             AND n.state_key = e.state_key AND n.session_id IS NULL AND n.tick > e.tick))"
    };
}

/// Forgets at most `limit` of a room's state events that arrived before `before`, in milliseconds. Returns how many
/// there were.
///
/// Kept is what something still hangs on: what stands or is a tuple's source; what was sealed by
/// an event that is not redacted, or is about to be seen, for a redaction has to find that; and what stood last in
/// plain, which the room's state goes on showing.
///
/// # Errors
///
/// [`crate::store::StoreError::Database`] when the database cannot be written.
pub async fn prune_events(
    connection: &mut SqliteConnection,
    room: &RoomId,
    before: i64,
    limit: i64,
) -> Result<u64> {
    let done = sqlx::query(
        concat!(
            "DELETE FROM state_events WHERE event_id IN (SELECT e.event_id FROM state_events e WHERE ",
            is_past!(),
            " AND NOT EXISTS (SELECT 1 FROM seals s WHERE s.stands_for = e.event_id AND s.redacted = 0) \
             AND NOT EXISTS (SELECT 1 FROM prepared p JOIN state_events x ON x.event_id = p.stands_for \
                 WHERE x.room_id = e.room_id AND x.event_type = e.event_type \
                 AND x.state_key = e.state_key) ORDER BY e.received_at LIMIT ?3)"
        ),
    )
    .bind(room.as_str())
    .bind(before)
    .bind(limit)
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() > 0 {
        sqlx::query(
            "DELETE FROM owed_redactions WHERE room_id = ? AND event_id NOT IN (SELECT event_id FROM state_events)",
        )
        .bind(room.as_str())
        .execute(connection)
        .await?;
    }
    Ok(done.rows_affected())
}

/// Forgets what stands in at most `limit` of a room's state events that arrived before `before`, in milliseconds, and that
/// are kept for their ids alone, since a redaction has to find what was sealed for them. Returns how many there were.
///
/// # Errors
///
/// [`crate::store::StoreError::Database`] when the database cannot be written.
pub async fn shorten_events(
    connection: &mut SqliteConnection,
    room: &RoomId,
    before: i64,
    limit: i64,
) -> Result<u64> {
    let done = sqlx::query(concat!(
        "UPDATE state_events SET body = NULL, content = NULL, levels_id = NULL, awaits = 0 \
             WHERE event_id IN (SELECT e.event_id FROM state_events e WHERE ",
        is_past!(),
        " AND (e.body IS NOT NULL OR e.content IS NOT NULL OR e.levels_id IS NOT NULL) \
             ORDER BY e.received_at LIMIT ?3)"
    ))
    .bind(room.as_str())
    .bind(before)
    .bind(limit)
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 {
        sqlx::query(
            "DELETE FROM levels_then WHERE room_id = ?1 AND id NOT IN \
             (SELECT levels_id FROM state_events WHERE room_id = ?1 AND levels_id IS NOT NULL)",
        )
        .bind(room.as_str())
        .execute(connection)
        .await?;
    }
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use ruma::{EventId, OwnedEventId, owned_user_id, room_id};
    use secrecy::SecretString;

    use super::*;
    use crate::{
        state::StateTuple,
        store::{StateEventRow, Store, TupleRow, tuples},
    };

    const OLD: i64 = 1_000;

    fn id(name: &str) -> OwnedEventId {
        EventId::parse(format!("${name}")).unwrap()
    }

    fn name() -> StateTuple {
        StateTuple { event_type: "m.room.name".to_owned(), state_key: String::new() }
    }

    fn event(name_of: &str, tick: i64, session: Option<&str>) -> StateEventRow {
        StateEventRow {
            event_id: id(name_of),
            tuple: name(),
            sender: owned_user_id!("@alice:localhost"),
            tick,
            received_at: OLD,
            session_id: session.map(ToOwned::to_owned),
            powerful: true,
            verdict: "accepted".to_owned(),
            levels: Some(Some("{}".to_owned())),
            awaits: false,
            body: None,
            content: None,
            breach: None,
            live: true,
        }
    }

    async fn left(store: &Store) -> Vec<String> {
        let rows: Vec<(String,)> =
            sqlx::query_as("SELECT event_id FROM state_events ORDER BY event_id")
                .fetch_all(&mut *store.read().await.unwrap())
                .await
                .unwrap();
        rows.into_iter().map(|(id,)| id).collect()
    }

    #[tokio::test]
    async fn what_nothing_hangs_on_is_forgotten_when_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keeper.db");
        let store = Store::open(&file, &SecretString::from("right")).await.unwrap();
        let room = room_id!("!a:localhost");
        let mut db = store.begin().await.unwrap();
        let megolm = Some("session");
        let mut rows = vec![
            event("gone", 1, megolm),
            event("plain-before", 2, None),
            event("sealed", 3, megolm),
            event("redacted", 4, megolm),
            event("plain-last", 5, None),
            event("unread", 6, megolm),
            event("young", 7, megolm),
            event("stands", 8, megolm),
        ];
        (rows[5].body, rows[5].awaits) = (Some("{}".to_owned()), true);
        rows[6].received_at = 3 * OLD;
        for row in &mut rows {
            row.content = Some(crate::state::JsonMap::new());
            tuples::put_event(&store, &mut db, room, row).await.unwrap();
        }
        for (seal, of) in [("seal-1", "sealed"), ("seal-2", "redacted")] {
            tuples::put_seal(&mut db, room, &name(), &id(seal), &id(of)).await.unwrap();
        }
        tuples::take_seals_of(&mut db, &id("redacted")).await.unwrap();
        let row = TupleRow { current_event_id: Some(id("stands")), ..TupleRow::new(name()) };
        tuples::put(&store, &mut db, room, &row).await.unwrap();
        tuples::put_prepared(&mut db, "own", 0, &id("stands")).await.unwrap();
        let before = 2 * OLD;
        // The keeper's echo is awaited: what it lands on must be known.
        assert_eq!(prune_events(&mut db, room, before, 9).await.unwrap(), 0);
        tuples::take_prepared(&mut db, "own", 0).await.unwrap();
        assert_eq!(prune_events(&mut db, room_id!("!b:localhost"), before, 9).await.unwrap(), 0);
        assert_eq!(prune_events(&mut db, room, before, 2).await.unwrap(), 2);
        assert_eq!(prune_events(&mut db, room, before, 9).await.unwrap(), 2);
        assert_eq!(prune_events(&mut db, room, before, 9).await.unwrap(), 0);
        db.commit().await.unwrap();
        assert_eq!(left(&store).await, ["$plain-last", "$sealed", "$stands", "$young"]);
        // What is kept for its id alone says nothing any more, and what stands says it still.
        let mut db = store.begin().await.unwrap();
        assert_eq!(shorten_events(&mut db, room, before, 9).await.unwrap(), 1);
        assert_eq!(shorten_events(&mut db, room, before, 9).await.unwrap(), 0);
        for (name, says) in [("sealed", false), ("stands", true), ("young", true)] {
            let row = tuples::get_event(&store, &mut db, &id(name)).await.unwrap().unwrap();
            assert_eq!((row.content.is_some(), row.levels.is_some()), (says, says), "{name}");
        }
    }

    #[tokio::test]
    async fn what_counts_or_was_taken_back_stands_against_what_is_older_and_a_forgery_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keeper.db");
        let store = Store::open(&file, &SecretString::from("right")).await.unwrap();
        let room = room_id!("!a:localhost");
        let mut db = store.begin().await.unwrap();
        let mut value = event("value", 5, Some("session"));
        let mut newer_than = async |value: &StateEventRow, tick| {
            tuples::put_event(&store, &mut db, room, value).await.unwrap();
            tuples::is_superseded(&mut db, room, &name(), tick).await.unwrap()
        };
        value.verdict = "unreadable".to_owned();
        assert!(!newer_than(&value, 4).await);
        for counts in ["accepted", "redacted"] {
            (value.verdict, value.breach) = (counts.to_owned(), None);
            assert!(newer_than(&value, 4).await && !newer_than(&value, 5).await, "{counts}");
            value.breach = Some(crate::state::Rule::Timestamp);
            assert!(newer_than(&value, 4).await, "{counts}");
            value.breach = Some(crate::state::Rule::Power);
            assert!(!newer_than(&value, 4).await, "{counts}");
        }
    }

    #[tokio::test]
    async fn whoever_sends_much_that_cannot_be_read_crowds_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keeper.db");
        let store = Store::open(&file, &SecretString::from("right")).await.unwrap();
        let room = room_id!("!a:localhost");
        let mut db = store.begin().await.unwrap();
        let hers = StateEventRow { awaits: true, ..event("hers", 1, Some("hers")) };
        tuples::put_event(&store, &mut db, room, &hers).await.unwrap();
        for tick in 2..400 {
            let sender = owned_user_id!("@mallory:localhost");
            let his = event(&format!("his-{tick}"), tick, Some("his"));
            let his = StateEventRow { awaits: true, sender, ..his };
            tuples::put_event(&store, &mut db, room, &his).await.unwrap();
            let tuple =
                StateTuple { event_type: "m.room.name".to_owned(), state_key: tick.to_string() };
            let row = TupleRow { current_event_id: Some(his.event_id), ..TupleRow::new(tuple) };
            tuples::put(&store, &mut db, room, &row).await.unwrap();
        }
        let again = tuples::awaiting(&store, &mut db, room, None).await.unwrap();
        assert!(again.len() < 398 && again.iter().any(|row| row.event_id == hers.event_id));
    }
}
