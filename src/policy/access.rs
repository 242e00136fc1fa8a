//! Who may be given keys at all: lists of users and of servers.

use ruma::{ServerName, UserId};

use super::UserGlob;
use crate::state::Glob;

/// A glob over a whole server name such as `example.org`, port included. Case does not count, as it
/// does not for a name in DNS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerGlob(Glob);

/// Who may be given keys (`access.allow_users` and its siblings). Whoever is denied by a list is
/// denied, whatever another one allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessPolicy {
    /// Users who may be given keys.
    pub allow_users: Vec<UserGlob>,
    /// Users who may not.
    pub deny_users: Vec<UserGlob>,
    /// Servers whose users may be given keys.
    pub allow_servers: Vec<ServerGlob>,
    /// Servers whose users may not.
    pub deny_servers: Vec<ServerGlob>,
}

impl ServerGlob {
    /// Compiles a pattern. Every string is a valid one, though not every one matches a server.
    pub fn new(pattern: &str) -> Self {
        Self(Glob::new(pattern.to_ascii_lowercase()))
    }

    /// Whether this server, with its port, is meant.
    pub fn matches(&self, server: &ServerName) -> bool {
        self.0.matches(&server.as_str().to_ascii_lowercase())
    }

    /// Whether the server is meant by its name with or without the port: nobody gets out of a denial
    /// by listening on another one.
    pub fn matches_on_any_port(&self, server: &ServerName) -> bool {
        self.matches(server) || self.0.matches(&server.host().to_ascii_lowercase())
    }
}

impl AccessPolicy {
    /// Which list keeps a user from being given keys, by its key in the configuration; `None` when none does.
    pub fn refusal(&self, user: &UserId) -> Option<&'static str> {
        let server = user.server_name();
        if UserGlob::any(&self.deny_users, user) {
            return Some("access.deny_users");
        }
        if self.deny_servers.iter().any(|glob| glob.matches_on_any_port(server)) {
            return Some("access.deny_servers");
        }
        if !UserGlob::any(&self.allow_users, user) {
            return Some("access.allow_users");
        }
        let allowed = self.allow_servers.iter().any(|glob| glob.matches(server));
        (!allowed).then_some("access.allow_servers")
    }

    /// Whether a user may be given keys, as far as the lists say.
    pub fn admits(&self, user: &UserId) -> bool {
        self.refusal(user).is_none()
    }
}

impl Default for AccessPolicy {
    /// Everybody, on every server.
    fn default() -> Self {
        Self {
            allow_users: vec![UserGlob::new("*")],
            deny_users: Vec::new(),
            allow_servers: vec![ServerGlob::new("*")],
            deny_servers: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{OwnedUserId, user_id};

    use super::*;

    fn users(patterns: &[&str]) -> Vec<UserGlob> {
        patterns.iter().map(|pattern| UserGlob::new(*pattern)).collect()
    }

    fn servers(patterns: &[&str]) -> Vec<ServerGlob> {
        patterns.iter().map(|pattern| ServerGlob::new(pattern)).collect()
    }

    #[test]
    fn by_default_everybody_is_admitted() {
        for user in [user_id!("@alice:localhost"), user_id!("@bob:[::1]:8448")] {
            assert!(AccessPolicy::default().admits(user), "{user}");
        }
    }

    #[test]
    fn who_is_denied_is_denied_whatever_else_allows_them() {
        let policy = AccessPolicy {
            allow_users: users(&["@eve:evil.example", "*"]),
            deny_users: users(&["@eve:*"]),
            allow_servers: servers(&["*"]),
            deny_servers: servers(&["bad.example"]),
        };
        assert!(!policy.admits(user_id!("@eve:evil.example")));
        assert!(!policy.admits(user_id!("@alice:bad.example")));
        assert!(policy.admits(user_id!("@alice:evil.example")));
    }

    #[test]
    fn an_empty_list_of_the_allowed_is_nobody() {
        let nobody = AccessPolicy { allow_users: Vec::new(), ..AccessPolicy::default() };
        assert!(!nobody.admits(user_id!("@alice:localhost")));
        let nowhere = AccessPolicy { allow_servers: Vec::new(), ..AccessPolicy::default() };
        assert!(!nowhere.admits(user_id!("@alice:localhost")));
    }

    #[test]
    fn neither_case_nor_port_gets_a_server_out_of_a_denial() {
        let policy =
            AccessPolicy { deny_servers: servers(&["Evil.example"]), ..AccessPolicy::default() };
        for user in ["@a:evil.example", "@a:EVIL.example", "@a:evil.example:8449"] {
            assert!(!policy.admits(&OwnedUserId::try_from(user).unwrap()), "{user}");
        }
        assert!(policy.admits(user_id!("@a:notevil.example")));
    }

    #[test]
    fn a_server_on_another_port_is_another_server_where_it_is_allowed() {
        let policy =
            AccessPolicy { allow_servers: servers(&["good.example"]), ..AccessPolicy::default() };
        assert!(policy.admits(user_id!("@a:good.example")));
        assert!(!policy.admits(user_id!("@a:good.example:1234")));
    }

    proptest! {
        #[test]
        fn one_more_denial_never_admits_anybody(
            user in "@[a-c]{1,2}:[a-c]{1,2}\\.example",
            allowed in "[@a-c.:*?]{1,8}",
            denied in "[@a-c.:*?]{1,8}",
        ) {
            let user = OwnedUserId::try_from(user).unwrap();
            let before = AccessPolicy {
                allow_users: vec![UserGlob::new(allowed)], ..AccessPolicy::default()
            };
            let after = AccessPolicy {
                deny_users: vec![UserGlob::new(denied.clone())],
                deny_servers: vec![ServerGlob::new(&denied)],
                ..before.clone()
            };
            prop_assert!(after.admits(&user) <= before.admits(&user));
        }
    }
}
