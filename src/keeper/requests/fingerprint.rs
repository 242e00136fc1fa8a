//! Identifiers at a fixed size.

use std::hash::{BuildHasher, RandomState};

/// What stands for an identifier in the limits' and the queue's tables: 128 bits under a secret key.
///
/// Nobody outside the process knows the key, so nobody can look for two identifiers that share one.
pub type Fingerprint = u128;

/// The secret key of one process's fingerprints.
#[derive(Debug, Default)]
pub struct Fingerprints {
    high: RandomState,
    low: RandomState,
}

impl Fingerprints {
    /// The fingerprint of `parts`, in their order; `["a", "b"]` and `["ab"]` differ.
    pub fn of(&self, parts: &[&str]) -> Fingerprint {
        (u128::from(self.high.hash_one(parts)) << 64) | u128::from(self.low.hash_one(parts))
    }
}
