//! A new device in the place of the old one, whose ratchets must not go on.
//!
//! A store that was put back from an older copy holds ratchets that were used since: of the device's Olm sessions, of its
//! one-time keys, of the state sessions. None of them can be told to be where it should be, so all of them end: the keeper
//! makes another device under the same cross-signing identity, deletes the old one, and seals everything anew. A store
//! that is lost altogether is the same with an identity less.
//!
//! Whether it is due stands in the store ([`renewal::DUE`]), and it is done at the start, before the device is used.
//!
//! Recovery: until the commit that names the new device, each start begins with another one, in a key store of its own:
//! what an earlier try has made is never taken up, since a copy of the store may have been made in the middle of it. The
//! key stores of such tries are removed by the next one, and their devices deleted with the old one, before that commit:
//! the bot then has one device. After it, the new key store takes the old one's place; which of them is which is told by
//! its name, so that a start finds what a kill has left to do.
//!
//! Whoever gets here is the keeper, and the others of the bot's devices are nobody's: a ping of the homeserver's came
//! back to this very process before, and no other one can listen where the registration leads.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, api::client::keys::get_keys};
use serde::{Deserialize, Serialize};

use super::{KeeperError, clock::now_ms, gone_back, life};
use crate::{
    config::Config,
    crypto::{KeeperDevice, carry_over, crypto_folder, has_key_store, signed_devices},
    homeserver::{Backoff, Homeserver, retrying},
    store::{Store, meta, renewal, set_meta},
};

/// Why the keeper's device is replaced by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A backup of the store was imported.
    Restored,
    /// The store, or the whole machine, was put back from an older copy.
    GoneBack,
    /// The store is empty, or has lost its key store, and the homeserver knows a device of the keeper's.
    Lost,
}

impl Cause {
    /// The label in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::GoneBack => "gone_back",
            Self::Lost => "lost",
        }
    }

    /// What a label means. One that is not known is somebody's order all the same.
    fn parse(label: &str) -> Self {
        match label {
            "gone_back" => Self::GoneBack,
            "lost" => Self::Lost,
            _ => Self::Restored,
        }
    }
}

/// Why the keeper has another device than it began with, and which; `None` where it has that one.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn last(
    db: &mut sqlx::SqliteConnection,
) -> Result<Option<(Cause, String)>, KeeperError> {
    let because = meta(db, renewal::BECAUSE).await?;
    let device = meta(db, renewal::DEVICE).await?;
    Ok(because.as_deref().map(Cause::parse).zip(device))
}

/// The device that the keeper is.
#[derive(Clone, Debug)]
pub(super) struct Settled {
    /// Its id.
    pub(super) device_id: OwnedDeviceId,
    /// Whether it was made by this very start: what says that its store went back then speaks of another one.
    pub(super) is_new: bool,
    /// Whether the homeserver has told it something before.
    pub(super) was_heard: bool,
    /// Whether the homeserver had lost it.
    pub(super) was_lost: bool,
}

/// Finds out which device the keeper is, and makes another one where that is due.
pub(super) struct Devices<'a> {
    pub(super) config: &'a Config,
    pub(super) store: &'a Store,
    /// Speaks for the bot and for no device.
    pub(super) homeserver: &'a Homeserver,
    pub(super) keeper: &'a OwnedUserId,
}

