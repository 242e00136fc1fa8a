//! Rooms: events, current state, power.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use super::world::World;

/// An event of a room.
#[derive(Clone, Debug)]
pub struct Event {
    pub event_id: String,
    pub room_id: String,
    pub event_type: String,
    pub state_key: Option<String>,
    pub sender: String,
    pub content: Value,
    pub timestamp: u64,
    /// The clock when it entered the room.
    pub tick: u64,
    /// Its place in the stream of `/sync`.
    pub position: u64,
    pub replaces: Option<Arc<str>>,
    pub redacts: Option<String>,
    /// What the content was before it was redacted.
    pub redacted: Option<Value>,
    /// Who redacted it.
    pub redacted_by: Option<String>,
}

impl Event {
    /// The content as it was sent, also when it was redacted since.
    pub fn sent_content(&self) -> &Value {
        self.redacted.as_ref().unwrap_or(&self.content)
    }

    /// The event as the client-server API shows it.
    pub fn to_json(&self) -> Value {
        let mut event = json!({
            "event_id": self.event_id,
            "room_id": self.room_id,
            "type": self.event_type,
            "sender": self.sender,
            "user_id": self.sender,
            "content": self.content,
            "origin_server_ts": self.timestamp,
            "unsigned": { "age": now().saturating_sub(self.timestamp) },
        });
        if let Some(state_key) = &self.state_key {
            event["state_key"] = json!(state_key);
        }
        if let Some(redacts) = &self.redacts {
            event["redacts"] = json!(redacts);
        }
        if let Some(replaces) = &self.replaces {
            event["unsigned"]["replaces_state"] = json!(replaces);
        }
        if self.redacted.is_some() {
            event["unsigned"]["redacted_because"] =
                json!({ "type": "m.room.redaction", "sender": self.redacted_by });
        }
        event
    }
}

/// A room.
pub struct Room {
    pub room_id: String,
    pub version: String,
    pub creator: String,
    pub state: BTreeMap<(String, String), Arc<Event>>,
    pub timeline: Vec<Arc<Event>>,
    places: HashMap<String, usize>,
}

