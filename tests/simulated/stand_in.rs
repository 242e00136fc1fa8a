//! A client that is not the keeper: matrix-sdk-crypto alone, speaking to the simulated homeserver
//! as an application service does. It proves the homeserver without the product, and is the
//! yardstick of the fan-out benchmark.

use http::Method;
use matrix_sdk_crypto::{
    CollectStrategy, DecryptionSettings, EncryptionSettings, EncryptionSyncChanges, OlmMachine,
    TrustRequirement,
    types::requests::{AnyIncomingResponse, AnyOutgoingRequest, ToDeviceRequest},
};
use ruma::{
    OwnedRoomId, OwnedUserId,
    api::{
        IncomingResponse,
        client::{
            keys::{claim_keys, get_keys, upload_keys, upload_signatures, upload_signing_keys},
            sync::sync_events::DeviceLists,
            to_device::send_event_to_device,
        },
    },
};
use serde_json::{Value, json};

use super::{
    push::{HttpClient, http_client, request},
    sim::Sim,
};

/// The stand-in's device.
pub const DEVICE: &str = "STANDIN";

/// matrix-sdk-crypto over HTTP.
pub struct StandIn {
    pub machine: OlmMachine,
    client: HttpClient,
    base: String,
    as_token: String,
    user_id: String,
    since: String,
}

impl StandIn {
    /// A device in memory, published and cross-signed.
    pub async fn publish(sim: &Sim) -> Self {
        let user_id = OwnedUserId::try_from(sim.keeper()).unwrap();
        let machine = OlmMachine::new(&user_id, DEVICE.into()).await;
        Self::publish_machine(sim, machine).await
    }

    /// The same with a machine over any store.
    pub async fn publish_machine(sim: &Sim, machine: OlmMachine) -> Self {
        let mut stand_in = Self {
            client: http_client(),
            base: sim.url().to_owned(),
            as_token: sim.with(|world| world.registration.as_token.clone()),
            user_id: sim.keeper(),
            machine,
            since: String::new(),
        };
        stand_in.register().await;
        stand_in.upload_keys().await;
        stand_in.since = stand_in.sync(0).await["next_batch"].as_str().unwrap().to_owned();
        stand_in
    }

