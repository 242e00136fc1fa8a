//! What an upgrade does beyond making a room: addresses and spaces lead to the new room, and the old one says where it is.
//!
//! Recovery: an address that leads nowhere because the keeper was killed between taking it away and giving it is given
//! when the step is done again; one that leads to the new room already is left, and so is one that somebody had lead
//! to a third room meanwhile.

use ruma::{RoomAliasId, RoomId};
use serde_json::{Value, json};

use super::{Went, Work, gathering::Standing};
use crate::{
    homeserver::HomeserverError,
    keeper::KeeperError,
    state::{JsonMap, succession::successor},
    store::{Blueprint, CommissionRow},
};

/// The addresses of an `m.room.canonical_alias` beside the main one.
const OTHERS: &str = "alt_aliases";

impl Work {
    /// Has the addresses lead to the new room.
    pub(super) async fn address(
        &mut self,
        row: &CommissionRow,
        room: &RoomId,
        wanted: &Blueprint,
    ) -> Result<Went, KeeperError> {
        let done = usize::try_from(row.done).unwrap_or(0);
        let Some(old) = &row.old_room else { return self.next(row).await };
        if let Some(address) = wanted.addresses.get(done) {
            if let Some(note) = self.move_address(address, (old, room)).await? {
                self.note(&note).await?;
            }
            self.progress(done.saturating_add(1), wanted.addresses.len()).await?;
            return Ok(Went::On);
        }
        if let Some(content) = &wanted.canonical_alias {
            self.name_addresses(room, content).await?;
        }
        self.next(row).await
    }

    /// Has an address lead to the new room. What has to be told of one that does not.
    async fn move_address(
        &self,
        address: &str,
        (old, new): (&RoomId, &RoomId),
    ) -> Result<Option<String>, KeeperError> {
        let homeserver = &self.lanes.homeserver;
        let Ok(alias) = <&RoomAliasId>::try_from(address) else { return Ok(None) };
        let stays = |error: &HomeserverError| {
            format!("{alias} still leads to the old room ({error}): move it")
        };
        match homeserver.resolve_alias(alias).await {
            Ok((leads_to, _)) if leads_to == new => return Ok(None),
            Ok((leads_to, _)) if leads_to != old => {
                return Ok(Some(format!("{alias} leads to {leads_to} by now, and is left there")));
            }
            Ok(_) => match homeserver.delete_alias(alias).await {
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) if !error.is_not_found() => return Ok(Some(stays(&error))),
                _ => {}
            },
            Err(error) if error.is_not_found() => {}
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(error) => return Ok(Some(stays(&error))),
        }
        match homeserver.put_alias(alias, new).await {
            Ok(()) => Ok(None),
            Err(error) if error.is_transient() => Err(error.into()),
            Err(error) => {
                Ok(Some(format!("{alias} leads nowhere now ({error}): have it lead to {new}")))
            }
        }
    }

    /// Puts those of the old room's addresses into the new one that lead there: a homeserver refuses all of them for the
    /// sake of one that does not.
    async fn name_addresses(&self, room: &RoomId, content: &JsonMap) -> Result<(), KeeperError> {
        let mut named = JsonMap::new();
        let mut left_out = Vec::new();
        if let Some(main) = content.get("alias").and_then(Value::as_str) {
            if self.leads_to(main, room).await? {
                named.insert("alias".to_owned(), main.into());
            } else {
                left_out.push(main);
            }
        }
        let others = content.get(OTHERS).and_then(Value::as_array).into_iter().flatten();
        let mut lead_here = Vec::new();
        for other in others.filter_map(Value::as_str) {
            if self.leads_to(other, room).await? {
                lead_here.push(other);
            } else {
                left_out.push(other);
            }
        }
        if !lead_here.is_empty() {
            named.insert(OTHERS.to_owned(), json!(lead_here));
        }
        if !left_out.is_empty() {
            let note = format!(
                "m.room.canonical_alias leaves out what does not lead to the new room: {}",
                left_out.join(" ")
            );
            self.note(&note).await?;
        }
        if named.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.put(room, ("m.room.canonical_alias", ""), &named).await? {
            let note = format!("m.room.canonical_alias could not be put into the room ({error})");
            self.note(&note).await?;
        }
        Ok(())
    }

    /// Whether an address leads to a room. Those of other servers nobody here could move: they lead elsewhere.
    async fn leads_to(&self, address: &str, room: &RoomId) -> Result<bool, KeeperError> {
        let own = self.lanes.taker.keeper.server_name();
        let alias = <&RoomAliasId>::try_from(address).ok();
        let Some(alias) = alias.filter(|alias| alias.server_name() == own) else {
            return Ok(false);
        };
        match self.lanes.homeserver.resolve_alias(alias).await {
            Ok((leads_to, _)) => Ok(leads_to == room),
            Err(error) if error.is_transient() => Err(error.into()),
            Err(_) => Ok(false),
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
        let standing = match Standing::of(&self.lanes, &old).await {
            Err(KeeperError::Homeserver(error)) if error.is_forbidden() => {
                return Ok(Went::Stuck(format!(
                    "{old}: the keeper is not in it any more ({error}); invite it there again, or cancel the order"
                )));
            }
            standing => standing?,
        };
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
}
