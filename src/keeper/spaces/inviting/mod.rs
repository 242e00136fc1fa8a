//! Inviting: members of followed spaces into the rooms that let them in, and those who knock.
//!
//! Clients take the keys of a room's history from whoever invited them, and from nobody else (MSC4268). So the keeper
//! invites, and sends each invitee a bundle of these keys before: it is there when he accepts.
//!
//! - [`hearing`] takes in what changes who is to be invited, in the commit that brings it;
//! - [`guests`] weighs who of those that wait is invited, and which devices get the bundle;
//! - [`bundle`] uploads a room's history keys, once for the invitees of a short window, and removes what is superseded;
//! - this file invites, at the pace of the space.
//!
//! An invite that the keeper sent is withdrawn when nothing lets its user into the room any more.
//!
//! Recovery: that an invite may have been sent stands in the commit that puts the bundle's keys into the outbox. From
//! then on the room is looked at before it is sent (again), so nobody is invited twice, and its user is weighed again; the
//! outbox goes out first, to the
//! letter. An upload that was not written down is one whose key nobody has: another one is made. An answer, be it no, is
//! remembered for good.

mod bundle;
mod guests;
pub(in crate::keeper) mod hearing;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use ruma::{OwnedUserId, RoomId, UserId};

use super::{
    Bell,
    paces::Paces,
    survey::roots,
    turns::{self, LOOK_EVERY, Turns, until_due},
};
use crate::{
    homeserver::HomeserverError,
    keeper::{
        KeeperError,
        clock::now_ms,
        ingest::power_levels,
        lane::Lanes,
        pacing::{Allowance, unreachable_wait},
        rooms::membership_now,
        rules::Rate,
    },
    state::Membership,
    store::{Ending, Invitee, RoomRow, Store, invites, rooms},
};

/// How many people are invited in one batch: they are sent one bundle.
const BATCH: u32 = 50;
/// How long invites wait into a room that is not known well enough, in milliseconds.
const UNREADY_WAITS: i64 = 250;
/// How long they wait where nobody may be invited at present, in milliseconds.
const CLOSED_WAITS: i64 = 60_000;
/// After how many refusals by the homeserver somebody is not invited any more.
const MOST_REFUSALS: i64 = 8;
/// How fast those are let in who knock where no space has a budget.
const KNOCKS: Rate = Rate { burst: 20, per_second: 10 };

/// Invites.
pub(in crate::keeper) struct Host {
    lanes: Lanes,
    paces: Paces,
    knocks: Arc<Allowance>,
    /// Whether the homeserver lets uploads be removed, as far as is known.
    may_remove: bool,
}

/// What stands in a room of somebody who is to be invited.
enum Standing {
    /// Nothing that keeps him from being invited.
    Outside,
    /// He is in, or invited.
    Inside,
    /// He has left, or is kept out.
    Gone,
}

impl Host {
    pub(in crate::keeper) fn new(lanes: Lanes, paces: Paces) -> Self {
        Self { lanes, paces, knocks: Arc::new(Allowance::new(KNOCKS)), may_remove: true }
    }

    /// Invites for ever.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub(in crate::keeper) async fn run(self) -> Result<(), KeeperError> {
        turns::take(self).await
    }
}

impl Turns for Host {
    const WAITING: &'static str = "people wait for their invites";

    fn bell(&self) -> Arc<Bell> {
        self.lanes.taker.spaces.invite.clone()
    }

    fn store(&self) -> &Store {
        &self.lanes.taker.store
    }

    /// Invites one batch of each space that has the means, and of those who knock elsewhere. Returns how long to wait
    /// where there was nobody to invite.
    async fn turn(&mut self) -> Result<Option<Duration>, KeeperError> {
        let (store, began) = (self.lanes.taker.store.clone(), now_ms());
        let roots = roots(&self.lanes.taker, &mut *store.read().await?).await?;
        let mut paces: Vec<_> = roots
            .iter()
            .map(|(root, rules)| (Some(root.clone()), self.paces.of(root, rules)))
            .collect();
        paces.push((None, self.knocks.clone()));
        self.withdraw().await?;
        let (mut served, mut shortest) = (false, LOOK_EVERY);
        for (root, pace) in paces {
            if let Some(wait) = pace.wait(Instant::now()) {
                shortest = shortest.min(wait);
                continue;
            }
            let db = &mut *store.read().await?;
            let found = invites::newest(db, root.as_deref(), now_ms(), i64::from(BATCH)).await?;
            let Some((room, people)) = found else { continue };
            served = true;
            self.serve(&pace, &room, people).await?;
        }
        if served {
            return Ok(None);
        }
        self.tidy().await?;
        // What has fallen due since is not overlooked.
        let next = invites::next_due(&mut *store.read().await?, began).await?;
        Ok(Some(until_due(next, shortest)))
    }
}

