//! Rooms and their state.

use bytes::Bytes;
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, UserId};
use serde::Deserialize;
use serde_json::{json as object, value::RawValue};

use super::{Endpoint, Homeserver, HomeserverError, found, json, path::Path, read};

/// A whole state event, with `event_id`, `sender` and all, as the homeserver gave it: JSON that
/// nobody has read yet.
#[derive(Clone, Debug)]
pub struct RawStateEvent(pub Box<RawValue>);

/// What comes back for an event that was sent.
#[derive(Deserialize)]
pub(super) struct Sent {
    pub(super) event_id: OwnedEventId,
}

impl Homeserver {
    /// Sends a state event (client-server API, "PUT
    /// /rooms/{roomId}/state/{eventType}/{stateKey}"). `content` goes out byte for byte.
    ///
    /// **Not idempotent in general**: there is no transaction id. Content that equals the current
    /// state's gives the current event's id and no new event; but after somebody else's edit a
    /// repetition overwrites that edit. Before repeating, look with
    /// [`get_state_event`](Self::get_state_event).
    pub async fn put_state(
        &self,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
        content: &RawValue,
    ) -> Result<OwnedEventId, HomeserverError> {
        let endpoint = Endpoint::StatePut;
        let body = Bytes::copy_from_slice(content.get().as_bytes());
        let answer = self.put(endpoint, state_path(room_id, event_type, state_key), body).await?;
        read::<Sent>(endpoint, &answer).map(|sent| sent.event_id)
    }

    /// The current state event of this type and state key (client-server API, "GET
    /// /rooms/{roomId}/state/{eventType}/{stateKey}" with `format=event`); `None` if there is none.
    /// Only looks.
    pub async fn get_state_event(
        &self,
        room_id: &RoomId,
        event_type: &str,
        state_key: &str,
    ) -> Result<Option<RawStateEvent>, HomeserverError> {
        let endpoint = Endpoint::StateEventGet;
        let path = state_path(room_id, event_type, state_key).query("format", "event");
        let Some(answer) = found(self.get(endpoint, path).await)? else { return Ok(None) };
        Ok(Some(RawStateEvent(read(endpoint, &answer)?)))
    }

    /// All current state events of a room (client-server API, "GET /rooms/{roomId}/state"), unread.
    /// Only looks; 403 for a room that the bot is not in.
    pub async fn room_state(
        &self,
        room_id: &RoomId,
    ) -> Result<Vec<Box<RawValue>>, HomeserverError> {
        let path = Path::v3(&["rooms", room_id.as_str(), "state"]);
        read(Endpoint::StateGet, &self.get(Endpoint::StateGet, path).await?)
    }

    /// The member events of a room (client-server API, "GET /rooms/{roomId}/members"), unread, all
    /// memberships. Only looks.
    pub async fn members(&self, room_id: &RoomId) -> Result<Vec<Box<RawValue>>, HomeserverError> {
        #[derive(Deserialize)]
        struct Members {
            chunk: Vec<Box<RawValue>>,
        }
        let path = Path::v3(&["rooms", room_id.as_str(), "members"]);
        let answer = self.get(Endpoint::Members, path).await?;
        read::<Members>(Endpoint::Members, &answer).map(|members| members.chunk)
    }

    /// The rooms that the bot is in (client-server API, "GET /joined_rooms"). Only looks. Entries
    /// that are no room ids are left out.
    pub async fn joined_rooms(&self) -> Result<Vec<OwnedRoomId>, HomeserverError> {
        #[derive(Deserialize)]
        struct Joined {
            joined_rooms: Vec<String>,
        }
        let endpoint = Endpoint::JoinedRooms;
        let joined: Joined =
            read(endpoint, &self.get(endpoint, Path::v3(&["joined_rooms"])).await?)?;
        Ok(joined.joined_rooms.into_iter().filter_map(|id| id.try_into().ok()).collect())
    }

