//! The fluent way to people, devices and rooms.

use serde_json::{Value, json};

use super::{
    crypto::Trust,
    device::{Peer, SimDevice},
    room::Room,
    sim::{Sim, device_name, full_user_id},
    world::World,
};

/// A user in the making; [`UserBuilder::create`] ends it.
pub struct UserBuilder {
    sim: Sim,
    user_id: String,
    trust: Trust,
    devices: usize,
    has_one_time_keys: bool,
}

/// A user.
#[derive(Clone)]
pub struct UserRef {
    pub sim: Sim,
    pub user_id: String,
}

/// A simulated device.
#[derive(Clone)]
pub struct DeviceRef {
    pub sim: Sim,
    pub user_id: String,
    pub device_id: String,
}

impl UserBuilder {
    pub(super) fn new(sim: Sim, name: &str) -> Self {
        Self {
            sim,
            user_id: full_user_id(name),
            trust: Trust::CrossSigned,
            devices: 1,
            has_one_time_keys: true,
        }
    }

    /// Do the user's devices carry the owner's signature? They do unless told otherwise.
    #[must_use]
    pub const fn cross_signed(mut self, yes: bool) -> Self {
        self.trust = if yes { Trust::CrossSigned } else { Trust::Unsigned };
        self
    }

    /// How far the user's devices are vouched for.
    #[must_use]
    pub const fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// How many devices the user has; one unless told otherwise.
    #[must_use]
    pub const fn devices(mut self, devices: usize) -> Self {
        self.devices = devices;
        self
    }

    /// The devices have neither one-time keys nor a fallback key left.
    #[must_use]
    pub const fn without_one_time_keys(mut self) -> Self {
        self.has_one_time_keys = false;
        self
    }

    /// The user comes into being.
    pub fn create(self) -> UserRef {
        let Self { sim, user_id, trust, devices, has_one_time_keys } = self;
        sim.change(|world| {
            world.user_mut(&user_id).registered = true;
            if trust != Trust::Unsigned {
                world.create_identity(&user_id);
            }
            for number in 1..=devices {
                let device_id = device_name(&user_id, number);
                world.add_device(&user_id, &device_id, trust);
                world.device_mut(&user_id, &device_id).has_one_time_keys = has_one_time_keys;
            }
        });
        UserRef { sim, user_id }
    }
}

impl UserRef {
    /// The n-th device, counted from 1.
    pub fn device(&self, number: usize) -> DeviceRef {
        self.sim.device(&self.user_id, number)
    }
}

impl UserRef {
    /// The user loses all cross-signing keys, makes new ones and signs every device with them.
    pub fn reset_identity(&self) {
        self.sim.change(|world| {
            world.user_mut(&self.user_id).identity = None;
            world.create_identity(&self.user_id);
            let user = world.user_mut(&self.user_id);
            if let Some(identity) = user.identity.as_ref() {
                user.devices.values_mut().for_each(|device| device.cross_sign(identity));
            }
            world.devices_changed(&self.user_id);
        });
    }
}

impl World {
    /// Logs a device in, without saying so to anybody.
    pub fn add_device(&mut self, user_id: &str, device_id: &str, trust: Trust) {
        if trust != Trust::Unsigned {
            self.create_identity(user_id);
        }
        let user = self.user_mut(user_id);
        let device = SimDevice::new(user_id, device_id, user.identity.as_ref(), trust);
        user.devices.insert(device_id.to_owned(), device);
    }

    /// What is needed for writing to the keeper's device; `None` before it published its keys.
    pub fn keeper_peer(&self) -> Option<Peer> {
        let keeper = self.keeper();
        let (device_id, device) =
            self.users.get(&keeper)?.uploaded.iter().find(|(_, device)| device.keys.is_some())?;
        let keys = device.keys.as_ref()?;
        let key = |algorithm: &str| {
            Some(keys["keys"][format!("{algorithm}:{device_id}")].as_str()?.to_owned())
        };
        Some(Peer {
            user_id: keeper.clone(),
            device_id: device_id.clone(),
            curve25519: key("curve25519")?,
            ed25519: key("ed25519")?,
        })
    }

