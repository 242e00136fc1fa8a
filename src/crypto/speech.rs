//! Messages of the keeper's own, in rooms where people talk to it: under a Megolm session that the library keeps, which
//! is never one of the state's.

use matrix_sdk_crypto::{CollectStrategy, EncryptionSettings};
use ruma::{OwnedUserId, RoomId, serde::Raw};
use serde_json::Value;

use super::{CryptoError, KeeperDevice};

impl KeeperDevice {
    /// Encrypts a message for the cross-signed devices of `members`, each of whom is given the session first. Returns
    /// the content of the `m.room.encrypted` event. The session's new state is on the disk before: no index of it
    /// is ever taken twice.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the homeserver refuses or the key store fails.
    pub async fn encrypt_message(
        &self,
        room: &RoomId,
        members: &[OwnedUserId],
        (event_type, content): (&str, &Value),
    ) -> Result<Value, CryptoError> {
        let _one_at_a_time = self.speaking.lock().await;
        self.meet(members).await?;
        if members.iter().any(|user| !self.is_local(user)) {
            self.settled().await;
        }
        let settings = EncryptionSettings {
            sharing_strategy: CollectStrategy::IdentityBasedStrategy,
            ..EncryptionSettings::default()
        };
        let members = members.iter().map(AsRef::as_ref);
        let requests = self.machine.share_room_key(room, members, settings).await?;
        for request in requests {
            self.send_own(&request).await?;
            let sent = ruma::api::client::to_device::send_event_to_device::v3::Response::new();
            self.machine.mark_request_as_sent(&request.txn_id, &sent).await?;
        }
        let content = Raw::new(content)?.cast_unchecked();
        let encrypted = self.machine.encrypt_room_event_raw(room, event_type, &content).await?;
        self.written().await?;
        Ok(serde_json::from_str(encrypted.content.json().get())?)
    }
}
