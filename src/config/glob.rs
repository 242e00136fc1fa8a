//! Patterns for user ids, room aliases, server names and event types, with `*` for any text and `?` for any one character.

use std::{borrow::Cow, fmt, str::FromStr};

use ruma::UserId;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A pattern for whole user ids: `@ops:example.org`, `*:example.org`, `@bot-?:*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserGlob(String);

/// A pattern for whole room aliases: `#ops:example.org`, `#team-*:*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AliasGlob(String);

/// A pattern for whole server names: `example.org`, `*.example.org`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerGlob(String);

/// A pattern for whole event types: `m.call.member`, `m.rtc.*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TypeGlob(String);

/// A pattern that can match nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// No user id has this form.
    #[error("matches no user id; write a pattern for a whole one, like \"*:example.org\"")]
    NoUser,
    /// No room alias has this form.
    #[error("matches no room alias; write a pattern for a whole one, like \"#team-*:example.org\"")]
    NoAlias,
    /// No server name has this form.
    #[error("matches no server name; write a pattern for a whole one, like \"*.example.org\"")]
    NoServer,
    /// No event type has this form.
    #[error("matches no event type; write a pattern for a whole one, like \"m.rtc.*\"")]
    NoType,
}

impl UserGlob {
    /// Whether the whole user id fits the pattern.
    pub fn matches(&self, user_id: &UserId) -> bool {
        fits(&self.0, user_id.as_str())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AliasGlob {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ServerGlob {
    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TypeGlob {
    /// Whether the whole event type fits the pattern.
    pub fn matches(&self, event_type: &str) -> bool {
        fits(&self.0, event_type)
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserGlob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let begins_like_one = text.starts_with(['@', '*', '?']);
        let has_a_server = text.contains([':', '*']) && !text.ends_with(':');
        let possible = begins_like_one && has_a_server && !text.contains(char::is_whitespace);
        possible.then(|| Self(text.to_owned())).ok_or(GlobError::NoUser)
    }
}

impl FromStr for AliasGlob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let begins_like_one = text.starts_with(['#', '*', '?']);
        let has_a_server = text.contains([':', '*']) && !text.ends_with(':');
        let possible = begins_like_one && has_a_server && !text.contains(char::is_whitespace);
        possible.then(|| Self(text.to_owned())).ok_or(GlobError::NoAlias)
    }
}

impl FromStr for ServerGlob {
    type Err = GlobError;

    /// The spec's grammar for server names ("Server Name"), with `*` and `?` in it.
    fn from_str(text: &str) -> Result<Self, GlobError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-.:[]*?".contains(c);
        let possible = !text.is_empty() && text.chars().all(allowed);
        possible.then(|| Self(text.to_owned())).ok_or(GlobError::NoServer)
    }
}

impl FromStr for TypeGlob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let possible = !text.is_empty() && !text.contains(char::is_whitespace);
        possible.then(|| Self(text.to_owned())).ok_or(GlobError::NoType)
    }
}

/// Whether all of `text` fits `glob`, in time proportional to the product of their lengths: a
/// stranger chooses the text.
fn fits(glob: &str, text: &str) -> bool {
    let (mut glob, mut text) = (glob.chars(), text.chars());
    // Where to go on from when the text after the last `*` did not fit: that `*` takes one more.
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let (mut next_glob, mut next_text) = (glob.clone(), text.clone());
        match (next_glob.next(), next_text.next()) {
            (Some('*'), _) => {
                retry = Some((next_glob.clone(), text.clone()));
                glob = next_glob;
            }
            (None, None) => return true,
            (Some(want), Some(have)) if want == '?' || want == have => {
                (glob, text) = (next_glob, next_text);
            }
            _ => {
                let Some((after_star, taken)) = &mut retry else { return false };
                if taken.next().is_none() {
                    return false;
                }
                (glob, text) = (after_star.clone(), taken.clone());
            }
        }
    }
}

/// What the patterns share: they are text in every format.
macro_rules! text_in_every_format {
    ($glob:ident, $format:literal) => {
        impl fmt::Display for $glob {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $glob {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $glob {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }

        impl JsonSchema for $glob {
            fn schema_name() -> Cow<'static, str> {
                stringify!($glob).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format })
            }
        }
    };
}

text_in_every_format!(UserGlob, "matrix-user-glob");
text_in_every_format!(AliasGlob, "matrix-alias-glob");
text_in_every_format!(ServerGlob, "matrix-server-glob");
text_in_every_format!(TypeGlob, "matrix-event-type-glob");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_fits_the_whole_text() {
        let cases = [
            ("*:example.org", "@alice:example.org", true),
            ("*:example.org", "@alice:example.org.evil", false),
            ("*:example.org", "@alice:evilexample.org", false),
            ("@bot-?:*", "@bot-1:b.org", true),
            ("@bot-?:*", "@bot-12:b.org", false),
            ("*", "", true),
            ("**a*", "bab", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?", "ä", true),
            ("", "", true),
            ("", "a", false),
        ];
        for (glob, text, expected) in cases {
            assert_eq!(fits(glob, text), expected, "{glob:?} {text:?}");
        }
    }

    #[test]
    fn a_hostile_text_is_matched_in_little_time() {
        let glob = "*a".repeat(100) + "*b";
        assert!(!fits(&glob, &"a".repeat(5_000)));
    }

    #[test]
    fn a_user_glob_that_can_match_nobody_is_refused() {
        for text in ["", "example.org", "alice:example.org", "@alice", "@alice:", "@a b:c", ":x"] {
            assert_eq!(text.parse::<UserGlob>(), Err(GlobError::NoUser), "{text:?}");
        }
        for text in ["*", "*:example.org", "@alice:example.org", "?a:b", "@*"] {
            assert!(text.parse::<UserGlob>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_server_glob_that_can_match_no_server_is_refused() {
        for text in ["", "*:@example.org", "https://example.org", "a b", "example,org", "bücher.de"]
        {
            assert_eq!(text.parse::<ServerGlob>(), Err(GlobError::NoServer), "{text:?}");
        }
        for text in ["*", "*.example.org", "example.org:8448", "[::1]:8448", "matrix?.example.org"]
        {
            assert!(text.parse::<ServerGlob>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn an_alias_glob_that_can_match_no_alias_is_refused() {
        for text in ["", "team:example.org", "#team", "#team:", "#a b:c", "!room:example.org"] {
            assert_eq!(text.parse::<AliasGlob>(), Err(GlobError::NoAlias), "{text:?}");
        }
        for text in ["*", "#*", "#team-?:example.org", "*:example.org"] {
            assert!(text.parse::<AliasGlob>().is_ok(), "{text:?}");
        }
    }

    #[test]
    fn a_type_glob_needs_text_without_spaces() {
        assert!("m.rtc.*".parse::<TypeGlob>().unwrap().matches("m.rtc.member"));
        assert_eq!("".parse::<TypeGlob>(), Err(GlobError::NoType));
        assert_eq!("m. call".parse::<TypeGlob>(), Err(GlobError::NoType));
    }
}
