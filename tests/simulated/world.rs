//! Everything the simulated homeserver knows, under one lock.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    crypto::Identity, device::SimDevice, faults::Faults, requests::RequestLog, room::Room,
    sim::Registration,
};

/// The server's own name.
pub const SERVER_NAME: &str = "localhost";

/// What runs once, just before the keeper's next state PUT is applied.
pub type BeforePut = Box<dyn FnOnce(&mut World) + Send>;

/// A device whose keys came over the API: the keeper's.
#[derive(Default)]
pub struct UploadedDevice {
    pub display_name: Option<String>,
    pub keys: Option<Value>,
    pub one_time_keys: BTreeMap<String, Value>,
    pub fallback_keys: BTreeMap<String, Value>,
    pub fallback_used: bool,
}

/// Somebody with an account here, or a remote user who is known here.
#[derive(Default)]
pub struct User {
    pub registered: bool,
    pub display_name: Option<String>,
    pub identity: Option<Identity>,
    /// `master_key`, `self_signing_key` and `user_signing_key` as uploaded or generated.
    pub cross_signing: BTreeMap<&'static str, Value>,
    pub devices: BTreeMap<String, SimDevice>,
    pub uploaded: BTreeMap<String, UploadedDevice>,
    /// What the user keeps here for himself, by type.
    pub account_data: BTreeMap<String, Value>,
}

/// A to-device event that waits for its device.
pub struct Waiting {
    pub position: u64,
    pub event: Value,
    pub tick: u64,
}

/// A to-device request that came under a transaction id used before.
#[derive(Clone, Debug)]
pub struct Repeated {
    pub txn_id: String,
    pub same_body: bool,
}

/// The state of the world.
pub struct World {
    pub registration: Registration,
    pub users: BTreeMap<String, User>,
    pub rooms: BTreeMap<String, Room>,
    pub requests: RequestLog,
    pub faults: Faults,
    pub repeated: Vec<Repeated>,
    pub before_state_put: VecDeque<BeforePut>,
    /// So many rooms that are created next are not brought to their end.
    pub breaks_creation: usize,
    /// The own server's addresses, and where they lead.
    pub aliases: BTreeMap<String, String>,
    /// Whether the service may move them.
    pub owns_aliases: bool,
    /// By how many seconds the clock that answers are dated with is ahead of this machine's.
    pub clock_ahead: i64,
    /// The media repository.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Whether the keeper may remove any of them.
    pub keeper_is_administrator: bool,
    /// Whether `/sync` says nothing of what the keeper itself sent.
    pub hides_own_events: bool,
    pub(super) inboxes: HashMap<(String, String), VecDeque<Waiting>>,
    pub(super) sent_transactions: HashMap<(String, String), String>,
    /// Whose devices changed, at which position of the stream.
    pub(super) device_changes: Vec<(u64, String)>,
    pub(super) device_left: Vec<(u64, String)>,
    pub(super) to_push: VecDeque<Value>,
    /// What the keeper's next event claims to have replaced, as where two were written at once.
    pub fork: Option<Arc<str>>,
    pub(super) pushed: u64,
    pub(super) push_failures: u64,
    position: u64,
    tick: u64,
}

impl World {
    pub(super) fn new(registration: Registration) -> Self {
        Self {
            registration,
            users: BTreeMap::new(),
            rooms: BTreeMap::new(),
            requests: RequestLog::default(),
            faults: Faults::default(),
            repeated: Vec::new(),
            before_state_put: VecDeque::new(),
            breaks_creation: 0,
            aliases: BTreeMap::new(),
            owns_aliases: false,
            clock_ahead: 0,
            files: BTreeMap::new(),
            keeper_is_administrator: false,
            hides_own_events: false,
            inboxes: HashMap::new(),
            sent_transactions: HashMap::new(),
            device_changes: Vec::new(),
            device_left: Vec::new(),
            to_push: VecDeque::new(),
            fork: None,
            pushed: 0,
            push_failures: 0,
            position: 0,
            tick: 0,
        }
    }

    /// Moves the clock on and tells the time: a number, the same clock for requests and events.
    pub fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    pub(super) fn next_position(&mut self) -> u64 {
        self.position += 1;
        self.position
    }

    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// The keeper's user id.
    pub fn keeper(&self) -> String {
        self.registration.bot_user_id()
    }

    /// The user, who comes into being by being named.
    pub fn user_mut(&mut self, user_id: &str) -> &mut User {
        self.users.entry(user_id.to_owned()).or_default()
    }

    /// A simulated device.
    ///
    /// # Panics
    /// When there is none by this name: a mistake in the test.
    pub fn device_mut(&mut self, user_id: &str, device_id: &str) -> &mut SimDevice {
        self.users
            .get_mut(user_id)
            .and_then(|user| user.devices.get_mut(device_id))
            .unwrap_or_else(|| panic!("no simulated device {user_id} {device_id}"))
    }

