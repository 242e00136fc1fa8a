//! The homeserver: the one place that speaks the client-server API.
//!
//! The keeper is an application service that speaks for its bot: requests carry the `as_token`, and
//! `user_id` and `device_id` in the query (application service API, "Identity assertion"). Each
//! operation sends its request **once**; what repeats it, and when, is the caller's business, with
//! [`retrying`] as the usual way.
//!
//! | file | what |
//! |---|---|
//! | `connection.rs` | HTTP: the pool, timeouts, limits |
//! | `account.rs` | the server, the bot, its device, the ping |
//! | `keys.rs` | keys and to-device messages, `matrix-sdk-crypto`'s requests |
//! | `sync.rs` | the long poll for the device |
//! | `rooms.rs` | rooms and their state |
//! | `making.rs` | making rooms |
//! | `directory.rs` | addresses, and the rooms that they lead to |
//! | `media.rs` | files |
//! | `administration.rs` | Synapse's admin API |

use std::{borrow::Cow, sync::Arc, sync::LazyLock, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{
    Method, Request, Response,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::{
        AppserviceUserIdentity, IncomingResponse, OutgoingRequest, OutgoingRequestAppserviceExt,
        SupportedVersions,
        auth_scheme::{AuthScheme, SendAccessToken},
        path_builder::PathBuilder,
    },
};
use secrecy::SecretString;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use url::Url;

mod account;
mod administration;
mod backoff;
mod connection;
mod directory;
mod endpoint;
mod error;
mod keys;
mod making;
mod media;
mod path;
mod retry;
mod rooms;
mod sync;
#[cfg(test)]
mod tests;

pub use self::{
    account::{Device, Ensured, Registered},
    backoff::Backoff,
    endpoint::Endpoint,
    error::HomeserverError,
    keys::IncomingResponseOwned,
    making::RoomVersions,
    retry::retrying,
    rooms::RawStateEvent,
    sync::SyncSlice,
};

use self::{
    connection::{Connection, bearer},
    error::printable,
    path::Path,
};

/// What the body of nearly every request is.
const JSON: &str = "application/json";

/// The versions whose paths ruma's requests use: `/_matrix/client/v3` for all that the keeper asks.
static SUPPORTED: LazyLock<SupportedVersions> = LazyLock::new(|| {
    let versions = ["v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7"].map(str::to_owned);
    SupportedVersions::from_parts(&versions, &Default::default())
});

/// Hears of each request when it is done; for metrics.
pub trait RequestObserver: Send + Sync {
    /// A request ended. `endpoint` is [`Endpoint::as_str`]; `status` the HTTP status in decimal, or
    /// `unreachable`, `timeout` or `unreadable`; `seconds` the time from sending to the end of the
    /// answer's body.
    fn request_done(&self, endpoint: &'static str, status: &str, seconds: f64);
}

/// Nobody listens.
impl RequestObserver for () {
    fn request_done(&self, _: &'static str, _: &str, _: f64) {}
}

/// Where the homeserver is and whom the keeper speaks for there.
#[derive(Clone, Debug)]
pub struct HomeserverOptions {
    /// `homeserver.address`: `http://` or `https://`, perhaps with a path.
    pub address: Url,
    /// The registration's `as_token`.
    pub as_token: SecretString,
    /// The bot: a user of the registration's namespaces, not its `sender_localpart`.
    pub user_id: OwnedUserId,
    /// How long an answer is waited for. A long poll gets its own time on top.
    pub request_timeout: Duration,
}

/// A handle on the homeserver. Clones are cheap and share one connection pool.
#[derive(Clone, Debug)]
pub struct Homeserver {
    connection: Arc<Connection>,
    device_id: Option<OwnedDeviceId>,
}

/// For whom a request speaks.
enum Identity {
    /// For the application service itself: before the bot exists.
    Service,
    /// For the bot: before its device exists, or where the device must not be checked.
    Bot,
    /// For the bot's device, if this handle has one; else for the bot.
    Device,
    /// For the login that this access token, in place of the `as_token`, belongs to.
    Login(SecretString),
}

/// A request that ruma has no type for, or whose bytes must be exactly ours.
struct Call {
    endpoint: Endpoint,
    method: Method,
    path: Path,
    body: Bytes,
    content_type: &'static str,
    identity: Identity,
    timeout: Duration,
}

impl Homeserver {
    /// A handle that speaks for the bot and for no device. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`HomeserverError::Options`] if the address is no `http(s)` address, holds a password, or is
    /// `https` and this machine has no certificate authorities.
    pub fn new(
        options: HomeserverOptions,
        observer: Arc<dyn RequestObserver>,
    ) -> Result<Self, HomeserverError> {
        let connection = Arc::new(Connection::new(options, observer)?);
        Ok(Self { connection, device_id: None })
    }

    /// A handle on the same connection pool whose requests speak for this device of the bot.
    pub fn with_device(&self, device_id: OwnedDeviceId) -> Self {
        Self { connection: Arc::clone(&self.connection), device_id: Some(device_id) }
    }

    /// The bot.
    pub fn user_id(&self) -> &UserId {
        &self.connection.user_id
    }

    /// The device that requests of this handle speak for.
    pub fn device_id(&self) -> Option<&ruma::DeviceId> {
        self.device_id.as_deref()
    }

    /// Sends a request of ruma's, once, for the bot's device.
    ///
    /// # Errors
    ///
    /// Every [`HomeserverError`] but `Options`.
    pub async fn send<R>(
        &self,
        endpoint: Endpoint,
        request: R,
    ) -> Result<R::IncomingResponse, HomeserverError>
    where
        R: OutgoingRequest,
        for<'a> R::Authentication: AuthScheme<Input<'a> = SendAccessToken<'a>>,
        for<'a> R::PathBuilder: PathBuilder<Input<'a> = Cow<'a, SupportedVersions>>,
    {
        self.send_within(endpoint, request, self.connection.request_timeout).await
    }

    /// [`send`](Self::send), repeated until it succeeds, fails for good, or `until` has come, as
    /// [`retrying`] describes.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send); a transient one only when `until` has come.
    pub async fn send_retrying<R>(
        &self,
        endpoint: Endpoint,
        request: R,
        until: Option<Instant>,
    ) -> Result<R::IncomingResponse, HomeserverError>
    where
        R: OutgoingRequest,
        for<'a> R::Authentication: AuthScheme<Input<'a> = SendAccessToken<'a>>,
        for<'a> R::PathBuilder: PathBuilder<Input<'a> = Cow<'a, SupportedVersions>>,
    {
        retrying(until, || self.send(endpoint, request.clone())).await
    }

    /// [`send`](Self::send) with another time limit.
    async fn send_within<R>(
        &self,
        endpoint: Endpoint,
        request: R,
        limit: Duration,
    ) -> Result<R::IncomingResponse, HomeserverError>
    where
        R: OutgoingRequest,
        for<'a> R::Authentication: AuthScheme<Input<'a> = SendAccessToken<'a>>,
        for<'a> R::PathBuilder: PathBuilder<Input<'a> = Cow<'a, SupportedVersions>>,
    {
        let mut identity = AppserviceUserIdentity::new(&self.connection.user_id);
        identity.device_id = self.device_id.as_deref();
        let request = request
            .try_into_http_request_with_identity::<BytesMut>(
                self.connection.base(),
                SendAccessToken::Appservice(self.connection.as_token()),
                identity,
                Cow::Borrowed(&SUPPORTED),
            )
            .map_err(|error| unsendable(endpoint, &error.to_string()))?;
        let request = request.map(BytesMut::freeze);
        let answer = self.connection.exchange(endpoint, request, limit).await?;
        R::IncomingResponse::try_from_http_response(answer)
            .map_err(|error| unreadable(endpoint, &error.to_string()))
    }

    /// Sends a request without a body, for the bot's device.
    async fn get(
        &self,
        endpoint: Endpoint,
        path: Path,
    ) -> Result<Response<Bytes>, HomeserverError> {
        self.call(self.request(endpoint, Method::GET, path, Bytes::new())).await
    }

    /// Sends `body`, for the bot's device.
    async fn put(
        &self,
        endpoint: Endpoint,
        path: Path,
        body: Bytes,
    ) -> Result<Response<Bytes>, HomeserverError> {
        self.call(self.request(endpoint, Method::PUT, path, body)).await
    }

    /// Sends `body`, for the bot's device.
    async fn post(
        &self,
        endpoint: Endpoint,
        path: Path,
        body: Bytes,
    ) -> Result<Response<Bytes>, HomeserverError> {
        self.call(self.request(endpoint, Method::POST, path, body)).await
    }

    fn request(&self, endpoint: Endpoint, method: Method, path: Path, body: Bytes) -> Call {
        let timeout = self.connection.request_timeout;
        let (identity, content_type) = (Identity::Device, JSON);
        Call { endpoint, method, path, body, content_type, identity, timeout }
    }

    async fn call(&self, call: Call) -> Result<Response<Bytes>, HomeserverError> {
        let Call { endpoint, method, path, body, content_type, identity, timeout } = call;
        let path = self.identify(path, &identity);
        let mut request = Request::builder().method(method).uri(format!(
            "{}{}",
            self.connection.base(),
            path.as_str()
        ));
        if let Identity::Login(token) = &identity {
            request = request.header(
                AUTHORIZATION,
                bearer(token).ok_or_else(|| {
                    unreadable(endpoint, "the access token has characters that no header may hold")
                })?,
            );
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let request =
            request.body(body).map_err(|error| unsendable(endpoint, &error.to_string()))?;
        self.connection.exchange(endpoint, request, timeout).await
    }

    /// Application service API, "Identity assertion": both parameters together. Homeservers answer
    /// `device_id` alone with 500.
    fn identify(&self, path: Path, identity: &Identity) -> Path {
        let user_id = self.connection.user_id.as_str();
        match (identity, &self.device_id) {
            (Identity::Service | Identity::Login(_), _) => path,
            (Identity::Bot, _) | (Identity::Device, None) => path.query("user_id", user_id),
            (Identity::Device, Some(device_id)) => {
                path.query("user_id", user_id).query("device_id", device_id.as_str())
            }
        }
    }
}

fn unsendable(endpoint: Endpoint, what: &str) -> HomeserverError {
    HomeserverError::Unsendable { endpoint, what: printable(what, 200) }
}

fn unreadable(endpoint: Endpoint, what: &str) -> HomeserverError {
    HomeserverError::Unreadable { endpoint, what: printable(what, 200) }
}

/// Reads the JSON of an answer.
fn read<T: DeserializeOwned>(
    endpoint: Endpoint,
    answer: &Response<Bytes>,
) -> Result<T, HomeserverError> {
    serde_json::from_slice(answer.body()).map_err(|error| unreadable(endpoint, &error.to_string()))
}

/// The JSON of a body that we made.
fn json<T: Serialize>(endpoint: Endpoint, body: &T) -> Result<Bytes, HomeserverError> {
    let body =
        serde_json::to_vec(body).map_err(|error| unsendable(endpoint, &error.to_string()))?;
    Ok(body.into())
}

/// `None` where the spec says that the thing is not there.
fn found<T>(outcome: Result<T, HomeserverError>) -> Result<Option<T>, HomeserverError> {
    match outcome {
        Ok(thing) => Ok(Some(thing)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