impl Room {
    pub(super) fn new(room_id: &str, version: &str, creator: &str) -> Self {
        Self {
            room_id: room_id.to_owned(),
            version: version.to_owned(),
            creator: creator.to_owned(),
            state: BTreeMap::new(),
            timeline: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// The current event of a state tuple.
    pub fn current(&self, event_type: &str, state_key: &str) -> Option<&Arc<Event>> {
        self.state.get(&(event_type.to_owned(), state_key.to_owned()))
    }

    /// The event by its id.
    pub fn event(&self, event_id: &str) -> Option<&Arc<Event>> {
        self.timeline.get(*self.places.get(event_id)?)
    }

    /// `join`, `invite`, `leave`, `ban`, `knock`; `leave` for a stranger.
    pub fn membership(&self, user_id: &str) -> &str {
        self.current("m.room.member", user_id)
            .and_then(|event| event.content["membership"].as_str())
            .unwrap_or("leave")
    }

    /// All users with this membership.
    pub fn members(&self, membership: &str) -> Vec<String> {
        self.member_events()
            .filter(|event| event.content["membership"] == membership)
            .filter_map(|event| event.state_key.clone())
            .collect()
    }

    pub(super) fn member_events(&self) -> impl Iterator<Item = &Arc<Event>> {
        let start = ("m.room.member".to_owned(), String::new());
        self.state
            .range(start..)
            .take_while(|((event_type, _), _)| event_type == "m.room.member")
            .map(|(_, event)| event)
    }

    fn levels(&self) -> Value {
        self.current("m.room.power_levels", "").map_or(json!({}), |event| event.content.clone())
    }

    /// A user's power; version 12's creators are above every number.
    pub fn power_of(&self, user_id: &str) -> i64 {
        if self.version == "12" && (self.creator == user_id || self.is_additional_creator(user_id))
        {
            return i64::MAX;
        }
        let levels = self.levels();
        let own = levels["users"].get(user_id).and_then(Value::as_i64);
        own.or_else(|| levels["users_default"].as_i64()).unwrap_or(0)
    }

    fn is_additional_creator(&self, user_id: &str) -> bool {
        let create = self.current("m.room.create", "").map(|event| &event.content);
        let named = create.and_then(|content| content["additional_creators"].as_array());
        named.into_iter().flatten().any(|named| named == user_id)
    }

    /// The power which sending this type takes.
    pub fn required(&self, event_type: &str, is_state: bool) -> i64 {
        let levels = self.levels();
        let of_type = levels["events"].get(event_type).and_then(Value::as_i64);
        let default = if is_state { ("state_default", 50) } else { ("events_default", 0) };
        of_type.or_else(|| levels[default.0].as_i64()).unwrap_or(default.1)
    }

    /// Why the room's rules refuse this state, or `None` when they do not.
    pub fn refuses_state(&self, sender: &str, event_type: &str, state_key: &str) -> Option<String> {
        if self.membership(sender) != "join" {
            return Some(format!("{sender} is not in the room"));
        }
        if self.power_of(sender) < self.required(event_type, true) {
            return Some(format!("{sender} lacks the power for {event_type}"));
        }
        if state_key.starts_with('@') && state_key != sender && event_type != "m.room.member" {
            return Some("the state key is another user's".to_owned());
        }
        None
    }
}

impl World {
    /// Sends state, as the API would: the same content again is the same event.
    ///
    /// # Errors
    /// The reason when the room's rules refuse it.
    pub fn put_state(
        &mut self,
        room_id: &str,
        sender: &str,
        tuple: (&str, &str),
        content: Value,
    ) -> Result<String, String> {
        let (event_type, state_key) = tuple;
        let room = self.room(room_id);
        if let Some(reason) = room.refuses_state(sender, event_type, state_key) {
            return Err(reason);
        }
        if let Some(current) = room.current(event_type, state_key)
            && current.content == content
            && current.sender == sender
        {
            return Ok(current.event_id.clone());
        }
        Ok(self.append(room_id, sender, (event_type, Some(state_key)), content))
    }

    /// Adds an event to a room without asking its rules, and queues it for the keeper.
    pub fn append(
        &mut self,
        room_id: &str,
        sender: &str,
        (event_type, state_key): (&str, Option<&str>),
        content: Value,
    ) -> String {
        let keeper = self.keeper();
        let tick = self.tick();
        let position = self.next_position();
        let event_id = format!("$sim{tick}");
        let fork = if sender == keeper { self.fork.take() } else { None };
        let room = self.room_mut(room_id);
        let was_interesting = matches!(room.membership(&keeper), "join" | "invite");
        let replaces = state_key.and_then(|key| room.current(event_type, key));
        let replaces = replaces.map(|event| Arc::from(event.event_id.as_str()));
        let event = Arc::new(Event {
            event_id: event_id.clone(),
            room_id: room_id.to_owned(),
            event_type: event_type.to_owned(),
            state_key: state_key.map(str::to_owned),
            sender: sender.to_owned(),
            timestamp: now(),
            tick,
            position,
            replaces: fork.or(replaces),
            redacts: content["redacts"].as_str().map(str::to_owned),
            redacted: None,
            redacted_by: None,
            content,
        });
        room.places.insert(event_id.clone(), room.timeline.len());
        room.timeline.push(event.clone());
        if let Some(state_key) = state_key {
            let tuple = (event_type.to_owned(), state_key.to_owned());
            room.state.insert(tuple, event.clone());
        }
        let is_interesting = matches!(room.membership(&keeper), "join" | "invite");
        if event_type == "m.room.member" {
            self.note_membership(&event);
        }
        if was_interesting || is_interesting {
            let event = self.with_invite_state(&event);
            self.to_push.push_back(event);
        }
        event_id
    }

    /// A join or a leave changes whose devices the keeper follows.
    fn note_membership(&mut self, event: &Event) {
        let Some(user_id) = event.state_key.clone() else { return };
        let keeper = self.keeper();
        let joined = event.content["membership"] == "join";
        if user_id == keeper && joined {
            for member in self.room(&event.room_id).members("join") {
                self.devices_changed(&member);
            }
        } else if joined && self.room(&event.room_id).membership(&keeper) == "join" {
            self.devices_changed(&user_id);
        } else if !joined && !self.keeper_sees(&user_id) {
            let position = self.next_position();
            self.device_left.push((position, user_id));
        }
    }

    /// The keeper's own invite carries stripped state, as a homeserver sends it.
    fn with_invite_state(&self, event: &Event) -> Value {
        let mut shown = event.to_json();
        let is_own_invite = event.event_type == "m.room.member"
            && event.state_key.as_deref() == Some(self.keeper().as_str())
            && event.content["membership"] == "invite";
        if is_own_invite {
            let stripped = self.stripped_state(&event.room_id, &event.sender);
            shown["unsigned"]["invite_room_state"] = stripped.clone();
            shown["invite_room_state"] = stripped;
        }
        shown
    }

    fn stripped_state(&self, room_id: &str, inviter: &str) -> Value {
        let room = self.room(room_id);
        let tuples = [
            ("m.room.create", ""),
            ("m.room.join_rules", ""),
            ("m.room.encryption", ""),
            ("m.room.name", ""),
            ("m.room.member", inviter),
        ];
        let events = tuples.iter().filter_map(|(event_type, key)| room.current(event_type, key));
        events
            .map(|event| {
                json!({
                    "type": event.event_type, "state_key": event.state_key,
                    "sender": event.sender, "content": event.content,
                })
            })
            .collect()
    }

    /// Redacts an event: its content is gone from the timeline and from current state.
    pub fn redact(&mut self, room_id: &str, sender: &str, event_id: &str) -> Option<String> {
        let room = self.room_mut(room_id);
        let place = *room.places.get(event_id)?;
        let mut redacted = Event::clone(room.timeline.get(place)?);
        let sent = std::mem::replace(&mut redacted.content, json!({}));
        redacted.redacted.get_or_insert(sent);
        redacted.redacted_by.get_or_insert_with(|| sender.to_owned());
        let redacted = Arc::new(redacted);
        room.timeline[place] = redacted.clone();
        if let Some(state_key) = &redacted.state_key {
            let tuple = (redacted.event_type.clone(), state_key.clone());
            if room.state.get(&tuple).is_some_and(|current| current.event_id == event_id) {
                room.state.insert(tuple, redacted.clone());
            }
        }
        let content = json!({ "redacts": event_id });
        Some(self.append(room_id, sender, ("m.room.redaction", None), content))
    }
}

/// Milliseconds since the epoch.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
