//! Whether what the homeserver shows of the keeper's device is what the device is.

use ruma::{OwnedDeviceId, UserId, api::client::keys::get_keys, serde::Raw};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{CryptoError, KeeperDevice};

/// What the homeserver has of the keeper's own, compared with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Published {
    /// The same.
    Same,
    /// Nothing.
    Missing,
    /// Something else.
    Other,
}

/// The keeper's device and identity as the homeserver shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The device's keys.
    pub device: Published,
    /// The master key of the cross-signing identity.
    pub identity: Published,
    /// Whether the device carries a signature of that identity's self-signing key.
    pub signed: bool,
}

impl KeeperDevice {
    /// Compares what the homeserver shows of the device with what it is. Only looks.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the homeserver or the key store fails.
    pub async fn shown(&self) -> Result<Shown, CryptoError> {
        let answer =
            self.homeserver.query_keys(self.query_for(&[self.user_id().to_owned()])).await?;
        let own = self.machine.identity_keys();
        let device = shown_device(&answer, self);
        let expected = (own.curve25519.to_base64(), own.ed25519.to_base64());
        let device_state = match &device {
            None => Published::Missing,
            Some(device) if keys_of(device, self.device_id().as_str()) == Some(expected) => {
                Published::Same
            }
            Some(_) => Published::Other,
        };
        let shown = first_key(answer.master_keys.get(self.user_id()));
        let identity = match (shown, self.master_key_of(self.user_id()).await?) {
            (None, _) => Published::Missing,
            (Some(shown), Some(own)) if shown == own => Published::Same,
            (Some(_), _) => Published::Other,
        };
        let signed = signed_devices(&answer, self.user_id());
        let signed = signed.iter().any(|device| device == self.device_id());
        Ok(Shown { device: device_state, identity, signed })
    }
}

/// The devices of `user` that carry a signature of the self-signing key which the homeserver shows beside them.
pub fn signed_devices(answer: &get_keys::v3::Response, user: &UserId) -> Vec<OwnedDeviceId> {
    let Some(signer) = first_key(answer.self_signing_keys.get(user)) else { return Vec::new() };
    let key = format!("ed25519:{signer}");
    let is_signed = |device: &Value| {
        let signatures = device.get("signatures").and_then(|all| all.get(user.as_str()));
        signatures.is_some_and(|all| all.get(&key).is_some())
    };
    let devices = answer.device_keys.get(user).into_iter().flatten();
    devices
        .filter(|(_, device)| read(device).is_some_and(|device| is_signed(&device)))
        .map(|(id, _)| id.clone())
        .collect()
}

fn shown_device(answer: &get_keys::v3::Response, device: &KeeperDevice) -> Option<Value> {
    read(answer.device_keys.get(device.user_id())?.get(device.device_id())?)
}

/// The Curve25519 and the Ed25519 key of a device, unpadded base64.
fn keys_of(device: &Value, device_id: &str) -> Option<(String, String)> {
    let keys = device.get("keys")?;
    let key =
        |algorithm: &str| Some(keys.get(format!("{algorithm}:{device_id}"))?.as_str()?.to_owned());
    Some((key("curve25519")?, key("ed25519")?))
}

/// The one key of a cross-signing key, unpadded base64.
fn first_key<T>(key: Option<&Raw<T>>) -> Option<String> {
    let key: Value = read(key?)?;
    Some(key.get("keys")?.as_object()?.values().next()?.as_str()?.to_owned())
}

fn read<T, D: DeserializeOwned>(raw: &Raw<T>) -> Option<D> {
    serde_json::from_str(raw.json().get()).ok()
}
