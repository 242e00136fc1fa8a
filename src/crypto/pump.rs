//! Requests that the Olm machine wants sent: keys up, device lists and one-time keys down.
//!
//! The own server's users are asked for first and by themselves. What concerns other servers goes in a
//! request of its own that nobody waits for longer than his patience: a dead server is its own users'
//! trouble. When it answers after all, its users are reported as late.

use std::collections::BTreeMap;

use matrix_sdk_crypto::types::requests::{
    AnyIncomingResponse, AnyOutgoingRequest, KeysQueryRequest, OutgoingRequest, ToDeviceRequest,
};
use ruma::{
    OwnedTransactionId, OwnedUserId, TransactionId, UserId,
    api::client::keys::{claim_keys, get_keys, upload_signing_keys},
};

use super::{CryptoError, KeeperDevice, Published};

impl KeeperDevice {
    /// Publishes the device and its cross-signing identity where the homeserver does not have them yet.
    /// Recovery: each request says what should be, so repeating one after a kill changes nothing.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the homeserver refuses or the key store fails.
    pub async fn publish(&self) -> Result<(), CryptoError> {
        // Synapse takes no identity twice: one that another has replaced is refused for ever, so a new one is made.
        let replaced = self.shown().await?.identity == Published::Other;
        let requests = self.machine.bootstrap_cross_signing(replaced).await?;
        if let Some(request) = &requests.upload_keys_req {
            self.perform(request).await?;
        }
        let keys = requests.upload_signing_keys_req;
        let mut request = upload_signing_keys::v3::Request::new();
        request.master_key = keys.master_key.map(|key| key.to_raw());
        request.self_signing_key = keys.self_signing_key.map(|key| key.to_raw());
        request.user_signing_key = keys.user_signing_key.map(|key| key.to_raw());
        let response = self.homeserver.upload_signing_keys(request).await?;
        let response = AnyIncomingResponse::SigningKeysUpload(&response);
        self.machine.mark_request_as_sent(&TransactionId::new(), response).await?;
        self.homeserver.upload_signatures(requests.upload_signatures_req).await?;
        self.pump().await?;
        if !self.is_published().await? {
            self.republish().await?;
        }
        Ok(())
    }

    /// Whether the homeserver has the device's keys. It may have lost them with the device, and been given the
    /// device alone before a kill, while the machine believes that they are there.
    async fn is_published(&self) -> Result<bool, CryptoError> {
        let own = self.query_for(&[self.user_id().to_owned()]);
        let answer = self.homeserver.query_keys(own).await?;
        let devices = answer.device_keys.get(self.user_id());
        Ok(devices.is_some_and(|devices| devices.contains_key(self.device_id())))
    }

    /// Publishes the device's keys anew: the homeserver made the device again after it had lost it, and the
    /// machine believes that they are there. They are the same keys with the same signatures.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the homeserver refuses or the key store fails.
    pub async fn republish(&self) -> Result<(), CryptoError> {
        let own = self.machine.get_device(self.user_id(), self.device_id(), None).await?;
        if let Some(own) = own {
            let mut request = ruma::api::client::keys::upload_keys::v3::Request::new();
            request.device_keys = Some(own.as_device_keys().to_raw());
            self.homeserver.upload_keys(request).await?;
        }
        Ok(())
    }

