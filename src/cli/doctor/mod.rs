//! `statekeeper doctor`: looks at everything that keeps people from their keys, and says what mends it.
//!
//! It never touches the keeper's device: what needs it the running keeper looks at itself.

mod device;
mod disk;
mod homeserver;
mod report;
mod rooms;
mod trouble;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;

use self::report::Finding;
use super::{
    beside::block_on,
    check,
    running::{self, Health, Heard},
};
use crate::{
    config::Config,
    keeper::operator::{Answer, Query, RoomSummary},
    store::Beside,
};

/// What is done about a mistake in a file.
const MEND_FILE: &str = "mend what the line names, in that file, and start the keeper; where it is the registration, \
                         the homeserver needs the same file, and a restart";

/// What the command is called with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Looks at everything. The exit code is 0 when nothing is wrong, 1 when there are warnings, 2 when there is trouble.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let findings = match check::load(&arguments.config) {
        Ok((config, registration, source)) => {
            let fine = Finding::fine("config", "configuration and registration are good");
            let warnings = registration.warnings(&source);
            let fix = "mend the registration, and the homeserver's copy of it";
            let mut findings: Vec<Finding> = warnings
                .iter()
                .map(|warning| Finding::warning("config", warning.to_string(), fix))
                .collect();
            findings.push(fine);
            findings.extend(block_on(async { Ok(examine(&config, &registration).await) })?);
            findings
        }
        Err(mistakes) => mistakes
            .0
            .iter()
            .map(|mistake| Finding::trouble("config", mistake.to_string(), MEND_FILE))
            .collect(),
    };
    report::tell(&findings, arguments.json)
}

async fn examine(
    config: &Config,
    registration: &crate::config::registration::Registration,
) -> Vec<Finding> {
    let bot = match config.bot_user_id() {
        Ok(bot) => bot,
        Err(error) => {
            return vec![Finding::trouble("config", error.to_string(), "mend the configuration")];
        }
    };
    let mut findings = disk::examine(config).await;
    let status = ask(config, Query::Status).await;
    let running = matches!(&status, Ok(Some(_)));
    let health = running::health(config).await;
    match status {
        Ok(Some(Answer::Status(status))) => findings.extend(device::running(&status)),
        Ok(_) => findings.push(not_at_the_socket(health.as_ref())),
        Err(error) => findings.push(Finding::trouble(
            "keeper",
            format!("the running keeper does not answer properly: {error:#}"),
            "call this with the keeper's own binary; if that does not help, restart the keeper",
        )),
    }
    let examined = homeserver::examine(config, registration, &bot, running).await;
    findings.extend(examined.findings);
    findings.extend(device(config, running, examined.homeserver.as_ref()).await);
    findings.extend(match known_rooms(config, running).await {
        Ok(known) => rooms::examine(&known),
        Err(error) => vec![Finding::skipped("rooms", format!("{error:#}"))],
    });
    let troubles = health.map(|health| health.troubles).unwrap_or_default();
    for told in troubles {
        trouble::add(&mut findings, &told);
    }
    findings
}

/// What it means that nobody listens at the socket.
fn not_at_the_socket(health: Option<&Health>) -> Finding {
    match health {
        Some(health) => Finding::trouble(
            "keeper",
            format!("the keeper was started and waits for: {}", health.missing.join(", ")),
            "mend what is told of these below; it goes on by itself. If nothing is wrong with them, call this as the \
             keeper's user, with its configuration",
        ),
        None => Finding::trouble(
            "keeper",
            "no keeper runs",
            "start it with `statekeeper serve`, and see in its log why it ended; if it runs, call this as its user, \
             with its configuration",
        ),
    }
}

/// Asks the running keeper; `None` where none runs.
async fn ask(config: &Config, query: Query) -> anyhow::Result<Option<Answer>> {
    Ok(match running::ask(config, &query.into()).await? {
        Heard::Answer(answer) => Some(*answer),
        Heard::Nobody { .. } => None,
    })
}

async fn device(
    config: &Config,
    running: bool,
    homeserver: Option<&crate::homeserver::Homeserver>,
) -> Vec<Finding> {
    if running {
        return match ask(config, Query::Examine).await {
            Ok(Some(Answer::Examination(found))) => device::examined(&found),
            Ok(_) => Vec::new(),
            Err(error) => vec![Finding::skipped("device", format!("{error:#}"))],
        };
    }
    let Some(homeserver) = homeserver else {
        return vec![Finding::skipped("device", "the homeserver cannot be asked for it")];
    };
    let id = device_id(config).await.ok().flatten();
    device::from_outside(homeserver, id.as_deref()).await
}

async fn beside(config: &Config) -> anyhow::Result<Beside> {
    let path = config.store.sqlite_path().context("store.url: names no SQLite file")?;
    Ok(Beside::open(path).await?)
}

async fn device_id(config: &Config) -> anyhow::Result<Option<String>> {
    let mut store = beside(config).await?;
    let id = store.device_id().await?;
    store.close().await?;
    Ok(id)
}

async fn known_rooms(config: &Config, running: bool) -> anyhow::Result<Vec<RoomSummary>> {
    if running && let Some(Answer::Rooms(rooms)) = ask(config, Query::Rooms).await? {
        return Ok(rooms);
    }
    let mut store = beside(config).await?;
    let rooms = store.rooms(None).await?;
    store.close().await?;
    Ok(rooms.into_iter().map(RoomSummary::from).collect())
}
