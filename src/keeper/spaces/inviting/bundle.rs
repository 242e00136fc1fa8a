//! A room's history keys, uploaded once for the invitees of a short window, and removed when nobody fetches them any
//! more.

use ruma::{MxcUri, RoomId};

use super::Host;
use crate::{
    crypto::HistoryBundle,
    homeserver::HomeserverError,
    keeper::{KeeperError, clock::now_ms},
    store::{BundleRow, NewBundle, Secret, bundles, held_sessions, inherited},
};

/// How long one upload is sent to invitees, in milliseconds.
const WINDOW: i64 = 60_000;
/// How long after a join a client may still fetch what it was sent, in milliseconds.
const FETCHED_WITHIN: i64 = 24 * 3_600_000;
/// How many uploads are removed at once.
const MOST_REMOVED: i64 = 20;

/// What there is for invitees.
pub(super) enum History {
    /// A bundle of keys.
    Bundle(BundleRow),
    /// Nothing: the room has no history to share.
    None,
    /// A bundle that cannot be uploaded now.
    NotNow,
}

impl Host {
    /// The bundle of a room's history keys: the one that is uploaded, where it has all of them and is not old, or a new
    /// one.
    ///
    /// Recovery: an upload that was not written down is one whose key nobody has; another one is made.
    pub(super) async fn bundle(&self, room_id: &RoomId) -> Result<History, KeeperError> {
        let (store, device) = (&self.lanes.taker.store, &self.lanes.taker.device);
        let current = bundles::current(store, &mut *store.read().await?, room_id).await?;
        let since = now_ms().saturating_sub(WINDOW);
        if let Some(current) = current.filter(|current| current.made_at > since) {
            return Ok(History::Bundle(current));
        }
        // What comes in from here on is in the next one.
        let tick = store.next_tick();
        let shared = held_sessions::shared(&mut *store.read().await?, room_id).await?;
        let given = inherited::of_room(store, &mut *store.read().await?, room_id).await?;
        let given = given.into_iter().map(|Secret(key)| key).collect();
        let Some(made) = device.history_bundle(room_id, &shared, given).await? else {
            return Ok(History::None);
        };
        let HistoryBundle { mut file, sessions } = made;
        let ciphertext = std::mem::take(&mut file.ciphertext);
        let url = match self.lanes.homeserver.upload(ciphertext.into()).await {
            Ok(url) => url,
            Err(error) if !error.is_transient() => {
                tracing::warn!(room = %room_id, %error,
                    "the homeserver does not take a room's history keys; those who are invited come without history");
                return Ok(History::None);
            }
            Err(error) => {
                tracing::warn!(room = %room_id, %error,
                    "a room's history keys cannot be uploaded; those who are invited wait for them");
                return Ok(History::NotNow);
            }
        };
        let file = Secret(file.at(&url)?.into());
        let now = now_ms();
        let new =
            NewBundle { room: room_id, url: url.as_str(), file: &file, sessions: &sessions, tick };
        let mut transaction = store.begin().await?;
        let id = bundles::put(store, &mut transaction, new, now).await?;
        transaction.commit().await?;
        tracing::debug!(room = %room_id, sessions = sessions.len(),
            "a room's history keys were uploaded for those who are invited");
        Ok(History::Bundle(BundleRow { id, file, tick, made_at: now }))
    }

    /// Forgets what opens old uploads, and removes those that nobody will fetch any more.
    pub(super) async fn tidy(&mut self) -> Result<(), KeeperError> {
        let (store, now) = (self.lanes.taker.store.clone(), now_ms());
        let old =
            bundles::made_before(&mut *store.read().await?, now.saturating_sub(WINDOW)).await?;
        if !old.is_empty() {
            let mut transaction = store.begin().await?;
            for room in &old {
                bundles::supersede(&mut transaction, room).await?;
            }
            transaction.commit().await?;
        }
        if !self.may_remove {
            return Ok(());
        }
        let before = now.saturating_sub(FETCHED_WITHIN);
        let left = bundles::left_over(&mut *store.read().await?, before, MOST_REMOVED).await?;
        for upload in left {
            match self.lanes.homeserver.remove_media(<&MxcUri>::from(upload.url.as_str())).await {
                Err(error) if error.is_transient() => return Ok(()),
                Err(error) if !is_gone(&error) => {
                    tracing::info!(%error,
                        "uploads that are superseded stay on the homeserver: it lets only its \
                         administrators remove them");
                    self.may_remove = false;
                    return Ok(());
                }
                Err(_) | Ok(()) => {}
            }
            let mut transaction = store.begin().await?;
            bundles::removed(&mut transaction, upload.id, now).await?;
            transaction.commit().await?;
        }
        Ok(())
    }
}

fn is_gone(error: &HomeserverError) -> bool {
    error.errcode() == Some("M_NOT_FOUND")
}
