//! The endpoints that an application service has to serve, with the types and paths of
//! `ruma-appservice-api`.

use std::{error::Error, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{MatchedPath, Path, Request, State, rejection::PathRejection},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ruma::{
    OwnedTransactionId, OwnedUserId, UserId,
    api::{Metadata, OutgoingResponse, path_builder::SinglePath},
};
use ruma_appservice_api::{
    event::push_events,
    ping::send_ping,
    query::{query_room_alias, query_user_id},
};
use secrecy::SecretString;
use tokio::{net::TcpListener, sync::watch, time::timeout};

use super::{
    authorization::HsToken,
    error::ApiError,
    lingering::linger,
    listener::serve_router,
    outcome::{TransactionObserver, TransactionOutcome},
    sink::TransactionSink,
    transaction::{Transaction, Unusable, read_ping},
};

/// How long the homeserver may take to send a body that it announced.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What the listener has to know from the configuration and the registration.
#[derive(Debug)]
pub struct Options {
    /// The registration's `hs_token`: the secret by which the homeserver is known.
    pub hs_token: SecretString,
    /// The keeper: the one user that the user query says yes to.
    pub bot: OwnedUserId,
    /// The largest body, in bytes, that is read.
    pub max_body_size: usize,
}

/// Tells of the homeserver's pings: the value is the transaction id of the latest one, if it had
/// one. Each ping marks the channel as changed.
pub type Pings = watch::Sender<Option<OwnedTransactionId>>;

struct AppService<S, O> {
    hs_token: HsToken,
    bot: OwnedUserId,
    max_body_size: usize,
    sink: S,
    observer: O,
    pings: Pings,
}

/// Serves the application service's endpoints on `listener` until `shutdown` resolves and the
/// requests in flight are answered, for which there are [`super::DRAIN_TIMEOUT`].
///
/// Events go to `sink` before their transaction is answered with 200; outcomes go to `observer`;
/// pings to `pings`.
///
/// # Errors
/// When the listener cannot be read.
pub async fn serve<S: TransactionSink, O: TransactionObserver>(
    listener: TcpListener,
    options: Options,
    sink: S,
    observer: O,
    pings: Pings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let Options { hs_token, bot, max_body_size } = options;
    let hs_token = HsToken::new(hs_token);
    let service = AppService { hs_token, bot, max_body_size, sink, observer, pings };
    serve_router(listener, router(Arc::new(service)), shutdown).await
}

fn router<S: TransactionSink, O: TransactionObserver>(service: Arc<AppService<S, O>>) -> Router {
    Router::new()
        .route(path::<push_events::v1::Request>(), put(put_transaction::<S, O>))
        .route(path::<send_ping::v1::Request>(), post(post_ping::<S, O>))
        .route(path::<query_user_id::v1::Request>(), get(get_user::<S, O>))
        .route(path::<query_room_alias::v1::Request>(), get(get_room_alias))
        .method_not_allowed_fallback(async || ApiError::UnknownMethod)
        // Before the handlers, and so before any of the body is read.
        .layer(middleware::from_fn_with_state(service.clone(), only_the_homeserver::<S, O>))
        .fallback(async || ApiError::UnknownPath)
        // Around all of them: whoever is refused hears why, however much he sends.
        .layer(middleware::from_fn(linger))
        .with_state(service)
}

/// The path of an endpoint; ruma and axum write its variables alike.
fn path<R: Metadata<PathBuilder = SinglePath>>() -> &'static str {
    R::PATH_BUILDER.path()
}

async fn only_the_homeserver<S: TransactionSink, O: TransactionObserver>(
    State(service): State<Arc<AppService<S, O>>>,
    request: Request,
    next: Next,
) -> Response {
    let Err(error) = service.hs_token.check(request.headers()) else {
        return next.run(request).await;
    };
    let endpoint = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    tracing::warn!(endpoint, %error, "a request that is not the homeserver's was refused");
    if endpoint == path::<push_events::v1::Request>() {
        service.observer.transaction(TransactionOutcome::Unauthorized);
    }
    error.into_response()
}

async fn put_transaction<S: TransactionSink, O: TransactionObserver>(
    State(service): State<Arc<AppService<S, O>>>,
    request: Request,
) -> Response {
    let (outcome, response) = match service.take_transaction(request).await {
        Ok(outcome) => (outcome, answer(push_events::v1::Response::new())),
        Err(error) => (outcome_of(error), error.into_response()),
    };
    service.observer.transaction(outcome);
    response
}

const fn outcome_of(error: ApiError) -> TransactionOutcome {
    match error {
        ApiError::NotJson | ApiError::BadJson => TransactionOutcome::Malformed,
        ApiError::TooLarge => TransactionOutcome::TooLarge,
        ApiError::MissingToken | ApiError::Forbidden => TransactionOutcome::Unauthorized,
        _ => TransactionOutcome::Failed,
    }
}

async fn post_ping<S: TransactionSink, O: TransactionObserver>(
    State(service): State<Arc<AppService<S, O>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let body = read_body(request, service.max_body_size).await?;
    service.pings.send_replace(read_ping(&body)?);
    Ok(answer(send_ping::v1::Response::new()))
}

async fn get_user<S: TransactionSink, O: TransactionObserver>(
    State(service): State<Arc<AppService<S, O>>>,
    user_id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(user_id) = user_id.map_err(|_| ApiError::InvalidParam)?;
    let user_id = UserId::parse(user_id).map_err(|_| ApiError::InvalidParam)?;
    if user_id != service.bot {
        return Err(ApiError::NotFound);
    }
    Ok(answer(query_user_id::v1::Response::new()))
}

/// The keeper has no aliases.
async fn get_room_alias() -> ApiError {
    ApiError::NotFound
}

impl<S: TransactionSink, O: TransactionObserver> AppService<S, O> {
    async fn take_transaction(&self, request: Request) -> Result<TransactionOutcome, ApiError> {
        let body = read_body(request, self.max_body_size).await?;
        let Transaction { events, dropped } = Transaction::from_body(&body)?;
        drop(body);
        self.report(&dropped);
        if events.is_empty() {
            return Ok(TransactionOutcome::Accepted);
        }
        match self.sink.accept(events).await {
            Ok(0) => Ok(TransactionOutcome::Duplicate),
            Ok(_) => Ok(TransactionOutcome::Accepted),
            Err(error) => {
                let cause = error.source().map(ToString::to_string);
                tracing::error!(%error, cause, "the homeserver has to repeat a transaction");
                Err(ApiError::NotStored)
            }
        }
    }

    fn report(&self, dropped: &[(usize, Unusable)]) {
        if dropped.is_empty() {
            return;
        }
        for (position, why) in dropped {
            tracing::warn!(position, %why, "an event of a transaction was dropped");
        }
        self.observer.events_dropped(dropped.len().try_into().unwrap_or(u64::MAX));
    }
}

/// The body, if it is at most `limit` bytes. One that announces more is not read at all.
async fn read_body(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    let body = request.into_body();
    if body.size_hint().lower() > limit.try_into().unwrap_or(u64::MAX) {
        return Err(ApiError::TooLarge);
    }
    let collected = timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await;
    match collected.map_err(|_| ApiError::Incomplete)? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge),
        Err(_) => Err(ApiError::Incomplete),
    }
}

/// ruma's response as one of axum's.
fn answer(response: impl OutgoingResponse) -> Response {
    match response.try_into_http_response::<Vec<u8>>() {
        Ok(response) => response.map(Body::from),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
