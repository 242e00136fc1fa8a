//! A simulated device: an Olm account, the room keys that it was given, and the Megolm sessions
//! with which it speaks itself.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use vodozemac::{
    Curve25519PublicKey, Ed25519SecretKey,
    megolm::{
        ExportedSessionKey, GroupSession, InboundGroupSession, SessionConfig as MegolmConfig,
        SessionKey,
    },
    olm::{Account, OlmMessage, Session, SessionConfig},
};

use super::crypto::{Identity, Trust, sign_json};

const OLM: &str = "m.olm.v1.curve25519-aes-sha2";
const MEGOLM: &str = "m.megolm.v1.aes-sha2";

/// A room key that a device holds.
pub struct RoomKey {
    /// Opens messages from the index at which it was shared.
    pub session: InboundGroupSession,
    /// Whose session it is: the sender of the `m.room_key`.
    pub creator: String,
    /// The whole content of the `m.room_key` that brought it.
    pub content: Value,
    /// The clock when it came; 0 for the device's own sessions.
    pub tick: u64,
}

/// The keys of the device at the other end of an Olm channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub user_id: String,
    pub device_id: String,
    pub curve25519: String,
    pub ed25519: String,
}

/// A to-device event after decryption.
#[derive(Clone, Debug)]
pub struct Received {
    pub sender: String,
    pub event_type: String,
    pub content: Value,
    /// The clock when the homeserver accepted it.
    pub tick: u64,
}

/// A session under which this device encrypts.
pub struct Outbound {
    pub session: GroupSession,
    /// What other devices were given: the session from its first index.
    pub session_key: String,
    pub shared_with: Vec<(String, String)>,
}

/// A device of a simulated user.
pub struct SimDevice {
    pub user_id: String,
    pub device_id: String,
    pub trust: Trust,
    account: Account,
    /// Signed device keys, as `/keys/query` shows them.
    pub keys: Value,
    /// False: `/keys/claim` has nothing for this device.
    pub has_one_time_keys: bool,
    sessions: HashMap<String, Vec<Session>>,
    pub room_keys: BTreeMap<(String, String), RoomKey>,
    /// Keys from `m.forwarded_room_key`, apart from the others: stock clients drop them.
    pub forwarded_keys: BTreeMap<(String, String), RoomKey>,
    pub received: Vec<Received>,
    /// To-device events that could not be read, with the reason.
    pub unreadable: Vec<String>,
    pub outbound: HashMap<String, Outbound>,
}

impl SimDevice {
    /// A device with fresh keys, vouched for as `trust` says.
    pub fn new(user_id: &str, device_id: &str, identity: Option<&Identity>, trust: Trust) -> Self {
        let account = Account::new();
        let keys = signed_keys(&account, user_id, device_id, identity, trust);
        Self {
            user_id: user_id.to_owned(),
            device_id: device_id.to_owned(),
            trust,
            account,
            keys,
            has_one_time_keys: true,
            sessions: HashMap::new(),
            room_keys: BTreeMap::new(),
            forwarded_keys: BTreeMap::new(),
            received: Vec::new(),
            unreadable: Vec::new(),
            outbound: HashMap::new(),
        }
    }

    /// Lets the owner sign a device that was logged in before.
    pub fn cross_sign(&mut self, identity: &Identity) {
        identity.sign_device(&mut self.keys);
        self.trust = Trust::CrossSigned;
    }

    /// Takes its owner's signature away.
    pub fn lose_signature(&mut self) {
        let own = format!("ed25519:{}", self.device_id);
        let signatures = self.keys["signatures"][&self.user_id].as_object_mut();
        signatures.expect("it is signed").retain(|key, _| *key == own);
        self.trust = Trust::Unsigned;
    }

    /// This device's Curve25519 identity key, unpadded base64.
    pub fn curve25519(&self) -> String {
        self.account.curve25519_key().to_base64()
    }

    /// What another device needs for writing to this one.
    pub fn peer(&self) -> Peer {
        Peer {
            user_id: self.user_id.clone(),
            device_id: self.device_id.clone(),
            curve25519: self.curve25519(),
            ed25519: self.account.ed25519_key().to_base64(),
        }
    }

    /// A fresh signed one-time key, made when somebody claims it: thousands of devices cost
    /// nothing until then.
    pub fn claim_one_time_key(&mut self) -> Option<(String, Value)> {
        if !self.has_one_time_keys {
            return None;
        }
        self.account.generate_one_time_keys(1);
        let (id, key) = self.account.one_time_keys().into_iter().next()?;
        self.account.mark_keys_as_published();
        let mut signed = json!({ "key": key.to_base64() });
        self.sign(&mut signed);
        Some((format!("signed_curve25519:{}", id.to_base64()), signed))
    }

