//! What `m.room.member` says of a user.

use std::fmt;

use serde_json::Value;

use super::JsonMap;

/// The `membership` of an `m.room.member` event (spec: "m.room.member").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Membership {
    /// In the room.
    Join,
    /// Asked in, not yet in.
    Invite,
    /// Asks to be let in.
    Knock,
    /// Not in the room: left, kicked, or an invite turned down.
    Leave,
    /// Kept out.
    Ban,
}

impl Membership {
    /// Every membership there is, for tables and tests.
    pub const ALL: [Self; 5] = [Self::Join, Self::Invite, Self::Knock, Self::Leave, Self::Ban];

    /// Reads the content of an `m.room.member` event. `None` when it says nothing known, which
    /// gives nobody anything.
    pub fn from_content(content: &JsonMap) -> Option<Self> {
        Self::from_name(content.get("membership").and_then(Value::as_str)?)
    }

    /// Reads the spec's word for it, in lower case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|membership| membership.as_str() == name)
    }

    /// The spec's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Leave => "leave",
            Self::Ban => "ban",
        }
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_membership_is_read_as_it_is_written() {
        for membership in Membership::ALL {
            let content = json!({ "membership": membership.as_str() });
            assert_eq!(Membership::from_content(content.as_object().unwrap()), Some(membership));
        }
    }

    #[test]
    fn an_unknown_membership_is_none() {
        for content in [json!({}), json!({"membership": "JOIN"}), json!({"membership": 1})] {
            assert_eq!(Membership::from_content(content.as_object().unwrap()), None);
        }
    }
}
