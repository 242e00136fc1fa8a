//! Uploaded files, and the history that somebody reads who was invited (MSC4268).

use std::io::{Cursor, Read as _};

use matrix_sdk_crypto::{AttachmentDecryptor, AttachmentEncryptor, MediaEncryptionInfo};
use serde_json::{Value, json};
use vodozemac::megolm::{
    ExportedSessionKey, InboundGroupSession, MegolmMessage, SessionConfig as MegolmConfig,
};

use super::{
    builder::{DeviceRef, RoomRef},
    http::Reply,
    world::World,
};

/// What a bundle says.
pub struct Bundle {
    /// Where it was fetched.
    pub url: String,
    /// The whole of it, decrypted.
    pub content: Value,
    /// The clock when the device heard of it.
    pub tick: u64,
}

impl Bundle {
    /// Which sessions it opens.
    pub fn sessions(&self) -> Vec<String> {
        let keys = self.content["room_keys"].as_array().into_iter().flatten();
        keys.filter_map(|key| Some(key["session_id"].as_str()?.to_owned())).collect()
    }

    /// What an event says to whoever has this bundle.
    ///
    /// # Errors
    /// Why it stays closed.
    pub fn open(&self, content: &Value) -> Result<Value, String> {
        let keys = self.content["room_keys"].as_array().ok_or("no keys")?;
        let key = keys
            .iter()
            .find(|key| key["session_id"] == content["session_id"])
            .ok_or("its session is not in the bundle")?;
        let key = key["session_key"].as_str().ok_or("no session_key")?;
        let key = ExportedSessionKey::from_base64(key).map_err(|e| e.to_string())?;
        let mut session = InboundGroupSession::import(&key, MegolmConfig::version_1());
        let ciphertext = content["ciphertext"].as_str().ok_or("no ciphertext")?;
        let message = MegolmMessage::from_base64(ciphertext).map_err(|e| e.to_string())?;
        let opened = session.decrypt(&message).map_err(|e| e.to_string())?;
        serde_json::from_slice(&opened.plaintext).map_err(|e| e.to_string())
    }
}

impl World {
    pub(super) fn remove_file(&mut self, id: &str) -> Reply {
        if !self.keeper_is_administrator {
            return Reply::forbidden("You are not a server admin");
        }
        match self.files.remove(id) {
            Some(_) => Reply::ok(json!({ "deleted_media": [id], "total": 1 })),
            None => Reply::not_found("Unknown media"),
        }
    }

    /// The last bundle of a room that the keeper told a device of, as it can be fetched now.
    ///
    /// # Panics
    /// When it cannot be decrypted.
    pub fn bundle(&mut self, device: (&str, &str), room_id: &str) -> Option<Bundle> {
        let keeper = self.keeper();
        let told = self.read_inbox(device.0, device.1).received.iter().rev().find(|event| {
            event.event_type == "m.room_key_bundle"
                && event.sender == keeper
                && event.content["room_id"] == room_id
        })?;
        let (tick, file) = (told.tick, told.content["file"].clone());
        let url = file["url"].as_str()?.to_owned();
        let encrypted = self.files.get(url.strip_prefix("mxc://localhost/")?)?;
        let info: MediaEncryptionInfo = serde_json::from_value(file).expect("an encrypted file");
        let mut encrypted = Cursor::new(encrypted);
        let mut decryptor = AttachmentDecryptor::new(&mut encrypted, info).expect("a v2 file");
        let mut plain = Vec::new();
        decryptor.read_to_end(&mut plain).expect("the hash is right");
        let content = serde_json::from_slice(&plain).expect("a bundle is JSON");
        Some(Bundle { url, content, tick })
    }
}

impl DeviceRef {
    /// The last bundle of a room that the keeper told this device of.
    pub fn bundle(&self, room: &RoomRef) -> Option<Bundle> {
        self.sim.with(|world| world.bundle(self.id(), &room.room_id))
    }

    /// Whether this device reads a message with the bundle that it was told of.
    pub fn reads_history(&self, room: &RoomRef, event_id: &str) -> bool {
        self.sim.with(|world| {
            let event = world.room(&room.room_id).event(event_id).cloned();
            let bundle = world.bundle(self.id(), &room.room_id);
            let opened = event.zip(bundle).map(|(event, bundle)| bundle.open(event.sent_content()));
            opened.is_some_and(|opened| opened.is_ok())
        })
    }

    /// Tells the keeper of a bundle with all of this device's keys of a room, as a client does that invites it.
    pub fn give_history(&self, room: &RoomRef) {
        self.sim.change(|world| {
            let device = world.device_mut(&self.user_id, &self.device_id);
            let peer = device.peer();
            let of_room = device.room_keys.iter().filter(|((of, _), _)| *of == room.room_id);
            let keys: Vec<Value> = of_room
                .map(|((_, session_id), key)| {
                    json!({
                        "algorithm": "m.megolm.v1.aes-sha2", "room_id": room.room_id,
                        "session_id": session_id, "sender_key": peer.curve25519,
                        "session_key": key.session.export_at_first_known_index().to_base64(),
                        "sender_claimed_keys": { "ed25519": peer.ed25519 },
                    })
                })
                .collect();
            let bundle = json!({ "room_keys": keys, "withheld": [] }).to_string();
            let mut plain = Cursor::new(bundle.as_bytes());
            let mut encryptor = AttachmentEncryptor::new(&mut plain);
            let mut file = Vec::new();
            encryptor.read_to_end(&mut file).expect("it is in memory");
            let mut content = serde_json::to_value(encryptor.finish()).expect("it is JSON");
            content["url"] = json!("mxc://localhost/given");
            world.files.insert("given".to_owned(), file);
            let content = json!({ "room_id": room.room_id, "file": content });
            world.send_olm_to_keeper(self.id(), "m.room_key_bundle", &content);
        });
    }

    /// Gives the keeper a session that is not marked as shared history, and sends a message under it. The event's id.
    pub fn send_unshared(&self, room: &RoomRef, body: &str) -> String {
        self.rotate(room);
        self.sim.change(|world| {
            let peer = world.keeper_peer().expect("the keeper has published its device");
            let device = world.device_mut(&self.user_id, &self.device_id);
            let mut content = device.room_key_content(&room.room_id);
            content["org.matrix.msc3061.shared_history"] = json!(false);
            let shared = &mut device.outbound(&room.room_id).shared_with;
            shared.push((peer.user_id, peer.device_id));
            world.send_olm_to_keeper(self.id(), "m.room_key", &content);
        });
        self.send_message(room, body)
    }
}
