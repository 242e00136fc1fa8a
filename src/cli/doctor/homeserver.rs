//! The homeserver: does it answer, does it know us, does it reach us, and does its clock agree?

use std::{sync::Arc, time::Duration};

use ruma::UserId;
use tokio::{net::TcpListener, sync::watch};

use super::report::Finding;
use crate::{
    admin::Trouble,
    appservice::{self, IncomingEvent, SinkError, TransactionOutcome, TransactionSink},
    config::{Config, registration::Registration},
    homeserver::{Homeserver, HomeserverError, HomeserverOptions},
    keeper::{APART, clock::now_ms},
};

/// How far they may be apart before something goes wrong: what claims a time a day ahead is refused.
const FAR_APART: i64 = 600_000;
/// How long an answer is waited for: whoever calls the doctor waits for it.
const PATIENCE: Duration = Duration::from_secs(10);

const REGISTER: &str = "name the registration in the homeserver's `app_service_config_files`, and restart the homeserver: \
                        it reads such files at its start alone";

/// What was found, and the way to the homeserver where it lets us in.
pub(super) struct Examined {
    pub(super) findings: Vec<Finding>,
    pub(super) homeserver: Option<Homeserver>,
}

/// Looks at the homeserver; `running` says whether a keeper runs that answers pings.
pub(super) async fn examine(
    config: &Config,
    registration: &Registration,
    bot: &UserId,
    running: bool,
) -> Examined {
    let mut findings = Vec::new();
    let options = HomeserverOptions {
        address: config.homeserver.address.clone(),
        as_token: registration.as_token.clone(),
        user_id: bot.to_owned(),
        request_timeout: PATIENCE,
    };
    let homeserver = match Homeserver::new(options, Arc::new(())) {
        Ok(homeserver) => homeserver,
        Err(error) => {
            let fix = "mend `homeserver.address` or the registration";
            findings.push(Finding::trouble("homeserver", error.to_string(), fix));
            return Examined { findings, homeserver: None };
        }
    };
    match homeserver.clock().await {
        Ok(time) => {
            let text = format!("{} answers", config.homeserver.address);
            findings.push(Finding::fine("homeserver", text));
            findings.push(clock(time, now_ms()));
        }
        Err(error) => {
            findings.push(away(&error));
            return Examined { findings, homeserver: None };
        }
    }
    findings.extend(known(&homeserver, registration, bot).await);
    if findings.iter().any(|finding| finding.check == "token" && finding.fix.is_some()) {
        return Examined { findings, homeserver: None };
    }
    findings.push(ping(&homeserver, config, registration, bot, running).await);
    Examined { findings, homeserver: Some(homeserver) }
}

fn away(error: &HomeserverError) -> Finding {
    Finding::trouble("homeserver", error.to_string(), Trouble::Homeserver.mend())
}

fn clock(homeserver: Option<i64>, now: i64) -> Finding {
    let Some(theirs) = homeserver else {
        return Finding::skipped("clock", "the homeserver does not say what time it has");
    };
    let apart = now.saturating_sub(theirs);
    let text = match apart {
        0.. => format!("this machine's clock is {} s ahead of the homeserver's", apart / 1000),
        _ => format!("this machine's clock is {} s behind the homeserver's", -(apart / 1000)),
    };
    let fix = Trouble::Clock.mend();
    match apart.saturating_abs() {
        0..APART => Finding::fine("clock", "it agrees with the homeserver's"),
        APART..FAR_APART => Finding::warning("clock", text, fix),
        _ => Finding::trouble("clock", text, fix),
    }
}

/// Whether the homeserver has our registration, as we have it.
async fn known(homeserver: &Homeserver, registration: &Registration, bot: &UserId) -> Vec<Finding> {
    let sender = match homeserver.service_user().await {
        Ok(sender) => sender,
        Err(error) if error.is_refused() => {
            let text = format!("the homeserver does not know our `as_token`: {error}");
            return vec![Finding::trouble("token", text, Trouble::Token.mend())];
        }
        Err(error) => return vec![Finding::trouble("token", error.to_string(), "try again")],
    };
    let mut findings = vec![Finding::fine("token", "the homeserver knows our `as_token`")];
    findings.push(if sender == bot {
        Finding::trouble(
            "sender",
            format!("the keeper {bot} is the registration's own `sender_localpart`"),
            "give the registration another `sender_localpart`: homeservers refuse `/sync` to that user",
        )
    } else if sender.localpart() != registration.sender_localpart {
        Finding::trouble(
            "sender",
            format!(
                "the homeserver's copy of the registration says `sender_localpart: {}`, ours `{}`",
                sender.localpart(),
                registration.sender_localpart
            ),
            REGISTER,
        )
    } else {
        Finding::fine("sender", "`sender_localpart` is as in our registration, and not the keeper")
    });
    findings.push(match homeserver.whoami().await {
        Ok(_) => Finding::fine("namespace", format!("the homeserver lets us speak for {bot}")),
        Err(error) => Finding::trouble(
            "namespace",
            format!("the homeserver does not let us speak for {bot}: {error}"),
            format!(
                "{}. A keeper that never ran has to be started once",
                Trouble::Localpart.mend()
            ),
        ),
    });
    findings
}

