//! `admin.dashboard`: the web pages of the operator.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::secret;
use crate::config::Duration;

/// How many characters a secret has at least, spaces around it not counted: what has fewer can be guessed.
const LEAST: usize = 20;

/// The web pages of the operator, under `/dashboard/` on the listener. There are none unless `token`, `token_file` or
/// `user_header` is set.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dashboard {
    /// What a person logs in with: at least 20 characters. The file is the better place. Another one counts
    /// after a restart.
    #[serde(serialize_with = "secret::never")]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub token: Option<SecretString>,
    /// A file with the token. Spaces and ends of line around it do not count.
    #[schemars(with = "Option<String>", extend("format" = "path"))]
    pub token_file: Option<PathBuf>,
    /// The header in which a reverse proxy says whom it has let in, such as `X-Forwarded-User`. It counts
    /// from `admin.trusted_proxies` alone, and beside the header `X-Statekeeper-Proxy-Secret`.
    pub user_header: Option<String>,
    /// What `X-Statekeeper-Proxy-Secret` has to say: at least 20 characters. The file is the better place.
    #[serde(serialize_with = "secret::never")]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub proxy_secret: Option<SecretString>,
    /// A file with the proxy's secret. Spaces and ends of line around it do not count.
    #[schemars(with = "Option<String>", extend("format" = "path"))]
    pub proxy_secret_file: Option<PathBuf>,
    /// How long somebody stays logged in who does nothing.
    pub session_idle: Duration,
    /// How long somebody stays logged in at most.
    pub session_lifetime: Duration,
}

/// The secrets of the dashboard, as they were read.
#[derive(Debug, Clone)]
pub struct DashboardSecrets {
    /// What a person logs in with.
    pub token: Option<SecretString>,
    /// What a reverse proxy has to say.
    pub proxy: Option<SecretString>,
}

/// Why a secret of the dashboard is of no use. No variant holds any part of one.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The key that names it, such as `token_file`.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It can be guessed.
    #[error("has fewer than {LEAST} characters")]
    Short {
        /// The key of the secret, such as `token`.
        key: &'static str,
    },
}

impl SecretError {
    /// The key that is to be mended.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Unreadable { key, .. } | Self::Short { key } => key,
        }
    }
}

impl Default for Dashboard {
    fn default() -> Self {
        Self {
            token: None,
            token_file: None,
            user_header: None,
            proxy_secret: None,
            proxy_secret_file: None,
            session_idle: Duration::from_secs(30 * 60),
            session_lifetime: Duration::from_secs(12 * 3600),
        }
    }
}

impl Dashboard {
    /// Whether there is any.
    pub fn is_on(&self) -> bool {
        self.token.is_some() || self.token_file.is_some() || self.user_header.is_some()
    }

    /// The files of its secrets, whether it is on or not.
    pub fn secret_files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.token_file, &self.proxy_secret_file].into_iter().flatten()
    }

    /// Its secrets, read from their files where they stand in files.
    ///
    /// # Errors
    ///
    /// [`SecretError`] when a file cannot be read, or a secret is short.
    pub fn read_secrets(&self) -> Result<DashboardSecrets, SecretError> {
        let keys = ("token", "token_file");
        let token = one_of(keys, self.token.as_ref(), self.token_file.as_deref())?;
        let keys = ("proxy_secret", "proxy_secret_file");
        let proxy = one_of(keys, self.proxy_secret.as_ref(), self.proxy_secret_file.as_deref())?;
        Ok(DashboardSecrets { token, proxy })
    }

    /// Puts `base` before the relative paths in this section.
    pub(in crate::config) fn resolve(&mut self, base: &Path) {
        for path in [&mut self.token_file, &mut self.proxy_secret_file].into_iter().flatten() {
            *path = base.join(&*path);
        }
    }
}

fn one_of(
    (key, file_key): (&'static str, &'static str),
    secret: Option<&SecretString>,
    file: Option<&Path>,
) -> Result<Option<SecretString>, SecretError> {
    let (key, found) = match (file, secret) {
        (Some(path), _) => {
            let unreadable =
                |source| SecretError::Unreadable { key: file_key, path: path.to_owned(), source };
            (file_key, secret::read(path).map_err(unreadable)?)
        }
        (None, Some(secret)) => (key, secret.clone()),
        (None, None) => return Ok(None),
    };
    // What a browser or a proxy sends comes without them.
    let found = found.expose_secret().trim();
    if found.chars().count() < LEAST {
        return Err(SecretError::Short { key });
    }
    Ok(Some(SecretString::from(found)))
}
