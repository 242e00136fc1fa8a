//! HTTP to the homeserver: one connection pool, one try at a time, everything bounded.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response,
    header::{AUTHORIZATION, USER_AGENT},
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use ruma::OwnedUserId;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout};
use tracing::debug;
use url::Url;

use super::{Endpoint, HomeserverError, HomeserverOptions, RequestObserver, error::printable};

/// A connection that has carried nothing for so long is closed by us. Homeservers and proxies close
/// after a minute or more; a request on a connection that closes in that instant would fail.
const IDLE: Duration = Duration::from_secs(20);
/// The longest wait for a connection to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// The most of a refusal's body that is read.
const REFUSAL_LIMIT: usize = 64 << 10;
const AGENT: &str = concat!("statekeeper/", env!("CARGO_PKG_VERSION"));

/// What every handle on the homeserver shares.
pub(super) struct Connection {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Scheme, host, port and perhaps a path, without a slash at the end.
    base: String,
    as_token: SecretString,
    authorization: HeaderValue,
    pub(super) user_id: OwnedUserId,
    pub(super) request_timeout: Duration,
    observer: Arc<dyn RequestObserver>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("base", &self.base)
            .field("user_id", &self.user_id)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(
        options: HomeserverOptions,
        observer: Arc<dyn RequestObserver>,
    ) -> Result<Self, HomeserverError> {
        let HomeserverOptions { address, as_token, user_id, request_timeout } = options;
        let base = base(&address)?;
        let mut authorization =
            HeaderValue::try_from(format!("Bearer {}", as_token.expose_secret())).map_err(
                |_| {
                    wrong("the registration's as_token has characters that no HTTP header may hold")
                },
            )?;
        authorization.set_sensitive(true);
        let connector = connector(&address, request_timeout.min(CONNECT))?;
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self { client, base, as_token, authorization, user_id, request_timeout, observer })
    }

    /// The homeserver's address, without user info, query and trailing slash.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn as_token(&self) -> &str {
        self.as_token.expose_secret()
    }

    /// Sends `request` once, with the `as_token` unless it has a token already, and reads the whole answer, all within `limit`.
    ///
    /// A status of 2xx is a success; every other one is [`HomeserverError::Api`]. Redirections are
    /// not followed: the token goes to the configured address alone.
    pub(super) async fn exchange(
        &self,
        endpoint: Endpoint,
        mut request: Request<Bytes>,
        limit: Duration,
    ) -> Result<Response<Bytes>, HomeserverError> {
        let headers = request.headers_mut();
        headers.entry(AUTHORIZATION).or_insert_with(|| self.authorization.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let started = Instant::now();
        let outcome = timeout(limit, self.attempt(endpoint, request)).await.unwrap_or_else(|_| {
            Err(HomeserverError::Timeout { endpoint, address: self.base.clone(), after: limit })
        });
        let seconds = started.elapsed().as_secs_f64();
        let status = match &outcome {
            Ok(answer) => answer.status().as_u16().to_string(),
            Err(error) => error.label(),
        };
        debug!(endpoint = endpoint.as_str(), status, seconds, "homeserver request");
        self.observer.request_done(endpoint.as_str(), &status, seconds);
        outcome
    }

    async fn attempt(
        &self,
        endpoint: Endpoint,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, HomeserverError> {
        let answer = self.client.request(request.map(Full::new)).await;
        let answer = answer.map_err(|error| self.unreachable(endpoint, &error))?;
        let (parts, body) = answer.into_parts();
        let success = parts.status.is_success();
        let limit = if success { endpoint.body_limit() } else { REFUSAL_LIMIT };
        let body = match Limited::new(body, limit).collect().await {
            Ok(body) => body.to_bytes(),
            // The status of a refusal counts even if its explanation is a novel.
            Err(error) if error.is::<LengthLimitError>() && !success => Bytes::new(),
            Err(error) if error.is::<LengthLimitError>() => {
                let what = format!("its body is larger than {limit} bytes");
                return Err(HomeserverError::Unreadable { endpoint, what });
            }
            Err(error) => return Err(self.unreachable(endpoint, error.as_ref())),
        };
        if success {
            return Ok(Response::from_parts(parts, body));
        }
        Err(HomeserverError::from_answer(
            endpoint,
            parts.status,
            &parts.headers,
            &body,
            self.as_token(),
        ))
    }

    fn unreachable(&self, endpoint: Endpoint, error: &(dyn StdError + 'static)) -> HomeserverError {
        let (mut causes, mut next) = (Vec::new(), Some(error));
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        causes.dedup();
        HomeserverError::Unreachable {
            endpoint,
            address: self.base.clone(),
            reason: printable(&causes.join(": "), 300),
        }
    }
}

/// The `Authorization` header for `token`, marked so that it is never shown; `None` if `token` has
/// characters that no header may hold.
pub(super) fn bearer(token: &SecretString) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn wrong(what: impl Into<String>) -> HomeserverError {
    HomeserverError::Options { what: what.into() }
}

/// The part of `address` that a request's path follows.
fn base(address: &Url) -> Result<String, HomeserverError> {
    if !matches!(address.scheme(), "http" | "https") || address.host().is_none() {
        return Err(wrong(
            "homeserver.address must begin with http:// or https:// and name a host",
        ));
    }
    // Errors and logs show the address, so no password may stand in it.
    if !address.username().is_empty() || address.password().is_some() {
        return Err(wrong("homeserver.address must not hold a user name or a password"));
    }
    if address.query().is_some() || address.fragment().is_some() {
        return Err(wrong("homeserver.address must hold neither ? nor #"));
    }
    Ok(address.as_str().trim_end_matches('/').to_owned())
}

fn connector(
    address: &Url,
    connect_timeout: Duration,
) -> Result<HttpsConnector<HttpConnector>, HomeserverError> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    // A request is one write; waiting for more to send only delays it.
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(connect_timeout));
    let provider = rustls::crypto::ring::default_provider();
    let builder = HttpsConnectorBuilder::new();
    let builder = if address.scheme() == "https" {
        builder.with_provider_and_native_roots(provider).map_err(|error| {
            wrong(format!(
                "homeserver.address is https:// and this machine's certificate authorities cannot \
                 be loaded ({error}); install them (ca-certificates) or set SSL_CERT_FILE"
            ))
        })?
    } else {
        // A container that speaks plain HTTP to its homeserver need not hold any certificates.
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder.with_tls_config(tls)
    };
    Ok(builder.https_or_http().enable_http1().wrap_connector(tcp))
}
