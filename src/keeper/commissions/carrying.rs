//! What was said and done in the old room while the new one was made: it goes over once the old room is closed.
//!
//! What the homeserver shows is complete once the tombstone stands. What members sealed just before it comes by the
//! homeserver's stream, and its keys by another one: both are waited for, for a while, and what cannot be read by then
//! is told of.
//!
//! Recovery: both rooms are compared again. What is said in plain is said again as it was, which makes no new event.

use std::{collections::BTreeMap, time::Duration};

use ruma::RoomId;
use serde_json::{Value, json};

use super::{
    Went, Work,
    filling::{is_hidden, is_settled},
    gathering::{Gathered, Standing, gather},
    pictures::says,
    upgrade::{in_plain, inheritance, invitees, visibility},
};
use crate::{
    keeper::{KeeperError, clock::now_ms},
    state::{Form, JsonMap, StateTuple, succession::ADMIN},
    store::{Blueprint, CommissionRow, RoomRow, StateValue, TupleRow, inbox, rooms, tuples},
};

/// How long the tombstone's echo is waited for, and keys for what was sealed before it.
const PATIENCE: Duration = Duration::from_secs(20);

impl Work {
    /// Brings over what was said in the old room after it was read, and takes back what was taken back there.
    pub(super) async fn carry(
        &mut self,
        row: &CommissionRow,
        room: &RoomId,
        wanted: &Blueprint,
    ) -> Result<Went, KeeperError> {
        let Some(old) = row.old_room.clone() else { return self.next(row).await };
        let both = {
            let db = &mut *self.lanes.taker.store.read().await?;
            (rooms::get(db, &old).await?, rooms::get(db, room).await?)
        };
        let (Some(old), Some(new)) = both else { return self.next(row).await };
        if !self.is_compared {
            let standing = match Standing::of(&self.lanes, &old.room_id).await {
                Err(KeeperError::Homeserver(error)) if error.is_forbidden() => {
                    self.note(&format!(
                        "{}: the keeper was shown out of it; what was said there while it was moved stays behind",
                        old.room_id
                    ))
                    .await?;
                    return self.next(row).await;
                }
                standing => standing?,
            };
            let gathered = gather(&self.lanes, &old, &standing).await?;
            if self.may_more_come(&old, &standing, &gathered).await? {
                return Ok(self.comes());
            }
            self.carry_plain(room, wanted, (&old, &standing), &gathered.plain).await?;
            if self.carry_hidden(&new, gathered).await? {
                return Ok(Went::On);
            }
            self.is_compared = true;
            self.looks = 0;
        }
        let store = &self.lanes.taker.store;
        let rows = tuples::of_room(store, &mut *store.read().await?, room).await?;
        if rows.iter().any(|row| is_own(row) && !is_settled(row)) {
            return Ok(self.comes());
        }
        self.is_compared = false;
        self.next(row).await
    }

    /// Whether something that was sealed in the old room before its end may still come, or the key for it; and where
    /// that took too long, says so.
    async fn may_more_come(
        &self,
        old: &RoomRow,
        standing: &Standing,
        gathered: &Gathered,
    ) -> Result<bool, KeeperError> {
        if !old.state_encrypted {
            return Ok(false);
        }
        let is_heard = match standing.event("m.room.tombstone", "") {
            Some(event) => {
                let db = &mut *self.lanes.taker.store.read().await?;
                inbox::is_taken(db, &event.event_id).await?
            }
            None => true,
        };
        if is_heard && gathered.unread.is_empty() {
            return Ok(false);
        }
        if self.since.elapsed() < PATIENCE {
            return Ok(true);
        }
        if !is_heard {
            self.note(&format!(
                "the homeserver has not told of the end of {}: look whether what was said there last is in the new room",
                old.room_id
            ))
            .await?;
        }
        for tuple in &gathered.unread {
            let kind = &tuple.event_type;
            let note =
                format!("the newest {kind} of the old room cannot be read, and stays behind");
            self.note(&note).await?;
        }
        Ok(false)
    }

