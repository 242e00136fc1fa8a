//! Speaking to the running keeper through its socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::{
    admin::COMMAND_PATH,
    config::Config,
    keeper::operator::{Answer, Refusal, Request},
};

/// How long the keeper may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most bytes of an answer.
const MOST_BYTES: usize = 256 << 20;

/// What became of a request to a keeper that may be running.
pub(super) enum Heard {
    /// It answered.
    Answer(Box<Answer>),
    /// Nobody listens at the socket.
    Nobody {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl Heard {
    /// The answer.
    ///
    /// # Errors
    ///
    /// When nobody listens.
    pub(super) fn answer(self) -> anyhow::Result<Answer> {
        match self {
            Self::Answer(answer) => Ok(*answer),
            Self::Nobody { path, error } => Err(anyhow::anyhow!(
                "{}: no keeper answers ({error}); start it with `statekeeper serve`, and call this as \
                 the user that it runs as, with its configuration",
                path.display()
            )),
        }
    }
}

/// The answer of somebody else than was asked.
pub(super) fn other_answer() -> anyhow::Error {
    anyhow::anyhow!("the running keeper gave another kind of answer; is it of the same version?")
}

/// Asks the running keeper.
///
/// # Errors
///
/// When it refuses, or cannot be understood.
pub(super) async fn ask(config: &Config, request: &Request) -> anyhow::Result<Heard> {
    let path = config.socket_path().context("admin.socket")?;
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) => return Ok(Heard::Nobody { path, error }),
    };
    let asked = tokio::time::timeout(PATIENCE, exchange(stream, request)).await;
    let asked = asked.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in {PATIENCE:?}")));
    let (status, body) = asked.with_context(|| trouble(&path))?;
    if status == StatusCode::OK {
        let answer = serde_json::from_slice(&body).with_context(|| trouble(&path))?;
        return Ok(Heard::Answer(Box::new(answer)));
    }
    let refusal: Refusal = serde_json::from_slice(&body).with_context(|| trouble(&path))?;
    Err(refusal.into())
}

fn trouble(path: &Path) -> String {
    format!("{}: the running keeper did not answer properly", path.display())
}

async fn exchange(stream: UnixStream, request: &Request) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::builder()
        .method(Method::POST)
        .uri(COMMAND_PATH)
        .header("host", "statekeeper")
        .body(Full::new(Bytes::from(serde_json::to_vec(request)?)))?;
    let exchanged = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MOST_BYTES).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?;
        anyhow::Ok((parts.status, body.to_bytes()))
    };
    tokio::pin!(exchanged);
    tokio::select! {
        exchanged = &mut exchanged => exchanged,
        ended = connection => {
            ended?;
            exchanged.await
        }
    }
}
