//! The admin listener: `/metrics`, `/health/live`, `/health/ready`, and the dashboard where there is one.

use std::io;

use axum::{
    Extension, Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::{
    Metrics, Readiness,
    dashboard::{Dashboard, Peer},
};
use crate::appservice::{Source, serve_router};

/// The listener, which says of each connection where it comes from.
struct Addressed(TcpListener);

impl Source for Addressed {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Source::accept(&self.0).await
    }

    fn admit(&self, stream: &TcpStream, router: &Router) -> Option<Router> {
        let peer = stream.peer_addr().ok()?.ip();
        let router = self.0.admit(stream, router)?;
        Some(router.layer(Extension(Peer(peer))))
    }
}

#[derive(Clone, Debug)]
struct Admin {
    metrics: Metrics,
    readiness: Readiness,
}

/// Serves metrics, health and the dashboard on `listener` until `shutdown` resolves and the requests in flight are
/// answered, for which there are a few seconds.
///
/// | path | answer |
/// |---|---|
/// | `GET /metrics` | Prometheus' text format 0.0.4 |
/// | `GET /health/live` | 200 `{"status":"live"}` as long as the process can answer at all |
/// | `GET /health/ready` | 200 `{"status":"ready"}`, or 503 `{"status":"not_ready","missing":[…]}` |
/// | `/dashboard/…` | pages for whoever is logged in |
///
/// The first three need no authentication: bind it to an address that only the operator reaches.
///
/// # Errors
/// When the listener cannot be read.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
    dashboard: Option<Dashboard>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(Admin { metrics, readiness });
    let router = match dashboard {
        Some(dashboard) => router.merge(dashboard.router()),
        None => router,
    };
    serve_router(Addressed(listener), router, shutdown).await
}

async fn show_metrics(State(admin): State<Admin>) -> Response {
    admin.metrics.set_missing(&admin.readiness.missing());
    match admin.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, Metrics::content_type())], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn live() -> Response {
    Json(json!({ "status": "live" })).into_response()
}

async fn ready(State(admin): State<Admin>) -> Response {
    let missing = admin.readiness.missing();
    if missing.is_empty() {
        return Json(json!({ "status": "ready" })).into_response();
    }
    let body = Json(json!({ "status": "not_ready", "missing": missing }));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::{Method, Request};

    use super::*;
    use crate::appservice::testing::{Answer, send};

    async fn listening(metrics: Metrics, readiness: Readiness) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, metrics, readiness, None, std::future::pending()));
        address
    }

    async fn get(address: SocketAddr, path: &str) -> Answer {
        let request = Request::builder().method(Method::GET).uri(format!("http://{address}{path}"));
        send(request.body(String::new()).unwrap()).await
    }

    #[tokio::test]
    async fn ready_names_what_is_missing_until_nothing_is() {
        let readiness = Readiness::new();
        let (homeserver, rooms) = (readiness.latch("homeserver"), readiness.latch("rooms"));
        let address = listening(Metrics::new().unwrap(), readiness.clone()).await;

        let answer = get(address, "/health/ready").await;
        assert_eq!(answer.status, 503);
        assert_eq!(
            answer.json(),
            json!({ "status": "not_ready", "missing": ["homeserver", "rooms"] })
        );

        homeserver.release();
        rooms.release();
        let answer = get(address, "/health/ready").await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "status": "ready" })));

        readiness.lost("homeserver");
        assert_eq!(get(address, "/health/ready").await.status, 503);
    }

    #[tokio::test]
    async fn live_is_answered_while_the_service_is_not_ready() {
        let readiness = Readiness::new();
        let _latch = readiness.latch("homeserver");
        let address = listening(Metrics::new().unwrap(), readiness).await;
        let answer = get(address, "/health/live").await;
        assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "status": "live" })));
    }

    #[tokio::test]
    async fn metrics_come_in_the_text_format_that_prometheus_scrapes() {
        let metrics = Metrics::new().unwrap();
        metrics.room_keys_shared("invite", 3);
        let address = listening(metrics, Readiness::new()).await;
        let answer = get(address, "/metrics").await;
        assert_eq!(answer.status, 200);
        assert!(answer.content_type.starts_with("text/plain; version=0.0.4"), "{answer:?}");
        assert!(answer.body.contains("statekeeper_room_keys_shared_total{reason=\"invite\"} 3\n"));
    }
}
