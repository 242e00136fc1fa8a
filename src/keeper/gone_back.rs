//! Noticing that the store went back in time: a copy of it, or of the whole machine, was put back. The ratchets in it are
//! then where they were when the copy was made, and the next thing that they encrypt would stand at an index that was used
//! already: whoever has both can tell them apart by their content alone.
//!
//! What shows it are events of the keeper's own which this store never encrypted. Before the device is used at all, the
//! homeserver is asked, in one request, for those that came since the store last heard of it; the newest events of a room
//! are looked at once more before anything is sealed there under a session from before the start; later ones show it when
//! they come. Then every session from before the start retires, in all rooms, and the keeper begins anew with another
//! device ([`super::renewal`]). What a process made itself is of today: no event speaks against that.
//!
//! What devices sealed that were the keeper's before the one that it has shows nothing: what a store forgot when it went
//! back, it still does not know after that was mended.
//!
//! Recovery: that another device is due stands in the store, in the commit that notes the cause. What was noticed and not
//! noted stands in the room, and is noticed again by the next start.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use ruma::{DeviceId, OwnedRoomId, RoomId, UserId};
use serde_json::value::RawValue;
use sqlx::SqliteConnection;

use super::{
    KeeperError,
    clock::now_ms,
    decide::{Knowledge, Seal},
    ingest::Taker,
    lane::Visit,
    renewal::Cause,
};
use crate::{
    state::{MegolmContent, RoomEvent},
    store::{Retired, meta, renewal, sessions, set_meta},
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

/// Notes that the device has to be replaced by another one, as part of the caller's transaction.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn note(db: &mut SqliteConnection) -> Result<(), KeeperError> {
    if meta(db, renewal::DUE).await?.is_none() {
        set_meta(db, renewal::DUE, Cause::GoneBack.as_str()).await?;
    }
    Ok(())
}

/// Looks whether any of these events of the keeper's own is one that this store did not encrypt, and notes it then.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn look_at(
    db: &mut SqliteConnection,
    keeper: &UserId,
    device: &DeviceId,
    seals: &[(OwnedRoomId, Box<RawValue>)],
) -> Result<(), KeeperError> {
    for (room, body) in seals {
        let Ok(event) = RoomEvent::parse_str(body.get()) else { continue };
        if event.sender != *keeper || event.state_key.is_none() {
            continue;
        }
        let Ok(megolm) = MegolmContent::parse(&event.content) else { continue };
        let strange =
            !sessions::has_encrypted(db, room, &megolm.session_id, megolm.message_index).await?;
        if strange && shows_it(db, device, &event, &megolm).await? {
            tell(room, &event);
            return note(db).await;
        }
    }
    Ok(())
}

/// Whether an event of the keeper's own that this store did not encrypt shows that it went back, where `device` is the
/// keeper's. Of a device that is not known it may be as old as can be: then the store was lost before, and not this one.
async fn shows_it(
    db: &mut SqliteConnection,
    device: &DeviceId,
    event: &RoomEvent,
    megolm: &MegolmContent,
) -> Result<bool, KeeperError> {
    let by = megolm.device_id.as_deref().unwrap_or_default();
    if by == device.as_str() {
        return Ok(true);
    }
    if renewal::is_former(db, by).await? {
        return Ok(false);
    }
    let since = meta(db, renewal::DEVICE_SINCE).await?.and_then(|since| since.parse().ok());
    let later = event.origin_server_ts >= since.unwrap_or(0);
    if later {
        // Whatever comes of it, it is not noticed twice.
        renewal::put_former(db, by, now_ms()).await?;
    }
    Ok(later)
}

fn tell(room: &RoomId, event: &RoomEvent) {
    tracing::error!(%room, event = %event.event_id,
        "the store does not know an event that the keeper sealed: it was put back from an older copy; nothing in it goes \
         on where it was, and the keeper makes another device");
}

/// Weighs an event of the keeper's own. Returns whether this store did not encrypt it; where that shows that the store
/// went back, all sessions from before the start retire, and another device is due.
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
    if !taker.is_of_today && shows_it(db, taker.device.device_id(), event, megolm).await? {
        tell(room, event);
        sessions::retire_before(db, taker.began_at, Retired::Restored, now_ms()).await?;
        note(db).await?;
        taker.renewal.notify_one();
    }
    Ok(true)
}

/// Returns once another device is due, by what was noticed while the keeper ran. What says so wakes it from within the
/// transaction that notes it.
///
/// # Errors
///
/// [`KeeperError::Renewal`] then; another one when the store fails.
pub(super) async fn end_when_due(taker: Taker) -> Result<(), KeeperError> {
    loop {
        taker.renewal.notified().await;
        // There is one writer: whoever gets here comes after that transaction.
        let mut transaction = taker.store.begin().await?;
        if meta(&mut transaction, renewal::DUE).await?.is_some() {
            return Err(KeeperError::Renewal);
        }
    }
}

impl Visit<'_> {
    /// Looks at the room's newest events before the first seal under sessions from before the start.
    ///
    /// # Errors
    ///
    /// [`KeeperError::Renewal`] when the store went back; another one when the homeserver is away or the store fails:
    /// nothing may be sealed before it was looked at.
    pub(super) async fn look_whether_gone_back(
        &self,
        known: &Knowledge,
        seals: &[Seal],
    ) -> Result<(), KeeperError> {
        let (taker, room) = (&self.lanes.taker, &self.room.room_id);
        let goes_on = |seal: &Seal| {
            let view = known.tuples.get(seal.tuple);
            view.is_some_and(|view| view.active.is_some())
        };
        let looked = taker.is_of_today || self.lanes.checked.contains(room);
        if looked || !seals.iter().any(goes_on) {
            return Ok(());
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
        for event in own {
            if let Ok(megolm) = MegolmContent::parse(&event.content) {
                weigh(taker, &mut transaction, room, &event, &megolm).await?;
            }
        }
        let due = meta(&mut transaction, renewal::DUE).await?.is_some();
        transaction.commit().await?;
        if due {
            return Err(KeeperError::Renewal);
        }
        self.lanes.checked.insert(room);
        Ok(())
    }
}
