//! `statekeeper completions` and `man`: what a package ships beside the binary, generated from the command line itself.

use std::{io::Write as _, path::PathBuf};

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{CommandLine, output::say};

/// The binary's name.
const NAME: &str = "statekeeper";

/// What `completions` is called with.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

/// What `man` is called with.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The folder that the pages are written into
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Prints a shell's completions.
pub(super) fn completions(arguments: &Completions) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut CommandLine::command(), NAME, &mut script);
    // A reader that has gone away is no reason to fail.
    let _ = std::io::stdout().lock().write_all(&script);
    Ok(())
}

/// Writes a manual page for the binary and for each command.
pub(super) fn man(arguments: &Man) -> anyhow::Result<()> {
    let folder = &arguments.out;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{}: cannot be made", folder.display()))?;
    clap_mangen::generate_to(CommandLine::command(), folder)
        .with_context(|| format!("{}: cannot be written", folder.display()))?;
    say(&format!("the pages are in {}", folder.display()));
    Ok(())
}
