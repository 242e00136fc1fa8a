//! What can go wrong with the store.

/// Why the store could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database did not answer, or refused.
    #[error("the store's database failed: {0}; see whether its disk is full, writable and whole")]
    Database(#[from] sqlx::Error),
    /// The tables could not be brought to the shape that this version needs.
    #[error("the store could not be brought to this version's shape: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The passphrase does not open this store.
    #[error(
        "the passphrase does not open the store; give `store.passphrase` or `store.passphrase_file` \
         the one that the store was made with"
    )]
    WrongPassphrase,
    /// An encrypted column could not be read or written.
    #[error("an encrypted column of the store is damaged, or belongs to another store")]
    Cipher,
    /// A column holds what this version would never have written.
    #[error("the store holds an unusable {what}")]
    Corrupt {
        /// Which kind of thing.
        what: &'static str,
    },
}

impl StoreError {
    /// For `map_err` where a stored `what` does not parse.
    pub(super) fn corrupt<E>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |_| Self::Corrupt { what }
    }
}