    /// Sends an Olm-encrypted to-device event from a simulated device to the keeper's.
    ///
    /// # Panics
    /// When the keeper has not published its device, or has no key left to claim.
    pub fn send_olm_to_keeper(
        &mut self,
        (user_id, device_id): (&str, &str),
        event_type: &str,
        content: &Value,
    ) {
        let peer = self.keeper_peer().expect("the keeper has published its device");
        let key = match self.device_mut(user_id, device_id).has_session_with(&peer) {
            true => None,
            false => self
                .claim_one(&peer.user_id, &peer.device_id)
                .and_then(|(_, key)| Some(key["key"].as_str()?.to_owned())),
        };
        let encrypted = self
            .device_mut(user_id, device_id)
            .encrypt_olm(&peer, || key, event_type, content)
            .expect("the keeper has a one-time or a fallback key");
        let recipient = (peer.user_id.as_str(), peer.device_id.as_str());
        self.send_to_device(user_id, "m.room.encrypted", recipient, &encrypted);
    }

    /// Shares a simulated device's session in a room with the keeper, once.
    pub fn share_with_keeper(&mut self, user_id: &str, device_id: &str, room_id: &str) {
        let peer = self.keeper_peer().expect("the keeper has published its device");
        let device = self.device_mut(user_id, device_id);
        let content = device.room_key_content(room_id);
        let recipient = (peer.user_id, peer.device_id);
        let shared = &mut device.outbound(room_id).shared_with;
        if shared.contains(&recipient) {
            return;
        }
        shared.push(recipient);
        self.send_olm_to_keeper((user_id, device_id), "m.room_key", &content);
    }
}

impl DeviceRef {
    /// Encrypts state under this device's own session: the `m.room.encrypted` content. The session
    /// is shared with the keeper if it has a device.
    pub fn seal(&self, room: &RoomRef, tuple: (&str, &str), content: &Value) -> Value {
        self.seal_payload(
            room,
            &json!({
                "type": tuple.0, "state_key": tuple.1, "content": content, "room_id": room.room_id,
            }),
        )
    }

    /// Encrypts any payload under this device's own session.
    pub fn seal_payload(&self, room: &RoomRef, payload: &Value) -> Value {
        self.sim.change(|world| {
            if world.keeper_peer().is_some() {
                world.share_with_keeper(&self.user_id, &self.device_id, &room.room_id);
            }
            world.device_mut(&self.user_id, &self.device_id).encrypt_megolm(&room.room_id, payload)
        })
    }

    /// Sends state as a stock client in an encrypted-state room does. The event's id.
    pub fn send_state(&self, room: &RoomRef, tuple: (&str, &str), content: &Value) -> String {
        let sealed = self.seal(room, tuple, content);
        let packed = format!("{}:{}", tuple.0, tuple.1);
        room.put_state(&self.user_id, ("m.room.encrypted", &packed), sealed)
    }

    /// Sets the room's name as a stock client does.
    pub fn rename(&self, room: &RoomRef, name: &str) -> String {
        self.send_state(room, ("m.room.name", ""), &json!({ "name": name }))
    }

    /// Sends a message as a stock client does: under the same session as its state. The event's id.
    pub fn send_message(&self, room: &RoomRef, body: &str) -> String {
        let payload = json!({
            "type": "m.room.message", "room_id": room.room_id,
            "content": { "msgtype": "m.text", "body": body },
        });
        let sealed = self.seal_payload(room, &payload);
        let kind = ("m.room.encrypted", None);
        self.sim.change(|world| world.append(&room.room_id, &self.user_id, kind, sealed))
    }

    /// Starts a new session in a room: what a stock client does after a departure.
    pub fn rotate(&self, room: &RoomRef) {
        self.sim.with(|world| {
            world.device_mut(&self.user_id, &self.device_id).outbound.remove(&room.room_id);
        });
    }

    /// Lets the owner sign this device.
    pub fn lose_signature(&self) {
        self.sim.change(|world| {
            let device = world.user_mut(&self.user_id).devices.get_mut(&self.device_id);
            device.expect("it is there").lose_signature();
            world.devices_changed(&self.user_id);
        });
    }

    /// Lets the owner sign a device that was logged in before.
    pub fn cross_sign(&self) {
        self.sim.change(|world| {
            world.create_identity(&self.user_id);
            let user = world.user_mut(&self.user_id);
            if let (Some(identity), Some(device)) =
                (user.identity.as_ref(), user.devices.get_mut(&self.device_id))
            {
                device.cross_sign(identity);
            }
            world.devices_changed(&self.user_id);
        });
    }
}

