//! The keeper's one device: whom it knows, what it can read, and handing keys over.

use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use matrix_sdk_common::deserialized_responses::{
    AlgorithmInfo, ProcessedToDeviceEvent, VerificationLevel, VerificationState,
};
use matrix_sdk_crypto::{
    CryptoStoreError, DecryptionSettings, DeviceData, EncryptionSyncChanges, OlmMachine,
    TrustRequirement, UserIdentity,
    store::{CryptoStore, types::RoomKeyInfo},
};
use matrix_sdk_sqlite::SqliteCryptoStore;
use ruma::{DeviceId, OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId, serde::Raw};
use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use tokio::sync::{Mutex, watch};

use vodozemac::Curve25519PublicKey;

use super::{
    CryptoError,
    eraser::Eraser,
    forwarded::{FORWARDED, Forwarder},
    history::bundle_told_of,
    key_store::KeyStore,
    known_users::KnownUsers,
    vouchers::Vouchers,
};
use crate::homeserver::{Homeserver, SyncSlice};

/// What an encrypted to-device message says of the device that sent it.
#[derive(serde::Deserialize)]
struct SentWith {
    /// The device's Curve25519 key, unpadded base64.
    sender_key: String,
}

/// A device of somebody's, as the homeserver and the signatures describe it.
#[derive(Clone, Debug)]
pub struct KnownDevice {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// Whether its owner's self-signing key signed it.
    pub cross_signed: bool,
    /// Whether it is blacklisted in the key store.
    pub blocked: bool,
    /// Whether it was deleted.
    pub deleted: bool,
    /// When the keeper first saw it, in milliseconds.
    pub first_seen: i64,
    pub(super) data: DeviceData,
}

/// A user with what vouches for the devices.
#[derive(Clone, Debug)]
pub struct KnownUser {
    /// The user's devices.
    pub devices: Vec<KnownDevice>,
    /// The public master key of the user's cross-signing identity, unpadded base64; `None` where there is none.
    /// It is the one that the devices' signatures were judged by, or a later one.
    pub master_key: Option<String>,
}

/// An encrypted to-device request that has not been sent.
#[derive(Clone, Debug)]
pub struct ToDevice {
    /// Its transaction id.
    pub txn_id: String,
    /// The event type of every message in it.
    pub event_type: String,
    /// The body, `{"messages": …}`.
    pub body: String,
    /// Who gets a message.
    pub recipients: Vec<(OwnedUserId, OwnedDeviceId)>,
}

/// A room event that the device could decrypt.
#[derive(Clone)]
pub struct Decrypted {
    /// The decrypted event: the outer event's envelope with the inner type, state key and content.
    pub event: Box<RawValue>,
    /// Whether the device that encrypted it is signed by its owner, who is the event's sender.
    pub cross_signed: bool,
    /// Whether the session belongs to a device of another user than the event's sender.
    pub mismatched_sender: bool,
    /// The identities that vouch for that device.
    pub vouchers: Vouchers,
}

/// A member's Megolm session, and whose device made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeSession {
    /// The room where it is used.
    pub room_id: OwnedRoomId,
    /// Its id.
    pub session_id: String,
    /// Who made it; `None` where the key store does not say.
    pub maker: Option<OwnedUserId>,
    /// The Curve25519 key of the device that made it, unpadded base64.
    pub sender_key: String,
    /// Whether whoever made it marked it as shared history (MSC3061).
    pub shared_history: bool,
}

/// What a sync brought that concerns rooms.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Megolm sessions whose keys arrived, by room.
    pub keys: Vec<(OwnedRoomId, String)>,
    /// The same sessions with who made each, as far as their keys came from whoever made them.
    pub sessions: Vec<MadeSession>,
    /// Devices that made a new Olm session with an `m.dummy` (spec, "Recovering from undecryptable messages"):
    /// what was sent to them before may never have been read.
    pub mended: Vec<(OwnedUserId, OwnedDeviceId)>,
    /// Rooms whose history somebody says that he gives, with who says so.
    pub bundles: Vec<(OwnedRoomId, OwnedUserId)>,
    /// Devices that forwarded the key of somebody's session.
    pub forwarders: Vec<Forwarder>,
    /// Key requests and what takes them back, in their order: the JSON of `m.room_key_request` events, as anybody
    /// may have sent them.
    pub key_requests: Vec<String>,
}

