//! Keys and to-device messages, and the requests of `matrix-sdk-crypto`.

use std::time::Duration;

use bytes::Bytes;
use matrix_sdk_crypto::types::requests::{
    AnyIncomingResponse, AnyOutgoingRequest, KeysQueryRequest, RoomMessageRequest, ToDeviceRequest,
    UploadSigningKeysRequest,
};
use ruma::{
    api::client::{
        keys::{claim_keys, get_keys, upload_keys, upload_signatures, upload_signing_keys},
        message::send_message_event,
        to_device::send_event_to_device,
    },
    events::MessageLikeEventContent,
};
use serde_json::json as object;

use super::{Endpoint, Homeserver, HomeserverError, json, path::Path, read};

/// What the homeserver may take beyond the time that it was given to ask other servers.
const MARGIN: Duration = Duration::from_secs(10);

/// The answer to an [`AnyOutgoingRequest`], for `OlmMachine::mark_request_as_sent`.
#[derive(Debug)]
#[allow(missing_docs)] // The variants are those of `AnyIncomingResponse`.
pub enum IncomingResponseOwned {
    KeysUpload(upload_keys::v3::Response),
    KeysQuery(get_keys::v3::Response),
    KeysClaim(claim_keys::v3::Response),
    ToDevice(send_event_to_device::v3::Response),
    SignatureUpload(upload_signatures::v3::Response),
    SigningKeysUpload(upload_signing_keys::v3::Response),
    RoomMessage(send_message_event::v3::Response),
}

impl IncomingResponseOwned {
    /// This response in the form that `OlmMachine::mark_request_as_sent` takes.
    pub fn as_any(&self) -> AnyIncomingResponse<'_> {
        match self {
            Self::KeysUpload(response) => AnyIncomingResponse::KeysUpload(response),
            Self::KeysQuery(response) => AnyIncomingResponse::KeysQuery(response),
            Self::KeysClaim(response) => AnyIncomingResponse::KeysClaim(response),
            Self::ToDevice(response) => AnyIncomingResponse::ToDevice(response),
            Self::SignatureUpload(response) => AnyIncomingResponse::SignatureUpload(response),
            Self::SigningKeysUpload(response) => AnyIncomingResponse::SigningKeysUpload(response),
            Self::RoomMessage(response) => AnyIncomingResponse::RoomMessage(response),
        }
    }
}

impl Homeserver {
    /// Carries out a request of `OlmMachine::outgoing_requests`, once.
    ///
    /// `query_timeout` is how long the homeserver may wait for other servers in a key query or claim,
    /// unless the request itself asks for less. As idempotent as the operation it stands for.
    pub async fn perform(
        &self,
        request: &AnyOutgoingRequest,
        query_timeout: Duration,
    ) -> Result<IncomingResponseOwned, HomeserverError> {
        use IncomingResponseOwned as Response;
        Ok(match request {
            AnyOutgoingRequest::KeysUpload(request) => {
                Response::KeysUpload(self.upload_keys(request.clone()).await?)
            }
            AnyOutgoingRequest::KeysQuery(request) => {
                Response::KeysQuery(self.query_keys(keys_query(request, query_timeout)).await?)
            }
            AnyOutgoingRequest::KeysClaim(request) => {
                let mut request = request.clone();
                request.timeout = Some(shorter(request.timeout, query_timeout));
                Response::KeysClaim(self.claim_keys(request).await?)
            }
            AnyOutgoingRequest::ToDeviceRequest(request) => {
                Response::ToDevice(self.send_to_device_request(request).await?)
            }
            AnyOutgoingRequest::SignatureUpload(request) => {
                Response::SignatureUpload(self.upload_signatures(request.clone()).await?)
            }
            AnyOutgoingRequest::RoomMessage(request) => {
                Response::RoomMessage(self.send_room_message(request).await?)
            }
        })
    }

    /// Publishes device, one-time and fallback keys (client-server API, "POST /keys/upload").
    ///
    /// May be repeated with the same keys: a one-time key that is there already is accepted if it is
    /// equal, and refused (400) if the id is taken by another.
    pub async fn upload_keys(
        &self,
        request: upload_keys::v3::Request,
    ) -> Result<upload_keys::v3::Response, HomeserverError> {
        self.send(Endpoint::KeysUpload, request).await
    }

    /// The devices and identities of users (client-server API, "POST /keys/query"). Only looks. The
    /// time limit follows the request's `timeout`, which is the homeserver's for other servers.
    pub async fn query_keys(
        &self,
        request: get_keys::v3::Request,
    ) -> Result<get_keys::v3::Response, HomeserverError> {
        let limit = self.limit_beyond(request.timeout);
        self.send_within(Endpoint::KeysQuery, request, limit).await
    }

