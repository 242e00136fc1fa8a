//! Keys of members' sessions that other members forward to the keeper because it asked for them.
//!
//! The Olm machine takes forwarded keys from its own user's devices alone, and hands on those of others with the key
//! wiped out. So a message from somebody who was asked is opened here as well, with a copy of the Olm session that is
//! thrown away, before the machine opens it for good. Who sent it is the machine's word all the same: what it did not
//! open, from a device that it knows, counts for nothing.

use std::collections::{BTreeMap, BTreeSet};

use matrix_sdk_crypto::{
    CryptoStoreError,
    olm::ExportedRoomKey,
    store::CryptoStore,
    types::{EventEncryptionAlgorithm, SigningKeys},
};
use ruma::{
    DeviceKeyAlgorithm, OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::AnyToDeviceEvent, serde::Raw,
};
use serde::Deserialize;
use vodozemac::{
    Curve25519PublicKey, Ed25519PublicKey,
    megolm::{
        ExportedSessionKey, InboundGroupSession, MegolmMessage, SessionConfig as MegolmConfig,
    },
    olm::{Account, OlmMessage, Session, SessionConfig},
};
use zeroize::Zeroizing;

use super::{CryptoError, KeeperDevice, MEGOLM};
use crate::homeserver::SyncSlice;

/// The event type of a forwarded key (spec, "m.forwarded_room_key").
pub(super) const FORWARDED: &str = "m.forwarded_room_key";
/// The algorithm of Olm messages (spec, "m.olm.v1.curve25519-aes-sha2").
const OLM: &str = "m.olm.v1.curve25519-aes-sha2";
/// What is longer than this is no forwarded key.
const LONGEST_MESSAGE: usize = 16 << 10;
/// How many messages of one sync are opened at most.
const MOST_MESSAGES: usize = 32;

/// A device that sent a forwarded key, as the Olm machine knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarder {
    /// Whose device.
    pub user_id: OwnedUserId,
    /// Which.
    pub device_id: OwnedDeviceId,
    /// Its Curve25519 key, unpadded base64.
    pub curve25519: String,
}

/// A forwarded key, as somebody claims it to be.
pub struct ForwardedKey {
    /// Who sent it.
    pub sender: OwnedUserId,
    /// The Curve25519 key of the device that sent it, unpadded base64.
    pub sender_curve25519: String,
    /// The room where the session is used.
    pub room_id: OwnedRoomId,
    /// The session's id.
    pub session_id: String,
    /// The Curve25519 key of the device that made the session: a claim.
    pub creator_curve25519: String,
    /// The Ed25519 key of that device: a claim.
    pub creator_ed25519: String,
    key: ExportedSessionKey,
}

impl std::fmt::Debug for ForwardedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForwardedKey")
            .field("sender", &self.sender)
            .field("session_id", &self.session_id)
            .finish_non_exhaustive()
    }
}

impl ForwardedKey {
    /// One that `importer` gave out of a file, where the session's maker has the Ed25519 key `creator_ed25519`.
    pub(super) fn imported(
        importer: &UserId,
        creator_ed25519: String,
        exported: ExportedRoomKey,
    ) -> Self {
        Self {
            sender: importer.to_owned(),
            sender_curve25519: String::new(),
            room_id: exported.room_id,
            session_id: exported.session_id,
            creator_curve25519: exported.sender_key.to_base64(),
            creator_ed25519,
            key: exported.session_key,
        }
    }
}

/// Why a forwarded key is good for nothing. No variant holds any part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForgedKey {
    /// It is for another room or session than the event.
    #[error("it is another session's key, or another room's")]
    OtherSession,
    /// The session that it makes has another id than it says.
    #[error("its session has another id than it says")]
    WrongId,
    /// It begins after the event.
    #[error("it begins after the event that it should open")]
    TooLate,
    /// It does not open the event.
    #[error("it does not open the event")]
    DoesNotOpen,
    /// What it opens was made for another room.
    #[error("what it opens was made for another room")]
    OtherRoom,
    /// The keys that it gives for the session's maker are none.
    #[error("the keys of the session's maker are malformed")]
    MalformedMaker,
}

