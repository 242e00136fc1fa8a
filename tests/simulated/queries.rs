//! What a test asks of the world: what devices can read, and what must never be.

use std::collections::BTreeMap;

use serde_json::Value;
use vodozemac::megolm::MegolmMessage;

use super::{
    builder::{DeviceRef, RoomRef},
    device::{Received, RoomKey},
    room::Event,
    world::World,
};

/// A state event that a device could open.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The sealed payload, whole.
    pub payload: Value,
    pub session_id: String,
    pub index: u32,
    /// The clock when the device got the key.
    pub key_came: u64,
}

impl Opened {
    /// The state's content.
    pub fn content(&self) -> &Value {
        &self.payload["content"]
    }
}

/// The (session, index) of a Megolm ciphertext.
pub fn megolm_place(content: &Value) -> Option<(String, u32)> {
    let message = MegolmMessage::from_base64(content["ciphertext"].as_str()?).ok()?;
    Some((content["session_id"].as_str()?.to_owned(), message.message_index()))
}

impl World {
    /// Opens an event with what a device holds, as a stock client would.
    ///
    /// # Errors
    /// Why it stays closed.
    pub fn open(&mut self, device: (&str, &str), event: &Event) -> Result<Opened, String> {
        let device = self.read_inbox(device.0, device.1);
        let content = event.sent_content();
        let session_id = content["session_id"].as_str().ok_or("no session id")?.to_owned();
        let key = device
            .room_keys
            .get_mut(&(event.room_id.clone(), session_id.clone()))
            .ok_or_else(|| format!("no key of session {session_id}"))?;
        if key.creator != event.sender {
            return Err(format!("the session is {}'s, the event {}'s", key.creator, event.sender));
        }
        open_with(key, event)
    }

    /// Opens an event with a key that was forwarded to a device: what MSC3414 allows it to ask for.
    ///
    /// # Errors
    /// Why it stays closed.
    pub fn open_forwarded(
        &mut self,
        device: (&str, &str),
        event: &Event,
    ) -> Result<Opened, String> {
        let device = self.read_inbox(device.0, device.1);
        let content = event.sent_content();
        let session_id = content["session_id"].as_str().ok_or("no session id")?.to_owned();
        let key = device
            .forwarded_keys
            .get_mut(&(event.room_id.clone(), session_id.clone()))
            .ok_or_else(|| format!("session {session_id} was not forwarded"))?;
        if key.content["sender_key"] != content["sender_key"] {
            return Err("the key was forwarded as another device's".to_owned());
        }
        open_with(key, event)
    }

    /// A room's current sealed events.
    pub fn sealed_state(&self, room_id: &str) -> Vec<Event> {
        let sealed = self.room(room_id).state.iter();
        sealed
            .filter(|((event_type, _), event)| {
                event_type == "m.room.encrypted" && event.redacted.is_none()
            })
            .map(|(_, event)| Event::clone(event))
            .collect()
    }

    /// Which current sealed events of a room a device cannot open, with the reason.
    pub fn closed_state(&mut self, room_id: &str, device: (&str, &str)) -> Vec<String> {
        let mut closed = Vec::new();
        for event in self.sealed_state(room_id) {
            if let Err(reason) = self.open(device, &event) {
                let key = event.state_key.unwrap_or_default();
                closed.push(format!("{}/{}: {key}: {reason}", device.0, device.1));
            }
        }
        closed
    }

    /// Each Megolm (session, index) that stands in more than one event, with the events.
    pub fn reused_indices(&self) -> Vec<(String, u32, Vec<String>)> {
        let mut places: BTreeMap<(String, u32), Vec<String>> = BTreeMap::new();
        for event in self.rooms.values().flat_map(|room| &room.timeline) {
            if event.event_type != "m.room.encrypted" {
                continue;
            }
            if let Some(place) = megolm_place(event.sent_content()) {
                places.entry(place).or_default().push(event.event_id.clone());
            }
        }
        let reused = places.into_iter().filter(|(_, events)| events.len() > 1);
        reused.map(|((session, index), events)| (session, index, events)).collect()
    }

