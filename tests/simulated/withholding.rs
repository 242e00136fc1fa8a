//! Members who keep the key of their session from the keeper, and those who are asked for it.

use serde_json::{Value, json};
use vodozemac::{Curve25519PublicKey, megolm::InboundGroupSession};

use super::{
    builder::{DeviceRef, RoomRef},
    device::{Received, RoomKey},
    world::World,
};

/// What an `m.room_key_request` of the keeper's said.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    pub action: String,
    pub request_id: String,
    pub session_id: Option<String>,
    /// The clock when it came.
    pub tick: u64,
}

impl Asked {
    fn of(event: &Received) -> Option<Self> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        (event.event_type == "m.room_key_request").then(|| Self {
            action: text(&event.content["action"]).unwrap_or_default(),
            request_id: text(&event.content["request_id"]).unwrap_or_default(),
            session_id: text(&event.content["body"]["session_id"]),
            tick: event.tick,
        })
    }
}

impl World {
    /// What the keeper has asked a device, in order.
    pub fn asked_of(&mut self, device: &DeviceRef) -> Vec<Asked> {
        let inbox = self.read_inbox(&device.user_id, &device.device_id);
        inbox.received.iter().filter_map(Asked::of).collect()
    }
}

impl DeviceRef {
    /// Encrypts from now on under a session in the room that the keeper is not given.
    pub fn withhold(&self, room: &RoomRef) {
        self.rotate(room);
        self.sim.with(|world| {
            let peer = world.keeper_peer().expect("the keeper has published its device");
            let device = world.device_mut(&self.user_id, &self.device_id);
            device.outbound(&room.room_id).shared_with.push((peer.user_id, peer.device_id));
        });
    }

    /// Gives the key of this device's session to another member's, from its beginning.
    pub fn give_key_to(&self, room: &RoomRef, to: &DeviceRef) {
        self.sim.with(|world| {
            let (id, key) = {
                let device = world.device_mut(&self.user_id, &self.device_id);
                let session_id = device.outbound(&room.room_id).session.session_id();
                let id = (room.room_id.clone(), session_id);
                let held = &device.room_keys[&id].session;
                (id, InboundGroupSession::from_pickle(held.pickle()))
            };
            let (creator, content) = (self.user_id.clone(), Value::Null);
            let key = RoomKey { session: key, creator, content, tick: 0 };
            world.device_mut(&to.user_id, &to.device_id).room_keys.insert(id, key);
        });
    }

    /// What the keeper has asked this device.
    pub fn asked(&self) -> Vec<Asked> {
        self.sim.with(|world| world.asked_of(self))
    }

    /// Sends an `m.room_key` of its own session: what a maker answers.
    pub fn answer_as_maker(&self, room: &RoomRef) {
        self.sim.change(|world| {
            let device = world.device_mut(&self.user_id, &self.device_id);
            let content = device.room_key_content(&room.room_id);
            world.send_olm_to_keeper(self.id(), "m.room_key", &content);
        });
    }

    /// The `m.forwarded_room_key` content for the session of `maker` in a room, from `index` on, as this device
    /// holds it.
    pub fn forwarded_key(&self, room: &RoomRef, maker: &DeviceRef, index: u32) -> Value {
        self.sim.with(|world| {
            let peer = world.device_mut(&maker.user_id, &maker.device_id).peer();
            let session_id = {
                let device = world.device_mut(&maker.user_id, &maker.device_id);
                device.outbound(&room.room_id).session.session_id()
            };
            let device = world.device_mut(&self.user_id, &self.device_id);
            let held = device.room_keys.get_mut(&(room.room_id.clone(), session_id.clone()));
            let key = held.expect("it holds the key").session.export_at(index).expect("the index");
            json!({
                "algorithm": "m.megolm.v1.aes-sha2", "room_id": room.room_id,
                "session_id": session_id, "session_key": key.to_base64(),
                "sender_key": peer.curve25519, "sender_claimed_ed25519_key": peer.ed25519,
                "forwarding_curve25519_key_chain": [],
            })
        })
    }

    /// Sends an `m.forwarded_room_key` to the keeper.
    pub fn forward(&self, content: &Value) {
        self.sim
            .change(|world| world.send_olm_to_keeper(self.id(), "m.forwarded_room_key", content));
    }
}

/// A Curve25519 key that is nobody's.
pub fn nobodys_key() -> String {
    Curve25519PublicKey::from([9; 32]).to_base64()
}
