//! A key store that takes a to-device message in as a whole or not at all.
//!
//! The Olm machine saves a new Olm session as soon as it has decrypted with it, and the Megolm session that was in
//! the message only at the end of the sync. A kill between the two loses that key for good: the message comes
//! again, and the session that could open it has moved on. So what it saves midway is held back here and
//! written together with the rest, in one transaction of the database.
//!
//! What may wait for the disk waits ([`PutOff`]), and what is read again and again is at hand ([`AtHand`]).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use matrix_sdk_common::cross_process_lock::CrossProcessLockGeneration;
use matrix_sdk_crypto::{
    Account, DeviceData, GossipRequest, SecretInfo, TrackedUser, UserIdentityData,
    olm::{
        InboundGroupSession, OlmMessageHash, OutboundGroupSession, PrivateCrossSigningIdentity,
        SenderDataType, Session,
    },
    store::{
        CryptoStore,
        types::{
            BackupKeys, Changes, DehydratedDeviceKey, DeviceChanges, IdentityChanges,
            PendingChanges, RoomKeyCounts, RoomKeyWithheldEntry, RoomPendingKeyBundleDetails,
            RoomSettings, StoredRoomKeyBundleData,
        },
    },
};
use matrix_sdk_sqlite::SqliteCryptoStore;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, RoomId, TransactionId, UserId,
    events::secret::request::SecretName,
};
use vodozemac::Curve25519PublicKey;
use zeroize::Zeroizing;

use super::{
    at_hand::{AtHand, Person},
    known_users::{KnownUsers, users_of},
    put_off::PutOff,
    ratchets::{Ratchet, Ratchets},
};

tokio::task_local! {
    /// What the machine saved midway, while this very task takes a sync in. Other tasks' changes pass.
    static HELD: Mutex<Changes>;
}

/// The device's key store.
#[derive(Clone, Debug)]
pub(super) struct KeyStore {
    inner: SqliteCryptoStore,
    known: Arc<KnownUsers>,
    at_hand: Arc<AtHand>,
    put_off: Arc<PutOff>,
    ratchets: Arc<Ratchets>,
    /// Whose changes never wait: they are rare, and what is published follows from them.
    own: OwnedUserId,
    own_device: OwnedDeviceId,
    /// Where writing goes on, whoever asked for it.
    runtime: tokio::runtime::Handle,
    /// The account as it was written last: the machine saves it again for each new Olm session.
    account: Arc<Mutex<Option<Zeroizing<Vec<u8>>>>>,
}

impl KeyStore {
    /// Over `inner`, whose changes `known` is told of. The keys are those of the device `own_device` of `own`.
    pub(super) fn new(
        inner: SqliteCryptoStore,
        known: Arc<KnownUsers>,
        own: &UserId,
        own_device: &DeviceId,
    ) -> Self {
        Self {
            put_off: Arc::new(PutOff::new(inner.clone())),
            inner,
            known,
            at_hand: Arc::default(),
            ratchets: Arc::default(),
            own: own.to_owned(),
            own_device: own_device.to_owned(),
            runtime: tokio::runtime::Handle::current(),
            account: Arc::default(),
        }
    }

    /// Returns once everything that the machine has saved is on the disk.
    pub(super) async fn written(&self) -> Result<()> {
        self.put_off.write_held_too().await
    }

    /// Begins to write what waits. Whoever needs it on the disk asks for [`KeyStore::written`].
    pub(super) fn write_soon(&self) {
        let put_off = self.put_off.clone();
        self.runtime.spawn(async move {
            if let Err(error) = put_off.write().await {
                tracing::warn!(%error, "the device's key store could not be written; trying again");
            }
        });
    }

    /// The newest Olm session with the device of this Curve25519 key, in base64.
    pub(super) async fn newest_ratchet(&self, sender_key: &str) -> Result<Option<Ratchet>> {
        if let Some(newest) = self.ratchets.newest(sender_key) {
            return Ok(newest);
        }
        self.read_ratchets(sender_key).await?;
        Ok(self.ratchets.newest(sender_key).flatten())
    }

    /// Takes over that ratchets have moved, and begins to write them.
    pub(super) fn moved(&self, sessions: Vec<Session>) {
        if !sessions.is_empty() {
            self.put_off.add(sessions, DeviceChanges::default(), IdentityChanges::default());
            self.write_soon();
        }
    }

    /// Runs `take_in`, the taking in of one sync with messages of the devices of these keys. What was held back and never
    /// joined by the rest, because its message was good for nothing, is dropped: the message counts as not received.
    pub(super) async fn as_a_whole<T>(
        &self,
        sender_keys: HashSet<String>,
        take_in: impl Future<Output = T>,
    ) -> T {
        let _held = self.put_off.hold(sender_keys).await;
        HELD.scope(Mutex::new(Changes::default()), take_in).await
    }

