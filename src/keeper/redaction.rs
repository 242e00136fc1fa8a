//! Taking redactions in: what was taken back stays so, and takes nothing with it that it only hid.

use ruma::{EventId, OwnedEventId, OwnedUserId, UserId};
use sqlx::SqliteConnection;

use super::{
    KeeperError, copies,
    ingest::{Arrival, Taker, power_levels},
    outbox::redaction_of,
    places,
};
use crate::{
    state::{RoomEvent, StateTuple},
    store::{RoomRow, StateEventRow, TupleRow, marks, outbox, tuples},
};

/// Takes a redaction in. What was redacted stays redacted: the value goes from the store, and what the
/// keeper sealed in its place is redacted too.
pub(super) async fn take_redaction(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let Some(target) = &event.redacts else { return Ok(()) };
    if copies::take_redaction(taker, db, room, (event, target), arrival).await? {
        return Ok(());
    }
    let seen = tuples::get_event(&taker.store, db, target).await?;
    let own = tuples::seal(db, target).await?;
    let (tuple, author) = match (&seen, &own) {
        (Some(seen), _) => (seen.tuple.clone(), seen.sender.clone()),
        (None, Some((tuple, _))) => (tuple.clone(), taker.keeper.clone()),
        (None, None) => return Ok(()),
    };
    // A homeserver may tell of redactions that mean another room's events.
    if !tuples::is_of_room(db, &room.room_id, target).await?
        || !may_redact(room, &event.sender, Some(&author))
    {
        return Ok(());
    }
    tuples::settle(db, target).await?;
    let broke = seen.as_ref().is_some_and(was_never_allowed);
    // What never was a value takes none with it.
    let counted = seen.as_ref().is_none_or(was_counted);
    let stands_for = own.map_or_else(|| target.clone(), |(_, stands_for)| stands_for);
    forget_said(taker, db, room, &stands_for).await?;
    if !counted {
        return Ok(());
    }
    let row = tuples::get(&taker.store, db, &room.room_id, &tuple).await?;
    let mut row = row.unwrap_or_else(|| TupleRow::new(tuple));
    // A sealed event that was redacted takes its origin with it: the same value must not come back.
    let beside = take_back(&mut row, (target, &stands_for), &taker.keeper, broke);
    if row.source.is_none() {
        places::take_sealed_back(taker, db, room, &row.tuple, &stands_for).await?;
    }
    tuples::put(&taker.store, db, &room.room_id, &row).await?;
    if let Some(current) = beside
        && tuples::take_seal(db, &current).await?
    {
        outbox::insert(db, &room.room_id, &redaction_of(&current), arrival.at).await?;
    }
    redact_seals(db, room, (target, &stands_for), arrival).await?;
    Ok(marks::mark(db, &room.room_id, None, arrival.at, arrival.tick).await?)
}

/// Whether a redaction counts: its sender has the power for it, or is of the server of whoever sent the event (room versions
/// from 3, spec: "Handling redactions"), which vouches for both.
pub(super) fn may_redact(room: &RoomRow, sender: &UserId, author: Option<&OwnedUserId>) -> bool {
    author.is_some_and(|author| author.server_name() == sender.server_name())
        || power_levels(room).may_redact_other(sender)
}

/// A fetched state shows a known event redacted: the journal forgets what stood in it, and what the keeper sealed in its
/// place goes as well.
pub(super) async fn reach(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    (target, stands_for): (&EventId, &EventId),
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let said = tuples::get_event(&taker.store, db, stands_for).await?;
    // The keeper itself has emptied these: what they said goes on standing under encryption.
    let emptied =
        |seen: StateEventRow| [copies::CLEARED, copies::EMPTIED].contains(&seen.verdict.as_str());
    if target == stands_for && said.is_some_and(emptied) {
        return Ok(());
    }
    forget_said(taker, db, room, stands_for).await?;
    redact_seals(db, room, (target, stands_for), arrival).await
}

/// A fetched state shows an event in plain redacted. If it was its tuple's value, that is taken back.
pub(super) async fn reach_plain(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    (event, tuple): (&RoomEvent, &StateTuple),
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let Some(mut seen) = tuples::get_event(&taker.store, db, &event.event_id).await? else {
        return Ok(());
    };
    let target = &event.event_id;
    tuples::settle(db, target).await?;
    // The keeper did that itself, and this store is a copy from before: what it said was not taken back.
    if event.redacted_by.as_ref() == Some(&taker.keeper) && seen.verdict == "accepted" {
        seen.verdict = copies::CLEARED.to_owned();
        return Ok(tuples::put_event(&taker.store, db, &room.room_id, &seen).await?);
    }
    reach(taker, db, room, (target, target), arrival).await?;
    if seen.verdict != "accepted" {
        return Ok(());
    }
    let row = tuples::get(&taker.store, db, &room.room_id, tuple).await?;
    let mut row = row.unwrap_or_else(|| TupleRow::new(tuple.clone()));
    let was_value = row.source.as_ref().is_some_and(|source| source.event_id == *target);
    if was_value {
        let beside = take_back(&mut row, (target, target), &taker.keeper, false);
        places::take_sealed_back(taker, db, room, tuple, target).await?;
        tuples::put(&taker.store, db, &room.room_id, &row).await?;
        if let Some(current) = beside
            && tuples::take_seal(db, &current).await?
        {
            outbox::insert(db, &room.room_id, &redaction_of(&current), arrival.at).await?;
        }
    }
    Ok(marks::mark(db, &room.room_id, None, arrival.at, arrival.tick).await?)
}

