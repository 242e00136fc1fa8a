//! The world outside of the keeper: a homeserver with one room, the people in it, their devices and what these can read.
//!
//! Keys are symbolic: a room key is a session's name and the index from which on it opens what is encrypted. A client
//! reads a state event when it sees it or never (FIELD-NOTES of both stock SDKs: key first, event second).

use std::collections::{BTreeMap, VecDeque};

use ruma::{OwnedDeviceId, OwnedEventId, OwnedUserId};
use serde_json::{Value, json};

use statekeeper::state::{HistoryVisibility, JsonMap, Membership, PowerLevels, StateTuple};

/// How many people there are.
pub const PEOPLE: usize = 5;

/// What was encrypted: under which session at which index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cipher {
    pub session: String,
    pub index: u32,
}

/// What an event says.
#[derive(Clone, Debug)]
pub enum Said {
    Member(OwnedUserId, Membership),
    Power(JsonMap),
    Visibility(HistoryVisibility),
    /// Hidden state, with its true content; of the keeper's, with the event that it stands for.
    State {
        tuple: StateTuple,
        cipher: Cipher,
        content: JsonMap,
        stands_for: Option<OwnedEventId>,
    },
    /// State in plain, whose sender's power the homeserver has checked.
    Plain {
        tuple: StateTuple,
        content: JsonMap,
    },
    Message(Cipher),
    Redaction(OwnedEventId),
}

/// An event of the room.
#[derive(Clone, Debug)]
pub struct Event {
    pub id: OwnedEventId,
    pub sender: OwnedUserId,
    pub at: i64,
    /// The time that it claims.
    pub claims: i64,
    pub said: Said,
}

/// Somebody's device.
#[derive(Clone, Debug)]
pub struct Device {
    pub id: OwnedDeviceId,
    /// The number of the identity that signed it.
    pub signed_by: Option<u32>,
    /// Whether there is a one-time key to write to it with.
    pub reachable: bool,
    pub gone: bool,
    /// The keeper's room keys that it was given: the lowest index of each session.
    pub keys: BTreeMap<String, u32>,
    /// The event that each tuple was last read from.
    pub read: BTreeMap<StateTuple, OwnedEventId>,
    /// Its own Megolm session's next index.
    pub next_index: u32,
}

/// A user.
#[derive(Clone, Debug)]
pub struct Person {
    pub id: OwnedUserId,
    pub identity: u32,
    pub devices: Vec<Device>,
}

/// What the homeserver tells over its long poll.
#[derive(Clone, Debug)]
pub enum News {
    /// Somebody's devices changed.
    Devices(usize),
    /// A member's device gives the keeper the key of its session.
    Key(String),
}

/// All of it.
#[derive(Clone, Debug)]
pub struct World {
    pub keeper: OwnedUserId,
    pub people: Vec<Person>,
    /// The room's events in the order of the own server's stream, each redacted or not.
    pub events: Vec<Event>,
    pub redacted: BTreeMap<OwnedEventId, ()>,
    pub current: BTreeMap<StateTuple, OwnedEventId>,
    pub members: BTreeMap<OwnedUserId, Membership>,
    pub levels: JsonMap,
    /// Room events on their way to the keeper: places in [`World::events`]. Some come twice.
    pub pushed: VecDeque<usize>,
    /// What the next polls bring, in this order.
    pub news: VecDeque<News>,
    /// Keys that their owners have not given the keeper yet.
    pub kept_back: Vec<String>,
    /// Transaction ids of redactions that were carried out.
    pub done: BTreeMap<u64, ()>,
    events_made: u64,
    devices_made: u64,
}

impl World {
    pub fn new() -> Self {
        let people = (0..PEOPLE)
            .map(|n| Person {
                id: format!("@u{n}:s").try_into().unwrap(),
                identity: 0,
                devices: Vec::new(),
            })
            .collect();
        let keeper: OwnedUserId = "@keeper:s".try_into().unwrap();
        // The first is the owner, the second has half of the power, the third may send encrypted state and no name.
        let levels = json!({
            "users": { "@keeper:s": 100, "@u0:s": 100, "@u1:s": 50, "@u2:s": 30 },
            "events": { "m.room.encrypted": 30, "m.room.topic": 30, "m.room.name": 50 },
            "state_default": 30,
        });
        let mut world = Self {
            keeper,
            people,
            events: Vec::new(),
            redacted: BTreeMap::new(),
            current: BTreeMap::new(),
            members: BTreeMap::new(),
            levels: object(levels),
            pushed: VecDeque::new(),
            news: VecDeque::new(),
            kept_back: Vec::new(),
            done: BTreeMap::new(),
            events_made: 0,
            devices_made: 0,
        };
        for n in 0..PEOPLE {
            world.log_in(n);
        }
        world
    }

    pub fn power(&self) -> PowerLevels {
        PowerLevels::from_content(Some(&self.levels), &[], "11")
    }

    pub fn place_of(&self, user: &OwnedUserId) -> Option<usize> {
        self.people.iter().position(|person| person.id == *user)
    }

