//! Whether anything has changed about the people of a room: the database itself notes it, in the commit that changes
//! it, whichever process makes that.

use ruma::RoomId;
use sqlx::SqliteConnection;

use super::Result;

/// The people of a room, and what is known of them wherever they are, as they were at one moment. Two that are equal
/// are of the same people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Company(Vec<(String, Vec<u8>)>);

/// The people of a room as they are now. Read it before them: what changes meanwhile then counts as a change.
///
/// What it stands for: the rows of `members` and `words` of the room, `blocks`, the identities that were seen more
/// than once, and that no grant was taken back or made smaller.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be read.
pub async fn now(connection: &mut SqliteConnection, room: &RoomId) -> Result<Company> {
    let tokens = sqlx::query_as(
        "SELECT room_id, token FROM companies WHERE room_id IN ('', ?) ORDER BY room_id",
    )
    .bind(room.as_str())
    .fetch_all(connection)
    .await?;
    Ok(Company(tokens))
}
