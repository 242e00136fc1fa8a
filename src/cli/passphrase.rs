//! The passphrase of a file that is exported or imported. It comes from a file, from standard input or from the
//! environment, and never from the command line, which everybody on the machine can read.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use crate::config::read_secret;

/// The variable that it is in where no file is named.
const VARIABLE: &str = "STATEKEEPER_BACKUP_PASSPHRASE";
/// The most bytes of it that are read from standard input.
const LONGEST: u64 = 64 << 10;

/// Where the passphrase is.
#[derive(Debug, Args)]
pub(super) struct Passphrase {
    /// A file with the passphrase of the exported file, whose end of line does not count; `-` is standard input. Without
    /// it, it is read from STATEKEEPER_BACKUP_PASSPHRASE in the environment
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Passphrase {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// When there is none, or it is empty.
    pub(super) fn read(&self) -> anyhow::Result<SecretString> {
        let (passphrase, source) = match &self.passphrase_file {
            Some(path) if path == Path::new("-") => (from_input()?, "standard input".to_owned()),
            Some(path) => {
                let shown = path.display().to_string();
                let cannot = || format!("{shown}: the passphrase cannot be read");
                (read_secret(path).with_context(cannot)?, shown)
            }
            None => (from_environment()?, VARIABLE.to_owned()),
        };
        if passphrase.expose_secret().is_empty() {
            anyhow::bail!("{source}: the passphrase is empty");
        }
        Ok(passphrase)
    }
}

fn from_input() -> anyhow::Result<SecretString> {
    let mut text = Zeroizing::new(String::new());
    let read = std::io::stdin().lock().take(LONGEST).read_to_string(&mut text);
    read.context("standard input: the passphrase cannot be read")?;
    Ok(SecretString::from(text.trim_end_matches(['\r', '\n'])))
}

fn from_environment() -> anyhow::Result<SecretString> {
    let text = std::env::var(VARIABLE).map_err(|_| {
        anyhow::anyhow!(
            "no passphrase: name a file with it in `--passphrase-file`, or set {VARIABLE}"
        )
    })?;
    Ok(SecretString::from(text))
}
