//! What the key store promises about the disk, on real files.

use matrix_sdk_crypto::{
    Account,
    vodozemac::olm::{self, OlmMessage, SessionConfig},
};
use ruma::{device_id, user_id};

use super::*;

struct Kept {
    folder: tempfile::TempDir,
    keeper: Account,
    bob: Account,
}

impl Kept {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            keeper: Account::with_device_id(user_id!("@keeper:localhost"), device_id!("KEEPER")),
            bob: Account::with_device_id(user_id!("@bob:localhost"), device_id!("BOBSPHONE")),
        }
    }

    /// The key store as another process finds it, for instance after a kill.
    async fn on_disk(&self) -> SqliteCryptoStore {
        let store = SqliteCryptoStore::open(self.folder.path(), None).await.unwrap();
        store.load_account().await.unwrap();
        store
    }

    async fn open(&self) -> KeyStore {
        let (user, device) = (self.keeper.user_id(), self.keeper.device_id());
        let store = KeyStore::new(self.on_disk().await, Arc::default(), user, device);
        let account = PendingChanges { account: Some(deep_clone(&self.keeper)) };
        store.save_pending_changes(account).await.unwrap();
        let own = DeviceData::from_account(&self.keeper);
        store.save_changes(devices(vec![own])).await.unwrap();
        store
    }

    /// A new Olm session with Bob's device.
    fn session(&mut self) -> Session {
        self.bob.generate_one_time_keys(1);
        let one_time_key = *self.bob.one_time_keys().values().next().unwrap();
        let identity_key = self.bob.identity_keys().curve25519;
        let device_keys = DeviceData::from_account(&self.keeper).as_device_keys().clone();
        let config = SessionConfig::version_1();
        let account = &self.keeper;
        account
            .create_outbound_session_helper(config, identity_key, one_time_key, false, device_keys)
            .unwrap()
    }

    fn bobs_key(&self) -> String {
        self.bob.identity_keys().curve25519.to_base64()
    }
}

fn deep_clone(account: &Account) -> Account {
    Account::from_pickle(account.pickle()).unwrap()
}

fn devices(new: Vec<DeviceData>) -> Changes {
    let mut changes = Changes::default();
    changes.devices.new = new;
    changes
}

fn sessions(sessions: Vec<Session>) -> Changes {
    Changes { sessions, ..Changes::default() }
}

/// The index that the next message of a session is encrypted with; a copy of it is, for the session goes on.
async fn next_index(store: &impl CryptoStore, sender_key: &str) -> Option<u64> {
    let session = store.get_sessions(sender_key).await.ok()??.pop()?;
    let mut copy = olm::Session::from_pickle(session.inner.lock().await.pickle());
    match copy.encrypt("what comes next").ok()? {
        OlmMessage::PreKey(message) => Some(message.message().chain_index()),
        OlmMessage::Normal(message) => Some(message.chain_index()),
    }
}

#[tokio::test]
async fn what_waits_for_the_disk_is_read_as_if_it_were_there() {
    let kept = Kept::new();
    let store = kept.open().await;
    let (bob, phone) = (kept.bob.user_id(), kept.bob.device_id());
    assert!(store.get_user_devices(bob).await.unwrap().is_empty());
    store.save_changes(devices(vec![DeviceData::from_account(&kept.bob)])).await.unwrap();
    assert!(store.get_device(bob, phone).await.unwrap().is_some());
    assert_eq!(store.get_user_devices(bob).await.unwrap().len(), 1);
    // Also by somebody for whom it is not at hand any more.
    store.at_hand.forget(&[bob.to_owned()]);
    assert!(store.get_device(bob, phone).await.unwrap().is_some());
    let mut gone = Changes::default();
    gone.devices.deleted = vec![DeviceData::from_account(&kept.bob)];
    store.save_changes(gone).await.unwrap();
    assert!(store.get_device(bob, phone).await.unwrap().is_none());
    store.written().await.unwrap();
    assert!(kept.on_disk().await.get_device(bob, phone).await.unwrap().is_none());
}

#[tokio::test]
async fn nothing_that_was_saved_is_missing_on_the_disk_once_it_is_said_to_be_written() {
    let mut kept = Kept::new();
    let store = kept.open().await;
    let session = kept.session();
    let key = kept.bobs_key();
    let bob = kept.bob.user_id().to_owned();
    store.save_changes(sessions(vec![session])).await.unwrap();
    // A session waits for its first use: a kill here costs one one-time key.
    assert!(kept.on_disk().await.get_sessions(&key).await.unwrap().is_none());
    store.save_changes(devices(vec![DeviceData::from_account(&kept.bob)])).await.unwrap();
    store.save_tracked_users(&[(&bob, true)]).await.unwrap();
    store.written().await.unwrap();
    let disk = kept.on_disk().await;
    assert_eq!(disk.get_sessions(&key).await.unwrap().unwrap().len(), 1);
    assert_eq!(disk.get_user_devices(&bob).await.unwrap().len(), 1);
    let tracked = disk.load_tracked_users().await.unwrap();
    assert!(tracked.iter().any(|tracked| tracked.user_id == bob && tracked.dirty));
}

