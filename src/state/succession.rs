//! What a room's successor takes over from it, and by what one tells that it is one.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Value, json};

use super::{
    JsonMap,
    encryption::{ENCRYPT_STATE_EVENTS, ENCRYPT_STATE_EVENTS_UNSTABLE, MEGOLM_V1},
    power::{creators_are_privileged, has_additional_creators},
};

/// From this level on somebody governs a room: what the homeservers give who creates one.
pub const ADMIN: i64 = 100;
/// What a tombstone needs where creators have infinite power: more than any administrator has.
const TOMBSTONE: i64 = 150;
/// The largest level that an event may name (spec: "Canonical JSON"); the smallest is as far below 0.
const HIGHEST: i64 = (1 << 53) - 1;
/// What gives levels by name.
const BY_NAME: [&str; 3] = ["users", "events", "notifications"];
/// What holds where the old room's event says nothing (spec: "m.room.power_levels"). A homeserver that makes a room
/// would fill in values of its own.
const DEFAULTS: [(&str, i64); 7] = [
    ("users_default", 0),
    ("events_default", 0),
    ("state_default", 50),
    ("ban", 50),
    ("kick", 50),
    ("redact", 50),
    ("invite", 0),
];

/// Who governs a room, and by which event.
#[derive(Clone, Debug)]
pub struct Government<'a> {
    /// The content of `m.room.power_levels`.
    pub power_levels: &'a JsonMap,
    /// Who created the room.
    pub creators: &'a [OwnedUserId],
    /// Its room version.
    pub version: &'a str,
    /// Who is joined or invited: nobody else is made a creator.
    pub present: &'a BTreeSet<OwnedUserId>,
    /// Who is banned: they have no power any more.
    pub banned: &'a BTreeSet<OwnedUserId>,
}

/// What becomes of it in a successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inheritance {
    /// The content of `m.room.power_levels` there.
    pub power_levels: JsonMap,
    /// Who creates it beside the keeper: the old creators and administrators, where the version has such.
    pub additional_creators: Vec<OwnedUserId>,
    /// Who loses power that they had by name: they are banned, or created the old room and have left it.
    pub disempowered: Vec<OwnedUserId>,
}

impl Government<'_> {
    /// What becomes of it in a room of `version` that `keeper` creates.
    pub fn inherit(&self, keeper: &UserId, version: &str) -> Inheritance {
        let mut levels = self.power_levels.clone();
        normalise(&mut levels);
        for (name, level) in DEFAULTS {
            levels.entry(name).or_insert_with(|| json!(level));
        }
        let mut users = match levels.remove("users") {
            Some(Value::Object(users)) => users,
            _ => JsonMap::new(),
        };
        let mut disempowered = BTreeSet::new();
        for banned in self.banned {
            if users.remove(banned.as_str()).is_some_and(|level| number(&level) > 0) {
                disempowered.insert(banned.clone());
            }
        }
        let mut governors: BTreeSet<OwnedUserId> = users
            .iter()
            .filter(|(_, level)| number(level) >= ADMIN)
            .filter_map(|(user, _)| UserId::parse(user.as_str()).ok())
            .collect();
        governors.retain(|governor| self.present.contains(governor));
        if creators_are_privileged(self.version) || !levels_stand(self.power_levels) {
            for creator in self.creators {
                let place = match self.present.contains(creator) {
                    true => &mut governors,
                    false => &mut disempowered,
                };
                place.insert(creator.clone());
            }
        }
        governors.remove(keeper);
        disempowered.remove(keeper);
        let highest = self.highest(&users);
        let mut additional_creators = Vec::new();
        if has_additional_creators(version) {
            users.remove(keeper.as_str());
            users.retain(|user, _| governors.iter().all(|governor| governor.as_str() != user));
            additional_creators = governors.into_iter().collect();
        } else {
            users.insert(keeper.to_string(), json!(highest));
            for governor in governors {
                users.entry(governor.to_string()).or_insert_with(|| json!(highest));
            }
        }
        levels.insert("users".to_owned(), Value::Object(users));
        if creators_are_privileged(version) {
            let events = levels.entry("events").or_insert_with(|| json!({}));
            if let Value::Object(events) = events {
                events.insert("m.room.tombstone".to_owned(), json!(TOMBSTONE));
            }
        }
        let disempowered = disempowered.into_iter().collect();
        Inheritance { power_levels: levels, additional_creators, disempowered }
    }

    /// The highest level that anything needs or anybody has: whoever makes the room needs it.
    fn highest(&self, users: &JsonMap) -> i64 {
        let events = self.power_levels.get("events").and_then(Value::as_object);
        let named = users.values().chain(events.into_iter().flat_map(JsonMap::values));
        let plain = self.power_levels.values();
        named.chain(plain).map(number).max().unwrap_or(ADMIN).max(ADMIN)
    }
}

