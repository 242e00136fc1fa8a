//! Pushes events to the keeper as a homeserver does: in order, one transaction in flight, at most
//! 100 events each, the same transaction id again until it is accepted.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

use super::{server::released, sim::Sim};

const EVENTS_PER_TRANSACTION: usize = 100;
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// Speaks HTTP to the keeper.
pub type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// A client for plain HTTP on loopback.
pub fn http_client() -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// Sends a request with a JSON body, or whatever bytes it is given.
///
/// # Errors
/// The transport's error as text.
pub async fn request(
    client: &HttpClient,
    method: http::Method,
    url: &str,
    bearer: Option<&str>,
    body: impl Into<Bytes>,
) -> Result<(u16, Value), String> {
    let mut request = http::Request::builder()
        .method(method)
        .uri(url)
        .header(http::header::CONTENT_TYPE, "application/json");
    if let Some(bearer) = bearer {
        request = request.header(http::header::AUTHORIZATION, format!("Bearer {bearer}"));
    }
    let request = request.body(Full::new(body.into())).map_err(|error| error.to_string())?;
    let response = client.request(request).await.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.map_err(|error| error.to_string())?;
    let text = bytes.to_bytes();
    let body = serde_json::from_slice(&text)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&text).into_owned()));
    Ok((status, body))
}

/// Runs for as long as the homeserver does.
pub async fn push_transactions(sim: Sim) {
    let client = http_client();
    let mut changes = sim.changes();
    let mut txn_id: u64 = 0;
    loop {
        let events: Vec<Value> =
            sim.with(|world| world.to_push.iter().take(EVENTS_PER_TRANSACTION).cloned().collect());
        if events.is_empty() {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        }
        txn_id += 1;
        released(&sim, "push").await;
        deliver(&sim, &client, txn_id, &events).await;
        sim.with(|world| {
            world.to_push.drain(..events.len());
            world.pushed += events.len() as u64;
        });
        sim.touch();
    }
}

async fn deliver(sim: &Sim, client: &HttpClient, txn_id: u64, events: &[Value]) {
    let registration = sim.with(|world| world.registration.clone());
    let url = format!("{}/_matrix/app/v1/transactions/{txn_id}", registration.url);
    let body = json!({ "events": events }).to_string();
    let mut wait = FIRST_RETRY;
    loop {
        let bearer = Some(registration.hs_token.as_str());
        let answer = request(client, http::Method::PUT, &url, bearer, body.clone()).await;
        if matches!(answer, Ok((200, _))) {
            return;
        }
        sim.with(|world| world.push_failures += 1);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = sim.retry_now() => {}
        }
        wait = (wait * 2).min(LAST_RETRY);
    }
}

/// Calls the keeper's ping, as `/appservice/{id}/ping` asks for.
pub async fn ping(sim: &Sim, body: &Value) -> (u16, Value) {
    let registration = sim.with(|world| world.registration.clone());
    let url = format!("{}/_matrix/app/v1/ping", registration.url);
    let body = json!({ "transaction_id": body.get("transaction_id") }).to_string();
    let client = http_client();
    let bearer = Some(registration.hs_token.as_str());
    match request(&client, http::Method::POST, &url, bearer, body).await {
        Ok((200, _)) => {
            sim.push_again();
            (200, json!({ "duration_ms": 1 }))
        }
        Ok((status, _)) => (
            502,
            json!({
                "errcode": "M_BAD_STATUS", "error": "the service answered", "status": status,
            }),
        ),
        Err(error) => (502, json!({ "errcode": "M_CONNECTION_FAILED", "error": error })),
    }
}
