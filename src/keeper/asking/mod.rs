//! Asking members for the keys of state that the keeper cannot read (spec, "m.room_key_request").
//!
//! Recovery: whom the keeper asks stands in one commit with the request in the outbox. After a kill the same request
//! goes out once more, under the same transaction id and the same request id. An answer that a kill lost is asked
//! for again when everybody has had his turn.

pub mod answers;
mod schedule;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, TransactionId, UserId};
use serde_json::{Value, json};

use self::schedule::{Candidate, PATIENCE, Progress, Step};
use super::{
    KeeperError,
    clock::now_ms,
    ingest::{Taker, power_levels},
    outbox::{Sender, note_delivered},
};
use crate::{
    crypto::MEGOLM,
    state::{MegolmContent, Membership},
    store::{
        AskRow, AskedRow, NewOutbox, OutboxKind, OutboxRow, ToDeviceDetail, Wanted, asking, marks,
        outbox, rooms, tuples,
    },
};

/// How often it is looked whether somebody has to be asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many sessions are asked for at the same time, in all rooms: the others wait until one of these is settled.
const MOST_OPEN: usize = 256;
/// How many of these one room may take.
const MOST_OPEN_OF_A_ROOM: usize = MOST_OPEN / 8;
/// How many requests one look sends.
const MOST_AT_ONCE: usize = 16;
/// How many devices of one user are asked.
const MOST_DEVICES: usize = 10;
/// How many users without a device that could be asked are passed over in one round.
const MOST_SKIPPED: usize = 32;

/// Asks.
#[derive(Clone)]
pub struct Asker {
    /// Knows what is missing.
    pub taker: Taker,
    /// Sends.
    pub sender: Sender,
}

type Key = (OwnedRoomId, String);

impl Asker {
    /// Asks for what is missing, for ever.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when a store fails.
    pub async fn run(&self) -> Result<(), KeeperError> {
        loop {
            match self.look().await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, "the homeserver is away; asking for keys waits");
                }
                done => done?,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> Result<(), KeeperError> {
        let now = now_ms();
        let wanted = self.wanted().await?;
        let asks = asking::all(&mut *self.taker.store.read().await?).await?;
        for ask in &asks {
            let is_wanted = wanted.contains_key(&(ask.room_id.clone(), ask.session_id.clone()));
            // To take it back is to send something as well.
            if !is_wanted && !self.is_noop(&ask.room_id).await? {
                self.end(ask, None).await?;
            }
        }
        let known: BTreeSet<Key> =
            asks.iter().map(|ask| (ask.room_id.clone(), ask.session_id.clone())).collect();
        let mut open = BTreeMap::<OwnedRoomId, usize>::new();
        for ask in asks.iter().filter(|ask| !ask.given_up) {
            *open.entry(ask.room_id.clone()).or_default() += 1;
        }
        self.begin(&wanted, &known, open).await?;
        let due = asks.iter().filter(|ask| !ask.given_up && ask.due_at <= now);
        for ask in due.take(MOST_AT_ONCE) {
            let key = (ask.room_id.clone(), ask.session_id.clone());
            if let Some(wanted) = wanted.get(&key) {
                self.ask(ask, wanted, now).await?;
            }
        }
        Ok(())
    }

    async fn is_noop(&self, room: &RoomId) -> Result<bool, KeeperError> {
        let room = rooms::get(&mut *self.taker.store.read().await?, room).await?;
        Ok(room.is_some_and(|room| self.taker.rules.of(&room).noop))
    }

    /// What is missing and worth asking for: nobody is asked for what the keeper would leave alone.
    async fn wanted(&self) -> Result<BTreeMap<Key, Wanted>, KeeperError> {
        let db = &mut *self.taker.store.read().await?;
        let mut by_key = BTreeMap::new();
        for wanted in asking::wanted(db).await? {
            let Some(room) = rooms::get(db, &wanted.room_id).await? else { continue };
            let rules = self.taker.rules.of(&room);
            let event_type = &wanted.tuple.event_type;
            if !rules.noop
                && !rules.exempt.contains(event_type)
                && !rules.exempt.is_critical(event_type)
                && !rules.sender_bound.binds(&wanted.tuple)
            {
                by_key.insert((wanted.room_id.clone(), wanted.session_id.clone()), wanted);
            }
        }
        Ok(by_key)
    }