/// A room in the making; [`RoomBuilder::create`] ends it.
pub struct RoomBuilder {
    sim: Sim,
    version: String,
    creator: String,
    keeper_power: Option<i64>,
    members: usize,
    first_member: usize,
    encrypted_state: bool,
    is_public: bool,
    room_type: Option<&'static str>,
    predecessor: Option<String>,
    lets_in: Vec<String>,
    encrypted_power: i64,
    state: Vec<(String, String, Value)>,
}

/// A room.
#[derive(Clone)]
pub struct RoomRef {
    pub sim: Sim,
    pub room_id: String,
    pub creator: String,
}

impl RoomBuilder {
    pub(super) fn new(sim: Sim) -> Self {
        Self {
            sim,
            version: "11".to_owned(),
            creator: full_user_id("alice"),
            keeper_power: None,
            members: 0,
            first_member: 1,
            encrypted_state: true,
            is_public: true,
            room_type: None,
            predecessor: None,
            lets_in: Vec::new(),
            encrypted_power: 50,
            state: Vec::new(),
        }
    }

    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    #[must_use]
    pub fn creator(mut self, name: &str) -> Self {
        self.creator = full_user_id(name);
        self
    }

    /// The keeper is a member of the room from its beginning, with this power.
    #[must_use]
    pub const fn keeper_power(mut self, power: i64) -> Self {
        self.keeper_power = Some(power);
        self
    }

    /// So many further members, each with one cross-signed device: `m1`, `m2` and so on, the same
    /// people in each room.
    #[must_use]
    pub const fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// The members are numbered from here on instead of from 1.
    #[must_use]
    pub const fn members_from(mut self, first: usize) -> Self {
        self.first_member = first;
        self
    }

    #[must_use]
    pub const fn encrypted_state(mut self, yes: bool) -> Self {
        self.encrypted_state = yes;
        self
    }

    #[must_use]
    pub const fn invite_only(mut self) -> Self {
        self.is_public = false;
        self
    }

    /// A space: nothing in it is encrypted.
    #[must_use]
    pub const fn space(mut self) -> Self {
        self.room_type = Some("m.space");
        self.encrypted_state = false;
        self
    }

    /// The room lets in the members of these, and nobody else.
    #[must_use]
    pub fn restricted_to(mut self, rooms: &[&str]) -> Self {
        self.lets_in = rooms.iter().map(|room| (*room).to_owned()).collect();
        self
    }

    /// The room says that it goes on with this one.
    #[must_use]
    pub fn predecessor(mut self, room_id: &str) -> Self {
        self.predecessor = Some(room_id.to_owned());
        self
    }

    /// The power for sending `m.room.encrypted`, messages and state alike.
    #[must_use]
    pub const fn encrypted_power(mut self, power: i64) -> Self {
        self.encrypted_power = power;
        self
    }

    /// Plain state that stands in the room from its beginning.
    #[must_use]
    pub fn state(mut self, tuple: (&str, &str), content: Value) -> Self {
        self.state.push((tuple.0.to_owned(), tuple.1.to_owned(), content));
        self
    }

    /// The room comes into being, before the keeper hears of anything.
    pub fn create(self) -> RoomRef {
        let sim = self.sim.clone();
        let creator = self.creator.clone();
        let members: Vec<String> = (self.first_member..self.first_member + self.members)
            .map(|number| format!("@m{number}:localhost"))
            .collect();
        let room_id = sim.change(|world| self.build(world, &members));
        RoomRef { sim, room_id, creator }
    }

    fn build(self, world: &mut World, members: &[String]) -> String {
        let queued = world.to_push.len();
        let (noted, left) = (world.device_changes.len(), world.device_left.len());
        let keeper = world.keeper();
        let room_id = format!("!room{}:localhost", world.tick());
        world.rooms.insert(room_id.clone(), Room::new(&room_id, &self.version, &self.creator));
        let mut create = json!({ "room_version": self.version });
        if let Some(room_type) = self.room_type {
            create["type"] = json!(room_type);
        }
        if let Some(predecessor) = &self.predecessor {
            create["predecessor"] = json!({ "room_id": predecessor });
        }
        world.append(&room_id, &self.creator, ("m.room.create", Some("")), create);
        world.set_membership(&room_id, &self.creator, &self.creator, "join");
        for (event_type, state_key, content) in self.initial_state(&keeper) {
            world.append(&room_id, &self.creator, (&event_type, Some(&state_key)), content);
        }
        for member in members {
            if world.users.get(member).is_none_or(|user| user.devices.is_empty()) {
                world.user_mut(member).registered = true;
                world.add_device(member, &device_name(member, 1), Trust::CrossSigned);
            }
            world.set_membership(&room_id, member, member, "join");
        }
        if self.keeper_power.is_some() {
            world.user_mut(&keeper);
            world.set_membership(&room_id, &keeper, &keeper, "join");
            // It was always there: nothing of this is news to the keeper.
            world.to_push.truncate(queued);
            world.device_changes.truncate(noted);
            world.device_left.truncate(left);
        }
        room_id
    }