    /// Gives the new room the hidden values that are newer than those it was given. Whether there were any.
    async fn carry_hidden(
        &mut self,
        new: &RoomRow,
        gathered: Gathered,
    ) -> Result<bool, KeeperError> {
        let (room, rules) = (&new.room_id, self.lanes.taker.rules.of(new));
        let said: BTreeMap<StateTuple, StateValue> = gathered
            .hidden
            .into_iter()
            .filter(|value| is_hidden(value, &rules))
            .map(|value| (value.tuple(), value))
            .collect();
        let store = self.lanes.taker.store.clone();
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
                let StateTuple { event_type, state_key } = &gone.tuple;
                later.push(StateValue::new(event_type, state_key, JsonMap::new()));
            }
        }
        let named: Vec<(String, &StateValue)> =
            later.iter().map(|value| (format!("later.{}", store.next_tick()), value)).collect();
        let any = !named.is_empty();
        let may = |row: &TupleRow| row.source.is_none() || is_own(row);
        self.put_values(room, named, now_ms(), may).await?;
        Ok(any)
    }

    /// Says in the new room what is said in plain in the old one by now, and has those invited who are there by now.
    async fn carry_plain(
        &mut self,
        room: &RoomId,
        wanted: &Blueprint,
        (old, standing): (&RoomRow, &Standing),
        plain: &[StateValue],
    ) -> Result<(), KeeperError> {
        let now = Blueprint {
            plain: in_plain(plain, &wanted.spaces),
            history_visibility: visibility(standing).as_str().to_owned(),
            power_levels: self.power_now(wanted, old, standing).await?,
            invites: invitees(&self.lanes, standing).await?.0,
            ..wanted.clone()
        };
        if now == *wanted {
            return Ok(());
        }
        for value in changes(&said_in_plain(wanted), &said_in_plain(&now)) {
            let tuple = (value.event_type.as_str(), value.state_key.as_str());
            if let Err(error) = self.put(room, tuple, &value.content).await? {
                let note = format!(
                    "{} was changed in the old room meanwhile, and could not be in the new one ({error})",
                    value.event_type
                );
                self.note(&note).await?;
            }
        }
        self.want(now).await
    }

    /// Who has which power by now. Creators stay what they are.
    async fn power_now(
        &self,
        wanted: &Blueprint,
        old: &RoomRow,
        standing: &Standing,
    ) -> Result<JsonMap, KeeperError> {
        let inherited = inheritance(&self.lanes.taker.keeper, old, standing, &wanted.version);
        let creators = wanted.creation.get("additional_creators").and_then(Value::as_array);
        let creators: Vec<&str> =
            creators.into_iter().flatten().filter_map(Value::as_str).collect();
        let governs = |user: &str| inherited.additional_creators.iter().any(|it| *it == user);
        for creator in creators.iter().filter(|creator| !governs(creator)) {
            self.note(&format!(
                "{creator} is no administrator of the old room any more, and stays a creator of the new one, which \
                 nobody can change"
            ))
            .await?;
        }
        let mut power_levels = wanted.power_levels.clone();
        if let Some(Value::Object(users)) = inherited.power_levels.get("users") {
            let named = users.iter().filter(|(user, _)| !creators.contains(&user.as_str()));
            let mut named: JsonMap =
                named.map(|(user, level)| (user.clone(), level.clone())).collect();
            // Whoever governs the old room since then cannot be made a creator any more.
            let late = inherited.additional_creators.iter().map(|user| user.as_str());
            named.extend(
                late.filter(|user| !creators.contains(user))
                    .map(|it| (it.to_owned(), json!(ADMIN))),
            );
            power_levels.insert("users".to_owned(), Value::Object(named));
        }
        Ok(power_levels)
    }
}

/// All that a blueprint has said in plain, who may join at last.
fn said_in_plain(wanted: &Blueprint) -> Vec<StateValue> {
    let visibility =
        JsonMap::from_iter([("history_visibility".to_owned(), json!(wanted.history_visibility))]);
    let mut said = vec![
        StateValue::new("m.room.power_levels", "", wanted.power_levels.clone()),
        StateValue::new("m.room.history_visibility", "", visibility),
    ];
    said.extend(wanted.plain.iter().cloned());
    said
}

/// What has to be said for the one to become the other.
fn changes(before: &[StateValue], now: &[StateValue]) -> Vec<StateValue> {
    let mut changes: Vec<StateValue> = Vec::new();
    for gone in before.iter().filter(|it| now.iter().all(|other| other.tuple() != it.tuple())) {
        let content = match gone.event_type.as_str() {
            // Of members none but the banned are said.
            "m.room.member" => JsonMap::from_iter([("membership".to_owned(), json!("leave"))]),
            _ => JsonMap::new(),
        };
        changes.push(StateValue::new(&gone.event_type, &gone.state_key, content));
    }
    changes.extend(now.iter().filter(|value| !before.contains(value)).cloned());
    changes
}

/// Whether a tuple's value is one that the keeper was given by a commission, and nobody's since.
fn is_own(row: &TupleRow) -> bool {
    !row.redacted && row.source.as_ref().is_some_and(|source| source.form == Form::Own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(event_type: &str, key: &str, content: Value) -> StateValue {
        let Value::Object(content) = content else { panic!("no object") };
        StateValue::new(event_type, key, content)
    }

    #[test]
    fn who_is_not_banned_any_more_is_so_in_the_new_room_and_who_may_join_is_said_last() {
        let ban = |user| value("m.room.member", user, json!({ "membership": "ban" }));
        let rule = |rule| value("m.room.join_rules", "", json!({ "join_rule": rule }));
        let acl = value("m.room.server_acl", "", json!({ "deny": ["evil.example"] }));
        let before = [acl, ban("@a:b"), ban("@c:b"), rule("public")];
        let now = [ban("@c:b"), ban("@d:b"), rule("invite")];
        let changes = changes(&before, &now);
        let expected = [
            value("m.room.server_acl", "", json!({})),
            value("m.room.member", "@a:b", json!({ "membership": "leave" })),
            ban("@d:b"),
            rule("invite"),
        ];
        assert!(changes == expected, "{}", changes.len());
    }
}
