//! What is wrong with a configuration although each of its values has the right form.

use ruma::events::StateEventType;
use tracing_subscriber::EnvFilter;
use url::Url;

use super::{Config, Match, PassphraseError};

/// Every mistake: the path of a key, and what is wrong with its value and how to mend it.
pub(super) fn validate(config: &Config) -> Vec<(String, String)> {
    let mut mistakes = Vec::new();
    let mut check = |path: &str, fault: Option<String>| {
        mistakes.extend(fault.map(|message| (path.to_owned(), message)));
    };
    check("homeserver.address", address_fault(&config.homeserver.address));
    check("homeserver.request_timeout", zero_fault(config.homeserver.request_timeout));
    check("appservice.address", address_fault(&config.appservice.address));
    check("appservice.bot.localpart", localpart_fault(config));
    check("admin.listen", listener_fault(config));
    check("store.url", store_fault(config));
    check("store", passphrase_fault(config));
    check("logging.level", level_fault(&config.logging.level));
    for (index, event_type) in config.state.exempt.iter().enumerate() {
        check(&format!("state.exempt[{index}]"), exempt_fault(event_type));
    }
    for (index, policy) in config.policies.iter().enumerate() {
        check(&format!("policies[{index}].match"), match_fault(&policy.matches));
        // What is taken over from the top level is told there.
        let own = policy.state.exempt != config.state.exempt;
        for (place, event_type) in policy.state.exempt.iter().enumerate().filter(|_| own) {
            let path = format!("policies[{index}].state.exempt[{place}]");
            check(&path, exempt_fault(event_type));
        }
    }
    mistakes
}

fn address_fault(address: &Url) -> Option<String> {
    let plain = matches!(address.scheme(), "http" | "https")
        && address.has_host()
        && address.query().is_none()
        && address.fragment().is_none()
        && address.username().is_empty()
        && address.password().is_none();
    (!plain).then(|| {
        "is not the address of an HTTP server; write one like \"http://127.0.0.1:8008\", without user, query and fragment".to_owned()
    })
}

fn zero_fault(duration: super::Duration) -> Option<String> {
    duration.get().is_zero().then(|| "leaves no time at all; write one like \"30s\"".to_owned())
}

/// The spec's grammar for new user ids ("Common identifier format: User Identifiers"): homeservers
/// refuse to register anything else.
fn localpart_fault(config: &Config) -> Option<String> {
    let localpart = &config.appservice.bot.localpart;
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._=-/+".contains(c);
    let registrable = !localpart.is_empty() && localpart.chars().all(allowed);
    if !registrable {
        return Some(format!(
            "{localpart:?} cannot be registered; write lowercase letters, digits and ._=-/+ alone, without \"@\" and server name, like \"statekeeper\""
        ));
    }
    match config.bot_user_id() {
        Ok(user_id) if user_id.as_str().len() <= 255 => None,
        _ => Some("makes a user id over 255 bytes; write a shorter one".to_owned()),
    }
}

fn listener_fault(config: &Config) -> Option<String> {
    let (listen, other) = (config.admin.listen, config.appservice.listen);
    (listen == other && listen.port() != 0)
        .then(|| format!("{listen} is appservice.listen already; write another port"))
}

fn store_fault(config: &Config) -> Option<String> {
    let message = format!(
        "{:?} is not a store that lasts; write \"sqlite:\" and the path of a file, like \"sqlite:data/statekeeper.db\"",
        config.store.url
    );
    config.store.sqlite_path().is_none().then_some(message)
}

fn passphrase_fault(config: &Config) -> Option<String> {
    let (passphrase, file) = (&config.store.passphrase, &config.store.passphrase_file);
    match (passphrase, file) {
        (Some(_), Some(_)) => {
            Some("has both passphrase and passphrase_file; remove one of them".to_owned())
        }
        (None, None) => Some(format!(
            "{}; write passphrase_file: \"data/passphrase\" and a long random line into that file",
            PassphraseError::Missing
        )),
        _ => None,
    }
}

fn level_fault(level: &str) -> Option<String> {
    let good = !level.trim().is_empty() && EnvFilter::builder().parse(level).is_ok();
    (!good).then(|| {
        format!("{level:?} is not a level; write error, warn, info, debug or trace, also for a module, like \"info,statekeeper::keeper=debug\"")
    })
}

fn match_fault(matches: &Match) -> Option<String> {
    matches.is_empty().then(|| {
        "matches no room in particular; write rooms, aliases, spaces or servers, or set what is for all rooms at the top level".to_owned()
    })
}

fn exempt_fault(event_type: &StateEventType) -> Option<String> {
    let name = event_type.to_string();
    let exact = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '*');
    (!exact).then(|| {
        format!("{name:?} is not an event type; write one in full, like \"m.room.tombstone\"")
    })
}
