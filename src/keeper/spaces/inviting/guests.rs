//! Weighing who of those that wait is invited, and sending them the room's history before.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{Host, UNREADY_WAITS, bundle::History};
use crate::{
    crypto::{KnownDevice, ROOM_KEY_BUNDLE, ToDevice, bundle_content, wipe},
    keeper::{
        KeeperError, clock::now_ms, knowledge::device_facts, lane::Visit, outbox::note_delivered,
        pacing::unreachable_wait, people::Company,
    },
    policy::{Invitation, Word, gets_history, invitation, shares_history},
    state::{HistoryVisibility, Membership},
    store::{
        BundleRow, Invitee, NewOutbox, OutboxKind, OutboxRow, People, RoomRow, ToDeviceDetail,
        held_sessions, inherited, invites, ledger, outbox, rooms,
    },
};

/// How long somebody waits whose identity an administrator has to confirm, in milliseconds.
const CONFIRMED_AFTER: i64 = 3_600_000;
/// How long somebody waits of whom it is not known for certain what lets him in, in milliseconds.
const UNSURE_WAITS: i64 = 2_000;
/// How often an invite waits for devices that the history could be sent to.
const MOST_WAITS: i64 = 4;

/// Somebody who is invited, with the devices that get the bundle.
struct Guest {
    invitee: Invitee,
    devices: Vec<KnownDevice>,
}

/// What comes of those that wait.
#[derive(Default)]
struct Weighed {
    guests: Vec<Guest>,
    /// In the room, or invited.
    inside: Vec<OwnedUserId>,
    /// Not invited: whoever comes again is promised for again.
    refused: Vec<OwnedUserId>,
    /// Put off until these times, in milliseconds.
    waiting: Vec<(OwnedUserId, i64)>,
    /// Put off because it is not known for certain who lets them in.
    unsure: Vec<OwnedUserId>,
}

impl Host {
    /// Weighs those that wait, sends those who are to be invited the room's history, and adds them to `invited`. Returns
    /// for how many devices something was encrypted.
    pub(super) async fn prepare(
        &self,
        room: &RoomRow,
        people: Vec<Invitee>,
        invited: &mut Vec<Invitee>,
    ) -> Result<usize, KeeperError> {
        if people.is_empty() {
            return Ok(0);
        }
        let mut visit = self.acquaint(room, &people).await?;
        let visibility = self.visibility(&room.room_id).await?;
        let history = shares_history(visibility) && self.has_history(&room.room_id).await?;
        let mut weighed = self.weigh(&mut visit, people, history).await?;
        self.settle(&mut visit, &weighed).await?;
        if history {
            self.wait_for_channels(&room.room_id, &mut weighed.guests).await?;
        }
        if weighed.guests.is_empty() {
            return Ok(0);
        }
        let any_device = weighed.guests.iter().any(|guest| !guest.devices.is_empty());
        let bundle = match any_device {
            false => None,
            true => match self.bundle(&room.room_id).await? {
                History::Bundle(bundle) => Some(bundle),
                History::None => None,
                History::NotNow => {
                    self.close(&room.room_id).await?;
                    return Ok(0);
                }
            },
        };
        let letters = match &bundle {
            Some(bundle) => self.write(&room.room_id, bundle, &weighed.guests).await?,
            None => Vec::new(),
        };
        self.send(&visit, weighed.guests, visibility, (bundle, letters), invited).await
    }

    /// Weighs those again whose invite was not sent after all: much may have happened since they were weighed. Returns who
    /// is to be invited.
    pub(super) async fn admit(
        &self,
        room: &RoomRow,
        people: Vec<Invitee>,
    ) -> Result<Vec<Invitee>, KeeperError> {
        if people.is_empty() {
            return Ok(people);
        }
        let mut visit = self.acquaint(room, &people).await?;
        let weighed = self.weigh(&mut visit, people, false).await?;
        self.settle(&mut visit, &weighed).await?;
        Ok(weighed.guests.into_iter().map(|guest| guest.invitee).collect())
    }

