//! The Olm sessions that are in use, each once: whoever encrypts with a session moves the one ratchet that there is.
//!
//! The machine keeps sessions of its own at hand, and gets them from the key store, that is from here; so what it moves
//! is what stands here. Nothing is ever dropped: a session that was read from the disk again, while somebody still moves
//! the one that was read before, would encrypt two messages with one key.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use matrix_sdk_crypto::{olm::Session, types::DeviceKeys};
use ruma::SecondsSinceUnixEpoch;
use vodozemac::{Curve25519PublicKey, olm};

/// An Olm session without the copy of the own device's keys that the machine's sessions carry.
#[derive(Clone)]
pub(super) struct Ratchet {
    /// The session itself.
    pub(super) inner: Arc<tokio::sync::Mutex<olm::Session>>,
    session_id: Arc<str>,
    sender_key: Curve25519PublicKey,
    created_using_fallback_key: bool,
    creation_time: SecondsSinceUnixEpoch,
    last_use_time: SecondsSinceUnixEpoch,
}

impl std::fmt::Debug for Ratchet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ratchet").field("session_id", &self.session_id).finish_non_exhaustive()
    }
}

impl Ratchet {
    fn new(session: &Session) -> Self {
        Self {
            inner: session.inner.clone(),
            session_id: session.session_id.clone(),
            sender_key: session.sender_key,
            created_using_fallback_key: session.created_using_fallback_key,
            creation_time: session.creation_time,
            last_use_time: session.last_use_time,
        }
    }

    /// The machine's form of it, which shares the ratchet.
    pub(super) fn session(&self, own: &DeviceKeys) -> Session {
        Session {
            inner: self.inner.clone(),
            session_id: self.session_id.clone(),
            sender_key: self.sender_key,
            our_device_keys: own.clone(),
            created_using_fallback_key: self.created_using_fallback_key,
            creation_time: self.creation_time,
            last_use_time: self.last_use_time,
        }
    }
}

/// The sessions with one device.
#[derive(Debug, Default)]
struct OfDevice {
    sessions: Vec<Ratchet>,
    /// Whether these are all that there are. Until the disk was read, they are those that came since the start.
    complete: bool,
}

impl OfDevice {
    fn add(&mut self, session: &Session) {
        if !self.sessions.iter().any(|known| known.session_id == session.session_id) {
            self.sessions.push(Ratchet::new(session));
        }
    }
}

/// The Olm sessions by the other device's Curve25519 key, in base64.
#[derive(Debug, Default)]
pub(super) struct Ratchets {
    by_device: Mutex<HashMap<String, OfDevice>>,
}

impl Ratchets {
    /// All sessions with a device; `None` before the disk was read.
    pub(super) fn get(&self, sender_key: &str) -> Option<Vec<Ratchet>> {
        let by_device = self.lock();
        let known = by_device.get(sender_key).filter(|known| known.complete)?;
        Some(known.sessions.clone())
    }

    /// The session with a device that was made last, as the machine chooses; `None` before the disk was read.
    pub(super) fn newest(&self, sender_key: &str) -> Option<Option<Ratchet>> {
        let by_device = self.lock();
        let known = by_device.get(sender_key).filter(|known| known.complete)?;
        Some(known.sessions.iter().max_by_key(|session| session.creation_time).cloned())
    }

    /// Takes over what the disk holds of a device. A session that is in use already stays the one that it is.
    pub(super) fn fill(&self, sender_key: &str, read: &[Session]) {
        let mut by_device = self.lock();
        let known = by_device.entry(sender_key.to_owned()).or_default();
        if !known.complete {
            let since = std::mem::take(&mut known.sessions);
            let is_later = |session: &&Session| {
                !since.iter().any(|known| known.session_id == session.session_id)
            };
            known.sessions = read.iter().filter(is_later).map(Ratchet::new).collect();
            known.sessions.extend(since);
            known.complete = true;
        }
    }

    /// Takes over sessions that the machine has saved: new ones, for the others are known.
    pub(super) fn told(&self, sessions: &[Session]) {
        let mut by_device = self.lock();
        for session in sessions {
            by_device.entry(session.sender_key().to_base64()).or_default().add(session);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, OfDevice>> {
        self.by_device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
