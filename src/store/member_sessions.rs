//! What was seen of members' Megolm sessions: which events stand under them, and which came after them.

use ruma::{OwnedUserId, RoomId};
use sqlx::SqliteConnection;

use super::{Result, StoreError, tuples};
use crate::state::StateTuple;

/// A member's session whose end is current state alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSession {
    /// Who made it.
    pub creator: OwnedUserId,
    /// The index from which on nothing but current state stands under it.
    pub message_index: u32,
    /// The tuples of that state.
    pub tuples: Vec<StateTuple>,
    /// The sessions under which the creator has sent state since.
    pub later: Vec<String>,
}

/// The session of a member by its id, as far as state that was accepted stands under it, and nothing else from there
/// on: a message, or a value that another one has replaced, ends the search.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn get(
    connection: &mut SqliteConnection,
    room: &RoomId,
    session_id: &str,
) -> Result<Option<MemberSession>> {
    let newest: Option<(String, i64)> = sqlx::query_as(
        "SELECT sender, tick FROM state_events \
         WHERE room_id = ? AND session_id = ? AND verdict = 'accepted' ORDER BY tick DESC LIMIT 1",
    )
    .bind(room.as_str())
    .bind(session_id)
    .fetch_optional(&mut *connection)
    .await?;
    let Some((creator, tick)) = newest else { return Ok(None) };
    let creator: OwnedUserId = creator.try_into().map_err(StoreError::corrupt("user id"))?;
    let message = tuples::last_message(connection, room, session_id, &creator).await?;
    let uses: Vec<(i64, Option<String>, Option<String>, bool)> = sqlx::query_as(
        "SELECT i.message_index, e.event_type, e.state_key, \
         COALESCE(t.current_event_id = e.event_id AND e.verdict = 'accepted', 0) \
         FROM megolm_indices i LEFT JOIN state_events e ON e.event_id = i.event_id \
         LEFT JOIN tuples t ON t.room_id = e.room_id AND t.event_type = e.event_type \
         AND t.state_key = e.state_key \
         WHERE i.room_id = ? AND i.session_id = ? AND i.sender = ? ORDER BY i.message_index DESC",
    )
    .bind(room.as_str())
    .bind(session_id)
    .bind(creator.as_str())
    .fetch_all(&mut *connection)
    .await?;
    let mut first = None;
    let mut tuples = Vec::new();
    for (index, event_type, state_key, is_current) in uses {
        if message.is_some_and(|message| i64::from(message) >= index) {
            break;
        }
        let Some((event_type, state_key)) = event_type.zip(state_key).filter(|_| is_current) else {
            break;
        };
        first = Some(index);
        tuples.push(StateTuple::new(event_type, state_key));
    }
    let Some(first) = first else { return Ok(None) };
    let later: Vec<(String,)> = sqlx::query_as(
        "SELECT DISTINCT session_id FROM state_events \
         WHERE room_id = ? AND sender = ? AND tick > ? AND session_id <> ? AND verdict = 'accepted'",
    )
    .bind(room.as_str())
    .bind(creator.as_str())
    .bind(tick)
    .bind(session_id)
    .fetch_all(connection)
    .await?;
    Ok(Some(MemberSession {
        creator,
        message_index: u32::try_from(first).map_err(StoreError::corrupt("message index"))?,
        tuples,
        later: later.into_iter().map(|(id,)| id).collect(),
    }))
}
