//! Globs over whole user ids, as configuration names users: `*:example.org`.

use std::fmt;

use ruma::UserId;

use crate::state::Glob;

/// A glob over a whole user id such as `@ops:example.org`: `*` for any run of characters, `?` for
/// exactly one. Case-sensitive, as user ids are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserGlob(Glob);

impl UserGlob {
    /// Compiles a pattern. Every string is a valid one, though not every one matches a user.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(Glob::new(pattern))
    }

    /// Whether this user is meant. Costs at most pattern length times id length.
    pub fn matches(&self, user: &UserId) -> bool {
        self.0.matches(user.as_str())
    }

    /// Whether any of these globs means this user.
    pub fn any(globs: &[Self], user: &UserId) -> bool {
        globs.iter().any(|glob| glob.matches(user))
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for UserGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[test]
    fn the_default_lets_in_the_own_server_and_nobody_else() {
        let own = UserGlob::new("*:localhost");
        assert!(own.matches(user_id!("@alice:localhost")));
        assert!(!own.matches(user_id!("@alice:localhost.evil.example")));
        assert!(!own.matches(user_id!("@alice:evil.example")));
        assert!(!own.matches(user_id!("@alice:xlocalhost")));
    }

    #[test]
    fn a_dot_is_a_dot() {
        let glob = UserGlob::new("@*:a.example");
        assert!(glob.matches(user_id!("@x:a.example")));
        assert!(!glob.matches(user_id!("@x:abexample")));
    }

    #[test]
    fn one_of_several_is_enough_and_none_lets_nobody_in() {
        let globs = [UserGlob::new("@ops:localhost"), UserGlob::new("@dev?:localhost")];
        assert!(UserGlob::any(&globs, user_id!("@dev1:localhost")));
        assert!(!UserGlob::any(&globs, user_id!("@dev:localhost")));
        assert!(!UserGlob::any(&[], user_id!("@ops:localhost")));
    }
}
