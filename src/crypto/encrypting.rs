//! Encrypting one to-device event for many devices.
//!
//! The sessions are the machine's; the messages are put together here. The library's own way reads each recipient's
//! identity and devices once more, and writes what is the same in all messages as often as there are recipients.

use std::{
    collections::{BTreeMap, HashSet},
    sync::PoisonError,
    time::{Duration, Instant},
};

use matrix_sdk_crypto::{CryptoStoreError, store::CryptoStore, types::DeviceKeys};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, TransactionId, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use vodozemac::olm::OlmMessage;
use zeroize::Zeroizing;

use super::{
    CryptoError,
    device::{KeeperDevice, KnownDevice, ToDevice},
    ratchets::Ratchet,
    wipe,
};

/// The algorithm of the messages (spec, "m.olm.v1.curve25519-aes-sha2").
const OLM: &str = "m.olm.v1.curve25519-aes-sha2";
/// For how many devices one request is at most. Whoever joins elsewhere may have to wait until one is committed, so it
/// is no larger than throughput asks for.
pub const IN_ONE_REQUEST: usize = 100;
/// How many messages are put together before more urgent work is looked for.
const BETWEEN_LOOKS: usize = 10;
/// How long one request stands aside for it altogether.
const LONGEST_ASIDE: Duration = Duration::from_millis(150);
/// Of how many devices it is remembered that there are Olm sessions with them.
const MOST_MET: usize = 65_536;

/// What was encrypted: requests, and the devices with which no Olm session exists.
pub type Encrypted = (Vec<ToDevice>, Vec<(OwnedUserId, OwnedDeviceId)>);

/// Says when work that can wait goes on.
pub trait Turn: Clone + Send + Sync + 'static {
    /// Returns once nothing more urgent is waiting, and soon in any case.
    fn come(&self) -> impl Future<Output = ()> + Send;
}

/// What waits for nothing.
#[derive(Clone, Copy, Debug)]
struct AtOnce;

impl Turn for AtOnce {
    async fn come(&self) {}
}

/// What an Olm message says (spec, "m.olm.v1.curve25519-aes-sha2"; the sender's keys are those of MSC4147).
#[derive(Serialize)]
struct Plaintext<'a> {
    sender: &'a UserId,
    recipient: &'a UserId,
    keys: SigningKey<'a>,
    recipient_keys: SigningKey<'a>,
    sender_device_keys: &'a RawValue,
    content: &'a serde_json::Value,
    #[serde(rename = "type")]
    event_type: &'a str,
}

#[derive(Serialize)]
struct SigningKey<'a> {
    ed25519: &'a str,
}

/// The content of an `m.room.encrypted` to-device event.
#[derive(Serialize)]
struct Message<'a> {
    algorithm: &'static str,
    sender_key: &'a str,
    /// One, by the recipient's Curve25519 key.
    ciphertext: BTreeMap<String, OlmMessage>,
    /// By which homeservers name it in their logs.
    #[serde(rename = "org.matrix.msgid")]
    message_id: String,
}

/// The body of a to-device request.
#[derive(Serialize)]
struct Body<'a> {
    messages: BTreeMap<&'a UserId, BTreeMap<&'a DeviceId, Message<'a>>>,
}

/// What is the same in all messages.
struct Letterhead<'a> {
    sender: &'a UserId,
    ed25519: String,
    curve25519: String,
    device_keys: Box<RawValue>,
    event_type: &'a str,
    content: &'a serde_json::Value,
}

impl Letterhead<'_> {
    async fn write(
        &self,
        device: &KnownDevice,
        ratchet: &Ratchet,
        ed25519: &str,
    ) -> Result<Option<OlmMessage>, CryptoError> {
        let plaintext = Plaintext {
            sender: self.sender,
            recipient: &device.user_id,
            keys: SigningKey { ed25519: &self.ed25519 },
            recipient_keys: SigningKey { ed25519 },
            sender_device_keys: &self.device_keys,
            content: self.content,
            event_type: self.event_type,
        };
        let plaintext = Zeroizing::new(serde_json::to_string(&plaintext)?);
        let encrypted = ratchet.inner.lock().await.encrypt(plaintext.as_bytes());
        if let Err(error) = &encrypted {
            tracing::warn!(user = %device.user_id, device = %device.device_id, %error,
                "the Olm session with a device encrypts nothing");
        }
        Ok(encrypted.ok())
    }
}

impl KeeperDevice {
    /// Encrypts one to-device event for many devices over Olm. Returns the requests, and the devices with
    /// which no Olm session exists.
    ///
    /// Who is entitled was decided before; a device that is blacklisted in the key store gets nothing all the same.
    ///
    /// The ratchets are on their way to the disk: ask for [`KeeperDevice::written`] before a request is let out or
    /// written down.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store fails.
    pub async fn encrypt_for(
        &self,
        devices: &[KnownDevice],
        event_type: &str,
        content: &serde_json::Value,
    ) -> Result<Encrypted, CryptoError> {
        if devices.len() <= IN_ONE_REQUEST {
            return self.encrypt_in_chunks(devices, event_type, content, &AtOnce).await;
        }
        let share = devices.len().div_ceil(self.threads).next_multiple_of(IN_ONE_REQUEST);
        let sides: Vec<_> = devices
            .chunks(share)
            .map(|devices| self.encrypt_apart(devices.to_vec(), event_type, content, AtOnce))
            .collect();
        let (mut encrypted, mut without) = (Vec::new(), Vec::new());
        for side in sides {
            let (requests, unreachable) = side.await?;
            encrypted.extend(requests);
            without.extend(unreachable);
        }
        Ok((encrypted, without))
    }

