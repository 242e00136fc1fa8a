//! Handing keys over: encrypted, granted in the commit that puts them into the outbox, sent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{DeviceId, OwnedUserId, RoomId, UserId};

use super::{
    KeeperError,
    clock::now_ms,
    decide::{Knowledge, Reason, Recipient, Share},
    lane::Visit,
    letters::Letters,
    outbox::{Delivered, note_delivered},
};
use crate::{
    crypto::{Encrypted, KeySnapshot, KnownDevice, wipe},
    policy::{self, InviteePolicy},
    state::{Membership, StateTuple},
    store::{
        NewGrant, NewOutbox, OutboxKind, OutboxRow, ToDeviceDetail, ledger, outbox, rooms, tuples,
    },
};

impl Visit<'_> {
    /// Hands the keys of current values over. Returns whether what was decided still held.
    pub(super) async fn share(
        &mut self,
        known: &Knowledge,
        shares: &[Share],
    ) -> Result<bool, KeeperError> {
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
        // Before anybody waits for the right to write.
        self.lanes.taker.device.written().await?;
        let mut transaction = store.begin().await?;
        if !self.still_present(&mut transaction, &letters).await?
            || !self.still_wanted(&mut transaction, &letters).await?
        {
            return Ok(false);
        }
        self.note_delivered(&mut transaction).await?;
        ledger::grant(&store, &mut transaction, &room_id, &letters.grants, now).await?;
        let answered = self.answered(&mut transaction, shares, &mut letters).await?;
        let requests = self.insert(&mut transaction, &room_id, letters, now).await?;
        transaction.commit().await?;
        self.deliver(requests).await?;
        self.count_answered(&answered);
        Ok(true)
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
        for grant in letters.grants.iter().filter(|grant| !grant.preview) {
            grants.entry(grant.user_id.as_ref()).or_default().push(grant);
        }
        let users = grants.keys().copied();
        let memberships = rooms::memberships(db, &self.room.room_id, users).await?;
        for (user, grants) in grants {
            let membership = memberships.get(user).copied();
            let invitees = self.rules.sharing.invitees;
            if !grants.into_iter().all(|grant| may_still_get(invitees, membership, grant)) {
                return Ok(false);
            }
        }
        Ok(self.may_still_preview(db, letters).await? && !self.any_refused(db, letters).await?)
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
        let unmet: Vec<&Recipient> = recipients.filter(|to| !is_met(to)).collect();
        let users: BTreeSet<OwnedUserId> = unmet.iter().map(|to| to.user_id.clone()).collect();
        device.claim_missing(&users.into_iter().collect::<Vec<_>>()).await?;
        let own = device.user_id().server_name();
        // Nobody waits for whoever has not joined.
        let is_waited_for =
            |to: &&Recipient| to.reason != Reason::Preview && to.user_id.server_name() != own;
        if unmet.iter().any(is_waited_for) {
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
            let lacking = recipients
                .iter()
                .filter(|to| !covered.contains(&(to.user_id.as_ref(), to.device_id.as_ref())));
            self.devices_of(lacking)
        };
        let mut content = snapshot.room_key_content(&self.room.room_id, session_id);
        let encrypted = self.lanes.taker.device.encrypt_for(&devices, "m.room_key", &content).await;
        wipe(&mut content);
        self.take_written(letters, recipients, (tuple, session_id), message_index, encrypted?);
        Ok(())
    }

    /// The devices of recipients.
    pub(super) fn devices_of<'r>(
        &self,
        recipients: impl Iterator<Item = &'r Recipient>,
    ) -> Vec<KnownDevice> {
        recipients
            .filter_map(|to| self.devices.get(&(to.user_id.clone(), to.device_id.clone())))
            .cloned()
            .collect()
    }

    /// Writes down what it will take to send what was encrypted.
    pub(super) fn take_written(
        &mut self,
        letters: &mut Letters,
        recipients: &[Recipient],
        (tuple, session_id): (&StateTuple, &str),
        message_index: u32,
        (requests, unreachable): Encrypted,
    ) {
        for (user_id, device_id) in unreachable {
            tracing::debug!(room = %self.room.room_id, user = %user_id, device = %device_id,
                "no Olm session with a device, and no one-time key to make one");
            self.unreachable.insert((user_id, device_id));
        }
        let reasons: HashMap<(&UserId, &DeviceId), Reason> = recipients
            .iter()
            .map(|to| ((to.user_id.as_ref(), to.device_id.as_ref()), to.reason))
            .collect();
        for request in requests {
            for (user_id, device_id) in &request.recipients {
                let reason = reasons.get(&(user_id.as_ref(), device_id.as_ref())).copied();
                let reason = reason.unwrap_or(Reason::Seal);
                letters.grants.push(NewGrant {
                    session_id: session_id.to_owned(),
                    user_id: user_id.clone(),
                    device_id: device_id.clone(),
                    message_index,
                    reason: reason.as_str(),
                    again: reason == Reason::Resend,
                    preview: self.previewers.contains(user_id),
                    tuple: tuple.clone(),
                    policy: self.rules.policy.clone(),
                });
                self.reasons.insert((user_id.clone(), device_id.clone()), reason);
            }
            letters.requests.push((session_id.to_owned(), request));
        }
    }

    /// Writes requests into the outbox, as part of the caller's transaction. The ratchets that encrypted them are on the
    /// disk already: the caller has seen to that before it began to write.
    pub(super) async fn insert(
        &self,
        db: &mut sqlx::SqliteConnection,
        room_id: &RoomId,
        letters: Letters,
        now: i64,
    ) -> Result<Vec<(OutboxRow, Arc<ToDeviceDetail>)>, KeeperError> {
        let mut rows = Vec::with_capacity(letters.requests.len());
        for (session_id, request) in letters.requests {
            let detail =
                ToDeviceDetail { session_id, recipients: request.recipients, bundle_id: None };
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
        Ok(rows)
    }

    /// Sends keys and counts them. What was sent is noted by the next commit; a kill before that sends the
    /// same once more.
    pub(super) async fn deliver(
        &mut self,
        requests: Vec<(OutboxRow, Arc<ToDeviceDetail>)>,
    ) -> Result<(), KeeperError> {
        let delivered = self.lanes.sender.send_keys(requests).await?;
        self.take_delivered(delivered).await
    }

    /// Counts keys that were sent, and keeps in mind that they were, for the next commit.
    pub(super) async fn take_delivered(
        &mut self,
        mut delivered: Vec<Delivered>,
    ) -> Result<(), KeeperError> {
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
}

/// Whether somebody who is `membership` now may have the key that a grant is for.
pub fn may_still_get(
    invitees: InviteePolicy,
    membership: Option<Membership>,
    grant: &NewGrant,
) -> bool {
    // What an invitee gets was decided for an invitee; who joined may have been invited anew since.
    let for_invitees = grant.reason == Reason::Invite.as_str() || grant.is_asked();
    (membership == Some(Membership::Join) || for_invitees)
        && policy::member_may_read(membership, &grant.tuple, invitees)
}
