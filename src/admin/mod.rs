//! What an operator, their monitoring and their service manager see of the keeper: health, metrics and the
//! dashboard, and the listener that serves them. It is a listener of its own, so that it can stay private where the
//! application service's is open to the homeserver. And the socket through which the command line speaks
//! to it.

mod dashboard;
mod health;
mod listener;
pub mod metrics;
mod socket;
mod supervisor;
mod trouble;

pub use dashboard::Dashboard;
pub use health::{Latch, Readiness};
pub use listener::serve;
pub use metrics::{Metrics, MetricsError};
pub use socket::{AdminSocket, COMMAND_PATH, MOST_BYTES, serve as serve_socket};
pub use supervisor::Supervisor;
pub use trouble::{Lasting, Past, Trouble, Troubles};
