//! Meeting newcomers early: while the event that names them is still being committed and taken in, their devices
//! are asked for and Olm sessions with these are opened, so that the key finds its way made when it is decided
//! upon. Nothing is decided here and no key leaves from here; a meeting that is missed costs time and nothing else.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{KeeperError, ingest::Taker};
use crate::{appservice::IncomingEvent, state::Membership, store::rooms};

/// How many newcomers wait to be met; those beyond it are met when they are decided upon.
const MOST_WAITING: usize = 256;

/// A user who joins a room or is invited to it.
pub type Newcomer = (OwnedRoomId, OwnedUserId);

/// The two ends of the way to [`meet`].
pub fn newcomers() -> (Sender<Newcomer>, Receiver<Newcomer>) {
    channel(MOST_WAITING)
}

/// The newcomer of whom an event tells, if it does.
pub fn newcomer(event: &IncomingEvent) -> Option<Newcomer> {
    #[derive(Deserialize)]
    struct Content {
        membership: String,
    }
    #[derive(Deserialize)]
    struct Head {
        #[serde(rename = "type")]
        event_type: String,
        state_key: String,
        content: Content,
    }
    // Most events are messages, and their content is not read for nothing.
    if !event.body.get().contains("m.room.member") {
        return None;
    }
    let head: Head = serde_json::from_str(event.body.get()).ok()?;
    let comes = matches!(head.content.membership.as_str(), "join" | "invite");
    if head.event_type != "m.room.member" || !comes {
        return None;
    }
    Some((event.room_id.clone(), head.state_key.try_into().ok()?))
}

/// Meets newcomers until the other end is gone.
///
/// # Errors
///
/// [`KeeperError`] when the store fails; a homeserver that fails is asked again when they are decided upon.
pub async fn meet(taker: Taker, mut newcomers: Receiver<Newcomer>) -> Result<(), KeeperError> {
    let mut waiting = Vec::new();
    while newcomers.recv_many(&mut waiting, MOST_WAITING).await > 0 {
        let mut users = BTreeSet::new();
        {
            let db = &mut *taker.store.read().await?;
            for (room_id, user) in waiting.drain(..) {
                let room = rooms::get(db, &room_id).await?;
                let kept = room.is_some_and(|room| {
                    room.membership == Membership::Join && room.state_encrypted
                });
                if kept && user != taker.keeper {
                    users.insert(user);
                }
            }
        }
        if users.is_empty() {
            continue;
        }
        let users: Vec<OwnedUserId> = users.into_iter().collect();
        if let Err(error) = taker.device.meet(&users).await {
            tracing::debug!(%error, "newcomers could not be met early");
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, room_id, user_id};
    use serde_json::{Value, json};

    use super::*;

    fn event(body: &Value) -> IncomingEvent {
        IncomingEvent {
            event_id: event_id!("$event").to_owned(),
            room_id: room_id!("!room:localhost").to_owned(),
            body: serde_json::value::to_raw_value(body).unwrap(),
        }
    }

    fn member(membership: &str) -> Value {
        json!({ "type": "m.room.member", "state_key": "@bob:localhost",
            "content": { "membership": membership } })
    }

    #[test]
    fn who_joins_or_is_invited_is_a_newcomer() {
        let bob = user_id!("@bob:localhost");
        for membership in ["join", "invite"] {
            let (room, user) = newcomer(&event(&member(membership))).unwrap();
            assert_eq!((room.as_str(), &*user), ("!room:localhost", bob));
        }
        for membership in ["leave", "ban", "knock", ""] {
            assert!(newcomer(&event(&member(membership))).is_none());
        }
    }

    #[test]
    fn what_only_looks_like_a_newcomer_is_passed_over() {
        let mut message = member("join");
        message["type"] = json!("m.room.message");
        assert!(newcomer(&event(&message)).is_none());
        let mut nobody = member("join");
        nobody["state_key"] = json!("bob");
        assert!(newcomer(&event(&nobody)).is_none());
        assert!(newcomer(&event(&json!({ "type": "m.room.member" }))).is_none());
    }
}
