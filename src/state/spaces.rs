//! What spaces and rooms say of each other, and what a room says that its address is.

use ruma::{OwnedServerName, ServerName};
use serde_json::Value;

use super::{JsonMap, MAX_ID_BYTES};

/// Whether the content of `m.space.child` or `m.space.parent` says that room and space belong
/// together: without servers in `via` it says the opposite (spec: "m.space.child").
pub fn is_link(content: &JsonMap) -> bool {
    let via = content.get("via").and_then(Value::as_array);
    via.is_some_and(|via| via.iter().any(Value::is_string))
}

/// How many servers of a `via` are asked.
const MOST_VIA: usize = 5;

/// The servers through which the room of an `m.space.child` can be joined, as its content says: the first few.
pub fn via(content: &JsonMap) -> Vec<OwnedServerName> {
    let named = content.get("via").and_then(Value::as_array).into_iter().flatten();
    let servers = named.filter_map(Value::as_str).filter(|name| name.len() <= MAX_ID_BYTES);
    servers.filter_map(|name| ServerName::parse(name).ok()).take(MOST_VIA).collect()
}

/// Whether the content of `m.space.child` suggests joining the room (spec: "m.space.child").
pub fn is_suggested(content: &JsonMap) -> bool {
    content.get("suggested").and_then(Value::as_bool).unwrap_or_default()
}

/// Whether the content of `m.room.create` makes a space of its room (spec: "m.space").
pub fn is_space(content: &JsonMap) -> bool {
    content.get("type").and_then(Value::as_str) == Some("m.space")
}

/// The room's main address, as the content of `m.room.canonical_alias` says (spec:
/// "m.room.canonical_alias"). Other addresses of the room do not count.
pub fn canonical_alias(content: &JsonMap) -> Option<&str> {
    let alias = content.get("alias").and_then(Value::as_str)?;
    (alias.starts_with('#') && alias.len() <= MAX_ID_BYTES).then_some(alias)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(content: Value) -> JsonMap {
        match content {
            Value::Object(content) => content,
            _ => JsonMap::new(),
        }
    }

    #[test]
    fn without_a_server_to_join_through_nothing_belongs_together() {
        assert!(is_link(&map(json!({ "via": ["localhost"] }))));
        for content in
            [json!({}), json!({ "via": [] }), json!({ "via": "b" }), json!({ "via": [5] })]
        {
            assert!(!is_link(&map(content.clone())), "{content}");
        }
    }

    #[test]
    fn a_room_is_joined_through_a_few_servers_and_only_through_servers() {
        let named: Vec<String> = (0..100).map(|n| format!("s{n}.example")).collect();
        assert_eq!(via(&map(json!({ "via": named }))).len(), MOST_VIA);
        let content = json!({ "via": [5, "no server", "b:8448", "x".repeat(300)] });
        assert_eq!(via(&map(content)), ["b:8448"]);
        assert!(via(&map(json!({ "via": "b" }))).is_empty());
    }

    #[test]
    fn a_space_is_a_room_of_that_type() {
        assert!(is_space(&map(json!({ "type": "m.space" }))));
        for content in [json!({}), json!({ "type": null }), json!({ "type": "m.Space" })] {
            assert!(!is_space(&map(content.clone())), "{content}");
        }
    }

    #[test]
    fn an_address_is_one_of_a_room_and_not_too_long() {
        assert_eq!(canonical_alias(&map(json!({ "alias": "#a:b" }))), Some("#a:b"));
        let long = format!("#{}:b", "a".repeat(300));
        for content in [
            json!({}),
            json!({ "alias": null }),
            json!({ "alias": "a:b" }),
            json!({ "alias": long }),
            json!({ "alt_aliases": ["#a:b"] }),
        ] {
            assert_eq!(canonical_alias(&map(content.clone())), None, "{content}");
        }
    }
}