    /// The room.
    ///
    /// # Panics
    /// When there is none: a mistake in the test.
    pub fn room(&self, room_id: &str) -> &Room {
        self.rooms.get(room_id).unwrap_or_else(|| panic!("no room {room_id}"))
    }

    pub(super) fn room_mut(&mut self, room_id: &str) -> &mut Room {
        self.rooms.get_mut(room_id).unwrap_or_else(|| panic!("no room {room_id}"))
    }

    /// Gives a user cross-signing keys, once.
    pub fn create_identity(&mut self, user_id: &str) {
        let user = self.user_mut(user_id);
        if user.identity.is_some() {
            return;
        }
        let identity = Identity::new(user_id);
        user.cross_signing.insert("master_key", identity.master_json());
        user.cross_signing.insert("self_signing_key", identity.self_signing_json());
        user.cross_signing.insert("user_signing_key", identity.user_signing_json());
        user.identity = Some(identity);
    }

    /// Says that a user's devices or cross-signing keys changed.
    pub fn devices_changed(&mut self, user_id: &str) {
        let position = self.next_position();
        self.device_changes.push((position, user_id.to_owned()));
    }

    /// Deletes the keeper's device with all that the server kept for it.
    ///
    /// # Panics
    /// When the keeper has published no device: a mistake in the test.
    pub fn delete_keepers_device(&mut self) {
        let device = self.keeper_peer().expect("the keeper has published its device");
        self.delete_device(&device.user_id, &device.device_id);
    }

    /// Deletes a device whose keys came over the API.
    pub(super) fn delete_device(&mut self, user_id: &str, device_id: &str) {
        self.user_mut(user_id).uploaded.remove(device_id);
        self.inboxes.remove(&(user_id.to_owned(), device_id.to_owned()));
        self.devices_changed(user_id);
    }

    /// Does the keeper share a room with this user?
    pub fn keeper_sees(&self, user_id: &str) -> bool {
        let keeper = self.keeper();
        user_id == keeper
            || self.rooms.values().any(|room| {
                room.membership(&keeper) == "join"
                    && matches!(room.membership(user_id), "join" | "invite")
            })
    }

    /// Puts a to-device event into the inboxes of one device, or of all devices (`*`).
    pub fn send_to_device(
        &mut self,
        sender: &str,
        event_type: &str,
        recipient: (&str, &str),
        content: &Value,
    ) {
        let (user_id, device_id) = recipient;
        let devices =
            if device_id == "*" { self.device_ids(user_id) } else { vec![device_id.to_owned()] };
        for device in devices {
            let position = self.next_position();
            let tick = self.tick();
            let event = json!({ "sender": sender, "type": event_type, "content": content });
            let inbox = self.inboxes.entry((user_id.to_owned(), device)).or_default();
            inbox.push_back(Waiting { position, event, tick });
        }
    }

    fn device_ids(&self, user_id: &str) -> Vec<String> {
        let Some(user) = self.users.get(user_id) else { return Vec::new() };
        user.devices.keys().chain(user.uploaded.keys()).cloned().collect()
    }

    /// Lets a simulated device read its inbox. Reading is put off until somebody asks, so that a
    /// benchmark's clock does not pay for it.
    pub fn read_inbox(&mut self, user_id: &str, device_id: &str) -> &mut SimDevice {
        let id = (user_id.to_owned(), device_id.to_owned());
        let waiting = self.inboxes.remove(&id).unwrap_or_default();
        let device = self.device_mut(user_id, device_id);
        for Waiting { event, tick, .. } in waiting {
            let sender = event["sender"].as_str().unwrap_or_default();
            let event_type = event["type"].as_str().unwrap_or_default();
            device.receive(sender, event_type, &event["content"], tick);
        }
        device
    }

    /// How many to-device events wait unread for a device.
    pub fn waiting_for(&self, user_id: &str, device_id: &str) -> usize {
        self.inboxes.get(&(user_id.to_owned(), device_id.to_owned())).map_or(0, VecDeque::len)
    }

    /// How many events of rooms the keeper has acknowledged, and how many pushes failed.
    pub const fn pushes(&self) -> (u64, u64) {
        (self.pushed, self.push_failures)
    }

    /// Loses the transaction of the newest event: the keeper is never told of it.
    pub fn lose_newest(&mut self) {
        self.to_push.pop_back();
    }

    /// True when every event was handed to the keeper.
    pub fn all_pushed(&self) -> bool {
        self.to_push.is_empty()
    }

    /// Hands an arbitrary body to the keeper as one event of a transaction.
    pub fn push_raw(&mut self, event: Value) {
        self.to_push.push_back(event);
    }
}

/// The server part of a user id.
pub fn server_of(user_id: &str) -> &str {
    user_id.split_once(':').map_or("", |(_, server)| server)
}
