//! Keeping one room: decide, hand keys over, seal; until there is nothing left to do.
//!
//! A room has one lane at a time, so what is decided here is performed in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use tokio::sync::Notify;

use super::{
    KeeperError,
    answering::Asked,
    clock::now_ms,
    decide::{Cause, Knowledge, Plan, Reason, Recipient, Seal, Share, decide},
    ingest::Taker,
    letters::Letters,
    meeting::Newcomers,
    outbox::{Delivered, Sender, note_delivered},
    pacing::{Allowance, Inviters, Pacer, unreachable_wait},
    people::Held,
    requests::{desk::Desk, request::KeyRequest},
    rooms as entering,
    rotation_pace::RotationPace,
    rules::Rules,
    seal::Prepared,
};
use crate::{
    crypto::{KeySnapshot, KnownDevice, wipe},
    homeserver::Homeserver,
    policy::{self, Entitlement},
    state::{Membership, StateTuple},
    store::{
        Mark, NewGrant, NewOutbox, OutboxKind, OutboxRow, Refusal, RoomRow, ToDeviceDetail, ledger,
        marks, outbox, rooms, sessions, tuples,
    },
};

/// How often one visit decides anew before it leaves the rest to the next one.
const MOST_ROUNDS: usize = 12;
/// How long one visit may take up a lane before it leaves the rest to the next one.
pub(super) const LONGEST_VISIT: Duration = Duration::from_secs(2);
/// How many tuples are sealed side by side.
pub(super) const MOST_SEALS: usize = 8;
/// For how long after the start the homeserver may hold back what it could not push before.
const JUST_STARTED: Duration = Duration::from_secs(30);
/// How long a room waits after the homeserver refused a sealed event, in milliseconds.
const REFUSED_WAITS: i64 = 60_000;

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
    /// When the process began to keep rooms.
    pub began: Instant,
}

