//! Who may do what in a room: power levels, with the creators of room version 12.

use std::{collections::BTreeMap, fmt};

use ruma::{OwnedUserId, RoomVersionId, UserId, room_version_rules::AuthorizationRules};
use serde_json::Value;

use super::JsonMap;

/// How much power a user has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PowerLevel {
    /// A level that `m.room.power_levels` gives.
    Level(i64),
    /// A creator of a room of version 12 or later: more than any level (MSC4289).
    Infinite,
}

impl fmt::Display for PowerLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level(level) => write!(f, "{level}"),
            Self::Infinite => f.write_str("infinite"),
        }
    }
}

/// The power levels that stand in a room, with the spec's defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerLevels {
    /// Creators with infinite power; empty before room version 12.
    privileged_creators: Vec<OwnedUserId>,
    users: BTreeMap<String, i64>,
    users_default: i64,
    events: BTreeMap<String, i64>,
    events_default: i64,
    state_default: i64,
    redact: i64,
    invite: i64,
    /// Whether owned state may be somebody else's who outranks its owner (MSC3757).
    owned_state: bool,
}

impl PowerLevels {
    /// Reads the content of `m.room.power_levels`, or takes what holds without such an event: the
    /// creator has 100 (infinite from room version 12 on), everybody else 0.
    ///
    /// - `creators`: who created the room, as [`creators_of`] gives it.
    /// - `room_version`: as the create event has it. Strings are read as numbers before version
    ///   10 only. A version that we do not know is taken for the nearest known one.
    ///
    /// A value that is no level counts as not given: the homeserver would have refused it.
    ///
    /// `state_default` is 50 with and without the event (MSC1304; spec: "m.room.power_levels").
    pub fn from_content(
        content: Option<&JsonMap>,
        creators: &[OwnedUserId],
        room_version: &str,
    ) -> Self {
        let rules = rules(room_version);
        let privileged_creators =
            if rules.explicitly_privilege_room_creators { creators.to_vec() } else { Vec::new() };
        let reader = Reader { lenient: !rules.integer_power_levels };
        let empty = JsonMap::new();
        let users = match content {
            Some(content) => reader.levels(content, "users"),
            None => creators.iter().map(|creator| (creator.to_string(), 100)).collect(),
        };
        let content = content.unwrap_or(&empty);
        Self {
            privileged_creators,
            users,
            users_default: reader.level(content, "users_default", 0),
            events: reader.levels(content, "events"),
            events_default: reader.level(content, "events_default", 0),
            state_default: reader.level(content, "state_default", 50),
            redact: reader.level(content, "redact", 50),
            invite: reader.level(content, "invite", 0),
            owned_state: room_version.starts_with(OWNED_STATE_PREFIX),
        }
    }

    /// The power of a user, member or not.
    pub fn user_level(&self, user: &UserId) -> PowerLevel {
        if self.privileged_creators.iter().any(|creator| creator == user) {
            return PowerLevel::Infinite;
        }
        PowerLevel::Level(self.users.get(user.as_str()).copied().unwrap_or(self.users_default))
    }

    /// The level needed to send a state event of this type. For sealed state ask for the **true**
    /// type: the homeserver only looks at `m.room.encrypted`.
    pub fn needed_for_state(&self, event_type: &str) -> PowerLevel {
        PowerLevel::Level(self.events.get(event_type).copied().unwrap_or(self.state_default))
    }

    /// The level needed to send an event of this type that is no state.
    pub fn needed_for_message(&self, event_type: &str) -> PowerLevel {
        PowerLevel::Level(self.events.get(event_type).copied().unwrap_or(self.events_default))
    }

    /// Whether a user has the power to send state of this type.
    pub fn may_send_state(&self, user: &UserId, event_type: &str) -> bool {
        self.user_level(user) >= self.needed_for_state(event_type)
    }

    /// Whether a state key may be used by this sender: one that begins with a user id is that user's.
    ///
    /// The homeserver protects a state key that starts with `@`, but not the same key once it is
    /// packed, nor the `_@user:server_device` of call memberships (spec: "Authorization rules"). Who
    /// outranks the owner may use it too, in room versions that have MSC3757.
    pub fn may_own(&self, sender: &UserId, state_key: &str) -> bool {
        let underscored = state_key.strip_prefix('_').filter(|key| key.starts_with('@'));
        let Some(key) = underscored.or_else(|| state_key.starts_with('@').then_some(state_key))
        else {
            return true;
        };
        let suffixes = underscored.is_some() || self.owned_state;
        let behind = key.strip_prefix(sender.as_str());
        if behind.is_some_and(|behind| behind.is_empty() || (suffixes && behind.starts_with('_'))) {
            return true;
        }
        self.owned_state
            && underscored.is_none()
            && owner_of(key).is_some_and(|owner| self.user_level(sender) > self.user_level(owner))
    }

    /// Whether a user has the power to redact what somebody else sent.
    pub fn may_redact_other(&self, user: &UserId) -> bool {
        let level = self.user_level(user);
        level >= PowerLevel::Level(self.redact)
            && level >= self.needed_for_message("m.room.redaction")
    }

