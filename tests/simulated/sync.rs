//! `/sync` for the keeper's device: to-device events, device lists, key counts, and no rooms.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{room::Event, world::World};

/// How many of its own events a client is shown of each room that asks for these alone.
const TIMELINE_LIMIT: usize = 10;

/// At most so many to-device events an answer, as on a real server.
const TO_DEVICE_LIMIT: usize = 100;

impl World {
    /// Deletes what the client acknowledged by coming back with this token.
    pub(super) fn acknowledge_to_device(&mut self, user_id: &str, device_id: &str, since: u64) {
        let id = (user_id.to_owned(), device_id.to_owned());
        if let Some(inbox) = self.inboxes.get_mut(&id) {
            while inbox.front().is_some_and(|waiting| waiting.position <= since) {
                inbox.pop_front();
            }
        }
    }

    /// An answer from `since` on, or `None` when there is nothing to tell.
    pub(super) fn sync_from(&self, user_id: &str, device_id: &str, since: u64) -> Option<Value> {
        let answer = self.sync_answer(user_id, device_id, since);
        let is_news = !answer["to_device"]["events"].as_array().is_none_or(Vec::is_empty)
            || !answer["device_lists"]["changed"].as_array().is_none_or(Vec::is_empty)
            || !answer["device_lists"]["left"].as_array().is_none_or(Vec::is_empty);
        is_news.then_some(answer)
    }

    /// An answer with the newest encrypted events of the client's own in each room that came after `since`.
    pub(super) fn own_events_since(&self, user_id: &str, device_id: &str, since: u64) -> Value {
        let is_own = |event: &&Arc<Event>| {
            !self.hides_own_events
                && event.position > since
                && event.sender == user_id
                && event.event_type == "m.room.encrypted"
        };
        let rooms = self.rooms.values().filter_map(|room| {
            let newest = room.timeline.iter().rev().filter(is_own).take(TIMELINE_LIMIT);
            let mut newest: Vec<Value> = newest.map(|event| event.to_json()).collect();
            newest.reverse();
            let shown = json!({ "timeline": { "events": newest } });
            (room.membership(user_id) == "join").then(|| (room.room_id.clone(), shown))
        });
        let rooms: Map<String, Value> = rooms.collect();
        let mut answer = self.sync_answer(user_id, device_id, since);
        answer["rooms"] = json!({ "join": rooms });
        answer
    }

    /// An answer from `since` on, whether there is news or not.
    pub(super) fn sync_answer(&self, user_id: &str, device_id: &str, since: u64) -> Value {
        let id = (user_id.to_owned(), device_id.to_owned());
        let waiting: Vec<_> = self
            .inboxes
            .get(&id)
            .into_iter()
            .flatten()
            .filter(|waiting| waiting.position > since)
            .take(TO_DEVICE_LIMIT + 1)
            .collect();
        let is_cut = waiting.len() > TO_DEVICE_LIMIT;
        let shown = waiting.get(..waiting.len().min(TO_DEVICE_LIMIT)).unwrap_or_default();
        let last_shown = shown.last().map_or(since, |waiting| waiting.position);
        let until = if is_cut { last_shown } else { self.position() };
        let events: Vec<&Value> = shown.iter().map(|waiting| &waiting.event).collect();
        let (counts, fallback) = self.key_counts(user_id, device_id);
        json!({
            "next_batch": format!("s{until}"),
            "to_device": { "events": events },
            "device_lists": {
                "changed": self.changed_between(&self.device_changes, since, until, true),
                "left": self.changed_between(&self.device_left, since, until, false),
            },
            "device_one_time_keys_count": { "signed_curve25519": counts },
            "device_unused_fallback_key_types": fallback,
        })
    }

    fn changed_between(
        &self,
        changes: &[(u64, String)],
        since: u64,
        until: u64,
        seen: bool,
    ) -> Vec<String> {
        let from = changes.partition_point(|(position, _)| *position <= since);
        let mut users: Vec<String> = changes
            .iter()
            .skip(from)
            .take_while(|(position, _)| *position <= until)
            .map(|(_, user_id)| user_id.clone())
            .collect();
        users.sort();
        users.dedup();
        users.retain(|user_id| self.keeper_sees(user_id) == seen);
        users
    }

    fn key_counts(&self, user_id: &str, device_id: &str) -> (usize, Vec<&'static str>) {
        let device = self.users.get(user_id).and_then(|user| user.uploaded.get(device_id));
        let Some(device) = device else { return (0, Vec::new()) };
        let is_unused = !device.fallback_keys.is_empty() && !device.fallback_used;
        let fallback = if is_unused { vec!["signed_curve25519"] } else { Vec::new() };
        (device.one_time_keys.len(), fallback)
    }
}
