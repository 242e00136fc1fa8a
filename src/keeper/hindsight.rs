//! What the keeper finds when it comes: the power levels that stood when it was sent say whether it was allowed.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ruma::{EventId, OwnedEventId, RoomId};

use super::{KeeperError, ingest::Taker};
use crate::{
    homeserver::Homeserver,
    state::{RoomEvent, StateTuple},
    store::{LevelsThen, RoomRow, tuples},
};

/// Of how many events it is asked at most, each time that a room's state is fetched: the rest is judged by what
/// stands today, until it is fetched the next time.
const MOST_LOOKS: usize = 512;
/// Of how many at a time.
const AT_A_TIME: usize = 4;

/// The power levels that stood when events were sent, as JSON; `None` where there were none in the room.
#[derive(Debug, Default)]
pub(super) struct Hindsight(BTreeMap<OwnedEventId, LevelsThen>);

impl Hindsight {
    /// Asks which levels stood when those of `events` were sent that others encrypted, and those that the room's values
    /// come from, where the keeper does not know that yet.
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
        let (mut unknown, mut asked_before) = (Vec::new(), Vec::new());
        let hidden = events.iter().map(|(event, _)| event);
        for event in hidden.filter(|event| is_judged(taker, event)) {
            let db = &mut *taker.store.read().await?;
            let known = tuples::get_event(&taker.store, db, &event.event_id).await?;
            match known {
                None => unknown.push(event.event_id.clone()),
                Some(known) if known.levels.is_none() && known.verdict != "redacted" => {
                    asked_before.push(event.event_id.clone());
                }
                Some(_) => {}
            }
        }
        unknown.append(&mut asked_before);
        let limit = i64::try_from(MOST_LOOKS).unwrap_or(i64::MAX);
        let db = &mut *taker.store.read().await?;
        for event in tuples::values_of_unknown_levels(db, room, limit).await? {
            if !unknown.contains(&event) {
                unknown.push(event);
            }
        }
        if unknown.len() > MOST_LOOKS {
            tracing::info!(%room, events = unknown.len(), asked = MOST_LOOKS,
                "too many hidden events to ask for the power levels that stood when each was sent; the rest is judged \
                 by today's until the room's state is fetched the next time");
        }
        unknown.truncate(MOST_LOOKS);
        let looks = stream::iter(unknown).map(async |event| {
            let then = levels_at(homeserver, room, &event).await?;
            Ok::<_, KeeperError>(then.map(|then| (event, then)))
        });
        let found: Vec<_> = looks.buffer_unordered(AT_A_TIME).try_collect().await?;
        Ok(Self(found.into_iter().flatten().collect()))
    }

    /// Each event of which they were found, and they.
    pub(super) fn found(&self) -> impl Iterator<Item = (&OwnedEventId, &LevelsThen)> {
        self.0.iter()
    }

    /// Whether the levels that stood when an event was sent were found.
    pub(super) fn knows(&self, event: &EventId) -> bool {
        self.0.contains_key(event)
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
        && event.state_key.as_deref().and_then(StateTuple::from_packed).is_some()
        && event.sender != taker.keeper
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
