//! The long poll that brings the device what is meant for it alone.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::Method;
use ruma::{
    OneTimeKeyAlgorithm, OwnedRoomId, OwnedUserId, UInt,
    api::client::sync::sync_events::DeviceLists, events::AnyToDeviceEvent, serde::Raw,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{Endpoint, Homeserver, HomeserverError, path::Path, read, unreadable};

/// No rooms, no presence, no account data: room events come in transactions.
const FILTER: &str = r#"{"room":{"rooms":[]},"presence":{"types":[]},"account_data":{"types":[]}}"#;

/// How many events of one sender's are shown of each room by [`Homeserver::own_seals_since`]. One would do: the homeserver
/// reads some ten times as many to find them.
const SEALS: u32 = 10;

/// What one `/sync` brings for the device.
#[derive(Clone, Debug)]
pub struct SyncSlice {
    /// The `since` of the next time. The homeserver deletes the to-device messages of this slice
    /// when it sees it, so whatever the slice holds must be on disk first.
    pub next_batch: String,
    /// To-device messages in the order of their arrival, unread.
    pub to_device: Vec<Raw<AnyToDeviceEvent>>,
    /// Users whose devices changed, and users with whom no encrypted room is shared any more.
    /// Entries that are no user ids are left out.
    pub device_lists: DeviceLists,
    /// How many one-time keys are left on the homeserver, by algorithm.
    pub one_time_keys_counts: BTreeMap<OneTimeKeyAlgorithm, UInt>,
    /// The algorithms with an unused fallback key on the homeserver; `None` if it does not say.
    pub unused_fallback_keys: Option<Vec<OneTimeKeyAlgorithm>>,
}

#[derive(Deserialize)]
struct Answer {
    next_batch: String,
    to_device: Option<Box<RawValue>>,
    device_lists: Option<Box<RawValue>>,
    device_one_time_keys_count: Option<Box<RawValue>>,
    device_unused_fallback_key_types: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct ToDevice {
    #[serde(default)]
    events: Vec<Raw<AnyToDeviceEvent>>,
}

#[derive(Default, Deserialize)]
struct Lists {
    #[serde(default)]
    changed: Vec<Box<RawValue>>,
    #[serde(default)]
    left: Vec<Box<RawValue>>,
}

impl Homeserver {
    /// Waits up to `timeout` for something for the device (client-server API, "GET /sync", with a
    /// filter that asks for no room). `since` is the last slice's `next_batch`.
    ///
    /// May be repeated with the same `since`: the same to-device messages come again, until a later
    /// `since` confirms them.
    ///
    /// # Errors
    ///
    /// [`HomeserverError::Unreadable`] if there is no `next_batch` or if the to-device messages are
    /// no list: going on would lose them.
    pub async fn sync(
        &self,
        since: Option<&str>,
        timeout: Duration,
    ) -> Result<SyncSlice, HomeserverError> {
        let mut path = Path::v3(&["sync"])
            .query("filter", FILTER)
            .query("set_presence", "offline")
            .query("timeout", &timeout.as_millis().to_string());
        if let Some(since) = since {
            path = path.query("since", since);
        }
        let mut call = self.request(Endpoint::Sync, Method::GET, path, Bytes::new());
        call.timeout = call.timeout.saturating_add(timeout);
        slice(read(Endpoint::Sync, &self.call(call).await?)?)
    }
}

impl Homeserver {
    /// The newest of the bot's own encrypted state events in each room where anything happened after `since`, unread, with
    /// their rooms (client-server API, "GET /sync" with a filter). Only looks: the to-device messages that the homeserver
    /// shows beside them are not confirmed. Of a room in which very much happened since, it may show none.
    pub async fn own_seals_since(
        &self,
        since: &str,
    ) -> Result<Vec<(OwnedRoomId, Box<RawValue>)>, HomeserverError> {
        #[derive(Default, Deserialize)]
        struct Answer {
            #[serde(default)]
            rooms: Rooms,
        }
        #[derive(Default, Deserialize)]
        struct Rooms {
            #[serde(default)]
            join: BTreeMap<String, Joined>,
        }
        #[derive(Deserialize)]
        struct Joined {
            #[serde(default)]
            timeline: Timeline,
        }
        #[derive(Default, Deserialize)]
        struct Timeline {
            #[serde(default)]
            events: Vec<Box<RawValue>>,
        }
        let filter = serde_json::json!({
            "presence": { "types": [] },
            "account_data": { "types": [] },
            "room": {
                "timeline": {
                    "types": ["m.room.encrypted"], "senders": [self.user_id()], "limit": SEALS,
                },
                "state": { "types": [] },
                "ephemeral": { "types": [] },
                "account_data": { "types": [] },
            },
        });
        let path = Path::v3(&["sync"])
            .query("filter", &filter.to_string())
            .query("set_presence", "offline")
            .query("timeout", "0")
            .query("since", since);
        let answer: Answer = read(Endpoint::Sync, &self.get(Endpoint::Sync, path).await?)?;
        let joined = answer.rooms.join.into_iter();
        let joined = joined.filter_map(|(room, joined)| Some((room.try_into().ok()?, joined)));
        Ok(joined
            .flat_map(|(room, joined): (OwnedRoomId, Joined)| {
                joined.timeline.events.into_iter().map(move |event| (room.clone(), event))
            })
            .collect())
    }
}

/// Reads the parts one by one, so that an oddity in one does not cost the others.
fn slice(answer: Answer) -> Result<SyncSlice, HomeserverError> {
    let to_device = match answer.to_device {
        Some(raw) => {
            serde_json::from_str::<ToDevice>(raw.get())
                .map_err(|error| unreadable(Endpoint::Sync, &format!("to_device: {error}")))?
                .events
        }
        None => Vec::new(),
    };
    let lists: Lists = lenient(answer.device_lists.as_deref()).unwrap_or_default();
    let mut device_lists = DeviceLists::new();
    device_lists.changed = users(&lists.changed);
    device_lists.left = users(&lists.left);
    let counts: BTreeMap<String, Box<RawValue>> =
        lenient(answer.device_one_time_keys_count.as_deref()).unwrap_or_default();
    Ok(SyncSlice {
        next_batch: answer.next_batch,
        to_device,
        device_lists,
        one_time_keys_counts: counts
            .into_iter()
            .filter_map(|(algorithm, count)| Some((algorithm.into(), lenient(Some(&count))?)))
            .collect(),
        unused_fallback_keys: lenient(answer.device_unused_fallback_key_types.as_deref()),
    })
}

fn users(entries: &[Box<RawValue>]) -> Vec<OwnedUserId> {
    entries.iter().filter_map(|entry| lenient(Some(entry))).collect()
}

/// `raw` as a `T`; `None` if it is not there or not a `T`.
fn lenient<T: DeserializeOwned>(raw: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}