/// The keeper's device. One process, one device, one of these.
#[derive(Clone)]
pub struct KeeperDevice {
    pub(super) machine: OlmMachine,
    /// The machine's key store.
    pub(super) store: KeyStore,
    /// Deletes what the key store would keep for ever.
    pub(super) eraser: Arc<Eraser>,
    /// How many threads share the encrypting of many messages.
    pub(super) threads: usize,
    /// Whose devices were read lately.
    known: Arc<KnownUsers>,
    pub(super) homeserver: Homeserver,
    /// The keys of devices that something was encrypted for: there are Olm sessions with them.
    pub(super) met: Arc<std::sync::Mutex<HashSet<Curve25519PublicKey>>>,
    /// Outgoing requests are collected and marked by one at a time.
    pub(super) pumping: Arc<Mutex<()>>,
    /// One-time keys of the own server's users are claimed by one at a time, so that none is wasted.
    pub(super) claiming: Arc<Mutex<()>>,
    /// Messages of the keeper's own are encrypted by one at a time.
    pub(super) speaking: Arc<Mutex<()>>,
    /// How many requests about other servers' users are under way.
    pub(super) remote: watch::Sender<usize>,
    /// How long other servers may take.
    pub(super) patience: Duration,
    /// Told about users whose devices became known after somebody stopped waiting for them.
    pub(super) late: tokio::sync::mpsc::UnboundedSender<Vec<OwnedUserId>>,
}

impl std::fmt::Debug for KeeperDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeeperDevice").field("device_id", &self.device_id()).finish_non_exhaustive()
    }
}

impl KnownDevice {
    /// Its Curve25519 key, unpadded base64; `None` where it has none.
    pub fn curve25519(&self) -> Option<String> {
        self.data.curve25519_key().map(|key| key.to_base64())
    }

    /// Its Ed25519 key, unpadded base64; `None` where it has none.
    pub fn ed25519(&self) -> Option<String> {
        self.data.ed25519_key().map(|key| key.to_base64())
    }
}

impl KeeperDevice {
    /// Opens the key store in the folder `path`, which is made where it is missing. `homeserver` speaks as
    /// this very device. The receiver gets users whose devices became known late: `patience` is how
    /// long other servers may hold a request up.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Open`] when the store does not open with `passphrase`, or is another device's.
    pub async fn open(
        path: &Path,
        passphrase: &SecretString,
        user_id: &UserId,
        device_id: &DeviceId,
        homeserver: Homeserver,
        patience: Duration,
    ) -> Result<(Self, tokio::sync::mpsc::UnboundedReceiver<Vec<OwnedUserId>>), CryptoError> {
        let store = SqliteCryptoStore::open(path, Some(passphrase.expose_secret()))
            .await
            .map_err(|error| CryptoError::Open(error.to_string()))?;
        let known = Arc::new(KnownUsers::default());
        let store = KeyStore::new(store, known.clone(), user_id, device_id);
        let machine = OlmMachine::with_store(user_id, device_id, store.clone(), None)
            .await
            .map_err(|error| CryptoError::Open(error.to_string()))?;
        let (late, late_receiver) = tokio::sync::mpsc::unbounded_channel();
        let device = Self {
            machine,
            store,
            eraser: Arc::new(Eraser::new(path.to_owned(), passphrase.clone())),
            known,
            homeserver,
            met: Arc::default(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            pumping: Arc::default(),
            claiming: Arc::default(),
            speaking: Arc::default(),
            remote: watch::Sender::new(0),
            patience,
            late,
        };
        Ok((device, late_receiver))
    }

    /// Writes what waits and closes the key store: another one can be put in its place.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Store`] when it cannot be written.
    pub async fn close(self) -> Result<(), CryptoError> {
        self.written().await?;
        Ok(self.store.close().await.map_err(CryptoStoreError::from)?)
    }

    /// The keeper's user id.
    pub fn user_id(&self) -> &UserId {
        self.machine.user_id()
    }

    /// The keeper's device id.
    pub fn device_id(&self) -> &DeviceId {
        self.machine.device_id()
    }

    /// The device's Curve25519 key, unpadded base64.
    pub fn curve25519_key(&self) -> String {
        self.machine.identity_keys().curve25519.to_base64()
    }

    /// Whether `user` is on the keeper's own server.
    pub(super) fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.user_id().server_name()
    }