    /// Notes what has to be asked for from now on, as far as there is room.
    async fn begin(
        &self,
        wanted: &BTreeMap<Key, Wanted>,
        known: &BTreeSet<Key>,
        mut open: BTreeMap<OwnedRoomId, usize>,
    ) -> Result<(), KeeperError> {
        let room_for = MOST_OPEN.saturating_sub(open.values().sum());
        let mut new: Vec<&Wanted> = wanted
            .iter()
            .filter(|(key, _)| !known.contains(*key))
            .map(|(_, wanted)| wanted)
            .collect();
        if new.is_empty() || room_for == 0 {
            return Ok(());
        }
        new.sort_by_key(|wanted| wanted.received_at);
        // No room takes the place of all others.
        new.retain(|wanted| {
            let open = open.entry(wanted.room_id.clone()).or_default();
            *open += 1;
            *open <= MOST_OPEN_OF_A_ROOM
        });
        if new.is_empty() {
            return Ok(());
        }
        let mut transaction = self.taker.store.begin().await?;
        for wanted in new.into_iter().take(room_for) {
            let ask = AskRow {
                room_id: wanted.room_id.clone(),
                session_id: wanted.session_id.clone(),
                request_id: TransactionId::new().to_string(),
                rounds: 0,
                due_at: wanted.received_at.saturating_add(PATIENCE),
                given_up: false,
            };
            asking::put(&mut transaction, &ask).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// One round: whoever is next is asked.
    async fn ask(&self, ask: &AskRow, wanted: &Wanted, now: i64) -> Result<(), KeeperError> {
        let db = &mut *self.taker.store.read().await?;
        let waiting =
            tuples::awaiting(&self.taker.store, db, &ask.room_id, Some(ask.session_id.as_str()))
                .await?;
        let Some(megolm) = waiting.iter().find_map(answers::unread) else { return Ok(()) };
        let candidates = self.candidates(db, &ask.room_id, &wanted.sender).await?;
        let before: BTreeSet<OwnedUserId> = asking::asked(db, &ask.room_id, &ask.session_id)
            .await?
            .into_iter()
            .filter(|row| row.request_id == ask.request_id)
            .map(|row| row.user_id)
            .collect();
        let mut passed = before.clone();
        let mut next = ask.clone();
        let mut devices = Vec::new();
        for _ in 0..MOST_SKIPPED {
            let progress = Progress { rounds: ask.rounds, due_at: ask.due_at, asked: &passed };
            let Step::Ask { users, anew, due_at } = schedule::next(progress, &candidates, now)
            else {
                return self.give_up(ask, now).await;
            };
            next.due_at = due_at;
            if anew && passed.len() > before.len() {
                break;
            }
            if anew {
                passed.clear();
                next.request_id = TransactionId::new().to_string();
            }
            for user in &users {
                let is_maker = *user == wanted.sender;
                devices.extend(self.devices(user, is_maker, &megolm, &next.request_id).await?);
            }
            passed.extend(users.iter().cloned());
            if !devices.is_empty() || users.is_empty() {
                break;
            }
        }
        next.rounds = ask.rounds.saturating_add(1);
        tracing::info!(room = %ask.room_id, session = ask.session_id, round = next.rounds,
            devices = devices.len(), "asking members for a key that is missing");
        let content = |row: &AskedRow| self.request(row, &ask.room_id, &megolm);
        self.say(&next, &devices, content).await
    }

    async fn candidates(
        &self,
        db: &mut sqlx::SqliteConnection,
        room_id: &RoomId,
        maker: &UserId,
    ) -> Result<Vec<Candidate>, KeeperError> {
        let Some(room) = rooms::get(db, room_id).await? else { return Ok(Vec::new()) };
        let power = power_levels(&room);
        let members = rooms::present_members(db, room_id).await?;
        Ok(members
            .into_iter()
            .filter(|member| {
                member.membership == Membership::Join && member.user_id != self.taker.keeper
            })
            .map(|member| Candidate {
                power: power.user_level(&member.user_id),
                is_maker: member.user_id == maker,
                user_id: member.user_id,
            })
            .collect())
    }

    /// Which devices of a user are asked. The maker's answer counts whatever its device is; of the others only those
    /// whose answer could be used.
    async fn devices(
        &self,
        user: &UserId,
        is_maker: bool,
        megolm: &MegolmContent,
        request_id: &str,
    ) -> Result<Vec<AskedRow>, KeeperError> {
        let known = self.taker.device.known_user(user).await?;
        let mut usable: Vec<_> = known
            .devices
            .iter()
            .filter(|device| {
                !device.deleted && (is_maker || (device.cross_signed && !device.blocked))
            })
            .collect();
        // Nobody vouches for what the event says of its device: it only says where to begin.
        let said = megolm.device_id.as_deref();
        if is_maker && usable.iter().any(|device| said == Some(device.device_id.as_str())) {
            usable.retain(|device| said == Some(device.device_id.as_str()));
        }
        usable.sort_by(|a, b| a.device_id.cmp(&b.device_id));
        Ok(usable
            .into_iter()
            .take(MOST_DEVICES)
            .map(|device| AskedRow {
                user_id: device.user_id.clone(),
                device_id: device.device_id.clone(),
                request_id: request_id.to_owned(),
            })
            .collect())
    }

    fn request(&self, row: &AskedRow, room_id: &RoomId, megolm: &MegolmContent) -> Value {
        let mut body = json!({
            "algorithm": MEGOLM, "room_id": room_id, "session_id": megolm.session_id,
        });
        // Deprecated, and still asked for by some.
        if let (Some(key), Some(body)) = (&megolm.sender_key, body.as_object_mut()) {
            body.insert("sender_key".to_owned(), json!(key));
        }
        json!({
            "action": "request", "body": body, "request_id": row.request_id,
            "requesting_device_id": self.taker.device.device_id(),
        })
    }

    async fn give_up(&self, ask: &AskRow, now: i64) -> Result<(), KeeperError> {
        tracing::warn!(room = %ask.room_id, session = ask.session_id,
            "nobody gave the key that is missing; nobody is asked for it any more");
        self.end(ask, Some(AskRow { given_up: true, due_at: now, ..ask.clone() })).await
    }

    /// Takes every request for a session back: it is there, not wanted any more, or nobody has it. What `left` says
    /// stays, so that it is not asked for again.
    async fn end(&self, ask: &AskRow, left: Option<AskRow>) -> Result<(), KeeperError> {
        let store = &self.taker.store;
        let asked = asking::asked(&mut *store.read().await?, &ask.room_id, &ask.session_id).await?;
        let mut requests = Vec::new();
        let mut transaction = store.begin().await?;
        // A device has one message of a kind in a request: those that were asked twice are told twice.
        for turn in turns(asked) {
            let body = self.body(&turn, |row| {
                json!({
                    "action": "request_cancellation", "request_id": row.request_id,
                    "requesting_device_id": self.taker.device.device_id(),
                })
            })?;
            requests.push(self.write(&mut transaction, &ask.room_id, body).await?);
        }
        asking::remove(&mut transaction, &ask.room_id, &ask.session_id).await?;
        if let Some(left) = left {
            asking::put(&mut transaction, &left).await?;
        }
        transaction.commit().await?;
        self.send(&ask.room_id, requests).await
    }

    /// Writes down whom the keeper asks, together with the request, and sends it.
    async fn say(
        &self,
        ask: &AskRow,
        devices: &[AskedRow],
        content: impl Fn(&AskedRow) -> Value,
    ) -> Result<(), KeeperError> {
        let mut requests = Vec::new();
        let mut transaction = self.taker.store.begin().await?;
        asking::put(&mut transaction, ask).await?;
        for row in devices {
            asking::put_asked(&mut transaction, &ask.room_id, &ask.session_id, row).await?;
        }
        if !devices.is_empty() {
            let body = self.body(devices, content)?;
            requests.push(self.write(&mut transaction, &ask.room_id, body).await?);
        }
        transaction.commit().await?;
        self.send(&ask.room_id, requests).await
    }

    fn body(
        &self,
        devices: &[AskedRow],
        content: impl Fn(&AskedRow) -> Value,
    ) -> Result<String, KeeperError> {
        let mut messages: BTreeMap<&UserId, BTreeMap<&str, Value>> = BTreeMap::new();
        for row in devices {
            let of_user = messages.entry(&row.user_id).or_default();
            of_user.insert(row.device_id.as_str(), content(row));
        }
        Ok(serde_json::to_string(&json!({ "messages": messages }))?)
    }

    async fn write(
        &self,
        db: &mut sqlx::SqliteConnection,
        room_id: &RoomId,
        body: String,
    ) -> Result<(OutboxRow, Arc<ToDeviceDetail>), KeeperError> {
        // It hands no key over: no grant belongs to it.
        let detail = ToDeviceDetail::default();
        let request = NewOutbox {
            kind: OutboxKind::ToDevice,
            txn_id: TransactionId::new().to_string(),
            event_type: "m.room_key_request".to_owned(),
            state_key: String::new(),
            body,
            detail: self.taker.store.lock(&detail)?,
        };
        let id = outbox::insert(db, room_id, &request, now_ms()).await?;
        Ok((OutboxRow { id, room_id: room_id.to_owned(), request }, Arc::new(detail)))
    }

    /// Sends what was written down. Where the homeserver is away, the room's lane sends it later.
    async fn send(
        &self,
        room_id: &RoomId,
        requests: Vec<(OutboxRow, Arc<ToDeviceDetail>)>,
    ) -> Result<(), KeeperError> {
        if requests.is_empty() {
            return Ok(());
        }
        let store = &self.taker.store;
        let sent = self.sender.send_keys(requests).await;
        let mut transaction = store.begin().await?;
        match &sent {
            Ok(delivered) => note_delivered(store, &mut transaction, delivered).await?,
            Err(_) => {
                marks::mark(&mut transaction, room_id, None, now_ms(), store.next_tick()).await?;
            }
        }
        transaction.commit().await?;
        sent.map(drop)
    }
}

/// Splits rows so that no device stands twice in one part.
fn turns(asked: Vec<AskedRow>) -> Vec<Vec<AskedRow>> {
    let mut by_request: BTreeMap<String, Vec<AskedRow>> = BTreeMap::new();
    for row in asked {
        by_request.entry(row.request_id.clone()).or_default().push(row);
    }
    by_request.into_values().collect()
}
