//! What a reverse proxy says: who comes through it, from where, and how. It is believed by its address alone where a
//! lie would gain little, and by its secret where it would let somebody in.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, header::HOST};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::ConstantTimeEq as _;

use crate::config::Network;

/// The header in which a proxy shows that it is the one.
pub(super) const SECRET: HeaderName = HeaderName::from_static("x-statekeeper-proxy-secret");
const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// How many bytes a user's name has at most.
const LONGEST: usize = 200;

/// The proxies that are believed.
#[derive(Debug)]
pub(super) struct Proxies {
    trusted: Vec<Network>,
    user_header: Option<HeaderName>,
    secret: Option<SecretString>,
}

/// What a request says of who comes through a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Proxied {
    /// Nothing that counts.
    Nobody,
    /// This one.
    User(String),
    /// It comes from a proxy's address, without the proxy's secret.
    Wrong,
}

impl Proxies {
    /// The proxies at these addresses. Without a header and a secret nobody is let in through them.
    pub(super) fn new(
        trusted: &[Network],
        user_header: Option<&str>,
        secret: Option<SecretString>,
    ) -> Self {
        let user_header = user_header.and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
        Self { trusted: trusted.to_vec(), user_header, secret }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Whom the proxy at `peer` has let in.
    pub(super) fn user(&self, peer: IpAddr, headers: &HeaderMap) -> Proxied {
        let Some((name, secret)) = self.user_header.as_ref().zip(self.secret.as_ref()) else {
            return Proxied::Nobody;
        };
        if !self.trusts(peer) || !headers.contains_key(name) {
            return Proxied::Nobody;
        }
        if !brings(headers, secret) {
            return Proxied::Wrong;
        }
        // Two of them: one is whoever's who came through the proxy.
        let Some(user) = only(headers, name) else { return Proxied::Wrong };
        match std::str::from_utf8(user).map(str::trim) {
            Ok("") => Proxied::Nobody,
            Ok(user) if user.len() <= LONGEST && !user.chars().any(char::is_control) => {
                Proxied::User(user.to_owned())
            }
            _ => Proxied::Wrong,
        }
    }

    /// Where a request comes from: the last address before the proxies. Where they have a secret, it is believed
    /// beside that alone: whoever could make an address up could use up the tries of another one.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let is_proved = self.secret.as_ref().is_none_or(|secret| brings(headers, secret));
        if !self.trusts(peer) || !is_proved {
            return peer;
        }
        let said = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = said.flat_map(|value| value.split(',')).map(str::trim).collect();
        let mut client = peer;
        for hop in hops.iter().rev() {
            let Ok(address) = hop.parse() else { break };
            client = address;
            if !self.trusts(address) {
                break;
            }
        }
        client
    }

    /// Whether the browser speaks HTTPS with the proxy.
    pub(super) fn is_https(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let said = headers.get(FORWARDED_PROTO).map(|value| value.as_bytes());
        self.trusts(peer) && said.is_some_and(|said| said.eq_ignore_ascii_case(b"https"))
    }

    /// Whether a page of this very origin sent the request. A browser says so with everything that it posts.
    pub(super) fn is_same_origin(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
        if site.is_some_and(|site| site != b"same-origin") {
            return false;
        }
        let forwarded = headers.get(FORWARDED_HOST).filter(|_| self.trusts(peer));
        let host = forwarded.or(headers.get(HOST)).and_then(|host| host.to_str().ok());
        let origin = headers.get("origin").and_then(|origin| origin.to_str().ok());
        let Some((host, origin)) = host.zip(origin) else { return false };
        let authority = origin.strip_prefix("https://").or(origin.strip_prefix("http://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.trim()))
    }
}

/// Whether the proxies' secret stands in its header.
fn brings(headers: &HeaderMap, secret: &SecretString) -> bool {
    only(headers, &SECRET).is_some_and(|said| said.ct_eq(secret.expose_secret().as_bytes()).into())
}

/// The one value of a header; `None` for none and for several.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn proxies() -> Proxies {
        let secret = SecretString::from("the proxy's own secret");
        Proxies::new(&["10.0.0.0/8".parse().unwrap()], Some("X-Forwarded-User"), Some(secret))
    }

    fn headers(headers: &[(&'static str, &str)]) -> HeaderMap {
        headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_user_is_believed_from_a_trusted_proxy_with_its_secret_alone() {
        let (user, secret) = ("x-forwarded-user", "x-statekeeper-proxy-secret");
        let right = [(user, "eve"), (secret, "the proxy's own secret")];
        let said = |peer, said: &[(&'static str, &str)]| proxies().user(peer, &headers(said));
        assert_eq!(said(PROXY, &right), Proxied::User("eve".to_owned()));
        assert_eq!(said(STRANGER, &right), Proxied::Nobody);
        assert_eq!(said(PROXY, &right[..1]), Proxied::Wrong);
        assert_eq!(said(PROXY, &[(user, "eve"), (secret, "")]), Proxied::Wrong);
        assert_eq!(
            said(PROXY, &[(user, "eve"), (secret, "the proxy's own secre")]),
            Proxied::Wrong
        );
        assert_eq!(said(PROXY, &right[1..]), Proxied::Nobody);
        let twice = [("x-forwarded-user", "mallory"), right[0], right[1]];
        let mut all = HeaderMap::new();
        for (name, value) in twice {
            all.append(name, value.parse().unwrap());
        }
        assert_eq!(proxies().user(PROXY, &all), Proxied::Wrong);
    }

    #[test]
    fn an_address_is_taken_from_trusted_proxies_alone_and_from_the_right() {
        let hops = ("x-forwarded-for", "203.0.113.9, 198.51.100.3, 10.0.0.7");
        let said = headers(&[hops, ("x-statekeeper-proxy-secret", "the proxy's own secret")]);
        let before = IpAddr::from([198, 51, 100, 3]);
        assert_eq!(proxies().client(PROXY, &said), before);
        assert_eq!(proxies().client(STRANGER, &said), STRANGER);
        assert_eq!(proxies().client(PROXY, &HeaderMap::new()), PROXY);
        assert_eq!(proxies().client(PROXY, &headers(&[hops])), PROXY, "it is not proved");
        let without_secret = Proxies { secret: None, ..proxies() };
        assert_eq!(without_secret.client(PROXY, &headers(&[hops])), before);
    }

    #[test]
    fn a_post_is_taken_from_pages_of_this_origin_alone() {
        for (said, is_same) in [
            (vec![("host", "keeper:1"), ("origin", "http://keeper:1")], true),
            (vec![("host", "keeper:1"), ("origin", "http://evil:1")], false),
            (vec![("host", "keeper:1"), ("origin", "http://keeper:2")], false),
            (vec![("host", "keeper:1"), ("origin", "null")], false),
            (vec![("host", "keeper:1")], false),
            (vec![("host", "k"), ("origin", "http://k"), ("sec-fetch-site", "cross-site")], false),
            (vec![("host", "k"), ("origin", "http://k"), ("sec-fetch-site", "same-origin")], true),
            (
                vec![
                    ("host", "k"),
                    ("x-forwarded-host", "ops.example"),
                    ("origin", "https://ops.example"),
                ],
                false,
            ),
        ] {
            assert_eq!(proxies().is_same_origin(STRANGER, &headers(&said)), is_same, "{said:?}");
        }
        let through =
            [("host", "k"), ("x-forwarded-host", "ops.example"), ("origin", "https://ops.example")];
        assert!(proxies().is_same_origin(PROXY, &headers(&through)));
    }
}