impl Host {
    /// Withdraws invites into rooms that let their users in no more.
    async fn withdraw(&self) -> Result<(), KeeperError> {
        let store = &self.lanes.taker.store;
        let ending = invites::ending(&mut *store.read().await?, now_ms(), BATCH.into()).await?;
        for one in ending {
            let again_at = self.end(&one).await?;
            let mut transaction = store.begin().await?;
            invites::ended(&mut transaction, &one, again_at).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Withdraws one, if it is still to be. Returns when it is to be looked at again.
    async fn end(&self, one: &Ending) -> Result<Option<i64>, KeeperError> {
        let taker = &self.lanes.taker;
        let (room, is_let_in) = {
            let db = &mut *taker.store.read().await?;
            let room = rooms::get(db, &one.room_id).await?;
            (room, invites::is_let_in(db, &one.room_id, &one.user_id).await?)
        };
        let Some(room) = room.filter(|room| room.membership == Membership::Join) else {
            return Ok(None);
        };
        if is_let_in == Some(true) {
            return Ok(None);
        }
        if is_let_in.is_none() || !room.loaded || taker.rules.of(&room).noop {
            return Ok(Some(now_ms().saturating_add(CLOSED_WAITS)));
        }
        let homeserver = &self.lanes.homeserver;
        let membership = membership_now(homeserver, &one.room_id, &one.user_id).await?;
        if membership != Some(Membership::Invite) {
            return Ok(None);
        }
        let (room_id, user) = (&one.room_id, &one.user_id);
        match homeserver.kick(room_id, user).await {
            Ok(()) => {
                tracing::info!(room = %room_id, %user,
                    "an invite was withdrawn: nothing lets its user into the room any more");
                Ok(None)
            }
            Err(error) if error.is_transient() => Err(error.into()),
            Err(error) if one.attempts >= MOST_REFUSALS => {
                tracing::warn!(room = %room_id, %user, %error,
                    "an invite cannot be withdrawn though nothing lets its user in any more; given up: \
                     give the keeper the level that `kick` in m.room.power_levels asks for");
                Ok(None)
            }
            Err(_) => Ok(Some(now_ms().saturating_add(unreachable_wait(one.attempts)))),
        }
    }

    /// Invites people into a room.
    async fn serve(
        &self,
        pace: &Allowance,
        room_id: &RoomId,
        people: Vec<Invitee>,
    ) -> Result<(), KeeperError> {
        let Some(room) = self.open(room_id, &people).await? else { return Ok(()) };
        if !self.lanes.sender.flush_bundles(room_id).await? {
            return self.put_off(room_id, &people, UNREADY_WAITS).await;
        }
        let (begun, new): (Vec<_>, Vec<_>) = people.into_iter().partition(|one| one.sending);
        // One whose invite may have been sent is looked up first.
        let mut outside = Vec::new();
        for one in begun {
            match self.look(room_id, &one).await? {
                Standing::Outside => outside.push(one),
                Standing::Inside => self.made(room_id, &one.user_id).await?,
                Standing::Gone => self.over(room_id, &one).await?,
            }
        }
        let mut invited = self.admit(&room, outside).await?;
        let devices = self.prepare(&room, new, &mut invited).await?;
        // The turn began with something to spend; what a batch costs beyond it is paid off before the next.
        let _ = pace.spend(devices.saturating_add(invited.len()), Instant::now());
        let (near, far): (Vec<Invitee>, Vec<Invitee>) =
            invited.into_iter().partition(|one| self.is_local(&one.user_id));
        for one in &near {
            self.invite(&room, one).await?;
        }
        // Other servers are asked by ours, each at its leisure.
        for done in join_all(far.iter().map(|one| self.invite(&room, one))).await {
            done?;
        }
        Ok(())
    }

    /// The room, if people can be invited into it now; else their invites are dropped or put off.
    async fn open(
        &self,
        room_id: &RoomId,
        people: &[Invitee],
    ) -> Result<Option<RoomRow>, KeeperError> {
        let taker = &self.lanes.taker;
        let room = rooms::get(&mut *taker.store.read().await?, room_id).await?;
        let is_talked_in = taker.rules.global().management_room.as_deref() == Some(room_id);
        let kept = room.filter(|room| {
            room.membership == Membership::Join
                && (room.state_encrypted || !room.loaded)
                && !is_talked_in
        });
        let Some(room) = kept else {
            let mut transaction = taker.store.begin().await?;
            invites::drop_room(&mut transaction, room_id).await?;
            transaction.commit().await?;
            return Ok(None);
        };
        if !room.loaded {
            self.put_off(room_id, people, UNREADY_WAITS).await?;
            return Ok(None);
        }
        let may = power_levels(&room).may_invite(&taker.keeper);
        if may && !taker.rules.of(&room).noop {
            return Ok(Some(room));
        }
        if !may {
            tracing::warn!(room = %room_id, people = people.len(),
                "the keeper lacks the power to invite: give it the level that `invite` in \
                 m.room.power_levels asks for");
        }
        self.close(room_id).await?;
        Ok(None)
    }

    /// Nobody is invited into a room for a while.
    async fn close(&self, room_id: &RoomId) -> Result<(), KeeperError> {
        let mut transaction = self.lanes.taker.store.begin().await?;
        let due = now_ms().saturating_add(CLOSED_WAITS);
        invites::put_room_off(&mut transaction, room_id, due).await?;
        Ok(transaction.commit().await?)
    }

    /// What the homeserver says of somebody whose invite may have been sent.
    async fn look(&self, room_id: &RoomId, one: &Invitee) -> Result<Standing, KeeperError> {
        let homeserver = &self.lanes.homeserver;
        Ok(match membership_now(homeserver, room_id, &one.user_id).await? {
            Some(Membership::Join | Membership::Invite) => Standing::Inside,
            Some(Membership::Leave | Membership::Ban) => Standing::Gone,
            Some(Membership::Knock) | None => Standing::Outside,
        })
    }

    /// Sends one invite, and notes what came of it.
    async fn invite(&self, room: &RoomRow, one: &Invitee) -> Result<(), KeeperError> {
        let (room_id, user) = (&room.room_id, &one.user_id);
        let error = match self.lanes.homeserver.invite(room_id, user, None).await {
            Ok(()) => {
                tracing::debug!(room = %room_id, %user, "invited somebody");
                return self.made(room_id, user).await;
            }
            Err(error) => error,
        };
        self.refused(room_id, one, &error).await
    }

    /// An invite was refused, or nobody knows: where the homeserver is away altogether, it cannot be asked either.
    async fn refused(
        &self,
        room_id: &RoomId,
        one: &Invitee,
        error: &HomeserverError,
    ) -> Result<(), KeeperError> {
        let user = &one.user_id;
        match self.look(room_id, one).await? {
            Standing::Inside => return self.made(room_id, user).await,
            Standing::Gone => return self.over(room_id, one).await,
            Standing::Outside => {}
        }
        if one.attempts >= MOST_REFUSALS {
            tracing::warn!(room = %room_id, %user, %error, "somebody cannot be invited; given up");
            return self.over(room_id, one).await;
        }
        tracing::info!(room = %room_id, %user, %error, "somebody could not be invited yet");
        let mut transaction = self.lanes.taker.store.begin().await?;
        let due = now_ms().saturating_add(unreachable_wait(one.attempts));
        invites::put_off(&mut transaction, room_id, &[user], due, true).await?;
        Ok(transaction.commit().await?)
    }

    async fn made(&self, room_id: &RoomId, user: &UserId) -> Result<(), KeeperError> {
        let mut transaction = self.lanes.taker.store.begin().await?;
        invites::made(&mut transaction, room_id, user).await?;
        Ok(transaction.commit().await?)
    }

    async fn over(&self, room_id: &RoomId, one: &Invitee) -> Result<(), KeeperError> {
        let mut transaction = self.lanes.taker.store.begin().await?;
        invites::over(&mut transaction, room_id, &one.user_id, false, one.tick).await?;
        Ok(transaction.commit().await?)
    }

    async fn put_off(
        &self,
        room_id: &RoomId,
        people: &[Invitee],
        wait: i64,
    ) -> Result<(), KeeperError> {
        let users: Vec<&UserId> = people.iter().map(|one| one.user_id.as_ref()).collect();
        let mut transaction = self.lanes.taker.store.begin().await?;
        let due = now_ms().saturating_add(wait);
        invites::put_off(&mut transaction, room_id, &users, due, false).await?;
        Ok(transaction.commit().await?)
    }

    fn is_local(&self, user: &OwnedUserId) -> bool {
        user.server_name() == self.lanes.taker.keeper.server_name()
    }
}
