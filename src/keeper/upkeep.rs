//! What has to be done from time to time, whatever happens: counting, pruning, keeping the device alive.

use std::{collections::BTreeMap, time::Duration};

use super::{KeeperError, clock::now_ms, ingest::Taker};
use crate::{
    homeserver::Homeserver,
    store::{inbox, marks, outbox, rooms, tuples},
};

/// How often the gauges are set.
const COUNT_EVERY: Duration = Duration::from_secs(2);
/// How often the device is touched and the inbox pruned: `delete_stale_devices_after` is given in days.
const TEND_EVERY: Duration = Duration::from_secs(6 * 3600);
/// How long the ids of events are remembered, in milliseconds: no homeserver repeats one after that.
const REMEMBER: i64 = 30 * 24 * 3_600_000;

/// Sets the gauges, for ever.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn count(taker: Taker) -> Result<(), KeeperError> {
    loop {
        set_gauges(&taker).await?;
        tokio::time::sleep(COUNT_EVERY).await;
    }
}

/// Sets the gauges to what the store says.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn set_gauges(taker: &Taker) -> Result<(), KeeperError> {
    let db = &mut *taker.store.read().await?;
    let mut by_status: BTreeMap<&str, i64> = BTreeMap::new();
    for room in rooms::all(db).await? {
        *by_status.entry(room.status()).or_default() += 1;
    }
    taker.metrics.set_rooms(&by_status);
    let (due, later) = marks::count(db, now_ms()).await?;
    let sending = outbox::count(db).await?;
    let intents = BTreeMap::from([("due", due), ("later", later), ("sending", sending)]);
    taker.metrics.set_intents(&intents);
    taker.metrics.set_undecryptable_state_events(tuples::count_unreadable(db).await?);
    Ok(())
}

/// Keeps the device from being pruned as stale (element-hq/synapse#18161) and the inbox small, for ever.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn tend(taker: Taker, homeserver: Homeserver) -> Result<(), KeeperError> {
    loop {
        if let Err(error) = homeserver.touch_device(taker.device.device_id()).await {
            tracing::debug!(%error, "the device could not be touched");
        }
        let mut transaction = taker.store.begin().await?;
        inbox::prune(&mut transaction, now_ms().saturating_sub(REMEMBER)).await?;
        transaction.commit().await?;
        tokio::time::sleep(TEND_EVERY).await;
    }
}
