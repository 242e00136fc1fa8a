//! What can keep the keeper from its work.

use crate::{crypto::CryptoError, homeserver::HomeserverError, store::StoreError};

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keeper's device failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// The homeserver did not answer, or refused.
    #[error(transparent)]
    Homeserver(#[from] HomeserverError),
    /// The store went back in time: the device that it holds must not be used any more.
    #[error(
        "the store was put back from an older copy; the keeper begins anew, with another device"
    )]
    Renewal,
    /// A value could not be brought into JSON.
    #[error("a value could not be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<sqlx::Error> for KeeperError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(StoreError::Database(error))
    }
}

impl KeeperError {
    /// How a request to the homeserver ended, where that is what it is.
    pub fn of_homeserver(&self) -> Option<&HomeserverError> {
        match self {
            Self::Homeserver(error) | Self::Crypto(CryptoError::Homeserver(error)) => Some(error),
            _ => None,
        }
    }

    /// Whether trying again later may help, everything else being as it is.
    pub fn is_transient(&self) -> bool {
        self.of_homeserver().is_some_and(|error| error.is_transient() || error.is_unknown_device())
    }

    /// Whether the homeserver says that the keeper's device does not exist.
    pub fn is_unknown_device(&self) -> bool {
        self.of_homeserver().is_some_and(HomeserverError::is_unknown_device)
    }

    /// How long the homeserver wants to be left alone, where it said so.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        self.of_homeserver()?.retry_after()
    }
}