#[derive(Deserialize)]
struct Outer {
    sender: OwnedUserId,
    #[serde(rename = "type")]
    event_type: String,
    content: OuterContent,
}

#[derive(Deserialize)]
struct OuterContent {
    algorithm: String,
    sender_key: String,
    ciphertext: BTreeMap<String, OlmMessage>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    event_type: String,
}

#[derive(Deserialize)]
struct Keys {
    ed25519: String,
}

#[derive(Deserialize)]
struct Payload {
    sender: OwnedUserId,
    recipient: OwnedUserId,
    recipient_keys: Keys,
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    algorithm: String,
    room_id: OwnedRoomId,
    session_id: String,
    session_key: ExportedSessionKey,
    sender_key: String,
    sender_claimed_ed25519_key: String,
}

impl KeeperDevice {
    /// Opens the forwarded keys that a sync brings from users in `asked`, before [`KeeperDevice::receive`] takes the
    /// sync in. Nothing of the device changes. What it returns is what the senders claim, and counts only together
    /// with what `receive` says of who forwarded something.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store fails.
    pub async fn open_forwarded(
        &self,
        sync: &SyncSlice,
        asked: &BTreeSet<OwnedUserId>,
    ) -> Result<Vec<ForwardedKey>, CryptoError> {
        let mut opened = Vec::new();
        if asked.is_empty() {
            return Ok(opened);
        }
        let own_key = self.curve25519_key();
        let candidates = sync.to_device.iter().filter_map(|event| read_outer(event, asked));
        for outer in candidates.take(MOST_MESSAGES) {
            let OuterContent { sender_key, mut ciphertext, .. } = outer.content;
            let Some(message) = ciphertext.remove(&own_key) else { continue };
            let Some(plaintext) = self.open_with_a_copy(&sender_key, &message).await? else {
                continue;
            };
            opened.extend(self.read_payload(&plaintext, outer.sender, sender_key));
        }
        Ok(opened)
    }

    /// Opens an Olm message with copies of the sessions that there are, or of the account for a new session.
    async fn open_with_a_copy(
        &self,
        sender_key: &str,
        message: &OlmMessage,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, CryptoError> {
        let sessions = self.store.get_sessions(sender_key).await.map_err(CryptoStoreError::from)?;
        for session in sessions.unwrap_or_default() {
            let mut copy = Session::from_pickle(session.pickle().await.pickle);
            if let Ok(plaintext) = copy.decrypt(message) {
                return Ok(Some(Zeroizing::new(plaintext)));
            }
        }
        let (OlmMessage::PreKey(first), Ok(identity)) =
            (message, Curve25519PublicKey::from_base64(sender_key))
        else {
            return Ok(None);
        };
        let account = self.store.load_account().await.map_err(CryptoStoreError::from)?;
        let Some(account) = account else { return Ok(None) };
        let mut copy = Account::from_pickle(account.pickle().pickle);
        let made = copy.create_inbound_session(SessionConfig::version_1(), identity, first);
        Ok(made.ok().map(|made| Zeroizing::new(made.plaintext)))
    }

    /// The checks of the specification's section on `m.olm.v1.curve25519-aes-sha2`, as the machine makes them.
    fn read_payload(
        &self,
        plaintext: &[u8],
        sender: OwnedUserId,
        sender_curve25519: String,
    ) -> Option<ForwardedKey> {
        let kind: Kind = serde_json::from_slice(plaintext).ok()?;
        if kind.event_type != FORWARDED {
            return None;
        }
        let Payload { sender: inner, recipient, recipient_keys, content } =
            serde_json::from_slice(plaintext).ok()?;
        let own = self.machine.identity_keys().ed25519.to_base64();
        let bound = inner == sender && recipient == self.user_id() && recipient_keys.ed25519 == own;
        (bound && content.algorithm == MEGOLM).then(|| ForwardedKey {
            sender,
            sender_curve25519,
            room_id: content.room_id,
            session_id: content.session_id,
            creator_curve25519: content.sender_key,
            creator_ed25519: content.sender_claimed_ed25519_key,
            key: content.session_key,
        })
    }

    /// Takes a key into the key store that [`ForwardedKey::open`] found to be true. What is there already and
    /// reaches further back, or is known to be its maker's, stays as it is: the machine merges the two.
    ///
    /// The session counts as one whose maker nobody vouches for.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store fails.
    pub async fn take_forwarded(&self, key: OpeningKey) -> Result<(), CryptoError> {
        let store = self.machine.store();
        store.import_exported_room_keys(vec![key.0], |_, _| {}).await?;
        Ok(())
    }
}

/// A forwarded key that opens the event for which it was asked, from that event on.
pub struct OpeningKey(ExportedRoomKey);

impl std::fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpeningKey(..)")
    }
}

