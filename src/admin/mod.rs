//! What an operator and their monitoring see of the keeper: health, metrics, and the listener that
//! serves both. It is a listener of its own, so that it can stay private where the application
//! service's is open to the homeserver.

mod health;
mod listener;
mod metrics;

pub use health::{Latch, Readiness};
pub use listener::serve;
pub use metrics::{Metrics, MetricsError};
