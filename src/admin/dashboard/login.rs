//! Logging in with the token, and out.

use std::time::{Duration, Instant};

use axum::{
    Extension,
    body::Bytes,
    extract::{DefaultBodyLimit, RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
};
use maud::html;
use secrecy::ExposeSecret as _;
use subtle::ConstantTimeEq as _;

use super::{
    Dashboard, ROOT,
    access::{COOKIE, Peer, cookie},
    fields::Fields,
    page,
    sessions::Session,
};

/// How many bytes the form has at most.
pub(super) const MOST_BYTES: usize = 4 << 10;

/// The form.
pub(super) async fn show(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
) -> Response {
    let ended = !Fields::of(query.unwrap_or_default().as_bytes()).get("ended").is_empty();
    form(&dashboard, StatusCode::OK, ended.then_some("Your session has ended. Log in again."))
}

fn form(dashboard: &Dashboard, status: StatusCode, notice: Option<&str>) -> Response {
    if dashboard.inner.token.is_none() {
        return page::bare(
            StatusCode::NOT_FOUND,
            "No login here",
            "The reverse proxy in front of the keeper logs people in.",
        );
    }
    let wrong = status != StatusCode::OK;
    page::outside(
        status,
        "Log in",
        html! {
            h1 { "Log in" }
            @if let Some(notice) = notice {
                p #notice .notice .bad[wrong] role="alert" { (notice) }
            }
            form method="post" action="/dashboard/login" {
                label for="token" { "Token" }
                input #token type="password" name="token" required autocomplete="current-password"
                    aria-invalid=[wrong.then_some("true")] aria-describedby="token-help"
                    spellcheck="false" autofocus;
                p #token-help .hint { "It stands where " code { "admin.dashboard.token_file" } " says." }
                button type="submit" { "Log in" }
            }
            p .hint { "Logged in already, and came here from another site? " a href=(ROOT) { "Go on to the dashboard" } "." }
        },
    )
}

/// Takes the token.
pub(super) async fn take(
    State(dashboard): State<Dashboard>,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let inner = &dashboard.inner;
    let Some(token) = &inner.token else { return form(&dashboard, StatusCode::NOT_FOUND, None) };
    if !inner.proxies.is_same_origin(peer, &headers) {
        return page::bare(
            StatusCode::FORBIDDEN,
            "Refused",
            "This did not come from the login page here. If a reverse proxy stands before the keeper, it has to \
             pass on the host that the browser asked for.",
        );
    }
    let client = inner.proxies.client(peer, &headers);
    // Whatever the token is worth: nobody learns whether it is right before his next turn.
    if let Err(wait) = inner.logins.attempt(client) {
        return too_many(wait);
    }
    let fields = Fields::of(&body);
    if !bool::from(fields.get("token").as_bytes().ct_eq(token.expose_secret().as_bytes())) {
        tracing::warn!(%client, "a wrong token was tried at the dashboard");
        return form(&dashboard, StatusCode::UNAUTHORIZED, Some("That is not the token."));
    }
    // What a browser brought before is not carried on.
    if let Some(former) = cookie(&headers) {
        inner.sessions.end(former);
    }
    let id = inner.sessions.open(Instant::now());
    tracing::info!(%client, "somebody logged in to the dashboard");
    with_cookie(&id, "", inner.proxies.is_https(peer, &headers))
}

/// Ends the session.
pub(super) async fn end(
    State(dashboard): State<Dashboard>,
    Extension(Peer(peer)): Extension<Peer>,
    Extension(session): Extension<Session>,
    headers: HeaderMap,
) -> Response {
    if !session.is_ours {
        return Redirect::to(ROOT).into_response();
    }
    if let Some(id) = cookie(&headers) {
        dashboard.inner.sessions.end(id);
    }
    with_cookie("", "; Max-Age=0", dashboard.inner.proxies.is_https(peer, &headers))
}

fn with_cookie(id: &str, more: &str, is_https: bool) -> Response {
    let secure = if is_https { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={id}; Path=/dashboard; HttpOnly; SameSite=Strict{secure}{more}");
    let mut response = Redirect::to(ROOT).into_response();
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// The answer to somebody who tries too often.
pub(super) fn too_many(wait: Duration) -> Response {
    let seconds = wait.as_secs().saturating_add(1);
    let mut response = page::bare(
        StatusCode::TOO_MANY_REQUESTS,
        "Too many tries",
        &format!("Wait {seconds} seconds and try again."),
    );
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// The bound on the form.
pub(super) fn bound() -> DefaultBodyLimit {
    DefaultBodyLimit::max(MOST_BYTES)
}
