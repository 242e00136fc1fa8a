//! What the long poll last said of the keeper's own device, and messages of the device to itself: whether they come
//! back.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OneTimeKeyAlgorithm, UserId};
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::homeserver::SyncSlice;

/// The type of the messages that the device sends to itself.
pub const ECHO: &str = "org.statekeeper.echo";
/// How many of them are awaited at a time.
const MOST_AWAITED: usize = 16;

/// What the long poll last said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// When it last said anything, in milliseconds.
    pub at: Option<i64>,
    /// How many one-time keys of the device the homeserver has.
    pub one_time_keys: Option<u64>,
    /// Whether the homeserver has a fallback key of it that nobody used.
    pub fallback_key: Option<bool>,
}

/// The last [`Beat`], and who waits for a message.
#[derive(Debug, Default)]
pub struct Heartbeat {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: Beat,
    awaited: HashMap<String, oneshot::Sender<()>>,
}

impl Heartbeat {
    /// Takes in what the long poll said at `now` (milliseconds); `keeper` is whose messages count.
    pub(super) fn hear(&self, slice: &SyncSlice, keeper: &UserId, now: i64) {
        let mut inner = self.lock();
        let counts = &slice.one_time_keys_counts;
        let signed = counts.get(&OneTimeKeyAlgorithm::SignedCurve25519);
        inner.last = Beat {
            at: Some(now),
            one_time_keys: signed.map(|count| u64::from(*count)).or(inner.last.one_time_keys),
            fallback_key: slice
                .unused_fallback_keys
                .as_ref()
                .map(|unused| unused.contains(&OneTimeKeyAlgorithm::SignedCurve25519))
                .or(inner.last.fallback_key),
        };
        if inner.awaited.is_empty() {
            return;
        }
        for event in &slice.to_device {
            let Some(nonce) = echo(event.json().get(), keeper) else { continue };
            if let Some(waiting) = inner.awaited.remove(&nonce) {
                // Whoever has stopped waiting does not hear it.
                let _ = waiting.send(());
            }
        }
    }

    /// What the long poll last said.
    pub fn last(&self) -> Beat {
        self.lock().last
    }

    /// Awaits the message with this nonce.
    pub(super) fn await_echo(&self, nonce: String) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.lock();
        inner.awaited.retain(|_, waiting| !waiting.is_closed());
        if inner.awaited.len() < MOST_AWAITED {
            inner.awaited.insert(nonce, sender);
        }
        receiver
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The nonce of a message of the keeper's to itself.
fn echo(json: &str, keeper: &UserId) -> Option<String> {
    #[derive(Deserialize)]
    struct Content {
        nonce: String,
    }
    #[derive(Deserialize)]
    struct Echo {
        #[serde(rename = "type")]
        event_type: String,
        sender: String,
        content: Content,
    }
    // Most are something else, and large.
    if !json.contains(ECHO) {
        return None;
    }
    let event: Echo = serde_json::from_str(json).ok()?;
    (event.event_type == ECHO && event.sender == keeper.as_str()).then_some(event.content.nonce)
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_keepers_own_message_is_an_echo() {
        let keeper = user_id!("@keeper:localhost");
        let message = |event_type: &str, sender: &str| {
            json!({ "type": event_type, "sender": sender, "content": { "nonce": "n" } }).to_string()
        };
        let heard = |text: &str| echo(text, keeper);
        assert_eq!(heard(&message(ECHO, keeper.as_str())).as_deref(), Some("n"));
        assert_eq!(heard(&message(ECHO, "@mallory:localhost")), None);
        assert_eq!(heard(&message("m.room.encrypted", keeper.as_str())), None);
        assert_eq!(heard(&json!({ "type": ECHO }).to_string()), None);
    }
}
