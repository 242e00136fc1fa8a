//! Which state is never sealed, and which state means something else when somebody else sends it.

use std::collections::BTreeSet;

use super::{glob::Glob, tuple::StateTuple};

/// The types that the room's own rules are made of: MSC4362's list of what is never encrypted, and
/// `m.room.encrypted` itself, which cannot be packed into itself.
///
/// Servers cannot see them when they are sealed, so a sealed one is never honoured.
pub const CRITICAL: [&str; 9] = [
    "m.room.create",
    "m.room.member",
    "m.room.join_rules",
    "m.room.power_levels",
    "m.room.third_party_invite",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
    "m.room.encrypted",
];

/// Types that MSC4362 would encrypt and servers need to read all the same: exempt by default.
pub const EXEMPT_BY_DEFAULT: [&str; 5] = [
    "m.room.server_acl",
    "m.room.tombstone",
    "m.room.canonical_alias",
    "m.space.child",
    "m.space.parent",
];

/// Types that homeservers act upon and that may be sealed beside: their copies in plain are never emptied.
const READ_BY_SERVERS: [&str; 3] =
    ["m.room.retention", "m.room.policy", "org.matrix.msc4284.policy"];

/// Whether homeservers act upon a type's copy in plain, though it is not exempt.
pub fn is_read_by_servers(event_type: &str) -> bool {
    READ_BY_SERVERS.contains(&event_type)
}

/// Globs of types whose meaning hangs on their sender, by default: calls (a participant is whoever
/// sent the event) and live location (MSC3401, MSC4143, MSC3672).
pub const SENDER_BOUND_BY_DEFAULT: [&str; 7] = [
    "m.call.*",
    "m.call",
    "org.matrix.msc3401.call*",
    "m.rtc.*",
    "org.matrix.msc4143.rtc.*",
    "m.beacon_info*",
    "org.matrix.msc3672.beacon_info*",
];

/// The types that the keeper never seals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExemptTypes {
    configured: BTreeSet<String>,
}

impl ExemptTypes {
    /// [`CRITICAL`] and, beside it, what the configuration names (whole types, no globs).
    pub fn new(configured: impl IntoIterator<Item = String>) -> Self {
        Self { configured: configured.into_iter().collect() }
    }

    /// Whether the keeper leaves this type in plain.
    pub fn contains(&self, event_type: &str) -> bool {
        self.is_critical(event_type) || self.configured.contains(event_type)
    }

    /// Whether a sealed event of this type must never be honoured by anybody ([`CRITICAL`]).
    pub fn is_critical(&self, event_type: &str) -> bool {
        CRITICAL.contains(&event_type)
    }
}

impl Default for ExemptTypes {
    fn default() -> Self {
        Self::new(EXEMPT_BY_DEFAULT.map(String::from))
    }
}

/// Tells state that would change its meaning if the keeper sent it in its sender's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderBound {
    types: Vec<Glob>,
}

impl SenderBound {
    /// Beside state keys that hold a user id, which always bind: types that match one of these
    /// globs.
    pub fn new<P: Into<String>>(type_globs: impl IntoIterator<Item = P>) -> Self {
        Self { types: type_globs.into_iter().map(Glob::new).collect() }
    }

    /// Whether this tuple's meaning hangs on who sent it, so that it is never resealed.
    pub fn binds(&self, tuple: &StateTuple) -> bool {
        holds_user_id(&tuple.state_key) || self.binds_type(&tuple.event_type)
    }

    /// Whether the type alone binds: no key repairs what another sender would break.
    pub fn binds_type(&self, event_type: &str) -> bool {
        self.types.iter().any(|glob| glob.matches(event_type))
    }
}

impl Default for SenderBound {
    fn default() -> Self {
        Self::new(SENDER_BOUND_BY_DEFAULT)
    }
}

/// Whether a state key names a user: at its start (`@…`, or `_@…` as call memberships have it), or
/// anywhere as a full `@localpart:server`.
///
/// Deliberately wide: to leave an event alone that could have been resealed costs little.
fn holds_user_id(state_key: &str) -> bool {
    if state_key.starts_with('@') || state_key.starts_with("_@") {
        return true;
    }
    let Some((_, from_sigil)) = state_key.split_once('@') else { return false };
    from_sigil.split_once(':').is_some_and(|(_, server)| !server.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_configuration_unseals_the_rooms_own_rules() {
        let exempt = ExemptTypes::new([]);
        for event_type in CRITICAL {
            assert!(exempt.contains(event_type) && exempt.is_critical(event_type));
        }
        assert!(!exempt.contains("m.room.server_acl"));
        assert!(!exempt.contains("m.room.name"));
    }

    #[test]
    fn what_servers_must_read_is_exempt_by_default_but_not_critical() {
        let exempt = ExemptTypes::default();
        for event_type in EXEMPT_BY_DEFAULT {
            assert!(exempt.contains(event_type) && !exempt.is_critical(event_type));
        }
    }

    #[test]
    fn a_state_key_that_names_a_user_binds_to_the_sender() {
        let bound = SenderBound::new::<String>([]);
        for key in ["@a:b", "@a", "_@a:b_DEVICE", "_@", "widget_@a:b_1", "x@y@a:b", "@"] {
            assert!(bound.binds(&StateTuple::new("com.example", key)), "{key:?}");
        }
        for key in ["", "!room:example.org", "a@b", "a:b@c", "a@b:", "_x"] {
            assert!(!bound.binds(&StateTuple::new("com.example", key)), "{key:?}");
        }
    }

    #[test]
    fn calls_and_live_locations_bind_whatever_their_state_key() {
        let bound = SenderBound::default();
        for event_type in [
            "m.call",
            "m.call.member",
            "org.matrix.msc3401.call",
            "org.matrix.msc3401.call.member",
            "m.rtc.member",
            "org.matrix.msc4143.rtc.member",
            "m.beacon_info",
            "org.matrix.msc3672.beacon_info",
            "org.matrix.msc3672.beacon_info.alice",
        ] {
            assert!(bound.binds(&StateTuple::new(event_type, "")), "{event_type}");
        }
        assert!(!bound.binds(&StateTuple::new("m.room.name", "")));
        assert!(!bound.binds(&StateTuple::new("im.vector.modular.widgets", "abc")));
    }

    proptest! {
        #[test]
        fn a_full_user_id_anywhere_in_a_state_key_binds(
            before in "[a-z_:!]{0,8}",
            user in "@[a-z]{0,8}:[a-z.]{1,8}",
            after in "[a-z_:]{0,8}",
        ) {
            let tuple = StateTuple::new("com.example", format!("{before}{user}{after}"));
            prop_assert!(SenderBound::new::<String>([]).binds(&tuple));
        }
    }
}
