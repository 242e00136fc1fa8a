//! What comes back: keys that members forward because they were asked.
//!
//! A key from whoever made the session comes as an ordinary `m.room_key`, which the Olm machine takes in by itself.
//! One that another member forwards is looked at here before it is used.

use std::sync::Arc;

use crate::{
    crypto::{ForgedKey, ForwardedKey, Forwarder, KnownDevice, KnownUser, MadeSession, OpeningKey},
    keeper::{KeeperError, ingest::Taker},
    state::{MegolmContent, Membership, RoomEvent},
    store::{StateEventRow, asking, rooms, tuples},
};

/// Why an answer is not used.
#[derive(Debug, thiserror::Error)]
pub(in crate::keeper) enum Unfit {
    #[error("the message came from no device that the keeper knows")]
    UnknownSender,
    #[error("that device was not asked for it")]
    NotAsked,
    #[error("whoever sent it is no member")]
    NoMember,
    #[error("the device that sent it is not signed by its owner, or blocked")]
    DeviceNotTrusted,
    #[error("no event waits for it")]
    NotWanted,
    #[error("it says that another than the event's sender made the session")]
    AnotherMaker,
    #[error(transparent)]
    Forged(#[from] ForgedKey),
}

/// Takes the answers among `keys` into the key store. `forwarders` are the devices from which the Olm machine says
/// that forwarded keys came. Returns the sessions of which some key is there now.
///
/// # Errors
///
/// [`KeeperError`] when a store fails.
pub async fn take(
    taker: &Taker,
    keys: Vec<ForwardedKey>,
    forwarders: &[Forwarder],
) -> Result<Vec<MadeSession>, KeeperError> {
    let mut taken = Vec::new();
    for key in keys {
        match weigh(taker, &key, forwarders).await? {
            Ok(opening) => {
                taker.device.take_forwarded(opening).await?;
                tracing::info!(room = %key.room_id, session = key.session_id, from = %key.sender,
                    "a member forwarded a missing key");
                taken.push(MadeSession {
                    room_id: key.room_id.clone(),
                    session_id: key.session_id.clone(),
                    // It is what the event says that a device of its sender made it; nobody vouches for that.
                    maker: None,
                    sender_key: key.creator_curve25519.clone(),
                    shared_history: false,
                });
            }
            Err(unfit) => {
                tracing::warn!(room = %key.room_id, from = %key.sender,
                    "a forwarded key was not used: {unfit}");
            }
        }
    }
    Ok(taken)
}

async fn weigh(
    taker: &Taker,
    key: &ForwardedKey,
    forwarders: &[Forwarder],
) -> Result<Result<OpeningKey, Unfit>, KeeperError> {
    let from = forwarders.iter().find(|forwarder| {
        forwarder.user_id == key.sender && forwarder.curve25519 == key.sender_curve25519
    });
    let Some(from) = from else { return Ok(Err(Unfit::UnknownSender)) };
    let db = &mut *taker.store.read().await?;
    let asked = asking::asked(db, &key.room_id, &key.session_id).await?;
    if !asked.iter().any(|row| row.user_id == from.user_id && row.device_id == from.device_id) {
        return Ok(Err(Unfit::NotAsked));
    }
    let member = rooms::get_member(db, &key.room_id, &from.user_id).await?;
    if member.is_none_or(|member| member.membership != Membership::Join) {
        return Ok(Err(Unfit::NoMember));
    }
    let known = taker.device.known_user(&from.user_id).await?;
    if !known.devices.iter().any(|device| is_trusted(device, from)) {
        return Ok(Err(Unfit::DeviceNotTrusted));
    }
    let waiting = tuples::awaiting(&taker.store, db, &key.room_id, Some(&key.session_id)).await?;
    open_first(taker, key, &waiting).await
}

fn is_trusted(device: &KnownDevice, from: &Forwarder) -> bool {
    device.device_id == from.device_id
        && device.curve25519().as_ref() == Some(&from.curve25519)
        && device.cross_signed
        && !device.blocked
        && !device.deleted
}

/// Tries the key on the events that wait for it, from the earliest index on: from there it is kept.
///
/// # Errors
///
/// [`KeeperError`] when a store fails.
pub(in crate::keeper) async fn open_first(
    taker: &Taker,
    key: &ForwardedKey,
    waiting: &[StateEventRow],
) -> Result<Result<OpeningKey, Unfit>, KeeperError> {
    let mut events: Vec<(&StateEventRow, MegolmContent)> =
        waiting.iter().filter_map(|row| Some((row, unread(row)?))).collect();
    events.sort_by_key(|(_, megolm)| megolm.message_index);
    let mut unfit = Unfit::NotWanted;
    for (row, megolm) in events {
        let maker: Arc<KnownUser> = taker.device.known_user(&row.sender).await?;
        if !maker.devices.iter().any(|device| made(device, key)) {
            unfit = Unfit::AnotherMaker;
            continue;
        }
        match key.open(&key.room_id, &key.session_id, &megolm.ciphertext) {
            Ok(opening) => return Ok(Ok(opening)),
            Err(forged) => unfit = forged.into(),
        }
    }
    Ok(Err(unfit))
}

fn made(device: &KnownDevice, key: &ForwardedKey) -> bool {
    device.curve25519().as_ref() == Some(&key.creator_curve25519)
        && device.ed25519().as_ref() == Some(&key.creator_ed25519)
}

/// What an event that waits for its key says about its encryption.
pub(super) fn unread(row: &StateEventRow) -> Option<MegolmContent> {
    if row.verdict != "unreadable" {
        return None;
    }
    let event = RoomEvent::parse_str(row.body.as_deref()?).ok()?;
    MegolmContent::parse(&event.content).ok()
}