    /// Devices to which the keeper gave an `m.room_key` of somebody else's session: it poisons the
    /// session there, and there must be none.
    pub fn foreign_sessions_shared(&mut self) -> Vec<(String, String)> {
        let keeper = self.keeper();
        let devices: Vec<(String, String)> = self
            .users
            .values()
            .flat_map(|user| user.devices.values())
            .map(|device| (device.user_id.clone(), device.device_id.clone()))
            .collect();
        let mut members_sessions = Vec::new();
        for (user_id, device_id) in &devices {
            let outbound = &self.read_inbox(user_id, device_id).outbound;
            members_sessions.extend(outbound.values().map(|o| o.session.session_id()));
        }
        let is_poisoned = |device: &super::device::SimDevice| {
            device.received.iter().any(|event| {
                let session_id = event.content["session_id"].as_str().unwrap_or_default();
                event.event_type == "m.room_key"
                    && event.sender == keeper
                    && members_sessions.iter().any(|session| session == session_id)
            })
        };
        let users = self.users.values().flat_map(|user| user.devices.values());
        let poisoned = users.filter(|device| is_poisoned(device));
        poisoned.map(|device| (device.user_id.clone(), device.device_id.clone())).collect()
    }

    /// The events which the keeper sealed for a tuple, oldest first.
    pub fn keeper_seals(&self, room_id: &str, packed: &str) -> Vec<Event> {
        let keeper = self.keeper();
        let timeline = self.room(room_id).timeline.iter();
        timeline
            .filter(|event| {
                event.sender == keeper
                    && event.event_type == "m.room.encrypted"
                    && event.state_key.as_deref() == Some(packed)
            })
            .map(|event| Event::clone(event))
            .collect()
    }

    /// The current sealed event of a tuple, if the keeper is its sender.
    pub fn keeper_seal(&self, room_id: &str, packed: &str) -> Option<Event> {
        let current = self.room(room_id).current("m.room.encrypted", packed)?;
        (current.sender == self.keeper()).then(|| Event::clone(current))
    }

