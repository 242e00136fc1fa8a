//! Reading sealed events from outside: what anybody can tell without a key.

use std::collections::BTreeMap;

use serde_json::Value;
use vodozemac::megolm::MegolmMessage;

/// Where in which Megolm session an event was encrypted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MegolmPlace {
    pub session_id: String,
    pub index: u32,
}

/// The place of an `m.room.encrypted` event; none for others and for redacted ones.
pub fn megolm_place(event: &Value) -> Option<MegolmPlace> {
    let content = &event["content"];
    let message = MegolmMessage::from_base64(content["ciphertext"].as_str()?).ok()?;
    let session_id = content["session_id"].as_str()?.to_owned();
    Some(MegolmPlace { session_id, index: message.message_index() })
}

/// The places at which more than one event stands, with the ids of the events.
pub fn reused_places(events: &[Value]) -> BTreeMap<MegolmPlace, Vec<String>> {
    let mut places: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for event in events {
        let Some(place) = megolm_place(event) else { continue };
        let id = event["event_id"].as_str().unwrap_or_default().to_owned();
        places.entry(place).or_default().push(id);
    }
    places.retain(|_, ids| ids.len() > 1);
    places
}
