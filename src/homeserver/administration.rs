//! Synapse's admin API, for which a server administrator's token is needed.

use ruma::RoomId;
use secrecy::SecretString;
use serde_json::json as object;

use super::{Endpoint, Homeserver, HomeserverError, Identity, json, path::Path};

impl Homeserver {
    /// Gives the bot the highest power that a local member of the room has, and invites it if it is not in the room and
    /// cannot join it by itself (Synapse's admin API, "Make Room Admin"). `token` is a server administrator's.
    ///
    /// May be repeated at will: what stands already stays so.
    pub async fn make_room_admin(
        &self,
        room_id: &RoomId,
        token: SecretString,
    ) -> Result<(), HomeserverError> {
        let endpoint = Endpoint::MakeRoomAdmin;
        let segments = ["rooms", room_id.as_str(), "make_room_admin"];
        let path = Path::under("/_synapse/admin/v1", &segments);
        let body = json(endpoint, &object!({ "user_id": self.user_id() }))?;
        let mut call = self.request(endpoint, http::Method::POST, path, body);
        call.identity = Identity::Login(token);
        self.call(call).await.map(drop)
    }
}
