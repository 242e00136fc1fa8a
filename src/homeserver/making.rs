//! Making rooms, and having addresses lead to them.

use std::collections::BTreeMap;

use bytes::Bytes;
use ruma::{OwnedRoomId, RoomAliasId, RoomId};
use serde::Deserialize;
use serde_json::{Value as JsonValue, json as object};

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

    /// The addresses of the own server that lead to a room (client-server API, "GET /rooms/{roomId}/aliases"). Only
    /// looks.
    pub async fn aliases(&self, room_id: &RoomId) -> Result<Vec<String>, HomeserverError> {
        #[derive(Deserialize)]
        struct Aliases {
            aliases: Vec<String>,
        }
        let path = Path::v3(&["rooms", room_id.as_str(), "aliases"]);
        let answer = self.get(Endpoint::Aliases, path).await?;
        read::<Aliases>(Endpoint::Aliases, &answer).map(|answer| answer.aliases)
    }

    /// Has an address lead to a room (client-server API, "PUT /directory/room/{roomAlias}"). Refused (409) where it
    /// leads somewhere already.
    pub async fn put_alias(
        &self,
        alias: &RoomAliasId,
        room_id: &RoomId,
    ) -> Result<(), HomeserverError> {
        let endpoint = Endpoint::Directory;
        let path = Path::v3(&["directory", "room", alias.as_str()]);
        let body = json(endpoint, &object!({ "room_id": room_id }))?;
        self.put(endpoint, path, body).await.map(drop)
    }

    /// Has an address lead nowhere (client-server API, "DELETE /directory/room/{roomAlias}"). May be repeated: one
    /// that leads nowhere is not there (404).
    pub async fn delete_alias(&self, alias: &RoomAliasId) -> Result<(), HomeserverError> {
        let endpoint = Endpoint::Directory;
        let path = Path::v3(&["directory", "room", alias.as_str()]);
        let call = self.request(endpoint, http::Method::DELETE, path, Bytes::new());
        self.call(call).await.map(drop)
    }
}
