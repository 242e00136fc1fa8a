//! `/createRoom`, `/capabilities`, addresses and files.

use http::Method;
use serde_json::{Value, json};

use super::{
    http::{Call, Reply},
    room::Room,
    world::World,
};

/// The room version that rooms get.
const DEFAULT: &str = "12";

impl World {
    pub(super) fn capabilities(&self) -> Reply {
        let available = json!({ "9": "stable", "11": "stable", "12": "stable" });
        let versions = json!({ "default": DEFAULT, "available": available });
        Reply::ok(json!({ "capabilities": { "m.room_versions": versions } }))
    }

    pub(super) fn create_room(&mut self, user_id: &str, call: &Call) -> Reply {
        let body = call.json();
        let version = body["room_version"].as_str().unwrap_or(DEFAULT).to_owned();
        let users = &body["power_level_content_override"]["users"];
        let mut create = body["creation_content"].clone();
        let creators = create["additional_creators"].as_array().cloned().unwrap_or_default();
        if version == "12" {
            let is_creator = |user: &String| user == user_id || creators.contains(&json!(user));
            if users.as_object().is_some_and(|users| users.keys().any(is_creator)) {
                return Reply::error(400, "M_INVALID_PARAM", "Creators cannot be in power levels");
            }
        } else if users.is_object() && users[user_id].is_null() {
            return Reply::error(400, "M_UNKNOWN", "'users' did not contain the creator");
        }
        create["room_version"] = json!(version);
        let room_id = format!("!made{}:localhost", self.tick());
        self.rooms.insert(room_id.clone(), Room::new(&room_id, &version, user_id));
        self.append(&room_id, user_id, ("m.room.create", Some("")), create);
        self.set_membership(&room_id, user_id, user_id, "join");
        if self.breaks_creation > 0 {
            self.breaks_creation -= 1;
            return Reply::error(500, "M_UNKNOWN", "Internal server error");
        }
        if users.as_object().is_some_and(|users| users.values().any(|level| !level.is_i64())) {
            return Reply::error(400, "M_BAD_JSON", "Invalid power level");
        }
        let levels = first_levels(user_id, &version, &body["power_level_content_override"]);
        self.append(&room_id, user_id, ("m.room.power_levels", Some("")), levels);
        for event in body["initial_state"].as_array().cloned().unwrap_or_default() {
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            let (kind, key) = (text("type"), text("state_key"));
            self.append(&room_id, user_id, (&kind, Some(&key)), event["content"].clone());
        }
        Reply::ok(json!({ "room_id": room_id }))
    }

    pub(super) fn aliases(&self, room_id: &str) -> Reply {
        let of_room = self.aliases.iter().filter(|(_, leads_to)| *leads_to == room_id);
        Reply::ok(json!({ "aliases": of_room.map(|(alias, _)| alias).collect::<Vec<_>>() }))
    }

    /// Moves an address, where the service has its kind for itself.
    pub(super) fn change_alias(&mut self, alias: &str, call: &Call) -> Reply {
        if !self.owns_aliases {
            let why = "This application service has not reserved this kind of alias.";
            return Reply::error(400, "M_EXCLUSIVE", why);
        }
        if call.method == Method::DELETE {
            return match self.aliases.remove(alias) {
                Some(_) => Reply::empty(),
                None => Reply::not_found("Room alias not found"),
            };
        }
        if self.aliases.contains_key(alias) {
            return Reply::error(409, "M_UNKNOWN", "Room alias already exists");
        }
        let room_id = call.json()["room_id"].as_str().unwrap_or_default().to_owned();
        self.aliases.insert(alias.to_owned(), room_id);
        Reply::empty()
    }

    /// Whether every address that an `m.room.canonical_alias` names leads to its room.
    pub(super) fn lead_here(&self, room_id: &str, content: &Value) -> bool {
        let others = content["alt_aliases"].as_array().into_iter().flatten();
        let mut named = others.chain(content.get("alias")).filter_map(Value::as_str);
        named.all(|alias| self.aliases.get(alias).is_some_and(|leads_to| leads_to == room_id))
    }

    pub(super) fn upload(&mut self, call: &Call) -> Reply {
        let id = format!("file{}", self.tick());
        self.files.insert(id.clone(), call.bytes.clone());
        Reply::ok(json!({ "content_uri": format!("mxc://localhost/{id}") }))
    }

    /// The rooms that the keeper created and is in.
    pub fn made_rooms(&self) -> Vec<String> {
        let keeper = self.keeper();
        let made = self.rooms.values().filter(|room| room.creator == keeper);
        let joined = made.filter(|room| room.membership(&keeper) == "join");
        joined.map(|room| room.room_id.clone()).collect()
    }
}

fn first_levels(creator: &str, version: &str, wanted: &Value) -> Value {
    let users = if version == "12" { json!({}) } else { json!({ creator: 100 }) };
    let mut levels = json!({
        "users": users, "users_default": 0, "events_default": 0, "state_default": 50,
        "ban": 50, "kick": 50, "redact": 50, "invite": 0,
        "events": {
            "m.room.name": 50, "m.room.power_levels": 100, "m.room.encryption": 100,
            "m.room.tombstone": if version == "12" { 150 } else { 100 },
        },
    });
    for (name, value) in wanted.as_object().into_iter().flatten() {
        levels[name] = value.clone();
    }
    levels
}
