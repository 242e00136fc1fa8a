//! `statekeeper import`: what was exported is put back.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use secrecy::SecretString;

use super::{
    beside::{self, block_on},
    output::say,
    passphrase::Passphrase,
    running::{self, Heard},
    when::to_second,
};
use crate::{
    backup,
    config::Config,
    crypto::{RoomKey, RoomKeys},
    keeper::{clock::now_ms, operator::Query},
    store::{Beside, ImportedKey},
};

/// The most bytes of a file of room keys: some hundred thousand sessions.
const LARGEST_FILE: u64 = 256 << 20;

/// What `import` is called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Give the keeper room keys out of a file that it, or a client, has exported
    Keys(Import),
    /// Put a backup back where there is no store. The keeper must not run
    Store(Import),
}

/// What each of these is called with.
#[derive(Debug, Args)]
struct Import {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
    /// What was exported
    file: PathBuf,
}

/// Does it.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.what {
        What::Keys(import) => keys(import),
        What::Store(import) => store(import),
    }
}

fn keys(import: &Import) -> anyhow::Result<()> {
    let passphrase = import.passphrase.read()?;
    let shown = import.file.display();
    let file = read(&import.file).with_context(|| shown.to_string())?;
    // What is wrong with its content may quote it, and that is keys.
    let keys = RoomKeys::unlock(&file, &passphrase).map_err(|_| {
        anyhow::anyhow!(
            "{shown}: is no file of room keys that this passphrase opens, or is damaged"
        )
    })?;
    let (told, _) = keys.count();
    let sound: Vec<ImportedKey<RoomKey>> = keys.sound().map(row).collect();
    let left_out = told.saturating_sub(sound.len());
    let work = async |store: &mut Beside, own: &SecretString| {
        let actor = beside::caller().to_string();
        store.import_keys(own, sound, (actor.as_str(), now_ms())).await
    };
    let taken = beside::run_unlocked(&import.config, work)?;
    say(&format!("keys of {taken} sessions are taken down; {left_out} were not what they said"));
    say(
        "the keeper tries them on the events that it cannot read, within seconds where it runs: on what it sealed itself, \
         which it seals anew, and on what members encrypted, which counts as what nobody vouches for. What nothing waits \
         for is dropped after a week",
    );
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let size = std::fs::metadata(path)?.len();
    if size > LARGEST_FILE {
        anyhow::bail!("has {size} bytes; {LARGEST_FILE} are the most");
    }
    Ok(std::fs::read(path)?)
}

fn row(key: RoomKey) -> ImportedKey<RoomKey> {
    ImportedKey {
        room_id: key.room_id().to_owned(),
        session_id: key.session_id().to_owned(),
        first_index: key.first_index(),
        key,
    }
}

fn store(import: &Import) -> anyhow::Result<()> {
    let config = beside::read(&import.config)?;
    let passphrase = import.passphrase.read()?;
    let manifest = block_on(async {
        refuse_beside_a_keeper(&config).await?;
        let put_back = backup::import_store(&config, &passphrase, &import.file).await;
        put_back.with_context(|| format!("{}", import.file.display()))
    })?;
    say(&format!(
        "put back: the store of {} as of {}",
        manifest.user_id,
        to_second(manifest.made_at),
    ));
    say(&format!(
        "with its next start the keeper has a new device under the same cross-signing identity, deletes the old one \
         ({}), retires every session that it had and seals all state anew; what happened since the backup was made it \
         reads from the rooms",
        manifest.device_id,
    ));
    say("start it with `statekeeper serve`, and see with `statekeeper doctor` how it fares");
    Ok(())
}

async fn refuse_beside_a_keeper(config: &Config) -> anyhow::Result<()> {
    let request = Query::Status.into();
    if let Ok(Heard::Nobody { .. }) = running::ask(config, &request).await {
        return Ok(());
    }
    let socket = config.socket_path().context("admin.socket")?;
    anyhow::bail!(
        "{}: a keeper is running; stop it, and move its store away before a backup is put back",
        socket.display()
    )
}
