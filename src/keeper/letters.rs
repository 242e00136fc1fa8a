//! Keys on their way: encrypted, and not yet sent.

use std::collections::BTreeSet;

use ruma::{DeviceId, UserId};

use crate::{crypto::ToDevice, store::NewGrant};

/// Keys that are encrypted and not sent, with the grants that they need.
#[derive(Default)]
pub(super) struct Letters {
    pub(super) grants: Vec<NewGrant>,
    /// The session of each request, and the request.
    pub(super) requests: Vec<(String, ToDevice)>,
}

impl Letters {
    /// Whom these letters give a key of a session that opens its event at `message_index`.
    pub(super) fn holders(
        &self,
        session_id: &str,
        message_index: u32,
    ) -> BTreeSet<(&UserId, &DeviceId)> {
        let opens = |grant: &&NewGrant| {
            grant.session_id == session_id && grant.message_index <= message_index
        };
        let grants = self.grants.iter().filter(opens);
        grants.map(|grant| (grant.user_id.as_ref(), grant.device_id.as_ref())).collect()
    }
}
