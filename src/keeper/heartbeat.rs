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

/// With fewer one-time keys than this there is something wrong: a keeper tops them up to fifty.
pub const FEW_KEYS: u64 = 10;
/// For how long there have to be few, in milliseconds: a new upload is under way as soon as it is heard.
const FEW_LAST: i64 = 10_000;

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
    /// Since when each answer says that there are few one-time keys, in milliseconds.
    few_since: Option<i64>,
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
        inner.few_since = match inner.last.one_time_keys {
            Some(0..FEW_KEYS) => inner.few_since.or(Some(now)),
            _ => None,
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

    /// Whether the homeserver has run out of one-time keys, whatever the keeper uploads.
    pub(super) fn lacks_keys(&self, now: i64) -> bool {
        self.lock().few_since.is_some_and(|since| now.saturating_sub(since) >= FEW_LAST)
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
    fn keys_are_lacking_when_there_were_few_for_a_while_and_are_not_once_there_are_more() {
        let (heartbeat, keeper) = (Heartbeat::default(), user_id!("@keeper:localhost"));
        let hear = |count: u32, now: i64| {
            let count = (OneTimeKeyAlgorithm::SignedCurve25519, count.into());
            let slice = SyncSlice {
                next_batch: String::new(),
                to_device: Vec::new(),
                device_lists: ruma::api::client::sync::sync_events::DeviceLists::new(),
                one_time_keys_counts: [count].into(),
                unused_fallback_keys: None,
            };
            heartbeat.hear(&slice, keeper, now);
            heartbeat.lacks_keys(now)
        };
        assert!(!hear(0, 0));
        assert!(!hear(3, 9_000));
        assert!(hear(0, 10_000));
        assert!(!hear(50, 11_000));
        assert!(!hear(0, 12_000));
    }

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