    /// Sends what the machine wants sent, until it wants nothing more from the own server.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the homeserver fails or the key store does.
    pub async fn pump(&self) -> Result<(), CryptoError> {
        let _one_at_a_time = self.pumping.lock().await;
        // A second round takes what the first one caused; a third is never needed, a hundredth a defect.
        for _ in 0..8 {
            let requests = self.machine.outgoing_requests().await?;
            let mut performed = false;
            for request in &requests {
                performed |= self.perform(request).await?;
            }
            if !performed {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Performs one request. Returns whether it is settled: false when it goes on in the background.
    async fn perform(&self, outgoing: &OutgoingRequest) -> Result<bool, CryptoError> {
        let id = outgoing.request_id();
        match outgoing.request() {
            AnyOutgoingRequest::KeysUpload(request) => {
                let response = self.homeserver.upload_keys(request.clone()).await?;
                self.machine.mark_request_as_sent(id, &response).await?;
            }
            AnyOutgoingRequest::KeysQuery(request) => return self.query(id, request).await,
            AnyOutgoingRequest::SignatureUpload(request) => {
                let response = self.homeserver.upload_signatures(request.clone()).await?;
                self.machine.mark_request_as_sent(id, &response).await?;
            }
            AnyOutgoingRequest::ToDeviceRequest(request) => {
                self.send_own(request).await?;
                let response =
                    ruma::api::client::to_device::send_event_to_device::v3::Response::new();
                self.machine.mark_request_as_sent(id, &response).await?;
            }
            AnyOutgoingRequest::KeysClaim(request) => {
                let response = self.homeserver.claim_keys(request.clone()).await?;
                self.machine.mark_request_as_sent(id, &response).await?;
            }
            // In-room verification: the keeper verifies nobody.
            AnyOutgoingRequest::RoomMessage(_) => return Ok(false),
        }
        Ok(true)
    }

    /// The machine's own messages: dummies that mend a broken Olm session.
    pub(super) async fn send_own(&self, request: &ToDeviceRequest) -> Result<(), CryptoError> {
        self.written().await?;
        let body = serde_json::to_string(&serde_json::json!({ "messages": request.messages }))?;
        self.homeserver
            .send_to_device(&request.event_type.to_string(), request.txn_id.as_str(), body)
            .await?;
        Ok(())
    }

    async fn query(
        &self,
        id: &TransactionId,
        request: &KeysQueryRequest,
    ) -> Result<bool, CryptoError> {
        let (local, remote): (Vec<_>, Vec<_>) =
            request.device_keys.keys().cloned().partition(|user| self.is_local(user));
        if remote.is_empty() {
            let response = self.homeserver.query_keys(self.query_for(&local)).await?;
            self.machine.mark_request_as_sent(id, &response).await?;
            return Ok(true);
        }
        let mut answer = get_keys::v3::Response::new();
        if !local.is_empty() {
            answer = self.homeserver.query_keys(self.query_for(&local)).await?;
            // Under an id of its own: known now, while the whole request still waits for the others.
            self.machine.mark_request_as_sent(&TransactionId::new(), &answer).await?;
        }
        if *self.remote.borrow() == 0 {
            self.query_remote(id.to_owned(), remote, answer);
        }
        Ok(false)
    }

    pub(super) fn query_for(&self, users: &[OwnedUserId]) -> get_keys::v3::Request {
        let mut request = get_keys::v3::Request::new();
        request.timeout = Some(self.patience);
        request.device_keys = users.iter().map(|user| (user.clone(), Vec::new())).collect();
        request
    }

    fn query_remote(
        &self,
        id: OwnedTransactionId,
        users: Vec<OwnedUserId>,
        mut answer: get_keys::v3::Response,
    ) {
        let device = self.clone();
        self.remote.send_modify(|under_way| *under_way += 1);
        tokio::spawn(async move {
            match device.homeserver.query_keys(device.query_for(&users)).await {
                Ok(mut response) => {
                    answer.failures.append(&mut response.failures);
                    answer.device_keys.append(&mut response.device_keys);
                    answer.master_keys.append(&mut response.master_keys);
                    answer.self_signing_keys.append(&mut response.self_signing_keys);
                    answer.user_signing_keys.append(&mut response.user_signing_keys);
                    if let Err(error) = device.conclude_query(&id, &users, &answer).await {
                        tracing::warn!(%error, "devices of other servers' users could not be taken in");
                    }
                    let _ = device.late.send(users);
                }
                Err(error) => {
                    tracing::warn!(%error, "other servers' users could not be asked for their devices");
                }
            }
            device.remote.send_modify(|under_way| *under_way = under_way.saturating_sub(1));
        });
    }

    /// Takes a query's answer in under an id that is valid now: whoever collected requests meanwhile has made
    /// the old one void, and under a void id the users would be asked for again, for ever.
    async fn conclude_query(
        &self,
        id: &TransactionId,
        users: &[OwnedUserId],
        answer: &get_keys::v3::Response,
    ) -> Result<(), CryptoError> {
        let _one_at_a_time = self.pumping.lock().await;
        let requests = self.machine.outgoing_requests().await?;
        let current = requests.iter().find(|request| match request.request() {
            AnyOutgoingRequest::KeysQuery(query) => {
                users.iter().any(|user| query.device_keys.contains_key(user))
            }
            _ => false,
        });
        let id = current.map_or(id, |request| request.request_id());
        Ok(self.machine.mark_request_as_sent(id, answer).await?)
    }

    /// Sees to Olm sessions with every device of `users`. Own server first; others are waited for as long as
    /// patience lasts and reported as late after that.
    ///
    /// Recovery: a one-time key that was claimed when the process died is lost, and another one is claimed.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the own server fails or the key store does.
    pub async fn claim_missing(&self, users: &[OwnedUserId]) -> Result<(), CryptoError> {
        let (local, remote): (Vec<&UserId>, Vec<&UserId>) =
            users.iter().map(AsRef::as_ref).partition(|user| self.is_local(user));
        if !local.is_empty() {
            let _one_at_a_time = self.claiming.lock().await;
            if let Some((id, mut request)) =
                self.machine.get_missing_sessions(local.into_iter()).await?
            {
                // The machine adds broken sessions of anybody's: another server holds up nobody here.
                let (near, far) = std::mem::take(&mut request.one_time_keys)
                    .into_iter()
                    .partition(|(user, _)| self.is_local(user));
                request.one_time_keys = near;
                if !request.one_time_keys.is_empty() {
                    let response = self.homeserver.claim_keys(request).await?;
                    self.machine.mark_request_as_sent(&id, &response).await?;
                }
                let far: BTreeMap<_, _> = far;
                if !far.is_empty() {
                    self.claim_remote(TransactionId::new(), claim_keys::v3::Request::new(far));
                }
            }
        }
        if !remote.is_empty()
            && let Some((id, request)) =
                self.machine.get_missing_sessions(remote.into_iter()).await?
        {
            self.claim_remote(id, request);
        }
        Ok(())
    }

    fn claim_remote(&self, id: OwnedTransactionId, mut request: claim_keys::v3::Request) {
        let device = self.clone();
        request.timeout = Some(self.patience);
        let users: Vec<OwnedUserId> = request.one_time_keys.keys().cloned().collect();
        self.remote.send_modify(|under_way| *under_way += 1);
        tokio::spawn(async move {
            match device.homeserver.claim_keys(request).await {
                Ok(response) => {
                    if let Err(error) = device.machine.mark_request_as_sent(&id, &response).await {
                        tracing::warn!(%error, "one-time keys of other servers could not be taken in");
                    }
                    let _ = device.late.send(users);
                }
                Err(error) => {
                    tracing::warn!(%error, "one-time keys of other servers could not be claimed");
                }
            }
            device.remote.send_modify(|under_way| *under_way = under_way.saturating_sub(1));
        });
    }

    /// Makes the devices of `users` known and sees to Olm sessions with them, ahead of a visit that does the same
    /// and waits for the disk.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the own server fails or the key store does.
    pub async fn meet(&self, users: &[OwnedUserId]) -> Result<(), CryptoError> {
        self.track_soon(users.iter().map(AsRef::as_ref)).await?;
        self.pump().await?;
        self.claim_missing(users).await
    }

    /// Waits until nothing is under way with other servers, at most as long as patience lasts.
    pub async fn settled(&self) {
        let mut remote = self.remote.subscribe();
        let _ = tokio::time::timeout(self.patience, remote.wait_for(|count| *count == 0)).await;
    }
}
