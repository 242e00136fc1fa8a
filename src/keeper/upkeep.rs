//! What has to be done from time to time, whatever happens: counting, pruning, keeping the device alive.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{KeeperError, clock::now_ms, ingest::Taker};
use crate::{
    homeserver::Homeserver,
    store::{
        commands, commissions, imported, inbox, ledger, marks, outbox, people, previews, rooms,
        sessions, spaces, talk, tuples, wars,
    },
};

/// How often the gauges are set.
const COUNT_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked whether an administrator's command has left a promise.
const HEED_EVERY: Duration = Duration::from_millis(500);
/// How long a device may go unseen before it is touched, in milliseconds.
const STALE: i64 = 24 * 3_600_000;
/// How often the device is looked after and the inbox pruned: `delete_stale_devices_after` is given in days.
const TEND_EVERY: Duration = Duration::from_secs(6 * 3600);
/// How long the ids of events are remembered, in milliseconds: no homeserver repeats one after that.
const REMEMBER: i64 = 30 * 24 * 3_600_000;
/// How long keys are kept that were imported and that nothing waits for, in milliseconds.
const KEEP_IMPORTED: i64 = 7 * 24 * 3_600_000;

/// How many rows of the ledger's history, or of a room's journal, one transaction drops.
const PRUNED_AT_ONCE: i64 = 1000;

/// Sets the gauges, for ever.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn count(taker: Taker) -> Result<(), KeeperError> {
    loop {
        set_gauges(&taker).await?;
        count_rotations(&taker).await?;
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
    let now = now_ms();
    let (due, later) = marks::count(db, now).await?;
    let overdue = marks::oldest_due(db, now).await?.map_or(0, |oldest| now.saturating_sub(oldest));
    taker.metrics.set_oldest_due(Duration::from_millis(overdue.unsigned_abs()).as_secs_f64());
    let sending = outbox::count(db).await?;
    let intents = BTreeMap::from([("due", due), ("later", later), ("sending", sending)]);
    taker.metrics.set_intents(&intents);
    taker.metrics.set_undecryptable_state_events(tuples::count_unreadable(db).await?);
    taker.metrics.set_holds(people::count_holds(db).await?);
    taker.metrics.set_wars(wars::standing(db, None).await?.len());
    let (followed, beneath) = spaces::count(db).await?;
    taker.metrics.set_spaces(&followed, &beneath);
    let backlog = previews::backlog(db, super::clock::now_ms()).await?;
    taker.metrics.set_space_backlog(backlog.iter().map(|space| space.left_over).sum());
    let (active, retired) = sessions::count(db).await?;
    taker.metrics.set_sessions(&BTreeMap::from([("active", active), ("retired", retired)]));
    Ok(())
}

/// Counts the sessions that were retired since the last time, whichever process did it.
async fn count_rotations(taker: &Taker) -> Result<(), KeeperError> {
    if !sessions::any_uncounted(&mut *taker.store.read().await?).await? {
        return Ok(());
    }
    let mut transaction = taker.store.begin().await?;
    let counts = sessions::take_uncounted(&mut transaction).await?;
    transaction.commit().await?;
    for (reason, count) in counts {
        taker.metrics.rotations(&reason, u64::try_from(count).unwrap_or(0));
    }
    Ok(())
}

/// Tells `promised` when another process has written into the store, for ever: an administrator's command.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn heed(taker: Taker, promised: Arc<Notify>) -> Result<(), KeeperError> {
    let mut heeded = None;
    loop {
        let version = taker.store.others_version().await?;
        if heeded.replace(version).is_some_and(|before| before != version) {
            promised.notify_one();
            taker.spaces.ring_all();
        }
        tokio::time::sleep(HEED_EVERY).await;
    }
}

/// Keeps the device from being pruned as stale (element-hq/synapse#18161) and the inbox small, for ever.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn tend(taker: Taker, homeserver: Homeserver) -> Result<(), KeeperError> {
    loop {
        if let Err(error) = keep_alive(&taker, &homeserver).await {
            tracing::warn!(%error, "whether the device is still alive could not be seen to");
        }
        let mut transaction = taker.store.begin().await?;
        inbox::prune(&mut transaction, now_ms().saturating_sub(REMEMBER)).await?;
        imported::prune(&mut transaction, now_ms().saturating_sub(KEEP_IMPORTED)).await?;
        transaction.commit().await?;
        prune_ledger(&taker).await?;
        prune_journal(&taker).await?;
        tokio::time::sleep(TEND_EVERY).await;
    }
}

/// Drops the ledger's old history, a little at a time: others want to write as well.
async fn prune_ledger(taker: &Taker) -> Result<(), KeeperError> {
    let before = now_ms().saturating_sub(taker.rules.global().ledger_retention);
    loop {
        let mut transaction = taker.store.begin().await?;
        let pruned = ledger::prune(&mut transaction, before, PRUNED_AT_ONCE).await?;
        transaction.commit().await?;
        if pruned == 0 {
            break;
        }
    }
    let mut transaction = taker.store.begin().await?;
    commands::prune(&mut transaction, before).await?;
    commissions::prune(&mut transaction, before).await?;
    let management_room = taker.rules.global().management_room.clone();
    let forgotten = now_ms().saturating_sub(REMEMBER);
    talk::prune(&mut transaction, management_room.as_deref(), forgotten).await?;
    Ok(transaction.commit().await?)
}

/// Drops what each room's policy says need not be remembered any more of who said what, a little at a time.
async fn prune_journal(taker: &Taker) -> Result<(), KeeperError> {
    let rooms = rooms::all(&mut *taker.store.read().await?).await?;
    for room in rooms {
        let before = now_ms().saturating_sub(taker.rules.of(&room).journal);
        let room_id = &room.room_id;
        loop {
            let mut transaction = taker.store.begin().await?;
            let db = &mut *transaction;
            let pruned = tuples::prune_events(db, room_id, before, PRUNED_AT_ONCE).await?;
            let shortened = tuples::shorten_events(db, room_id, before, PRUNED_AT_ONCE).await?;
            transaction.commit().await?;
            if pruned == 0 && shortened == 0 {
                break;
            }
        }
    }
    Ok(())
}

/// A device that was never seen is never pruned; one that was, and not lately, is touched.
async fn keep_alive(taker: &Taker, homeserver: &Homeserver) -> Result<(), KeeperError> {
    let device_id = taker.device.device_id();
    let seen = homeserver.get_device(device_id).await?.and_then(|device| device.last_seen_ts);
    let seen = seen.map(|at| i64::from(at.get()));
    if seen.is_some_and(|at| now_ms().saturating_sub(at) > STALE) {
        homeserver.touch_device(device_id).await?;
    }
    Ok(())
}
