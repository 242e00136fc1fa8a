//! Rooms that go on in others: where an old room says so, the keeper comes into the new one, and keeps it by the rules
//! of the old one where both say that they belong together.
//!
//! Whoever may send a tombstone governs the old room; whoever makes a room may name any other as its predecessor. So
//! neither side's word is enough for a policy that names the old room, and for what administrators said there.
//!
//! Recovery: a join that was sent and not noted is found at the next start among the joined rooms, or is sent again: to
//! join twice is to join once.

use std::{sync::Arc, time::Duration};

use ruma::RoomId;
use sqlx::SqliteConnection;
use tokio::sync::Notify;

use super::{
    KeeperError,
    clock::now_ms,
    ingest::{Arrival, Taker},
    pacing::unreachable_wait,
    places,
    rooms::note_joined,
};
use crate::{
    homeserver::{Homeserver, HomeserverError},
    state::{
        Membership, RoomEvent,
        succession::{predecessor, successor},
    },
    store::{Followed, RoomRow, SuccessionRow, rooms, successions},
};

/// How often it is looked whether a room goes on in another.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Takes in what a room says of its successor or its predecessor.
pub(super) async fn take(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let own = &room.room_id;
    match (event.event_type.as_str(), event.state_key.as_deref()) {
        ("m.room.tombstone", Some("")) => {
            let Some(new) = successor(&event.content).filter(|new| new != own) else {
                return Ok(());
            };
            let before = places::rules_of(taker, db, Some(&new)).await?;
            let via = Some(event.sender.server_name());
            if successions::say(db, (own, &new), event.event_id.as_str(), via).await? {
                tracing::info!(room = %own, successor = %new, "a room goes on in another one");
            }
            settle(db, (own, &new)).await?;
            places::mark_changed(taker, db, before).await?;
        }
        ("m.room.create", Some("")) => {
            let Some(old) = predecessor(&event.content).filter(|old| old != own) else {
                return Ok(());
            };
            // While a room's state is being taken in, it is decided upon at the end of it.
            let before = places::rules_of(taker, db, arrival.live.then_some(own)).await?;
            successions::claim(db, (&old, own)).await?;
            settle(db, (&old, own)).await?;
            places::mark_changed(taker, db, before).await?;
        }
        _ => {}
    }
    Ok(())
}

/// Where both sides say it, what administrators said of users in the old room holds in the new one.
async fn settle(
    db: &mut SqliteConnection,
    (old, new): (&RoomId, &RoomId),
) -> Result<(), KeeperError> {
    if successions::predecessor(db, new).await?.as_deref() == Some(old) {
        successions::carry_words(db, (old, new)).await?;
    }
    Ok(())
}

/// Notes that the keeper itself makes a room in place of another one.
pub(super) async fn make(
    db: &mut SqliteConnection,
    (old, new): (&RoomId, &RoomId),
    order: &str,
) -> Result<(), KeeperError> {
    successions::say(db, (old, new), order, None).await?;
    successions::claim(db, (old, new)).await?;
    settle(db, (old, new)).await
}

/// Follows rooms into those that they go on in.
pub(super) struct Successors {
    /// Whose rooms.
    pub(super) taker: Taker,
    /// The homeserver.
    pub(super) homeserver: Homeserver,
    /// Told of rooms to learn of.
    pub(super) promised: Arc<Notify>,
}

impl Successors {
    /// Follows for ever, one at a time.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub(super) async fn run(self) -> Result<(), KeeperError> {
        loop {
            let due = successions::due(&mut *self.taker.store.read().await?, now_ms()).await?;
            match due {
                Some(row) => self.follow(&row).await?,
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    async fn follow(&self, row: &SuccessionRow) -> Result<(), KeeperError> {
        let known = rooms::get(&mut *self.taker.store.read().await?, &row.new_id).await?;
        let is_in = known.is_some_and(|room| room.membership == Membership::Join);
        let done = if is_in { Ok(()) } else { self.join(row).await };
        let store = &self.taker.store;
        let now = now_ms();
        let mut transaction = store.begin().await?;
        match done {
            Ok(()) => {
                successions::conclude(&mut transaction, row, Followed::Joined, now).await?;
                if note_joined(&self.taker, &mut transaction, &row.new_id).await? {
                    tracing::info!(room = %row.old_id, successor = %row.new_id,
                        "joined the room that another one goes on in");
                }
            }
            Err(error) => {
                if row.attempts == 0 {
                    tracing::warn!(room = %row.old_id, successor = %row.new_id, %error,
                        change = format!("invite {} into {}", self.taker.keeper, row.new_id),
                        "a room goes on in another one, which the keeper cannot join");
                }
                let again = now.saturating_add(unreachable_wait(row.attempts));
                successions::conclude(&mut transaction, row, Followed::CannotJoin, again).await?;
            }
        }
        transaction.commit().await?;
        self.promised.notify_one();
        Ok(())
    }

    async fn join(&self, row: &SuccessionRow) -> Result<(), HomeserverError> {
        let via: Vec<_> = row.via.iter().cloned().collect();
        self.homeserver.join(&row.new_id, &via).await
    }
}
