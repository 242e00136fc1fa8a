//! What an operator asks of a running keeper: one interface for the command line, the management room and the
//! dashboard. Each request lands in the ledger with who asked it and what came of it, and a command in one commit
//! with what it changes.

mod answer;
mod examine;
mod making;
mod request;
mod spaces;
mod text;
mod why;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use ruma::{OwnedUserId, RoomId};
use tokio::sync::Notify;

use self::answer::left_over;
pub use self::{
    answer::{Answer, Hold, Holds, LedgerEntry, Refusal, RoomDetail, RoomSummary, Status},
    examine::Examination,
    making::{Making, Picture},
    request::{Caller, LedgerQuery, Query, Request},
    spaces::{SpaceRoomSummary, SpaceSummary, Spaces, percent},
    text::harmless,
    why::{Code, DeviceWhy, Finding, Told, ValueState, ValueWhy, Why},
};
use super::{
    clock::{now_ms, to_second},
    commissions::{order, plan},
    lane::Lanes,
    rule_book::RuleBook,
};
use crate::{
    admin::{Lasting, Readiness},
    store::{
        Command, Done, Refused, Store, commands, commissions, ledger, marks, outbox, overview,
        people, sessions,
    },
};

/// A trouble with what mends it.
fn sentence(lasting: &Lasting) -> String {
    let Lasting { trouble, since, until } = lasting;
    let time = match until {
        Some(until) => format!("from {} to {}", to_second(*since), to_second(*until)),
        None => format!("since {}", to_second(*since)),
    };
    format!("{}, {time}. Mend it: {}", trouble.cause(), trouble.mend())
}

/// How many of the rooms that are made for administrators are listed.
const MOST_COMMISSIONS: i64 = 100;

/// The handle on a running keeper that its operators' requests go through. Clones are the same one.
#[derive(Clone)]
pub struct Operator {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    started_at: i64,
    /// There once the device is.
    lanes: OnceLock<Lanes>,
}

/// What there is of a keeper from its start on.
pub struct Parts {
    /// The store.
    pub store: Store,
    /// What the keeper lacks.
    pub readiness: Readiness,
    /// Its rules.
    pub rules: Arc<RuleBook>,
    /// Told of promises.
    pub promised: Arc<Notify>,
    /// The keeper.
    pub keeper: OwnedUserId,
    /// Where its homeserver is.
    pub homeserver: String,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").finish_non_exhaustive()
    }
}

impl Operator {
    /// The operators' handle on a keeper that starts.
    pub fn new(parts: Parts) -> Self {
        let inner = Inner { parts, started_at: now_ms(), lanes: OnceLock::new() };
        Self { inner: Arc::new(inner) }
    }

    /// Told of promises that operators' commands made.
    pub(super) fn promised(&self) -> Arc<Notify> {
        self.inner.parts.promised.clone()
    }

    /// The keeper has its device and can work.
    pub(super) fn begin(&self, lanes: Lanes) {
        // There is one start, and so one value.
        let _ = self.inner.lanes.set(lanes);
    }

    /// Does what `caller` asks, and notes it in the ledger.
    ///
    /// # Errors
    ///
    /// [`Refusal`] when there is nothing that it could be done to, the keeper is not that far yet, or it fails.
    pub async fn perform(&self, caller: &Caller, request: &Request) -> Result<Answer, Refusal> {
        match request {
            Request::Query(query) => self.query(caller, query).await,
            Request::Command(command) => self.command(caller, command).await.map(Answer::Done),
            Request::Making(making) => {
                let lanes = self.inner.lanes.get().ok_or_else(Refusal::starting)?;
                order(lanes, &caller.to_string(), making).await.map(Answer::Commission)
            }
        }
    }

    async fn query(&self, caller: &Caller, query: &Query) -> Result<Answer, Refusal> {
        let answer = self.read(query).await;
        let outcome = match &answer {
            Ok(_) => "done".to_owned(),
            Err(refusal) => format!("refused:{}", refusal.code),
        };
        let mut transaction = self.inner.parts.store.begin().await?;
        let (actor, asked) = (caller.to_string(), query.asked());
        commands::note_reading(&mut transaction, &actor, &asked, &outcome, now_ms()).await?;
        transaction.commit().await?;
        answer
    }

