//! `/rooms/*`, `/join` and `/joined_rooms`.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Map, Value, json};

use super::{
    http::{Call, Reply},
    world::World,
};

impl World {
    pub(super) fn joined_rooms(&self, user_id: &str) -> Reply {
        let rooms: Vec<&String> = self
            .rooms
            .values()
            .filter(|room| room.membership(user_id) == "join")
            .map(|room| &room.room_id)
            .collect();
        Reply::ok(json!({ "joined_rooms": rooms }))
    }

    pub(super) fn join_room(&mut self, user_id: &str, room_id: &str) -> Reply {
        let Some(room) = self.rooms.get(room_id) else {
            return Reply::not_found("no such room");
        };
        let rule = room.current("m.room.join_rules", "").map(|event| event.content.clone());
        let rule = rule.unwrap_or_default();
        let is_public = rule["join_rule"] == "public" || self.is_let_in(user_id, &rule);
        match room.membership(user_id) {
            "join" => {}
            "invite" => self.set_membership(room_id, user_id, user_id, "join"),
            "leave" if is_public => self.set_membership(room_id, user_id, user_id, "join"),
            _ => return Reply::forbidden("You are not invited to this room."),
        }
        Reply::ok(json!({ "room_id": room_id }))
    }

    /// Is the user in a room whose members a restricted rule lets in?
    fn is_let_in(&self, user_id: &str, rule: &Value) -> bool {
        let allow = rule["allow"].as_array().into_iter().flatten();
        rule["join_rule"] == "restricted"
            && allow.filter_map(|condition| condition["room_id"].as_str()).any(|room_id| {
                self.rooms.get(room_id).is_some_and(|room| room.membership(user_id) == "join")
            })
    }

    /// How long the own server waits for the one that a room is on, where that is dead.
    pub(super) fn dead_server_of(&self, room_id: &str) -> Option<std::time::Duration> {
        let (_, server) = room_id.split_once(':')?;
        Some(self.faults.dead_servers.get(server)?.delay)
    }

    pub(super) fn directory(&self, alias: &str) -> Reply {
        if let Some(room_id) = self.aliases.get(alias) {
            return Reply::ok(json!({ "room_id": room_id, "servers": ["localhost"] }));
        }
        let has_it = |room: &&super::room::Room| {
            let event = room.current("m.room.canonical_alias", "");
            event.is_some_and(|event| event.content["alias"] == alias)
        };
        match self.rooms.values().find(has_it) {
            Some(room) => Reply::ok(json!({ "room_id": room.room_id, "servers": ["localhost"] })),
            None => Reply::not_found("Room alias not found"),
        }
    }

    pub(super) fn leave_room(&mut self, user_id: &str, room_id: &str) -> Reply {
        match self.rooms.get(room_id).map(|room| room.membership(user_id)) {
            None => Reply::not_found("no such room"),
            Some("join" | "invite") => {
                self.set_membership(room_id, user_id, user_id, "leave");
                Reply::empty()
            }
            Some(_) => Reply::forbidden("not in the room"),
        }
    }

    pub(super) fn invite_to_room(&mut self, user_id: &str, room_id: &str, call: &Call) -> Reply {
        let body = call.json();
        let invitee = body["user_id"].as_str().unwrap_or_default().to_owned();
        if self.rooms.get(room_id).is_none_or(|room| room.membership(user_id) != "join") {
            return Reply::forbidden("not in the room");
        }
        match self.rooms.get(room_id).map(|room| room.membership(&invitee)) {
            Some("join") => return Reply::forbidden("is already in the room."),
            Some("ban") => return Reply::forbidden("is banned from the room"),
            _ => {}
        }
        self.set_membership(room_id, user_id, &invitee, "invite");
        Reply::empty()
    }