/// Forgets what stood in an event that is kept. One in plain that never was a value goes on being that.
async fn forget_said(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &EventId,
) -> Result<(), KeeperError> {
    let Some(mut seen) = tuples::get_event(&taker.store, db, event).await? else { return Ok(()) };
    if was_counted(&seen) {
        seen.verdict = "redacted".to_owned();
    }
    (seen.awaits, seen.body, seen.content) = (false, None, None);
    Ok(tuples::put_event(&taker.store, db, &room.room_id, &seen).await?)
}

/// Redacts what the keeper sealed for an event, but for `target`, which is redacted already.
async fn redact_seals(
    db: &mut SqliteConnection,
    room: &RoomRow,
    (target, stands_for): (&EventId, &EventId),
    arrival: Arrival,
) -> Result<(), KeeperError> {
    for sealed in tuples::take_seals_of(db, stands_for).await? {
        if sealed != target {
            outbox::insert(db, &room.room_id, &redaction_of(&sealed), arrival.at).await?;
        }
    }
    Ok(())
}

/// Whether an event was a tuple's value, or was to be: what is in plain beside that is the homeserver's alone.
pub(super) fn was_counted(seen: &StateEventRow) -> bool {
    let counts = ["accepted", copies::CLEARED, copies::EMPTIED, "redacted"];
    seen.session_id.is_some() || seen.breach.is_some() || counts.contains(&seen.verdict.as_str())
}

/// The member's event that a tuple's current one shows: itself, or what the keeper's own stands for.
pub(super) async fn current_says(
    taker: &Taker,
    db: &mut SqliteConnection,
    row: &TupleRow,
) -> Result<Option<StateEventRow>, KeeperError> {
    let Some(current) = &row.current_event_id else { return Ok(None) };
    let own = tuples::seal(db, current).await?;
    let said = own.map_or_else(|| current.clone(), |(_, stands_for)| stands_for);
    Ok(tuples::get_event(&taker.store, db, &said).await?)
}

/// A value could be read at last, `seen`, while the event that stands there is redacted. Where that one, `said`, was never
/// allowed or is an older one, the redaction is not about the value.
pub fn stand_anew(
    row: &mut TupleRow,
    seen: &StateEventRow,
    said: Option<&StateEventRow>,
    keeper: &UserId,
) {
    let another = |said: &StateEventRow| was_never_allowed(said) || said.tick < seen.tick;
    if said.is_some_and(another) {
        row.redacted = false;
        row.current_fit = row.current_sender.as_deref() == Some(keeper);
    }
}

/// Whether an event broke a rule, so that it never was its tuple's value.
pub fn was_never_allowed(seen: &StateEventRow) -> bool {
    seen.breach.is_some_and(|rule| !rule.allows_value())
}

/// What it makes of a tuple that `target` is redacted, which says what `stands_for` said; `broke` is whether that was
/// never allowed. Returns an event of the keeper's that has to go as well: a refresh of an older value may stand on what
/// was taken back, and the older value must not come back by that.
pub fn take_back(
    row: &mut TupleRow,
    (target, stands_for): (&EventId, &EventId),
    keeper: &UserId,
    broke: bool,
) -> Option<OwnedEventId> {
    let was_source = row.source.as_ref().is_some_and(|source| source.event_id == stands_for);
    let was_current = row.current_event_id.as_deref() == Some(target);
    let is_keepers = row.current_sender.as_deref() == Some(keeper);
    if was_source {
        row.source = None;
    }
    // What goes may hide the value without being it: the keeper's own seal of an older one, or what was never allowed.
    let hid_another = row.source.is_some() && (broke || (is_keepers && stands_for != target));
    if (was_current && !hid_another) || (was_source && is_keepers) {
        row.redacted = true;
    }
    row.current_event_id.clone().filter(|current| was_source && is_keepers && current != target)
}

/// Whether what the keeper's own event says was taken back while that was on its way; `source` is what it stands for.
/// Also when it landed on a newer value that was: an older one must not stand in its place.
pub fn was_taken_back(row: &TupleRow, source: Option<&StateEventRow>) -> bool {
    row.redacted
        || row.source.is_none()
        || source.is_some_and(|source| source.verdict == "redacted")
}

