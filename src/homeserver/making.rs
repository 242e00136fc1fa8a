//! Making rooms.

use std::collections::BTreeMap;

use ruma::OwnedRoomId;
use serde::Deserialize;
use serde_json::Value as JsonValue;

use super::{Endpoint, Homeserver, HomeserverError, json, path::Path, read};

/// The room versions that a homeserver offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RoomVersions {
    /// The one that a new room gets.
    pub default: String,
    /// All of them, each with `stable` or `unstable`.
    #[serde(default)]
    pub available: BTreeMap<String, String>,
}

impl Homeserver {
    /// The room versions that the homeserver offers (client-server API, "GET /capabilities"); `None` where it does
    /// not say. Only looks.
    pub async fn room_versions(&self) -> Result<Option<RoomVersions>, HomeserverError> {
        #[derive(Deserialize)]
        struct Answer {
            capabilities: Capabilities,
        }
        #[derive(Deserialize)]
        struct Capabilities {
            #[serde(rename = "m.room_versions")]
            room_versions: Option<RoomVersions>,
        }
        let endpoint = Endpoint::Capabilities;
        let answer = self.get(endpoint, Path::v3(&["capabilities"])).await?;
        read::<Answer>(endpoint, &answer).map(|answer| answer.capabilities.room_versions)
    }

    /// Makes a room (client-server API, "POST /createRoom"). **Not idempotent**: there is no transaction id, and a
    /// repetition makes another room. Whoever may have lost an answer looks among the joined rooms for one with a
    /// creation content of his own before he asks again.
    pub async fn create_room(&self, body: &JsonValue) -> Result<OwnedRoomId, HomeserverError> {
        #[derive(Deserialize)]
        struct Created {
            room_id: OwnedRoomId,
        }
        let endpoint = Endpoint::CreateRoom;
        let answer = self.post(endpoint, Path::v3(&["createRoom"]), json(endpoint, body)?).await?;
        read::<Created>(endpoint, &answer).map(|created| created.room_id)
    }
}
