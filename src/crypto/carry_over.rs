//! Carrying over to another device of the keeper's what is not the old one's alone.
//!
//! What is carried over whole: the private keys of the cross-signing identity, members' Megolm sessions with what is
//! known of who made each, and the devices and identities of others. What stays behind are ratchets: the account, its
//! Olm sessions, and the Megolm sessions of the keeper's own messages. None of them ever goes on.

use std::path::Path;

use matrix_sdk_crypto::{
    CryptoStoreError,
    store::{
        CryptoStore,
        types::{Changes, DeviceChanges, IdentityChanges},
    },
};
use matrix_sdk_sqlite::SqliteCryptoStore;
use ruma::{OwnedUserId, UserId};
use secrecy::{ExposeSecret, SecretString};

use super::{CryptoError, apart::has_key_store};

/// How many users, or sessions, are written at once.
const AT_ONCE: usize = 500;

/// What was carried over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CarriedOver {
    /// Whether there was a cross-signing identity with its private keys.
    pub identity: bool,
    /// How many sessions of members'.
    pub sessions: usize,
}

/// Carries over from the key store in the folder `from` to that in the folder `to`, which is made and belongs to no
/// device yet. The first one is only read. Where there is none, there is nothing to carry over.
///
/// # Errors
///
/// [`CryptoError::Open`] when one of them does not open with `passphrase`, [`CryptoError::Store`] when one fails.
pub async fn carry_over(
    (from, to): (&Path, &Path),
    passphrase: &SecretString,
    keeper: &UserId,
) -> Result<CarriedOver, CryptoError> {
    if !has_key_store(from) {
        return Ok(CarriedOver::default());
    }
    let old = open(from, passphrase).await?;
    let new = open(to, passphrase).await?;
    let carried = carry(&old, &new, keeper).await.map_err(CryptoStoreError::from)?;
    // Closed by themselves when they are dropped as well, but not before somebody else opens them.
    let _ = old.close().await;
    let _ = new.close().await;
    Ok(carried)
}

async fn open(folder: &Path, passphrase: &SecretString) -> Result<SqliteCryptoStore, CryptoError> {
    SqliteCryptoStore::open(folder, Some(passphrase.expose_secret()))
        .await
        .map_err(|error| CryptoError::Open(error.to_string()))
}

async fn carry(
    old: &SqliteCryptoStore,
    new: &SqliteCryptoStore,
    keeper: &UserId,
) -> Result<CarriedOver, <SqliteCryptoStore as CryptoStore>::Error> {
    let private_identity = old.load_identity().await?;
    let own = old.get_user_identity(keeper).await?;
    let identity = private_identity.is_some() && own.is_some();
    if identity {
        let identities = IdentityChanges { new: own.into_iter().collect(), ..Default::default() };
        new.save_changes(Changes { private_identity, identities, ..Changes::default() }).await?;
    }
    carry_people(old, new, keeper).await?;
    let sessions = old.get_inbound_group_sessions().await?;
    let count = sessions.len();
    for chunk in sessions.chunks(AT_ONCE) {
        let inbound_group_sessions = chunk.to_vec();
        new.save_changes(Changes { inbound_group_sessions, ..Changes::default() }).await?;
    }
    Ok(CarriedOver { identity, sessions: count })
}

/// Others' devices and identities, since it counts when each was seen first. All of them are asked for anew.
async fn carry_people(
    old: &SqliteCryptoStore,
    new: &SqliteCryptoStore,
    keeper: &UserId,
) -> Result<(), <SqliteCryptoStore as CryptoStore>::Error> {
    let tracked = old.load_tracked_users().await?;
    let users: Vec<OwnedUserId> = tracked.into_iter().map(|user| user.user_id).collect();
    for chunk in users.chunks(AT_ONCE) {
        let (mut devices, mut identities) = (Vec::new(), Vec::new());
        for user in chunk.iter().filter(|user| *user != keeper) {
            devices.extend(old.get_user_devices(user).await?.into_values());
            identities.extend(old.get_user_identity(user).await?);
        }
        new.save_changes(Changes {
            devices: DeviceChanges { new: devices, ..Default::default() },
            identities: IdentityChanges { new: identities, ..Default::default() },
            ..Changes::default()
        })
        .await?;
        let dirty: Vec<_> = chunk.iter().map(|user| (user.as_ref(), true)).collect();
        new.save_tracked_users(&dirty).await?;
    }
    Ok(())
}