    /// Whether a user has the power to invite.
    pub fn may_invite(&self, user: &UserId) -> bool {
        self.user_level(user) >= PowerLevel::Level(self.invite)
    }

    /// Whether this user is elevated: may send encrypted state. A keeper that is not can only
    /// wait for it.
    pub fn elevated(&self, keeper: &UserId) -> bool {
        self.may_send_state(keeper, "m.room.encrypted")
    }
}

/// Who created a room.
///
/// - `sender` and `content`: of the `m.room.create` event.
/// - Before room version 11 the content names the creator; from 12 on it may name more of them
///   in `additional_creators` (MSC4289).
pub fn creators_of(sender: &UserId, content: &JsonMap, room_version: &str) -> Vec<OwnedUserId> {
    let rules = rules(room_version);
    let user = |value: &Value| value.as_str().and_then(|id| UserId::parse(id).ok());
    let mut creators = if rules.use_room_create_sender {
        vec![sender.to_owned()]
    } else {
        vec![content.get("creator").and_then(user).unwrap_or_else(|| sender.to_owned())]
    };
    if rules.additional_room_creators {
        let additional = content.get("additional_creators").and_then(Value::as_array);
        creators.extend(additional.into_iter().flatten().filter_map(user));
    }
    creators
}

/// Whether the creators of a room of this version have more power than any level.
pub fn creators_are_privileged(room_version: &str) -> bool {
    rules(room_version).explicitly_privilege_room_creators
}

/// Whether the create event of a room of this version may name more creators than its sender.
pub fn has_additional_creators(room_version: &str) -> bool {
    rules(room_version).additional_room_creators
}

/// The room version of an `m.room.create` event's content: `1` when it names none (spec:
/// "m.room.create").
pub fn room_version_of(create_content: &JsonMap) -> &str {
    create_content.get("room_version").and_then(Value::as_str).unwrap_or("1")
}

/// The user id at the start of an owned state key: a server's name has no underscore (MSC3757).
fn owner_of(key: &str) -> Option<&UserId> {
    let (localpart, rest) = key.split_once(':')?;
    let server = rest.split_once('_').map_or(rest, |(server, _)| server);
    let length = localpart.len().checked_add(1)?.checked_add(server.len())?;
    key.get(..length)?.try_into().ok()
}

/// Room versions that have owned state.
const OWNED_STATE_PREFIX: &str = "org.matrix.msc3757.";
/// Room versions that were given to MSC4289 before it became version 12.
const HYDRA_PREFIX: &str = "org.matrix.hydra.";

/// A number beyond those that we know is taken for the newest, any other name for version 11:
/// the newest without creators whom the power levels do not name.
fn rules(room_version: &str) -> AuthorizationRules {
    if let Some(rules) = RoomVersionId::try_from(room_version).ok().and_then(|id| id.rules()) {
        return rules.authorization;
    }
    let is_newer = room_version.parse::<u32>().is_ok_and(|version| version > 12);
    if is_newer || room_version.starts_with(HYDRA_PREFIX) {
        return AuthorizationRules::V12;
    }
    AuthorizationRules::V11
}

/// Reads levels as the room's version writes them.
#[derive(Clone, Copy)]
struct Reader {
    /// Before room version 10: strings and floats count as well.
    lenient: bool,
}

impl Reader {
    fn level(self, content: &JsonMap, field: &str, default: i64) -> i64 {
        content.get(field).and_then(|value| self.number(value)).unwrap_or(default)
    }

