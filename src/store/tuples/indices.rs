//! Which index of which Megolm session was used, and by what.
//!
//! A state event may be seen again, and is no replay of itself: so its id is kept. A message's index is used, whoever
//! tells of it, so messages leave ranges: a session that encrypts messages alone is one row.

use ruma::{EventId, RoomId, UserId};
use sqlx::SqliteConnection;

use crate::store::{Result, StoreError};

/// A Megolm session id is 32 bytes in base64; what is longer is none, and is not kept.
const LONGEST_SESSION_ID: usize = 64;

/// Notes that an index of a session stood in a state event of `sender`'s. Returns false when it stood in another event
/// of theirs before, be it state or a message.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn record_index(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
    message_index: u32,
    sender: &UserId,
    event_id: &EventId,
) -> Result<bool> {
    if session_id.len() > LONGEST_SESSION_ID {
        return Ok(true);
    }
    let index = i64::from(message_index);
    let first: Option<(String,)> = sqlx::query_as(
        "SELECT event_id FROM megolm_indices \
         WHERE room_id = ? AND session_id = ? AND message_index = ? AND sender = ?",
    )
    .bind(room.as_str())
    .bind(session_id)
    .bind(index)
    .bind(sender.as_str())
    .fetch_optional(&mut *connection)
    .await?;
    if let Some((first,)) = first {
        return Ok(first == event_id.as_str());
    }
    let whose = (room, session_id, sender);
    if ranges_up_to(connection, whose, index).await?.iter().any(|range| range.1 >= index) {
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO megolm_indices (room_id, session_id, message_index, sender, event_id) \
         VALUES (?, ?, ?, ?, ?)",
    )
    .bind(room.as_str())
    .bind(session_id)
    .bind(index)
    .bind(sender.as_str())
    .bind(event_id.as_str())
    .execute(connection)
    .await?;
    Ok(true)
}

/// Notes that an index of a session stood in a message of `sender`'s.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn record_message(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
    message_index: u32,
    sender: &UserId,
) -> Result<()> {
    if session_id.len() > LONGEST_SESSION_ID {
        return Ok(());
    }
    let whose = (room, session_id, sender);
    let index = i64::from(message_index);
    let (mut first, mut last) = (index, index);
    for range in ranges_up_to(connection, whose, index.saturating_add(1)).await? {
        if range.0 <= index && range.1 >= index {
            return Ok(());
        }
        // One that ends just before it, or begins just behind it, becomes a part of it.
        if range.1.saturating_add(1) == index || range.0 == index.saturating_add(1) {
            (first, last) = (first.min(range.0), last.max(range.1));
            drop_range(connection, whose, range.0).await?;
        }
    }
    sqlx::query(
        "INSERT INTO message_indices (room_id, session_id, sender, first_index, last_index) \
         VALUES (?, ?, ?, ?, ?)",
    )
    .bind(room.as_str())
    .bind(session_id)
    .bind(sender.as_str())
    .bind(first)
    .bind(last)
    .execute(connection)
    .await?;
    Ok(())
}

/// The last index of a session of `sender`'s that stood in a message, as far as it is known by [`record_message`].
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn last_message(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
    sender: &UserId,
) -> Result<Option<u32>> {
    let (last,): (Option<i64>,) = sqlx::query_as(
        "SELECT MAX(last_index) FROM message_indices \
         WHERE room_id = ? AND session_id = ? AND sender = ?",
    )
    .bind(room.as_str())
    .bind(session_id)
    .bind(sender.as_str())
    .fetch_one(connection)
    .await?;
    last.map(|last| u32::try_from(last).map_err(StoreError::corrupt("message index"))).transpose()
}

type Whose<'a> = (&'a RoomId, &'a str, &'a UserId);

