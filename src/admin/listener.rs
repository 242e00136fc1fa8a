//! The admin listener: `/metrics`, `/health/live`, `/health/ready`, and the dashboard where there is one.

use std::io;

use axum::{
    Extension, Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::{
    Lasting, Metrics, Readiness,
    dashboard::{Dashboard, Peer},
};
use crate::{
    appservice::{Source, serve_router},
    keeper::clock::now_ms,
};

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
/// | `GET /health/ready` | 200 `{"status":"ready"}`, or 503 `{"status":"not_ready","missing":[…]}`; with `troubles` where there are any |
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
    admin.metrics.set_troubles(admin.readiness.troubles());
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
    let troubles = admin.readiness.troubles().to_look_into(now_ms());
    let troubles: Vec<Value> = troubles.iter().map(trouble).collect();
    let (status, mut body) = match missing.is_empty() {
        true => (StatusCode::OK, json!({ "status": "ready" })),
        false => {
            let body = json!({ "status": "not_ready", "missing": missing });
            (StatusCode::SERVICE_UNAVAILABLE, body)
        }
    };
    if let (false, Some(body)) = (troubles.is_empty(), body.as_object_mut()) {
        body.insert("troubles".to_owned(), troubles.into());
    }
    (status, Json(body)).into_response()
}

fn trouble(lasting: &Lasting) -> Value {
    let Lasting { trouble, since, until } = lasting;
    json!({
        "cause": trouble, "since": since, "until": until, "text": trouble.cause(),
        "fix": trouble.mend(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::{Method, Request};

    use super::*;
    use crate::admin::Trouble;
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
    async fn what_is_wrong_is_told_with_what_mends_it_and_is_no_reason_not_to_be_ready() {
        let readiness = Readiness::new();
        let address = listening(Metrics::new().unwrap(), readiness.clone()).await;
        readiness.troubles().begin(Trouble::Clock, 5);
        let answer = get(address, "/health/ready").await;
        assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (200, &json!("ready")));
        let trouble = &answer.json()["troubles"][0];
        assert_eq!((&trouble["cause"], &trouble["since"]), (&json!("clock"), &json!(5)));
        assert_eq!(trouble["fix"], Trouble::Clock.mend());
        let lasts = "statekeeper_trouble{cause=\"clock\"} 1\n";
        assert!(get(address, "/metrics").await.body.contains(lasts));
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
