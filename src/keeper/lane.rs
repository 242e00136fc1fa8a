//! Keeping one room: decide and perform, until there is nothing left to do.
//!
//! A room has one lane at a time, so what is decided here is performed in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId};
use tokio::sync::Notify;

use super::{
    KeeperError,
    answering::Asked,
    clock::now_ms,
    decide::{Reason, decide},
    gone_back::Checked,
    heartbeat::Heartbeat,
    ingest::Taker,
    meeting::Newcomers,
    outbox::{Delivered, Sender},
    pacing::{Allowance, Inviters, Pacer},
    people::Held,
    requests::{desk::Desk, request::KeyRequest},
    resting::{Basis, Resting},
    rooms as entering,
    rotation_pace::RotationPace,
    rules::Rules,
};
use crate::{
    crypto::KnownDevice,
    homeserver::Homeserver,
    policy::Entitlement,
    state::{Membership, StateTuple},
    store::{RoomRow, marks, rooms, tuples},
};

/// How often one visit decides anew before it leaves the rest to the next one.
const MOST_ROUNDS: usize = 12;
/// How long one visit may take up a lane before it leaves the rest to the next one.
pub(super) const LONGEST_VISIT: Duration = Duration::from_secs(2);
/// How many tuples are sealed side by side.
pub(super) const MOST_SEALS: usize = 8;
/// For how long after the start the homeserver may hold back what it could not push before.
const JUST_STARTED: Duration = Duration::from_secs(30);

/// Keeps rooms.
#[derive(Clone)]
pub struct Lanes {
    /// Reads and judges.
    pub taker: Taker,
    /// Sends.
    pub sender: Sender,
    /// The homeserver, spoken to as the keeper's device.
    pub homeserver: Homeserver,
    /// Paces refreshes.
    pub pacer: Arc<Pacer>,
    /// Paces what is sealed anew after rotations.
    pub rotations: Arc<RotationPace>,
    /// How many devices are given keys that they did not ask for.
    pub unasked: Arc<Allowance>,
    /// Budgets of those who invite the keeper.
    pub inviters: Arc<Inviters>,
    /// Who is being served, so that the news of his devices comes second.
    pub newcomers: Newcomers,
    /// Told when held events are given back to the inbox.
    pub arrived: Arc<Notify>,
    /// Key requests that wait for their answers.
    pub desk: Arc<Desk>,
    /// Rooms where nobody lacks anything.
    pub resting: Arc<Resting>,
    /// When the process began to keep rooms.
    pub began: Instant,
    /// Where it was looked whether the store went back in time.
    pub checked: Arc<Checked>,
    /// What the long poll last said of the keeper's own device.
    pub heartbeat: Arc<Heartbeat>,
}

/// One visit to a room.
pub(super) struct Visit<'a> {
    pub(super) lanes: &'a Lanes,
    pub(super) room: RoomRow,
    /// The room's rules, as they were when it was last looked at.
    pub(super) rules: Arc<Rules>,
    /// `None`: everybody.
    pub(super) scope: Option<BTreeSet<OwnedUserId>>,
    /// Of which tuples alone something is to be said; `None`: of all.
    pub(super) only: Option<BTreeSet<StateTuple>>,
    /// Those of whom the marks and the requests speak by name.
    pub(super) named: BTreeSet<OwnedUserId>,
    /// Who was looked at last; `None`: everybody.
    pub(super) looked_at: Option<BTreeSet<OwnedUserId>>,
    /// What the last look goes by.
    pub(super) basis: Option<Basis>,
    /// The promises to decide upon members that the visit decides by.
    pub(super) heeded: BTreeMap<OwnedUserId, i64>,
    /// Devices of the members in scope.
    pub(super) devices: BTreeMap<(OwnedUserId, OwnedDeviceId), KnownDevice>,
    /// Who of those in scope is no member.
    pub(super) previewers: BTreeSet<OwnedUserId>,
    /// Who could not be reached on this visit.
    pub(super) unreachable: BTreeSet<(OwnedUserId, OwnedDeviceId)>,
    /// Keys that the homeserver took, not yet noted in the ledger: the next commit does.
    pub(super) delivered: Vec<Delivered>,
    /// Why which device was given a key, for the counters.
    pub(super) reasons: BTreeMap<(OwnedUserId, OwnedDeviceId), Reason>,
    /// When to come again, in milliseconds.
    pub(super) again_at: Option<i64>,
    /// Identities that were seen, by user, not yet noted: the next commit does.
    pub(super) sightings: BTreeMap<OwnedUserId, String>,
    /// Who is held after the last decision.
    pub(super) held: Option<Held>,
    /// Devices that get nothing, and why, after the decisions so far.
    pub(super) refusals: Vec<(OwnedUserId, OwnedDeviceId, Entitlement)>,
    /// What was asked for and is not answered yet.
    pub(super) asked: Vec<Asked>,
    /// Whether anything was sealed: somebody may have asked for its key before it was.
    pub(super) sealed: bool,
    /// Whether the next round is due though the visit has lasted long.
    pub(super) pressing: bool,
    /// When the first of the sessions wears out that are to be followed at once, in milliseconds.
    pub(super) wears_out_at: Option<i64>,
}