    fn initial_state(&self, keeper: &str) -> Vec<(String, String, Value)> {
        let mut users = serde_json::Map::new();
        if self.version != "12" {
            users.insert(self.creator.clone(), json!(100));
        }
        if let Some(power) = self.keeper_power {
            users.insert(keeper.to_owned(), json!(power));
        }
        let levels = json!({
            "users": users, "users_default": 0, "state_default": 50, "events_default": 0,
            "ban": 50, "kick": 50, "redact": 50, "invite": 0,
            "events": {
                "m.room.name": 50, "m.room.avatar": 50, "m.room.power_levels": 100,
                "m.room.encrypted": self.encrypted_power, "m.room.history_visibility": 100,
                "m.room.encryption": 100,
            },
        });
        let join_rule = match (self.lets_in.is_empty(), self.is_public) {
            (false, _) => restricted(self.lets_in.iter().map(String::as_str)),
            (true, true) => json!({ "join_rule": "public" }),
            (true, false) => json!({ "join_rule": "invite" }),
        };
        let mut state = vec![
            ("m.room.power_levels", levels),
            ("m.room.join_rules", join_rule),
            ("m.room.history_visibility", json!({ "history_visibility": "shared" })),
        ];
        if self.encrypted_state {
            state.push(("m.room.encryption", encryption()));
        }
        let standard =
            state.into_iter().map(|(kind, content)| (kind.to_owned(), String::new(), content));
        standard.chain(self.state.clone()).collect()
    }
}

/// The join rule that lets in the members of these rooms.
pub fn restricted<'r>(rooms: impl Iterator<Item = &'r str>) -> Value {
    let allow: Vec<Value> =
        rooms.map(|room| json!({ "type": "m.room_membership", "room_id": room })).collect();
    json!({ "join_rule": "restricted", "allow": allow })
}

fn encryption() -> Value {
    json!({
        "algorithm": "m.megolm.v1.aes-sha2",
        "encrypt_state_events": true,
        "io.element.msc4362.encrypt_state_events": true,
    })
}

impl RoomRef {
    /// Sends state under the room's rules. The event's id.
    ///
    /// # Panics
    /// When the rules refuse it: a mistake in the test.
    pub fn put_state(&self, sender: &str, tuple: (&str, &str), content: Value) -> String {
        let sender = full_user_id(sender);
        self.sim
            .change(|world| world.put_state(&self.room_id, &sender, tuple, content))
            .unwrap_or_else(|reason| panic!("the room refuses {tuple:?}: {reason}"))
    }

    /// Writes a membership, whatever the room's rules say.
    pub fn membership(&self, sender: &str, user_id: &str, membership: &str) {
        let (sender, user_id) = (full_user_id(sender), full_user_id(user_id));
        self.sim.change(|world| {
            world.set_membership(&self.room_id, &sender, &user_id, membership);
        });
    }

    /// The creator invites somebody.
    pub fn invite(&self, user_id: &str) {
        self.membership(&self.creator, user_id, "invite");
    }

    /// Somebody leaves.
    pub fn leave(&self, user_id: &str) {
        self.membership(user_id, user_id, "leave");
    }

    /// Changes one user's power.
    pub fn set_power(&self, user_id: &str, power: i64) {
        let user_id = full_user_id(user_id);
        self.sim.change(|world| {
            let levels = world.room(&self.room_id).current("m.room.power_levels", "");
            let mut content = levels.map_or(json!({}), |event| event.content.clone());
            content["users"][user_id] = json!(power);
            let tuple = ("m.room.power_levels", Some(""));
            world.append(&self.room_id, &self.creator, tuple, content);
        });
    }

    /// The creator redacts an event.
    pub fn redact(&self, event_id: &str) {
        self.sim.change(|world| world.redact(&self.room_id, &self.creator, event_id));
    }
}
