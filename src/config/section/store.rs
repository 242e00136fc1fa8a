//! `store`: where the keeper's promises and keys are kept.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::secret;

/// What every store URL begins with: SQLite is the one technology so far.
const SQLITE: &str = "sqlite:";

/// The database, and the passphrase that encrypts key material in it.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// The database: `sqlite:` and a path. The folder is made if it is missing.
    #[serde(default = "url")]
    #[schemars(extend("format" = "sqlite-url"))]
    pub url: String,
    /// The passphrase itself. Either this or `passphrase_file` is required, and the file is the
    /// better place.
    #[serde(default, serialize_with = "secret::never")]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub passphrase: Option<SecretString>,
    /// A file with the passphrase, whose end of line does not count. Lose it and the keys in the
    /// store are lost.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("format" = "path"))]
    pub passphrase_file: Option<PathBuf>,
}

/// Why there is no passphrase to open the store with. No variant holds any part of one.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    /// Neither `passphrase` nor `passphrase_file` is set.
    #[error("neither passphrase nor passphrase_file is set")]
    Missing,
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The value of `passphrase_file`.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// There is a passphrase and it is the empty text.
    #[error("the passphrase is empty")]
    Empty,
}

impl Store {
    /// The passphrase, read from `passphrase_file` where that is set.
    ///
    /// # Errors
    ///
    /// When neither key is set, the file is not readable UTF-8, or the passphrase is empty.
    pub fn read_passphrase(&self) -> Result<SecretString, PassphraseError> {
        let passphrase = match (&self.passphrase_file, &self.passphrase) {
            (Some(path), _) => secret::read(path)
                .map_err(|source| PassphraseError::Unreadable { path: path.to_owned(), source })?,
            (None, Some(passphrase)) => passphrase.clone(),
            (None, None) => return Err(PassphraseError::Missing),
        };
        if passphrase.expose_secret().is_empty() {
            return Err(PassphraseError::Empty);
        }
        Ok(passphrase)
    }

    /// The path of the SQLite file: `url` without its scheme and without `?options`.
    ///
    /// `None` for a URL that is not `sqlite:` with a path, which validation refuses.
    pub fn sqlite_path(&self) -> Option<&Path> {
        let rest = self.url.strip_prefix(SQLITE)?;
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let path = rest.split_once('?').map_or(rest, |(path, _)| path);
        let kept_on_disk = !path.is_empty() && !path.starts_with(':');
        kept_on_disk.then(|| Path::new(path))
    }

    /// Puts `base` before the relative paths in this section, in `url` as well.
    pub(in crate::config) fn resolve(&mut self, base: &Path) {
        if let Some(path) = self.sqlite_path() {
            let options = self.url.split_once('?').map(|(_, options)| format!("?{options}"));
            let path = base.join(path);
            self.url = format!("{SQLITE}{}{}", path.display(), options.unwrap_or_default());
        }
        if let Some(path) = &mut self.passphrase_file {
            *path = base.join(&*path);
        }
    }
}

fn url() -> String {
    "sqlite:data/statekeeper.db".to_owned()
}

impl Default for Store {
    fn default() -> Self {
        Self { url: url(), passphrase: None, passphrase_file: None }
    }
}
