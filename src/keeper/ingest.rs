//! Taking events in: from the inbox into what is known, in the order of the own server's stream.
//!
//! Nothing is sent from here. What has to be done is promised by a mark in the same commit.

use std::sync::Arc;

use ruma::{OwnedUserId, RoomId, UserId};
use serde_json::Value;
use sqlx::SqliteConnection;
use tokio::sync::Notify;

use super::{
    KeeperError,
    clock::now_ms,
    journal, management,
    people::{inviter, mark_all_let_in, mark_let_in},
    places, plain, redaction, rotation,
    rule_book::RuleBook,
    spaces::{Bells, inviting::hearing, news},
    standing, state_events, succession, wars, weighing,
};
use crate::{
    admin::Metrics,
    crypto::KeeperDevice,
    policy::{MemberPolicy, UserGlob},
    state::{JsonMap, Membership, PowerLevels, RoomEvent, creators_of, power::room_version_of},
    store::{
        InboxRow, MemberRow, Retired, RoomRow, Store, held_sessions, inbox, ledger, marks, people,
        rooms, sessions, successions, tuples,
    },
};

/// How many events are taken in by one commit.
const BATCH: i64 = 64;
/// How many times a few hundred events of one session are read at once.
const MOST_PAGES: u32 = 4;

/// What everything that takes events in works with.
#[derive(Clone)]
pub struct Taker {
    /// The store.
    pub store: Store,
    /// The keeper's device, to read with.
    pub device: KeeperDevice,
    /// The organisation's rules.
    pub rules: Arc<RuleBook>,
    /// Counters.
    pub metrics: Metrics,
    /// The keeper.
    pub keeper: OwnedUserId,
    /// When the process began to keep rooms, in milliseconds.
    pub began_at: i64,
    /// Whether the device was made by this very start, and no sign of another life speaks against it.
    pub is_of_today: bool,
    /// Told when it may be that the device has to be replaced by another one.
    pub renewal: Arc<Notify>,
    /// Told what concerns spaces.
    pub spaces: Bells,
}

/// When an event arrived, and whether it happens now or is found in a fetched state.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When it arrived, in milliseconds.
    pub at: i64,
    /// The tick at which it is taken in.
    pub tick: i64,
    /// Whether it just happened.
    pub live: bool,
    /// Whether it was fetched, and may be older than what was taken in before it.
    pub fetched: bool,
    /// Whether it is known to be older than what a member has said since.
    pub behind: bool,
    /// Whether the power levels that it comes with are those of its time.
    pub levels_known: bool,
}

impl Arrival {
    /// Of something that happens now, at `at` (milliseconds).
    pub fn live(at: i64, tick: i64) -> Self {
        Self { at, tick, live: true, fetched: false, behind: false, levels_known: true }
    }
}

