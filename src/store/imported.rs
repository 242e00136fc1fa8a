//! Keys that an administrator gave the keeper out of a file.

use matrix_sdk_store_encryption::StoreCipher;
use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::SqliteConnection;

use super::{Result, Store, StoreError};
use crate::state::StateTuple;

/// A key that was given.
#[derive(Debug)]
pub struct ImportedKey<K> {
    /// The room where its session is used.
    pub room_id: OwnedRoomId,
    /// The session's id.
    pub session_id: String,
    /// The index from which on it opens something.
    pub first_index: u32,
    /// The key.
    pub key: K,
}

/// Keeps keys at `now` (milliseconds), encrypted with `cipher`: of a session's two the one that reaches further back.
/// Returns how many sessions they are of.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub(super) async fn put<K: Serialize>(
    cipher: &StoreCipher,
    connection: &mut SqliteConnection,
    keys: impl IntoIterator<Item = ImportedKey<K>>,
    now: i64,
) -> Result<u64> {
    let mut count = 0;
    for ImportedKey { room_id, session_id, first_index, key } in keys {
        let locked = cipher.encrypt_value(&key).map_err(|_| StoreError::Cipher)?;
        sqlx::query(
            "INSERT INTO imported_keys (room_id, session_id, first_index, imported_at, due_at, key) \
             VALUES (?1, ?2, ?3, ?4, ?4, ?5) ON CONFLICT (room_id, session_id) DO UPDATE SET \
             imported_at = excluded.imported_at, due_at = excluded.due_at, \
             key = CASE WHEN excluded.first_index < first_index THEN excluded.key ELSE key END, \
             first_index = MIN(first_index, excluded.first_index)",
        )
        .bind(room_id.as_str())
        .bind(session_id)
        .bind(i64::from(first_index))
        .bind(now)
        .bind(locked)
        .execute(&mut *connection)
        .await?;
        count += 1;
    }
    Ok(count)
}

/// When a key was given last, in milliseconds; `None` where there are none.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn newest(connection: &mut SqliteConnection) -> Result<Option<i64>> {
    let (newest,): (Option<i64>,) =
        sqlx::query_as("SELECT MAX(imported_at) FROM imported_keys").fetch_one(connection).await?;
    Ok(newest)
}

/// What the keeper sealed and this store does not know ([`super::buried`]), in rooms of which keys were given: the room,
/// the tuple and the event.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn own_awaited(
    connection: &mut SqliteConnection,
) -> Result<Vec<(OwnedRoomId, StateTuple, OwnedEventId)>> {
    let rows: Vec<(String, String, String, String)> = sqlx::query_as(
        "SELECT room_id, event_type, state_key, event_id FROM buried WHERE found = 0 AND room_id IN \
         (SELECT room_id FROM imported_keys)",
    )
    .fetch_all(connection)
    .await?;
    let load = |(room, event_type, state_key, event): (String, String, String, String)| {
        Ok((
            room.try_into().map_err(StoreError::corrupt("room id"))?,
            StateTuple::new(event_type, state_key),
            event.try_into().map_err(StoreError::corrupt("event id"))?,
        ))
    };
    rows.into_iter().map(load).collect()
}

/// Keys for which a state event of a member's waits and that are to be looked at by `now` (milliseconds).
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn awaited<K: DeserializeOwned>(
    store: &Store,
    connection: &mut SqliteConnection,
    now: i64,
    limit: i64,
) -> Result<Vec<ImportedKey<K>>> {
    let rows: Vec<(String, String, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT room_id, session_id, first_index, key FROM imported_keys i WHERE due_at <= ?1 AND EXISTS \
         (SELECT 1 FROM state_events e WHERE e.room_id = i.room_id AND e.session_id = i.session_id \
         AND e.awaits = 1 AND e.verdict = 'unreadable') ORDER BY due_at LIMIT ?2",
    )
    .bind(now)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let load = |(room, session_id, first, key): (String, String, i64, Vec<u8>)| {
        Ok(ImportedKey {
            room_id: room.try_into().map_err(StoreError::corrupt("room id"))?,
            session_id,
            first_index: u32::try_from(first).map_err(StoreError::corrupt("index"))?,
            key: store.unlock(&key)?,
        })
    };
    rows.into_iter().map(load).collect()
}

/// The key of a session, where it was given.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn get<K: DeserializeOwned>(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
) -> Result<Option<K>> {
    let row: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT key FROM imported_keys WHERE room_id = ? AND session_id = ?")
            .bind(room.as_str())
            .bind(session_id)
            .fetch_optional(connection)
            .await?;
    row.map(|(key,)| store.unlock(&key)).transpose()
}

/// A key was of no use: it is looked at again at `due_at` (milliseconds).
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn wait(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
    due_at: i64,
) -> Result<()> {
    sqlx::query("UPDATE imported_keys SET due_at = ? WHERE room_id = ? AND session_id = ?")
        .bind(due_at)
        .bind(room.as_str())
        .bind(session_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets a key.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn remove(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
) -> Result<()> {
    sqlx::query("DELETE FROM imported_keys WHERE room_id = ? AND session_id = ?")
        .bind(room.as_str())
        .bind(session_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets the keys that were given before `before` (milliseconds). Returns how many those are.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn prune(connection: &mut SqliteConnection, before: i64) -> Result<u64> {
    let done = sqlx::query("DELETE FROM imported_keys WHERE imported_at < ?")
        .bind(before)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use secrecy::SecretString;

    use super::*;

    const NOW: i64 = 1_000_000;

    fn key(first_index: u32) -> ImportedKey<String> {
        let room_id = room_id!("!room:localhost").to_owned();
        let key = format!("the key from {first_index} on");
        ImportedKey { room_id, session_id: "session".to_owned(), first_index, key }
    }

    #[tokio::test]
    async fn of_a_sessions_keys_the_one_that_reaches_back_the_furthest_is_kept_for_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.db");
        let store = Store::open(&path, &SecretString::from("right")).await.unwrap();
        let db = &mut *store.begin().await.unwrap();
        let room = room_id!("!room:localhost");
        for (index, kept) in [(5, 5), (7, 5), (2, 2), (3, 2)] {
            assert_eq!(put(&store.cipher, db, [key(index)], NOW).await.unwrap(), 1);
            let found: Option<String> = get(&store, db, room, "session").await.unwrap();
            assert_eq!(found.unwrap(), key(kept).key);
        }
        assert_eq!(newest(db).await.unwrap(), Some(NOW));
        assert_eq!(prune(db, NOW).await.unwrap(), 0);
        assert_eq!(prune(db, NOW + 1).await.unwrap(), 1);
        assert_eq!(newest(db).await.unwrap(), None);
    }
}
