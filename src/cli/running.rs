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
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{
    admin::{COMMAND_PATH, Trouble},
    config::Config,
    keeper::operator::{Answer, Refusal, Request},
};

/// How long the keeper may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to say how it fares.
const HEALTH_PATIENCE: Duration = Duration::from_secs(5);
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

/// What a keeper that has just been started says of itself, or one that waits for its store: it answers
/// `/health/ready` before the socket.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    /// What it waits for.
    pub(super) missing: Vec<String>,
    /// What is wrong.
    pub(super) troubles: Vec<ToldTrouble>,
}

/// A trouble as `/health/ready` tells of it.
#[derive(Debug, Deserialize)]
pub(super) struct ToldTrouble {
    /// Which.
    pub(super) cause: Trouble,
    /// Since when, in milliseconds.
    pub(super) since: i64,
    /// Until when, where the keeper has mended it.
    pub(super) until: Option<i64>,
}

/// Asks `admin.listen` how the keeper fares; `None` where no keeper answers there.
pub(super) async fn health(config: &Config) -> Option<Health> {
    let asked = async {
        let stream = TcpStream::connect(config.admin.listen).await?;
        let request = http::Request::builder().uri("/health/ready").header("host", "statekeeper");
        exchange(stream, request.body(Full::default())?).await
    };
    let (_, body) = tokio::time::timeout(HEALTH_PATIENCE, asked).await.ok()?.ok()?;
    let said: serde_json::Value = serde_json::from_slice(&body).ok()?;
    matches!(said.get("status")?.as_str()?, "ready" | "not_ready").then_some(())?;
    serde_json::from_value(said).ok()
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
    let request = http::Request::builder()
        .method(Method::POST)
        .uri(COMMAND_PATH)
        .header("host", "statekeeper")
        .body(Full::new(Bytes::from(serde_json::to_vec(request)?)))?;
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

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Full<Bytes>>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
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