impl Taker {
    /// Takes events in until the process ends. `arrived` is told of new ones, `promised` is told of marks.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub async fn run(&self, arrived: &Notify, promised: &Notify) -> Result<(), KeeperError> {
        loop {
            let notified = arrived.notified();
            if self.take_batch().await? == 0 {
                notified.await;
            } else {
                promised.notify_one();
                self.spaces.ring();
            }
        }
    }

    /// Takes in the oldest events that wait, in one commit. Returns how many they were.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub async fn take_batch(&self) -> Result<usize, KeeperError> {
        let rows = inbox::waiting(&mut *self.store.read().await?, BATCH).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut transaction = self.store.begin().await?;
        for row in &rows {
            self.take(&mut transaction, row).await?;
        }
        transaction.commit().await?;
        Ok(rows.len())
    }

    async fn take(&self, db: &mut SqliteConnection, row: &InboxRow) -> Result<(), KeeperError> {
        let known = rooms::get(db, &row.room_id).await?;
        let parsed = RoomEvent::parse_str(&row.body);
        let loading =
            known.as_ref().is_some_and(|room| room.membership == Membership::Join && !room.loaded);
        // Only whether the keeper is in the room at all is no matter of the state that is being fetched.
        let own = parsed.as_ref().is_ok_and(|event| self.is_own_membership(event));
        if loading && !own {
            return Ok(inbox::hold(db, row.seq).await?);
        }
        inbox::taken(db, row.seq).await?;
        let event = match parsed {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(room = %row.room_id, %error, "an event is malformed and was passed over");
                return Ok(());
            }
        };
        let arrival = Arrival {
            at: row.received_at,
            tick: self.store.next_tick(),
            live: true,
            fetched: row.fetched,
            behind: row.behind,
            levels_known: !row.fetched || row.levels.is_some(),
        };
        if self.is_own_membership(&event) {
            if let Some(room) = &known {
                plain::warn_reason(self, room, &event, arrival);
            }
            return self.take_own_membership(db, &row.room_id, known, &event, arrival).await;
        }
        let Some(room) = known.filter(|room| room.membership == Membership::Join) else {
            return Ok(());
        };
        if room.state_encrypted {
            rooms::touch(db, &row.room_id, arrival.at).await?;
        }
        // What was fetched may be older than the levels that stand today.
        let room = match &row.levels {
            Some(then) => RoomRow { power_levels: then.clone(), ..room },
            None => room,
        };
        self.take_event(db, room, &event, &row.body, arrival).await
    }

    fn is_own_membership(&self, event: &RoomEvent) -> bool {
        event.event_type == "m.room.member"
            && event.state_key.as_deref() == Some(self.keeper.as_str())
    }

    async fn take_own_membership(
        &self,
        db: &mut SqliteConnection,
        room_id: &RoomId,
        known: Option<RoomRow>,
        event: &RoomEvent,
        arrival: Arrival,
    ) -> Result<(), KeeperError> {
        let Some(membership) = Membership::from_content(&event.content) else { return Ok(()) };
        let was = known.as_ref().map(|room| room.membership);
        let mut room = known.unwrap_or_else(|| RoomRow::new(room_id.to_owned(), membership));
        let rules = places::rules_in(self, db, room_id).await?;
        match membership {
            Membership::Invite => {
                let is_known = UserGlob::any(&self.rules.global().invite_from, &event.sender);
                // Whoever closed a room that the keeper is in has said where it goes on.
                if !is_known && !successions::is_announced(db, room_id).await? {
                    tracing::info!(room = %room_id, inviter = %event.sender,
                        "an invite was not accepted: `access.invite_from` does not name its sender");
                    return Ok(());
                }
                news::keeper_invited(self, db, room_id, &event.sender).await?;
                room.inviter = Some(event.sender.clone());
            }
            Membership::Join if was == Some(Membership::Join) => return Ok(()),
            Membership::Join => room.loaded = false,
            Membership::Leave | Membership::Ban | Membership::Knock => {
                tracing::info!(room = %room_id, membership = membership.as_str(),
                    by = %event.sender, "the keeper is no longer in a room");
                forget(&self.store, db, room_id).await?;
                news::keeper_left(self, db, room_id, arrival).await?;
                mark_all_let_in(self, db, room_id).await?;
            }
        }
        if membership == Membership::Invite && was == Some(Membership::Join) {
            forget(&self.store, db, room_id).await?;
        }
        room.membership = membership;
        rooms::put(db, &room).await?;
        news::waited_for(self, db, room_id).await?;
        places::mark_changed(self, db, rules).await?;
        if matches!(membership, Membership::Invite | Membership::Join) {
            marks::mark(db, room_id, None, arrival.at, arrival.tick).await?;
        }
        Ok(())
    }

    /// Takes in an event of a room that the keeper is in.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub async fn take_event(
        &self,
        db: &mut SqliteConnection,
        mut room: RoomRow,
        event: &RoomEvent,
        body: &str,
        arrival: Arrival,
    ) -> Result<(), KeeperError> {
        if event.event_type == "m.room.redaction" {
            places::take_redaction(db, &room, event, arrival).await?;
        }
        // Also where state is not sealed any more: what was taken back must not come back with the next policy.
        if event.event_type == "m.room.redaction" && room.encrypted {
            return redaction::take_redaction(self, db, &room, event, arrival).await;
        }
        let Some(state_key) = event.state_key.as_deref() else {
            if arrival.live {
                management::take(self, db, &room.room_id, event, body).await?;
            }
            if room.state_encrypted && event.event_type == "m.room.encrypted" {
                state_events::record_message(db, &room.room_id, event).await?;
            }
            return Ok(());
        };
        if room.state_encrypted {
            journal::keep_setting(self, db, &room, event, arrival).await?;
        }
        succession::take(self, db, &room, event, arrival).await?;
        if places::take(self, db, &room, event, arrival).await? {
            room = rooms::get(db, &room.room_id).await?.unwrap_or(room);
        }
        match (event.event_type.as_str(), state_key) {
            ("m.room.member", user) => self.take_member(db, &room, event, user, arrival).await,
            (
                "m.room.create" | "m.room.power_levels" | "m.room.encryption" | "m.room.join_rules",
                "",
            ) => {
                let before = (room.state_encrypted, room.elevated);
                let own = arrival.live.then_some(&room.room_id);
                let rules = places::rules_of(self, db, own).await?;
                self.take_room_setting(&mut room, event);
                // Encrypted from now on: what stands there already has to be looked at.
                room.loaded &= !arrival.live || before.0 == room.state_encrypted;
                rooms::put(db, &room).await?;
                wars::take_power(db, &room.room_id, &power_levels(&room), arrival).await?;
                news::take_setting(self, db, &room, event, arrival).await?;
                places::mark_changed(self, db, rules).await?;
                let changed = before != (room.state_encrypted, room.elevated);
                if arrival.live && changed {
                    tracing::info!(room = %room.room_id, status = room.status(), "a room's standing changed");
                }
                // Power and join rules say who is vouched for.
                let members = self.rules.of(&room).sharing.members;
                let weighed = matches!(members, MemberPolicy::Vouched(_));
                // What the keeper had not the power for may wait.
                let powers = event.event_type == "m.room.power_levels" && room.elevated;
                if arrival.live && (changed || weighed || powers) {
                    marks::mark(db, &room.room_id, None, arrival.at, arrival.tick).await?;
                }
                Ok(())
            }
            ("m.room.history_visibility", "") => {
                rotation::take_visibility(self, db, &room, event, arrival).await
            }
            ("m.room.history_visibility" | "m.room.join_rules", _) => Ok(()),
            _ if room.state_encrypted => {
                state_events::take_state(self, db, &room, event, body, arrival).await
            }
            _ => Ok(()),
        }
    }

    fn take_room_setting(&self, room: &mut RoomRow, event: &RoomEvent) {
        match event.event_type.as_str() {
            "m.room.create" => {
                room.version = room_version_of(&event.content).to_owned();
                room.creators = creators_of(&event.sender, &event.content, &room.version);
            }
            "m.room.power_levels" => room.power_levels = to_json(&event.content),
            "m.room.join_rules" => room.join_rules = to_json(&event.content),
            _ => {
                standing::hear(room, &event.content);
                room.encryption = to_json(&event.content);
            }
        }
        standing::weigh(self, room);
        room.elevated = power_levels(room).elevated(&self.keeper);
    }

    async fn take_member(
        &self,
        db: &mut SqliteConnection,
        room: &RoomRow,
        event: &RoomEvent,
        user: &str,
        arrival: Arrival,
    ) -> Result<(), KeeperError> {
        let (Ok(user_id), Some(membership)) =
            (UserId::parse(user), Membership::from_content(&event.content))
        else {
            return Ok(());
        };
        if user_id == self.keeper {
            return Ok(());
        }
        plain::warn_reason(self, room, event, arrival);
        let before = rooms::get_member(db, &room.room_id, &user_id).await?;
        if before.as_ref().is_some_and(|before| before.membership == membership) {
            return Ok(());
        }
        // The membership began when the homeserver took the event; a missing age may be any age.
        let age = event.age.and_then(|age| i64::try_from(age).ok());
        let since = match (arrival.live, age) {
            (true, Some(age)) => arrival.at.saturating_sub(age),
            (true, None) => before.as_ref().map_or(0, |before| before.since),
            (false, _) => 0,
        };
        let member = MemberRow {
            user_id: user_id.clone(),
            membership,
            since,
            arrived_at: arrival.at,
            tick: arrival.tick,
            inviter: inviter(room, &event.sender, membership, before.as_ref()),
        };
        rooms::put_member(db, &room.room_id, &member).await?;
        let was = before.as_ref().map(|before| before.membership);
        let change = (user_id.as_ref(), was, membership);
        news::take_member(self, db, room, change, arrival).await?;
        hearing::take_member(self, db, room, &event.sender, change, arrival).await?;
        if !matches!(membership, Membership::Join | Membership::Invite) {
            people::left(db, &room.room_id, &user_id).await?;
            let of = (user_id.as_ref(), event.sender.as_ref());
            wars::take_leave(db, &room.room_id, of, arrival).await?;
        }
        if arrival.live {
            mark_let_in(self, db, &room.room_id, &user_id).await?;
        }
        if membership == Membership::Ban && !arrival.live && room.state_encrypted {
            // He may have been given keys before he joined, and nobody looks at him any more.
            let why = (Retired::MemberLeft, arrival);
            rotation::retire_known_to(self, db, room, &user_id, why).await?;
        }
        if !arrival.live || !room.state_encrypted {
            return Ok(());
        }
        match membership {
            Membership::Join | Membership::Invite => {
                marks::mark(db, &room.room_id, Some(&user_id), arrival.at, arrival.tick).await?;
            }
            Membership::Leave | Membership::Ban | Membership::Knock => {
                held_sessions::left(db, &room.room_id, Some(&user_id), arrival.at).await?;
                let invited = before.is_some_and(|before| before.membership == Membership::Invite);
                let why = if invited { Retired::InviteWithdrawn } else { Retired::MemberLeft };
                rotation::retire_known_to(self, db, room, &user_id, (why, arrival)).await?;
            }
        }
        Ok(())
    }

    /// Looks again at what waits for a key, a signature or an administrator's word: one of these may be there now.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub async fn look_again(
        &self,
        db: &mut SqliteConnection,
        room_id: &RoomId,
    ) -> Result<(), KeeperError> {
        let Some(room) = rooms::get(db, room_id).await? else { return Ok(()) };
        for row in tuples::awaiting(&self.store, db, room_id, None).await? {
            weighing::read_again(self, db, &room, row, now_ms()).await?;
        }
        Ok(())
    }

    /// Reads what could not be read before, allowed or not: the key of a session has arrived.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub async fn read_session(
        &self,
        db: &mut SqliteConnection,
        room_id: &RoomId,
        session_id: &str,
    ) -> Result<(), KeeperError> {
        let Some(room) = rooms::get(db, room_id).await? else { return Ok(()) };
        for row in tuples::awaiting(&self.store, db, room_id, Some(session_id)).await? {
            weighing::read_again(self, db, &room, row, now_ms()).await?;
        }
        let mut after = i64::MIN;
        for _ in 0..MOST_PAGES {
            let rows = tuples::never_read(&self.store, db, room_id, session_id, after).await?;
            let Some(last) = rows.last() else { break };
            after = last.tick;
            for row in rows {
                weighing::read_again(self, db, &room, row, now_ms()).await?;
            }
        }
        Ok(())
    }

    /// Judges what stands in a room and was left for its type anew: the rules may be others now.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub async fn judge_anew(
        &self,
        db: &mut SqliteConnection,
        room: &RoomRow,
    ) -> Result<(), KeeperError> {
        let rules = self.rules.of(room);
        if room.membership != Membership::Join || !room.state_encrypted {
            return Ok(());
        }
        for row in tuples::left_by_rule(&self.store, db, &room.room_id).await? {
            if !rules.exempt.contains(&row.tuple.event_type) {
                weighing::read_again(self, db, room, row, now_ms()).await?;
            }
        }
        Ok(())
    }
}

/// The keeper is out of a room: what was to be sent there is not sent, and nothing goes on where it was.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn forget(
    store: &Store,
    db: &mut SqliteConnection,
    room_id: &RoomId,
) -> Result<(), KeeperError> {
    sessions::retire_all(db, room_id, Retired::KeeperLeft, now_ms()).await?;
    held_sessions::left(db, room_id, None, now_ms()).await?;
    marks::clear(db, room_id).await?;
    people::let_go(db, room_id, None).await?;
    crate::store::places::forget(db, room_id).await?;
    inbox::release(db, room_id, None).await?;
    crate::store::outbox::clear(db, room_id).await?;
    Ok(ledger::withdraw_unsent(store, db, room_id, now_ms()).await?)
}

fn to_json(content: &JsonMap) -> Option<String> {
    serde_json::to_string(content).ok()
}

/// The power levels that stand in a room, as far as the keeper knows.
pub fn power_levels(room: &RoomRow) -> PowerLevels {
    let content =
        room.power_levels.as_ref().and_then(|json| match serde_json::from_str::<Value>(json) {
            Ok(Value::Object(content)) => Some(content),
            _ => None,
        });
    PowerLevels::from_content(content.as_ref(), &room.creators, &room.version)
}