    async fn read(&self, query: &Query) -> Result<Answer, Refusal> {
        Ok(match query {
            Query::Status => Answer::Status(self.status().await?),
            Query::Rooms => Answer::Rooms(self.rooms().await?),
            Query::Room { room, most } => Answer::Room(self.room(room, *most).await?),
            Query::Why { user, room } => {
                let lanes = self.inner.lanes.get().ok_or_else(Refusal::starting)?;
                Answer::Why(why::why(lanes, room, user).await?)
            }
            Query::Examine => {
                let lanes = self.inner.lanes.get().ok_or_else(Refusal::starting)?;
                Answer::Examination(examine::examine(lanes).await)
            }
            Query::Spaces => {
                let Parts { store, rules, .. } = &self.inner.parts;
                let db = &mut *store.read().await?;
                Answer::Spaces(Spaces::gather(db, &rules.global()).await?)
            }
            Query::UpgradePlan { room, version } => {
                let lanes = self.inner.lanes.get().ok_or_else(Refusal::starting)?;
                Answer::UpgradePlan(plan(lanes, room, version.as_deref()).await?)
            }
            Query::Commissions => {
                let db = &mut *self.inner.parts.store.read().await?;
                Answer::Commissions(commissions::newest(db, MOST_COMMISSIONS).await?)
            }
            Query::Commission { id } => {
                let db = &mut *self.inner.parts.store.read().await?;
                let found = commissions::get(db, id).await?;
                let message = "there is no such order; `statekeeper room progress` lists them";
                Answer::Commission(
                    found.ok_or_else(|| Refusal::new("unknown_order", message).about(id))?,
                )
            }
            Query::Holds { most } => {
                let db = &mut *self.inner.parts.store.read().await?;
                let holds = Holds::from(people::holds(db, None, *most).await?);
                Answer::Holds(holds.of_all(people::count_holds(db).await?))
            }
            Query::Ledger(query) => {
                let store = &self.inner.parts.store;
                let rows = ledger::newest(store, &mut *store.read().await?, &query.into()).await?;
                Answer::Ledger(rows.into_iter().map(LedgerEntry::from).collect())
            }
            Query::Commands(query) => {
                let db = &mut *self.inner.parts.store.read().await?;
                let mut rows = commands::of_filter(db, &query.into()).await?;
                rows.reverse();
                Answer::Commands(rows)
            }
        })
    }

    async fn command(&self, caller: &Caller, command: &Command) -> Result<Done, Refusal> {
        let Parts { rules, promised, .. } = &self.inner.parts;
        let before = rules.is_noop();
        // Before the commit: a visit that it causes has to find it so.
        if let Command::Noop { on } = command {
            rules.set_noop(*on);
        }
        let done = self.carry_out(caller, command).await;
        match &done {
            Ok(_) => {
                tracing::info!(%caller, ?command, "a command was carried out");
                promised.notify_one();
                self.ring(command);
            }
            Err(refused) => {
                rules.set_noop(before);
                tracing::info!(%caller, ?command, %refused, "a command was refused");
            }
        }
        Ok(done?)
    }

    /// What was left undone in spaces meanwhile is done.
    fn ring(&self, command: &Command) {
        if let (Command::Noop { on: false }, Some(lanes)) = (command, self.inner.lanes.get()) {
            lanes.taker.spaces.ring_all();
        }
    }

    async fn carry_out(&self, caller: &Caller, command: &Command) -> Result<Done, Refused> {
        let store = &self.inner.parts.store;
        let now = now_ms();
        let mut transaction = store.begin().await?;
        let done = commands::carry_out(&mut transaction, command, now).await;
        if done.is_err() {
            transaction.rollback().await?;
            transaction = store.begin().await?;
        }
        let outcome = commands::outcome(&done);
        let (actor, asked) = (caller.to_string(), command.asked());
        commands::note(&mut transaction, &actor, &asked, &outcome, now).await?;
        transaction.commit().await?;
        done
    }

    async fn status(&self) -> Result<Status, Refusal> {
        let Inner { parts, started_at, lanes } = &*self.inner;
        let db = &mut *parts.store.read().await?;
        let mut rooms: BTreeMap<String, i64> = BTreeMap::new();
        for room in crate::store::rooms::all(db).await? {
            *rooms.entry(room.status().to_owned()).or_default() += 1;
        }
        let (due, later) = marks::count(db, now_ms()).await?;
        let missing = parts.readiness.missing();
        let lanes = lanes.get();
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            user_id: parts.keeper.clone(),
            device_id: lanes.map(|lanes| lanes.taker.device.device_id().to_owned()),
            homeserver: parts.homeserver.clone(),
            started_at: *started_at,
            ready: missing.is_empty(),
            missing: missing.into_iter().map(str::to_owned).collect(),
            troubles: parts
                .readiness
                .troubles()
                .to_look_into(now_ms())
                .iter()
                .map(sentence)
                .collect(),
            noop: parts.rules.is_noop(),
            noop_configured: parts.rules.any(|rules| rules.noop),
            rooms,
            held: people::count_holds(db).await?,
            undecryptable: crate::store::tuples::count_unreadable(db).await?,
            due,
            later,
            sending: outbox::count(db).await?,
            key_requests: lanes.map_or(0, |lanes| lanes.desk.queued() as u64),
            sessions: sessions::count(db).await?.0,
        })
    }

    async fn rooms(&self) -> Result<Vec<RoomSummary>, Refusal> {
        let db = &mut *self.inner.parts.store.read().await?;
        Ok(overview::rooms(db, None).await?.into_iter().map(RoomSummary::from).collect())
    }

    async fn room(&self, room: &RoomId, most: Option<u32>) -> Result<RoomDetail, Refusal> {
        let db = &mut *self.inner.parts.store.read().await?;
        let Some(row) = overview::rooms(db, Some(room)).await?.pop() else {
            return Err(Refused::UnknownRoom(room.to_owned()).into());
        };
        let rules = self.inner.parts.rules.of(&row.room);
        let tuples = overview::tuples(db, room, most).await?;
        let holds = people::holds(db, Some(room), most).await?;
        let (policy, noop) = (Some(rules.policy.clone()), Some(rules.noop));
        let detail = RoomDetail::of_store(row, tuples, holds);
        let more_tuples = left_over(overview::count_tuples(db, room).await?, detail.tuples.len());
        let more_holds = left_over(detail.summary.held, detail.holds.len());
        Ok(RoomDetail { policy, noop, more_tuples, more_holds, ..detail })
    }
}
