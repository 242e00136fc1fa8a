//! What the keeper finds when it comes: the power levels that stood when it was sent say whether it was allowed.

use std::collections::BTreeMap;

use ruma::{EventId, OwnedEventId, RoomId};

use super::{KeeperError, ingest::Taker};
use crate::{
    homeserver::Homeserver,
    state::RoomEvent,
    store::{LevelsThen, RoomRow, tuples},
};

/// Of how many events it is asked at most, each time that a room's state is fetched: the rest is judged by what
/// stands today.
const MOST_LOOKS: usize = 64;

/// The power levels that stood when events were sent, as JSON; `None` where there were none in the room.
#[derive(Debug, Default)]
pub(super) struct Hindsight(BTreeMap<OwnedEventId, LevelsThen>);

impl Hindsight {
    /// Asks which levels stood when those of `events` were sent that others encrypted and that the keeper has never
    /// seen.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the homeserver is away or the store fails. What it does not show is left out.
    pub(super) async fn look(
        taker: &Taker,
        homeserver: &Homeserver,
        room: &RoomId,
        events: &[(RoomEvent, &str)],
    ) -> Result<Self, KeeperError> {
        let mut levels = BTreeMap::new();
        let hidden = events.iter().map(|(event, _)| event);
        for event in hidden.filter(|event| is_judged(taker, event)) {
            if levels.len() >= MOST_LOOKS {
                break;
            }
            let db = &mut *taker.store.read().await?;
            if tuples::get_event(&taker.store, db, &event.event_id).await?.is_some() {
                continue;
            }
            if let Some(then) = levels_at(homeserver, room, &event.event_id).await? {
                levels.insert(event.event_id.clone(), then);
            }
        }
        Ok(Self(levels))
    }

    /// The room with the levels that stood when an event was sent, as far as that is known.
    pub(super) fn room_at(&self, room: &RoomRow, event: &EventId) -> RoomRow {
        let room = room.clone();
        match self.0.get(event) {
            Some(levels) => RoomRow { power_levels: levels.clone(), ..room },
            None => room,
        }
    }
}

/// The levels that stood when an event was sent of which the homeserver never told, where they decide about it; `None`
/// where they do not, and where the homeserver does not say.
///
/// # Errors
///
/// [`KeeperError`] when the homeserver is away.
pub(super) async fn levels_of_fetched(
    taker: &Taker,
    homeserver: &Homeserver,
    room: &RoomId,
    event: &RoomEvent,
) -> Result<Option<LevelsThen>, KeeperError> {
    if !is_judged(taker, event) {
        return Ok(None);
    }
    levels_at(homeserver, room, &event.event_id).await
}

/// Whether the levels of its time decide about an event: somebody else sealed it.
fn is_judged(taker: &Taker, event: &RoomEvent) -> bool {
    event.event_type == "m.room.encrypted"
        && event.state_key.is_some()
        && event.sender != taker.keeper
        && !event.is_redacted
}

/// The levels that stood when an event was sent; the outer `None` where the homeserver does not say.
async fn levels_at(
    homeserver: &Homeserver,
    room: &RoomId,
    event: &EventId,
) -> Result<Option<LevelsThen>, KeeperError> {
    let types = ["m.room.create", "m.room.power_levels"];
    let state = match homeserver.state_at(room, event, &types).await {
        Ok(state) => state.unwrap_or_default(),
        Err(error) if error.is_transient() => return Err(error.into()),
        Err(error) => {
            tracing::debug!(%room, %event, %error, "the levels of the past are not shown");
            return Ok(None);
        }
    };
    let state: Vec<RoomEvent> =
        state.iter().filter_map(|event| RoomEvent::parse_str(event.get()).ok()).collect();
    let of = |wanted: &str| {
        state.iter().find(|event| {
            event.event_type == wanted && event.state_key.as_deref().is_some_and(str::is_empty)
        })
    };
    // A room always has its beginning: an answer without it says nothing.
    if of("m.room.create").is_none() {
        return Ok(None);
    }
    let levels = of("m.room.power_levels");
    Ok(Some(levels.and_then(|event| serde_json::to_string(&event.content).ok())))
}
