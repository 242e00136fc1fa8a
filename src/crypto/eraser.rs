//! Deleting members' Megolm sessions from the key store, which offers no deletion: done beside it, in its file.
//!
//! The store keeps a session under a hash of its id, made with the store's own cipher. That cipher is kept in the same
//! file, locked with the passphrase. What is deleted is overwritten with zeros, and the write-ahead log, which holds
//! what the pages were before, is emptied. `docs/TRUST.md` says what may remain.
//!
//! Recovery: what was deleted is not there to be deleted again; a kill in between changes nothing.

use std::{path::PathBuf, time::Duration};

use matrix_sdk_store_encryption::StoreCipher;
use secrecy::SecretString;
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tokio::sync::OnceCell;

use super::{
    CryptoError, KeeperDevice,
    apart::{KEY_STORE, key_store_cipher},
};

/// The table of Megolm sessions there, which is also what their ids are hashed for.
const SESSIONS: &str = "inbound_group_session";

/// Deletes from the key store's file.
pub(super) struct Eraser {
    folder: PathBuf,
    passphrase: SecretString,
    opened: OnceCell<(SqlitePool, StoreCipher)>,
}

impl std::fmt::Debug for Eraser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Eraser").finish_non_exhaustive()
    }
}

impl Eraser {
    /// For the key store in `folder`. Nothing is opened before something is deleted.
    pub(super) fn new(folder: PathBuf, passphrase: SecretString) -> Self {
        Self { folder, passphrase, opened: OnceCell::new() }
    }

    async fn open(&self) -> Result<&(SqlitePool, StoreCipher), CryptoError> {
        self.opened
            .get_or_try_init(|| async {
                let options = SqliteConnectOptions::new()
                    .filename(self.folder.join(KEY_STORE))
                    .busy_timeout(Duration::from_secs(10))
                    .pragma("secure_delete", "ON");
                let pool =
                    SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
                let mut connection = pool.acquire().await?;
                let cipher = key_store_cipher(&mut connection, &self.passphrase).await?;
                drop(connection);
                Ok((pool, cipher))
            })
            .await
    }

    /// Deletes sessions by their ids. Returns how many were there.
    async fn erase(&self, sessions: &[String]) -> Result<u64, CryptoError> {
        let (pool, cipher) = self.open().await?;
        let mut erased = 0;
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        for session_id in sessions {
            let hashed = cipher.hash_key(SESSIONS, session_id.as_bytes());
            let done = sqlx::query("DELETE FROM inbound_group_session WHERE session_id = ?")
                .bind(hashed.as_slice())
                .execute(&mut *transaction)
                .await?;
            erased += done.rows_affected();
        }
        transaction.commit().await?;
        Ok(erased)
    }

    /// Empties the write-ahead log. Where somebody is reading it just now, the next time does.
    async fn empty_log(&self) -> Result<(), CryptoError> {
        let (pool, _) = self.open().await?;
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(pool).await?;
        Ok(())
    }
}

impl KeeperDevice {
    /// Deletes members' Megolm sessions, given by their ids, from the key store for good. Returns how many were there.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store's file cannot be written.
    pub async fn discard(&self, sessions: &[String]) -> Result<u64, CryptoError> {
        self.eraser.erase(sessions).await
    }

    /// Empties the key store's write-ahead log, which holds what was deleted as it was before.
    ///
    /// # Errors
    ///
    /// [`CryptoError`] when the key store's file cannot be written.
    pub async fn empty_log(&self) -> Result<(), CryptoError> {
        self.eraser.empty_log().await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use matrix_sdk_crypto::{
        OlmMachine,
        olm::{InboundGroupSession, SenderData},
        store::CryptoStore,
        types::EventEncryptionAlgorithm,
    };
    use matrix_sdk_sqlite::SqliteCryptoStore;
    use ruma::{device_id, room_id, user_id};
    use vodozemac::{
        Curve25519PublicKey, Ed25519Keypair,
        megolm::{GroupSession, SessionConfig},
    };

    use super::*;

    const PASSPHRASE: &str = "a passphrase";

    async fn open(folder: &Path) -> SqliteCryptoStore {
        SqliteCryptoStore::open(folder, Some(PASSPHRASE)).await.unwrap()
    }

    fn session() -> InboundGroupSession {
        let made = GroupSession::new(SessionConfig::version_1());
        InboundGroupSession::new(
            Curve25519PublicKey::from([3; 32]),
            Ed25519Keypair::new().public_key(),
            room_id!("!room:localhost"),
            &made.session_key(),
            SenderData::unknown(),
            None,
            EventEncryptionAlgorithm::MegolmV1AesSha2,
            None,
            false,
        )
        .unwrap()
    }

    /// Whether these bytes stand anywhere in the folder's files.
    fn stands_in(folder: &Path, bytes: &[u8]) -> bool {
        std::fs::read_dir(folder).unwrap().any(|file| {
            let content = std::fs::read(file.unwrap().path()).unwrap();
            content.windows(bytes.len()).any(|window| window == bytes)
        })
    }

    #[tokio::test]
    async fn a_deleted_session_is_gone_from_the_files_and_another_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        // The machine makes the account, without which the store gives nothing out.
        let (user, device) = (user_id!("@keeper:localhost"), device_id!("KEEPER"));
        OlmMachine::with_store(user, device, store.clone(), None).await.unwrap();
        let (gone, kept) = (session(), session());
        let both = vec![gone.clone(), kept.clone()];
        store.save_inbound_group_sessions(both, None).await.unwrap();

        let eraser = Eraser::new(folder.path().to_owned(), PASSPHRASE.to_owned().into());
        let (pool, cipher) = eraser.open().await.unwrap();
        let hashed = cipher.hash_key(SESSIONS, gone.session_id().as_bytes());
        let (row,): (Vec<u8>,) =
            sqlx::query_as("SELECT data FROM inbound_group_session WHERE session_id = ?")
                .bind(hashed.as_slice())
                .fetch_one(pool)
                .await
                .unwrap();
        let middle = &row[row.len() / 2..row.len() / 2 + 24];
        assert!(stands_in(folder.path(), middle));

        assert_eq!(eraser.erase(&[gone.session_id().to_owned()]).await.unwrap(), 1);
        assert_eq!(eraser.erase(&[gone.session_id().to_owned()]).await.unwrap(), 0);
        eraser.empty_log().await.unwrap();
        assert!(!stands_in(folder.path(), middle));
        let room = room_id!("!room:localhost");
        let get = |session: &InboundGroupSession| session.session_id().to_owned();
        assert!(store.get_inbound_group_session(room, &get(&gone)).await.unwrap().is_none());
        assert!(store.get_inbound_group_session(room, &get(&kept)).await.unwrap().is_some());
    }
}