    pub fn membership(&self, n: usize) -> Option<Membership> {
        self.members.get(&self.people[n].id).copied()
    }

    pub fn event(&self, id: &OwnedEventId) -> Option<&Event> {
        self.events.iter().find(|event| event.id == *id)
    }

    /// The homeserver takes an event into the room, and tells of it.
    pub fn send(&mut self, sender: OwnedUserId, said: Said, at: i64, claims: i64) -> OwnedEventId {
        self.events_made += 1;
        let id: OwnedEventId = format!("$e{}", self.events_made).try_into().unwrap();
        match &said {
            Said::Member(user, membership) => {
                self.members.insert(user.clone(), *membership);
            }
            Said::Power(levels) => self.levels.clone_from(levels),
            Said::State { tuple, .. } => {
                self.current.insert(tuple.clone(), id.clone());
            }
            Said::Redaction(target) => {
                self.redacted.insert(target.clone(), ());
            }
            Said::Visibility(_) | Said::Plain { .. } | Said::Message(_) => {}
        }
        let event = Event { id: id.clone(), sender, at, claims, said };
        self.pushed.push_back(self.events.len());
        self.events.push(event);
        self.clients_see(&id);
        id
    }

    /// Every client that is in the room sees an event, and reads it if it can.
    fn clients_see(&mut self, id: &OwnedEventId) {
        let Some(event) = self.event(id).cloned() else { return };
        match &event.said {
            Said::State { .. } => {
                for n in 0..self.people.len() {
                    if self.membership(n) == Some(Membership::Join) {
                        self.read_all_of(n, Some(id));
                    }
                }
            }
            // Who comes reads what stands there.
            Said::Member(user, Membership::Join) => {
                if let Some(n) = self.place_of(user) {
                    self.read_all_of(n, None);
                }
            }
            _ => {}
        }
    }

    /// A user's devices read the room's state, or one event of it.
    fn read_all_of(&mut self, n: usize, only: Option<&OwnedEventId>) {
        let standing: Vec<(StateTuple, OwnedEventId)> = self
            .current
            .iter()
            .filter(|(_, id)| only.is_none_or(|only| only == *id))
            .map(|(tuple, id)| (tuple.clone(), id.clone()))
            .collect();
        for (tuple, id) in standing {
            let Some(cipher) = self.cipher_of(&id) else { continue };
            for device in &mut self.people[n].devices {
                if device.keys.get(&cipher.session).is_some_and(|from| *from <= cipher.index) {
                    device.read.insert(tuple.clone(), id.clone());
                }
            }
        }
    }

    /// What opens an event; `None` where it was redacted.
    pub fn cipher_of(&self, id: &OwnedEventId) -> Option<Cipher> {
        if self.redacted.contains_key(id) {
            return None;
        }
        match &self.event(id)?.said {
            Said::State { cipher, .. } => Some(cipher.clone()),
            _ => None,
        }
    }

    /// Whether what an event says was taken back. By redacting what is in plain the keeper takes nothing back.
    pub fn is_taken_back(&self, id: &OwnedEventId) -> bool {
        let target = self.event(id);
        let in_plain = target.is_some_and(|event| matches!(event.said, Said::Plain { .. }));
        self.events.iter().any(|event| {
            matches!(&event.said, Said::Redaction(target) if target == id)
                && !(in_plain && event.sender == self.keeper)
        })
    }

    /// The event of a member's that an event shows: itself, or what the keeper's stands for.
    pub fn root_of(&self, id: &OwnedEventId) -> OwnedEventId {
        match self.event(id).map(|event| &event.said) {
            Some(Said::State { stands_for: Some(root), .. }) => root.clone(),
            _ => id.clone(),
        }
    }

    pub fn log_in(&mut self, n: usize) {
        self.devices_made += 1;
        let device = Device {
            id: format!("D{}", self.devices_made).into(),
            signed_by: Some(self.people[n].identity),
            reachable: true,
            gone: false,
            keys: BTreeMap::new(),
            read: BTreeMap::new(),
            next_index: 0,
        };
        self.people[n].devices.push(device);
        self.tell_of_devices(n);
    }

    /// The homeserver tells the keeper of the devices of those with whom it shares the room.
    pub fn tell_of_devices(&mut self, n: usize) {
        if self.membership(n) == Some(Membership::Join) {
            self.news.push_back(News::Devices(n));
        }
    }

    /// The homeserver hands a room key over to a device, if there is such a device.
    pub fn hand_over(&mut self, user: &OwnedUserId, device: &OwnedDeviceId, key: &Cipher) {
        let Some(n) = self.place_of(user) else { return };
        let to = self.people[n].devices.iter_mut().find(|to| to.id == *device && !to.gone);
        if let Some(to) = to {
            let from = to.keys.entry(key.session.clone()).or_insert(key.index);
            *from = (*from).min(key.index);
        }
    }
}

pub fn object(value: Value) -> JsonMap {
    match value {
        Value::Object(map) => map,
        _ => JsonMap::new(),
    }
}
