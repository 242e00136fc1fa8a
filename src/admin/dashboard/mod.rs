//! The dashboard: what a person looks at, as pages that are made here and work without JavaScript.
//!
//! Every page is asked of [`Operator`], like the command line's answers, and lands in the ledger with who asked. None
//! holds key material or content of state. Whatever came from the network is escaped by the templates, cut, and set
//! apart in its direction of reading.
//!
//! Nobody gets past [`access::guard`] without a session, and nothing that changes anything gets past it without the
//! session's own token, from a page of this very origin. The numbers over time are kept in memory ([`trends`]): a
//! ledger of years would have to be read for them at each look, and what they are for is today.

mod access;
mod attempts;
mod chart;
mod fields;
mod headers;
mod login;
mod page;
mod pages;
mod proxy;
mod sessions;
mod trends;
mod words;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use axum::{
    Router, middleware,
    response::Redirect,
    routing::{any, get, post},
};
use secrecy::SecretString;

pub(super) use self::access::Peer;
use self::{attempts::Attempts, proxy::Proxies, sessions::Sessions, trends::Trends};
use super::{Metrics, Readiness};
use crate::{
    config::{Admin, SecretError},
    keeper::{clock::now_ms, operator::Operator},
};

/// Where its pages are.
pub const ROOT: &str = "/dashboard/";
/// How often the numbers over time are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The dashboard of a keeper. Clones are the same one.
#[derive(Clone)]
pub struct Dashboard {
    inner: Arc<Inner>,
}

struct Inner {
    /// What a person logs in with; `None` where a proxy does all of it.
    token: Option<SecretString>,
    proxies: Proxies,
    sessions: Sessions,
    /// At the token.
    logins: Attempts,
    /// At the proxy's secret: not counted with the others, since a proxy shares its address with whoever has a tunnel.
    guesses: Attempts,
    trends: Mutex<Trends>,
    metrics: Metrics,
    readiness: Readiness,
    /// There once the store is open.
    operator: OnceLock<Operator>,
}

impl std::fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dashboard").finish_non_exhaustive()
    }
}

impl Dashboard {
    /// The dashboard that is configured; `None` where none is.
    ///
    /// # Errors
    ///
    /// [`SecretError`] when one of its secrets cannot be read or is short.
    pub fn new(
        admin: &Admin,
        metrics: Metrics,
        readiness: Readiness,
    ) -> Result<Option<Self>, SecretError> {
        let config = &admin.dashboard;
        if !config.is_on() {
            return Ok(None);
        }
        let secrets = config.read_secrets()?;
        let inner = Inner {
            token: secrets.token,
            proxies: Proxies::new(
                &admin.trusted_proxies,
                config.user_header.as_deref(),
                secrets.proxy,
            ),
            sessions: Sessions::new(config.session_idle.get(), config.session_lifetime.get()),
            logins: Attempts::default(),
            guesses: Attempts::default(),
            trends: Mutex::default(),
            metrics,
            readiness,
            operator: OnceLock::new(),
        };
        Ok(Some(Self { inner: Arc::new(inner) }))
    }

    /// The keeper has a store, and can be asked.
    pub fn begin(&self, operator: Operator) {
        // There is one start, and so one value.
        let _ = self.inner.operator.set(operator);
    }

    /// Keeps the numbers over time, for ever.
    pub async fn watch(self) {
        loop {
            self.look();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Takes the numbers of now, and gives those of the last day.
    fn look(&self) -> trends::View {
        let mut trends = self.inner.trends.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now_ms();
        trends.note(now, self.inner.metrics.tally());
        trends.view(now)
    }

    /// Its pages, and nothing else.
    pub(super) fn router(&self) -> Router {
        let open = Router::new()
            .route("/dashboard", get(async || Redirect::permanent(ROOT)))
            .route("/dashboard/login", get(login::show).post(login::take).layer(login::bound()))
            .route("/dashboard/style.css", get(headers::style))
            .route("/dashboard/icon.svg", get(headers::icon));
        let closed = Router::new()
            .route(ROOT, get(pages::overview::show))
            .route("/dashboard/rooms", get(pages::rooms::show))
            .route("/dashboard/room", get(pages::room::show))
            .route("/dashboard/holds", get(pages::holds::show))
            .route("/dashboard/spaces", get(pages::spaces::show))
            .route("/dashboard/ledger", get(pages::ledger::show))
            .route("/dashboard/why", get(pages::why::show))
            .route("/dashboard/confirm", get(pages::command::confirm))
            .route("/dashboard/command", post(pages::command::perform))
            .route("/dashboard/logout", post(login::end))
            .route("/dashboard/{*rest}", any(pages::not_found))
            .route_layer(middleware::from_fn_with_state(self.clone(), access::guard));
        // A layer of the routes alone: what else the listener serves is none of the dashboard's.
        let all = open.merge(closed).route_layer(middleware::map_response(headers::protect));
        all.with_state(self.clone())
    }
}
