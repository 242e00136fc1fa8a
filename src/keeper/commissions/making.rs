//! Having the homeserver create a room, and looking at what came of it.

use std::time::Duration;

use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, json};

use super::{CREATION_FIELD, Went, Work};
use crate::{
    keeper::{KeeperError, clock::now_ms, rooms::note_joined, succession},
    state::{Membership, RoomEvent},
    store::{Blueprint, CommissionRow, Step, commissions, rooms},
};

/// How often it is looked for a room that the homeserver may have made, or may still be at.
const LOOKS: u32 = 5;
/// How long between two such looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long until it is looked whether the room's state was fetched.
const LOADS: Duration = Duration::from_millis(50);

impl Work {
    /// Has the room created, or finds the one that was.
    pub(super) async fn create(
        &mut self,
        row: &CommissionRow,
        wanted: &Blueprint,
    ) -> Result<Went, KeeperError> {
        if row.attempts > 0 && self.looks < LOOKS {
            self.looks += 1;
            return match self.find(None).await? {
                Some(room) => self.adopt(row, &room).await,
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

    /// A joined room that was created for this commission, and is not `but`.
    async fn find(&self, but: Option<&RoomId>) -> Result<Option<OwnedRoomId>, KeeperError> {
        let taker = &self.lanes.taker;
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
                return Ok(Some(room_id));
            }
        }
        Ok(None)
    }

    async fn adopt(&mut self, row: &CommissionRow, room: &RoomId) -> Result<Went, KeeperError> {
        let store = &self.lanes.taker.store;
        let mut transaction = store.begin().await?;
        commissions::set_room(&mut transaction, &self.id, Some(room)).await?;
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
        match known {
            Some(known) if known.membership == Membership::Join && !known.loaded => {
                Ok(Went::Waits(LOADS))
            }
            Some(known)
                if known.membership == Membership::Join && known.flagged && known.elevated =>
            {
                self.next(row).await
            }
            // The homeserver may still be at it.
            Some(known) if known.membership == Membership::Join && self.looks < LOOKS => {
                self.looks += 1;
                Ok(Went::Waits(LOOK_AGAIN))
            }
            _ => {
                self.leave(room).await?;
                let mut transaction = self.lanes.taker.store.begin().await?;
                commissions::set_room(&mut transaction, &self.id, None).await?;
                transaction.commit().await?;
                self.go_on(row, Step::Create).await
            }
        }
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
        while let Some(other) = self.find(Some(room)).await? {
            self.leave(&other).await?;
        }
        Ok(())
    }
}
