//! Who gets in, and which requests of theirs are their own.

use std::{net::IpAddr, time::Instant};

use axum::{
    Extension,
    body::to_bytes,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Redirect, Response},
};
use subtle::ConstantTimeEq as _;

use super::{
    Dashboard, attempts::Attempts, fields::Fields, login, page, proxy::Proxied, sessions::Session,
};

/// From which address a connection comes.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// The cookie of a session.
pub(super) const COOKIE: &str = "statekeeper_dashboard";
/// How many bytes a form has at most.
const MOST_BYTES: usize = 16 << 10;
/// The field that holds [`Session::guard`].
pub(super) const GUARD: &str = "guard";

/// Lets through whoever is logged in, and what their own pages sent.
pub(super) async fn guard(
    State(dashboard): State<Dashboard>,
    Extension(Peer(peer)): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let session = match identify(&dashboard, peer, request.headers()) {
        Ok(session) => session,
        Err(refused) => return *refused,
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let (parts, body) = request.into_parts();
        if !dashboard.inner.proxies.is_same_origin(peer, &parts.headers) {
            return forbidden();
        }
        let Ok(body) = to_bytes(body, MOST_BYTES).await else {
            return StatusCode::PAYLOAD_TOO_LARGE.into_response();
        };
        let fields = Fields::of(&body);
        if !bool::from(fields.get(GUARD).as_bytes().ct_eq(session.guard.as_bytes())) {
            return forbidden();
        }
        request = Request::from_parts(parts, axum::body::Body::empty());
        request.extensions_mut().insert(fields);
    }
    request.extensions_mut().insert(session);
    next.run(request).await
}

/// The session that a request belongs to; or the answer to one that belongs to none.
fn identify(
    dashboard: &Dashboard,
    peer: IpAddr,
    headers: &HeaderMap,
) -> Result<Session, Box<Response>> {
    let inner = &dashboard.inner;
    match inner.proxies.user(peer, headers) {
        Proxied::User(user) => return Ok(inner.sessions.of_proxied(&user, Instant::now())),
        Proxied::Wrong => return Err(Box::new(wrong_proxy(&inner.guesses, peer))),
        Proxied::Nobody => {}
    }
    let id = cookie(headers);
    let session = id.and_then(|id| inner.sessions.of_cookie(id, Instant::now()));
    session.ok_or_else(|| {
        Box::new(match &inner.token {
            Some(_) if id.is_some() => Redirect::to("/dashboard/login?ended=1").into_response(),
            Some(_) => Redirect::to("/dashboard/login").into_response(),
            None => page::bare(
                StatusCode::UNAUTHORIZED,
                "Not let in",
                "Come through the reverse proxy that logs people in.",
            ),
        })
    })
}

/// The answer to somebody at a proxy's address without the proxy's secret. He is counted by that address, whatever he
/// says of whom he speaks for. A right secret is let in all the same: the proxy brings it with each request, and whoever
/// shares its address could shut out everybody behind it. The secret's length is what keeps it from being guessed.
fn wrong_proxy(guesses: &Attempts, peer: IpAddr) -> Response {
    if let Err(wait) = guesses.attempt(peer) {
        return login::too_many(wait);
    }
    tracing::warn!(%peer, "somebody at a proxy's address was not let in to the dashboard: no or another secret");
    page::bare(
        StatusCode::UNAUTHORIZED,
        "Not let in",
        "The reverse proxy did not bring its secret, or not in good order.",
    )
}

fn forbidden() -> Response {
    page::bare(
        StatusCode::FORBIDDEN,
        "Refused",
        "This did not come from a page of yours here, or the page was too old. Nothing was done. Load the \
         page anew and try again.",
    )
}

/// The value of the session's cookie.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| name.trim() == COOKIE).map(|(_, value)| value.trim())
}
