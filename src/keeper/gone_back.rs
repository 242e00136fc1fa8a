//! Noticing that the store went back in time: a copy of it, or of the whole machine, was put back. The state sessions
//! in it are then where they were when the copy was made, and the next thing that they encrypt would stand at an index
//! that was used already: whoever has both events can tell them apart by their content alone.
//!
//! What shows it are events of the keeper's own which this store never encrypted. The newest events of a room are looked
//! at before anything is sealed there under a session from before the start; later ones show it when they come. Every
//! session from before the start is retired then, in all rooms: what a process made itself is of today.
//!
//! Recovery: what is noticed stands in the room, and is noticed again by the next start.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use ruma::{OwnedRoomId, RoomId};
use sqlx::SqliteConnection;

use super::{
    KeeperError,
    clock::now_ms,
    decide::{Knowledge, Seal},
    ingest::Taker,
    lane::Visit,
};
use crate::{
    state::{MegolmContent, Membership, RoomEvent},
    store::{Retired, marks, rooms, sessions},
};

/// How many of a room's newest events are looked at.
const LOOK_BACK: u32 = 100;

/// The rooms whose newest events this process has looked at.
#[derive(Debug, Default)]
pub struct Checked {
    rooms: Mutex<HashSet<OwnedRoomId>>,
}

impl Checked {
    fn contains(&self, room: &RoomId) -> bool {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner).contains(room)
    }

    fn insert(&self, room: &RoomId) {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner).insert(room.to_owned());
    }
}

/// Weighs an event of the keeper's own: where this store did not encrypt it, the store went back, and all sessions from
/// before the start retire. Returns whether any did.
pub(super) async fn weigh(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomId,
    event: &RoomEvent,
    megolm: &MegolmContent,
) -> Result<bool, KeeperError> {
    if sessions::has_encrypted(db, room, &megolm.session_id, megolm.message_index).await? {
        return Ok(false);
    }
    let now = now_ms();
    let retired = sessions::retire_before(db, taker.began_at, Retired::Restored, now).await?;
    if retired == 0 {
        return Ok(false);
    }
    tracing::error!(%room, event = %event.event_id, retired,
        "the store does not know an event that the keeper sealed: it was put back from an older copy; all state \
         sessions in it are retired, and what comes next is sealed under new ones");
    for room in rooms::all(db).await? {
        if room.membership == Membership::Join && room.state_encrypted {
            marks::mark(db, &room.room_id, None, now, taker.store.next_tick()).await?;
        }
    }
    Ok(true)
}

impl Visit<'_> {
    /// Looks at the room's newest events before the first seal under sessions from before the start. Returns whether
    /// these are retired now, and another decision is due.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the homeserver is away or the store fails: nothing may be sealed before it was looked at.
    pub(super) async fn went_back(
        &self,
        known: &Knowledge,
        seals: &[Seal],
    ) -> Result<bool, KeeperError> {
        let (taker, room) = (&self.lanes.taker, &self.room.room_id);
        let goes_on = |seal: &Seal| {
            let view = known.tuples.get(seal.tuple);
            view.is_some_and(|view| view.active.is_some())
        };
        if !seals.iter().any(goes_on) || self.lanes.checked.contains(room) {
            return Ok(false);
        }
        let bodies = match self.lanes.homeserver.recent_events(room, LOOK_BACK).await {
            Ok(bodies) => bodies,
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%room, %error, "the newest events could not be looked at before a seal");
                Vec::new()
            }
        };
        let own = bodies.iter().filter_map(|body| RoomEvent::parse_str(body.get()).ok());
        let own = own.filter(|event| event.sender == taker.keeper && event.state_key.is_some());
        let mut transaction = taker.store.begin().await?;
        let mut any = false;
        for event in own {
            if let Ok(megolm) = MegolmContent::parse(&event.content) {
                any |= weigh(taker, &mut transaction, room, &event, &megolm).await?;
            }
        }
        transaction.commit().await?;
        self.lanes.checked.insert(room);
        Ok(any)
    }
}