/// Before room version 10 a level may be written as a string or a float; every later one, and a homeserver that is to
/// make a room, takes whole numbers alone. What is no level goes.
fn normalise(levels: &mut JsonMap) {
    let whole = |_: &String, level: &mut Value| match read(level) {
        Some(number) => {
            *level = json!(number);
            true
        }
        None => false,
    };
    for (name, _) in DEFAULTS {
        if let Some(level) = levels.get_mut(name)
            && !whole(&String::new(), level)
        {
            levels.remove(name);
        }
    }
    for name in BY_NAME {
        match levels.get_mut(name) {
            Some(Value::Object(named)) => named.retain(whole),
            Some(_) => drop(levels.remove(name)),
            None => {}
        }
    }
}

fn number(level: &Value) -> i64 {
    read(level).unwrap_or(0)
}

/// A level, however it is written.
fn read(level: &Value) -> Option<i64> {
    #[allow(clippy::cast_possible_truncation)] // `as` saturates: beyond i64 more is no more
    let float = || level.as_f64().map(|float| float as i64);
    let number = level.as_i64().or_else(float).or_else(|| level.as_str()?.trim().parse().ok())?;
    Some(number.clamp(-HIGHEST, HIGHEST))
}

/// Whether an event says who has which power; without one the creator has all of it.
fn levels_stand(power_levels: &JsonMap) -> bool {
    !power_levels.is_empty()
}

/// The power levels of a new room in which these have all power, beside the keeper who creates it, and who they are as
/// additional creators.
pub fn governed_by(keeper: &UserId, admins: &[OwnedUserId], version: &str) -> Inheritance {
    let admins: BTreeSet<&OwnedUserId> = admins.iter().filter(|user| *user != keeper).collect();
    if has_additional_creators(version) {
        let power_levels = JsonMap::from_iter([("users".to_owned(), json!({}))]);
        let additional_creators = admins.into_iter().cloned().collect();
        return Inheritance { power_levels, additional_creators, disempowered: Vec::new() };
    }
    let everybody = admins.into_iter().map(|user| user.as_str()).chain([keeper.as_str()]);
    let users: JsonMap = everybody.map(|user| (user.to_owned(), json!(ADMIN))).collect();
    let power_levels = JsonMap::from_iter([("users".to_owned(), Value::Object(users))]);
    Inheritance { power_levels, additional_creators: Vec::new(), disempowered: Vec::new() }
}

/// The content of a first `m.room.encryption` with which clients encrypt state: the flag in both spellings. Of `before`,
/// an older one, what it says of rotation is kept.
pub fn encryption_from_birth(before: Option<&JsonMap>) -> JsonMap {
    let mut content = JsonMap::new();
    for name in ["rotation_period_ms", "rotation_period_msgs"] {
        if let Some(value) = before.and_then(|before| before.get(name)).filter(|it| it.is_u64()) {
            content.insert(name.to_owned(), value.clone());
        }
    }
    content.insert("algorithm".to_owned(), MEGOLM_V1.into());
    content.insert(ENCRYPT_STATE_EVENTS.to_owned(), true.into());
    content.insert(ENCRYPT_STATE_EVENTS_UNSTABLE.to_owned(), true.into());
    content
}

/// The room that an `m.room.tombstone` leads to, as its content says.
pub fn successor(content: &JsonMap) -> Option<OwnedRoomId> {
    RoomId::parse(content.get("replacement_room")?.as_str()?).ok()
}

