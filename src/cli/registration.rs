//! `statekeeper registration`: writes a registration with fresh secrets.

use std::{io::Write as _, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use rand::{SeedableRng as _, rngs::OsRng, rngs::StdRng};

use super::{
    output::{say, warn},
    whole_file::WholeFile,
};
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

/// Writes the registration, and says what to do with it.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    // The passphrase may well be made later: nothing here needs it.
    let config = Draft::read(&arguments.config, &environment()).finish()?;
    let mut rng = StdRng::try_from_rng(&mut OsRng).context("the system gives no randomness")?;
    let registration = Registration::generate(&config, &mut rng);
    let out = arguments.out.display();
    let mut file = WholeFile::create(&arguments.out, arguments.force)?;
    let written = file.write_all(registration.to_yaml().as_bytes());
    written.with_context(|| format!("{out}: cannot be written"))?;
    file.keep()?;
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