impl Lanes {
    /// Does what has been promised for a room.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the homeserver is away or the store fails; the promise stands.
    pub async fn visit(&self, room_id: &RoomId) -> Result<(), KeeperError> {
        let store = &self.taker.store;
        let room = rooms::get(&mut *store.read().await?, room_id).await?;
        match room {
            Some(room) if room.membership == Membership::Invite => {
                entering::accept_invite(&self.taker, &self.homeserver, &self.inviters, room).await
            }
            Some(room) if room.membership == Membership::Join && !room.loaded => {
                entering::load(&self.taker, &self.homeserver, &self.arrived, room).await
            }
            Some(room) if room.membership == Membership::Join && room.state_encrypted => {
                self.keep(room).await
            }
            _ => {
                for request in self.desk.take(room_id) {
                    self.desk.dismiss(request.name());
                }
                // Redactions of what was sealed before policy said otherwise.
                let sends = |room: &RoomRow| room.encrypted && !self.taker.rules.of(room).noop;
                if room.is_some_and(|room| room.membership == Membership::Join && sends(&room)) {
                    self.sender.flush(room_id).await?;
                }
                let mut transaction = store.begin().await?;
                marks::clear(&mut transaction, room_id).await?;
                Ok(transaction.commit().await?)
            }
        }
    }

    async fn keep(&self, room: RoomRow) -> Result<(), KeeperError> {
        let store = &self.taker.store;
        let room_id = room.room_id.clone();
        if !self.taker.rules.of(&room).noop {
            self.sender.flush(&room_id).await?;
        }
        entering::fetch_missed(&self.taker, &self.homeserver, &self.arrived, &room_id).await?;
        let due = marks::due(&mut *store.read().await?, &room_id, now_ms()).await?;
        let users: BTreeSet<OwnedUserId> =
            due.iter().filter_map(|mark| mark.user_id.clone()).collect();
        let whole = due.iter().any(|mark| mark.user_id.is_none());
        if !users.is_empty() {
            self.taker.device.track(users.iter().map(AsRef::as_ref)).await?;
            self.taker.device.pump().await?;
            self.read_again(&room_id).await?;
        }
        let ready = self.desk.take(&room_id);
        if due.is_empty() && ready.is_empty() {
            return Ok(());
        }
        if ready.iter().any(|request| !self.taker.device.is_settled(&request.sender)) {
            self.taker.device.pump().await?;
        }
        let askers = ready.iter().map(|request| request.sender.clone());
        let named: BTreeSet<OwnedUserId> = users.into_iter().chain(askers).collect();
        let mut visit = Visit::new(self, room, Some(named));
        if whole {
            visit.scope = None;
        }
        let members = due.iter().filter_map(|mark| Some((mark.user_id.clone()?, mark.tick)));
        visit.heeded = members.collect();
        let done = visit.work(ready).await;
        self.newcomers.served(due.iter().filter_map(|mark| mark.user_id.as_ref()));
        visit.give_back();
        // What was delivered is noted whatever came after it.
        visit.close(&due, done.is_ok()).await?;
        self.count_queued();
        done
    }

    /// Whether the homeserver may still hold events back that it was to push while the keeper was away.
    pub(super) fn is_just_started(&self) -> bool {
        self.began.elapsed() < JUST_STARTED
    }

    /// Somebody's devices changed: what was left because its device was not signed is judged again.
    async fn read_again(&self, room: &RoomId) -> Result<(), KeeperError> {
        let store = &self.taker.store;
        let waiting = tuples::awaiting(store, &mut *store.read().await?, room, None).await?;
        if waiting.is_empty() {
            return Ok(());
        }
        let mut transaction = store.begin().await?;
        self.taker.look_again(&mut transaction, room).await?;
        Ok(transaction.commit().await?)
    }
}

impl<'a> Visit<'a> {
    /// A visit that begins; `scope` is about whom, `None` everybody.
    pub(super) fn new(
        lanes: &'a Lanes,
        room: RoomRow,
        scope: Option<BTreeSet<OwnedUserId>>,
    ) -> Self {
        Self {
            lanes,
            rules: lanes.taker.rules.of(&room),
            room,
            named: scope.clone().unwrap_or_default(),
            scope,
            looked_at: None,
            basis: None,
            heeded: BTreeMap::new(),
            devices: BTreeMap::new(),
            previewers: BTreeSet::new(),
            unreachable: BTreeSet::new(),
            delivered: Vec::new(),
            reasons: BTreeMap::new(),
            again_at: None,
            sightings: BTreeMap::new(),
            held: None,
            refusals: Vec::new(),
            asked: Vec::new(),
            only: None,
            sealed: false,
            pressing: false,
            wears_out_at: None,
        }
    }
}

impl Visit<'_> {
    pub(super) fn room_id(&self) -> OwnedRoomId {
        self.room.room_id.clone()
    }

    async fn work(&mut self, ready: Vec<KeyRequest>) -> Result<(), KeeperError> {
        let began = Instant::now();
        self.take_up_requests(ready).await?;
        for _ in 0..MOST_ROUNDS {
            if !std::mem::take(&mut self.pressing) && began.elapsed() > LONGEST_VISIT {
                break;
            }
            let known = self.know().await?;
            tracing::debug!(room = %self.room.room_id, members = known.members.len(), "deciding");
            let mut plan = decide(&known, &self.rules, now_ms());
            self.refusals.append(&mut plan.refusals);
            self.held = Some((self.looked_at.clone(), std::mem::take(&mut plan.holds)));
            if plan.needs_whole_room && self.scope.is_some() {
                self.scope = None;
                continue;
            }
            self.warn_of_copies(&plan.warnings).await?;
            if self.rules.noop {
                self.rehearse(&plan);
                return Ok(());
            }
            if let (None, Some(basis)) = (&self.looked_at, self.basis.take()) {
                self.note_rest(basis, &known, &plan);
            }
            if !self.conclude(&plan.answers).await? {
                continue;
            }
            if !self.perform(&known, &plan).await? {
                self.again_at = earliest(self.again_at, plan.again_at);
                self.wears_out_at = plan.wears_out_at;
                return Ok(());
            }
        }
        // Something keeps changing under us: come again soon, after the others.
        self.again_at = Some(now_ms());
        Ok(())
    }
}

/// The earlier one of two times, where there are two.
pub fn earliest(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
