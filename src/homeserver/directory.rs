//! Addresses, and the rooms that they lead to.

use bytes::Bytes;
use ruma::{OwnedRoomId, OwnedServerName, RoomAliasId, RoomId};
use serde::Deserialize;
use serde_json::json as object;

use super::{Endpoint, Homeserver, HomeserverError, json, path::Path, read};

/// How many servers of an address are asked to let the bot in.
const MOST_SERVERS: usize = 5;

impl Homeserver {
    /// The room that an address leads to, and servers through which it can be joined (client-server API, "GET
    /// /directory/room/{roomAlias}"). Only looks.
    pub async fn resolve_alias(
        &self,
        alias: &RoomAliasId,
    ) -> Result<(OwnedRoomId, Vec<OwnedServerName>), HomeserverError> {
        #[derive(Deserialize)]
        struct Resolved {
            room_id: OwnedRoomId,
            #[serde(default)]
            servers: Vec<String>,
        }
        let endpoint = Endpoint::Directory;
        let path = Path::v3(&["directory", "room", alias.as_str()]);
        let resolved: Resolved = read(endpoint, &self.get(endpoint, path).await?)?;
        let servers = resolved.servers.into_iter().take(MOST_SERVERS);
        Ok((resolved.room_id, servers.filter_map(|name| name.try_into().ok()).collect()))
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
