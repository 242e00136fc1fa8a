//! `statekeeper registration`: writes a registration with fresh secrets.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use rand::{Rng as _, SeedableRng as _, rngs::OsRng, rngs::StdRng};

use super::output::{say, warn};
use crate::config::{Draft, environment, registration::Registration};

/// What the command is called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where to write the registration
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace a file that is there already, and with it the secrets that the homeserver knows
    #[arg(long)]
    force: bool,
}

/// Who may read the file: its owner.
const MODE: u32 = 0o600;

/// Writes the registration, and says what to do with it.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // The passphrase may well be made later: nothing here needs it.
    let config = Draft::read(&arguments.config, &environment()).finish()?;
    let mut rng = StdRng::try_from_rng(&mut OsRng).context("the system gives no randomness")?;
    let registration = Registration::generate(&config, &mut rng);
    let suffix: u64 = rng.random();
    let out = arguments.out.display();
    match write(&arguments.out, registration.to_yaml().as_bytes(), suffix, arguments.force) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => anyhow::bail!(
            "{out}: there is such a file already; write to another, or replace it and its secrets with --force"
        ),
        result => result.with_context(|| format!("{out}: cannot be written"))?,
    }
    let path = std::path::absolute(&arguments.out).unwrap_or_else(|_| arguments.out.clone());
    if config.appservice.registration != path {
        warn(&format!(
            "{}: appservice.registration: is {}; write {} there",
            arguments.config.display(),
            config.appservice.registration.display(),
            path.display(),
        ));
    }
    say(&format!("wrote {out}"));
    say(&format!(
        "next: name it in the homeserver's configuration, let the homeserver read it, and restart the homeserver:\n\n    app_service_config_files: [{:?}]",
        path.display().to_string()
    ));
    Ok(())
}

/// Writes a whole file or none: no reader sees half of one, and a crash leaves the old one. Without
/// `force` a file that is there stays, also one that appears in the meantime.
fn write(path: &Path, content: &[u8], suffix: u64, force: bool) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_string_lossy();
    let draft = folder.join(format!(".{name}.{suffix:016x}"));
    let written = write_new(&draft, content).and_then(|()| match force {
        true => fs::rename(&draft, path),
        false => fs::hard_link(&draft, path),
    });
    // After a rename it is gone already.
    let _ = fs::remove_file(&draft);
    written?;
    File::open(folder)?.sync_all()
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
