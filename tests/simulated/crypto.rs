//! Signatures and cross-signing identities of simulated people.

use ruma::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use serde_json::{Value, json};
use vodozemac::{Ed25519SecretKey, Ed25519Signature};

/// How far a simulated device is vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Signed by its owner's self-signing key.
    CrossSigned,
    /// Nobody but the device itself signed it.
    Unsigned,
    /// The device's own signature is somebody else's.
    ForgedSelfSignature,
    /// It carries a signature under the owner's self-signing key id which another key made.
    ForgedCrossSignature,
}

/// The three cross-signing keys of a person.
pub struct Identity {
    user_id: String,
    master: Ed25519SecretKey,
    self_signing: Ed25519SecretKey,
    user_signing: Ed25519SecretKey,
}

impl Identity {
    /// Fresh keys for `user_id`.
    pub fn new(user_id: &str) -> Self {
        Self {
            user_id: user_id.to_owned(),
            master: Ed25519SecretKey::new(),
            self_signing: Ed25519SecretKey::new(),
            user_signing: Ed25519SecretKey::new(),
        }
    }

    /// The master key as `/keys/query` shows it.
    pub fn master_json(&self) -> Value {
        let mut key = self.key_json("master", &self.master);
        self.sign_with_master(&mut key);
        key
    }

    /// The self-signing key as `/keys/query` shows it.
    pub fn self_signing_json(&self) -> Value {
        let mut key = self.key_json("self_signing", &self.self_signing);
        self.sign_with_master(&mut key);
        key
    }

    /// The user-signing key as `/keys/query` shows it to its owner.
    pub fn user_signing_json(&self) -> Value {
        let mut key = self.key_json("user_signing", &self.user_signing);
        self.sign_with_master(&mut key);
        key
    }

    /// Adds the self-signing key's signature to a device's keys.
    pub fn sign_device(&self, device_keys: &mut Value) {
        let key_id = self.self_signing_key_id();
        sign_json(device_keys, &self.user_id, &key_id, |bytes| self.self_signing.sign(bytes));
    }

    /// Adds a signature which claims to be the self-signing key's and is not.
    pub fn forge_device_signature(&self, device_keys: &mut Value) {
        let key_id = self.self_signing_key_id();
        let forger = Ed25519SecretKey::new();
        sign_json(device_keys, &self.user_id, &key_id, |bytes| forger.sign(bytes));
    }

    fn self_signing_key_id(&self) -> String {
        format!("ed25519:{}", self.self_signing.public_key().to_base64())
    }

    fn key_json(&self, usage: &str, key: &Ed25519SecretKey) -> Value {
        let public = key.public_key().to_base64();
        json!({
            "user_id": self.user_id,
            "usage": [usage],
            "keys": { format!("ed25519:{public}"): public },
        })
    }

    fn sign_with_master(&self, key: &mut Value) {
        let key_id = format!("ed25519:{}", self.master.public_key().to_base64());
        sign_json(key, &self.user_id, &key_id, |bytes| self.master.sign(bytes));
    }
}

/// Signs an object as the specification's appendix "Signing JSON" says: over its canonical form
/// without `signatures` and `unsigned`.
pub fn sign_json(
    value: &mut Value,
    user_id: &str,
    key_id: &str,
    sign: impl FnOnce(&[u8]) -> Ed25519Signature,
) {
    let signature = sign(canonical_without_signatures(value).as_bytes()).to_base64();
    value["signatures"][user_id][key_id] = Value::String(signature);
}

/// The bytes that a signature covers.
pub fn canonical_without_signatures(value: &Value) -> String {
    let mut object: CanonicalJsonObject =
        serde_json::from_value(value.clone()).expect("a signed object is canonical JSON");
    object.remove("signatures");
    object.remove("unsigned");
    serde_json::to_string(&CanonicalJsonValue::Object(object)).expect("canonical JSON serializes")
}