    /// Takes one-time keys of devices (client-server API, "POST /keys/claim").
    ///
    /// **Not idempotent**: each time takes another key of each device. After a lost answer, claiming
    /// again is right all the same: the keys of the first time are used up and harm nobody.
    pub async fn claim_keys(
        &self,
        request: claim_keys::v3::Request,
    ) -> Result<claim_keys::v3::Response, HomeserverError> {
        let limit = self.limit_beyond(request.timeout);
        self.send_within(Endpoint::KeysClaim, request, limit).await
    }

    /// Publishes the bot's cross-signing identity (client-server API, "POST
    /// /keys/device_signing/upload"). An application service needs no user-interactive
    /// authentication (MSC4190). May be repeated with the same keys; other keys replace the identity.
    pub async fn upload_signing_keys(
        &self,
        request: upload_signing_keys::v3::Request,
    ) -> Result<upload_signing_keys::v3::Response, HomeserverError> {
        self.send(Endpoint::DeviceSigningUpload, request).await
    }

    /// [`upload_signing_keys`](Self::upload_signing_keys) with the request that
    /// `OlmMachine::bootstrap_cross_signing` gives.
    pub async fn upload_identity(
        &self,
        request: &UploadSigningKeysRequest,
    ) -> Result<upload_signing_keys::v3::Response, HomeserverError> {
        let mut upload = upload_signing_keys::v3::Request::new();
        upload.master_key = request.master_key.as_ref().map(|key| key.to_raw());
        upload.self_signing_key = request.self_signing_key.as_ref().map(|key| key.to_raw());
        upload.user_signing_key = request.user_signing_key.as_ref().map(|key| key.to_raw());
        self.upload_signing_keys(upload).await
    }

    /// Publishes signatures (client-server API, "POST /keys/signatures/upload"). May be repeated at
    /// will. A 200 may hold `failures`: look at them.
    pub async fn upload_signatures(
        &self,
        request: upload_signatures::v3::Request,
    ) -> Result<upload_signatures::v3::Response, HomeserverError> {
        self.send(Endpoint::SignaturesUpload, request).await
    }

    /// Sends messages to devices (client-server API, "PUT /sendToDevice/{eventType}/{txnId}").
    ///
    /// `body` is the whole body, `{"messages": {user: {device: content}}}`, and goes out byte for
    /// byte. May be repeated with the same `txn_id` and `body`: the homeserver drops the second one
    /// while it remembers the transaction (Synapse: half an hour, until its restart), and later a
    /// second delivery of the same Olm ciphertext is one that devices discard.
    pub async fn send_to_device(
        &self,
        event_type: &str,
        txn_id: &str,
        body: String,
    ) -> Result<(), HomeserverError> {
        let path = Path::v3(&["sendToDevice", event_type, txn_id]);
        self.put(Endpoint::SendToDevice, path, Bytes::from(body)).await.map(drop)
    }

    async fn send_to_device_request(
        &self,
        request: &ToDeviceRequest,
    ) -> Result<send_event_to_device::v3::Response, HomeserverError> {
        let endpoint = Endpoint::SendToDevice;
        let event_type = request.event_type.to_string();
        let path = Path::v3(&["sendToDevice", &event_type, request.txn_id.as_str()]);
        let body = json(endpoint, &object!({ "messages": request.messages }))?;
        self.put(endpoint, path, body).await?;
        Ok(send_event_to_device::v3::Response::new())
    }

    async fn send_room_message(
        &self,
        request: &RoomMessageRequest,
    ) -> Result<send_message_event::v3::Response, HomeserverError> {
        let endpoint = Endpoint::SendMessage;
        let event_type = request.content.event_type().to_string();
        let room_id = request.room_id.as_str();
        let path = Path::v3(&["rooms", room_id, "send", &event_type, request.txn_id.as_str()]);
        let body = json(endpoint, &request.content)?;
        let sent: super::rooms::Sent = read(endpoint, &self.put(endpoint, path, body).await?)?;
        Ok(send_message_event::v3::Response::new(sent.event_id))
    }

    fn limit_beyond(&self, asked: Option<Duration>) -> Duration {
        let usual = self.connection.request_timeout;
        asked.map_or(usual, |asked| usual.max(asked.saturating_add(MARGIN)))
    }
}

fn keys_query(request: &KeysQueryRequest, timeout: Duration) -> get_keys::v3::Request {
    let mut query = get_keys::v3::Request::new();
    query.timeout = Some(shorter(request.timeout, timeout));
    query.device_keys = request.device_keys.clone();
    query
}

fn shorter(asked: Option<Duration>, bound: Duration) -> Duration {
    asked.map_or(bound, |asked| asked.min(bound))
}