impl ForwardedKey {
    /// Opens an event of `room`, whose Megolm message is `ciphertext` (base64), with the key. Returns it cut off at
    /// the event: the keeper has no use for what was before.
    ///
    /// That the event opens proves the key to be the session's: the message is signed with the key that is the
    /// session's id, and authenticated with one that comes from the ratchet. It proves nothing about whose session
    /// it is.
    ///
    /// # Errors
    ///
    /// [`ForgedKey`] says what is wrong with it.
    pub fn open(
        &self,
        room: &RoomId,
        session_id: &str,
        ciphertext: &str,
    ) -> Result<OpeningKey, ForgedKey> {
        if self.room_id != room || self.session_id != session_id {
            return Err(ForgedKey::OtherSession);
        }
        let mut session = InboundGroupSession::import(&self.key, MegolmConfig::version_1());
        if session.session_id() != session_id {
            return Err(ForgedKey::WrongId);
        }
        let message =
            MegolmMessage::from_base64(ciphertext).map_err(|_decode| ForgedKey::DoesNotOpen)?;
        let index = message.message_index();
        if session.first_known_index() > index {
            return Err(ForgedKey::TooLate);
        }
        let opened = session.decrypt(&message).map_err(|_decrypt| ForgedKey::DoesNotOpen)?;
        let plaintext = Zeroizing::new(opened.plaintext);
        let made_for = serde_json::from_slice::<MadeFor>(&plaintext).ok();
        if made_for.is_none_or(|made_for| made_for.room_id != room) {
            return Err(ForgedKey::OtherRoom);
        }
        let session_key = session.export_at(index).ok_or(ForgedKey::TooLate)?;
        let maker = Curve25519PublicKey::from_base64(&self.creator_curve25519)
            .map_err(|_key| ForgedKey::MalformedMaker)?;
        let signer = Ed25519PublicKey::from_base64(&self.creator_ed25519)
            .map_err(|_key| ForgedKey::MalformedMaker)?;
        let mut sender_claimed_keys = SigningKeys::new();
        sender_claimed_keys.insert(DeviceKeyAlgorithm::Ed25519, signer.into());
        Ok(OpeningKey(ExportedRoomKey {
            algorithm: EventEncryptionAlgorithm::MegolmV1AesSha2,
            room_id: room.to_owned(),
            sender_key: maker,
            session_id: session_id.to_owned(),
            session_key,
            sender_claimed_keys,
            forwarding_curve25519_key_chain: Vec::new(),
            shared_history: false,
        }))
    }
}

#[derive(Deserialize)]
struct MadeFor {
    room_id: OwnedRoomId,
}