/// From us to the homeserver and back to us. It also shows that both have the same `id`, `url` and `hs_token`.
async fn ping(
    homeserver: &Homeserver,
    config: &Config,
    registration: &Registration,
    bot: &UserId,
    running: bool,
) -> Finding {
    let mut stand_in = None;
    if !running {
        match TcpListener::bind(config.appservice.listen).await {
            Ok(listener) => stand_in = Some(answering(listener, config, registration, bot)),
            Err(error) => {
                let listen = config.appservice.listen;
                return Finding::trouble(
                    "ping",
                    format!("no keeper answers, and {listen} cannot be listened on: {error}"),
                    "see who listens there, and whether `appservice.listen` is right",
                );
            }
        }
    }
    let id = ruma::TransactionId::new();
    let pinged = homeserver.ping(&registration.id, id.as_str()).await;
    if let Some(stand_in) = stand_in {
        stand_in.abort();
    }
    match pinged {
        Ok(took) => {
            Finding::fine("ping", format!("the homeserver reaches us, in {} ms", took.as_millis()))
        }
        Err(error) => Finding::trouble(
            "ping",
            format!("the homeserver does not reach us: {error}"),
            mend_ping(&error),
        ),
    }
}

fn mend_ping(error: &HomeserverError) -> String {
    match error.errcode() {
        Some("M_BAD_STATUS") => format!(
            "it reached somebody who refused it: is the registration's `url` ours, and is `hs_token` the same in \
             its copy? {REGISTER}"
        ),
        Some("M_CONNECTION_FAILED" | "M_CONNECTION_TIMEOUT") => {
            "see whether the registration's `url` leads to `appservice.listen` from where the homeserver runs, \
             out of its container"
                .to_owned()
        }
        Some("M_URL_NOT_SET") => {
            format!("its copy of the registration has no `url`: {REGISTER}")
        }
        _ => format!("its copy of the registration may have another `id`: {REGISTER}"),
    }
}

/// Takes nothing: the homeserver keeps it for the keeper.
struct Nothing;

impl TransactionSink for Nothing {
    async fn accept(&self, _: Vec<IncomingEvent>) -> Result<usize, SinkError> {
        Err(SinkError::new("the doctor takes no events"))
    }
}

impl appservice::TransactionObserver for Nothing {
    fn transaction(&self, _: TransactionOutcome) {}
    fn events_dropped(&self, _: u64) {}
}

/// Answers pings in the keeper's place while it is down.
fn answering(
    listener: TcpListener,
    config: &Config,
    registration: &Registration,
    bot: &UserId,
) -> tokio::task::JoinHandle<()> {
    let options = appservice::Options {
        hs_token: registration.hs_token.clone(),
        bot: bot.to_owned(),
        max_body_size: config.appservice.max_body_size,
    };
    let (pings, _) = watch::channel(None);
    let serving =
        appservice::serve(listener, options, Nothing, Nothing, pings, std::future::pending());
    tokio::spawn(async move {
        // It ends with the doctor.
        let _ = serving.await;
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::report::Level;

    #[test]
    fn clocks_may_be_apart_by_a_little() {
        let at = |theirs, now| clock(theirs, now).level;
        assert_eq!(at(Some(1_000_000), 1_029_000), Level::Fine);
        assert_eq!(at(Some(1_000_000), 960_000), Level::Warning);
        assert_eq!(at(Some(1_000_000), 2_000_000), Level::Trouble);
        assert_eq!(at(None, 0), Level::Skipped);
        assert!(clock(Some(100_000), 0).text.contains("100 s behind"));
    }
}
