//! Following spaces: joining what lies beneath them.
//!
//! Joining has a budget of its own, and so has each server that somebody else runs: a room whose server is down takes a
//! while to fail, and keeps nobody waiting but itself.
//!
//! Recovery: a join that was sent and not noted is found at the next start among the joined rooms; to join twice is to
//! join once.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::{OwnedRoomId, OwnedServerName};
use tokio::{sync::Notify, task::JoinSet};

use super::{
    advice::{Standing, invite_into, let_in, unlist},
    assist::perform,
    settled,
    survey::{ToJoin, survey, tell_of_room},
};
use crate::{
    homeserver::{Homeserver, HomeserverError},
    keeper::{
        KeeperError,
        clock::now_ms,
        ingest::Taker,
        pacing::{Allowance, unreachable_wait},
        rooms::note_joined,
        rules::Rate,
    },
    store::{rooms, spaces},
};

/// How many rooms are joined at a time: of the own server, and of others.
const AT_A_TIME: usize = 4;
/// How fast.
const PACE: Rate = Rate { burst: 20, per_second: 10 };
/// The shortest time between two walks.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// And the longest, however large the spaces are.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often is looked for what was told of nobody.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Follows spaces.
pub(in crate::keeper) struct Follower {
    /// Whose spaces.
    pub(in crate::keeper) taker: Taker,
    /// The homeserver.
    pub(in crate::keeper) homeserver: Homeserver,
    /// Told of rooms to learn of.
    pub(in crate::keeper) promised: Arc<Notify>,
}

/// A join that is under way: what, and through whose server, where that is not the own one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    what: String,
    server: Option<OwnedServerName>,
}

/// A join that has ended: its room where that is known, or the error.
type Ended = (UnderWay, ToJoin, Result<OwnedRoomId, HomeserverError>);

