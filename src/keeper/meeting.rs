//! Meeting newcomers early: while the event that names them is still being committed and taken in, their devices
//! are asked for and Olm sessions with these are opened, so that the key finds its way made when it is decided
//! upon. Nothing is decided here and no key leaves from here; a meeting that is missed costs time and nothing else.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use tokio::sync::{
    mpsc::{Receiver, Sender, channel},
    watch,
};

use super::{KeeperError, ingest::Taker};
use crate::{appservice::IncomingEvent, crypto::Turn, state::Membership, store::rooms};

/// How many newcomers wait to be met; those beyond it are met when they are decided upon.
const MOST_WAITING: usize = 256;

/// How long news of a newcomer's devices may wait for him to be served.
const LONGEST_SERVICE: Duration = Duration::from_millis(150);

/// A user who joins a room or is invited to it.
pub type Newcomer = (OwnedRoomId, OwnedUserId);

/// The newcomers who are being served: from their event's arrival to the end of the visit that it causes.
///
/// A homeserver answers `/sync` with a newcomer's device list at the same moment. To take that in is to ask for the
/// same devices again, and gets in the way of the key that he waits for; so it comes second.
#[derive(Clone, Debug)]
pub struct Newcomers {
    to_meet: Sender<Newcomer>,
    at_the_door: Arc<watch::Sender<BTreeSet<OwnedUserId>>>,
}

impl Newcomers {
    /// With nobody at the door, and the end at which [`meet`] listens.
    pub fn new() -> (Self, Receiver<Newcomer>) {
        let (to_meet, arriving) = channel(MOST_WAITING);
        let at_the_door = Arc::new(watch::Sender::new(BTreeSet::new()));
        (Self { to_meet, at_the_door }, arriving)
    }

    /// Somebody comes. One who finds no place is met when he is decided upon.
    pub fn arrive(&self, newcomer: Newcomer) {
        let user = newcomer.1.clone();
        if self.to_meet.try_send(newcomer).is_err() {
            return;
        }
        self.at_the_door.send_if_modified(|users| users.len() < MOST_WAITING && users.insert(user));
    }

    /// Nobody waits for these any more: they have been served, or there is nothing to serve.
    pub fn served<'a>(&self, served: impl IntoIterator<Item = &'a OwnedUserId>) {
        self.at_the_door.send_if_modified(|users| {
            let before = users.len();
            for user in served {
                users.remove(user);
            }
            users.len() != before
        });
    }

    /// Returns once none of `users` is being served, and soon in any case.
    pub async fn serve_first(&self, users: &[OwnedUserId]) {
        let mut door = self.at_the_door.subscribe();
        let nobody = door.wait_for(|waiting| !users.iter().any(|user| waiting.contains(user)));
        if tokio::time::timeout(LONGEST_SERVICE, nobody).await.is_err() {
            self.served(users);
        }
    }
}

impl Turn for Newcomers {
    /// Work that can wait gives way: returns once nobody is being served, and soon in any case. Who is not served by
    /// then is not waited for again.
    async fn come(&self) {
        if self.at_the_door.borrow().is_empty() {
            return;
        }
        let mut door = self.at_the_door.subscribe();
        let waiting = door.borrow_and_update().clone();
        let nobody = door.wait_for(|still| waiting.is_disjoint(still));
        if tokio::time::timeout(LONGEST_SERVICE, nobody).await.is_err() {
            self.served(&waiting);
        }
    }
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
pub async fn meet(
    taker: Taker,
    newcomers: Newcomers,
    mut arriving: Receiver<Newcomer>,
) -> Result<(), KeeperError> {
    let mut waiting = Vec::new();
    while arriving.recv_many(&mut waiting, MOST_WAITING).await > 0 {
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
                } else {
                    newcomers.served([&user]);
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

    #[tokio::test]
    async fn news_of_a_newcomer_wait_until_he_is_served_and_not_for_ever() {
        let (newcomers, _arriving) = Newcomers::new();
        let bob: OwnedUserId = user_id!("@bob:localhost").to_owned();
        let everybody = [bob.clone()];
        // Nobody is at the door: at once.
        newcomers.serve_first(&everybody).await;
        newcomers.arrive((room_id!("!room:localhost").to_owned(), bob.clone()));
        let mut waits = std::pin::pin!(newcomers.serve_first(&everybody));
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        newcomers.served([&bob]);
        assert!(futures_util::poll!(waits.as_mut()).is_ready());
        // Nobody ever says that he was served: the time is up, and he is forgotten.
        newcomers.arrive((room_id!("!room:localhost").to_owned(), bob));
        newcomers.serve_first(&everybody).await;
        assert!(newcomers.at_the_door.borrow().is_empty());
    }

    #[tokio::test]
    async fn work_that_can_wait_gives_way_to_whoever_is_at_the_door_once() {
        let (newcomers, _arriving) = Newcomers::new();
        newcomers.come().await;
        let room = room_id!("!room:localhost");
        let [bob, carol] = [user_id!("@bob:localhost"), user_id!("@carol:localhost")];
        newcomers.arrive((room.to_owned(), bob.to_owned()));
        let mut waits = std::pin::pin!(newcomers.come());
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        // Those who come later are waited for the next time.
        newcomers.arrive((room.to_owned(), carol.to_owned()));
        newcomers.served([&bob.to_owned()]);
        assert!(futures_util::poll!(waits.as_mut()).is_ready());
        assert!(newcomers.at_the_door.borrow().contains(carol));
        newcomers.come().await;
        assert!(newcomers.at_the_door.borrow().is_empty());
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
