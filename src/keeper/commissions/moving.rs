//! What an upgrade does beyond making a room: the picture is encrypted, addresses and spaces lead to the new room, the
//! old one says where it is, and what was said there until then comes after.
//!
//! Recovery: a picture that was uploaded and not noted is uploaded again, and the first is a file to which nobody has
//! the key. An address that leads nowhere because the keeper was killed between taking it away and giving it is given
//! when the step is done again; one that leads to the new room already is left. What is to be carried after the
//! tombstone is found by comparing both rooms.

use std::collections::BTreeMap;

use ruma::{EventId, OwnedMxcUri, RoomAliasId, RoomId};
use serde_json::{Value, json};

use super::{
    Went, Work,
    filling::{SEALS, is_hidden, is_settled},
    gathering::{Standing, gather},
    order::encrypted_avatar,
    upgrade::is_public_picture,
};
use crate::{
    homeserver::HomeserverError,
    keeper::{KeeperError, clock::now_ms},
    state::{Form, JsonMap, StateTuple, public_picture, succession::successor},
    store::{
        Blueprint, CommissionRow, SourceValue, StateValue, TupleRow, commissions, marks, rooms,
        tuples,
    },
};

/// The field of an avatar's sealed content that says which public picture it was made from, so that it is made once.
const MADE_FROM: &str = "io.statekeeper.made_from";

impl Work {
    /// Has the homeserver see nothing of the picture any more.
    pub(super) async fn picture(
        &mut self,
        row: &CommissionRow,
        wanted: &Blueprint,
    ) -> Result<Went, KeeperError> {
        let mut wanted = wanted.clone();
        let avatar = wanted.hidden.iter_mut().find(|value| is_public_picture(value));
        let Some(avatar) = avatar else { return self.next(row).await };
        self.hide(avatar).await?;
        let store = &self.lanes.taker.store;
        let mut transaction = store.begin().await?;
        commissions::put_wanted(store, &mut transaction, &self.id, &wanted).await?;
        transaction.commit().await?;
        self.next(row).await
    }

    /// Puts an encrypted picture in a public one's place. One that the homeserver does not have stays as it is, and is
    /// told of.
    async fn hide(&self, avatar: &mut StateValue) -> Result<(), KeeperError> {
        let Some(url) = public_picture(&avatar.content).map(OwnedMxcUri::from) else {
            return Ok(());
        };
        let picture = match self.lanes.homeserver.download(&url).await {
            Ok(picture) => picture,
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => {
                let note = format!("the picture could not be had and stays public ({error})");
                return self.note(&note).await;
            }
        };
        let info = avatar.content.get("info").and_then(Value::as_object);
        let mimetype = info.and_then(|info| info.get("mimetype")).and_then(Value::as_str);
        let mut content = encrypted_avatar(&self.lanes, &picture, mimetype).await?;
        content.insert(MADE_FROM.to_owned(), url.as_str().into());
        avatar.content = content;
        Ok(())
    }

    /// Has the addresses lead to the new room.
    pub(super) async fn address(
        &mut self,
        row: &CommissionRow,
        room: &RoomId,
        wanted: &Blueprint,
    ) -> Result<Went, KeeperError> {
        let done = usize::try_from(row.done).unwrap_or(0);
        if let Some(address) = wanted.addresses.get(done) {
            if let Err(error) = self.move_address(address, room).await? {
                self.note(&format!("{address} still leads to the old room ({error}): move it"))
                    .await?;
            }
            self.progress(done.saturating_add(1), wanted.addresses.len()).await?;
            return Ok(Went::On);
        }
        if let Some(content) = &wanted.canonical_alias
            && let Err(error) = self.put(room, ("m.room.canonical_alias", ""), content).await?
        {
            let note = format!("m.room.canonical_alias could not be put into the room ({error})");
            self.note(&note).await?;
        }
        self.next(row).await
    }

    async fn move_address(
        &self,
        address: &str,
        room: &RoomId,
    ) -> Result<Result<(), HomeserverError>, KeeperError> {
        let homeserver = &self.lanes.homeserver;
        let Ok(alias) = <&RoomAliasId>::try_from(address) else { return Ok(Ok(())) };
        match homeserver.resolve_alias(alias).await {
            Ok((leads_to, _)) if leads_to == room => return Ok(Ok(())),
            Err(error) if error.is_transient() => return Err(error.into()),
            _ => {}
        }
        let moved = async {
            match homeserver.delete_alias(alias).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
            homeserver.put_alias(alias, room).await
        };
        match moved.await {
            Err(error) if error.is_transient() => Err(error.into()),
            done => Ok(done),
        }
    }

