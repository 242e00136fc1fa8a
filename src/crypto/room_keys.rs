//! Room keys in Matrix's own file format (spec, "Key exports"): a list of sessions, encrypted under a passphrase, that every
//! client can import.

use std::{collections::BTreeSet, path::Path};

use matrix_sdk_crypto::{
    CryptoStoreError, KeyExportError, decrypt_room_key_export, encrypt_room_key_export,
    olm::ExportedRoomKey,
    store::CryptoStore as _,
    types::{EventEncryptionAlgorithm, SigningKeys},
};
use matrix_sdk_sqlite::SqliteCryptoStore;
use ruma::{DeviceKeyAlgorithm, OwnedRoomId, UserId};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use vodozemac::{
    Curve25519PublicKey, Ed25519PublicKey,
    megolm::{InboundGroupSession, MegolmMessage, SessionConfig, SessionKey},
};
use zeroize::Zeroizing;

use super::{CryptoError, ForwardedKey, KeySnapshot};

/// How often the passphrase is hashed: a file lies about for longer than any guess should take.
const ROUNDS: u32 = 500_000;

/// Room keys, as such a file holds them.
#[derive(Default)]
pub struct RoomKeys(Vec<ExportedRoomKey>);

/// One of them. It is what the file says of it: nobody vouches for whose session it is.
#[derive(Serialize, Deserialize)]
pub struct RoomKey(ExportedRoomKey);

/// The device in whose name the keeper's own sessions are written down.
#[derive(Clone, Copy)]
pub struct Maker {
    curve25519: Curve25519PublicKey,
    ed25519: Ed25519PublicKey,
}

impl std::fmt::Debug for RoomKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RoomKeys").field(&self.0.len()).finish()
    }
}

impl std::fmt::Debug for RoomKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoomKey").field("session_id", &self.0.session_id).finish_non_exhaustive()
    }
}

impl RoomKeys {
    /// The members' sessions in the key store in `folder`, and the device whose store it is. Looking changes the store's
    /// files: it is for copies.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Open`] when it does not open with `passphrase`, [`CryptoError::Store`] when it cannot be read.
    pub async fn of_key_store(
        folder: &Path,
        passphrase: &SecretString,
    ) -> Result<(Self, Option<Maker>), CryptoError> {
        let store = SqliteCryptoStore::open(folder, Some(passphrase.expose_secret()))
            .await
            .map_err(|error| CryptoError::Open(error.to_string()))?;
        let read = async {
            // Before the rest: without an account the store gives nothing out.
            let account = store.load_account().await?;
            let sessions = match &account {
                Some(_) => store.get_inbound_group_sessions().await?,
                None => Vec::new(),
            };
            Ok((account, sessions))
        };
        let read: Result<_, <SqliteCryptoStore as matrix_sdk_crypto::store::CryptoStore>::Error> =
            read.await;
        let _ = store.close().await;
        let (account, sessions) = read.map_err(CryptoStoreError::from)?;
        let mut keys = Vec::with_capacity(sessions.len());
        for session in sessions {
            keys.push(session.export().await);
        }
        let maker = account.map(|account| {
            let keys = account.identity_keys();
            Maker { curve25519: keys.curve25519, ed25519: keys.ed25519 }
        });
        Ok((Self(keys), maker))
    }

    /// Adds a state session of the keeper's, from the index on at which `snapshot` was taken. Returns whether that is one.
    pub fn add_own(&mut self, maker: Maker, room_id: OwnedRoomId, snapshot: &KeySnapshot) -> bool {
        let Ok(key) = SessionKey::from_base64(snapshot.as_base64()) else { return false };
        let mut session = InboundGroupSession::new(&key, SessionConfig::version_1());
        let Some(session_key) = session.export_at(session.first_known_index()) else {
            return false;
        };
        let mut sender_claimed_keys = SigningKeys::new();
        sender_claimed_keys.insert(DeviceKeyAlgorithm::Ed25519, maker.ed25519.into());
        self.0.push(ExportedRoomKey {
            algorithm: EventEncryptionAlgorithm::MegolmV1AesSha2,
            room_id,
            sender_key: maker.curve25519,
            session_id: session.session_id(),
            session_key,
            sender_claimed_keys,
            forwarding_curve25519_key_chain: Vec::new(),
            // No client passes it on in a key bundle past all policy.
            shared_history: false,
        });
        true
    }

    /// How many keys there are, and in how many rooms.
    pub fn count(&self) -> (usize, usize) {
        let rooms: BTreeSet<_> = self.0.iter().map(|key| &key.room_id).collect();
        (self.0.len(), rooms.len())
    }

    /// Writes them as a file's text, encrypted under `passphrase`.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Json`] when they cannot be written as JSON.
    pub fn lock(&self, passphrase: &SecretString) -> Result<String, CryptoError> {
        Ok(encrypt_room_key_export(&self.0, passphrase.expose_secret(), ROUNDS)?)
    }