/// One visit to a room.
pub(super) struct Visit<'a> {
    pub(super) lanes: &'a Lanes,
    pub(super) room: RoomRow,
    /// The room's rules, as they were when it was last looked at.
    pub(super) rules: Arc<Rules>,
    /// `None`: everybody.
    pub(super) scope: Option<BTreeSet<OwnedUserId>>,
    /// Devices of the members in scope.
    pub(super) devices: BTreeMap<(OwnedUserId, OwnedDeviceId), KnownDevice>,
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
                if room.is_some_and(|room| room.membership == Membership::Join && room.encrypted) {
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
        let scope = (!whole).then(|| users.into_iter().chain(askers).collect());
        let mut visit = Visit::new(self, room, scope);
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
        let waiting = tuples::unreadable(store, &mut *store.read().await?, room, None).await?;
        if waiting.is_empty() {
            return Ok(());
        }
        let mut transaction = store.begin().await?;
        self.taker.retry_unreadable(&mut transaction, room, None).await?;
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
            scope,
            devices: BTreeMap::new(),
            unreachable: BTreeSet::new(),
            delivered: Vec::new(),
            reasons: BTreeMap::new(),
            again_at: None,
            sightings: BTreeMap::new(),
            held: None,
            refusals: Vec::new(),
            asked: Vec::new(),
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
            let mut plan = decide(&known, &self.rules, now_ms());
            self.refusals.append(&mut plan.refusals);
            self.held = Some((self.scope.clone(), std::mem::take(&mut plan.holds)));
            if plan.needs_whole_room && self.scope.is_some() {
                self.scope = None;
                continue;
            }
            if self.rules.noop {
                self.rehearse(&plan);
                return Ok(());
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

    /// Performs a plan. Returns whether anything was done that calls for another look.
    async fn perform(&mut self, known: &Knowledge, plan: &Plan) -> Result<bool, KeeperError> {
        if !plan.retire.is_empty() {
            let mut transaction = self.lanes.taker.store.begin().await?;
            for (session, why) in &plan.retire {
                sessions::retire(&mut transaction, session, *why, now_ms()).await?;
            }
            transaction.commit().await?;
            return Ok(true);
        }
        // What stands there is wrong, and everybody looks at it.
        let restores: Vec<Seal> =
            plan.seals.iter().filter(|seal| seal.cause == Cause::Restore).cloned().collect();
        if let Some(restores) =
            restores.get(..restores.len().min(MOST_SEALS)).filter(|s| !s.is_empty())
        {
            return self.seal(known, restores).await;
        }
        if !plan.redactions.is_empty() {
            self.redact(&plan.redactions).await?;
            return Ok(true);
        }
        // Whoever asked has waited for a turn of his own.
        if !plan.given.is_empty() {
            self.share(known, &plan.given).await?;
            return Ok(true);
        }
        if self.forward(known).await? {
            return Ok(true);
        }
        let (invitees, members): (Vec<Share>, Vec<Share>) = plan
            .shares
            .iter()
            .flat_map(split)
            .partition(|share| share.recipients.iter().all(|to| to.reason == Reason::Invite));
        // Somebody who looks at a room without a name waits for a refresh: that comes first, keys and all.
        let (rotations, seals): (Vec<Seal>, Vec<Seal>) =
            plan.seals.iter().cloned().partition(|seal| seal.cause == Cause::Rotation);
        let (refreshes, reseals): (Vec<Seal>, Vec<Seal>) =
            seals.into_iter().partition(|seal| seal.cause != Cause::Reseal);
        let refreshes = self.permitted(refreshes).await?;
        if !refreshes.is_empty() && self.affords(refreshes.iter().flat_map(|s| &s.recipients)) {
            return self.seal_in_order(known, &refreshes).await;
        }
        if !members.is_empty() && self.affords(members.iter().flat_map(|s| &s.recipients)) {
            self.share(known, &members).await?;
            return Ok(true);
        }
        if let Some(reseals) =
            reseals.get(..reseals.len().min(MOST_SEALS)).filter(|s| !s.is_empty())
        {
            return self.seal_in_order(known, reseals).await;
        }
        if !invitees.is_empty() && self.affords(invitees.iter().flat_map(|s| &s.recipients)) {
            self.share(known, &invitees).await?;
            return Ok(true);
        }
        if !plan.handovers.is_empty() {
            return self.hand_over(known, &plan.handovers).await;
        }
        let rotations = self.paced(rotations);
        if !rotations.is_empty() {
            return self.seal_in_order(known, &rotations).await;
        }
        Ok(false)
    }

    /// Hands the keys of current values over.
    async fn share(&mut self, known: &Knowledge, shares: &[Share]) -> Result<(), KeeperError> {
        let everybody = shares.iter().flat_map(|share| &share.recipients);
        self.reach(everybody).await?;
        let store = self.lanes.taker.store.clone();
        let room_id = self.room_id();
        let mut letters = Letters::default();
        for share in shares {
            let Some((view, sealed)) =
                known.tuples.get(share.tuple).and_then(|view| Some((view, view.sealed.as_ref()?)))
            else {
                continue;
            };
            let db = &mut *store.read().await?;
            let Some(locked) = tuples::snapshot(db, &room_id, &view.tuple).await? else { continue };
            let snapshot = KeySnapshot::from_base64(store.unlock(&locked)?);
            self.write(
                &mut letters,
                &share.recipients,
                (&view.tuple, &sealed.session_id),
                sealed.message_index,
                &snapshot,
            )
            .await?;
        }
        let now = now_ms();
        let mut transaction = store.begin().await?;
        if !self.still_present(&mut transaction, &letters).await?
            || !self.still_wanted(&mut transaction, &letters).await?
        {
            return Ok(());
        }
        self.note_delivered(&mut transaction).await?;
        ledger::grant(&store, &mut transaction, &room_id, &letters.grants, now).await?;
        let answered = self.answered(&mut transaction, shares, &mut letters).await?;
        let requests = self.insert(&mut transaction, &room_id, letters, now).await?;
        transaction.commit().await?;
        self.deliver(requests).await?;
        self.count_answered(&answered);
        Ok(())
    }

    /// Whether everybody for whom a key was encrypted is still in the room as what he was decided upon, and
    /// refused by no administrator: asked in the very transaction that writes the grants, after which a
    /// departure finds them.
    pub(super) async fn still_present(
        &self,
        db: &mut sqlx::SqliteConnection,
        letters: &Letters,
    ) -> Result<bool, KeeperError> {
        let mut grants: BTreeMap<&UserId, Vec<&NewGrant>> = BTreeMap::new();
        for grant in &letters.grants {
            grants.entry(grant.user_id.as_ref()).or_default().push(grant);
        }
        let users = grants.keys().copied();
        let memberships = rooms::memberships(db, &self.room.room_id, users).await?;
        for (user, grants) in grants {
            let membership = memberships.get(user).copied();
            if !grants.into_iter().all(|grant| self.may_still_get(membership, grant)) {
                return Ok(false);
            }
        }
        Ok(!self.any_refused(db, letters).await?)
    }

    fn may_still_get(&self, membership: Option<Membership>, grant: &NewGrant) -> bool {
        let invitees = self.rules.sharing.invitees;
        // What an invitee gets was decided for an invitee; who joined may have been invited anew since.
        let for_invitees = grant.reason == Reason::Invite.as_str() || grant.is_asked();
        (membership == Some(Membership::Join) || for_invitees)
            && policy::member_may_read(membership, &grant.tuple, invitees)
    }

    /// Sees to Olm sessions with the recipients. The own server's answer at once; others as long as the gate
    /// holds.
    pub(super) async fn reach(
        &self,
        recipients: impl Iterator<Item = &Recipient>,
    ) -> Result<(), KeeperError> {
        let device = &self.lanes.taker.device;
        let is_met = |to: &&Recipient| {
            let known = self.devices.get(&(to.user_id.clone(), to.device_id.clone()));
            known.is_some_and(|known| device.is_met(known))
        };
        let unmet = recipients.filter(|to| !is_met(to)).map(|to| to.user_id.clone());
        let users: Vec<OwnedUserId> = unmet.collect::<BTreeSet<_>>().into_iter().collect();
        device.claim_missing(&users).await?;
        let own = device.user_id().server_name();
        if users.iter().any(|user| user.server_name() != own) {
            device.settled().await;
        }
        Ok(())
    }

    /// Encrypts a session's key for recipients, and writes down what it will take to send it.
    pub(super) async fn write(
        &mut self,
        letters: &mut Letters,
        recipients: &[Recipient],
        (tuple, session_id): (&StateTuple, &str),
        message_index: u32,
        snapshot: &KeySnapshot,
    ) -> Result<(), KeeperError> {
        let devices: Vec<KnownDevice> = {
            // One session for the room: a key that is on its way for another tuple may open this one, too.
            let covered = letters.holders(session_id, message_index);
            recipients
                .iter()
                .filter(|to| !covered.contains(&(to.user_id.as_ref(), to.device_id.as_ref())))
                .filter_map(|to| self.devices.get(&(to.user_id.clone(), to.device_id.clone())))
                .cloned()
                .collect()
        };
        let mut content = snapshot.room_key_content(&self.room.room_id, session_id);
        let encrypted = self.lanes.taker.device.encrypt_for(&devices, "m.room_key", &content).await;
        wipe(&mut content);
        let (requests, unreachable) = encrypted?;
        for (user_id, device_id) in unreachable {
            tracing::debug!(room = %self.room.room_id, user = %user_id, device = %device_id,
                "no Olm session with a device, and no one-time key to make one");
            self.unreachable.insert((user_id, device_id));
        }
        let reasons: BTreeMap<_, _> = recipients
            .iter()
            .map(|to| ((to.user_id.clone(), to.device_id.clone()), to.reason))
            .collect();
        for request in requests {
            for (user_id, device_id) in &request.recipients {
                let reason = reasons
                    .get(&(user_id.clone(), device_id.clone()))
                    .copied()
                    .unwrap_or(Reason::Seal);
                letters.grants.push(NewGrant {
                    session_id: session_id.to_owned(),
                    user_id: user_id.clone(),
                    device_id: device_id.clone(),
                    message_index,
                    reason: reason.as_str(),
                    again: reason == Reason::Resend,
                    tuple: tuple.clone(),
                    policy: self.rules.policy.clone(),
                });
                self.reasons.insert((user_id.clone(), device_id.clone()), reason);
            }
            letters.requests.push((session_id.to_owned(), request));
        }
        Ok(())
    }

    /// Writes requests into the outbox, as part of the caller's transaction. The ratchets that encrypted them are
    /// on the disk when this returns: the commit must not come before them.
    pub(super) async fn insert(
        &self,
        db: &mut sqlx::SqliteConnection,
        room_id: &RoomId,
        letters: Letters,
        now: i64,
    ) -> Result<Vec<(OutboxRow, Arc<ToDeviceDetail>)>, KeeperError> {
        let mut rows = Vec::with_capacity(letters.requests.len());
        for (session_id, request) in letters.requests {
            let detail = ToDeviceDetail { session_id, recipients: request.recipients };
            let request = NewOutbox {
                kind: OutboxKind::ToDevice,
                txn_id: request.txn_id,
                event_type: request.event_type,
                state_key: String::new(),
                body: request.body,
                detail: self.lanes.taker.store.lock(&detail)?,
            };
            let id = outbox::insert(db, room_id, &request, now).await?;
            let row = OutboxRow { id, room_id: room_id.to_owned(), request };
            rows.push((row, Arc::new(detail)));
        }
        self.lanes.taker.device.written().await?;
        Ok(rows)
    }

    /// Sends keys and counts them. What was sent is noted by the next commit; a kill before that sends the
    /// same once more.
    pub(super) async fn deliver(
        &mut self,
        requests: Vec<(OutboxRow, Arc<ToDeviceDetail>)>,
    ) -> Result<(), KeeperError> {
        let mut delivered = self.lanes.sender.send_keys(requests).await?;
        let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut joiners = BTreeSet::new();
        for delivery in delivered.iter().filter(|delivery| delivery.taken) {
            for to in &delivery.detail.recipients {
                let reason = self.reasons.get(to).copied().unwrap_or(Reason::Seal);
                *counts.entry(reason.as_str()).or_default() += 1;
                if matches!(reason, Reason::Join | Reason::Invite) {
                    joiners.insert((to.0.clone(), delivery.at));
                }
            }
        }
        for (reason, count) in counts {
            self.lanes.taker.metrics.room_keys_shared(reason, count);
        }
        // Refused for good: not again on this visit.
        for delivery in delivered.iter().filter(|delivery| !delivery.taken) {
            self.unreachable.extend(delivery.detail.recipients.iter().cloned());
        }
        self.time_joiners(joiners).await?;
        self.delivered.append(&mut delivered);
        Ok(())
    }

    async fn time_joiners(&self, joiners: BTreeSet<(OwnedUserId, i64)>) -> Result<(), KeeperError> {
        let last: BTreeMap<OwnedUserId, i64> = joiners.into_iter().collect();
        for (user, at) in last {
            let db = &mut *self.lanes.taker.store.read().await?;
            if let Some(member) = rooms::get_member(db, &self.room.room_id, &user).await? {
                let waited = u32::try_from(at.saturating_sub(member.arrived_at)).unwrap_or(0);
                self.lanes.taker.metrics.join_to_key(f64::from(waited) / 1000.0);
            }
        }
        Ok(())
    }

    /// Notes what was delivered so far and which identities were seen, as part of the caller's transaction.
    pub(super) async fn note_delivered(
        &mut self,
        db: &mut sqlx::SqliteConnection,
    ) -> Result<(), KeeperError> {
        note_delivered(&self.lanes.taker.store, db, &self.delivered).await?;
        self.delivered.clear();
        self.note_sightings(db).await
    }

    /// Sends prepared events, in their order, and notes what became of them.
    pub(super) async fn put(&mut self, prepared: Vec<Prepared>) -> Result<bool, KeeperError> {
        let mut sent = Vec::with_capacity(prepared.len());
        let mut away = None;
        for Prepared { row, detail } in prepared {
            match self.lanes.sender.send_state(&row, &detail).await {
                Ok(event_id) => sent.push((row, detail, event_id)),
                Err(error) => {
                    away = Some(error);
                    break;
                }
            }
        }
        let refused = sent.iter().any(|(_, _, event_id)| event_id.is_none());
        let mut transaction = self.lanes.taker.store.begin().await?;
        self.note_delivered(&mut transaction).await?;
        for (row, detail, event_id) in &sent {
            let sender = &self.lanes.sender;
            sender.conclude_state(&mut transaction, row, detail, event_id.as_ref()).await?;
        }
        transaction.commit().await?;
        if let Some(error) = away {
            return Err(error);
        }
        if refused {
            self.again_at = earliest(self.again_at, Some(now_ms().saturating_add(REFUSED_WAITS)));
        }
        Ok(!refused)
    }

    /// Ends the visit: settles its promises, or leaves them when something failed.
    async fn close(&mut self, due: &[Mark], settled: bool) -> Result<(), KeeperError> {
        let store = self.lanes.taker.store.clone();
        let room_id = self.room_id();
        let now = now_ms();
        let mut transaction = store.begin().await?;
        self.note_delivered(&mut transaction).await?;
        self.settle_holds(&mut transaction).await?;
        for (user, device, refused) in std::mem::take(&mut self.refusals) {
            let Some((code, outcome)) = refused.code().zip(refused.outcome()) else { continue };
            let refusal = Refusal {
                holder: (&user, &device),
                session_id: "",
                outcome: &outcome,
                policy: &self.rules.policy,
            };
            if ledger::refuse(&store, &mut transaction, &room_id, refusal, now).await? {
                self.lanes.taker.metrics.room_keys_withheld(code.as_str(), 1);
            }
        }
        if settled {
            for mark in due {
                marks::settle(&mut transaction, &room_id, mark).await?;
            }
            self.come_again(&mut transaction, due).await?;
            if let Some(at) = self.wears_out_at {
                marks::mark(&mut transaction, &room_id, None, at, store.next_tick()).await?;
            }
            if self.sealed && !self.lanes.desk.unheard_of(&room_id).is_empty() {
                marks::mark(&mut transaction, &room_id, None, now, store.next_tick()).await?;
            }
            self.retry_unreachable(&mut transaction, due, now).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn come_again(
        &self,
        db: &mut sqlx::SqliteConnection,
        due: &[Mark],
    ) -> Result<(), KeeperError> {
        let Some(at) = self.again_at else { return Ok(()) };
        let tick = self.lanes.taker.store.next_tick();
        for mark in due {
            marks::mark(db, &self.room.room_id, mark.user_id.as_deref(), at, tick).await?;
        }
        Ok(())
    }

    /// Promises to try those again who could not be reached. Whoever is waited for already goes on waiting as long
    /// as before: what others do in the room makes his device no more reachable.
    async fn retry_unreachable(
        &self,
        db: &mut sqlx::SqliteConnection,
        due: &[Mark],
        now: i64,
    ) -> Result<(), KeeperError> {
        // Whoever has to ask asks again.
        if !self.rules.unasked {
            return Ok(());
        }
        let users: BTreeSet<&UserId> =
            self.unreachable.iter().map(|(user, _)| user.as_ref()).collect();
        for user in users {
            let own = due.iter().find(|mark| mark.user_id.as_deref() == Some(user));
            let attempts = own.map_or(0, |mark| mark.attempts);
            // A visit that comes again at once has not settled anything, and is no attempt of its own.
            let tried = attempts.saturating_add(i64::from(self.again_at.is_none()));
            let due_at = now.saturating_add(unreachable_wait(attempts));
            let tick = self.lanes.taker.store.next_tick();
            if own.is_some() || !marks::stands(db, &self.room.room_id, user).await? {
                marks::put(db, &self.room.room_id, Some(user), due_at, tick, tried).await?;
            }
        }
        Ok(())
    }
}

/// A share is either for invitees or for members: nobody waits for an invitee.
fn split(share: &Share) -> Vec<Share> {
    let (invitees, members): (Vec<_>, Vec<_>) =
        share.recipients.iter().cloned().partition(|to| to.reason == Reason::Invite);
    [invitees, members]
        .into_iter()
        .filter(|recipients| !recipients.is_empty())
        .map(|recipients| Share { tuple: share.tuple, recipients })
        .collect()
}

pub(super) fn earliest(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
