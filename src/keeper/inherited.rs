//! History that whoever invited the keeper gives it with the invite, as stock clients do (MSC4268): it is handed on to
//! those whom the keeper invites in turn. Nothing is read with it: whose sessions these are, the giver alone says.
//!
//! Recovery: the device's key store keeps what tells of a bundle, and the room's row whose it has to be. Both are looked at
//! whenever the room's state is fetched.

use ruma::{RoomId, UserId};
use sqlx::SqliteConnection;

use super::{KeeperError, clock::now_ms, ingest::Taker};
use crate::{
    crypto::CryptoError,
    homeserver::Homeserver,
    store::{RoomRow, Secret, inherited, marks, rooms},
};

/// For how long after the keeper accepted an invite its sender's bundle is taken, in milliseconds (MSC4268).
const TAKEN_WITHIN: i64 = 24 * 3_600_000;

/// Takes the bundle of whoever invited the keeper into a room, where one was told of.
///
/// # Errors
///
/// [`KeeperError`] when a store fails. What cannot be fetched now is tried again when the room's state is fetched.
pub(super) async fn take(
    taker: &Taker,
    homeserver: &Homeserver,
    room: &RoomId,
) -> Result<(), KeeperError> {
    let db = &mut *taker.store.read().await?;
    let since = now_ms().saturating_sub(TAKEN_WITHIN);
    let Some(inviter) = inherited::awaited_from(db, room, since, knocks(taker)).await? else {
        return Ok(());
    };
    let Some(told) = taker.device.told_bundle(room, &inviter).await? else { return Ok(()) };
    let file = match homeserver.download(&told.url).await {
        Ok(file) => file,
        Err(error) => {
            tracing::info!(%room, %inviter, %error, "the history of a room could not be fetched");
            return Ok(());
        }
    };
    let keys = match told.open(&file) {
        Ok(keys) => keys,
        Err(CryptoError::Json(_) | CryptoError::Interrupted(_)) => {
            tracing::warn!(%room, %inviter, "the history of a room that was given is malformed");
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    };
    let keys: Vec<(String, Secret)> =
        keys.into_iter().map(|(session, key)| (session, Secret(key))).collect();
    let mut transaction = taker.store.begin().await?;
    let tick = taker.store.next_tick();
    inherited::put(&taker.store, &mut transaction, room, &keys, tick).await?;
    inherited::settled(&mut transaction, room).await?;
    transaction.commit().await?;
    tracing::info!(%room, %inviter, sessions = keys.len(), "the inviter gave the room's history");
    Ok(())
}

/// Somebody tells of a bundle: if the keeper came into the room by his invite, it is fetched with the room's state, as
/// part of the caller's transaction.
pub(super) async fn told(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomId,
    sender: &UserId,
) -> Result<(), KeeperError> {
    let since = now_ms().saturating_sub(TAKEN_WITHIN);
    let awaited = inherited::awaited_from(db, room, since, knocks(taker)).await?;
    if awaited.as_deref() != Some(sender) {
        return Ok(());
    }
    if let Some(known) = rooms::get(db, room).await? {
        rooms::put(db, &RoomRow { loaded: false, ..known }).await?;
        marks::mark(db, room, None, now_ms(), taker.store.next_tick()).await?;
    }
    Ok(())
}

/// Whether anybody is let in who knocks.
pub(super) fn knocks(taker: &Taker) -> bool {
    !taker.rules.global().accept_knocks_from.is_empty()
}
