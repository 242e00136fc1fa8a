//! A state session: a Megolm session that encrypts state events only, never a message.

use ruma::RoomId;
use serde_json::json;
use vodozemac::megolm::{GroupSession, GroupSessionPickle, SessionConfig};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The algorithm of every event and key here (spec, "m.megolm.v1.aes-sha2").
pub const MEGOLM: &str = "m.megolm.v1.aes-sha2";

/// The signed session key at one index: opens the event of that index and those after it, nothing earlier.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct KeySnapshot {
    base64: String,
}

impl KeySnapshot {
    /// From the session key's base64, as it was kept.
    pub fn from_base64(base64: String) -> Self {
        Self { base64 }
    }

    /// The session key in unpadded base64, as `m.room_key` carries it.
    pub fn as_base64(&self) -> &str {
        &self.base64
    }

    /// The content of the `m.room_key` that hands it over (spec, "m.room_key"). It says that the
    /// session's history is not shared (MSC3061), so that no client passes it on in a key bundle past
    /// all policy. That field stands there once: a second spelling of it makes clients drop the message.
    pub fn room_key_content(&self, room: &RoomId, session_id: &str) -> serde_json::Value {
        json!({
            "algorithm": MEGOLM,
            "room_id": room,
            "session_id": session_id,
            "session_key": self.base64,
            "m.shared_history": false,
        })
    }
}

/// Overwrites the session key in the content of an `m.room_key` or `m.forwarded_room_key` that is no longer needed.
pub fn wipe(content: &mut serde_json::Value) {
    for secret in ["/session_key", "/file/key/k"] {
        if let Some(serde_json::Value::String(key)) = content.pointer_mut(secret) {
            key.zeroize();
        }
    }
}

impl std::fmt::Debug for KeySnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeySnapshot(..)")
    }
}

/// One event's ciphertext, and the key that opens it.
pub struct Sealed {
    /// The content of the `m.room.encrypted` state event.
    pub content: serde_json::Value,
    /// The index that it took.
    pub message_index: u32,
    /// The signed session key from just before it.
    pub snapshot: KeySnapshot,
}

/// A Megolm session of the keeper's that encrypts state.
pub struct StateSession {
    inner: GroupSession,
}

impl std::fmt::Debug for StateSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateSession").field("id", &self.inner.session_id()).finish_non_exhaustive()
    }
}

impl StateSession {
    /// A fresh session.
    pub fn new() -> Self {
        Self { inner: GroupSession::new(SessionConfig::version_1()) }
    }

    /// The session that `pickle` was taken from, at the index where that was.
    pub fn from_pickle(pickle: GroupSessionPickle) -> Self {
        Self { inner: GroupSession::from_pickle(pickle) }
    }

    /// All of the session, to be kept encrypted.
    pub fn pickle(&self) -> GroupSessionPickle {
        self.inner.pickle()
    }

    /// Its id: the session's public key in unpadded base64.
    pub fn id(&self) -> String {
        self.inner.session_id()
    }

    /// The index that the next event takes.
    pub fn message_index(&self) -> u32 {
        self.inner.message_index()
    }

    /// The key that opens the next event and those after it.
    pub fn snapshot(&self) -> KeySnapshot {
        KeySnapshot::from_base64(self.inner.session_key().to_base64())
    }

    /// Encrypts `payload` (a state event's plaintext, JSON) as the next event of the session, which moves on.
    /// `sender_key` is the keeper's Curve25519 key in base64, `device_id` its device.
    pub fn seal(&mut self, payload: &str, sender_key: &str, device_id: &str) -> Sealed {
        let message_index = self.inner.message_index();
        let snapshot = self.snapshot();
        let ciphertext = self.inner.encrypt(payload).to_base64();
        let content = json!({
            "algorithm": MEGOLM,
            "ciphertext": ciphertext,
            "device_id": device_id,
            "sender_key": sender_key,
            "session_id": self.inner.session_id(),
        });
        Sealed { content, message_index, snapshot }
    }
}

impl Default for StateSession {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use vodozemac::megolm::{InboundGroupSession, MegolmMessage, SessionKey};

    use super::*;

    fn reader(sealed: &Sealed) -> InboundGroupSession {
        let key = SessionKey::from_base64(sealed.snapshot.as_base64()).unwrap();
        InboundGroupSession::new(&key, SessionConfig::version_1())
    }

    fn message(sealed: &Sealed) -> MegolmMessage {
        MegolmMessage::from_base64(sealed.content["ciphertext"].as_str().unwrap()).unwrap()
    }

    #[test]
    fn a_snapshot_opens_its_own_event_and_later_ones_and_nothing_earlier() {
        let mut session = StateSession::new();
        let first = session.seal("one", "key", "DEVICE");
        let second = session.seal("two", "key", "DEVICE");
        let third = session.seal("three", "key", "DEVICE");

        let mut holder = reader(&second);
        assert_eq!(holder.decrypt(&message(&second)).unwrap().plaintext, b"two");
        assert_eq!(holder.decrypt(&message(&third)).unwrap().plaintext, b"three");
        assert!(holder.decrypt(&message(&first)).is_err());
    }

    #[test]
    fn a_restored_session_goes_on_at_the_next_index() {
        let mut session = StateSession::new();
        let before = session.seal("one", "key", "DEVICE");
        let mut restored = StateSession::from_pickle(session.pickle());
        let after = restored.seal("two", "key", "DEVICE");
        assert_eq!((before.message_index, after.message_index), (0, 1));
        assert_eq!(restored.id(), session.id());
    }

    #[test]
    fn the_room_key_says_once_that_its_history_is_not_shared() {
        let sealed = StateSession::new().seal("one", "key", "DEVICE");
        let content = sealed.snapshot.room_key_content(room_id!("!room:localhost"), "id");
        assert_eq!(content["m.shared_history"], false);
        assert!(!content.to_string().contains("msc3061"));
    }

    #[test]
    fn debug_shows_no_key() {
        let mut session = StateSession::new();
        let sealed = session.seal("one", "key", "DEVICE");
        let shown = format!("{:?} {session:?}", sealed.snapshot);
        assert!(!shown.contains(sealed.snapshot.as_base64()));
    }
}