#[tokio::test]
async fn a_ratchet_is_on_the_disk_as_far_as_it_has_moved() {
    let mut kept = Kept::new();
    let store = kept.open().await;
    let session = kept.session();
    let key = kept.bobs_key();
    store.save_changes(sessions(vec![session.clone()])).await.unwrap();
    store.written().await.unwrap();
    assert_eq!(next_index(&kept.on_disk().await, &key).await, Some(0));
    session.inner.lock().await.encrypt("a message on its way").unwrap();
    store.save_changes(sessions(vec![session])).await.unwrap();
    // Read through the store, the session is the moved one at any time.
    assert_eq!(next_index(&store, &key).await, Some(1));
    store.written().await.unwrap();
    assert_eq!(next_index(&kept.on_disk().await, &key).await, Some(1));
}

#[tokio::test]
async fn a_session_is_one_and_the_same_for_the_machine_and_for_whoever_encrypts() {
    let mut kept = Kept::new();
    let key = kept.bobs_key();
    let before = kept.open().await;
    before.save_changes(sessions(vec![kept.session()])).await.unwrap();
    before.written().await.unwrap();
    // After a restart, read from the disk; then one that is new.
    let store = kept.open().await;
    let ratchet = store.newest_ratchet(&key).await.unwrap().unwrap();
    let machines = store.get_sessions(&key).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&ratchet.inner, &machines[0].inner));
    let newer = kept.session();
    store.save_changes(sessions(vec![newer.clone(), machines[0].clone()])).await.unwrap();
    assert_eq!(store.get_sessions(&key).await.unwrap().unwrap().len(), 2);
    let newest = store.newest_ratchet(&key).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&newest.inner, &newer.inner));
    // One that came before the disk was read hides nothing that is there, and stays the one that it is.
    store.written().await.unwrap();
    let store = kept.open().await;
    let again = store.inner.get_sessions(&key).await.unwrap().unwrap();
    let in_use = again.iter().find(|session| session.session_id == newer.session_id).unwrap();
    store.save_changes(sessions(vec![in_use.clone()])).await.unwrap();
    let all = store.get_sessions(&key).await.unwrap().unwrap();
    assert_eq!(all.len(), 2);
    let same = all.iter().find(|session| session.session_id == newer.session_id).unwrap();
    assert!(Arc::ptr_eq(&same.inner, &in_use.inner));
}

#[tokio::test]
async fn what_may_not_wait_is_written_after_what_came_before_it() {
    let mut kept = Kept::new();
    let store = kept.open().await;
    let session = kept.session();
    let key = kept.bobs_key();
    store.save_changes(sessions(vec![session])).await.unwrap();
    let changes = Changes { next_batch_token: Some("s1".to_owned()), ..Changes::default() };
    store.save_changes(changes).await.unwrap();
    let disk = kept.on_disk().await;
    assert_eq!(disk.next_batch_token().await.unwrap().as_deref(), Some("s1"));
    assert!(disk.get_sessions(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn an_account_is_written_when_it_has_changed_and_not_again() {
    let kept = Kept::new();
    let store = kept.open().await;
    let mut account = deep_clone(&kept.keeper);
    account.generate_one_time_keys(3);
    let (before, expected) = (kept.keeper.one_time_keys().len(), account.one_time_keys().len());
    assert_ne!(before, expected);
    let changes = PendingChanges { account: Some(deep_clone(&account)) };
    store.save_pending_changes(changes).await.unwrap();
    let found = kept.on_disk().await.load_account().await.unwrap().unwrap();
    assert_eq!(found.one_time_keys().len(), expected);
    // Something else wrote it since: to save the same again does not touch it.
    let other = PendingChanges { account: Some(deep_clone(&kept.keeper)) };
    kept.on_disk().await.save_pending_changes(other).await.unwrap();
    let same = PendingChanges { account: Some(account) };
    store.save_pending_changes(same).await.unwrap();
    let found = kept.on_disk().await.load_account().await.unwrap().unwrap();
    assert_eq!(found.one_time_keys().len(), before);
}

#[tokio::test]
async fn a_session_that_a_sync_decrypts_with_is_not_written_before_the_keys_that_it_brought() {
    let mut kept = Kept::new();
    let store = kept.open().await;
    let session = kept.session();
    let key = kept.bobs_key();
    store.save_changes(sessions(vec![session.clone()])).await.unwrap();
    store.written().await.unwrap();
    let mut goes_out = None;
    let take_in = store.as_a_whole([key.clone()].into(), async {
        // Somebody else encrypts with it meanwhile, and writes what there is to write.
        let elsewhere = store.clone();
        let other = tokio::spawn(async move {
            session.inner.lock().await.encrypt("a key for Bob").unwrap();
            elsewhere.moved(vec![session]);
            let token = Changes { next_batch_token: Some("s1".into()), ..Changes::default() };
            elsewhere.save_changes(token).await.unwrap();
            elsewhere
        });
        let elsewhere = other.await.unwrap();
        let disk = kept.on_disk().await;
        assert_eq!(disk.next_batch_token().await.unwrap().as_deref(), Some("s1"));
        assert_eq!(next_index(&disk, &key).await, Some(0));
        // Who must have it on the disk, because the message goes out, waits for the sync.
        let mut written = Box::pin(async move { elsewhere.written().await });
        assert!(futures_util::poll!(&mut written).is_pending());
        goes_out = Some(written);
    });
    take_in.await;
    goes_out.unwrap().await.unwrap();
    assert_eq!(next_index(&kept.on_disk().await, &key).await, Some(1));
}
