//! The rooms that tests make.

use serde_json::{Value, json};

use super::keeper::KEEPER;

/// Who may join without being asked.
#[derive(Debug, Clone, Default)]
pub enum JoinRule {
    #[default]
    Invite,
    Public,
    /// Members of this space.
    Restricted(String),
}

/// A room with encryption, to be made in one request.
#[derive(Debug, Clone)]
pub struct RoomSpec {
    pub join_rule: JoinRule,
    pub history_visibility: &'static str,
    /// Whether state is encrypted as well as messages.
    pub encrypted_state: bool,
    pub power: Vec<(String, i64)>,
    pub invite: Vec<String>,
}

impl Default for RoomSpec {
    fn default() -> Self {
        Self {
            join_rule: JoinRule::Invite,
            history_visibility: "shared",
            encrypted_state: true,
            power: Vec::new(),
            invite: Vec::new(),
        }
    }
}

impl RoomSpec {
    pub fn public() -> Self {
        Self { join_rule: JoinRule::Public, ..Self::default() }
    }

    /// The same with the keeper invited, and elevated from the beginning.
    pub fn with_keeper(mut self) -> Self {
        self.power.push((KEEPER.to_owned(), 100));
        self.invite.push(KEEPER.to_owned());
        self
    }

    /// The body of `createRoom`.
    pub fn body(&self) -> Value {
        let join_rules = match &self.join_rule {
            JoinRule::Invite => json!({ "join_rule": "invite" }),
            JoinRule::Public => json!({ "join_rule": "public" }),
            JoinRule::Restricted(space) => json!({
                "join_rule": "restricted",
                "allow": [{ "type": "m.room_membership", "room_id": space }],
            }),
        };
        let mut encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        if self.encrypted_state {
            encryption["encrypt_state_events"] = json!(true);
            encryption["io.element.msc4362.encrypt_state_events"] = json!(true);
        }
        let users: serde_json::Map<_, _> =
            self.power.iter().map(|(user, level)| (user.clone(), json!(level))).collect();
        let visibility = json!({ "history_visibility": self.history_visibility });
        json!({
            "preset": "private_chat",
            "invite": self.invite,
            "power_level_content_override": { "users": users },
            "initial_state": [
                { "type": "m.room.join_rules", "state_key": "", "content": join_rules },
                { "type": "m.room.history_visibility", "state_key": "", "content": visibility },
                { "type": "m.room.encryption", "state_key": "", "content": encryption },
            ],
        })
    }
}

/// The body of `createRoom` for a space that anybody may join.
pub fn public_space() -> Value {
    json!({
        "preset": "public_chat",
        "name": "a space",
        "creation_content": { "type": "m.space" },
    })
}