    pub(super) fn kick_from_room(&mut self, user_id: &str, room_id: &str, call: &Call) -> Reply {
        let body = call.json();
        let target = body["user_id"].as_str().unwrap_or_default().to_owned();
        match self.rooms.get(room_id) {
            Some(room) if room.power_of(user_id) < 50 => return Reply::forbidden("no power"),
            Some(room) if matches!(room.membership(&target), "join" | "invite") => {}
            _ => return Reply::forbidden("not in the room"),
        }
        self.set_membership(room_id, user_id, &target, "leave");
        Reply::empty()
    }

    /// Writes a membership event without asking the room's rules.
    pub fn set_membership(&mut self, room_id: &str, sender: &str, user_id: &str, membership: &str) {
        let name = user_id.trim_start_matches('@').split(':').next().unwrap_or_default();
        let content = json!({ "membership": membership, "displayname": name });
        self.append(room_id, sender, ("m.room.member", Some(user_id)), content);
    }

    /// Only who is in the room may look into it.
    fn readable(&self, room_id: &str, user_id: &str) -> Result<&super::room::Room, Reply> {
        match self.rooms.get(room_id) {
            Some(room) if room.membership(user_id) == "join" => Ok(room),
            Some(_) => Err(Reply::forbidden("User is not in the room.")),
            None => Err(Reply::not_found("no such room")),
        }
    }

    pub(super) fn get_state(&self, user_id: &str, room_id: &str) -> Reply {
        match self.readable(room_id, user_id) {
            Ok(room) => Reply::ok(room.state.values().map(|event| event.to_json()).collect()),
            Err(refusal) => refusal,
        }
    }

    pub(super) fn state_event(
        &mut self,
        user_id: &str,
        room_id: &str,
        (event_type, state_key): (&str, &str),
        call: &Call,
    ) -> Reply {
        if call.method == Method::PUT {
            return self.put_state_event(user_id, room_id, (event_type, state_key), call);
        }
        let room = match self.readable(room_id, user_id) {
            Ok(room) => room,
            Err(refusal) => return refusal,
        };
        match room.current(event_type, state_key) {
            None => Reply::not_found("Event not found."),
            Some(event) if call.query("format") == Some("event") => Reply::ok(event.to_json()),
            Some(event) => Reply::ok(event.content.clone()),
        }
    }

    fn put_state_event(
        &mut self,
        user_id: &str,
        room_id: &str,
        (event_type, state_key): (&str, &str),
        call: &Call,
    ) -> Reply {
        if state_key.len() > 255 {
            return Reply::error(413, "M_TOO_LARGE", "'state_key' too large");
        }
        if let Some(hook) = self.before_state_put.pop_front() {
            hook(self);
        }
        if !self.rooms.contains_key(room_id) {
            return Reply::forbidden("no such room");
        }
        let Ok(content) = serde_json::from_str::<Value>(&call.body) else {
            return Reply::error(400, "M_NOT_JSON", "Content not JSON.");
        };
        let wanted = match event_type {
            "m.room.name" => "name",
            "m.room.topic" => "topic",
            _ => "",
        };
        if !wanted.is_empty() && !content[wanted].is_string() {
            return Reply::error(400, "M_UNKNOWN", &format!("'{wanted}' not in content"));
        }
        if event_type == "m.room.canonical_alias" && !self.lead_here(room_id, &content) {
            return Reply::error(400, "M_BAD_ALIAS", "An alias does not lead to the room");
        }
        match self.put_state(room_id, user_id, (event_type, state_key), content) {
            Ok(event_id) => Reply::ok(json!({ "event_id": event_id })),
            Err(reason) => Reply::forbidden(&reason),
        }
    }

    pub(super) fn get_members(&self, user_id: &str, room_id: &str, call: &Call) -> Reply {
        let room = match self.readable(room_id, user_id) {
            Ok(room) => room,
            Err(refusal) => return refusal,
        };
        let (wanted, unwanted) = (call.query("membership"), call.query("not_membership"));
        let chunk: Vec<Value> = room
            .member_events()
            .filter(|event| {
                let membership = event.content["membership"].as_str();
                wanted.is_none_or(|wanted| membership == Some(wanted))
                    && unwanted.is_none_or(|unwanted| membership != Some(unwanted))
            })
            .map(|event| event.to_json())
            .collect();
        Reply::ok(json!({ "chunk": chunk }))
    }

