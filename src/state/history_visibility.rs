//! What `m.room.history_visibility` says: who may read what was sent before he came.

use serde_json::Value;

use super::JsonMap;

/// The `history_visibility` of a room (spec: "m.room.history_visibility"), from the widest to the narrowest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HistoryVisibility {
    /// Everybody, members or not.
    WorldReadable,
    /// Members, back to the beginning. What holds where nothing is said.
    #[default]
    Shared,
    /// Members, back to their invite.
    Invited,
    /// Members, back to their join.
    Joined,
}

impl HistoryVisibility {
    /// Every one there is, for tables and tests.
    pub const ALL: [Self; 4] = [Self::WorldReadable, Self::Shared, Self::Invited, Self::Joined];

    /// Reads the content of an `m.room.history_visibility` event. What says nothing known says what the spec has for
    /// a room without the event.
    pub fn from_content(content: &JsonMap) -> Self {
        let name = content.get("history_visibility").and_then(Value::as_str);
        name.and_then(Self::from_name).unwrap_or_default()
    }

    /// Reads the spec's word for it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|visibility| visibility.as_str() == name)
    }

    /// The spec's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WorldReadable => "world_readable",
            Self::Shared => "shared",
            Self::Invited => "invited",
            Self::Joined => "joined",
        }
    }

    /// Whether fewer people may read under it than under `before`.
    pub fn is_narrower_than(self, before: Self) -> bool {
        self > before
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_visibility_is_read_as_it_is_written_and_all_else_is_shared() {
        for visibility in HistoryVisibility::ALL {
            let content = json!({ "history_visibility": visibility.as_str() });
            assert_eq!(HistoryVisibility::from_content(content.as_object().unwrap()), visibility);
        }
        for content in
            [json!({}), json!({"history_visibility": "JOINED"}), json!({"history_visibility": 1})]
        {
            let content = content.as_object().unwrap();
            assert_eq!(HistoryVisibility::from_content(content), HistoryVisibility::Shared);
        }
    }

    #[test]
    fn each_is_narrower_than_those_before_it_and_no_other() {
        let all = HistoryVisibility::ALL;
        for (place, one) in all.iter().enumerate() {
            for (other_place, other) in all.iter().enumerate() {
                assert_eq!(one.is_narrower_than(*other), place > other_place);
            }
        }
    }
}
