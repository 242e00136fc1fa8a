//! Through which rooms one may join a room.

use ruma::{OwnedRoomId, RoomId};
use serde_json::Value;

use super::JsonMap;

/// How many rooms a join rule may name that the keeper looks at: somebody could name a million.
const MOST_ROOMS: usize = 64;

/// The rooms whose members may join, as the content of `m.room.join_rules` names them; empty where
/// the rule is another one (spec: "m.room.join_rules", `restricted` and `knock_restricted`).
pub fn rooms_let_in(content: &JsonMap) -> Vec<OwnedRoomId> {
    let rule = content.get("join_rule").and_then(Value::as_str);
    if !matches!(rule, Some("restricted" | "knock_restricted")) {
        return Vec::new();
    }
    let conditions = content.get("allow").and_then(Value::as_array).into_iter().flatten();
    conditions
        .filter(|condition| {
            condition.get("type").and_then(Value::as_str) == Some("m.room_membership")
        })
        .filter_map(|condition| RoomId::parse(condition.get("room_id")?.as_str()?).ok())
        .take(MOST_ROOMS)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn let_in(content: Value) -> Vec<String> {
        let Value::Object(content) = content else { panic!("no object") };
        rooms_let_in(&content).into_iter().map(|room| room.to_string()).collect()
    }

    #[test]
    fn a_restricted_room_lets_in_the_members_of_the_rooms_that_it_names() {
        let allow = json!([
            { "type": "m.room_membership", "room_id": "!space:localhost" },
            { "type": "m.room_membership", "room_id": "!other:localhost" },
        ]);
        for rule in ["restricted", "knock_restricted"] {
            let rooms = let_in(json!({ "join_rule": rule, "allow": allow }));
            assert_eq!(rooms, ["!space:localhost", "!other:localhost"]);
        }
        for rule in ["public", "invite", "knock", "private", "", "Restricted"] {
            assert!(let_in(json!({ "join_rule": rule, "allow": allow })).is_empty(), "{rule}");
        }
    }

    #[test]
    fn what_is_no_condition_lets_nobody_in() {
        for allow in [
            json!(null),
            json!("!space:localhost"),
            json!({ "type": "m.room_membership", "room_id": "!space:localhost" }),
            json!(["!space:localhost", 5, null, {}]),
            json!([{ "type": "org.example.magic", "room_id": "!space:localhost" }]),
            json!([{ "type": "m.room_membership", "room_id": "#alias:localhost" }]),
            json!([{ "type": "m.room_membership" }]),
        ] {
            let rooms = let_in(json!({ "join_rule": "restricted", "allow": allow }));
            assert!(rooms.is_empty(), "{allow}");
        }
    }

    #[test]
    fn no_more_rooms_are_looked_at_than_somebody_would_name_in_earnest() {
        let allow: Vec<Value> = (0..10_000)
            .map(|n| json!({ "type": "m.room_membership", "room_id": format!("!r{n}:localhost") }))
            .collect();
        let rooms = let_in(json!({ "join_rule": "restricted", "allow": allow }));
        assert_eq!(rooms.len(), MOST_ROOMS);
    }
}
