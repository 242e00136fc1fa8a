//! What is about to be sent, or may have been sent: after a restart it is repeated to the letter.

use ruma::{EventId, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

use super::{Result, Store, StoreError};
use crate::state::JsonMap;

/// What kind of request a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxKind {
    /// `PUT /sendToDevice`: repeated with the same transaction id and body.
    ToDevice,
    /// `PUT /state`: has no transaction id; looked at before it is repeated.
    State,
    /// `PUT /state` in plain: looked at before it is repeated, too.
    Plain,
    /// `PUT /redact`: repeated with the same transaction id.
    Redaction,
    /// `PUT /state` of what stands in plain already: looked at before it is said.
    Restatement,
}

impl OutboxKind {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ToDevice => "to_device",
            Self::State => "state",
            Self::Plain => "plain",
            Self::Redaction => "redaction",
            Self::Restatement => "restatement",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::ToDevice, Self::State, Self::Plain, Self::Redaction, Self::Restatement]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }
}

/// Which grants a to-device request carries out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ToDeviceDetail {
    /// The session that it hands over.
    pub session_id: String,
    /// To whom.
    pub recipients: Vec<(OwnedUserId, OwnedDeviceId)>,
    /// The bundle that it hands over instead of a session.
    #[serde(default)]
    pub bundle_id: Option<i64>,
}

/// What has to be known about a sealed event besides its ciphertext.
#[derive(Clone, Serialize, Deserialize)]
pub struct StateDetail {
    /// The session that encrypted it.
    pub session_id: String,
    /// At which index.
    pub message_index: u32,
    /// The source event that it stands for.
    pub stands_for: OwnedEventId,
    /// What stood at the packed state key when it was made.
    pub based_on: Option<OwnedEventId>,
    /// Why it was made: `reseal`, `join`, `device`, `restore`, `plain`.
    pub cause: String,
    /// The event that is redacted once this one stands.
    #[serde(default)]
    pub redacts: Option<OwnedEventId>,
    /// The signed session key at its index, base64.
    pub snapshot: String,
    /// The tick before its sending.
    pub tick: i64,
}

impl Drop for StateDetail {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.snapshot);
    }
}

/// A copy in plain that the keeper writes.
#[derive(Clone, Serialize, Deserialize)]
pub struct PlainDetail {
    /// What it is: `mirror`, `stub`, `clear`, `publish`.
    pub what: String,
    /// Its content.
    pub content: JsonMap,
    /// The source event that the tuple had when it was decided.
    pub source: OwnedEventId,
    /// What stood in plain when it was made.
    pub based_on: Option<OwnedEventId>,
    /// The event that is redacted once this one stands.
    pub redacts: Option<OwnedEventId>,
}

/// A request to be written down.
#[derive(Clone)]
pub struct NewOutbox {
    /// What kind.
    pub kind: OutboxKind,
    /// The transaction id where the endpoint has one.
    pub txn_id: String,
    /// The event type in the endpoint's path; of a sealed event, the true type.
    pub event_type: String,
    /// The state key, of a sealed event the true one; the event to be redacted.
    pub state_key: String,
    /// The request's body, as it is sent; of a redaction, its reason; of a restatement, the forged event that is its
    /// cause; of a copy in plain, nothing: its detail has it.
    pub body: String,
    /// The locked detail.
    pub detail: Vec<u8>,
}

/// A request as it was written down.
#[derive(Clone)]
pub struct OutboxRow {
    /// Its number: requests of a room go out in this order.
    pub id: i64,
    /// The room that it is about.
    pub room_id: OwnedRoomId,
    /// The request.
    pub request: NewOutbox,
}