    async fn read_ratchets(&self, sender_key: &str) -> Result<()> {
        // Sessions that are not on the disk yet are among those in use, and stay.
        let read = self.inner.get_sessions(sender_key).await?.unwrap_or_default();
        self.ratchets.fill(sender_key, &read);
        Ok(())
    }

    /// What `read` finds in `user`.
    async fn person<T>(&self, user: &UserId, read: impl Fn(&Person) -> T) -> Result<Option<T>> {
        let generation = match self.at_hand.get(user, &read) {
            Ok(found) => return Ok(Some(found)),
            Err(generation) => generation,
        };
        if self.put_off.concerns(user) {
            self.put_off.write().await?;
        }
        let devices = self.inner.get_user_devices(user).await?;
        let identity = self.inner.get_user_identity(user).await?;
        let Some(person) = Person::new(devices, identity.as_ref()) else { return Ok(None) };
        let found = read(&person);
        self.at_hand.put(user, person, generation);
        Ok(Some(found))
    }

    /// Takes changes over that may wait. Returns them when they may not.
    fn put_off(&self, mut changes: Changes) -> Option<Changes> {
        let users = users_of(&changes);
        let sessions = std::mem::take(&mut changes.sessions);
        let devices = std::mem::take(&mut changes.devices);
        let identities = std::mem::take(&mut changes.identities);
        if !changes.is_empty() || users.contains(&self.own) {
            return Some(Changes { sessions, devices, identities, ..changes });
        }
        let (new_devices, new_identities) = (devices.clone(), identities.clone());
        let soon = self.put_off.add(sessions, devices, identities);
        if !users.is_empty() {
            self.at_hand.apply(&new_devices, &new_identities);
            self.known.forget(&users);
        }
        if soon {
            self.write_soon();
        }
        None
    }
}

type Result<T, E = <SqliteCryptoStore as CryptoStore>::Error> = std::result::Result<T, E>;

/// Whether these are the changes that the machine makes while it is still decrypting.
fn is_midway(changes: &Changes) -> bool {
    !changes.sessions.is_empty()
        && changes.message_hashes.is_empty()
        && changes.inbound_group_sessions.is_empty()
}

#[async_trait]
impl CryptoStore for KeyStore {
    type Error = <SqliteCryptoStore as CryptoStore>::Error;

    async fn save_changes(&self, mut changes: Changes) -> Result<(), Self::Error> {
        self.ratchets.told(&changes.sessions);
        let held = HELD.try_with(|held| {
            let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
            if is_midway(&changes) {
                held.sessions.append(&mut changes.sessions);
                held.devices.changed.append(&mut changes.devices.changed);
                return true;
            }
            // The later state of a session comes later, and counts.
            held.sessions.append(&mut changes.sessions);
            changes.sessions = std::mem::take(&mut held.sessions);
            changes.devices.changed.append(&mut held.devices.changed);
            false
        });
        let changes = match held {
            Ok(true) => return Ok(()),
            // A sync is taken in before anybody is told that it was: it does not wait.
            Ok(false) => changes,
            Err(_) => match self.put_off(changes) {
                None => return Ok(()),
                Some(mut changes) => {
                    // Before the rest, unless they are held.
                    let sessions = std::mem::take(&mut changes.sessions);
                    self.put_off.add(
                        sessions,
                        DeviceChanges::default(),
                        IdentityChanges::default(),
                    );
                    changes
                }
            },
        };
        let changed = users_of(&changes);
        let saved = self.put_off.write_before(self.inner.save_changes(changes)).await;
        self.at_hand.forget(&changed);
        self.known.forget(&changed);
        saved
    }

    async fn load_account(&self) -> Result<Option<Account>, Self::Error> {
        self.inner.load_account().await
    }

    async fn load_identity(&self) -> Result<Option<PrivateCrossSigningIdentity>, Self::Error> {
        self.inner.load_identity().await
    }

    async fn save_pending_changes(&self, changes: PendingChanges) -> Result<(), Self::Error> {
        let Some(account) = &changes.account else { return Ok(()) };
        let account = serde_json::to_vec(&account.pickle()).ok().map(Zeroizing::new);
        let written = self.account.lock().unwrap_or_else(PoisonError::into_inner).take();
        if account.is_none() || account != written {
            self.put_off.write_before(self.inner.save_pending_changes(changes)).await?;
        }
        *self.account.lock().unwrap_or_else(PoisonError::into_inner) = account;
        Ok(())
    }

    async fn save_inbound_group_sessions(
        &self,
        sessions: Vec<InboundGroupSession>,
        backed_up_to_version: Option<&str>,
    ) -> Result<(), Self::Error> {
        self.inner.save_inbound_group_sessions(sessions, backed_up_to_version).await
    }

