//! Devices that ask the keeper for keys, honestly or not, and what they are told.

use serde_json::{Value, json};

use super::{
    builder::{DeviceRef, RoomRef},
    device::Received,
    world::World,
};

const MEGOLM: &str = "m.megolm.v1.aes-sha2";
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// What an `m.room_key.withheld` said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    pub code: String,
    pub reason: String,
    /// The room and the session; absent with `m.no_olm`, which is about all of them.
    pub room_id: Option<String>,
    pub session_id: Option<String>,
}

impl Withheld {
    fn of(event: &Received) -> Option<Self> {
        let field = |name: &str| event.content[name].as_str().map(str::to_owned);
        (event.event_type == "m.room_key.withheld").then(|| Self {
            code: field("code").unwrap_or_default(),
            reason: field("reason").unwrap_or_default(),
            room_id: field("room_id"),
            session_id: field("session_id"),
        })
    }
}

/// The content of an `m.room_key_request` with the action `request`.
pub fn key_request(
    (room_id, session_id): (&str, &str),
    requesting_device_id: &str,
    request_id: &str,
) -> Value {
    json!({
        "action": "request", "request_id": request_id,
        "requesting_device_id": requesting_device_id,
        "body": { "algorithm": MEGOLM, "room_id": room_id, "session_id": session_id },
    })
}

/// Session ids that a careless reader takes for this one: other letters, other spellings of the
/// same bytes, and more or less than all of it.
pub fn look_alikes(session_id: &str) -> Vec<String> {
    let (head, last) = session_id.split_at(session_id.len().saturating_sub(1));
    let swapped = session_id.chars().map(|letter| {
        if letter.is_ascii_lowercase() {
            letter.to_ascii_uppercase()
        } else {
            letter.to_ascii_lowercase()
        }
    });
    let mut alike = vec![
        swapped.collect(),
        session_id.to_ascii_lowercase(),
        session_id.replace('+', "-").replace('/', "_"),
        format!("{session_id}="),
        format!(" {session_id}"),
        format!("{session_id}\n"),
        format!("{session_id}\0"),
        format!("{head}{last}{last}"),
        head.to_owned(),
        format!("{head}%"),
        String::new(),
    ];
    // 32 bytes leave two bits of the last digit unused: four digits spell the same bytes.
    let place = DIGITS.iter().position(|digit| last.as_bytes() == [*digit]).unwrap_or_default();
    let spellings = (0..4).map(|unused| char::from(DIGITS[(place & !3) + unused]));
    alike.extend(spellings.map(|digit| format!("{head}{digit}")));
    alike.retain(|other| other != session_id);
    alike.dedup();
    alike
}

impl World {
    /// Puts an `m.room_key_request` into the inboxes of all the keeper's devices, as MSC3414 says.
    pub fn request_key(&mut self, sender: &str, content: &Value) {
        let keeper = self.keeper();
        self.send_to_device(sender, "m.room_key_request", (&keeper, "*"), content);
    }

    /// Has the keeper acknowledged every to-device event so far?
    pub fn keeper_heard_all(&self) -> bool {
        let device = self.keeper_peer();
        device.is_some_and(|device| self.waiting_for(&device.user_id, &device.device_id) == 0)
    }
}

impl DeviceRef {
    /// Asks the keeper for a session.
    pub fn ask_for_key(&self, room_id: &str, session_id: &str, request_id: &str) {
        self.ask_as(&self.device_id, (room_id, session_id), request_id);
    }

    /// The same, with any device named as the one that asks.
    pub fn ask_as(&self, requesting: &str, session: (&str, &str), request_id: &str) {
        let content = key_request(session, requesting, request_id);
        self.sim.change(|world| world.request_key(&self.user_id, &content));
    }

    /// Takes a request back.
    pub fn cancel_request(&self, request_id: &str) {
        let content = json!({
            "action": "request_cancellation", "request_id": request_id,
            "requesting_device_id": self.device_id,
        });
        self.sim.change(|world| world.request_key(&self.user_id, &content));
    }

    /// What the keeper said that it withholds, in order.
    pub fn withheld(&self) -> Vec<Withheld> {
        self.heard_from_keeper().iter().filter_map(Withheld::of).collect()
    }

    /// The `m.forwarded_room_key` events which the keeper sent to this device.
    pub fn forwarded_by_keeper(&self) -> Vec<Received> {
        let mut heard = self.heard_from_keeper();
        heard.retain(|event| event.event_type == "m.forwarded_room_key");
        heard
    }

    /// The id of the session under which this device encrypts in a room, messages and state alike.
    pub fn session_id(&self, room: &RoomRef) -> String {
        self.sim.with(|world| {
            let device = world.device_mut(&self.user_id, &self.device_id);
            device.outbound(&room.room_id).session.session_id()
        })
    }

    /// Opens a new Olm session with the keeper, as a client does whose old one is broken.
    pub fn renew_olm(&self) {
        self.sim.change(|world| {
            let peer = world.keeper_peer().expect("the keeper has published its device");
            world.device_mut(&self.user_id, &self.device_id).forget_sessions_with(&peer);
            world.send_olm_to_keeper(self.id(), "m.dummy", &json!({}));
        });
    }
}
