//! Members who go on breaking a room's rules: what they change is not restored before an administrator says so.

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{Result, StoreError};

/// Notes at `now` (milliseconds) that a member's changes are restored no more. Returns whether that is news.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn begin(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    now: i64,
) -> Result<bool> {
    let done = sqlx::query(
        "INSERT INTO wars (room_id, user_id, began_at) VALUES (?1, ?2, ?3) \
         ON CONFLICT DO UPDATE SET began_at = ?3 WHERE began_at IS NULL",
    )
    .bind(room.as_str())
    .bind(user.as_str())
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Whether a member's changes are restored no more.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn stands(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<bool> {
    let (stands,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM wars WHERE room_id = ? AND user_id = ? AND began_at IS NOT NULL)",
    )
    .bind(room.as_str())
    .bind(user.as_str())
    .fetch_one(connection)
    .await?;
    Ok(stands)
}

/// Until when nothing is held against a member any more, in milliseconds; 0 where there was never a war.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn settled_at(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<i64> {
    let row: Option<(i64,)> =
        sqlx::query_as("SELECT settled_at FROM wars WHERE room_id = ? AND user_id = ?")
            .bind(room.as_str())
            .bind(user.as_str())
            .fetch_optional(connection)
            .await?;
    Ok(row.map_or(0, |(at,)| at))
}

/// Ends a war at `now` (milliseconds). Returns whether there was one.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn settle(
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
    now: i64,
) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE wars SET began_at = NULL, settled_at = ? \
         WHERE room_id = ? AND user_id = ? AND began_at IS NOT NULL",
    )
    .bind(now)
    .bind(room.as_str())
    .bind(user.as_str())
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Whose changes are restored no more, in one room or in all that the keeper is in.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn standing(
    connection: &mut SqliteConnection,
    room: Option<&RoomId>,
) -> Result<Vec<(OwnedRoomId, OwnedUserId)>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT w.room_id, w.user_id FROM wars w LEFT JOIN rooms r ON r.room_id = w.room_id \
         WHERE w.began_at IS NOT NULL AND (w.room_id = ?1 OR ?1 IS NULL AND r.membership = 'join') \
         ORDER BY w.room_id, w.user_id",
    )
    .bind(room.map(RoomId::as_str))
    .fetch_all(connection)
    .await?;
    let parsed = |(room, user): (String, String)| {
        let room = room.try_into().map_err(StoreError::corrupt("room id"))?;
        let user = user.try_into().map_err(StoreError::corrupt("user id"))?;
        Ok((room, user))
    };
    rows.into_iter().map(parsed).collect()
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};
    use secrecy::SecretString;

    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn a_war_stands_until_it_is_settled_and_may_begin_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keeper.db");
        let store = Store::open(&file, &SecretString::from("right")).await.unwrap();
        let (room, eve) = (room_id!("!a:h"), user_id!("@eve:h"));
        let mut db = store.begin().await.unwrap();
        assert!(!settle(&mut db, room, eve, 1).await.unwrap());
        assert!(begin(&mut db, room, eve, 5).await.unwrap());
        assert!(!begin(&mut db, room, eve, 6).await.unwrap(), "it is news once");
        assert!(stands(&mut db, room, eve).await.unwrap());
        assert!(!stands(&mut db, room_id!("!b:h"), eve).await.unwrap());
        let found = standing(&mut db, Some(room)).await.unwrap();
        assert_eq!(found, [(room.to_owned(), eve.to_owned())]);
        assert!(standing(&mut db, None).await.unwrap().is_empty(), "the keeper is not there");
        assert!(settle(&mut db, room, eve, 9).await.unwrap());
        assert!(!settle(&mut db, room, eve, 10).await.unwrap());
        assert_eq!(settled_at(&mut db, room, eve).await.unwrap(), 9);
        assert!(standing(&mut db, Some(room)).await.unwrap().is_empty());
        assert!(begin(&mut db, room, eve, 12).await.unwrap());
        assert!(stands(&mut db, room, eve).await.unwrap());
    }
}
