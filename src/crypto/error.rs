//! What can go wrong with the keeper's device.

use crate::homeserver::HomeserverError;

/// Why the keeper's device could not do as asked. No variant holds key material.
#[derive(Debug, thiserror::Error)]
pub enum CryptoError {
    /// The crypto store could not be opened.
    #[error(
        "the device's key store does not open: {0}; it opens with the passphrase that it was made with \
         and belongs to one bot and one device"
    )]
    Open(String),
    /// The crypto store failed.
    #[error("the device's key store failed: {0}")]
    Store(#[from] matrix_sdk_crypto::CryptoStoreError),
    /// The key store's file could not be read or written beside the key store.
    #[error("the file of the device's key store could not be read or written: {0}")]
    File(#[from] sqlx::Error),
    /// The key store's own cipher does not open with the passphrase.
    #[error("the passphrase does not open the cipher of the device's key store")]
    Locked,
    /// Olm failed.
    #[error("the Olm machine failed: {0}")]
    Olm(#[from] matrix_sdk_crypto::OlmError),
    /// Megolm failed.
    #[error("a message could not be encrypted: {0}")]
    Megolm(#[from] matrix_sdk_crypto::MegolmError),
    /// A thread that encrypts could not begin, or did not come to its end.
    #[error("encrypting did not come to its end: {0}")]
    Interrupted(String),
    /// The homeserver did not answer, or refused.
    #[error(transparent)]
    Homeserver(#[from] HomeserverError),
    /// A value could not be brought into JSON.
    #[error("a value could not be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}