    /// The last requests and events in the order of the clock, one a line, for a failed test's
    /// message.
    pub fn recent_requests(&self, count: usize) -> String {
        let requests = self.requests.all.iter().map(|request| {
            let status = request.status.map_or("running".to_owned(), |status| status.to_string());
            let answered = request.answered.unwrap_or_default();
            let text = format!("{} {} {status} at {answered}", request.method, request.path);
            (request.arrived, text)
        });
        let events = self.rooms.values().flat_map(|room| &room.timeline).map(|event| {
            let key = event.state_key.as_deref().unwrap_or_default();
            let membership = event.content["membership"].as_str().unwrap_or_default();
            let redacted = if event.redacted.is_some() { " (redacted)" } else { "" };
            let text = format!(
                "     {} {} {key} {membership}{redacted} {}",
                event.sender, event.event_type, event.event_id
            );
            (event.tick, text)
        });
        let mut lines: Vec<(u64, String)> = requests.chain(events).collect();
        lines.sort();
        let skip = lines.len().saturating_sub(count);
        let lines = lines.into_iter().skip(skip).map(|(tick, text)| format!("  {tick} {text}"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn open_with(key: &mut RoomKey, event: &Event) -> Result<Opened, String> {
    let ciphertext = event.sent_content()["ciphertext"].as_str().ok_or("no ciphertext")?;
    let message = MegolmMessage::from_base64(ciphertext).map_err(|e| e.to_string())?;
    let opened = key.session.decrypt(&message).map_err(|e| e.to_string())?;
    let payload: Value = serde_json::from_slice(&opened.plaintext).map_err(|e| e.to_string())?;
    check_payload(event, &payload)?;
    let session_id = key.session.session_id();
    Ok(Opened { payload, session_id, index: opened.message_index, key_came: key.tick })
}

/// MSC4362: what is inside has to be what stands outside.
fn check_payload(event: &Event, payload: &Value) -> Result<(), String> {
    if payload["room_id"] != event.room_id.as_str() {
        return Err(format!("it is for room {}", payload["room_id"]));
    }
    let Some(state_key) = &event.state_key else { return Ok(()) };
    let (kind, key) = (payload["type"].as_str(), payload["state_key"].as_str());
    let (Some(kind), Some(key)) = (kind, key) else {
        return Err("type or state_key is missing inside".to_owned());
    };
    if format!("{kind}:{key}") == *state_key {
        return Ok(());
    }
    Err(format!("{kind}:{key} is packed as {state_key}"))
}

impl DeviceRef {
    /// The device's name, for messages.
    pub fn id(&self) -> (&str, &str) {
        (&self.user_id, &self.device_id)
    }

    /// Opens an event of a room.
    ///
    /// # Errors
    /// Why it stays closed.
    pub fn opens(&self, event: &Event) -> Result<Opened, String> {
        self.sim.with(|world| world.open(self.id(), event))
    }

    /// What a stock client on this device shows as the tuple's current sealed value: a running
    /// client never comes back to an event that it failed to decrypt, so the key has to have been
    /// there before the event, or before the join that brings the room's state.
    ///
    /// # Errors
    /// Why it shows nothing.
    pub fn reads(&self, room: &RoomRef, packed: &str) -> Result<Opened, String> {
        self.sim.with(|world| self.reads_in(world, room, packed))
    }

    /// The same, for use inside a condition.
    ///
    /// # Errors
    /// Why it shows nothing.
    pub fn reads_in(
        &self,
        world: &mut World,
        room: &RoomRef,
        packed: &str,
    ) -> Result<Opened, String> {
        let held = world.room(&room.room_id);
        let current = held.current("m.room.encrypted", packed).ok_or("nothing is sealed")?;
        let own = held.current("m.room.member", &self.user_id);
        let joined = own.filter(|event| event.content["membership"] == "join");
        let synced = current.tick.max(joined.map_or(0, |event| event.tick));
        let opened = world.open(self.id(), &current.clone())?;
        if opened.key_came > synced {
            return Err(format!("the key came at {}, the event at {synced}", opened.key_came));
        }
        Ok(opened)
    }

    /// Is this the name that the device reads in the keeper's words?
    pub fn reads_name_in(&self, world: &mut World, room: &RoomRef, name: &str) -> bool {
        let is_keepers = world.keeper_seal(&room.room_id, "m.room.name:").is_some();
        let read = self.reads_in(world, room, "m.room.name:");
        is_keepers && read.is_ok_and(|opened| opened.content()["name"] == name)
    }

    /// Opens an event of a room with a key that was forwarded to this device.
    ///
    /// # Errors
    /// Why it stays closed.
    pub fn opens_forwarded(&self, event: &Event) -> Result<Opened, String> {
        self.sim.with(|world| world.open_forwarded(self.id(), event))
    }

    /// All to-device events that the device has read so far.
    pub fn received(&self) -> Vec<Received> {
        self.sim.with(|world| world.read_inbox(&self.user_id, &self.device_id).received.clone())
    }

    /// All to-device events which the keeper sent to this device.
    pub fn heard_from_keeper(&self) -> Vec<Received> {
        let keeper = self.sim.keeper();
        let mut received = self.received();
        received.retain(|event| event.sender == keeper);
        received
    }

    /// The contents of all `m.room_key` events which the keeper sent to this device.
    pub fn keys_from_keeper(&self) -> Vec<Received> {
        let mut heard = self.heard_from_keeper();
        heard.retain(|event| event.event_type == "m.room_key");
        heard
    }

    /// To-device events that the device could not read: there should be none.
    pub fn complaints(&self) -> Vec<String> {
        self.sim.with(|world| world.read_inbox(&self.user_id, &self.device_id).unreadable.clone())
    }
}