/// Writes a request down. Returns its number.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn insert(
    connection: &mut SqliteConnection,
    room: &RoomId,
    request: &NewOutbox,
    now: i64,
) -> Result<i64> {
    let done = sqlx::query(
        "INSERT INTO outbox (room_id, kind, txn_id, event_type, state_key, body, detail, created_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(room.as_str())
    .bind(request.kind.as_str())
    .bind(&request.txn_id)
    .bind(&request.event_type)
    .bind(&request.state_key)
    .bind(request.body.as_bytes())
    .bind(&request.detail)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(done.last_insert_rowid())
}

/// Whether a sealed event of a room is about to be sent, or was and is not noted yet: what is current is about to change.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn is_sealing(connection: &mut SqliteConnection, room: &RoomId) -> Result<bool> {
    let (any,): (bool,) =
        sqlx::query_as("SELECT EXISTS (SELECT 1 FROM outbox WHERE room_id = ? AND kind = ?)")
            .bind(room.as_str())
            .bind(OutboxKind::State.as_str())
            .fetch_one(connection)
            .await?;
    Ok(any)
}

/// Whether a request to redact an event is written down.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn redacts(
    connection: &mut SqliteConnection,
    room: &RoomId,
    event: &EventId,
) -> Result<bool> {
    let (redacts,): (bool,) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM outbox WHERE room_id = ? AND kind = ? AND state_key = ?)",
    )
    .bind(room.as_str())
    .bind(OutboxKind::Redaction.as_str())
    .bind(event.as_str())
    .fetch_one(connection)
    .await?;
    Ok(redacts)
}

/// Strikes a request off: it was carried out, or will never be.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn remove(connection: &mut SqliteConnection, id: i64) -> Result<()> {
    sqlx::query("DELETE FROM outbox WHERE id = ?").bind(id).execute(connection).await?;
    Ok(())
}

/// Drops every request of a room.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn clear(connection: &mut SqliteConnection, room: &RoomId) -> Result<()> {
    sqlx::query("DELETE FROM outbox WHERE room_id = ?")
        .bind(room.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// A room's requests in their order.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn of_room(connection: &mut SqliteConnection, room: &RoomId) -> Result<Vec<OutboxRow>> {
    type Columns = (i64, String, String, String, String, Vec<u8>, Vec<u8>);
    let rows: Vec<Columns> = sqlx::query_as(
        "SELECT id, kind, txn_id, event_type, state_key, body, detail FROM outbox \
         WHERE room_id = ? ORDER BY id",
    )
    .bind(room.as_str())
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(id, kind, txn_id, event_type, state_key, body, detail)| {
            let kind =
                OutboxKind::parse(&kind).ok_or(StoreError::Corrupt { what: "kind of request" })?;
            let body = String::from_utf8(body).map_err(StoreError::corrupt("request body"))?;
            let request = NewOutbox { kind, txn_id, event_type, state_key, body, detail };
            Ok(OutboxRow { id, room_id: room.to_owned(), request })
        })
        .collect()
}

/// The rooms that have requests written down.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn rooms(connection: &mut SqliteConnection) -> Result<Vec<OwnedRoomId>> {
    let rows: Vec<(String,)> =
        sqlx::query_as("SELECT DISTINCT room_id FROM outbox").fetch_all(connection).await?;
    rows.into_iter().map(|(id,)| id.try_into().map_err(StoreError::corrupt("room id"))).collect()
}

/// How many requests are written down.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be read.
pub async fn count(connection: &mut SqliteConnection) -> Result<i64> {
    let (count,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM outbox").fetch_one(connection).await?;
    Ok(count)
}

impl OutboxRow {
    /// The detail of a to-device request.
    ///
    /// # Errors
    ///
    /// [`StoreError::Cipher`] when it is damaged.
    pub fn to_device(&self, store: &Store) -> Result<ToDeviceDetail> {
        store.unlock(&self.request.detail)
    }

    /// The detail of a sealed event.
    ///
    /// # Errors
    ///
    /// [`StoreError::Cipher`] when it is damaged.
    pub fn state(&self, store: &Store) -> Result<StateDetail> {
        store.unlock(&self.request.detail)
    }

    /// The detail of a copy in plain.
    ///
    /// # Errors
    ///
    /// [`StoreError::Cipher`] when it is damaged.
    pub fn plain(&self, store: &Store) -> Result<PlainDetail> {
        store.unlock(&self.request.detail)
    }
}
