//! Serving a router on a socket, with an end that comes within a bound.

use std::{io, time::Duration};

use axum::{Router, serve::ListenerExt};
use tokio::{net::TcpListener, sync::oneshot};

/// How long requests in flight may take to be answered once the service shuts down.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves `router` on `listener` until `shutdown` resolves. Then no connection is taken any more,
/// and requests in flight have [`DRAIN_TIMEOUT`] to be answered.
///
/// # Errors
/// When the listener cannot be read.
pub async fn serve_router(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (draining, drain_begins) = oneshot::channel();
    let shutdown = async move {
        shutdown.await;
        let _ = draining.send(());
    };
    // Answers are small and awaited: Nagle's algorithm would only hold them back.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
    });
    let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown);
    tokio::select! {
        served = serving => served,
        () = deadline(drain_begins) => {
            tracing::warn!(after = ?DRAIN_TIMEOUT, "connections were still open at the end");
            Ok(())
        }
    }
}

async fn deadline(drain_begins: oneshot::Receiver<()>) {
    match drain_begins.await {
        Ok(()) => tokio::time::sleep(DRAIN_TIMEOUT).await,
        // The server ended by itself, and its result is what counts.
        Err(_) => std::future::pending().await,
    }
}