    /// Opens a to-device event and keeps what it says; an unreadable one is kept as a complaint.
    pub fn receive(&mut self, sender: &str, event_type: &str, content: &Value, tick: u64) {
        if event_type != "m.room.encrypted" {
            let event_type = event_type.to_owned();
            let (sender, content) = (sender.to_owned(), content.clone());
            self.received.push(Received { sender, event_type, content, tick });
            return;
        }
        match self.open_olm(sender, content) {
            Ok(payload) => self.accept(sender, &payload, tick),
            Err(reason) => self.unreadable.push(format!("from {sender}: {reason}")),
        }
    }

    fn open_olm(&mut self, sender: &str, content: &Value) -> Result<Value, String> {
        let own_key = self.curve25519();
        let sender_key = content["sender_key"].as_str().ok_or("no sender_key")?;
        let ciphertext = content["ciphertext"].get(&own_key).ok_or("not for this device's key")?;
        let message: OlmMessage =
            serde_json::from_value(ciphertext.clone()).map_err(|e| e.to_string())?;
        let plaintext = self.decrypt_olm(sender_key, &message)?;
        let payload: Value = serde_json::from_slice(&plaintext).map_err(|e| e.to_string())?;
        self.check_binding(sender, &payload)?;
        Ok(payload)
    }

    fn decrypt_olm(&mut self, sender_key: &str, message: &OlmMessage) -> Result<Vec<u8>, String> {
        let sessions = self.sessions.entry(sender_key.to_owned()).or_default();
        for session in sessions.iter_mut() {
            if let Ok(plaintext) = session.decrypt(message) {
                return Ok(plaintext);
            }
        }
        let OlmMessage::PreKey(pre_key) = message else {
            return Err("no Olm session opens it".to_owned());
        };
        let identity = Curve25519PublicKey::from_base64(sender_key).map_err(|e| e.to_string())?;
        let created = self
            .account
            .create_inbound_session(SessionConfig::version_1(), identity, pre_key)
            .map_err(|e| e.to_string())?;
        sessions.insert(0, created.session);
        Ok(created.plaintext)
    }

    /// The checks of the specification's section on `m.olm.v1.curve25519-aes-sha2`.
    fn check_binding(&self, sender: &str, payload: &Value) -> Result<(), String> {
        let own = self.account.ed25519_key().to_base64();
        if payload["sender"] != json!(sender) {
            return Err(format!("sender is {} inside", payload["sender"]));
        }
        if payload["recipient"] != json!(self.user_id) {
            return Err(format!("recipient is {}", payload["recipient"]));
        }
        if payload["recipient_keys"]["ed25519"] != json!(own) {
            return Err("recipient_keys are another device's".to_owned());
        }
        Ok(())
    }

    fn accept(&mut self, sender: &str, payload: &Value, tick: u64) {
        let event_type = payload["type"].as_str().unwrap_or_default().to_owned();
        let content = payload["content"].clone();
        match event_type.as_str() {
            "m.room_key" => self.accept_room_key(sender, &content, tick),
            "m.forwarded_room_key" => self.accept_forwarded_key(sender, &content, tick),
            _ => {}
        }
        self.received.push(Received { sender: sender.to_owned(), event_type, content, tick });
    }

    fn accept_room_key(&mut self, sender: &str, content: &Value, tick: u64) {
        let (Some(room_id), Some(session_id), Some(key)) = (
            content["room_id"].as_str(),
            content["session_id"].as_str(),
            content["session_key"].as_str(),
        ) else {
            self.unreadable.push(format!("m.room_key without its fields from {sender}"));
            return;
        };
        let Ok(key) = SessionKey::from_base64(key) else {
            self.unreadable.push(format!("m.room_key with a bad session_key from {sender}"));
            return;
        };
        let session = InboundGroupSession::new(&key, MegolmConfig::version_1());
        if session.session_id() != session_id {
            self.unreadable.push(format!("m.room_key under another session's id from {sender}"));
            return;
        }
        let id = (room_id.to_owned(), session_id.to_owned());
        let known = self.room_keys.get(&id).map(|k| k.session.first_known_index());
        if known.is_none_or(|index| session.first_known_index() < index) {
            let creator = sender.to_owned();
            self.room_keys.insert(id, RoomKey { session, creator, content: content.clone(), tick });
        }
    }

    /// Keeps a forwarded key as a client that asked for it does, be the forwarder whoever he is.
    fn accept_forwarded_key(&mut self, sender: &str, content: &Value, tick: u64) {
        let field = |name: &str| content[name].as_str().map(str::to_owned);
        let (Some(room_id), Some(session_id), Some(key)) =
            (field("room_id"), field("session_id"), field("session_key"))
        else {
            self.unreadable.push(format!("m.forwarded_room_key without its fields from {sender}"));
            return;
        };
        let Ok(key) = ExportedSessionKey::from_base64(&key) else {
            self.unreadable.push(format!("m.forwarded_room_key with a bad key from {sender}"));
            return;
        };
        let session = InboundGroupSession::import(&key, MegolmConfig::version_1());
        if session.session_id() != session_id {
            self.unreadable.push(format!("m.forwarded_room_key of another session from {sender}"));
            return;
        }
        let (creator, content) = (sender.to_owned(), content.clone());
        let key = RoomKey { session, creator, content, tick };
        self.forwarded_keys.insert((room_id, session_id), key);
    }

