//! Reading the configuration anew while the keeper runs.

use std::{
    hash::{Hash as _, Hasher as _},
    sync::Arc,
};

use serde_yaml::Value as Yaml;
use sqlx::SqliteConnection;
use tokio::{signal::unix::Signal, sync::Notify};

use super::{
    KeeperError,
    clock::now_ms,
    ingest::{Arrival, Taker},
    places,
    spaces::news,
};
use crate::{
    admin::Supervisor,
    config::{Config, ConfigErrors},
    state::Membership,
    store::{marks, meta, rooms, set_meta},
};

/// Reads the configuration from where it was read first.
pub type Reread = Box<dyn Fn() -> Result<Config, ConfigErrors> + Send + Sync>;

/// What is fixed with the start of the process: sections, and keys of others.
const FIXED: [&str; 14] = [
    "homeserver",
    "appservice",
    "store",
    "admin.listen",
    "admin.socket",
    "admin.trusted_proxies",
    "admin.dashboard",
    "logging",
    "requests.queue",
    "requests.limits",
    "access.invites",
    "sharing.budget",
    "sharing.gate_timeout",
    "sharing.refresh_per_second",
];

/// Reads the configuration anew at each SIGHUP.
pub struct Reloader {
    /// Whose rules are replaced.
    pub taker: Taker,
    /// Told of marks.
    pub promised: Arc<Notify>,
    /// The configuration that the process was started with.
    pub started: Config,
    /// Reads the configuration.
    pub reread: Reread,
    /// Told that it happens.
    pub supervisor: Supervisor,
}

impl Reloader {
    /// Reloads at each `hangup`, for ever.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the store fails.
    pub async fn run(self, mut hangup: Signal) -> Result<(), KeeperError> {
        while hangup.recv().await.is_some() {
            self.supervisor.reloading();
            match (self.reread)() {
                Ok(config) => self.apply(&config).await?,
                Err(ConfigErrors(mistakes)) => {
                    for mistake in &mistakes {
                        tracing::error!("the configuration is not reloaded: {mistake}");
                    }
                    tracing::error!(
                        mistakes = mistakes.len(),
                        "the configuration has mistakes; everything stays as it was"
                    );
                }
            }
            self.supervisor.started();
        }
        std::future::pending().await
    }

    /// Goes by another configuration from now on. A visit that decided by the old one is followed by another
    /// one: the promises are made after the rules are replaced.
    async fn apply(&self, config: &Config) -> Result<(), KeeperError> {
        for key in fixed_changes(&self.started, config) {
            tracing::warn!(key, "this is changed by a restart alone");
        }
        let taker = &self.taker;
        let former = taker.rules.replace(config);
        let (was, is) = (former.global(), taker.rules.global());
        let admits_others = was.access != is.access || was.admins != is.admins;
        let mut transaction = taker.store.begin().await?;
        let mut before = Vec::new();
        for room in rooms::all(&mut transaction).await? {
            if room.membership != Membership::Join {
                continue;
            }
            if admits_others {
                let tick = taker.store.next_tick();
                marks::mark(&mut transaction, &room.room_id, None, now_ms(), tick).await?;
            }
            taker.judge_anew(&mut transaction, &room).await?;
            before.push((room.room_id.clone(), former.of(&room)));
        }
        let changed = places::mark_changed(taker, &mut transaction, before).await?;
        end_if_others_are_entitled(taker, &mut transaction, config).await?;
        transaction.commit().await?;
        taker.spaces.ring_all();
        self.promised.notify_one();
        tracing::info!(rooms = changed, "the configuration is reloaded");
        taker.rules.warn_of_noop();
        Ok(())
    }
}

/// Compares what the configuration says of who is entitled with what it said last, before this start or reload.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub async fn weigh_entitlement(taker: &Taker, config: &Config) -> Result<(), KeeperError> {
    let mut transaction = taker.store.begin().await?;
    end_if_others_are_entitled(taker, &mut transaction, config).await?;
    Ok(transaction.commit().await?)
}

/// Where that differs, what was given to those who had not joined is over: they are looked at by nobody until somebody
/// has to be given something, and they may hold what they would not be given now.
async fn end_if_others_are_entitled(
    taker: &Taker,
    db: &mut SqliteConnection,
    config: &Config,
) -> Result<(), KeeperError> {
    let now = entitling(config);
    let before = meta(db, "entitling").await?;
    if before.as_ref() == Some(&now) {
        return Ok(());
    }
    set_meta(db, "entitling", &now).await?;
    if before.is_none() {
        return Ok(());
    }
    let arrival = Arrival::live(now_ms(), taker.store.next_tick());
    for room in rooms::all(db).await? {
        if room.membership == Membership::Join {
            news::end_all(taker, db, &room.room_id, arrival).await?;
        }
    }
    Ok(())
}

/// A digest of what the configuration says of who is entitled.
fn entitling(config: &Config) -> String {
    let tree = serde_yaml::to_value(config).unwrap_or_default();
    let mut hasher = std::hash::DefaultHasher::new();
    for key in ["access", "sharing", "policies"] {
        let said = tree.get(key).and_then(|section| serde_yaml::to_string(section).ok());
        said.hash(&mut hasher);
    }
    format!("{:x}", hasher.finish())
}

/// The keys that differ and that a reload does not change.
fn fixed_changes(started: &Config, config: &Config) -> Vec<String> {
    let (Ok(started), Ok(config)) = (serde_yaml::to_value(started), serde_yaml::to_value(config))
    else {
        return Vec::new();
    };
    let mut keys = Vec::new();
    for path in FIXED {
        let at = |tree: &Yaml| {
            path.split('.').try_fold(tree.clone(), |tree, key| tree.get(key).cloned())
        };
        differing(
            path,
            &at(&started).unwrap_or_default(),
            &at(&config).unwrap_or_default(),
            &mut keys,
        );
    }
    keys
}

fn differing(path: &str, one: &Yaml, other: &Yaml, keys: &mut Vec<String>) {
    match (one, other) {
        (Yaml::Mapping(section), Yaml::Mapping(_)) => {
            for (key, value) in section {
                let path = format!("{path}.{}", key.as_str().unwrap_or_default());
                differing(&path, value, other.get(key).unwrap_or(&Yaml::Null), keys);
            }
        }
        _ if one != other => keys.push(path.to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &str) -> Config {
        let yaml = format!(
            "homeserver: {{ address: \"http://127.0.0.1:8008\", domain: localhost }}\n\
             appservice: {{ listen: \"127.0.0.1:29330\", address: \"http://127.0.0.1:29330\", \
             registration: r.yaml, bot: {{ localpart: keeper }} }}\n{extra}"
        );
        Config::from_yaml_for_test(&yaml).unwrap()
    }

    #[test]
    fn what_a_restart_alone_changes_is_named_key_by_key() {
        let started = config("store: { passphrase_file: p }");
        let other = config(
            "store: { passphrase_file: q, url: \"sqlite:other.db\" }\n\
             admin: { listen: \"127.0.0.1:1\" }\n\
             sharing: { devices: all, gate_timeout: 9s, budget: { burst: 7 } }\n\
             rotation: { messages: 3 }\n",
        );
        assert_eq!(
            fixed_changes(&started, &other),
            [
                "store.url",
                "store.passphrase_file",
                "admin.listen",
                "sharing.budget.burst",
                "sharing.gate_timeout"
            ]
        );
        assert!(fixed_changes(&started, &config("store: { passphrase_file: p }")).is_empty());
        let rules = config("store: { passphrase_file: p }\nrotation: { messages: 3 }");
        assert!(fixed_changes(&started, &rules).is_empty());
    }
}