/// The last two ranges that begin at an index or before it. They never touch one another, so the index and those on
/// either side of it are in no other.
async fn ranges_up_to(
    connection: &mut SqliteConnection,
    (room, session_id, sender): Whose<'_>,
    index: i64,
) -> Result<Vec<(i64, i64)>> {
    Ok(sqlx::query_as(
        "SELECT first_index, last_index FROM message_indices WHERE room_id = ? AND session_id = ? \
         AND sender = ? AND first_index <= ? ORDER BY first_index DESC LIMIT 2",
    )
    .bind(room.as_str())
    .bind(session_id)
    .bind(sender.as_str())
    .bind(index)
    .fetch_all(connection)
    .await?)
}

async fn drop_range(
    connection: &mut SqliteConnection,
    (room, session_id, sender): Whose<'_>,
    first_index: i64,
) -> Result<()> {
    sqlx::query(
        "DELETE FROM message_indices WHERE room_id = ? AND session_id = ? AND sender = ? \
         AND first_index = ?",
    )
    .bind(room.as_str())
    .bind(session_id)
    .bind(sender.as_str())
    .bind(first_index)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use ruma::{OwnedEventId, OwnedUserId, room_id};
    use secrecy::SecretString;

    use super::*;
    use crate::store::Store;

    /// An event that was seen: whose, at which index, state or a message, and which of a few.
    type Seen = (u8, u32, bool, u8);

    fn seen() -> impl Strategy<Value = Seen> {
        let index = prop_oneof![9 => 0..12_u32, 1 => u32::MAX - 1..=u32::MAX];
        (0..2_u8, index, any::<bool>(), 0..3_u8)
    }

    /// What a table says that has a row for every event: whether a state event's index was free for it.
    #[derive(Default)]
    struct Naive {
        first: BTreeMap<(u8, u32), (bool, u8)>,
        messages: BTreeSet<(u8, u32)>,
    }

    impl Naive {
        fn take(&mut self, (sender, index, is_state, event): Seen) -> bool {
            if !is_state {
                self.messages.insert((sender, index));
            }
            *self.first.entry((sender, index)).or_insert((is_state, event)) == (is_state, event)
        }
    }

    async fn agrees(all: &[Seen]) -> std::result::Result<(), TestCaseError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.db");
        let store = Store::open(&path, &SecretString::from("passphrase")).await.unwrap();
        let mut db = store.begin().await.unwrap();
        let room = room_id!("!room:localhost");
        let user = |number: u8| OwnedUserId::try_from(format!("@u{number}:localhost")).unwrap();
        let mut naive = Naive::default();
        for seen in all {
            let (sender, index, is_state, event) = *seen;
            let wanted = naive.take(*seen);
            if is_state {
                let event = OwnedEventId::try_from(format!("$state{event}")).unwrap();
                let sender = user(sender);
                let fresh = record_index(&mut db, room, "s", index, &sender, &event).await.unwrap();
                prop_assert_eq!(fresh, wanted, "{:?} of {:?}", seen, all);
            } else {
                record_message(&mut db, room, "s", index, &user(sender)).await.unwrap();
            }
        }
        for sender in 0..2 {
            let last = last_message(&mut db, room, "s", &user(sender)).await.unwrap();
            let wanted = naive.messages.range((sender, 0)..=(sender, u32::MAX)).next_back();
            prop_assert_eq!(last, wanted.map(|(_, index)| *index), "{} of {:?}", sender, all);
        }
        let (rows,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM message_indices")
            .fetch_one(&mut *db)
            .await
            .unwrap();
        let begins = |&&(sender, index): &&(u8, u32)| {
            index == 0 || !naive.messages.contains(&(sender, index - 1))
        };
        let wanted = naive.messages.iter().filter(begins).count();
        prop_assert_eq!(usize::try_from(rows).unwrap(), wanted, "a run of indices is one row");
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn ranges_say_what_a_row_for_every_event_would(all in proptest::collection::vec(seen(), 0..40)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(agrees(&all))?;
        }
    }
}