/// The room that an `m.room.create` says is gone on with.
pub fn predecessor(content: &JsonMap) -> Option<OwnedRoomId> {
    RoomId::parse(content.get("predecessor")?.get("room_id")?.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{owned_user_id, user_id};

    use super::*;
    use crate::state::{PowerLevel, PowerLevels, RoomEncryption, creators_of};

    fn map(value: Value) -> JsonMap {
        match value {
            Value::Object(map) => map,
            _ => JsonMap::new(),
        }
    }

    fn keeper() -> &'static UserId {
        user_id!("@keeper:localhost")
    }

    fn inherited(levels: Value, creator: &str, from: &str, to: &str) -> (Inheritance, PowerLevels) {
        let users = ["@alice:localhost", "@bob:localhost"];
        inherited_of(levels, creator, (from, to), &users, &[])
    }

    fn inherited_of(
        levels: Value,
        creator: &str,
        (from, to): (&str, &str),
        present: &[&str],
        banned: &[&str],
    ) -> (Inheritance, PowerLevels) {
        let (levels, creators) = (map(levels), [UserId::parse(creator).unwrap()]);
        let users = |users: &[&str]| users.iter().map(|id| UserId::parse(id).unwrap()).collect();
        let (present, banned) = (users(present), users(banned));
        let old = Government {
            power_levels: &levels,
            creators: &creators,
            version: from,
            present: &present,
            banned: &banned,
        };
        let new = old.inherit(keeper(), to);
        let create = map(json!({ "additional_creators": new.additional_creators }));
        let creators = creators_of(keeper(), &create, to);
        let power = PowerLevels::from_content(Some(&new.power_levels), &creators, to);
        (new, power)
    }

    #[test]
    fn creators_and_administrators_of_an_old_room_create_the_new_one_where_that_is_known() {
        let levels = json!({
            "users": { "@alice:localhost": 100, "@bob:localhost": 50, "@keeper:localhost": 100 },
            "events": { "m.room.name": 60 },
        });
        let (new, power) = inherited(levels, "@alice:localhost", "11", "12");
        assert_eq!(new.additional_creators, [owned_user_id!("@alice:localhost")]);
        // The homeserver refuses creators among the users.
        assert_eq!(new.power_levels["users"], json!({ "@bob:localhost": 50 }));
        assert_eq!(power.user_level(user_id!("@alice:localhost")), PowerLevel::Infinite);
        assert_eq!(power.needed_for_state("m.room.name"), PowerLevel::Level(60));
        assert_eq!(power.needed_for_state("m.room.tombstone"), PowerLevel::Level(150));
        assert_eq!(new.power_levels["invite"], json!(0), "not what the homeserver would fill in");
    }

    #[test]
    fn in_an_old_version_creators_of_infinite_power_get_as_much_as_there_is() {
        let levels =
            json!({ "users": { "@bob:localhost": 50 }, "events": { "m.room.tombstone": 150 } });
        let (new, power) = inherited(levels, "@alice:localhost", "12", "11");
        assert!(new.additional_creators.is_empty());
        assert_eq!(power.user_level(user_id!("@alice:localhost")), PowerLevel::Level(150));
        assert_eq!(power.user_level(keeper()), PowerLevel::Level(150));
        assert_eq!(power.user_level(user_id!("@bob:localhost")), PowerLevel::Level(50));
    }

    #[test]
    fn whoever_created_a_room_and_was_demoted_since_gets_no_power_back() {
        let levels = json!({ "users": { "@alice:localhost": 0, "@bob:localhost": 100 } });
        for to in ["11", "12"] {
            let (_, power) = inherited(levels.clone(), "@alice:localhost", "11", to);
            assert_eq!(
                power.user_level(user_id!("@alice:localhost")),
                PowerLevel::Level(0),
                "{to}"
            );
        }
    }

    #[test]
    fn nobody_who_is_banned_or_has_left_is_made_a_creator() {
        let levels = json!({ "users": {
            "@alice:localhost": 100, "@bob:localhost": 100, "@mallory:localhost": 100,
        } });
        for from in ["11", "12"] {
            let (new, power) = inherited_of(
                levels.clone(),
                "@carol:localhost",
                (from, "12"),
                &["@alice:localhost"],
                &["@mallory:localhost"],
            );
            assert_eq!(new.additional_creators, [owned_user_id!("@alice:localhost")]);
            // Whoever has left has, should he come back, what he had by name.
            assert_eq!(power.user_level(user_id!("@bob:localhost")), PowerLevel::Level(100));
            assert_eq!(power.user_level(user_id!("@mallory:localhost")), PowerLevel::Level(0));
            assert_eq!(power.user_level(user_id!("@carol:localhost")), PowerLevel::Level(0));
            let mallory = owned_user_id!("@mallory:localhost");
            let carol = owned_user_id!("@carol:localhost");
            // Before version 12 a creator has what the levels say: she lost nothing by leaving.
            let lost = if from == "12" { vec![carol, mallory] } else { vec![mallory] };
            assert_eq!(new.disempowered, lost, "{from}");
        }
    }

    #[test]
    fn levels_of_an_old_version_are_whole_numbers_in_the_new_one() {
        let levels = json!({
            "users": { "@alice:localhost": "100", "@bob:localhost": " 50 ", "@eve:localhost": {} },
            "events": { "m.room.name": 60.9, "m.room.topic": "many" },
            "notifications": { "room": "20" },
            "state_default": "70", "ban": [], "events_default": 1e300,
            "org.example.kept": { "as": "it is" },
        });
        let (new, power) = inherited(levels, "@alice:localhost", "9", "11");
        let all = &new.power_levels;
        let level = |user: &str| all["users"][user].clone();
        assert_eq!((level("@alice:localhost"), level("@bob:localhost")), (json!(100), json!(50)));
        assert!(all["users"].get("@eve:localhost").is_none());
        assert_eq!(all["events"], json!({ "m.room.name": 60 }));
        assert_eq!(all["notifications"], json!({ "room": 20 }));
        assert_eq!((&all["state_default"], &all["ban"]), (&json!(70), &json!(50)));
        assert_eq!(all["events_default"], json!(HIGHEST));
        assert_eq!(all["org.example.kept"], json!({ "as": "it is" }));
        assert_eq!(power.needed_for_state("m.room.topic"), PowerLevel::Level(70));
    }

    #[test]
    fn a_new_room_is_its_administrators_and_the_keepers() {
        let alice = [owned_user_id!("@alice:localhost")];
        let new = governed_by(keeper(), &alice, "12");
        assert_eq!(new.additional_creators, alice);
        assert_eq!(new.power_levels["users"], json!({}));
        let new = governed_by(keeper(), &alice, "11");
        let users = json!({ "@alice:localhost": 100, "@keeper:localhost": 100 });
        assert_eq!((new.additional_creators.len(), &new.power_levels["users"]), (0, &users));
    }

    #[test]
    fn encryption_from_birth_is_read_as_such_and_keeps_what_was_said_of_rotation() {
        let before = map(json!({
            "algorithm": "m.megolm.v9", "rotation_period_msgs": 7, "rotation_period_ms": "soon",
            "encrypt_state_events": false,
        }));
        let content = encryption_from_birth(Some(&before));
        assert!(RoomEncryption::from_content(&content).unwrap().is_state_encrypted());
        assert_eq!(content["rotation_period_msgs"], json!(7));
        assert!(!content.contains_key("rotation_period_ms"));
    }

    #[test]
    fn rooms_name_each_other_or_nobody() {
        let new = map(json!({ "replacement_room": "!new:localhost" }));
        assert_eq!(successor(&new).unwrap(), "!new:localhost");
        let old = map(json!({ "predecessor": { "room_id": "!old:localhost" } }));
        assert_eq!(predecessor(&old).unwrap(), "!old:localhost");
        for nothing in
            [json!({}), json!({ "replacement_room": 5, "predecessor": "!old:localhost" })]
        {
            assert_eq!(
                (successor(&map(nothing.clone())), predecessor(&map(nothing))),
                (None, None)
            );
        }
    }

    proptest! {
        #[test]
        fn nobody_has_less_power_in_the_successor_and_only_governors_have_more(
            level in -10_i64..300,
            from in prop::sample::select(vec!["9", "11", "12"]),
            to in prop::sample::select(vec!["9", "11", "12"]),
        ) {
            let levels = json!({ "users": { "@bob:localhost": level, "@keeper:localhost": 100 } });
            let (_, power) = inherited(levels, "@alice:localhost", from, to);
            let bob = power.user_level(user_id!("@bob:localhost"));
            prop_assert!(bob >= PowerLevel::Level(level));
            prop_assert!(level >= ADMIN || bob == PowerLevel::Level(level));
            prop_assert!(power.user_level(keeper()) >= bob);
        }
    }
}