    async fn get_sessions(&self, sender_key: &str) -> Result<Option<Vec<Session>>, Self::Error> {
        let known = match self.ratchets.get(sender_key) {
            Some(known) => known,
            None => {
                self.read_ratchets(sender_key).await?;
                self.ratchets.get(sender_key).unwrap_or_default()
            }
        };
        if known.is_empty() {
            return Ok(None);
        }
        let own = self.get_own_device().await?;
        let own = own.as_device_keys();
        Ok(Some(known.iter().map(|ratchet| ratchet.session(own)).collect()))
    }

    async fn get_inbound_group_session(
        &self,
        room_id: &RoomId,
        session_id: &str,
    ) -> Result<Option<InboundGroupSession>, Self::Error> {
        self.inner.get_inbound_group_session(room_id, session_id).await
    }

    async fn get_withheld_info(
        &self,
        room_id: &RoomId,
        session_id: &str,
    ) -> Result<Option<RoomKeyWithheldEntry>, Self::Error> {
        self.inner.get_withheld_info(room_id, session_id).await
    }

    async fn get_withheld_sessions_by_room_id(
        &self,
        room_id: &RoomId,
    ) -> Result<Vec<RoomKeyWithheldEntry>, Self::Error> {
        self.inner.get_withheld_sessions_by_room_id(room_id).await
    }

    async fn get_inbound_group_sessions(&self) -> Result<Vec<InboundGroupSession>, Self::Error> {
        self.inner.get_inbound_group_sessions().await
    }

    async fn inbound_group_session_counts(
        &self,
        backup_version: Option<&str>,
    ) -> Result<RoomKeyCounts, Self::Error> {
        self.inner.inbound_group_session_counts(backup_version).await
    }

    async fn get_inbound_group_sessions_by_room_id(
        &self,
        room_id: &RoomId,
    ) -> Result<Vec<InboundGroupSession>, Self::Error> {
        self.inner.get_inbound_group_sessions_by_room_id(room_id).await
    }

    async fn get_inbound_group_sessions_for_device_batch(
        &self,
        curve_key: Curve25519PublicKey,
        sender_data_type: SenderDataType,
        after_session_id: Option<String>,
        limit: usize,
    ) -> Result<Vec<InboundGroupSession>, Self::Error> {
        self.inner
            .get_inbound_group_sessions_for_device_batch(
                curve_key,
                sender_data_type,
                after_session_id,
                limit,
            )
            .await
    }

    async fn inbound_group_sessions_for_backup(
        &self,
        backup_version: &str,
        limit: usize,
    ) -> Result<Vec<InboundGroupSession>, Self::Error> {
        self.inner.inbound_group_sessions_for_backup(backup_version, limit).await
    }

    async fn mark_inbound_group_sessions_as_backed_up(
        &self,
        backup_version: &str,
        room_and_session_ids: &[(&RoomId, &str)],
    ) -> Result<(), Self::Error> {
        self.inner
            .mark_inbound_group_sessions_as_backed_up(backup_version, room_and_session_ids)
            .await
    }

    async fn reset_backup_state(&self) -> Result<(), Self::Error> {
        self.inner.reset_backup_state().await
    }

    async fn load_backup_keys(&self) -> Result<BackupKeys, Self::Error> {
        self.inner.load_backup_keys().await
    }

    async fn load_dehydrated_device_pickle_key(
        &self,
    ) -> Result<Option<DehydratedDeviceKey>, Self::Error> {
        self.inner.load_dehydrated_device_pickle_key().await
    }

    async fn delete_dehydrated_device_pickle_key(&self) -> Result<(), Self::Error> {
        self.inner.delete_dehydrated_device_pickle_key().await
    }

    async fn get_outbound_group_session(
        &self,
        room_id: &RoomId,
    ) -> Result<Option<OutboundGroupSession>, Self::Error> {
        self.inner.get_outbound_group_session(room_id).await
    }

    async fn load_tracked_users(&self) -> Result<Vec<TrackedUser>, Self::Error> {
        self.put_off.write().await?;
        let users = self.inner.load_tracked_users().await?;
        self.known.track(users.iter().map(|user| (user.user_id.as_ref(), user.dirty)));
        Ok(users)
    }

    async fn save_tracked_users(&self, users: &[(&UserId, bool)]) -> Result<(), Self::Error> {
        if !users.is_empty() {
            self.put_off.track(users);
            self.known.track(users.iter().copied());
            self.write_soon();
        }
        Ok(())
    }

    async fn get_device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Option<DeviceData>, Self::Error> {
        match self.person(user_id, |person| person.devices.get(device_id).cloned()).await? {
            Some(device) => Ok(device),
            None => self.inner.get_device(user_id, device_id).await,
        }
    }