/// The envelope of an Olm message from somebody who was asked.
fn read_outer(event: &Raw<AnyToDeviceEvent>, asked: &BTreeSet<OwnedUserId>) -> Option<Outer> {
    let json = event.json().get();
    if json.len() > LONGEST_MESSAGE {
        return None;
    }
    let kind: Kind = serde_json::from_str(json).ok()?;
    if kind.event_type != "m.room.encrypted" {
        return None;
    }
    let outer: Outer = serde_json::from_str(json).ok()?;
    (outer.event_type == kind.event_type
        && outer.content.algorithm == OLM
        && asked.contains(&outer.sender))
    .then_some(outer)
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, owned_user_id, room_id};
    use serde_json::{Value, json};
    use vodozemac::megolm::GroupSession;

    use super::*;

    fn room() -> &'static RoomId {
        room_id!("!room:localhost")
    }

    /// A session of somebody's, and what it said at its third index in a room.
    struct Said {
        session: GroupSession,
        held: InboundGroupSession,
        ciphertext: String,
    }

    impl Said {
        fn in_room(payload: &Value) -> Self {
            let mut session = GroupSession::new(MegolmConfig::version_1());
            let held = InboundGroupSession::new(&session.session_key(), MegolmConfig::version_1());
            session.encrypt("0");
            session.encrypt("1");
            let ciphertext = session.encrypt(payload.to_string()).to_base64();
            Self { session, held, ciphertext }
        }

        fn name() -> Self {
            Self::in_room(&json!({ "type": "m.room.name", "room_id": room() }))
        }

        fn key_at(&mut self, index: u32) -> ForwardedKey {
            ForwardedKey {
                sender: owned_user_id!("@bob:localhost"),
                sender_curve25519: String::new(),
                room_id: room().to_owned(),
                session_id: self.session.session_id(),
                creator_curve25519: Curve25519PublicKey::from([7; 32]).to_base64(),
                creator_ed25519: self.session.session_id(),
                key: self.held.export_at(index).unwrap(),
            }
        }

        fn open(&self, key: &ForwardedKey) -> Result<OpeningKey, ForgedKey> {
            key.open(room(), &self.session.session_id(), &self.ciphertext)
        }
    }

    #[test]
    fn a_true_key_opens_the_event_and_is_cut_off_at_it() {
        let mut said = Said::name();
        let key = said.key_at(0);
        let opening = said.open(&key).unwrap();
        let taken = InboundGroupSession::import(&opening.0.session_key, MegolmConfig::version_1());
        assert_eq!(taken.first_known_index(), 2);
    }

    #[test]
    fn a_key_of_another_session_or_room_is_none() {
        let (mut said, mut other) = (Said::name(), Said::name());
        assert_eq!(said.open(&other.key_at(0)).unwrap_err(), ForgedKey::OtherSession);
        let mut elsewhere = said.key_at(0);
        elsewhere.room_id = owned_room_id!("!other:localhost");
        assert_eq!(said.open(&elsewhere).unwrap_err(), ForgedKey::OtherSession);
    }

    #[test]
    fn a_key_under_another_sessions_id_is_none() {
        let (said, mut other) = (Said::name(), Said::name());
        let mut lie = other.key_at(0);
        lie.session_id = said.session.session_id();
        assert_eq!(said.open(&lie).unwrap_err(), ForgedKey::WrongId);
    }

    #[test]
    fn a_key_that_begins_after_the_event_is_none() {
        let mut said = Said::name();
        said.session.encrypt("3");
        let late = said.key_at(3);
        assert_eq!(said.open(&late).unwrap_err(), ForgedKey::TooLate);
    }

    /// The signing key is the true one, the ratchet is not: whoever sees the session's id can make that up.
    #[test]
    fn a_key_with_a_ratchet_of_its_own_is_none() {
        let (mut said, mut other) = (Said::name(), Said::name());
        let (truth, lie) = (said.key_at(0), other.key_at(0));
        // Version and index, the ratchet, the signing key.
        let (truth, lie) = (truth.key.to_bytes(), lie.key.to_bytes());
        let forged = [&lie[..133], &truth[133..]].concat();
        let mut key = said.key_at(0);
        key.key = ExportedSessionKey::from_bytes(&forged).unwrap();
        assert_eq!(said.open(&key).unwrap_err(), ForgedKey::DoesNotOpen);
    }

    #[test]
    fn a_key_whose_event_was_made_for_another_room_is_none() {
        let mut said = Said::in_room(&json!({ "type": "m.room.name", "room_id": "!o:localhost" }));
        let key = said.key_at(0);
        assert_eq!(said.open(&key).unwrap_err(), ForgedKey::OtherRoom);
    }

    #[test]
    fn debug_shows_no_key() {
        let mut said = Said::name();
        let key = said.key_at(0);
        let shown = format!("{key:?} {:?}", said.open(&key).unwrap());
        assert!(!shown.contains(&key.key.to_base64()));
    }
}
