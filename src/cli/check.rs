//! `statekeeper check`: finds every mistake before anything is started.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use super::output::{say, warn};
use crate::config::{
    Config, ConfigErrors, Draft, Mistake, environment,
    registration::{Registration, RegistrationDraft},
};

/// Checks a configuration and its registration, each by itself and both together.
pub(super) fn run(path: &Path) -> anyhow::Result<()> {
    let (config, registration, source) = load(path)?;
    let secrets = [Some(&config.appservice.registration), config.store.passphrase_file.as_ref()];
    let tokens = config.spaces.iter().filter_map(|space| space.admin_token_file.as_ref());
    let dashboard = config.admin.dashboard.secret_files();
    let all = secrets.into_iter().flatten().chain(tokens).chain(dashboard);
    let exposed = all.filter_map(|path| exposed(path));
    for warning in registration.warnings(&source).into_iter().chain(exposed) {
        warn(&warning);
    }
    say("configuration is good");
    Ok(())
}

/// The warning that everybody on this machine may read a file with a secret.
fn exposed(path: &Path) -> Option<Mistake> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| Mistake {
        source: path.display().to_string(),
        path: String::new(),
        message: "can be read by everybody on this machine; take that away with `chmod o=`"
            .to_owned(),
    })
}

/// Reads a configuration and its registration, with the latter's name for messages.
///
/// # Errors
///
/// Every mistake in either, and every disagreement between what is good in both.
pub(super) fn load(path: &Path) -> Result<(Config, Registration, String), ConfigErrors> {
    let mut draft = Draft::read(path, &environment()).check_secrets(path);
    let Some(registration_path) = draft.registration.take() else {
        // The configuration does not say where the registration is, which is a mistake in it.
        return Err(ConfigErrors(draft.mistakes));
    };
    let source = registration_path.display().to_string();
    let (config, registration) = draft.finish_with(RegistrationDraft::read(&registration_path))?;
    Ok((config, registration, source))
}
