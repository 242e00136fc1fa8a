//! The Unix socket through which the command line speaks to the running keeper: one request and one answer, as JSON
//! over HTTP.

use std::{
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt},
    path::{Path, PathBuf},
};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use tokio::net::{UnixListener, UnixStream};

use crate::{
    appservice::{Source, serve_router},
    keeper::operator::{Caller, Operator, Refusal, Request},
};

/// Where requests are posted.
pub const COMMAND_PATH: &str = "/command";
/// The most bytes of a request: a picture may be in it.
pub const MOST_BYTES: usize = 16 << 20;
/// Nobody but the keeper's own user (and root).
const MODE: u32 = 0o600;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something answers there.
    #[error("{0}: another process answers there; does a keeper run already with this store?")]
    Answered(PathBuf),
    /// Something else stands there.
    #[error("{0}: is there and is no socket; move it away, or set `admin.socket`")]
    NoSocket(PathBuf),
    /// The system refused.
    #[error("{path}: {source}")]
    Refused {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket that the command line may connect to. It is gone when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The file's number: another keeper may have put its own there since.
    inode: u64,
    /// The keeper's own user of the machine.
    owner: u32,
}

impl AdminSocket {
    /// Makes the socket at `path`, in place of one that a killed process left there.
    ///
    /// # Errors
    ///
    /// [`SocketError`] when somebody answers there, something else stands there, or the system refuses.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        let refused = |source| SocketError::Refused { path: path.to_owned(), source };
        remove_stale(path).await?;
        let listener = UnixListener::bind(path).map_err(refused)?;
        // Whoever connects before this is looked at when he is let in.
        std::fs::set_permissions(path, PermissionsExt::from_mode(MODE)).map_err(refused)?;
        let made = std::fs::metadata(path).map_err(refused)?;
        Ok(Self { listener, path: path.to_owned(), inode: made.ino(), owner: made.uid() })
    }
}

/// Removes a socket that nobody listens on.
async fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let refused = |source| SocketError::Refused { path: path.to_owned(), source };
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(error)),
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NoSocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(SocketError::Answered(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(refused)
        }
        Err(error) => Err(refused(error)),
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let stands = std::fs::symlink_metadata(&self.path);
        if stands.is_ok_and(|stands| stands.ino() == self.inode) {
            // What stays is removed by the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Source for AdminSocket {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept().await?;
        Ok(stream)
    }

    /// The file's mode keeps others out; this keeps those out who came before it was set.
    fn admit(&self, stream: &UnixStream, router: &Router) -> Option<Router> {
        let peer = stream.peer_cred().ok()?.uid();
        if peer != self.owner && peer != 0 {
            tracing::warn!(
                uid = peer,
                "somebody else's process was not let in to the admin socket"
            );
            return None;
        }
        Some(router.clone().layer(Extension(Caller::Machine(peer))))
    }
}

/// Serves `operator` on `socket` until `shutdown` resolves and the requests in flight are answered.
///
/// | request | answer |
/// |---|---|
/// | `POST /command` with a [`Request`] as JSON | 200 and the answer, or another status and a [`Refusal`], as JSON |
///
/// # Errors
///
/// When the socket cannot be read.
pub async fn serve(
    socket: AdminSocket,
    operator: Operator,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route(COMMAND_PATH, post(command))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .with_state(operator);
    serve_router(socket, router, shutdown).await
}

async fn command(
    State(operator): State<Operator>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let Ok(request) = serde_json::from_slice::<Request>(&body) else {
        let message = "the running keeper does not know this request; is it of the same version?";
        let refusal = Refusal { code: "not_understood".to_owned(), message: message.to_owned() };
        return (StatusCode::BAD_REQUEST, Json(refusal)).into_response();
    };
    match operator.perform(&caller, &request).await {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) if refusal.is_failure() => {
            (StatusCode::INTERNAL_SERVER_ERROR, Json(refusal)).into_response()
        }
        Err(refusal) => (StatusCode::CONFLICT, Json(refusal)).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_its_owners_alone_and_gone_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_killed_keeper_left_is_replaced_and_what_is_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "nobody listens there, and the file is there");
        let socket = AdminSocket::bind(&path).await.unwrap();
        assert!(matches!(AdminSocket::bind(&path).await, Err(SocketError::Answered(_))));
        assert!(path.exists());
        drop(socket);
        std::fs::write(&path, "notes").unwrap();
        assert!(matches!(AdminSocket::bind(&path).await, Err(SocketError::NoSocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "notes");
    }

    #[tokio::test]
    async fn another_keepers_socket_is_left_when_this_ones_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let first = AdminSocket::bind(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = AdminSocket::bind(&path).await.unwrap();
        drop(first);
        assert!(path.exists());
    }
}