    /// The old room says where it goes on, and its spaces do not list it any more.
    pub(super) async fn tombstone(
        &mut self,
        row: &CommissionRow,
        room: &RoomId,
        wanted: &Blueprint,
    ) -> Result<Went, KeeperError> {
        let Some(old) = row.old_room.clone() else { return self.next(row).await };
        let standing = Standing::of(&self.lanes, &old).await?;
        let stands = standing.content("m.room.tombstone", "").and_then(successor);
        match stands {
            Some(other) if other != room => {
                return Ok(Went::Stuck(format!(
                    "{old}: somebody had it go on in {other} meanwhile"
                )));
            }
            Some(_) => {}
            None => {
                let content = json!({
                    "body": "This room goes on in another one, where its state is encrypted",
                    "replacement_room": room,
                });
                let content = content.as_object().cloned().unwrap_or_default();
                if let Err(error) = self.put(&old, ("m.room.tombstone", ""), &content).await? {
                    return Ok(Went::Stuck(format!("{old}: it could not be closed ({error})")));
                }
            }
        }
        for link in &wanted.spaces {
            let tuple = ("m.space.child", old.as_str());
            if let Err(error) = self.put(&link.space, tuple, &JsonMap::new()).await? {
                let note = format!("{} goes on listing the old room ({error})", link.space);
                self.note(&note).await?;
            }
        }
        self.next(row).await
    }

    /// Seals in the new room what was said in the old one after it was read, and takes back what was taken back there.
    pub(super) async fn carry(
        &mut self,
        row: &CommissionRow,
        room: &RoomId,
    ) -> Result<Went, KeeperError> {
        let store = self.lanes.taker.store.clone();
        let Some(old) = row.old_room.clone() else { return self.next(row).await };
        let db = &mut *store.read().await?;
        let (old, new) = (rooms::get(db, &old).await?, rooms::get(db, room).await?);
        let (Some(old), Some(new)) = (old, new) else { return self.next(row).await };
        let rules = self.lanes.taker.rules.of(&new);
        let standing = Standing::of(&self.lanes, &old.room_id).await?;
        let gathered = gather(&self.lanes, &old, &standing).await?;
        let said: BTreeMap<StateTuple, StateValue> = gathered
            .hidden
            .into_iter()
            .filter(|value| is_hidden(value, &rules))
            .map(|value| (value.tuple(), value))
            .collect();
        let rows = tuples::of_room(&store, &mut *store.read().await?, room).await?;
        let mut later = Vec::new();
        for (tuple, value) in &said {
            let known = rows.iter().find(|row| row.tuple == *tuple);
            if known.is_none_or(|known| is_own(known) && !says(known, value)) {
                let mut value = value.clone();
                self.hide(&mut value).await?;
                later.push(value);
            }
        }
        for gone in rows.iter().filter(|row| is_own(row) && !said.contains_key(&row.tuple)) {
            if gone.source.as_ref().is_some_and(|source| !source.content.is_empty()) {
                let StateTuple { event_type, state_key } = gone.tuple.clone();
                later.push(StateValue { event_type, state_key, content: JsonMap::new() });
            }
        }
        if !later.is_empty() {
            self.say_later(room, later).await?;
            return Ok(Went::On);
        }
        if rows.iter().all(|row| !is_own(row) || is_settled(row)) {
            return self.next(row).await;
        }
        Ok(Went::Waits(SEALS))
    }

    /// Gives the room newer values in place of those that this commission gave it.
    async fn say_later(&self, room: &RoomId, later: Vec<StateValue>) -> Result<(), KeeperError> {
        let taker = &self.lanes.taker;
        let (store, now) = (&taker.store, now_ms());
        let mut transaction = store.begin().await?;
        for value in later {
            let known = tuples::get(store, &mut transaction, room, &value.tuple()).await?;
            let mut row = known.unwrap_or_else(|| TupleRow::new(value.tuple()));
            let tick = store.next_tick();
            let name = EventId::parse(format!("$io.statekeeper.{}.later.{tick}", self.id));
            let Ok(event_id) = name else { continue };
            if row.source.is_some() && !is_own(&row) {
                continue;
            }
            let (sender, form) = (taker.keeper.clone(), Form::Own);
            let content = value.content;
            row.source = Some(SourceValue { event_id, sender, form, at: now, tick, content });
            tuples::put(store, &mut transaction, room, &row).await?;
        }
        marks::mark(&mut transaction, room, None, now, store.next_tick()).await?;
        transaction.commit().await?;
        self.promised.notify_one();
        Ok(())
    }
}

/// Whether a tuple's value is one that the keeper was given by a commission, and nobody's since.
fn is_own(row: &TupleRow) -> bool {
    !row.redacted && row.source.as_ref().is_some_and(|source| source.form == Form::Own)
}

/// Whether a tuple says this already; of a picture, whether it was made from this one.
fn says(row: &TupleRow, value: &StateValue) -> bool {
    let Some(source) = &row.source else { return false };
    let made_from = source.content.get(MADE_FROM).and_then(Value::as_str);
    source.content == value.content
        || (made_from.is_some() && made_from == public_picture(&value.content))
}
