//! Falling silent where somebody answers the keeper for ever: a bot that seals again whatever is not its own.

use ruma::UserId;

use super::{ingest::Taker, pacing::war_wait};
use crate::{
    state::JsonMap,
    store::{RoomRow, TupleRow},
};

/// How often the same value may come back before the keeper stops answering it.
const WAR_ROUNDS: u32 = 4;
/// Within which time, in milliseconds, or after the end of the keeper's silence.
const WAR_WITHIN: i64 = 600_000;

/// How long the keeper stays silent, in milliseconds, towards somebody who keeps saying what it has sealed already.
pub(super) fn silence(
    taker: &Taker,
    room: &RoomRow,
    row: &mut TupleRow,
    sender: &UserId,
    content: &JsonMap,
    now: i64,
) -> i64 {
    let (silent, begins) = silent_for(row, content, now);
    if begins {
        taker.metrics.state_refused("war");
        tracing::warn!(room = %room.room_id, %sender, event_type = row.tuple.event_type,
            "somebody seals again what the keeper sealed; the keeper stops answering for a while");
    }
    silent
}

/// How long the keeper stays silent, in milliseconds, because a tuple is given the value that it has: a bot that seals
/// whatever is not its own would be answered for ever. A person who sets the same name twice is none. And whether it is
/// the first time.
pub fn silent_for(row: &mut TupleRow, content: &JsonMap, now: i64) -> (i64, bool) {
    let same = row.source.as_ref().is_some_and(|source| source.content == *content);
    // While the keeper is silent, and for a while after it spoke again, it is the same war.
    let silent = truces(row.echoes).map_or(0, war_wait);
    if !same || now.saturating_sub(row.echoes_since) > silent.saturating_add(WAR_WITHIN) {
        (row.echoes, row.echoes_since) = (0, now);
        return (0, false);
    }
    row.echoes = row.echoes.saturating_add(1);
    let Some(before) = truces(row.echoes) else { return (0, false) };
    row.echoes_since = now;
    (war_wait(before), row.echoes == WAR_ROUNDS)
}

/// How often the keeper has fallen silent before, where it is silent after so many echoes.
fn truces(echoes: u32) -> Option<u32> {
    echoes.checked_sub(WAR_ROUNDS)
}
