//! What can go wrong with a request to the homeserver.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use ruma::api::error::RetryAfter;
use serde_json::Value as JsonValue;

use super::Endpoint;

/// The most characters of the homeserver's own words that an error repeats.
const LONGEST_TEXT: usize = 200;
/// The most characters of an `errcode` that an error repeats.
const LONGEST_ERRCODE: usize = 64;
/// The longest wait that the homeserver can ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A request to the homeserver that brought nothing usable. No variant holds a token.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HomeserverError {
    /// The client could not be made from its options.
    #[error("homeserver: {what}")]
    Options {
        /// What is wrong, and how to mend it.
        what: String,
    },
    /// No connection, or one that broke before the answer was complete. The request may have been
    /// carried out.
    #[error(
        "the homeserver at {address} cannot be reached ({endpoint}: {reason}); \
         check that it runs and that homeserver.address is right"
    )]
    Unreachable {
        /// What was asked for.
        endpoint: Endpoint,
        /// The homeserver's address, without user info, path or query.
        address: String,
        /// What the connection says.
        reason: String,
    },
    /// No complete answer in time. The request may have been carried out.
    #[error(
        "the homeserver at {address} did not answer {endpoint} within {} s; \
         check its load and its log", after.as_secs_f32()
    )]
    Timeout {
        /// What was asked for.
        endpoint: Endpoint,
        /// The homeserver's address, without user info, path or query.
        address: String,
        /// How long the answer was waited for.
        after: Duration,
    },
    /// The homeserver answered, and the answer is no.
    #[error("the homeserver refused {endpoint} with {status} {errcode}: {error}{}", advice(*status, errcode))]
    Api {
        /// What was asked for.
        endpoint: Endpoint,
        /// The HTTP status.
        status: u16,
        /// The `errcode`, such as `M_FORBIDDEN`; empty when the answer had none.
        errcode: String,
        /// The homeserver's explanation, shortened, without control characters.
        error: String,
        /// How long the homeserver wants us to wait, from `retry_after_ms` or `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The homeserver answered, and the answer is not what the spec says.
    #[error(
        "the homeserver's answer to {endpoint} cannot be read: {what}; \
         check that homeserver.address leads to a homeserver and not to a web page"
    )]
    Unreadable {
        /// What was asked for.
        endpoint: Endpoint,
        /// What is wrong with the answer. Never the answer itself.
        what: String,
    },
    /// The request could not be put into HTTP and was not sent.
    #[error("the request {endpoint} cannot be sent: {what}")]
    Unsendable {
        /// What was to be asked for.
        endpoint: Endpoint,
        /// What is wrong with the request.
        what: String,
    },
}

/// What an operator can do about the answers that come from a wrong setup.
fn advice(status: u16, errcode: &str) -> &'static str {
    match (status, errcode) {
        (401, _) => {
            "; check that the homeserver has loaded this very registration file and was restarted since"
        }
        (_, "M_EXCLUSIVE") => {
            "; check that the bot's user id is in the registration's namespaces.users"
        }
        (429, _) => "; set rate_limited: false in the registration",
        _ => "",
    }
}

