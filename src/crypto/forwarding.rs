//! Handing on sessions that members made.

use ruma::RoomId;
use serde_json::json;

use super::{CryptoError, KeeperDevice, MEGOLM};

impl KeeperDevice {
    /// Whether the same device made both sessions of a room, as far as the keeper has them.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store fails.
    pub async fn same_creator(
        &self,
        room: &RoomId,
        one: &str,
        other: &str,
    ) -> Result<bool, CryptoError> {
        let store = self.machine.store();
        let one = store.get_inbound_group_session(room, one).await?;
        let other = store.get_inbound_group_session(room, other).await?;
        Ok(one.zip(other).is_some_and(|(one, other)| one.sender_key() == other.sender_key()))
    }

    /// The content of the `m.forwarded_room_key` (spec) that hands a member's session on from `message_index`;
    /// `None` when the keeper does not have it from there. The caller wipes it.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store fails.
    pub async fn forwarded_room_key(
        &self,
        room: &RoomId,
        session_id: &str,
        message_index: u32,
    ) -> Result<Option<serde_json::Value>, CryptoError> {
        let session = self.machine.store().get_inbound_group_session(room, session_id).await?;
        let Some(session) = session.filter(|session| session.first_known_index() <= message_index)
        else {
            return Ok(None);
        };
        let exported = session.export_at_index(message_index).await;
        let claimed = exported.sender_claimed_keys.iter().next().map(|(_, key)| key.to_base64());
        let chain = exported.forwarding_curve25519_key_chain.iter().map(|key| key.to_base64());
        Ok(Some(json!({
            "algorithm": MEGOLM,
            "room_id": room,
            "session_id": session_id,
            "session_key": exported.session_key.to_base64(),
            "sender_key": exported.sender_key.to_base64(),
            "sender_claimed_ed25519_key": claimed,
            "forwarding_curve25519_key_chain": chain.collect::<Vec<String>>(),
        })))
    }
}