    /// Learns who people are.
    async fn acquaint<'h>(
        &'h self,
        room: &RoomRow,
        people: &[Invitee],
    ) -> Result<Visit<'h>, KeeperError> {
        let users: BTreeSet<OwnedUserId> = people.iter().map(|one| one.user_id.clone()).collect();
        let device = &self.lanes.taker.device;
        device.track(users.iter().map(AsRef::as_ref)).await?;
        device.pump().await?;
        if users.iter().any(|user| !self.is_local(user)) {
            device.settled().await;
        }
        let mut visit = Visit::new(&self.lanes, room.clone(), Some(users.clone()));
        visit.looked_at = Some(users);
        Ok(visit)
    }

    async fn visibility(&self, room: &RoomId) -> Result<Option<HistoryVisibility>, KeeperError> {
        let db = &mut *self.lanes.taker.store.read().await?;
        Ok(rooms::history_visibility(db, room).await?)
    }

    async fn has_history(&self, room: &RoomId) -> Result<bool, KeeperError> {
        let db = &mut *self.lanes.taker.store.read().await?;
        Ok(inherited::any(db, room).await? || !held_sessions::shared(db, room).await?.is_empty())
    }

    async fn weigh(
        &self,
        visit: &mut Visit<'_>,
        people: Vec<Invitee>,
        history: bool,
    ) -> Result<Weighed, KeeperError> {
        let db = &mut *self.lanes.taker.store.read().await?;
        let company = visit.company(db).await?;
        let sharing = visit.rules.sharing;
        let mut weighed = Weighed::default();
        for invitee in people {
            let user = invitee.user_id.clone();
            let member = visit.outsider(db, &user).await?;
            match member.membership {
                Membership::Join | Membership::Invite => {
                    weighed.inside.push(user);
                    continue;
                }
                Membership::Knock if invitee.knocked => {}
                _ => match may_come(db, &visit.room.room_id, &invitee).await? {
                    Some(true) => {}
                    Some(false) => {
                        weighed.refused.push(user);
                        continue;
                    }
                    None => {
                        weighed.unsure.push(user);
                        continue;
                    }
                },
            }
            let known = self.lanes.taker.device.known_user(&user).await?;
            let master_key = known.master_key.as_deref();
            let (facts, standing) = visit.facts(db, &company, &member, master_key).await?;
            match invitation(&facts, &standing, invitee.knocked, &sharing) {
                Invitation::Yes => {}
                Invitation::NotNow => {
                    weighed.waiting.push((user, now_ms().saturating_add(CONFIRMED_AFTER)));
                    continue;
                }
                Invitation::No => {
                    weighed.refused.push(user);
                    continue;
                }
            }
            let gets = |device: &&KnownDevice| {
                let of_device = device_facts(device, is_blocked(&company, device));
                gets_history(&of_device, &facts, &standing, invitee.knocked, &sharing)
            };
            let devices: Vec<KnownDevice> =
                known.devices.iter().filter(|_| history).filter(gets).cloned().collect();
            if history && devices.is_empty() && invitee.attempts < MOST_WAITS {
                let wait = unreachable_wait(invitee.attempts);
                weighed.waiting.push((user, now_ms().saturating_add(wait)));
                continue;
            }
            weighed.guests.push(Guest { invitee, devices });
        }
        Ok(weighed)
    }

    /// Notes what came of those who are not invited now.
    async fn settle(&self, visit: &mut Visit<'_>, weighed: &Weighed) -> Result<(), KeeperError> {
        let room_id = visit.room_id();
        let mut transaction = self.lanes.taker.store.begin().await?;
        visit.note_sightings(&mut transaction).await?;
        for user in &weighed.inside {
            invites::made(&mut transaction, &room_id, user).await?;
        }
        let refused: Vec<&UserId> = weighed.refused.iter().map(AsRef::as_ref).collect();
        invites::take_back(&mut transaction, &room_id, &refused).await?;
        for (user, due) in &weighed.waiting {
            invites::put_off(&mut transaction, &room_id, &[user], *due, true).await?;
        }
        let unsure: Vec<&UserId> = weighed.unsure.iter().map(AsRef::as_ref).collect();
        let due = now_ms().saturating_add(UNSURE_WAITS);
        invites::put_off(&mut transaction, &room_id, &unsure, due, false).await?;
        Ok(transaction.commit().await?)
    }

    /// Sees to Olm sessions with those devices that the history goes to. Who has one that cannot be reached waits, for
    /// a while.
    async fn wait_for_channels(
        &self,
        room_id: &RoomId,
        guests: &mut Vec<Guest>,
    ) -> Result<(), KeeperError> {
        let device = &self.lanes.taker.device;
        let users: BTreeSet<OwnedUserId> = guests
            .iter()
            .filter(|guest| guest.devices.iter().any(|to| !device.is_met(to)))
            .map(|guest| guest.invitee.user_id.clone())
            .collect();
        let users: Vec<OwnedUserId> = users.into_iter().collect();
        device.claim_missing(&users).await?;
        if users.iter().any(|user| !self.is_local(user)) {
            device.settled().await;
        }
        let mut waiting = Vec::new();
        for (place, guest) in guests.iter().enumerate() {
            let mut reached = true;
            for to in &guest.devices {
                reached &= device.has_channel(to).await?;
            }
            if !reached && guest.invitee.attempts < MOST_WAITS {
                waiting.push(place);
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let mut transaction = self.lanes.taker.store.begin().await?;
        for place in waiting.into_iter().rev() {
            let Invitee { user_id, attempts, .. } = guests.remove(place).invitee;
            let due = now_ms().saturating_add(unreachable_wait(attempts));
            invites::put_off(&mut transaction, room_id, &[&user_id], due, true).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Encrypts what tells the guests' devices of the bundle.
    async fn write(
        &self,
        room_id: &RoomId,
        bundle: &BundleRow,
        guests: &[Guest],
    ) -> Result<Vec<ToDevice>, KeeperError> {
        let devices: Vec<KnownDevice> =
            guests.iter().flat_map(|guest| &guest.devices).cloned().collect();
        let device = &self.lanes.taker.device;
        let mut content = bundle_content(room_id, &bundle.file.0);
        let encrypted = device.encrypt_for(&devices, ROOM_KEY_BUNDLE, &content).await;
        wipe(&mut content);
        let (letters, unreachable) = encrypted?;
        for (user, device) in unreachable {
            tracing::debug!(room = %room_id, %user, %device, "a device gets no history: no Olm session");
        }
        Ok(letters)
    }

    /// Writes down what is sent, and to whom, and sends it. Nothing is sent where what was weighed does not hold any
    /// more.
    async fn send(
        &self,
        visit: &Visit<'_>,
        guests: Vec<Guest>,
        visibility: Option<HistoryVisibility>,
        (bundle, letters): (Option<BundleRow>, Vec<ToDevice>),
        invited: &mut Vec<Invitee>,
    ) -> Result<usize, KeeperError> {
        let (store, room_id) = (&self.lanes.taker.store, visit.room_id());
        let users: Vec<&UserId> =
            guests.iter().map(|guest| guest.invitee.user_id.as_ref()).collect();
        self.lanes.taker.device.written().await?;
        let mut transaction = store.begin().await?;
        let room = rooms::get(&mut transaction, &room_id).await?;
        let is_in = room.is_some_and(|room| room.membership == Membership::Join);
        let same = rooms::history_visibility(&mut transaction, &room_id).await? == visibility;
        if !is_in || !same || !still_welcome(&mut transaction, &room_id, &guests).await? {
            let due = now_ms().saturating_add(UNREADY_WAITS);
            invites::put_off(&mut transaction, &room_id, &users, due, false).await?;
            transaction.commit().await?;
            return Ok(0);
        }
        let now = now_ms();
        let bundle_id = bundle.as_ref().map(|bundle| bundle.id);
        let mut rows = Vec::with_capacity(letters.len());
        for letter in letters {
            let Some(id) = bundle_id else { break };
            let given = (visit.rules.policy.as_str(), now);
            let to = &letter.recipients;
            ledger::grant_bundle(store, &mut transaction, &room_id, id, to, given).await?;
            let detail = ToDeviceDetail {
                session_id: ledger::bundle_name(id),
                recipients: letter.recipients,
                bundle_id,
            };
            let request = NewOutbox {
                kind: OutboxKind::ToDevice,
                txn_id: letter.txn_id,
                event_type: letter.event_type,
                state_key: String::new(),
                body: letter.body,
                detail: store.lock(&detail)?,
            };
            let id = outbox::insert(&mut transaction, &room_id, &request, now).await?;
            rows.push((OutboxRow { id, room_id: room_id.clone(), request }, detail.into()));
        }
        invites::sending(&mut transaction, &room_id, &users, bundle_id).await?;
        transaction.commit().await?;
        let delivered = self.lanes.sender.send_keys(rows).await?;
        let mut transaction = store.begin().await?;
        note_delivered(store, &mut transaction, &delivered).await?;
        transaction.commit().await?;
        invited.extend(guests.into_iter().map(|guest| guest.invitee));
        Ok(delivered.iter().map(|delivery| delivery.detail.recipients.len()).sum())
    }
}

/// Whether somebody may be invited because of what the homeserver told; `None` where that is not known for certain. Who
/// knocked has to be knocking still.
async fn may_come(
    db: &mut SqliteConnection,
    room_id: &RoomId,
    invitee: &Invitee,
) -> Result<Option<bool>, KeeperError> {
    if invitee.knocked || rooms::get_member(db, room_id, &invitee.user_id).await?.is_some() {
        return Ok(Some(false));
    }
    Ok(invites::is_let_in(db, room_id, &invitee.user_id).await?)
}

/// Whether nobody of the guests came, went or was refused since they were weighed: asked in the transaction that writes
/// down what they are given.
async fn still_welcome(
    db: &mut SqliteConnection,
    room_id: &RoomId,
    guests: &[Guest],
) -> Result<bool, KeeperError> {
    let said = People::of_room(db, room_id, None).await?;
    for Guest { invitee, devices } in guests {
        let user = &invitee.user_id;
        let member = rooms::get_member(db, room_id, user).await?;
        let knocks = member.is_some_and(|member| member.membership == Membership::Knock);
        let may =
            (invitee.knocked && knocks) || may_come(db, room_id, invitee).await? == Some(true);
        let refused = said.is_blocked(user)
            || said.word(user) == Some(Word::Denied)
            || devices.iter().any(|device| said.is_device_blocked(user, &device.device_id));
        if !may || refused {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_blocked(company: &Company, device: &KnownDevice) -> bool {
    company.is_device_blocked(&device.user_id, &device.device_id)
}
