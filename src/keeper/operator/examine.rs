//! Looking at what only the running keeper may look at: its own device.

use std::time::{Duration, Instant};

use ruma::{OwnedDeviceId, TransactionId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    crypto::Shown,
    keeper::{KeeperError, heartbeat::ECHO, lane::Lanes},
};

/// How long a message to itself may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the keeper finds of its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// The device.
    pub device_id: OwnedDeviceId,
    /// What the homeserver shows of it; or why that is not known.
    pub shown: Result<Shown, String>,
    /// When the long poll last said anything, in milliseconds.
    pub last_sync_at: Option<i64>,
    /// How many one-time keys the homeserver has.
    pub one_time_keys: Option<u64>,
    /// Whether the homeserver has a fallback key that nobody used.
    pub fallback_key: Option<bool>,
    /// How long a message of the device to itself took, in milliseconds; or why none came back.
    pub round_trip_ms: Result<u64, String>,
}

/// Looks at the device.
pub(super) async fn examine(lanes: &Lanes) -> Examination {
    let device = &lanes.taker.device;
    let round_trip_ms = round_trip(lanes).await;
    let beat = lanes.heartbeat.last();
    Examination {
        device_id: device.device_id().to_owned(),
        shown: device.shown().await.map_err(|error| error.to_string()),
        last_sync_at: beat.at,
        one_time_keys: beat.one_time_keys,
        fallback_key: beat.fallback_key,
        round_trip_ms,
    }
}

async fn round_trip(lanes: &Lanes) -> Result<u64, String> {
    let began = Instant::now();
    let nonce = TransactionId::new().to_string();
    let echo = lanes.heartbeat.await_echo(nonce.clone());
    send(lanes, &nonce).await.map_err(|error| error.to_string())?;
    match tokio::time::timeout(PATIENCE, echo).await {
        Ok(Ok(())) => Ok(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)),
        _ => Err(format!("it did not come back in {} s", PATIENCE.as_secs())),
    }
}

async fn send(lanes: &Lanes, nonce: &str) -> Result<(), KeeperError> {
    let device = &lanes.taker.device;
    let (user, id) = (device.user_id().as_str(), device.device_id().as_str());
    let body = json!({ "messages": { user: { id: { "nonce": nonce } } } });
    Ok(lanes.homeserver.send_to_device(ECHO, nonce, body.to_string()).await?)
}
