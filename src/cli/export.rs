//! `statekeeper export`: a backup of the store, or its room keys, while the keeper runs or not.

use std::{io::Write as _, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::{
    beside::{self, block_on},
    output::say,
    passphrase::Passphrase,
    when::to_second,
    whole_file::WholeFile,
};
use crate::{backup, keeper::clock::now_ms};

/// What `export` is called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// All room keys, in Matrix's own format, which clients import: also while the keeper runs
    Keys(Export),
    /// A backup of the whole store, for `import store`: also while the keeper runs
    Store(Export),
}

/// What each of these is called with.
#[derive(Debug, Args)]
struct Export {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
    /// Replace a file that is there already
    #[arg(long)]
    force: bool,
    /// Where to write it
    out: PathBuf,
}

/// Does it.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.what {
        What::Keys(export) => keys(export),
        What::Store(export) => store(export),
    }
}

fn keys(export: &Export) -> anyhow::Result<()> {
    let config = beside::read(&export.config)?;
    let passphrase = export.passphrase.read()?;
    let mut out = WholeFile::create(&export.out, export.force)?;
    let keys = block_on(async { Ok(backup::export_keys(&config).await?) })?;
    let shown = export.out.display();
    let written = out.write_all(keys.lock(&passphrase)?.as_bytes());
    written.with_context(|| format!("{shown}: cannot be written"))?;
    out.keep()?;
    let (sessions, rooms) = keys.count();
    say(&format!("wrote {shown}: keys of {sessions} sessions in {rooms} rooms"));
    say(
        "whoever has it and its passphrase reads what was encrypted under them, members' messages too",
    );
    Ok(())
}

fn store(export: &Export) -> anyhow::Result<()> {
    let config = beside::read(&export.config)?;
    let passphrase = export.passphrase.read()?;
    let out = WholeFile::create(&export.out, export.force)?;
    let (manifest, out) =
        block_on(async { Ok(backup::export_store(&config, &passphrase, out, now_ms()).await?) })?;
    out.keep()?;
    say(&format!(
        "wrote {}: the store of {} as of {}",
        export.out.display(),
        manifest.user_id,
        to_second(manifest.made_at),
    ));
    say(
        "it opens with the passphrase that was given here, and its keys with the store's own: keep both, and not beside it",
    );
    Ok(())
}
