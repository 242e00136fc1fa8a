//! Where rooms belong, as their state says: policies are chosen by it, and a change may change the rules.

use std::sync::Arc;

use ruma::{EventId, OwnedRoomId, RoomId};
use sqlx::SqliteConnection;

use super::{
    KeeperError,
    clock::now_ms,
    ingest::{Arrival, Taker, power_levels},
    rules::Rules,
    spaces::news,
};
use crate::{
    state::{JsonMap, Membership, RoomEvent, StateTuple, canonical_alias, is_link},
    store::{
        RoomRow, TupleRow, copies, marks,
        places::{self, Side},
        rooms,
    },
};

/// The rules of some rooms before a change.
pub(super) type Before = Vec<(OwnedRoomId, Arc<Rules>)>;

/// What is said of where rooms belong.
struct Saying<'s> {
    event_type: &'s str,
    state_key: &'s str,
    content: &'s JsonMap,
    event_id: &'s EventId,
    /// Whether it is said now: while a room's state is being taken in, the room is decided upon at the end of it.
    live: bool,
}

/// Takes in a state event that says where its room, or another one, belongs. Whether it is one.
pub(super) async fn take(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    arrival: Arrival,
) -> Result<bool, KeeperError> {
    let (own, state_key) = (&room.room_id, event.state_key.as_deref().unwrap_or_default());
    if event.event_type == "m.room.canonical_alias" && state_key.is_empty() {
        let before = rules_of(taker, db, arrival.live.then_some(own)).await?;
        let alias = canonical_alias(&event.content);
        places::put_alias(db, own, alias, &event.event_id).await?;
        mark_changed(taker, db, before).await?;
        return Ok(true);
    }
    let saying = Saying {
        event_type: &event.event_type,
        state_key,
        content: &event.content,
        event_id: &event.event_id,
        live: arrival.live,
    };
    say(taker, db, own, saying).await
}

/// Notes what a room says of where it, or another one, belongs. Whether it says so.
async fn say(
    taker: &Taker,
    db: &mut SqliteConnection,
    own: &RoomId,
    saying: Saying<'_>,
) -> Result<bool, KeeperError> {
    let said = is_link(saying.content).then_some(saying.event_id);
    match (saying.event_type, RoomId::parse(saying.state_key)) {
        ("m.space.parent", Ok(space)) => {
            let before = rules_of(taker, db, saying.live.then_some(own)).await?;
            places::say(db, own, &space, Side::Room, said).await?;
            mark_changed(taker, db, before).await?;
        }
        ("m.space.child", Ok(child)) => {
            let before = rules_of(taker, db, Some(&child)).await?;
            places::say(db, &child, own, Side::Space, said).await?;
            news::take_child(taker, db, (&child, own), saying.content).await?;
            mark_changed(taker, db, before).await?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Takes in what a member's client sealed of where rooms belong: the homeserver cannot see it, and it counts like what
/// stands in plain. What counts of a tuple is the newest value whose sender had the power for the true type.
pub(super) async fn take_sealed(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    row: &TupleRow,
    live: bool,
) -> Result<(), KeeperError> {
    if !says_where(&row.tuple.event_type) {
        return Ok(());
    }
    let Some(source) = row.source.as_ref().filter(|_| !row.redacted) else { return Ok(()) };
    let plain = copies::get(&taker.store, db, &room.room_id, &row.tuple).await?;
    // What was said in plain since is newer, though this could be read only now.
    if plain.is_some_and(|plain| plain.tick > source.tick) {
        return Ok(());
    }
    let saying = Saying {
        event_type: &row.tuple.event_type,
        state_key: &row.tuple.state_key,
        content: &source.content,
        event_id: &source.event_id,
        live,
    };
    say(taker, db, &room.room_id, saying).await.map(drop)
}

/// What an event said under encryption of where rooms belong is taken back.
pub(super) async fn take_sealed_back(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    tuple: &StateTuple,
    event_id: &EventId,
) -> Result<(), KeeperError> {
    if !says_where(&tuple.event_type) || !places::is_said_by(db, &room.room_id, event_id).await? {
        return Ok(());
    }
    let (event_type, state_key) = (tuple.event_type.as_str(), tuple.state_key.as_str());
    let content = &JsonMap::new();
    let saying = Saying { event_type, state_key, content, event_id, live: true };
    say(taker, db, &room.room_id, saying).await.map(drop)
}

fn says_where(event_type: &str) -> bool {
    matches!(event_type, "m.space.child" | "m.space.parent")
}

/// Takes a redaction in: if it may take back what says where a room belongs, the state is fetched anew, and
/// shows whether it did.
pub(super) async fn take_redaction(
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let Some(target) = &event.redacts else { return Ok(()) };
    let may = power_levels(room).may_redact_other(&event.sender);
    if may && places::is_said_by(db, &room.room_id, target).await? {
        rooms::put(db, &RoomRow { loaded: false, ..room.clone() }).await?;
        marks::mark(db, &room.room_id, None, arrival.at, arrival.tick).await?;
    }
    Ok(())
}

/// The rules of the rooms that a space lists.
pub(super) async fn rules_in(
    taker: &Taker,
    db: &mut SqliteConnection,
    space: &RoomId,
) -> Result<Before, KeeperError> {
    if !taker.rules.has_policies() {
        return Ok(Vec::new());
    }
    let listed = places::listed(db, space).await?;
    rules_of(taker, db, &listed).await
}

/// The rules of those rooms that the keeper is in; nothing where all rooms have the same.
pub(super) async fn rules_of<R: AsRef<RoomId>>(
    taker: &Taker,
    db: &mut SqliteConnection,
    room_ids: impl IntoIterator<Item = R>,
) -> Result<Before, KeeperError> {
    let mut rules = Vec::new();
    if !taker.rules.has_policies() {
        return Ok(rules);
    }
    for room_id in room_ids {
        let room = rooms::get(db, room_id.as_ref()).await?;
        if let Some(room) = room.filter(|room| room.membership == Membership::Join) {
            rules.push((room.room_id.clone(), taker.rules.of(&room)));
        }
    }
    Ok(rules)
}

/// Promises to decide anew upon rooms whose rules are not any more what they were before.
pub(super) async fn mark_changed(
    taker: &Taker,
    db: &mut SqliteConnection,
    before: Before,
) -> Result<usize, KeeperError> {
    let mut changed = 0;
    for (room_id, before) in before {
        let Some(mut room) = rooms::get(db, &room_id).await? else { continue };
        let now = taker.rules.of(&room);
        if *now == *before {
            continue;
        }
        changed += 1;
        tracing::info!(room = %room_id, "a room is kept by other rules from now on");
        if !now.reads_as(&before) {
            room.loaded = false;
            rooms::put(db, &room).await?;
        }
        marks::mark(db, &room_id, None, now_ms(), taker.store.next_tick()).await?;
    }
    Ok(changed)
}