    fn levels(self, content: &JsonMap, field: &str) -> BTreeMap<String, i64> {
        let entries = content.get(field).and_then(Value::as_object);
        entries
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), self.number(value)?)))
            .collect()
    }

    fn number(self, value: &Value) -> Option<i64> {
        if let Some(number) = value.as_i64() {
            return Some(number);
        }
        if !self.lenient {
            return None;
        }
        #[allow(clippy::cast_possible_truncation)] // `as` saturates: beyond i64 more is no more
        let truncated = value.as_f64().map(|float| float as i64);
        truncated.or_else(|| value.as_str()?.trim().parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::user_id;
    use serde_json::json;

    use super::*;

    fn read(content: Value, creators: &[OwnedUserId], version: &str) -> PowerLevels {
        PowerLevels::from_content(content.as_object(), creators, version)
    }

    fn alice() -> OwnedUserId {
        user_id!("@alice:localhost").to_owned()
    }

    fn bob() -> OwnedUserId {
        user_id!("@bob:localhost").to_owned()
    }

    #[test]
    fn without_power_levels_only_the_creator_has_power() {
        let power = PowerLevels::from_content(None, &[alice()], "11");
        assert_eq!(power.user_level(&alice()), PowerLevel::Level(100));
        assert_eq!(power.user_level(&bob()), PowerLevel::Level(0));
        assert!(power.elevated(&alice()) && !power.elevated(&bob()));
        assert!(power.may_redact_other(&alice()) && !power.may_redact_other(&bob()));
        assert!(power.may_invite(&bob()));
    }

    #[test]
    fn a_creator_has_infinite_power_from_version_12_on_and_not_before() {
        let content = json!({"users": {}, "state_default": i64::MAX});
        for version in ["12", "13", "org.matrix.hydra.11"] {
            let power = read(content.clone(), &[alice(), bob()], version);
            assert_eq!(power.user_level(&bob()), PowerLevel::Infinite, "{version}");
            assert!(power.elevated(&alice()), "{version}");
        }
        for version in ["1", "9", "10", "11", "unheard.of"] {
            let power = read(content.clone(), &[alice(), bob()], version);
            assert_eq!(power.user_level(&alice()), PowerLevel::Level(0), "{version}");
            assert!(!power.elevated(&alice()), "{version}");
        }
    }

    #[test]
    fn the_true_type_decides_and_not_m_room_encrypted() {
        let power = read(
            json!({
                "users": {"@bob:localhost": 10},
                "events": {"m.room.encrypted": 0, "m.room.name": 50, "m.room.topic": 10},
                "state_default": 20,
            }),
            &[alice()],
            "11",
        );
        assert!(power.elevated(&bob()));
        assert!(!power.may_send_state(&bob(), "m.room.name"));
        assert!(power.may_send_state(&bob(), "m.room.topic"));
        assert!(!power.may_send_state(&bob(), "com.example"));
        assert_eq!(power.needed_for_state("com.example"), PowerLevel::Level(20));
    }

    #[test]
    fn redacting_others_needs_the_level_and_the_right_to_send_redactions() {
        let power = |content| read(content, &[], "11");
        assert!(power(json!({"users_default": 50})).may_redact_other(&bob()));
        assert!(!power(json!({"users_default": 49})).may_redact_other(&bob()));
        let content = json!({"users_default": 50, "events": {"m.room.redaction": 51}});
        assert!(!power(content).may_redact_other(&bob()));
    }

    #[test]
    fn inviting_needs_nothing_unless_the_room_says_so() {
        assert!(read(json!({}), &[], "11").may_invite(&bob()));
        assert!(!read(json!({"invite": 1}), &[], "11").may_invite(&bob()));
    }

    #[test]
    fn strings_are_levels_before_version_10_only() {
        let content = json!({"users": {"@bob:localhost": " 60 "}, "users_default": 1.9});
        let old = read(content.clone(), &[], "9");
        assert_eq!(old.user_level(&bob()), PowerLevel::Level(60));
        assert_eq!(old.user_level(&alice()), PowerLevel::Level(1));
        let new = read(content, &[], "10");
        assert_eq!(new.user_level(&bob()), PowerLevel::Level(0));
        assert_eq!(new.user_level(&alice()), PowerLevel::Level(0));
    }

    #[test]
    fn nonsense_gives_nobody_power() {
        let content = json!({
            "users": {"@bob:localhost": {"level": 100}, "@alice:localhost": true},
            "users_default": [100],
            "events": "all",
            "state_default": null,
        });
        for version in ["1", "12"] {
            let power = read(content.clone(), &[], version);
            assert!(!power.elevated(&alice()) && !power.elevated(&bob()), "{version}");
        }
    }

    #[test]
    fn the_create_event_names_the_creators_as_its_version_does() {
        let content = json!({
            "creator": "@bob:localhost",
            "additional_creators": ["@carol:localhost", 7, "nobody"],
        });
        let creators = |version| creators_of(&alice(), content.as_object().unwrap(), version);
        assert_eq!(creators("10"), [bob()]);
        assert_eq!(creators("11"), [alice()]);
        assert_eq!(creators("12"), [alice(), user_id!("@carol:localhost").to_owned()]);
        assert_eq!(creators_of(&alice(), &JsonMap::new(), "1"), [alice()]);
    }

    #[test]
    fn a_room_without_a_version_has_version_1() {
        let version = |content: Value| room_version_of(content.as_object().unwrap()).to_owned();
        assert_eq!(version(json!({})), "1");
        assert_eq!(version(json!({"room_version": "12"})), "12");
    }

    proptest! {
        #[test]
        fn infinite_is_more_than_any_level(level in any::<i64>()) {
            prop_assert!(PowerLevel::Infinite > PowerLevel::Level(level));
        }

        #[test]
        fn more_power_never_allows_less(
            low in -10_i64..110,
            more in 0_i64..110,
            needed in -10_i64..110,
            version in prop::sample::select(vec!["1", "9", "10", "11", "12"]),
        ) {
            let may = |level: i64| {
                let power = read(
                    json!({"users": {"@bob:localhost": level}, "state_default": needed}),
                    &[],
                    version,
                );
                (power.elevated(&bob()), power.may_redact_other(&bob()), power.may_invite(&bob()))
            };
            let (less, greater) = (may(low), may(low + more));
            prop_assert_eq!(less.0, low >= needed);
            prop_assert!(less.0 <= greater.0 && less.1 <= greater.1 && less.2 <= greater.2);
        }
    }
}