    /// Reads a file that was encrypted under `passphrase`.
    ///
    /// # Errors
    ///
    /// [`KeyExportError`] when it is none, was damaged, or the passphrase is another.
    pub fn unlock(file: &[u8], passphrase: &SecretString) -> Result<Self, KeyExportError> {
        Ok(Self(decrypt_room_key_export(file, passphrase.expose_secret())?))
    }

    /// The keys one by one, as far as each is what it says.
    pub fn sound(self) -> impl Iterator<Item = RoomKey> {
        self.0.into_iter().map(RoomKey).filter(RoomKey::is_sound)
    }
}

impl RoomKey {
    /// The room where the session is used.
    pub fn room_id(&self) -> &ruma::RoomId {
        &self.0.room_id
    }

    /// The session's id.
    pub fn session_id(&self) -> &str {
        &self.0.session_id
    }

    /// The index from which on it opens something.
    pub fn first_index(&self) -> u32 {
        self.session().first_known_index()
    }

    /// The session.
    fn session(&self) -> InboundGroupSession {
        InboundGroupSession::import(&self.0.session_key, SessionConfig::version_1())
    }

    /// What stands in a Megolm message (base64) of the session; `None` where this does not open it. That it opens proves
    /// that whoever made the session made the message, and not who that was.
    pub fn open(&self, ciphertext: &str) -> Option<Zeroizing<Vec<u8>>> {
        let message = MegolmMessage::from_base64(ciphertext).ok()?;
        let opened = self.session().decrypt(&message).ok()?;
        Some(Zeroizing::new(opened.plaintext))
    }

    /// The Curve25519 key of the device that made the session, unpadded base64: a claim.
    pub fn claimed_maker(&self) -> String {
        self.0.sender_key.to_base64()
    }

    fn is_sound(&self) -> bool {
        self.0.algorithm == EventEncryptionAlgorithm::MegolmV1AesSha2
            && self.session().session_id() == self.0.session_id
    }

    /// The key as if `importer` had forwarded it to the keeper: who says whose session it is, is believed as little.
    /// `None` where the file does not say whose it is.
    pub fn into_forwarded(self, importer: &UserId) -> Option<ForwardedKey> {
        let (_, signer) = self.0.sender_claimed_keys.iter().next()?;
        let signer = signer.to_base64();
        Some(ForwardedKey::imported(importer, signer, self.0))
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, room_id, user_id};

    use super::*;
    use crate::crypto::StateSession;

    fn maker() -> Maker {
        let account = vodozemac::olm::Account::new();
        Maker { curve25519: account.curve25519_key(), ed25519: account.ed25519_key() }
    }

    fn passphrase(text: &str) -> SecretString {
        SecretString::from(text)
    }

    #[test]
    fn a_state_session_goes_into_a_file_and_out_of_it_and_opens_what_came_after_it() {
        let mut session = StateSession::new();
        let before = session.seal("before", "key", "DEVICE");
        let after = session.seal("after", "key", "DEVICE");
        let mut keys = RoomKeys::default();
        assert!(keys.add_own(maker(), owned_room_id!("!room:localhost"), &after.snapshot));
        assert_eq!(keys.count(), (1, 1));
        let file = keys.lock(&passphrase("right")).unwrap();
        assert!(file.starts_with("-----BEGIN MEGOLM SESSION DATA-----\n"));
        assert!(RoomKeys::unlock(file.as_bytes(), &passphrase("wrong")).is_err());
        assert!(
            RoomKeys::unlock(&file.as_bytes()[..file.len() - 40], &passphrase("right")).is_err()
        );
        let read = RoomKeys::unlock(file.as_bytes(), &passphrase("right")).unwrap();
        let read: Vec<RoomKey> = read.sound().collect();
        let key = &read[0];
        assert_eq!((key.room_id(), key.first_index()), (room_id!("!room:localhost"), 1));
        assert_eq!(key.session_id(), session.id());
        let open = |sealed: &crate::crypto::Sealed| {
            key.open(sealed.content["ciphertext"].as_str().unwrap()).map(|text| text.to_vec())
        };
        assert_eq!(open(&after).as_deref(), Some(b"after".as_slice()));
        assert_eq!(open(&before), None);
        let forwarded = read.into_iter().next().unwrap().into_forwarded(user_id!("@k:localhost"));
        assert_eq!(forwarded.unwrap().session_id, session.id());
    }

    #[test]
    fn a_key_under_another_sessions_id_is_left_out() {
        let mut keys = RoomKeys::default();
        let room = owned_room_id!("!room:localhost");
        assert!(keys.add_own(maker(), room, &StateSession::new().snapshot()));
        keys.0[0].session_id = StateSession::new().id();
        assert_eq!(keys.sound().count(), 0);
    }

    #[test]
    fn debug_shows_no_key() {
        let mut keys = RoomKeys::default();
        let session = StateSession::new();
        assert!(keys.add_own(maker(), owned_room_id!("!room:localhost"), &session.snapshot()));
        let secret = keys.0[0].session_key.to_base64();
        let shown = format!("{keys:?}");
        let key = keys.sound().next().unwrap();
        assert!(!format!("{shown}{key:?}").contains(&secret[20..60]));
    }
}
