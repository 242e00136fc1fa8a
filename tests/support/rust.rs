//! matrix-sdk, the SDK of Element X and of other native clients.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use matrix_sdk::{
    Client, Room, RoomState,
    config::SyncSettings,
    deserialized_responses::{RawAnySyncOrStrippedState, TimelineEventKind},
    encryption::{EncryptionSettings, LocalTrust},
    event_handler::RawEvent,
    ruma::{
        OwnedRoomId, RoomId, UserId,
        events::room::message::{OriginalSyncRoomMessageEvent, RoomMessageEventContent},
        serde::Raw,
    },
};
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

use super::{api::Api, now_ms, within};

/// One device on matrix-sdk, syncing for as long as the value lives.
#[derive(Debug)]
pub struct RustClient {
    client: Client,
    beat: watch::Receiver<u64>,
    messages: Arc<Mutex<Vec<(OwnedRoomId, String)>>>,
    sync: JoinHandle<()>,
    pub api: Api,
}

impl Drop for RustClient {
    fn drop(&mut self) {
        self.sync.abort();
    }
}

impl RustClient {
    /// Logs a new device of the user in. With `cross_sign` the user gets a cross-signing identity,
    /// and the device is signed by it.
    pub async fn start(user: &Api, cross_sign: bool) -> Self {
        let settings =
            EncryptionSettings { auto_enable_cross_signing: cross_sign, ..Default::default() };
        let client = Client::builder()
            .homeserver_url(&user.base)
            .with_encryption_settings(settings)
            .build()
            .await
            .unwrap();
        client.matrix_auth().login_username(&user.user_id, &user.password).send().await.unwrap();
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        let mut api = user.clone();
        api.device_id = client.device_id().unwrap().to_string();
        api.token = client.access_token().unwrap();

        Self::syncing(client, api).await
    }

    /// Logs in with a store in `folder`, so that the client can be restarted.
    pub async fn lasting(user: &Api, folder: &Path) -> Self {
        let client = Self::on_disk(user, folder).await;
        client.matrix_auth().login_username(&user.user_id, &user.password).send().await.unwrap();
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        let mut api = user.clone();
        api.device_id = client.device_id().unwrap().to_string();
        api.token = client.access_token().unwrap();
        Self::syncing(client, api).await
    }

    /// Ends the client, and starts it again on its store.
    pub async fn restart(self, folder: &Path) -> Self {
        let api = self.api.clone();
        let session = self.client.matrix_auth().session().unwrap();
        drop(self);
        let client = Self::on_disk(&api, folder).await;
        client.restore_session(session).await.unwrap();
        Self::syncing(client, api).await
    }

    async fn on_disk(user: &Api, folder: &Path) -> Client {
        let settings = EncryptionSettings { auto_enable_cross_signing: true, ..Default::default() };
        let builder = Client::builder().homeserver_url(&user.base);
        let builder = builder.with_encryption_settings(settings).sqlite_store(folder, None);
        builder.build().await.unwrap()
    }

    async fn syncing(client: Client, api: Api) -> Self {
        let messages = Arc::new(Mutex::new(Vec::new()));
        let seen = messages.clone();
        client.add_event_handler(async move |event: OriginalSyncRoomMessageEvent, room: Room| {
            let message = (room.room_id().to_owned(), event.content.body().to_owned());
            seen.lock().unwrap().push(message);
        });
        let (sender, mut beat) = watch::channel(0);
        let syncing = client.clone();
        let sync = tokio::spawn(async move {
            loop {
                let settings = SyncSettings::new().timeout(Duration::from_secs(20));
                match syncing.sync_once(settings).await {
                    Ok(_) => sender.send_modify(|count| *count += 1),
                    // The homeserver is restarting, say; a client tries again.
                    Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                }
            }
        });
        beat.changed().await.unwrap();
        Self { client, beat, messages, sync, api }
    }

    fn room(&self, room_id: &str) -> Option<Room> {
        self.client.get_room(&RoomId::parse(room_id).unwrap())
    }

    fn known_room(&self, room_id: &str) -> Room {
        self.room(room_id).unwrap_or_else(|| panic!("{} does not know {room_id}", self.api.user_id))
    }

    /// Joins; the times at which the request went out and its answer came.
    pub async fn join(&self, room_id: &str) -> (f64, f64) {
        let sent_at = now_ms();
        self.client.join_room_by_id(&RoomId::parse(room_id).unwrap()).await.unwrap();
        (sent_at, now_ms())
    }

    pub fn is_joined(&self, room_id: &str) -> bool {
        self.room(room_id).is_some_and(|room| room.state() == RoomState::Joined)
    }

