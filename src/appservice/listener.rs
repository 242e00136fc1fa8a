//! Serving a router on a socket, within bounds: of connections, of a client's slowness, and of the
//! time that the end may take.

use std::{future::Future, io, pin::pin, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long requests in flight may take to be answered once the service shuts down.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a listener allows those who connect to it.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// See [`DRAIN_TIMEOUT`].
    drain: Duration,
    /// How long a connection may take to send the head of a request, from its opening or from the
    /// answer before.
    head: Duration,
    /// How many connections are served at once; others wait to be accepted.
    connections: usize,
}

const LIMITS: Limits = Limits {
    drain: DRAIN_TIMEOUT,
    // Longer than the two minutes for which Synapse keeps an idle connection: closed from our side,
    // it may be just about to be used, and a transaction that fails costs the homeserver's pause.
    head: Duration::from_secs(180),
    connections: 256,
};

/// How long to wait when the system cannot give us another connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Where connections come from.
pub trait Source: Send + Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// What serves a connection; `None` for one that is not let in.
    fn admit(&self, stream: &Self::Stream, router: &Router) -> Option<Router>;
}

impl Source for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = Self::accept(self).await?;
        Ok(stream)
    }

    fn admit(&self, stream: &TcpStream, router: &Router) -> Option<Router> {
        // Answers are small and awaited: Nagle's algorithm would only hold them back.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
        Some(router.clone())
    }
}

/// Serves `router` on `listener` until `shutdown` resolves. Then no connection is taken any more,
/// requests in flight have [`DRAIN_TIMEOUT`] to be answered, and what is open after that is closed.
///
/// # Errors
/// When the listener is not one that connections can be accepted from.
pub async fn serve_router(
    listener: impl Source,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    serve_within(listener, router, shutdown, LIMITS).await
}

async fn serve_within(
    listener: impl Source,
    router: Router,
    shutdown: impl Future<Output = ()>,
    limits: Limits,
) -> io::Result<()> {
    let mut shutdown = pin!(shutdown);
    // Dropped when it is time to close.
    let (open, _) = watch::channel(());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener), if connections.len() < limits.connections => {
                let stream = accepted?;
                if let Some(router) = listener.admit(&stream, &router) {
                    let open = open.subscribe();
                    connections.spawn(serve_connection(stream, router, open, limits.head));
                }
            }
        }
    }
    drop(listener);
    drop(open);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.drain, drained).await.is_err() {
        tracing::warn!(after = ?limits.drain, "connections were still open and are closed");
        connections.shutdown().await;
    }
    Ok(())
}

/// The next connection. What concerns one connection alone is its own affair, and a lack of file
/// descriptors or memory passes.
async fn accept<S: Source>(listener: &S) -> io::Result<S::Stream> {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput};
    loop {
        match listener.accept().await {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == InvalidInput => return Err(error),
            Err(error)
                if matches!(
                    error.kind(),
                    ConnectionAborted | ConnectionRefused | ConnectionReset
                ) => {}
            Err(error) => {
                tracing::error!(%error, "a connection cannot be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    router: Router,
    mut open: watch::Receiver<()>,
    head_timeout: Duration,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = &mut connection => served,
        _ = open.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::{Notify, oneshot},
        task::JoinHandle,
    };

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: keeper\r\n\r\n";

    /// A service whose one endpoint answers when it is let, and the means to stop it.
    struct Service {
        address: SocketAddr,
        asked: Arc<Notify>,
        may_answer: Arc<Notify>,
        stop: oneshot::Sender<()>,
        serving: JoinHandle<io::Result<()>>,
    }

    impl Service {
        async fn listening(limits: Limits) -> Self {
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
            let serving = tokio::spawn(serve_within(listener, router, shutdown, limits));
            Self { address, asked, may_answer, stop, serving }
        }

        async fn ask(&self) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(REQUEST).await.unwrap();
            self.asked.notified().await;
            stream
        }
    }

    #[tokio::test]
    async fn a_request_in_flight_is_answered_before_the_end() {
        let service = Service::listening(LIMITS).await;
        let mut stream = service.ask().await;
        service.stop.send(()).unwrap();
        // Only when the end has begun for certain.
        in_time(async { while TcpStream::connect(service.address).await.is_ok() {} }).await;
        service.may_answer.notify_one();

        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("answered"), "{answer}");
        service.serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_request_that_is_never_finished_does_not_hold_up_the_end() {
        let service =
            Service::listening(Limits { drain: Duration::from_millis(50), ..LIMITS }).await;
        let mut stream = service.ask().await;
        service.stop.send(()).unwrap();
        in_time(service.serving).await.unwrap().unwrap();
        in_time(closed(&mut stream)).await;
    }

    #[tokio::test]
    async fn a_client_that_does_not_finish_the_head_of_a_request_is_let_go() {
        let limits = Limits { head: Duration::from_millis(50), ..LIMITS };
        let service = Service::listening(limits).await;
        let mut stream = TcpStream::connect(service.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
        in_time(closed(&mut stream)).await;
    }

    #[tokio::test]
    async fn a_connection_too_many_is_served_as_soon_as_another_ends() {
        let service = Service::listening(Limits { connections: 1, ..LIMITS }).await;
        let first = service.ask().await;
        let mut second = TcpStream::connect(service.address).await.unwrap();
        second.write_all(REQUEST).await.unwrap();
        tokio::select! {
            () = service.asked.notified() => panic!("there was one connection too many"),
            () = sleep(Duration::from_millis(50)) => {}
        }
        drop(first);
        in_time(service.asked.notified()).await;
    }

    async fn in_time<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(20), future).await.unwrap()
    }

    /// Resolves when the other side has closed the connection, in whichever way.
    async fn closed(stream: &mut TcpStream) {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}