#[cfg(test)]
mod tests {
    use ruma::{event_id, owned_user_id, user_id};

    use super::*;
    use crate::{
        state::{Form, JsonMap, Rule, StateTuple},
        store::SourceValue,
    };

    fn keeper() -> &'static UserId {
        user_id!("@keeper:localhost")
    }

    /// A name whose value is `source`, while `current` of `sender` stands in the room.
    fn name(source: Option<&EventId>, current: &EventId, sender: &UserId) -> TupleRow {
        let source = source.map(|event_id| SourceValue {
            event_id: event_id.to_owned(),
            sender: owned_user_id!("@alice:localhost"),
            form: Form::Encrypted,
            at: 1,
            tick: 1,
            content: JsonMap::new(),
        });
        TupleRow {
            source,
            current_event_id: Some(current.to_owned()),
            current_sender: Some(sender.to_owned()),
            ..TupleRow::new(StateTuple::new("m.room.name", ""))
        }
    }

    fn seen(event_id: &EventId, tick: i64, breach: Option<Rule>) -> StateEventRow {
        StateEventRow {
            event_id: event_id.to_owned(),
            tuple: StateTuple::new("m.room.name", ""),
            sender: owned_user_id!("@alice:localhost"),
            tick,
            received_at: tick,
            session_id: None,
            powerful: true,
            levels: None,
            verdict: "redacted".to_owned(),
            breach,
            live: true,
            awaits: false,
            body: None,
            content: None,
        }
    }

    #[test]
    fn a_value_that_is_taken_back_is_gone_for_good() {
        let (value, seal) = (event_id!("$value"), event_id!("$seal"));
        let mut row = name(Some(value), value, user_id!("@alice:localhost"));
        assert_eq!(take_back(&mut row, (value, value), keeper(), false), None);
        assert!(row.redacted && row.source.is_none());
        // The keeper's seal of it is redacted, or its seal of an older value stands upon it.
        let mut row = name(Some(value), seal, keeper());
        assert_eq!(take_back(&mut row, (seal, value), keeper(), false), None);
        assert!(row.redacted && row.source.is_none());
        let mut row = name(Some(value), seal, keeper());
        let beside = take_back(&mut row, (value, value), keeper(), false);
        assert_eq!(beside.as_deref(), Some(seal));
        assert!(row.redacted && row.source.is_none());
    }

    #[test]
    fn a_newer_value_does_not_go_with_the_older_one_that_the_keeper_sealed_over_it() {
        let (newer, older, seal) = (event_id!("$newer"), event_id!("$older"), event_id!("$seal"));
        let mut row = name(Some(newer), seal, keeper());
        assert_eq!(take_back(&mut row, (older, older), keeper(), false), None);
        assert_eq!(take_back(&mut row, (seal, older), keeper(), false), None);
        assert!(!row.redacted && row.source.is_some(), "it is sealed again");
    }

    #[test]
    fn nobody_takes_a_value_away_by_redacting_his_own_forgery_of_it() {
        let (value, forged) = (event_id!("$value"), event_id!("$forged"));
        let mut row = name(Some(value), forged, user_id!("@eve:localhost"));
        row.current_fit = false;
        take_back(&mut row, (forged, forged), keeper(), true);
        assert!(!row.redacted && !row.current_fit && row.source.is_some());
        // Where there is no value, nothing is to be said in its place.
        let mut row = name(None, forged, user_id!("@eve:localhost"));
        take_back(&mut row, (forged, forged), keeper(), true);
        assert!(row.redacted);
    }

    #[test]
    fn a_seal_that_was_on_its_way_goes_when_the_value_was_taken_back_under_it() {
        let (value, forged) = (event_id!("$value"), event_id!("$forged"));
        let accepted = StateEventRow { verdict: "accepted".to_owned(), ..seen(value, 1, None) };
        let standing = name(Some(value), value, keeper());
        assert!(!was_taken_back(&standing, Some(&accepted)));
        assert!(was_taken_back(&standing, Some(&seen(value, 1, None))));
        assert!(was_taken_back(&name(None, forged, keeper()), Some(&accepted)));
    }

    #[test]
    fn a_value_that_is_read_late_stands_anew_where_the_redaction_was_not_about_it() {
        let (value, other, eve) = (event_id!("$v"), event_id!("$o"), user_id!("@eve:localhost"));
        let value = seen(value, 5, None);
        let after = |said: &StateEventRow, sender: &UserId| {
            let mut row = TupleRow { redacted: true, ..name(None, other, sender) };
            stand_anew(&mut row, &value, Some(said), keeper());
            (row.redacted, row.current_fit)
        };
        assert_eq!(after(&seen(other, 9, Some(Rule::Power)), eve), (false, false));
        assert_eq!(after(&seen(other, 2, None), keeper()), (false, true));
        assert!(after(&seen(other, 9, None), eve).0, "a newer value was taken back");
    }
}
