//! What became of a transaction, for those who count.

/// What became of one transaction that the homeserver pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionOutcome {
    /// Taken and answered with 200; it brought something new, or nothing at all.
    Accepted,
    /// Answered with 200, but every event of it was known already: a repeat.
    Duplicate,
    /// Its token was missing or wrong.
    Unauthorized,
    /// Its body was no transaction.
    Malformed,
    /// Its body was over the configured size.
    TooLarge,
    /// It could not be stored or read to its end: the homeserver will repeat it.
    Failed,
}

impl TransactionOutcome {
    /// Every outcome there is.
    pub const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Duplicate,
        Self::Unauthorized,
        Self::Malformed,
        Self::TooLarge,
        Self::Failed,
    ];

    /// The outcome's name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Unauthorized => "unauthorized",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Failed => "failed",
        }
    }
}

/// Whoever counts transactions. The metrics do; they stand on a higher floor.
pub trait TransactionObserver: Send + Sync + 'static {
    /// One transaction was answered, with this outcome.
    fn transaction(&self, outcome: TransactionOutcome);

    /// This many events of an accepted transaction had no usable event id or room id.
    fn events_dropped(&self, count: u64);
}