    /// Any call, masquerading as the bot's device.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let user_id = self.user_id.replace('@', "%40").replace(':', "%3A");
        let joint = if path.contains('?') { '&' } else { '?' };
        let base = &self.base;
        let url =
            format!("{base}/_matrix/client/v3/{path}{joint}user_id={user_id}&device_id={DEVICE}");
        let body = body.to_string();
        request(&self.client, method, &url, Some(&self.as_token), body).await.unwrap()
    }

    async fn ok(&self, method: Method, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!(status < 300, "{path}: {status} {answer}");
        answer
    }

    async fn register(&self) {
        let localpart = self.user_id.trim_start_matches('@').split(':').next();
        let body = json!({
            "type": "m.login.application_service", "username": localpart, "inhibit_login": true,
        });
        self.ok(Method::POST, "register", &body).await;
        self.ok(Method::PUT, &format!("devices/{DEVICE}"), &json!({})).await;
    }

    async fn upload_keys(&self) {
        let requests = self.machine.bootstrap_cross_signing(false).await.unwrap();
        if let Some(upload) = requests.upload_keys_req {
            self.send_outgoing(upload.request_id(), upload.request()).await;
        }
        let keys = &requests.upload_signing_keys_req;
        let body = json!({
            "master_key": keys.master_key, "self_signing_key": keys.self_signing_key,
            "user_signing_key": keys.user_signing_key,
        });
        let answer = self.ok(Method::POST, "keys/device_signing/upload", &body).await;
        let answer: upload_signing_keys::v3::Response = parse(&answer);
        let id = ruma::TransactionId::new();
        self.close(&id, AnyIncomingResponse::SigningKeysUpload(&answer)).await;
        let signatures = serde_json::to_value(&requests.upload_signatures_req.signed_keys).unwrap();
        self.ok(Method::POST, "keys/signatures/upload", &signatures).await;
        self.send_all_outgoing().await;
    }

    async fn send_all_outgoing(&self) {
        for outgoing in self.machine.outgoing_requests().await.unwrap() {
            self.send_outgoing(outgoing.request_id(), outgoing.request()).await;
        }
    }

    async fn send_outgoing(&self, id: &ruma::TransactionId, request: &AnyOutgoingRequest) {
        match request {
            AnyOutgoingRequest::KeysUpload(upload) => {
                let body = json!({
                    "device_keys": upload.device_keys, "one_time_keys": upload.one_time_keys,
                    "fallback_keys": upload.fallback_keys,
                });
                let answer = self.ok(Method::POST, "keys/upload", &body).await;
                self.close(id, &parse::<upload_keys::v3::Response>(&answer)).await;
            }
            AnyOutgoingRequest::KeysQuery(query) => {
                let body = json!({ "device_keys": query.device_keys });
                let answer = self.ok(Method::POST, "keys/query", &body).await;
                self.close(id, &parse::<get_keys::v3::Response>(&answer)).await;
            }
            AnyOutgoingRequest::SignatureUpload(upload) => {
                let body = serde_json::to_value(&upload.signed_keys).unwrap();
                let answer = self.ok(Method::POST, "keys/signatures/upload", &body).await;
                self.close(id, &parse::<upload_signatures::v3::Response>(&answer)).await;
            }
            AnyOutgoingRequest::ToDeviceRequest(to_device) => self.send(to_device).await,
            AnyOutgoingRequest::KeysClaim(claim) => self.claim(id, claim).await,
            AnyOutgoingRequest::RoomMessage(_) => panic!("nobody verifies anything here"),
        }
    }

    async fn close<'a>(
        &self,
        id: &ruma::TransactionId,
        answer: impl Into<AnyIncomingResponse<'a>>,
    ) {
        self.machine.mark_request_as_sent(id, answer).await.unwrap();
    }

    async fn claim(&self, id: &ruma::TransactionId, claim: &claim_keys::v3::Request) {
        let body = json!({ "one_time_keys": claim.one_time_keys });
        let answer = self.ok(Method::POST, "keys/claim", &body).await;
        self.close(id, &parse::<claim_keys::v3::Response>(&answer)).await;
    }

    /// Sends a to-device request and closes it.
    pub async fn send(&self, request: &ToDeviceRequest) {
        let path = format!("sendToDevice/{}/{}", request.event_type, request.txn_id);
        self.ok(Method::PUT, &path, &json!({ "messages": request.messages })).await;
        self.close(&request.txn_id, &send_event_to_device::v3::Response::new()).await;
    }

    /// Learns the devices of these users, and opens Olm sessions with all of them.
    pub async fn meet(&self, users: &[OwnedUserId]) {
        let users = || users.iter().map(AsRef::as_ref);
        self.machine.update_tracked_users(users()).await.unwrap();
        self.send_all_outgoing().await;
        if let Some((id, claim)) = self.machine.get_missing_sessions(users()).await.unwrap() {
            self.claim(&id, &claim).await;
        }
    }

    /// Shares a Megolm session of the machine's own with these users: how many requests it took.
    pub async fn share_room_key(&self, room_id: &OwnedRoomId, users: &[OwnedUserId]) -> usize {
        let settings = EncryptionSettings {
            sharing_strategy: CollectStrategy::AllDevices,
            // As many as the library allows: a session that wears out is not what is measured.
            rotation_period_msgs: 10_000,
            ..EncryptionSettings::default()
        };
        let users = users.iter().map(AsRef::as_ref);
        let requests = self.machine.share_room_key(room_id, users, settings).await.unwrap();
        for request in &requests {
            self.send(request).await;
        }
        requests.len()
    }

    /// Encrypts one content for one device and sends it. False: the device has no session.
    pub async fn send_content(&self, to: (&str, &str), event_type: &str, content: &Value) -> bool {
        let user_id = OwnedUserId::try_from(to.0).unwrap();
        let device = self.machine.get_device(&user_id, to.1.into(), None).await.unwrap();
        let device = (*device.expect("the device is known")).clone();
        let strategy = CollectStrategy::AllDevices;
        let (requests, withheld) = self
            .machine
            .encrypt_content_for_devices(vec![device], event_type, content, strategy)
            .await
            .unwrap();
        for request in &requests {
            self.send(request).await;
        }
        withheld.is_empty()
    }

    /// One `/sync`, as it came.
    pub async fn sync(&self, timeout_ms: u64) -> Value {
        let since =
            if self.since.is_empty() { String::new() } else { format!("&since={}", self.since) };
        let path = format!("sync?timeout={timeout_ms}{since}");
        self.ok(Method::GET, &path, &json!({})).await
    }

    /// One `/sync`, decrypted: the payloads of the Olm messages in it.
    pub async fn receive(&mut self, timeout_ms: u64) -> Vec<Value> {
        let answer = self.sync(timeout_ms).await;
        let token = answer["next_batch"].as_str().unwrap().to_owned();
        let lists: DeviceLists = serde_json::from_value(answer["device_lists"].clone()).unwrap();
        let counts = serde_json::from_value(answer["device_one_time_keys_count"].clone()).unwrap();
        let fallback: Vec<ruma::OneTimeKeyAlgorithm> =
            serde_json::from_value(answer["device_unused_fallback_key_types"].clone()).unwrap();
        let changes = EncryptionSyncChanges {
            to_device_events: serde_json::from_value(answer["to_device"]["events"].clone())
                .unwrap(),
            changed_devices: &lists,
            one_time_keys_counts: &counts,
            unused_fallback_keys: Some(&fallback),
            next_batch_token: Some(token.clone()),
        };
        let settings =
            DecryptionSettings { sender_device_trust_requirement: TrustRequirement::Untrusted };
        let (events, _) = self.machine.receive_sync_changes(changes, &settings).await.unwrap();
        self.since = token;
        let events = events.iter().filter_map(|event| event.to_raw().deserialize_as().ok());
        // What could not be decrypted comes back as it was.
        events.filter(|event: &Value| event["type"] != "m.room.encrypted").collect()
    }
}

fn parse<R: IncomingResponse>(answer: &Value) -> R {
    let response = http::Response::builder().status(200).body(answer.to_string()).unwrap();
    R::try_from_http_response(response).unwrap_or_else(|_| panic!("not an answer: {answer}"))
}
