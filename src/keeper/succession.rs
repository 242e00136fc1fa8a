//! Rooms that go on in others: where an old room says so, the keeper comes into the new one, and keeps it by the rules
//! of the old one where both say that they belong together.
//!
//! Whoever may send a tombstone governs the old room; whoever makes a room may name any other as its predecessor. So
//! neither side's word is enough for a policy that names the old room, and for what administrators said there.
//!
//! Recovery: a join that was sent and not noted is found at the next start among the joined rooms, or is sent again: to
//! join twice is to join once.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::{OwnedRoomId, OwnedServerName, RoomId};
use sqlx::SqliteConnection;
use tokio::{sync::Notify, task::JoinSet};

use super::{
    KeeperError,
    clock::now_ms,
    ingest::{Arrival, Taker},
    pacing::{Budgets, unreachable_wait},
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
/// How many are joined at a time: through the own server, and through others.
const AT_A_TIME: usize = 4;
/// How many are looked at, at once.
const MOST_DUE: i64 = 64;
/// How often one is tried; by then a day has gone by.
const MOST_ATTEMPTS: i64 = 100;
/// Into how many rooms an old one may lead at once.
const DESTINATIONS: u32 = 3;
/// And how often in the long run.
const DESTINATION_EVERY: Duration = Duration::from_secs(10 * 60);
/// How long one waits whose old room has led into too many, in milliseconds.
const SPENT_WAITS: i64 = 60_000;

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
                return Ok(successions::unsay(db, own, None).await?);
            };
            let before = rules_about(taker, db, &new, true).await?;
            let via = Some(event.sender.server_name());
            if successions::say(db, (own, &new), event.event_id.as_str(), via).await? {
                tracing::info!(room = %own, successor = %new, "a room goes on in another one");
            }
            settle(db, (own, &new)).await?;
            taker.spaces.note_walk();
            places::mark_changed(taker, db, before).await?;
        }
        ("m.room.create", Some("")) => {
            let Some(old) = predecessor(&event.content).filter(|old| old != own) else {
                return Ok(());
            };
            // While a room's state is being taken in, it is decided upon at the end of it.
            let before = rules_about(taker, db, own, arrival.live).await?;
            successions::claim(db, (&old, own)).await?;
            settle(db, (&old, own)).await?;
            taker.spaces.note_walk();
            places::mark_changed(taker, db, before).await?;
        }
        _ => {}
    }
    Ok(())
}

/// The rules of a room that may go on with another, and of those that it lists as a space: what names the old room, or
/// space, holds there.
async fn rules_about(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomId,
    itself: bool,
) -> Result<places::Before, KeeperError> {
    let mut rules = places::rules_of(taker, db, itself.then_some(room)).await?;
    rules.extend(places::rules_in(taker, db, room).await?);
    Ok(rules)
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

/// Where a join is under way: which room, and through whose server, where that is not the own one.
type UnderWay = (OwnedRoomId, Option<OwnedServerName>);
/// A join that has ended.
type Ended = (UnderWay, SuccessionRow, Result<(), HomeserverError>);

impl Successors {
    /// Follows for ever. Whoever closes a room says where to go and through which server, so each room has a budget of
    /// destinations, and each server that somebody else runs is waited for once at a time.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub(super) async fn run(self) -> Result<(), KeeperError> {
        let budgets = Budgets::every(DESTINATION_EVERY, DESTINATIONS);
        let mut under_way: BTreeSet<UnderWay> = BTreeSet::new();
        let mut joins: JoinSet<Ended> = JoinSet::new();
        loop {
            for row in self.due().await? {
                self.start(row, &budgets, &mut under_way, &mut joins).await?;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                Some(Ok((name, row, done))) = joins.join_next() => {
                    under_way.remove(&name);
                    self.conclude(&row, done).await?;
                }
            }
        }
    }

    async fn due(&self) -> Result<Vec<SuccessionRow>, KeeperError> {
        let db = &mut *self.taker.store.read().await?;
        Ok(successions::due(db, now_ms(), MOST_DUE).await?)
    }

    /// Starts a join, where its turn has come.
    async fn start(
        &self,
        row: SuccessionRow,
        budgets: &Budgets<OwnedRoomId>,
        under_way: &mut BTreeSet<UnderWay>,
        joins: &mut JoinSet<Ended>,
    ) -> Result<(), KeeperError> {
        let known = rooms::get(&mut *self.taker.store.read().await?, &row.new_id).await?;
        if known.is_some_and(|room| room.membership == Membership::Join) {
            return self.conclude(&row, Ok(())).await;
        }
        let server = row.via.clone().filter(|via| via != self.taker.keeper.server_name());
        let like = under_way.iter().filter(|other| other.1.is_some() == server.is_some()).count();
        let is_taken = under_way
            .iter()
            .any(|other| other.0 == row.new_id || (server.is_some() && other.1 == server));
        if is_taken || like >= AT_A_TIME {
            return Ok(());
        }
        if row.attempts == 0 && !budgets.spend(&*row.old_id, Instant::now()) {
            tracing::warn!(room = %row.old_id, successor = %row.new_id,
                "a room says too often where it goes on; following it waits");
            let mut transaction = self.taker.store.begin().await?;
            let at = now_ms().saturating_add(SPENT_WAITS);
            successions::put_off(&mut transaction, &row, at).await?;
            return Ok(transaction.commit().await?);
        }
        let name = (row.new_id.clone(), server);
        under_way.insert(name.clone());
        let homeserver = self.homeserver.clone();
        joins.spawn(async move {
            let via: Vec<_> = row.via.iter().cloned().collect();
            let done = homeserver.join(&row.new_id, &via).await;
            (name, row, done)
        });
        Ok(())
    }

    async fn conclude(
        &self,
        row: &SuccessionRow,
        done: Result<(), HomeserverError>,
    ) -> Result<(), KeeperError> {
        let now = now_ms();
        let mut transaction = self.taker.store.begin().await?;
        match done {
            Ok(()) => {
                successions::conclude(&mut transaction, row, Followed::Joined, now).await?;
                if note_joined(&self.taker, &mut transaction, &row.new_id).await? {
                    tracing::info!(room = %row.old_id, successor = %row.new_id,
                        "joined the room that another one goes on in");
                }
            }
            Err(error) => {
                let is_last = row.attempts.saturating_add(1) >= MOST_ATTEMPTS;
                if row.attempts == 0 || is_last {
                    tracing::warn!(room = %row.old_id, successor = %row.new_id, %error, is_last,
                        change = format!("invite {} into {}", self.taker.keeper, row.new_id),
                        "a room goes on in another one, which the keeper cannot join");
                }
                let followed = if is_last { Followed::GivenUp } else { Followed::CannotJoin };
                let again = now.saturating_add(unreachable_wait(row.attempts));
                successions::conclude(&mut transaction, row, followed, again).await?;
            }
        }
        transaction.commit().await?;
        self.promised.notify_one();
        Ok(())
    }
}
