//! Reaching the homeserver at the start and being reached by it, whatever keeps the two apart: that is found out, told,
//! and waited for.

use std::{future::Future, sync::Arc};

use ruma::{OwnedTransactionId, OwnedUserId};
use tokio::{sync::watch, time::sleep};

use super::clock::now_ms;
use crate::{
    admin::{Metrics, Trouble, Troubles},
    config::{Config, registration::Registration},
    homeserver::{Backoff, Homeserver, HomeserverError, HomeserverOptions, RequestObserver},
};

/// What can be wrong between the two.
const BETWEEN: [Trouble; 4] =
    [Trouble::Homeserver, Trouble::Token, Trouble::Localpart, Trouble::Unreached];

struct Counting(Metrics);

impl RequestObserver for Counting {
    fn request_done(&self, endpoint: &'static str, status: &str, seconds: f64) {
        self.0.homeserver_request(endpoint, status, seconds);
    }
}

/// Waits until the homeserver answers, knows us, and its ping comes back to us.
///
/// # Errors
///
/// When the homeserver refuses for a reason that waiting does not mend.
pub(super) async fn reach(
    config: &Config,
    registration: &Registration,
    bot: &OwnedUserId,
    (metrics, troubles): (&Metrics, &Troubles),
    mut pinged: watch::Receiver<Option<OwnedTransactionId>>,
) -> Result<Homeserver, HomeserverError> {
    let homeserver = Homeserver::new(
        HomeserverOptions {
            address: config.homeserver.address.clone(),
            as_token: registration.as_token.clone(),
            user_id: bot.clone(),
            request_timeout: config.homeserver.request_timeout.get(),
        },
        Arc::new(Counting(metrics.clone())),
    )?;
    let of = |error: &HomeserverError| cause_of(error);
    insisting(troubles, of, || homeserver.versions()).await?;
    let localpart = &config.appservice.bot.localpart;
    insisting(troubles, of, || homeserver.register_bot(localpart)).await?;
    let transaction = ruma::TransactionId::new();
    pinged.mark_unchanged();
    let ping = || homeserver.ping(&registration.id, transaction.as_str());
    insisting(troubles, cause_of_silence, ping).await?;
    Ok(homeserver)
}

/// What is wrong between keeper and homeserver, going by how a request ended; `None` where that says nothing of it.
pub(super) fn cause_of(error: &HomeserverError) -> Option<Trouble> {
    match error {
        error if error.is_unknown_token() => Some(Trouble::Token),
        error if error.is_transient() => Some(Trouble::Homeserver),
        error if error.errcode() == Some("M_EXCLUSIVE") || error.is_forbidden() => {
            Some(Trouble::Localpart)
        }
        _ => None,
    }
}

/// The same of a ping: where the homeserver answers at all, whatever it complains of is on the way to us.
fn cause_of_silence(error: &HomeserverError) -> Option<Trouble> {
    match error {
        error if error.is_unknown_token() => Some(Trouble::Token),
        error if error.errcode().is_some() => Some(Trouble::Unreached),
        error => cause_of(error),
    }
}

/// This is what is wrong between the two, and nothing else.
pub(super) fn only(troubles: &Troubles, found: Option<Trouble>) {
    for trouble in BETWEEN {
        troubles.set(trouble, found == Some(trouble), now_ms());
    }
}

/// Asks until the homeserver does it, and says meanwhile why it does not.
async fn insisting<T, Fut>(
    troubles: &Troubles,
    cause_of: impl Fn(&HomeserverError) -> Option<Trouble>,
    mut attempt: impl FnMut() -> Fut,
) -> Result<T, HomeserverError>
where
    Fut: Future<Output = Result<T, HomeserverError>>,
{
    let mut backoff = Backoff::new();
    loop {
        let error = match attempt().await {
            Ok(done) => {
                only(troubles, None);
                return Ok(done);
            }
            Err(error) => error,
        };
        let Some(trouble) = cause_of(&error) else { return Err(error) };
        only(troubles, Some(trouble));
        let wait =
            backoff.next_delay(&mut rand::rng()).max(error.retry_after().unwrap_or_default());
        tracing::warn!(cause = trouble.cause(), mend = trouble.mend(), %error, ?wait,
            "the keeper cannot work yet; trying again");
        sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::homeserver::Endpoint;

    fn refused(status: u16, errcode: &str) -> HomeserverError {
        HomeserverError::Api {
            endpoint: Endpoint::Register,
            status,
            errcode: errcode.to_owned(),
            error: String::new(),
            retry_after: None,
        }
    }

    #[test]
    fn how_a_request_ended_says_what_is_wrong() {
        for (status, errcode, cause, of_ping) in [
            (401, "M_UNKNOWN_TOKEN", Some(Trouble::Token), Some(Trouble::Token)),
            (400, "M_EXCLUSIVE", Some(Trouble::Localpart), Some(Trouble::Unreached)),
            (403, "M_FORBIDDEN", Some(Trouble::Localpart), Some(Trouble::Unreached)),
            (502, "M_BAD_STATUS", Some(Trouble::Homeserver), Some(Trouble::Unreached)),
            (502, "", Some(Trouble::Homeserver), Some(Trouble::Homeserver)),
            (400, "M_UNRECOGNIZED", None, Some(Trouble::Unreached)),
        ] {
            let error = refused(status, errcode);
            assert_eq!(super::cause_of(&error), cause, "{status} {errcode}");
            assert_eq!(cause_of_silence(&error), of_ping, "{status} {errcode}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_over_once_the_homeserver_does_it() {
        let troubles = Troubles::default();
        let mut tries = 0;
        let done = insisting(&troubles, super::cause_of, || {
            tries += 1;
            let outcome = match tries {
                1 => Err(refused(401, "M_UNKNOWN_TOKEN")),
                _ => Ok(troubles.lasting().iter().map(|it| it.trouble).collect::<Vec<_>>()),
            };
            std::future::ready(outcome)
        });
        assert_eq!(done.await.unwrap(), [Trouble::Token]);
        assert!(troubles.lasting().is_empty());
        assert_eq!(troubles.take_past(|_| true).len(), 1);
        let for_good = insisting(&troubles, super::cause_of, || {
            std::future::ready(Err::<(), _>(refused(400, "M_UNRECOGNIZED")))
        });
        assert!(for_good.await.is_err());
    }
}