    pub fn is_invited(&self, room_id: &str) -> bool {
        self.room(room_id).is_some_and(|room| room.state() == RoomState::Invited)
    }

    pub fn name(&self, room_id: &str) -> Option<String> {
        self.room(room_id)?.name()
    }

    pub fn topic(&self, room_id: &str) -> Option<String> {
        self.room(room_id)?.topic()
    }

    pub async fn send_message(&self, room_id: &str, body: &str) {
        let content = RoomMessageEventContent::text_plain(body);
        self.known_room(room_id).send(content).await.unwrap();
    }

    /// Sends state the way the SDK does, and returns the event's id.
    pub async fn set_state(
        &self,
        room_id: &str,
        (kind, key): (&str, &str),
        content: Value,
    ) -> String {
        let room = self.known_room(room_id);
        room.send_state_event_raw(kind, key, content).await.unwrap().event_id.to_string()
    }

    /// Gives a user's devices no key from now on.
    pub async fn shut_out(&self, user_id: &str) {
        let user = UserId::parse(user_id).unwrap();
        let devices = within(super::PATIENCE, async || {
            self.client.encryption().request_user_identity(&user).await.ok()?;
            let devices = self.client.encryption().get_user_devices(&user).await.ok()?;
            (devices.devices().count() > 0).then_some(devices)
        })
        .await;
        for device in devices.expect("a device of theirs is known").devices() {
            device.set_local_trust(LocalTrust::BlackListed).await.unwrap();
        }
    }

    /// The highest power that a member has by what this client goes by; creators stand above all.
    pub fn highest_power(&self, room_id: &str) -> i64 {
        self.known_room(room_id).max_power_level()
    }

    pub async fn invite(&self, room_id: &str, user_id: &str) {
        let user = UserId::parse(user_id).unwrap();
        self.known_room(room_id).invite_user_by_id(&user).await.unwrap();
    }

    /// Signs another device of the same user, as a verification would.
    pub async fn sign_device(&self, device_id: &str) -> f64 {
        let user = self.client.user_id().unwrap();
        let device = within(super::PATIENCE, async || {
            self.client.encryption().request_user_identity(user).await.ok()?;
            self.client.encryption().get_device(user, device_id.into()).await.ok()?
        })
        .await;
        device.expect("the other device is known").verify().await.unwrap();
        now_ms()
    }

    pub fn has_message(&self, room_id: &str, body: &str) -> bool {
        let messages = self.messages.lock().unwrap();
        messages.iter().any(|(room, text)| room == room_id && text == body)
    }

    /// The content of a piece of state as this client can read it. Of sealed state the SDK itself
    /// keeps the decrypted form of what a room's summary needs (name, topic, avatar …) and no more;
    /// everything else it stores as it came, and it is decrypted here.
    pub async fn state_content(&self, room_id: &str, kind: &str, state_key: &str) -> Option<Value> {
        if let Some(event) = self.stored(room_id, kind, state_key).await {
            return event.get("content").cloned();
        }
        let packed = format!("{kind}:{state_key}");
        let sealed = self.stored(room_id, "m.room.encrypted", &packed).await?;
        self.decrypt(room_id, &sealed).await?.get("content").cloned()
    }

    async fn stored(&self, room_id: &str, kind: &str, state_key: &str) -> Option<Value> {
        let event = self.room(room_id)?.get_state_event(kind.into(), state_key).await.unwrap()?;
        let RawAnySyncOrStrippedState::Sync(raw) = event else { return None };
        serde_json::from_str(raw.json().get()).ok()
    }

    /// Hands an event, as the server keeps it, to the SDK for decryption.
    pub async fn decrypt(&self, room_id: &str, event: &Value) -> Option<Value> {
        let raw: Raw<matrix_sdk::ruma::events::room::encrypted::OriginalSyncRoomEncryptedEvent> =
            Raw::from_json(RawEvent(serde_json::value::to_raw_value(event).unwrap()).0);
        let decrypted = self.known_room(room_id).decrypt_event(&raw, None).await.ok()?;
        match decrypted.kind {
            TimelineEventKind::Decrypted(event) => {
                Some(serde_json::from_str(event.event.json().get()).unwrap())
            }
            _ => None,
        }
    }

    /// Looks after every sync; the time at which `look` held, or none when `limit` passed.
    pub async fn wait(&self, limit: Duration, look: impl AsyncFn(&Self) -> bool) -> Option<f64> {
        let mut beat = self.beat.clone();
        let found = async {
            loop {
                beat.borrow_and_update();
                if look(self).await {
                    return now_ms();
                }
                if beat.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(limit, found).await.ok()
    }
}