impl HomeserverError {
    /// Whether the same request may well succeed later: no connection, no answer in time, an error
    /// of the server's own (5xx), a rate limit (429), or a homeserver that has not our registration: nothing is
    /// refused for good by one that does not know us.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            // An answer without an errcode is no homeserver's: a proxy spoke while it was away.
            Self::Api { status, .. } => {
                matches!(*status, 408 | 429)
                    || *status >= 500
                    || self.errcode().is_none()
                    || self.is_unknown_token()
            }
            Self::Unreadable { .. } => true,
            Self::Options { .. } | Self::Unsendable { .. } => false,
        }
    }

    /// Whether nobody answered in time: where the homeserver waits for somebody else's server, that may be why.
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Timeout { .. }) || self.status() == Some(504)
    }

    /// Whether it is the homeserver itself that is away, or wants to be left alone: what was asked for is not to blame.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Api { status, retry_after, .. } => {
                let is_proxy = self.errcode().is_none() && *status >= 500;
                *status == 429 || retry_after.is_some() || (is_proxy && !self.is_late())
            }
            _ => false,
        }
    }

    /// Whether it is known that the homeserver did not carry the request out. When this is false
    /// the request may have taken effect though its answer was lost.
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Api { status, .. } => *status < 500 && self.errcode().is_some(),
            Self::Options { .. } | Self::Unsendable { .. } => true,
            _ => false,
        }
    }

    /// The `errcode`, where the homeserver gave one.
    pub fn errcode(&self) -> Option<&str> {
        match self {
            Self::Api { errcode, .. } if !errcode.is_empty() => Some(errcode),
            _ => None,
        }
    }

    /// The HTTP status, where there was an answer with an error's status.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// How long the homeserver wants us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Api { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// 401: the homeserver does not know the `as_token`.
    pub fn is_unknown_token(&self) -> bool {
        // There the token is an administrator's.
        !matches!(self, Self::Api { endpoint: Endpoint::MakeRoomAdmin, .. })
            && self.status() == Some(401)
            && self.errcode().is_some()
    }

    /// `403 M_FORBIDDEN`: the keeper lacks the membership or the power.
    pub fn is_forbidden(&self) -> bool {
        self.errcode() == Some("M_FORBIDDEN")
    }

    /// `404 M_NOT_FOUND`: the thing is not there. A 404 with another `errcode`, or with none, comes
    /// from a server or proxy that does not know the endpoint and tells nothing about the thing.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404) && self.errcode() == Some("M_NOT_FOUND")
    }

    /// `M_UNKNOWN_DEVICE`: the device that the request spoke for is gone from the homeserver
    /// (deleted by an administrator, or pruned as stale) and has to be made again.
    pub fn is_unknown_device(&self) -> bool {
        matches!(self.errcode(), Some("M_UNKNOWN_DEVICE" | "ORG.MATRIX.MSC4326.M_UNKNOWN_DEVICE"))
    }

    /// The value of the metrics label `status` for this error.
    pub(super) fn label(&self) -> String {
        match self {
            Self::Api { status, .. } => status.to_string(),
            Self::Unreachable { .. } => "unreachable".to_owned(),
            Self::Timeout { .. } => "timeout".to_owned(),
            Self::Unreadable { .. } => "unreadable".to_owned(),
            Self::Options { .. } | Self::Unsendable { .. } => "unsendable".to_owned(),
        }
    }

    /// The error that an answer with a status other than 2xx stands for (spec: "Standard error
    /// response"). `secret` is cut out of the homeserver's words, should it repeat them.
    pub(super) fn from_answer(
        endpoint: Endpoint,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        secret: &str,
    ) -> Self {
        let json: JsonValue = serde_json::from_slice(body).unwrap_or_default();
        let text = |name, limit| {
            let text = json.get(name).and_then(JsonValue::as_str).unwrap_or_default();
            printable(&without(text, secret), limit)
        };
        let error = match text("error", LONGEST_TEXT) {
            empty if empty.is_empty() => "no explanation was given".to_owned(),
            error => error,
        };
        Self::Api {
            endpoint,
            status: status.as_u16(),
            errcode: text("errcode", LONGEST_ERRCODE),
            error,
            retry_after: retry_after(headers, &json),
        }
    }
}

/// The wait that the homeserver asks for. Spec, "Rate limiting": the `Retry-After` header goes
/// before the older `retry_after_ms`; but it counts whole seconds, so the body wins when both are
/// there and say about the same.
fn retry_after(headers: &HeaderMap, json: &JsonValue) -> Option<Duration> {
    let header = headers.get(RETRY_AFTER).and_then(|value| RetryAfter::try_from(value).ok());
    let header = header.map(|header| match header {
        RetryAfter::Delay(delay) => delay,
        RetryAfter::DateTime(time) => time.duration_since(SystemTime::now()).unwrap_or_default(),
    });
    let body = json.get("retry_after_ms").and_then(JsonValue::as_f64);
    let body = body
        .filter(|ms| *ms >= 0.0)
        .map(|ms| Duration::from_secs_f64((ms / 1000.0).min(LONGEST_RETRY_AFTER.as_secs_f64())));
    let chosen = match (header, body) {
        (Some(header), Some(body)) if header.abs_diff(body) > Duration::from_secs(1) => header,
        (_, Some(body)) => body,
        (header, None) => header?,
    };
    Some(chosen.min(LONGEST_RETRY_AFTER))
}