    /// Takes in what a sync brought. The key store commits by itself: the caller keeps its own `since` afterwards, and a replay is harmless.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store fails.
    pub async fn receive(&self, sync: SyncSlice) -> Result<Received, CryptoError> {
        let sender_keys = sync.to_device.iter().filter_map(|message| {
            let content: SentWith = message.get_field("content").ok()??;
            Some(content.sender_key)
        });
        let sender_keys = sender_keys.collect();
        let changes = EncryptionSyncChanges {
            to_device_events: sync.to_device,
            changed_devices: &sync.device_lists,
            one_time_keys_counts: &sync.one_time_keys_counts,
            unused_fallback_keys: Some(sync.unused_fallback_keys.as_deref().unwrap_or_default()),
            next_batch_token: None,
        };
        let settings =
            DecryptionSettings { sender_device_trust_requirement: TrustRequirement::Untrusted };
        let taken_in = self.machine.receive_sync_changes(changes, &settings);
        let (events, keys) = self.store.as_a_whole(sender_keys, taken_in).await?;
        self.written().await?;
        let mut received = Received::default();
        for event in &events {
            received.forwarders.extend(forwarder(event));
            received.bundles.extend(bundle_told_of(event));
            if let ProcessedToDeviceEvent::Decrypted { raw, encryption_info } = event
                && raw.get_field::<String>("type").ok().flatten().as_deref() == Some("m.dummy")
                && let Some(device) = &encryption_info.sender_device
            {
                received.mended.push((encryption_info.sender.clone(), device.clone()));
            }
            if let ProcessedToDeviceEvent::PlainText(raw) = event
                && raw.get_field::<String>("type").ok().flatten().as_deref()
                    == Some("m.room_key_request")
            {
                received.key_requests.push(raw.json().get().to_owned());
            }
            if let ProcessedToDeviceEvent::UnableToDecrypt { encrypted_event, utd_info } = event {
                let sender: Option<OwnedUserId> =
                    encrypted_event.get_field("sender").ok().flatten();
                tracing::warn!(?sender, reason = ?utd_info.reason,
                    "a message to the keeper's device could not be decrypted");
            }
        }
        for key in &keys {
            let session = self
                .machine
                .store()
                .get_inbound_group_session(&key.room_id, &key.session_id)
                .await?;
            let shared_history = session.is_some_and(|session| session.shared_history());
            received.sessions.push(MadeSession { shared_history, ..made_session(key, &events) });
        }
        received.keys = keys.into_iter().map(|key| (key.room_id, key.session_id)).collect();
        Ok(received)
    }

    /// Every member's session that the key store holds: all of them are read, which takes a while.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store fails.
    pub async fn held_sessions(&self) -> Result<Vec<MadeSession>, CryptoError> {
        let held = self.store.get_inbound_group_sessions().await;
        let held = held.map_err(CryptoStoreError::from)?;
        Ok(held
            .iter()
            .map(|session| MadeSession {
                room_id: session.room_id().to_owned(),
                session_id: session.session_id().to_owned(),
                maker: None,
                sender_key: session.sender_key().to_base64(),
                shared_history: session.shared_history(),
            })
            .collect())
    }

