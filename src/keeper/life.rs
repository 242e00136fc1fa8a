//! The mark that each life of the keeper leaves on the homeserver, and in its store. A store which does not know the mark
//! that it finds there was put back from a copy that is older than it, also where nothing was sealed since.
//!
//! A life begins at each start, and another one every few minutes: what a copy is too young for shows in what the keeper
//! sealed after it ([`super::gone_back`]).
//!
//! Recovery: a new mark is in the store before it is on the homeserver, beside the one that it follows. Whichever of them a
//! kill leaves there, the store knows it.

use std::time::Duration;

use ruma::TransactionId;
use serde::{Deserialize, Serialize};

use super::{KeeperError, gone_back};
use crate::{
    homeserver::{Homeserver, HomeserverError, retrying},
    store::{Store, set_meta},
};

/// The type of the bot's account data that holds the mark.
const TYPE: &str = "org.statekeeper.life";
/// Under which key the store has the marks that may be there.
const KNOWN: &str = "lives";
/// How long a life is.
const LASTS: Duration = Duration::from_secs(600);

/// What stands on the homeserver.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Mark {
    /// Empty where somebody has cleared it.
    #[serde(default)]
    life: String,
}

/// Whether the keeper had a life since of which the store does not know. Where the homeserver has no mark, or does not say,
/// nothing is known.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn is_another(
    store: &Store,
    homeserver: &Homeserver,
) -> Result<bool, KeeperError> {
    let mark = match retrying(None, || homeserver.kept::<Mark>(TYPE)).await {
        Ok(Some(mark)) if !mark.life.is_empty() => mark,
        Ok(_) => return Ok(false),
        Err(error) => {
            tell(&error);
            return Ok(false);
        }
    };
    Ok(!known(store).await?.contains(&mark.life))
}

/// Begins another life.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn begin(store: &Store, homeserver: &Homeserver) -> Result<(), KeeperError> {
    let life = TransactionId::new().to_string();
    // One that could not be left there leaves the one before it there.
    let mut lives = known(store).await?;
    let there = match homeserver.kept::<Mark>(TYPE).await {
        Ok(there) => there.map(|mark| mark.life).filter(|life| !life.is_empty()),
        Err(error) => {
            tell(&error);
            return Ok(());
        }
    };
    lives.retain(|life| there.as_ref() == Some(life));
    lives.extend(there.filter(|there| !lives.contains(there)));
    lives.push(life.clone());
    let mut transaction = store.begin().await?;
    set_meta(&mut transaction, KNOWN, &serde_json::to_string(&lives)?).await?;
    transaction.commit().await?;
    if let Err(error) = homeserver.keep(TYPE, &Mark { life }).await {
        tell(&error);
    }
    Ok(())
}

/// Begins another life every few minutes, until one turns up that is not the store's: the machine went back while the
/// keeper ran, or another keeper runs on a copy of its store.
///
/// # Errors
///
/// [`KeeperError::Renewal`] then; another one when the store fails.
pub(super) async fn go_on(store: Store, homeserver: Homeserver) -> Result<(), KeeperError> {
    loop {
        tokio::time::sleep(LASTS).await;
        if is_another(&store, &homeserver).await? {
            tracing::error!(
                "another life than this one has left its mark: the machine went back in time, or a second \
                keeper runs on a copy of the store"
            );
            let mut transaction = store.begin().await?;
            gone_back::note(&mut transaction).await?;
            transaction.commit().await?;
            return Err(KeeperError::Renewal);
        }
        begin(&store, &homeserver).await?;
    }
}

async fn known(store: &Store) -> Result<Vec<String>, KeeperError> {
    let kept = store.meta(KNOWN).await?;
    Ok(kept.and_then(|kept| serde_json::from_str(&kept).ok()).unwrap_or_default())
}

fn tell(error: &HomeserverError) {
    tracing::warn!(%error, "the mark of the keeper's life could not be seen to; a store that is put back may go unnoticed");
}
