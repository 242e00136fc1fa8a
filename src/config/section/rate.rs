//! How much of something there may be over time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// So many at once, and so many a second over time. Each key that has a rate has its own defaults,
/// `BURST` and `PER_SECOND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate<const BURST: u32, const PER_SECOND: u32> {
    /// So many at once.
    #[serde(default = "constant::<BURST>")]
    #[schemars(range(min = 1))]
    pub burst: u32,
    /// So many a second over time.
    #[serde(default = "constant::<PER_SECOND>")]
    #[schemars(range(min = 1))]
    pub per_second: u32,
}

impl<const BURST: u32, const PER_SECOND: u32> Default for Rate<BURST, PER_SECOND> {
    fn default() -> Self {
        Self { burst: BURST, per_second: PER_SECOND }
    }
}

/// A default that stands in the type.
fn constant<const VALUE: u32>() -> u32 {
    VALUE
}