    pub(super) fn get_joined_members(&self, user_id: &str, room_id: &str) -> Reply {
        match self.readable(room_id, user_id) {
            Ok(room) => {
                let members = room.members("join").into_iter();
                let joined: Map<_, _> = members.map(|user_id| (user_id, json!({}))).collect();
                Reply::ok(json!({ "joined": joined }))
            }
            Err(refusal) => refusal,
        }
    }

    pub(super) fn redact_event(
        &mut self,
        user_id: &str,
        (room_id, event_id, txn_id): (&str, &str, &str),
    ) -> Reply {
        let id = (format!("{user_id} redact {event_id}"), txn_id.to_owned());
        if let Some(first) = self.sent_transactions.get(&id) {
            return Reply::ok(json!({ "event_id": first }));
        }
        if let Err(refusal) = self.readable(room_id, user_id) {
            return refusal;
        }
        match self.redact(room_id, user_id, event_id) {
            Some(redaction) => {
                self.sent_transactions.insert(id, redaction.clone());
                Reply::ok(json!({ "event_id": redaction }))
            }
            None => Reply::not_found("no such event"),
        }
    }

    pub(super) fn send_event(
        &mut self,
        user_id: &str,
        (room_id, event_type, txn_id): (&str, &str, &str),
        call: &Call,
    ) -> Reply {
        let id = (format!("{user_id} send {room_id}"), txn_id.to_owned());
        if let Some(first) = self.sent_transactions.get(&id) {
            return Reply::ok(json!({ "event_id": first }));
        }
        if let Err(refusal) = self.readable(room_id, user_id) {
            return refusal;
        }
        let event_id = self.append(room_id, user_id, (event_type, None), call.json());
        self.sent_transactions.insert(id, event_id.clone());
        Reply::ok(json!({ "event_id": event_id }))
    }

    pub(super) fn get_event(&self, user_id: &str, room_id: &str, event_id: &str) -> Reply {
        match self.readable(room_id, user_id).map(|room| room.event(event_id)) {
            Ok(Some(event)) => Reply::ok(event.to_json()),
            Ok(None) => Reply::not_found("no such event"),
            Err(refusal) => refusal,
        }
    }

    /// The newest events first; there is one page and no token.
    pub(super) fn get_messages(&self, user_id: &str, room_id: &str, call: &Call) -> Reply {
        let limit = call.query("limit").and_then(|limit| limit.parse().ok()).unwrap_or(10);
        match self.readable(room_id, user_id) {
            Ok(room) => {
                let newest = room.timeline.iter().rev().take(limit);
                let chunk: Vec<Value> = newest.map(|event| event.to_json()).collect();
                Reply::ok(json!({ "chunk": chunk }))
            }
            Err(refusal) => refusal,
        }
    }

    /// What stood in the room, of the types that the filter names, when an event had been sent.
    pub(super) fn event_context(
        &self,
        user_id: &str,
        (room_id, event_id): (&str, &str),
        call: &Call,
    ) -> Reply {
        let room = match self.readable(room_id, user_id) {
            Ok(room) => room,
            Err(refusal) => return refusal,
        };
        let Some(event) = room.event(event_id) else { return Reply::not_found("no such event") };
        let filter: Value = call
            .query("filter")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let wanted = |kind: &str| {
            filter["types"].as_array().is_none_or(|types| types.iter().any(|of| of == kind))
        };
        let mut state = BTreeMap::new();
        for then in room.timeline.iter().filter(|then| then.tick <= event.tick) {
            if let Some(key) = then.state_key.as_ref().filter(|_| wanted(&then.event_type)) {
                state.insert((&then.event_type, key), then.to_json());
            }
        }
        Reply::ok(json!({
            "event": event.to_json(),
            "events_before": [],
            "events_after": [],
            "state": state.into_values().collect::<Vec<_>>(),
        }))
    }
}