/// `text` with every occurrence of `secret` replaced.
fn without(text: &str, secret: &str) -> String {
    if secret.is_empty() { text.to_owned() } else { text.replace(secret, "…") }
}

/// The first `limit` characters of `text`, without control characters, which could forge lines of
/// a log.
pub(super) fn printable(text: &str, limit: usize) -> String {
    let mut short: String = text.chars().filter(|c| !c.is_control()).take(limit + 1).collect();
    if let Some((end, _)) = short.char_indices().nth(limit) {
        short.truncate(end);
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn answer(status: u16, headers: &HeaderMap, body: &str) -> HomeserverError {
        let status = StatusCode::from_u16(status).unwrap();
        HomeserverError::from_answer(Endpoint::Join, status, headers, body.as_bytes(), "s3cret")
    }

    fn with_header(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_rate_limit_is_read_from_body_and_header() {
        let ms = r#"{"errcode":"M_LIMIT_EXCEEDED","error":"slow","retry_after_ms":1250}"#;
        let none = HeaderMap::new();
        assert_eq!(answer(429, &none, ms).retry_after(), Some(Duration::from_millis(1250)));
        assert_eq!(
            answer(429, &with_header("7"), "{}").retry_after(),
            Some(Duration::from_secs(7))
        );
        assert_eq!(answer(429, &with_header("7"), ms).retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(
            answer(429, &with_header("2"), ms).retry_after(),
            Some(Duration::from_millis(1250))
        );
        assert_eq!(answer(429, &none, "{}").retry_after(), None);
    }

    #[test]
    fn absurd_waits_are_bounded_and_nonsense_is_ignored() {
        let none = HeaderMap::new();
        for (body, expected) in [
            (r#"{"retry_after_ms":1e300}"#, Some(LONGEST_RETRY_AFTER)),
            (r#"{"retry_after_ms":-5}"#, None),
            (r#"{"retry_after_ms":"5"}"#, None),
        ] {
            assert_eq!(answer(429, &none, body).retry_after(), expected, "{body}");
        }
        let header = with_header("99999999999999999999999");
        assert_eq!(answer(429, &header, "{}").retry_after(), None);
        let past = with_header("Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(answer(429, &past, "{}").retry_after(), Some(Duration::ZERO));
    }

    #[test]
    fn the_homeservers_words_are_short_one_line_and_without_the_token() {
        let words = format!("token s3cret\\nfake line {}", "x".repeat(5000));
        let error = answer(403, &HeaderMap::new(), &format!(r#"{{"error":"{words}"}}"#));
        let text = format!("{error} {error:?}");
        assert!(!text.contains("s3cret") && !text.contains('\n'), "{text}");
        assert!(error.to_string().chars().count() < 300, "{text}");
    }

    #[test]
    fn who_is_away_is_told_from_who_is_waited_for_in_vain() {
        let none = HeaderMap::new();
        let remote = r#"{"errcode":"M_UNKNOWN","error":"Failed to send"}"#;
        for (error, is_away, is_late) in [
            (answer(502, &none, "<html>"), true, false),
            (answer(504, &none, "<html>"), false, true),
            (answer(502, &none, remote), false, false),
            (answer(413, &none, "<html>"), false, false),
            (answer(429, &none, r#"{"errcode":"M_LIMIT_EXCEEDED"}"#), true, false),
        ] {
            assert_eq!((error.is_away(), error.is_late()), (is_away, is_late), "{error}");
        }
    }

    #[test]
    fn only_the_specs_not_found_means_that_the_thing_is_not_there() {
        let none = HeaderMap::new();
        assert!(answer(404, &none, r#"{"errcode":"M_NOT_FOUND"}"#).is_not_found());
        assert!(!answer(404, &none, r#"{"errcode":"M_UNRECOGNIZED"}"#).is_not_found());
        assert!(!answer(404, &none, "<html>").is_not_found());
    }
}