    async fn get_user_devices(
        &self,
        user_id: &UserId,
    ) -> Result<HashMap<OwnedDeviceId, DeviceData>, Self::Error> {
        match self.person(user_id, |person| person.devices.clone()).await? {
            Some(devices) => Ok(devices),
            None => self.inner.get_user_devices(user_id).await,
        }
    }

    async fn get_own_device(&self) -> Result<DeviceData, Self::Error> {
        let own = self.person(&self.own, |own| own.devices.get(&self.own_device).cloned()).await?;
        match own.flatten() {
            Some(device) => Ok(device),
            None => self.inner.get_own_device().await,
        }
    }

    async fn get_user_identity(
        &self,
        user_id: &UserId,
    ) -> Result<Option<UserIdentityData>, Self::Error> {
        match self.person(user_id, Person::identity).await? {
            Some(Ok(identity)) => Ok(identity),
            Some(Err(_)) | None => self.inner.get_user_identity(user_id).await,
        }
    }

    async fn is_message_known(&self, message_hash: &OlmMessageHash) -> Result<bool, Self::Error> {
        self.inner.is_message_known(message_hash).await
    }

    async fn get_outgoing_secret_requests(
        &self,
        request_id: &TransactionId,
    ) -> Result<Option<GossipRequest>, Self::Error> {
        self.inner.get_outgoing_secret_requests(request_id).await
    }

    async fn get_secret_request_by_info(
        &self,
        secret_info: &SecretInfo,
    ) -> Result<Option<GossipRequest>, Self::Error> {
        self.inner.get_secret_request_by_info(secret_info).await
    }

    async fn get_unsent_secret_requests(&self) -> Result<Vec<GossipRequest>, Self::Error> {
        self.inner.get_unsent_secret_requests().await
    }

    async fn delete_outgoing_secret_requests(
        &self,
        request_id: &TransactionId,
    ) -> Result<(), Self::Error> {
        self.inner.delete_outgoing_secret_requests(request_id).await
    }

    async fn get_secrets_from_inbox(
        &self,
        secret_name: &SecretName,
    ) -> Result<Vec<Zeroizing<String>>, Self::Error> {
        self.inner.get_secrets_from_inbox(secret_name).await
    }

    async fn delete_secrets_from_inbox(&self, secret_name: &SecretName) -> Result<(), Self::Error> {
        self.inner.delete_secrets_from_inbox(secret_name).await
    }

    async fn get_room_settings(
        &self,
        room_id: &RoomId,
    ) -> Result<Option<RoomSettings>, Self::Error> {
        self.inner.get_room_settings(room_id).await
    }

    async fn get_received_room_key_bundle_data(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Option<StoredRoomKeyBundleData>, Self::Error> {
        self.inner.get_received_room_key_bundle_data(room_id, user_id).await
    }

    async fn get_pending_key_bundle_details_for_room(
        &self,
        room_id: &RoomId,
    ) -> Result<Option<RoomPendingKeyBundleDetails>, Self::Error> {
        self.inner.get_pending_key_bundle_details_for_room(room_id).await
    }

    async fn get_all_rooms_pending_key_bundles(
        &self,
    ) -> Result<Vec<RoomPendingKeyBundleDetails>, Self::Error> {
        self.inner.get_all_rooms_pending_key_bundles().await
    }

    async fn has_downloaded_all_room_keys(&self, room_id: &RoomId) -> Result<bool, Self::Error> {
        self.inner.has_downloaded_all_room_keys(room_id).await
    }

    async fn get_custom_value(&self, key: &str) -> Result<Option<Vec<u8>>, Self::Error> {
        self.inner.get_custom_value(key).await
    }

    async fn set_custom_value(&self, key: &str, value: Vec<u8>) -> Result<(), Self::Error> {
        self.inner.set_custom_value(key, value).await
    }

    async fn remove_custom_value(&self, key: &str) -> Result<(), Self::Error> {
        self.inner.remove_custom_value(key).await
    }

    async fn try_take_leased_lock(
        &self,
        lease_duration_ms: u32,
        key: &str,
        holder: &str,
    ) -> Result<Option<CrossProcessLockGeneration>, Self::Error> {
        self.inner.try_take_leased_lock(lease_duration_ms, key, holder).await
    }

    async fn next_batch_token(&self) -> Result<Option<String>, Self::Error> {
        self.inner.next_batch_token().await
    }

    async fn close(&self) -> Result<(), Self::Error> {
        self.put_off.write().await?;
        self.inner.close().await
    }

    async fn reopen(&self) -> Result<(), Self::Error> {
        self.inner.reopen().await
    }

    async fn get_size(&self) -> Result<Option<usize>, Self::Error> {
        self.inner.get_size().await
    }
}

#[cfg(test)]
#[path = "key_store/tests.rs"]
mod tests;