    /// From now on the device lists of `users` are kept up to date.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store fails.
    pub async fn track<'a>(
        &self,
        users: impl IntoIterator<Item = &'a UserId>,
    ) -> Result<(), CryptoError> {
        self.track_soon(users).await?;
        self.written().await
    }

    /// As [`KeeperDevice::track`], for somebody who will be tracked once more: a kill may come before the disk does.
    pub(super) async fn track_soon<'a>(
        &self,
        users: impl IntoIterator<Item = &'a UserId>,
    ) -> Result<(), CryptoError> {
        Ok(self.machine.update_tracked_users(users).await?)
    }

    /// Returns once everything that was done with the device is on the disk, ratchets above all: what they
    /// encrypted must not leave before, nor stand in the outbox, from where it leaves after a kill.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Store`] when the key store cannot be written; what waits for it goes on waiting.
    pub async fn written(&self) -> Result<(), CryptoError> {
        Ok(self.store.written().await.map_err(CryptoStoreError::from)?)
    }

    /// Whether a device of `user` that [`KeeperDevice::known_user`] does not name does not exist: the homeserver was
    /// asked since it last told of a change.
    pub fn is_settled(&self, user: &UserId) -> bool {
        self.known.is_settled(user)
    }

    /// How many changes of devices and identities there were.
    pub fn changes(&self) -> u64 {
        self.known.generation()
    }

    /// Whose devices or identities changed since there were `changes`; `None` where that is not remembered any more.
    pub fn changed_since(&self, changes: u64) -> Option<Vec<OwnedUserId>> {
        self.known.changed_since(changes)
    }

    /// A user's devices and identity, as far as the homeserver was asked. The keeper's own device is not
    /// among them.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store fails.
    pub async fn known_user(&self, user: &UserId) -> Result<Arc<KnownUser>, CryptoError> {
        let generation = match self.known.get(user) {
            Ok(known) => return Ok(known),
            Err(generation) => generation,
        };
        let devices = self.machine.get_user_devices(user, None).await?;
        let devices: Vec<KnownDevice> = devices
            .devices()
            .filter(|device| !device.is_our_own_device() && !device.is_dehydrated())
            .map(|device| KnownDevice {
                user_id: device.user_id().to_owned(),
                device_id: device.device_id().to_owned(),
                cross_signed: device.is_cross_signed_by_owner(),
                blocked: device.is_blacklisted(),
                deleted: device.is_deleted(),
                first_seen: i64::from(device.first_time_seen_ts().get()),
                data: (*device).clone(),
            })
            .collect();
        // After the devices: what signed them may be older than this key, and is never newer.
        let master_key = self.master_key_of(user).await?;
        let known = Arc::new(KnownUser { devices, master_key });
        self.known.put(user, known.clone(), generation);
        Ok(known)
    }

    pub(super) async fn master_key_of(&self, user: &UserId) -> Result<Option<String>, CryptoError> {
        let identity = self.machine.get_identity(user, None).await?;
        let key = identity.and_then(|identity| match identity {
            UserIdentity::Own(own) => own.master_key().get_first_key(),
            UserIdentity::Other(other) => other.master_key().get_first_key(),
        });
        Ok(key.map(|key| key.to_base64()))
    }

    /// Decrypts a room event; `None` when its key is not there (yet) or it cannot be opened with it.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store fails.
    pub async fn decrypt(
        &self,
        room: &RoomId,
        event: &str,
    ) -> Result<Option<Decrypted>, CryptoError> {
        let raw = Raw::from_json(RawValue::from_string(event.to_owned())?);
        let settings =
            DecryptionSettings { sender_device_trust_requirement: TrustRequirement::Untrusted };
        let decrypted = match self.machine.decrypt_room_event(&raw, room, &settings).await {
            Ok(decrypted) => decrypted,
            Err(matrix_sdk_crypto::MegolmError::Store(error)) => return Err(error.into()),
            Err(error) => {
                tracing::debug!(%room, %error, "a state event could not be decrypted");
                return Ok(None);
            }
        };
        let state = &decrypted.encryption_info.verification_state;
        let cross_signed = matches!(
            state,
            VerificationState::Verified
                | VerificationState::Unverified(VerificationLevel::UnverifiedIdentity)
        );
        let mismatched_sender =
            matches!(state, VerificationState::Unverified(VerificationLevel::MismatchedSender));
        let vouchers = self.vouchers(room, &decrypted.encryption_info).await?;
        let event = decrypted.event.into_json();
        Ok(Some(Decrypted { event, cross_signed, mismatched_sender, vouchers }))
    }
}

/// A session whose key came, with who made it: the sender of the `m.room_key`. What it is marked as is not known yet.
fn made_session(key: &RoomKeyInfo, events: &[ProcessedToDeviceEvent]) -> MadeSession {
    let sender_key = key.sender_key.to_base64();
    let maker = events.iter().find_map(|event| match event {
        ProcessedToDeviceEvent::Decrypted { encryption_info, .. } => {
            let AlgorithmInfo::OlmV1Curve25519AesSha2 { curve25519_public_key_base64 } =
                &encryption_info.algorithm_info
            else {
                return None;
            };
            (*curve25519_public_key_base64 == sender_key).then(|| encryption_info.sender.clone())
        }
        _ => None,
    });
    let (room_id, session_id) = (key.room_id.clone(), key.session_id.clone());
    MadeSession { room_id, session_id, maker, sender_key, shared_history: false }
}

/// Which device sent a forwarded key, where this is one and the machine knows the device.
fn forwarder(event: &ProcessedToDeviceEvent) -> Option<Forwarder> {
    let ProcessedToDeviceEvent::Decrypted { raw, encryption_info } = event else { return None };
    if raw.get_field::<String>("type").ok().flatten().as_deref() != Some(FORWARDED) {
        return None;
    }
    let AlgorithmInfo::OlmV1Curve25519AesSha2 { curve25519_public_key_base64 } =
        &encryption_info.algorithm_info
    else {
        return None;
    };
    Some(Forwarder {
        user_id: encryption_info.sender.clone(),
        device_id: encryption_info.sender_device.clone()?,
        curve25519: curve25519_public_key_base64.clone(),
    })
}