    /// Begins to do the same on a thread of its own, at once, and stands aside between two messages where it is not its
    /// `turn`; the future is that it has come to its end.
    pub fn encrypt_apart<T: Turn>(
        &self,
        devices: Vec<KnownDevice>,
        event_type: &str,
        content: &serde_json::Value,
        turn: T,
    ) -> impl Future<Output = Result<Encrypted, CryptoError>> + use<T> {
        let device = self.clone();
        let (event_type, mut content) = (event_type.to_owned(), content.clone());
        let under_way = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let done = runtime.map_err(interrupted).and_then(|runtime| {
                runtime.block_on(device.encrypt_in_chunks(&devices, &event_type, &content, &turn))
            });
            wipe(&mut content);
            done
        });
        async move { under_way.await.map_err(interrupted)? }
    }

    async fn encrypt_in_chunks(
        &self,
        devices: &[KnownDevice],
        event_type: &str,
        content: &serde_json::Value,
        turn: &impl Turn,
    ) -> Result<Encrypted, CryptoError> {
        let (mut requests, mut without) = (Vec::new(), Vec::new());
        if devices.is_empty() {
            return Ok((requests, without));
        }
        let own = self.store.get_own_device().await.map_err(CryptoStoreError::from)?;
        let own = own.as_device_keys();
        let head = Letterhead {
            sender: self.user_id(),
            ed25519: self.machine.identity_keys().ed25519.to_base64(),
            curve25519: self.curve25519_key(),
            device_keys: to_raw_value(own)?,
            event_type,
            content,
        };
        for devices in devices.chunks(IN_ONE_REQUEST) {
            let (request, unreachable) =
                self.encrypt_one_request(devices, &head, own, turn).await?;
            requests.extend(request);
            self.note_met(devices, &unreachable);
            without.extend(unreachable);
        }
        Ok((requests, without))
    }

    async fn encrypt_one_request(
        &self,
        devices: &[KnownDevice],
        head: &Letterhead<'_>,
        own: &DeviceKeys,
        turn: &impl Turn,
    ) -> Result<(Option<ToDevice>, Vec<(OwnedUserId, OwnedDeviceId)>), CryptoError> {
        let (mut recipients, mut without) = (Vec::new(), Vec::new());
        let (mut messages, mut moved) = (BTreeMap::<_, BTreeMap<_, _>>::new(), Vec::new());
        let mut aside = Duration::ZERO;
        for (nth, device) in devices.iter().enumerate() {
            if nth.is_multiple_of(BETWEEN_LOOKS) && aside < LONGEST_ASIDE {
                let began = Instant::now();
                turn.come().await;
                aside += began.elapsed();
            }
            let name = (device.user_id.clone(), device.device_id.clone());
            let keys = device.data.curve25519_key().zip(device.ed25519());
            let Some((curve25519, ed25519)) = keys.filter(|_| !device.blocked) else {
                without.push(name);
                continue;
            };
            let curve25519 = curve25519.to_base64();
            let newest = self.store.newest_ratchet(&curve25519).await;
            let Some(ratchet) = newest.map_err(CryptoStoreError::from)? else {
                without.push(name);
                continue;
            };
            let Some(message) = head.write(device, &ratchet, &ed25519).await? else {
                without.push(name);
                continue;
            };
            moved.push(ratchet.session(own));
            let message = Message {
                algorithm: OLM,
                sender_key: &head.curve25519,
                ciphertext: BTreeMap::from([(curve25519, message)]),
                message_id: TransactionId::new().to_string(),
            };
            let of_user = messages.entry(device.user_id.as_ref()).or_default();
            of_user.insert(device.device_id.as_ref(), message);
            recipients.push(name);
        }
        // These ratchets are written while the next devices' messages are encrypted.
        self.store.moved(moved);
        if recipients.is_empty() {
            return Ok((None, without));
        }
        let request = ToDevice {
            txn_id: TransactionId::new().to_string(),
            event_type: "m.room.encrypted".to_owned(),
            body: serde_json::to_string(&Body { messages })?,
            recipients,
        };
        Ok((Some(request), without))
    }

    /// Whether there is an Olm session with a device for certain. There may be one with others, too.
    pub fn is_met(&self, device: &KnownDevice) -> bool {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        device.data.curve25519_key().is_some_and(|key| met.contains(&key))
    }

    /// Whether there is an Olm session with a device.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store fails.
    pub async fn has_channel(&self, device: &KnownDevice) -> Result<bool, CryptoError> {
        if self.is_met(device) {
            return Ok(true);
        }
        let Some(key) = device.curve25519() else { return Ok(false) };
        let newest = self.store.newest_ratchet(&key).await.map_err(CryptoStoreError::from)?;
        Ok(newest.is_some())
    }

    fn note_met(&self, devices: &[KnownDevice], without: &[(OwnedUserId, OwnedDeviceId)]) {
        let without: HashSet<(&UserId, &DeviceId)> =
            without.iter().map(|(user, device)| (user.as_ref(), device.as_ref())).collect();
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        if met.len() >= MOST_MET {
            met.clear();
        }
        let with = devices
            .iter()
            .filter(|device| !without.contains(&(device.user_id.as_ref(), &*device.device_id)));
        met.extend(with.filter_map(|device| device.data.curve25519_key()));
    }
}

fn interrupted(error: impl std::fmt::Display) -> CryptoError {
    CryptoError::Interrupted(error.to_string())
}
