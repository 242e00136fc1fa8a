//! What `m.room.encryption` says of a room.

use serde_json::Value;

use super::JsonMap;

/// MSC4362's flag under its stable name.
pub const ENCRYPT_STATE_EVENTS: &str = "encrypt_state_events";
/// MSC4362's flag under the name that today's clients read.
pub const ENCRYPT_STATE_EVENTS_UNSTABLE: &str = "io.element.msc4362.encrypt_state_events";
/// The only group encryption algorithm there is (spec: "m.megolm.v1.aes-sha2").
pub const MEGOLM_V1: &str = "m.megolm.v1.aes-sha2";

/// The encryption of a room, as its `m.room.encryption` event gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomEncryption {
    /// The algorithm by name, which may be one that we do not know.
    pub algorithm: String,
    /// Whether the room asks its members to seal state (MSC4362, either spelling).
    pub encrypts_state: bool,
}

impl RoomEncryption {
    /// Reads the content of an `m.room.encryption` event. `None` when it names no algorithm: then
    /// the room is not encrypted, whatever else the event says.
    pub fn from_content(content: &JsonMap) -> Option<Self> {
        let algorithm = content.get("algorithm")?.as_str()?.to_owned();
        let flag = |name| content.get(name).and_then(Value::as_bool);
        let encrypts_state = flag(ENCRYPT_STATE_EVENTS)
            .or_else(|| flag(ENCRYPT_STATE_EVENTS_UNSTABLE))
            .unwrap_or(false);
        Some(Self { algorithm, encrypts_state })
    }

    /// Whether the keeper and stock clients can encrypt with this algorithm.
    pub fn is_usable(&self) -> bool {
        self.algorithm == MEGOLM_V1
    }

    /// Whether state is to be sealed here: the flag is set and the algorithm is usable.
    pub fn is_state_encrypted(&self) -> bool {
        self.encrypts_state && self.is_usable()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(content: Value) -> Option<RoomEncryption> {
        RoomEncryption::from_content(content.as_object().unwrap())
    }

    #[test]
    fn either_spelling_of_the_flag_encrypts_state() {
        for flag in [ENCRYPT_STATE_EVENTS, ENCRYPT_STATE_EVENTS_UNSTABLE] {
            let room = read(json!({"algorithm": MEGOLM_V1, flag: true})).unwrap();
            assert!(room.is_state_encrypted(), "{flag}");
        }
        assert!(!read(json!({"algorithm": MEGOLM_V1})).unwrap().encrypts_state);
    }

    #[test]
    fn the_stable_spelling_wins() {
        let room = read(json!({
            "algorithm": MEGOLM_V1,
            ENCRYPT_STATE_EVENTS: false,
            ENCRYPT_STATE_EVENTS_UNSTABLE: true,
        }));
        assert!(!room.unwrap().encrypts_state);
    }

    #[test]
    fn a_flag_that_is_no_boolean_says_nothing() {
        let room = read(json!({
            "algorithm": MEGOLM_V1,
            ENCRYPT_STATE_EVENTS: "false",
            ENCRYPT_STATE_EVENTS_UNSTABLE: true,
        }));
        assert!(room.unwrap().encrypts_state);
        let room = read(json!({"algorithm": MEGOLM_V1, ENCRYPT_STATE_EVENTS: 1}));
        assert!(!room.unwrap().encrypts_state);
    }

    #[test]
    fn a_room_without_a_known_algorithm_seals_nothing() {
        assert_eq!(read(json!({ENCRYPT_STATE_EVENTS: true})), None);
        assert_eq!(read(json!({"algorithm": 1})), None);
        let room = read(json!({"algorithm": "m.megolm.v9", ENCRYPT_STATE_EVENTS: true})).unwrap();
        assert!(room.encrypts_state && !room.is_usable() && !room.is_state_encrypted());
    }
}