impl Devices<'_> {
    /// The device that the keeper goes on with. It is there on the homeserver; its keys may not be yet.
    ///
    /// # Errors
    ///
    /// When the store fails, a key store does not open, or the homeserver refuses for good.
    pub(super) async fn settle(&self) -> anyhow::Result<Settled> {
        self.tidy().await?;
        let shown = self.shown().await?;
        let mut is_new = self.choose(&shown).await?;
        if self.due().await?.is_none() {
            self.look_for_signs(&shown, is_new).await?;
        }
        if let Some(cause) = self.due().await? {
            self.renew(cause).await?;
            is_new = true;
        }
        let device_id = self.current().await?.context("the keeper has no device")?;
        let was_heard = self.store.meta("since").await?.is_some();
        let published = shown.device_keys.get(self.keeper);
        let is_published = published.is_some_and(|devices| devices.contains_key(&device_id));
        self.ensure(&device_id).await?;
        life::begin(self.store, self.homeserver).await?;
        let was_lost = was_heard && !is_new && !is_published;
        Ok(Settled { device_id, is_new, was_heard, was_lost })
    }

    async fn current(&self) -> Result<Option<OwnedDeviceId>, KeeperError> {
        Ok(self.store.meta(renewal::DEVICE).await?.map(Into::into))
    }

    async fn due(&self) -> Result<Option<Cause>, KeeperError> {
        Ok(self.store.meta(renewal::DUE).await?.as_deref().map(Cause::parse))
    }

    async fn ensure(&self, device_id: &DeviceId) -> anyhow::Result<()> {
        let name = self.config.appservice.bot.displayname.as_str();
        retrying(None, || self.homeserver.ensure_device(device_id, name)).await?;
        Ok(())
    }

    /// What the homeserver shows of the bot's devices and identity.
    async fn shown(&self) -> anyhow::Result<get_keys::v3::Response> {
        let ask = || {
            let mut request = get_keys::v3::Request::new();
            request.device_keys = BTreeMap::from([(self.keeper.clone(), Vec::new())]);
            self.homeserver.query_keys(request)
        };
        Ok(retrying(None, ask).await?)
    }

    fn database(&self) -> anyhow::Result<&Path> {
        self.config.store.sqlite_path().context("store.url: names no SQLite file")
    }

    /// Ends what a kill has left half done.
    async fn tidy(&self) -> anyhow::Result<()> {
        let folder = crypto_folder(self.database()?);
        if let (Some(device), None) = (self.current().await?, self.due().await?) {
            take_place(&folder_of(&folder, &device), &folder)?;
        }
        remove_tries(&folder)
    }

    /// Chooses a device where the store names none, and notes which one is lost. Returns whether it was chosen now.
    async fn choose(&self, shown: &get_keys::v3::Response) -> anyhow::Result<bool> {
        if self.due().await?.is_some() {
            return Ok(false);
        }
        if let Some(device) = self.current().await? {
            self.note_since().await?;
            let published = shown.device_keys.get(self.keeper);
            let is_published = published.is_some_and(|devices| devices.contains_key(&device));
            if is_published && !has_key_store(&crypto_folder(self.database()?)) {
                tracing::error!(%device, "the device's key store is gone, and with it all that it held: the keeper \
                    makes another device and another identity");
                self.note_lost().await?;
            }
            return Ok(false);
        }
        let others = retrying(None, || self.homeserver.device_ids()).await?;
        if !others.is_empty() {
            tracing::error!(
                devices = others.len(),
                "the store is empty, and the homeserver knows the keeper: its \
                store was lost. The keeper makes another device and another identity, and seals again what it can read"
            );
            self.note_lost().await?;
            return Ok(false);
        }
        let mut transaction = self.store.begin().await?;
        set_meta(&mut transaction, renewal::DEVICE, DeviceId::new().as_str()).await?;
        set_meta(&mut transaction, renewal::DEVICE_SINCE, &now_ms().to_string()).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// A store of an earlier version does not say since when it has its device: it knows nothing of before.
    async fn note_since(&self) -> Result<(), KeeperError> {
        if self.store.meta(renewal::DEVICE_SINCE).await?.is_some() {
            return Ok(());
        }
        let mut transaction = self.store.begin().await?;
        set_meta(&mut transaction, renewal::DEVICE_SINCE, &now_ms().to_string()).await?;
        Ok(transaction.commit().await?)
    }

    async fn note_lost(&self) -> Result<(), KeeperError> {
        let mut transaction = self.store.begin().await?;
        set_meta(&mut transaction, renewal::DUE, Cause::Lost.as_str()).await?;
        Ok(transaction.commit().await?)
    }

    /// Looks for what only a later life of this device, or of one after it, can have left on the homeserver.
    async fn look_for_signs(
        &self,
        shown: &get_keys::v3::Response,
        is_new: bool,
    ) -> anyhow::Result<()> {
        let Some(device_id) = self.current().await?.filter(|_| !is_new) else { return Ok(()) };
        let mut transaction = self.store.begin().await?;
        for other in signed_devices(shown, self.keeper) {
            if other == device_id || renewal::is_former(&mut transaction, other.as_str()).await? {
                continue;
            }
            tracing::error!(device = %other,
                "the homeserver shows a device of the keeper's that this store does not know: it was put back from an \
                 older copy");
            gone_back::note(&mut transaction).await?;
            return Ok(transaction.commit().await?);
        }
        drop(transaction);
        self.ensure(&device_id).await?;
        if life::is_another(self.store, self.homeserver).await? {
            tracing::error!(
                "the keeper had another life since this store was written: it was put back from an older copy"
            );
            let mut transaction = self.store.begin().await?;
            gone_back::note(&mut transaction).await?;
            return Ok(transaction.commit().await?);
        }
        let Some(since) = self.store.meta("since").await? else { return Ok(()) };
        let homeserver = self.homeserver.with_device(device_id.clone());
        let seals = match retrying(None, || homeserver.own_seals_since(&since)).await {
            Ok(seals) => seals,
            Err(error) => {
                tracing::warn!(%error, "what the keeper sealed since its last life could not be looked at; it is, room \
                    by room, before something is sealed there");
                return Ok(());
            }
        };
        let mut transaction = self.store.begin().await?;
        gone_back::look_at(&mut transaction, self.keeper, &device_id, &seals).await?;
        Ok(transaction.commit().await?)
    }

    /// Makes another device and goes on with that.
    async fn renew(&self, cause: Cause) -> anyhow::Result<()> {
        let folder = crypto_folder(self.database()?);
        remove_tries(&folder)?;
        let device_id = DeviceId::new();
        let new_folder = folder_of(&folder, &device_id);
        let passphrase = self.config.store.read_passphrase()?;
        let carried = carry_over((&folder, &new_folder), &passphrase, self.keeper).await?;
        self.ensure(&device_id).await?;
        let homeserver = self.homeserver.with_device(device_id.clone());
        let patience = self.config.sharing.gate_timeout.get();
        let opened = KeeperDevice::open(
            &new_folder,
            &passphrase,
            self.keeper,
            &device_id,
            homeserver,
            patience,
        );
        let (device, _late) = opened.await?;
        publish(&device).await?;
        device.close().await?;
        let others = self.delete_others(&device_id).await?;
        let mut transaction = self.store.begin().await?;
        let now = now_ms();
        for other in &others {
            renewal::put_former(&mut transaction, other.as_str(), now).await?;
        }
        let tick = self.store.next_tick();
        let retired = renewal::begin_anew(&mut transaction, &device_id, (now, tick)).await?;
        transaction.commit().await?;
        take_place(&new_folder, &folder)?;
        tracing::warn!(device = %device_id, cause = cause.as_str(), same_identity = carried.identity,
            sessions_carried_over = carried.sessions, sessions_retired = retired, deleted = others.len(),
            "the keeper has a new device; everything is sealed anew");
        Ok(())
    }

    /// Deletes every device of the bot's but this one. Returns which those were. One that the homeserver does not let go
    /// of is left: nothing is encrypted with it any more, and nobody is helped by a keeper that does not start.
    async fn delete_others(&self, device_id: &DeviceId) -> anyhow::Result<Vec<OwnedDeviceId>> {
        let mut others = retrying(None, || self.homeserver.device_ids()).await?;
        others.retain(|other| other != device_id);
        for other in &others {
            if let Err(error) = retrying(None, || self.homeserver.delete_device(other)).await {
                tracing::error!(device = %other, %error,
                    "a former device of the keeper's could not be deleted: have an administrator of the homeserver do it");
            }
        }
        Ok(others)
    }
}

