//! Having the homeserver create a room, and looking at what came of it.

use std::time::Duration;

use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use super::{CREATION_FIELD, Went, Work};
use crate::{
    keeper::{KeeperError, clock::now_ms, rooms::note_joined, succession},
    state::{Membership, RoomEvent},
    store::{Blueprint, CommissionRow, RoomRow, Step, commissions, rooms},
};

/// How often it is looked for a room that the homeserver may have made, or may still be at.
const LOOKS: u32 = 5;
/// How long between two such looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How many rooms of which nothing could be made are made, at most.
const MOST_SPOILT: i64 = 2;

impl Work {
    /// Has the room created, or finds the one that was.
    pub(super) async fn create(
        &mut self,
        row: &CommissionRow,
        wanted: &Blueprint,
    ) -> Result<Went, KeeperError> {
        if row.attempts > 0 && self.looks < LOOKS {
            self.looks += 1;
            return match self.made(None).await?.first() {
                Some(room) => self.adopt(row, room).await,
                None => Ok(Went::Waits(LOOK_AGAIN)),
            };
        }
        let mut transaction = self.lanes.taker.store.begin().await?;
        commissions::try_once(&mut transaction, &self.id).await?;
        transaction.commit().await?;
        match self.lanes.homeserver.create_room(&self.body(wanted)).await {
            Ok(room) => self.adopt(row, &room).await,
            Err(error)
                if error.is_refused() && !error.is_transient() && !error.is_unknown_device() =>
            {
                // It may have seen what it does not like when the room was there already.
                self.leave_all(None).await?;
                self.tell(row, &error.to_string()).await?;
                self.note(&error.to_string()).await?;
                self.go_on(row, Step::Failed).await
            }
            Err(error) => {
                // What it did not do need not be looked for.
                self.looks = if error.is_refused() { LOOKS } else { 0 };
                Err(error.into())
            }
        }
    }

    /// What the homeserver is asked for: nothing in it is to be hidden, and nobody can join what comes of it.
    fn body(&self, wanted: &Blueprint) -> Value {
        let mut creation = wanted.creation.clone();
        creation.insert(CREATION_FIELD.to_owned(), self.id.as_str().into());
        let state = |event_type: &str, content: Value| json!({ "type": event_type, "state_key": "", "content": content });
        json!({
            "preset": "private_chat",
            "visibility": "private",
            "room_version": wanted.version,
            "creation_content": creation,
            "power_level_content_override": wanted.power_levels,
            "initial_state": [
                state("m.room.encryption", Value::Object(wanted.encryption.clone())),
                state("m.room.join_rules", json!({ "join_rule": "invite" })),
                state("m.room.guest_access", json!({ "guest_access": "forbidden" })),
                state(
                    "m.room.history_visibility",
                    json!({ "history_visibility": wanted.history_visibility }),
                ),
            ],
        })
    }

    /// The joined rooms that were created for this commission, but for one.
    async fn made(&self, but: Option<&RoomId>) -> Result<Vec<OwnedRoomId>, KeeperError> {
        let taker = &self.lanes.taker;
        let mut made = Vec::new();
        for room_id in self.lanes.homeserver.joined_rooms().await? {
            if but == Some(&*room_id) {
                continue;
            }
            let known = rooms::get(&mut *taker.store.read().await?, &room_id).await?;
            if known.is_some_and(|room| room.loaded && !room.creators.contains(&taker.keeper)) {
                continue;
            }
            let homeserver = &self.lanes.homeserver;
            let create = homeserver.get_state_event(&room_id, "m.room.create", "").await?;
            let Some(create) = create else { continue };
            let Ok(create) = RoomEvent::parse_str(create.0.get()) else { continue };
            let names = create.content.get(CREATION_FIELD).and_then(Value::as_str);
            if create.sender == taker.keeper && names == Some(&self.id) {
                made.push(room_id);
            }
        }
        Ok(made)
    }

    async fn adopt(&mut self, row: &CommissionRow, room: &RoomId) -> Result<Went, KeeperError> {
        let store = &self.lanes.taker.store;
        let mut transaction = store.begin().await?;
        if !commissions::set_room(&mut transaction, &self.id, room).await? {
            // It was cancelled while the homeserver was at it.
            drop(transaction);
            self.leave(room).await?;
            return Ok(Went::On);
        }
        // Before anything is sealed: it is kept by the old room's rules from the beginning.
        if let Some(old) = &row.old_room {
            succession::make(&mut transaction, (old, room), &self.id).await?;
        }
        note_joined(&self.lanes.taker, &mut transaction, room).await?;
        commissions::go_on(&mut transaction, &self.id, row.step.next(row.kind), now_ms()).await?;
        transaction.commit().await?;
        self.promised.notify_one();
        self.looks = 0;
        tracing::info!(commission = self.id, %room, "the room of a commission is there");
        Ok(Went::On)
    }

    /// Waits until the keeper knows what stands in the room, and whether it is what was asked for.
    pub(super) async fn load(
        &mut self,
        row: &CommissionRow,
        room: &RoomId,
    ) -> Result<Went, KeeperError> {
        let known = rooms::get(&mut *self.lanes.taker.store.read().await?, room).await?;
        let known = known.filter(|known| known.membership == Membership::Join);
        if known.as_ref().is_some_and(|known| !known.loaded) {
            return Ok(self.comes());
        }
        let Some(lack) = lack(known.as_ref()) else { return self.next(row).await };
        // The homeserver may still be at it.
        if known.is_some() && self.tries < LOOKS {
            self.tries += 1;
            return Ok(Went::Waits(LOOK_AGAIN));
        }
        self.leave(room).await?;
        let mut transaction = self.lanes.taker.store.begin().await?;
        commissions::spoil(&mut transaction, &self.id).await?;
        transaction.commit().await?;
        if row.spoilt.saturating_add(1) < MOST_SPOILT {
            return self.go_on(row, Step::Create).await;
        }
        self.note(&format!("{MOST_SPOILT} rooms were made and left: {lack}")).await?;
        self.go_on(row, Step::Failed).await
    }

    /// Leaves a room that was made for this commission and is not used.
    async fn leave(&self, room: &RoomId) -> Result<(), KeeperError> {
        tracing::warn!(commission = self.id, %room, "a room that was made and is not used is left");
        match self.lanes.homeserver.leave(room).await {
            Err(error) if error.is_transient() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Leaves the rooms that came of asking more than once.
    pub(super) async fn leave_others(
        &self,
        row: &CommissionRow,
        room: &RoomId,
    ) -> Result<(), KeeperError> {
        if row.attempts < 2 {
            return Ok(());
        }
        self.leave_all(Some(room)).await
    }

    /// Leaves what was made for this commission, but for one room.
    async fn leave_all(&self, but: Option<&RoomId>) -> Result<(), KeeperError> {
        for room in self.made(but).await? {
            self.leave(&room).await?;
        }
        Ok(())
    }
}

/// What keeps a room that was made from being used, and what to do about it.
fn lack(room: Option<&RoomRow>) -> Option<&'static str> {
    match room {
        None => Some("the keeper was shown out of it"),
        Some(room) if !room.flagged => Some(
            "the homeserver did not bring it to its end, or without the `m.room.encryption` that was asked for; look \
             into its log, and whether a module of it changes new rooms",
        ),
        Some(room) if !room.elevated => Some(
            "the keeper has no power to send `m.room.encrypted` state there; look whether the old room's power levels, \
             or a module of the homeserver, give it none",
        ),
        Some(_) => None,
    }
}
