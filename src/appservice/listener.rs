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
    serve_and_drain(listener, router, shutdown, DRAIN_TIMEOUT).await
}

async fn serve_and_drain(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
    drain_timeout: Duration,
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
        () = deadline(drain_begins, drain_timeout) => {
            tracing::warn!(after = ?drain_timeout, "connections were still open at the end");
            Ok(())
        }
    }
}

async fn deadline(drain_begins: oneshot::Receiver<()>, drain_timeout: Duration) {
    match drain_begins.await {
        Ok(()) => tokio::time::sleep(drain_timeout).await,
        // The server ended by itself, and its result is what counts.
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use axum::routing::get;
    use tokio::{
        io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream, sync::Notify, task::JoinHandle,
    };

    use super::*;

    /// A service whose one endpoint answers when it is let, and the means to stop it.
    struct Service {
        address: SocketAddr,
        asked: Arc<Notify>,
        may_answer: Arc<Notify>,
        stop: oneshot::Sender<()>,
        serving: JoinHandle<io::Result<()>>,
    }

    impl Service {
        async fn listening(drain_timeout: Duration) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (asked, may_answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let (stop, stopped) = oneshot::channel::<()>();
            let shutdown = async {
                let _ = stopped.await;
            };
            let handler = get({
                let (asked, may_answer) = (asked.clone(), may_answer.clone());
                async move || {
                    asked.notify_one();
                    may_answer.notified().await;
                    "answered"
                }
            });
            let router = Router::new().route("/", handler);
            let serving = tokio::spawn(serve_and_drain(listener, router, shutdown, drain_timeout));
            Self { address, asked, may_answer, stop, serving }
        }

        async fn ask(&self) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: keeper\r\n\r\n").await.unwrap();
            self.asked.notified().await;
            stream
        }
    }

    #[tokio::test]
    async fn a_request_in_flight_is_answered_before_the_end() {
        let service = Service::listening(Duration::from_secs(60)).await;
        let mut stream = service.ask().await;
        service.stop.send(()).unwrap();
        service.may_answer.notify_one();

        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("answered"), "{answer}");
        service.serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_request_that_is_never_finished_does_not_hold_up_the_end() {
        let service = Service::listening(Duration::from_millis(50)).await;
        let _stream = service.ask().await;
        service.stop.send(()).unwrap();
        let bound = Duration::from_secs(20);
        tokio::time::timeout(bound, service.serving).await.unwrap().unwrap().unwrap();
    }
}