    /// Joins a room (client-server API, "POST /join/{roomIdOrAlias}"), by way of the servers `via`.
    /// May be repeated at will: in a room that the bot is in already it does nothing.
    pub async fn join(
        &self,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Result<(), HomeserverError> {
        let mut path = Path::v3(&["join", room_id.as_str()]);
        for server in via {
            // Spec v1.12 renamed `server_name` to `via`; older homeservers know the old name alone.
            path = path.query("via", server.as_str()).query("server_name", server.as_str());
        }
        self.post(Endpoint::Join, path, empty()).await.map(drop)
    }

    /// Leaves a room, or rejects its invite (client-server API, "POST /rooms/{roomId}/leave"). May
    /// be repeated: in a room that the bot has left already it does nothing.
    pub async fn leave(&self, room_id: &RoomId) -> Result<(), HomeserverError> {
        let path = Path::v3(&["rooms", room_id.as_str(), "leave"]);
        self.post(Endpoint::Leave, path, empty()).await.map(drop)
    }

    /// Invites a user (client-server API, "POST /rooms/{roomId}/invite"). Of a user who is in the
    /// room already it is refused (403); repeated for an invited one it makes one more event.
    pub async fn invite(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        reason: Option<&str>,
    ) -> Result<(), HomeserverError> {
        let endpoint = Endpoint::Invite;
        let mut body = object!({ "user_id": user_id });
        if let (Some(reason), Some(body)) = (reason, body.as_object_mut()) {
            body.insert("reason".to_owned(), reason.into());
        }
        let path = Path::v3(&["rooms", room_id.as_str(), "invite"]);
        self.post(endpoint, path, json(endpoint, &body)?).await.map(drop)
    }

    /// Puts a user out of a room, or withdraws an invite (client-server API, "POST /rooms/{roomId}/kick"). Of a user who
    /// is out already it is refused (403).
    pub async fn kick(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), HomeserverError> {
        let endpoint = Endpoint::Kick;
        let path = Path::v3(&["rooms", room_id.as_str(), "kick"]);
        let body = json(endpoint, &object!({ "user_id": user_id }))?;
        self.post(endpoint, path, body).await.map(drop)
    }

    /// Sends an event that is no state (client-server API, "PUT /rooms/{roomId}/send/{eventType}/{txnId}");
    /// returns its id. `body` is its content, and goes out byte for byte. May be repeated with the same
    /// `txn_id` as long as the homeserver remembers it.
    pub async fn send_event(
        &self,
        room_id: &RoomId,
        event_type: &str,
        txn_id: &str,
        body: &RawValue,
    ) -> Result<OwnedEventId, HomeserverError> {
        let endpoint = Endpoint::SendMessage;
        let path = Path::v3(&["rooms", room_id.as_str(), "send", event_type, txn_id]);
        let body = Bytes::copy_from_slice(body.get().as_bytes());
        let answer = self.put(endpoint, path, body).await?;
        read::<Sent>(endpoint, &answer).map(|sent| sent.event_id)
    }

    /// Redacts an event (client-server API, "PUT /rooms/{roomId}/redact/{eventId}/{txnId}"); returns
    /// the redaction's id. May be repeated with the same `txn_id`; once the homeserver has forgotten
    /// it, a repetition is one more redaction of the same event, which changes nothing.
    pub async fn redact(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
        txn_id: &str,
        reason: Option<&str>,
    ) -> Result<OwnedEventId, HomeserverError> {
        let endpoint = Endpoint::Redact;
        let segments = ["rooms", room_id.as_str(), "redact", event_id.as_str(), txn_id];
        let body = match reason {
            Some(reason) => json(endpoint, &object!({ "reason": reason }))?,
            None => empty(),
        };
        let answer = self.put(endpoint, Path::v3(&segments), body).await?;
        read::<Sent>(endpoint, &answer).map(|sent| sent.event_id)
    }

    /// The newest `limit` events of a room's timeline (client-server API, "GET /rooms/{roomId}/messages"), newest
    /// first, unread. Only looks.
    pub async fn recent_events(
        &self,
        room_id: &RoomId,
        limit: u32,
    ) -> Result<Vec<Box<RawValue>>, HomeserverError> {
        #[derive(serde::Deserialize)]
        struct Chunk {
            chunk: Vec<Box<RawValue>>,
        }
        let path = Path::v3(&["rooms", room_id.as_str(), "messages"])
            .query("dir", "b")
            .query("limit", &limit.to_string());
        let answer = self.get(Endpoint::Messages, path).await?;
        read::<Chunk>(Endpoint::Messages, &answer).map(|page| page.chunk)
    }

    /// One event (client-server API, "GET /rooms/{roomId}/event/{eventId}"), unread; `None` if it is
    /// not there or the bot may not see it. Only looks.
    pub async fn event(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Option<Box<RawValue>>, HomeserverError> {
        let path = Path::v3(&["rooms", room_id.as_str(), "event", event_id.as_str()]);
        let Some(answer) = found(self.get(Endpoint::Event, path).await)? else { return Ok(None) };
        read(Endpoint::Event, &answer).map(Some)
    }

    /// What stood in a room, of these types, when an event had been sent (client-server API, "GET
    /// /rooms/{roomId}/context/{eventId}"), unread; `None` if the event is not there or the bot may
    /// not see it. Only looks.
    pub async fn state_at(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
        types: &[&str],
    ) -> Result<Option<Vec<Box<RawValue>>>, HomeserverError> {
        #[derive(Deserialize)]
        struct Context {
            state: Vec<Box<RawValue>>,
        }
        let filter = object!({ "types": types }).to_string();
        let path = Path::v3(&["rooms", room_id.as_str(), "context", event_id.as_str()])
            .query("limit", "0")
            .query("filter", &filter);
        let Some(answer) = found(self.get(Endpoint::Context, path).await)? else { return Ok(None) };
        read::<Context>(Endpoint::Context, &answer).map(|context| Some(context.state))
    }
}

fn state_path(room_id: &RoomId, event_type: &str, state_key: &str) -> Path {
    let mut segments = vec!["rooms", room_id.as_str(), "state", event_type];
    // Spec: for an empty state key the last segment may be left out; a slash at the end, which
    // would stand for it, is what some proxies cut off or redirect.
    if !state_key.is_empty() {
        segments.push(state_key);
    }
    Path::v3(&segments)
}

/// The empty object, where the spec wants a body and we have nothing to say.
fn empty() -> Bytes {
    Bytes::from_static(b"{}")
}
