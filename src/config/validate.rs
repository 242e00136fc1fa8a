//! What is wrong with a configuration although each of its values has the right form.

use tracing_subscriber::EnvFilter;
use url::Url;

use super::{AdminAssist, Config, Dashboard, Match, PassphraseError, Space, doubt::Doubt};

/// The levels of logging.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// How many bytes the path of a Unix socket has at most: one less than Linux keeps for it.
const LONGEST_SOCKET: usize = 107;
/// How many spaces deep is deep enough for any organisation.
const MOST_DEPTH: u32 = 20;
/// How many rooms of one space can be kept track of.
const MOST_ROOMS: u32 = 10_000;

/// Every mistake in what is beyond `doubt`: the path of a key, and what is wrong with its value and how to mend it.
pub(super) fn validate(config: &Config, doubt: &Doubt) -> Vec<(String, String)> {
    let mut mistakes = Vec::new();
    let mut check = |path: &str, leans_on: &[&str], fault: Option<String>| {
        if !leans_on.iter().any(|path| doubt.touches(path)) {
            mistakes.extend(fault.map(|message| (path.to_owned(), message)));
        }
    };
    let mut alone = |path: &str, fault| check(path, &[path], fault);
    alone("homeserver.address", address_fault(&config.homeserver.address));
    alone("homeserver.request_timeout", zero_fault(config.homeserver.request_timeout));
    alone("appservice.address", address_fault(&config.appservice.address));
    alone("appservice.bot.localpart", localpart_fault(config));
    alone("store.url", store_fault(config));
    alone("logging.level", level_fault(&config.logging.level));
    for (index, policy) in config.policies.iter().enumerate() {
        alone(&format!("policies[{index}].match"), match_fault(&policy.matches));
    }
    for (index, space) in config.spaces.iter().enumerate() {
        let first = config.spaces.iter().position(|other| other.room == space.room);
        let path = |key: &str| format!("spaces[{index}].{key}");
        alone(&path("room"), first.filter(|first| *first < index).map(twice_fault));
        alone(&path("max_depth"), over_fault(space.max_depth, MOST_DEPTH));
        alone(&path("admin_token_file"), token_fault(space));
        alone(&path("max_rooms"), over_fault(space.max_rooms, MOST_ROOMS));
    }
    check("admin.listen", &["admin.listen", "appservice.listen"], listener_fault(config));
    let passphrase = ["store.passphrase", "store.passphrase_file"];
    check("store", &passphrase, passphrase_fault(config));
    for (name, both) in dashboard_pairs(config) {
        let path = format!("admin.dashboard.{name}");
        check(&path, &[&path, &format!("{path}_file")], both.then(|| both_fault(name)));
    }
    let header = "admin.dashboard.user_header";
    let secret = "admin.dashboard.proxy_secret";
    check(
        header,
        &[header, secret, "admin.dashboard.proxy_secret_file", "admin.trusted_proxies"],
        header_fault(config),
    );
    let times = ["admin.dashboard.session_idle", "admin.dashboard.session_lifetime"];
    let Dashboard { session_idle, session_lifetime, .. } = config.admin.dashboard;
    for (path, time) in times.into_iter().zip([session_idle, session_lifetime]) {
        check(path, &[path], zero_fault(time));
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

/// The system's own limit on the path of a Unix socket, which counts from the root.
pub(super) fn socket_fault(config: &Config) -> Option<String> {
    let path = config.socket_path()?;
    let length = path.as_os_str().len();
    (length > LONGEST_SOCKET).then(|| {
        format!(
            "{} has {length} bytes, and a socket's path has {LONGEST_SOCKET} at most; write a shorter one, like \"/run/statekeeper/admin.sock\"",
            path.display()
        )
    })
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

/// The dashboard's secrets, and whether each stands in the configuration as well as in a file.
fn dashboard_pairs(config: &Config) -> [(&'static str, bool); 2] {
    let on = &config.admin.dashboard;
    [
        ("token", on.token.is_some() && on.token_file.is_some()),
        ("proxy_secret", on.proxy_secret.is_some() && on.proxy_secret_file.is_some()),
    ]
}

fn both_fault(name: &str) -> String {
    format!("stands beside {name}_file; remove one of them")
}

/// A header that anybody could send would let anybody in.
fn header_fault(config: &Config) -> Option<String> {
    let on = &config.admin.dashboard;
    let header = on.user_header.as_ref()?;
    if http::HeaderName::from_bytes(header.as_bytes()).is_err() {
        return Some(format!(
            "{header:?} is not the name of a header; write one like \"X-Forwarded-User\""
        ));
    }
    if config.admin.trusted_proxies.is_empty() {
        return Some(
            "needs admin.trusted_proxies: the addresses from which it is believed".to_owned(),
        );
    }
    if on.proxy_secret.is_none() && on.proxy_secret_file.is_none() {
        return Some("needs proxy_secret_file: the file of what the proxy says in X-Statekeeper-Proxy-Secret".to_owned());
    }
    None
}

/// What `tracing` makes of a filter is not enough: it takes an unknown level for the name of a module.
fn level_fault(filter: &str) -> Option<String> {
    let is_level = |text: &str| LEVELS.contains(&text.trim().to_lowercase().as_str());
    let is_known = |directive: &str| match directive.rsplit_once('=') {
        Some((target, level)) => !target.trim().is_empty() && is_level(level),
        None => is_level(directive),
    };
    let wrong = filter.split(',').find(|directive| !is_known(directive));
    let shown = match wrong {
        Some(directive) => directive,
        None if EnvFilter::builder().parse(filter).is_err() => filter,
        None => return None,
    };
    Some(format!(
        "{shown:?} is not a level; write error, warn, info, debug, trace or off, also for a module, like \"info,statekeeper::keeper=debug\""
    ))
}

fn twice_fault(first: usize) -> String {
    format!("is spaces[{first}] already; remove one of them")
}

fn token_fault(space: &Space) -> Option<String> {
    match (space.admin_assist, &space.admin_token_file) {
        (AdminAssist::None, Some(_)) => {
            Some("does nothing; write admin_assist: synapse beside it, or remove it".to_owned())
        }
        (AdminAssist::Synapse, None) => Some(
            "is missing, which admin_assist: synapse needs; write the path of a file with a server administrator's access token".to_owned(),
        ),
        _ => None,
    }
}

fn over_fault(number: u32, most: u32) -> Option<String> {
    (number > most).then(|| format!("{number} is too many; write {most} or less"))
}

fn match_fault(matches: &Match) -> Option<String> {
    matches.is_empty().then(|| {
        "matches no room in particular; write rooms, aliases, spaces or servers, or set what is for all rooms at the top level".to_owned()
    })
}