impl Follower {
    /// Follows for ever.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub(in crate::keeper) async fn run(self) -> Result<(), KeeperError> {
        let bell = self.taker.spaces.walk.clone();
        let allowance = Allowance::new(PACE);
        let mut joins: JoinSet<Ended> = JoinSet::new();
        let mut under_way: BTreeSet<UnderWay> = BTreeSet::new();
        loop {
            settled(&self.taker.store).await?;
            let began = Instant::now();
            let found = survey(&self.taker).await?;
            let pause = (began.elapsed() * 10).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
            let mut queue: VecDeque<ToJoin> = found.joins.into();
            let walk_again = self.walk_again(found.next);
            tokio::pin!(walk_again);
            // What is told meanwhile is found by one walk, a little later.
            let mut told_at: Option<tokio::time::Instant> = None;
            loop {
                let wait = self.start(&mut queue, &mut joins, &mut under_way, &allowance);
                tokio::select! {
                    () = bell.rung.notified(), if told_at.is_none() => {
                        told_at = Some(tokio::time::Instant::now() + pause);
                    }
                    () = until(told_at) => break,
                    () = &mut walk_again => break,
                    () = tokio::time::sleep(wait) => {}
                    Some(ended) = joins.join_next() => {
                        let Ok((name, what, done)) = ended else { break };
                        under_way.remove(&name);
                        self.conclude(what, done).await?;
                    }
                }
            }
        }
    }

    async fn walk_again(&self, at: Option<i64>) {
        // What has fallen due during the walk is due now.
        let wait = at.map(|at| u64::try_from(at.saturating_sub(now_ms())).unwrap_or(0));
        let wait = wait.map_or(LOOK_EVERY, Duration::from_millis);
        tokio::time::sleep(wait.clamp(SHORTEST_PAUSE, LOOK_EVERY)).await;
    }

    /// Starts as many joins as may be under way. Returns after which time to try again.
    fn start(
        &self,
        queue: &mut VecDeque<ToJoin>,
        joins: &mut JoinSet<Ended>,
        under_way: &mut BTreeSet<UnderWay>,
        allowance: &Allowance,
    ) -> Duration {
        for _ in 0..queue.len() {
            let Some(join) = queue.pop_front() else { break };
            let name = self.name(&join);
            if under_way.iter().any(|other| other.what == name.what) {
                continue;
            }
            let like = under_way.iter().filter(|it| it.server.is_some() == name.server.is_some());
            let taken =
                name.server.is_some() && under_way.iter().any(|it| it.server == name.server);
            if taken || like.count() >= AT_A_TIME {
                queue.push_back(join);
                continue;
            }
            if let Err(wait) = allowance.spend(1, Instant::now()) {
                queue.push_front(join);
                return wait;
            }
            under_way.insert(name.clone());
            let homeserver = self.homeserver.clone();
            joins.spawn(async move {
                let done = perform(&homeserver, &join).await;
                (name, join, done)
            });
        }
        LOOK_EVERY
    }

    fn name(&self, join: &ToJoin) -> UnderWay {
        let own = self.taker.keeper.server_name();
        let (what, through): (&str, Vec<&ruma::ServerName>) = match join {
            ToJoin::Space(name, _) => {
                let server = name.split_once(':').map(|(_, server)| server);
                (name, server.and_then(|name| name.try_into().ok()).into_iter().collect())
            }
            ToJoin::Elevate(id, _) => return UnderWay { what: id.to_string(), server: None },
            ToJoin::Room(id, via, _) => {
                let named = via.iter().map(AsRef::as_ref).chain(id.server_name());
                (id.as_str(), named.collect())
            }
        };
        let is_own = through.contains(&own);
        let server = through.first().filter(|_| !is_own).map(|server| (*server).to_owned());
        UnderWay { what: what.to_owned(), server }
    }

    /// Notes what came of a join.
    async fn conclude(
        &self,
        what: ToJoin,
        done: Result<OwnedRoomId, HomeserverError>,
    ) -> Result<(), KeeperError> {
        let store = &self.taker.store;
        let mut transaction = store.begin().await?;
        match (&what, done) {
            (ToJoin::Elevate(room_id, _), done) => {
                self.elevated(&mut transaction, room_id, done.err()).await?;
            }
            (_, Ok(room_id)) => {
                if note_joined(&self.taker, &mut transaction, &room_id).await? {
                    tracing::info!(room = %room_id, "joined a room of a followed space");
                }
                if let ToJoin::Space(name, _) = &what {
                    let rows = spaces::followed(&mut transaction).await?;
                    if let Some(mut row) = rows.into_iter().find(|row| row.name == *name) {
                        row.space_id = Some(room_id);
                        spaces::put_followed(&mut transaction, &row).await?;
                    }
                }
                self.taker.spaces.note_walk();
            }
            (ToJoin::Space(name, _), Err(error)) => {
                self.space_failed(&mut transaction, name, &error).await?;
            }
            (ToJoin::Room(room_id, ..), Err(error)) => {
                self.room_failed(&mut transaction, room_id, &error).await?;
            }
        }
        transaction.commit().await?;
        self.taker.spaces.ring();
        self.promised.notify_one();
        Ok(())
    }

    /// The keeper was given power in a room, or was not: where it does not turn out to have enough, it is given it again
    /// a while later.
    async fn elevated(
        &self,
        db: &mut sqlx::SqliteConnection,
        room_id: &ruma::RoomId,
        error: Option<HomeserverError>,
    ) -> Result<(), KeeperError> {
        if let Some(error) = error {
            tracing::warn!(room = %room_id, %error,
                "the homeserver's administration did not give the keeper power in a space's room");
        }
        let Some(mut row) = spaces::room(db, room_id).await? else { return Ok(()) };
        row.retry_at = now_ms().saturating_add(retry_wait(row.attempts));
        row.attempts = row.attempts.saturating_add(1);
        Ok(spaces::put_room(db, &row).await?)
    }

    async fn space_failed(
        &self,
        db: &mut sqlx::SqliteConnection,
        name: &str,
        error: &HomeserverError,
    ) -> Result<(), KeeperError> {
        let rows = spaces::followed(db).await?;
        let Some(mut row) = rows.into_iter().find(|row| row.name == name) else { return Ok(()) };
        let standing = standing_after(error);
        let is_news = row.status != standing.as_str();
        standing.as_str().clone_into(&mut row.status);
        let id = row.space_id.as_deref();
        row.detail = match (standing, id) {
            (Standing::CannotJoin, Some(id)) => Some(invite_into(id, &self.taker.keeper)),
            (Standing::CannotJoin, None) => {
                Some(format!("invite {} into {name}", self.taker.keeper))
            }
            (Standing::Missing, _) => Some(format!("mend {name} in `spaces`: there is none")),
            _ => None,
        };
        if is_news {
            let change = row.detail.as_deref();
            tracing::warn!(space = name, status = row.status, %error, change, "a space could not be joined");
        }
        row.retry_at = now_ms().saturating_add(retry_wait(row.attempts));
        row.attempts = row.attempts.saturating_add(1);
        Ok(spaces::put_followed(db, &row).await?)
    }

    async fn room_failed(
        &self,
        db: &mut sqlx::SqliteConnection,
        room_id: &ruma::RoomId,
        error: &HomeserverError,
    ) -> Result<(), KeeperError> {
        let Some(before) = spaces::room(db, room_id).await? else { return Ok(()) };
        let mut row = before.clone();
        let standing = standing_after(error);
        standing.as_str().clone_into(&mut row.status);
        row.detail = match standing {
            Standing::CannotJoin => {
                let room = rooms::get(db, room_id).await?;
                Some(let_in(&row, room.as_ref(), &self.taker.keeper))
            }
            Standing::Missing => Some(unlist(&row)),
            _ => None,
        };
        tracing::debug!(room = %room_id, %error, "a space's room could not be joined");
        tell_of_room(&row, Some(&before));
        row.retry_at = now_ms().saturating_add(retry_wait(row.attempts));
        row.attempts = row.attempts.saturating_add(1);
        Ok(spaces::put_room(db, &row).await?)
    }
}

/// Returns at this time; never where there is none.
async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// How long a join waits that failed, in milliseconds: as long as a device that cannot be reached.
fn retry_wait(attempts: i64) -> i64 {
    unreachable_wait(attempts)
}

fn standing_after(error: &HomeserverError) -> Standing {
    match error.status() {
        Some(403) => Standing::CannotJoin,
        Some(404) => Standing::Missing,
        _ => Standing::Unreachable,
    }
}