/// Publishes a device and its identity, and waits for a homeserver that is away.
///
/// # Errors
///
/// When the homeserver refuses for good, or the key store fails.
pub(super) async fn publish(device: &KeeperDevice) -> anyhow::Result<()> {
    let mut backoff = Backoff::new();
    loop {
        let Err(error) = device.publish().await else { return Ok(()) };
        let error = KeeperError::from(error);
        if !error.is_transient() {
            return Err(error).context("the device could not be published");
        }
        let wait =
            backoff.next_delay(&mut rand::rng()).max(error.retry_after().unwrap_or_default());
        tracing::warn!(%error, ?wait, "the device could not be published yet");
        tokio::time::sleep(wait).await;
    }
}

/// Where the key store of a device is made that is to take the place of the one in `folder`.
fn folder_of(folder: &Path, device_id: &DeviceId) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_os_string();
    name.push("-");
    name.push(device_id.as_str());
    folder.with_file_name(name)
}

/// Puts the key store in `new` in the place of the one in `folder`, which goes; nothing where that is done.
fn take_place(new: &Path, folder: &Path) -> anyhow::Result<()> {
    if !has_key_store(new) {
        return Ok(());
    }
    let what = || format!("the key store {} cannot be put in its place", new.display());
    remove(folder)?;
    std::fs::rename(new, folder).with_context(what)?;
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::File::open(parent).and_then(|parent| parent.sync_all()).with_context(what)?;
    }
    Ok(())
}

/// Removes the key stores of devices that never became the keeper's.
fn remove_tries(folder: &Path) -> anyhow::Result<()> {
    let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    let prefix = format!("{name}-");
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    for entry in std::fs::read_dir(parent.unwrap_or(Path::new(".")))? {
        let path = entry?.path();
        let is_try = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            name.strip_prefix(&prefix).is_some_and(|id| {
                id.len() == 10 && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
            })
        });
        if is_try && path.is_dir() {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("the folder {} cannot be removed", folder.display()))
        }
        _ => Ok(()),
    }
}
