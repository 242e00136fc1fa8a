//! The history of a room for whoever is invited into it: the keys that its members marked as shared history, in a
//! bundle (MSC4268). The keeper's own state sessions are not among them: they are not in the machine's store.

use std::{
    collections::BTreeSet,
    io::{Cursor, Read as _},
};

use matrix_sdk_common::deserialized_responses::ProcessedToDeviceEvent;
use matrix_sdk_crypto::{
    AttachmentDecryptor,
    store::types::StoredRoomKeyBundleData,
    types::{
        EventEncryptionAlgorithm,
        room_history::{HistoricRoomKey, RoomKeyBundle},
    },
};
use ruma::{OwnedMxcUri, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};
use vodozemac::megolm::{InboundGroupSession, SessionConfig};
use zeroize::Zeroizing;

use super::{CryptoError, EncryptedFile, KeeperDevice};

/// How an invitee's devices hear of a bundle.
pub const ROOM_KEY_BUNDLE: &str = "m.room_key_bundle";
/// The same under the name that it had before.
const UNSTABLE: &str = "io.element.msc4268.room_key_bundle";
/// How many keys of a bundle are taken at most.
const MOST_TAKEN: usize = 5000;
/// Of how many sessions it is told that they are not shared.
const MOST_WITHHELD: usize = 1000;

/// A room's history keys, encrypted as a file.
pub struct HistoryBundle {
    /// What is uploaded.
    pub file: EncryptedFile,
    /// Which sessions are in it.
    pub sessions: Vec<String>,
}

impl std::fmt::Debug for HistoryBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistoryBundle")
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

/// The content of the `m.room_key_bundle` that tells of an uploaded bundle. The caller wipes it.
pub fn bundle_content(room: &RoomId, file: &Value) -> Value {
    json!({ "room_id": room, "file": file })
}

impl KeeperDevice {
    /// Puts the keys of `sessions` together, as far as whoever made each of them marked it as shared history, and what
    /// the keeper was given itself ([`ToldBundle::open`]). `None` where there are none.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store fails.
    pub async fn history_bundle(
        &self,
        room: &RoomId,
        sessions: &BTreeSet<String>,
        inherited: Vec<Value>,
    ) -> Result<Option<HistoryBundle>, CryptoError> {
        let mut bundle = self.machine.store().build_room_key_bundle(room).await?;
        let own = self.machine.identity_keys().curve25519;
        bundle.room_keys.retain(|key| key.sender_key != own && sessions.contains(&key.session_id));
        add(&mut bundle, inherited)?;
        bundle.withheld.truncate(MOST_WITHHELD);
        if bundle.room_keys.is_empty() {
            return Ok(None);
        }
        let sessions = bundle.room_keys.iter().map(|key| key.session_id.clone()).collect();
        let plaintext = Zeroizing::new(serde_json::to_vec(&bundle)?);
        Ok(Some(HistoryBundle { file: EncryptedFile::new(&plaintext)?, sessions }))
    }
}

/// A bundle that somebody told the keeper of.
pub struct ToldBundle {
    /// Where it is.
    pub url: OwnedMxcUri,
    data: StoredRoomKeyBundleData,
}

impl std::fmt::Debug for ToldBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ToldBundle").field("url", &self.url).finish_non_exhaustive()
    }
}

impl ToldBundle {
    /// Opens it: the keys of the room's sessions, by the sessions' ids, in the form in which a bundle has them. What is for
    /// another room, or not what it says, is left out.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when it cannot be decrypted or is no bundle.
    pub fn open(&self, file: &[u8]) -> Result<Vec<(String, Value)>, CryptoError> {
        let broken = |error: &dyn std::fmt::Display| CryptoError::Interrupted(error.to_string());
        let content = &self.data.bundle_data;
        let mut file = Cursor::new(file);
        let mut decryptor = AttachmentDecryptor::new(&mut file, content.file.clone().into())
            .map_err(|error| broken(&error))?;
        let mut plaintext = Zeroizing::new(Vec::new());
        decryptor.read_to_end(&mut plaintext).map_err(|error| broken(&error))?;
        let bundle: RoomKeyBundle = serde_json::from_slice(&plaintext)?;
        let mut keys = Vec::new();
        for key in bundle.room_keys.into_iter().filter(|key| is_fit(key, &content.room_id)) {
            if keys.len() >= MOST_TAKEN {
                break;
            }
            keys.push((key.session_id.clone(), serde_json::to_value(&key)?));
        }
        Ok(keys)
    }
}

impl KeeperDevice {
    /// The bundle of a room that `from` told the keeper of last, from a device that he signed.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the homeserver is away or the key store fails.
    pub async fn told_bundle(
        &self,
        room: &RoomId,
        from: &UserId,
    ) -> Result<Option<ToldBundle>, CryptoError> {
        let store = self.machine.store();
        let Some(data) = store.get_received_room_key_bundle_data(room, from).await? else {
            return Ok(None);
        };
        self.track([from]).await?;
        self.pump().await?;
        let known = self.known_user(from).await?;
        let signed = known.devices.iter().any(|device| {
            device.data.curve25519_key() == Some(data.sender_key)
                && device.cross_signed
                && !device.blocked
                && !device.deleted
        });
        let url = data.bundle_data.file.url.clone();
        Ok(signed.then_some(ToldBundle { url, data }))
    }
}

/// Adds keys in the form of [`ToldBundle::open`] to a bundle, unless it has their sessions' already.
fn add(bundle: &mut RoomKeyBundle, inherited: Vec<Value>) -> Result<(), CryptoError> {
    let known: BTreeSet<String> =
        bundle.room_keys.iter().map(|key| key.session_id.clone()).collect();
    for key in inherited {
        let key: HistoricRoomKey = serde_json::from_value(key)?;
        if !known.contains(&key.session_id) {
            bundle.room_keys.push(key);
        }
    }
    Ok(())
}

fn is_fit(key: &HistoricRoomKey, room: &RoomId) -> bool {
    let session = InboundGroupSession::import(&key.session_key, SessionConfig::version_1());
    key.room_id == room
        && key.algorithm == EventEncryptionAlgorithm::MegolmV1AesSha2
        && session.session_id() == key.session_id
}

/// The room whose history a to-device event says that it gives, and who sent it.
pub(super) fn bundle_told_of(event: &ProcessedToDeviceEvent) -> Option<(OwnedRoomId, OwnedUserId)> {
    let ProcessedToDeviceEvent::Decrypted { raw, encryption_info } = event else { return None };
    let kind = raw.get_field::<String>("type").ok().flatten()?;
    if kind != ROOM_KEY_BUNDLE && kind != UNSTABLE {
        return None;
    }
    let content = raw.get_field::<Value>("content").ok().flatten()?;
    let room = OwnedRoomId::try_from(content.get("room_id")?.as_str()?).ok()?;
    Some((room, encryption_info.sender.clone()))
}
