//! Which cross-signing identity vouches for a device that encrypted a room event.

use matrix_sdk_common::deserialized_responses::EncryptionInfo;
use matrix_sdk_crypto::olm::{KnownSenderData, SenderData};
use ruma::RoomId;

use super::{CryptoError, KeeperDevice};

/// The public master keys, unpadded base64, that vouch for a device when it is judged by what it encrypted.
///
/// The library judges a session once, when its key comes, and keeps to that. The owner may have another identity
/// since, which may be somebody else: so today's identity is asked about as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vouchers {
    /// The one that the owner has now.
    pub newest: Option<String>,
    /// The one by which the session was judged when its key came; `None` where the newest signed the device itself.
    pub judged_by: Option<String>,
}

impl Vouchers {
    /// Whether all of them are the one that counts.
    pub fn are_all(&self, counting: &str) -> bool {
        [&self.newest, &self.judged_by].into_iter().flatten().all(|key| key == counting)
    }
}

impl KeeperDevice {
    /// Who vouches, as of now, for the device that encrypted an event of the room.
    pub(super) async fn vouchers(
        &self,
        room: &RoomId,
        info: &EncryptionInfo,
    ) -> Result<Vouchers, CryptoError> {
        // The identity is read before and after the device: the signature is by it only if it is the same.
        let before = self.master_key_of(&info.sender).await?;
        let device = match &info.sender_device {
            Some(device) => self.machine.get_device(&info.sender, device, None).await?,
            None => None,
        };
        let signed = device.is_some_and(|device| device.is_cross_signed_by_owner());
        let judged_by = match info.session_id() {
            Some(session) => {
                let session = self.machine.store().get_inbound_group_session(room, session).await?;
                session.and_then(|session| master_key(&session.sender_data))
            }
            None => None,
        };
        let newest = self.master_key_of(&info.sender).await?;
        let by_newest = signed && before == newest;
        Ok(Vouchers { newest, judged_by: judged_by.filter(|_| !by_newest) })
    }
}

fn master_key(sender: &SenderData) -> Option<String> {
    match sender {
        SenderData::SenderVerified(known)
        | SenderData::SenderUnverified(known)
        | SenderData::VerificationViolation(known) => {
            let KnownSenderData { master_key, .. } = known;
            Some(master_key.to_base64())
        }
        SenderData::UnknownDevice { .. } | SenderData::DeviceInfo { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_identity_may_stand_beside_the_one_that_counts() {
        let key = |key: &str| Some(key.to_owned());
        let cases = [
            (key("one"), None, true),
            (key("one"), key("one"), true),
            (key("two"), None, false),
            (key("two"), key("one"), false),
            (key("one"), key("two"), false),
        ];
        for (newest, judged_by, wanted) in cases {
            let vouchers = Vouchers { newest, judged_by };
            assert_eq!(vouchers.are_all("one"), wanted, "{vouchers:?}");
        }
    }
}
