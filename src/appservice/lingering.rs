//! Answering a request whose body nobody wants to read to its end.
//!
//! A connection that is closed while bytes lie on it unread is reset, and the reset may overtake the answer: the other
//! side would see a broken connection in place of the error that says why. So what is left of a body is read and
//! thrown away beside the answer, within bounds.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
    http::header::EXPECT,
    middleware::Next,
    response::Response,
};
use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::{runtime::Handle, time::timeout};

/// How long what is left of a body is read.
const LONGEST: Duration = Duration::from_secs(10);
/// How much of it is read, in bytes: what homeservers send in one request is less.
const MOST: usize = 64 * 1024 * 1024;

/// Reads what handlers leave of the request's body.
pub(super) async fn linger(request: Request, next: Next) -> Response {
    let expects = request.headers().contains_key(EXPECT);
    next.run(request.map(|body| Body::new(Lingering { body: Some(body), expects }))).await
}

/// A body that is read to its end when it is dropped before.
struct Lingering {
    body: Option<Body>,
    /// Whether the other side waits for a word before it sends the body, and has not got it.
    expects: bool,
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.expects = false;
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let left = self.body.take().filter(|body| !self.expects && !body.is_end_stream());
        if let (Some(body), Ok(runtime)) = (left, Handle::try_current()) {
            runtime.spawn(timeout(LONGEST, discard(body)));
        }
    }
}

async fn discard(mut body: Body) {
    let mut left = MOST;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, Buf::remaining);
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::StatusCode, middleware, routing::put};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::appservice::listener::serve_router;

    /// More than the sockets' buffers hold.
    const LENGTH: usize = 16 * 1024 * 1024;

    async fn refusing() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", put(async || StatusCode::PAYLOAD_TOO_LARGE))
            .layer(middleware::from_fn(linger));
        tokio::spawn(serve_router(listener, router, std::future::pending()));
        TcpStream::connect(address).await.unwrap()
    }

    async fn answer(stream: &mut TcpStream) -> String {
        let mut answer = [0_u8; 12];
        let read = timeout(Duration::from_secs(20), stream.read_exact(&mut answer)).await;
        read.expect("an answer in time").expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn whoever_sends_all_of_a_body_before_he_looks_finds_the_answer() {
        let mut stream = refusing().await;
        let head = format!("PUT / HTTP/1.1\r\nhost: keeper\r\ncontent-length: {LENGTH}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let part = vec![b'x'; 64 * 1024];
        for _ in 0..LENGTH / part.len() {
            stream.write_all(&part).await.expect("the body is taken");
        }
        assert_eq!(answer(&mut stream).await, "HTTP/1.1 413");
    }

    #[tokio::test]
    async fn whoever_waits_for_leave_to_send_a_body_is_answered_and_not_asked_for_it() {
        let mut stream = refusing().await;
        let head = format!(
            "PUT / HTTP/1.1\r\nhost: keeper\r\nexpect: 100-continue\r\ncontent-length: {LENGTH}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(answer(&mut stream).await, "HTTP/1.1 413");
    }
}