    /// Forgets the Olm sessions with a device: what is encrypted for it next opens a new one.
    pub fn forget_sessions_with(&mut self, peer: &Peer) {
        self.sessions.remove(&peer.curve25519);
    }

    /// Is there an Olm session with this device?
    pub fn has_session_with(&self, peer: &Peer) -> bool {
        self.sessions.get(&peer.curve25519).is_some_and(|sessions| !sessions.is_empty())
    }

    /// Encrypts a to-device event for `peer`, over the newest session or one made from the claimed
    /// key (Curve25519, base64).
    pub fn encrypt_olm(
        &mut self,
        peer: &Peer,
        one_time_key: impl FnOnce() -> Option<String>,
        event_type: &str,
        content: &Value,
    ) -> Option<Value> {
        let payload = json!({
            "sender": self.user_id,
            "sender_device": self.device_id,
            "keys": { "ed25519": self.account.ed25519_key().to_base64() },
            "recipient": peer.user_id,
            "recipient_keys": { "ed25519": peer.ed25519 },
            "sender_device_keys": self.keys,
            "type": event_type,
            "content": content,
        });
        let sessions = self.sessions.entry(peer.curve25519.clone()).or_default();
        if sessions.is_empty() {
            let identity = Curve25519PublicKey::from_base64(&peer.curve25519).ok()?;
            let key = Curve25519PublicKey::from_base64(&one_time_key()?).ok()?;
            let config = SessionConfig::version_1();
            sessions.push(self.account.create_outbound_session(config, identity, key).ok()?);
        }
        let message = sessions.first_mut()?.encrypt(payload.to_string()).ok()?;
        Some(json!({
            "algorithm": OLM,
            "sender_key": self.account.curve25519_key().to_base64(),
            "ciphertext": { peer.curve25519.clone(): message },
        }))
    }

    /// The session for messages and state in a room, as a stock client has it: one for both.
    pub fn outbound(&mut self, room_id: &str) -> &mut Outbound {
        let own = (self.user_id.clone(), self.device_id.clone());
        let room_keys = &mut self.room_keys;
        self.outbound.entry(room_id.to_owned()).or_insert_with(|| {
            let session = GroupSession::new(MegolmConfig::version_1());
            let key = session.session_key();
            room_keys.insert(
                (room_id.to_owned(), session.session_id()),
                RoomKey {
                    session: InboundGroupSession::new(&key, MegolmConfig::version_1()),
                    creator: own.0.clone(),
                    content: Value::Null,
                    tick: 0,
                },
            );
            Outbound { session, session_key: key.to_base64(), shared_with: vec![own] }
        })
    }

    /// The `m.room_key` content of this device's session in a room.
    pub fn room_key_content(&mut self, room_id: &str) -> Value {
        let outbound = self.outbound(room_id);
        json!({
            "algorithm": MEGOLM,
            "room_id": room_id,
            "session_id": outbound.session.session_id(),
            "session_key": outbound.session_key,
            "org.matrix.msc3061.shared_history": true,
        })
    }

    /// Encrypts a payload under this device's session in a room: the content of the
    /// `m.room.encrypted` event.
    pub fn encrypt_megolm(&mut self, room_id: &str, payload: &Value) -> Value {
        let (sender_key, device_id) = (self.curve25519(), self.device_id.clone());
        let outbound = self.outbound(room_id);
        let message = outbound.session.encrypt(payload.to_string());
        json!({
            "algorithm": MEGOLM,
            "sender_key": sender_key,
            "device_id": device_id,
            "session_id": outbound.session.session_id(),
            "ciphertext": message.to_base64(),
        })
    }

    fn sign(&self, value: &mut Value) {
        let key_id = format!("ed25519:{}", self.device_id);
        sign_json(value, &self.user_id, &key_id, |bytes| self.account.sign(bytes));
    }
}

fn signed_keys(
    account: &Account,
    user_id: &str,
    device_id: &str,
    identity: Option<&Identity>,
    trust: Trust,
) -> Value {
    let key_id = format!("ed25519:{device_id}");
    let mut keys = json!({
        "user_id": user_id,
        "device_id": device_id,
        "algorithms": [OLM, MEGOLM],
        "keys": {
            format!("curve25519:{device_id}"): account.curve25519_key().to_base64(),
            key_id.clone(): account.ed25519_key().to_base64(),
        },
    });
    match trust {
        Trust::ForgedSelfSignature => {
            let forger = Ed25519SecretKey::new();
            sign_json(&mut keys, user_id, &key_id, |bytes| forger.sign(bytes));
        }
        _ => sign_json(&mut keys, user_id, &key_id, |bytes| account.sign(bytes)),
    }
    match (trust, identity) {
        (Trust::CrossSigned | Trust::ForgedSelfSignature, Some(identity)) => {
            identity.sign_device(&mut keys);
        }
        (Trust::ForgedCrossSignature, Some(identity)) => identity.forge_device_signature(&mut keys),
        _ => {}
    }
    keys
}
