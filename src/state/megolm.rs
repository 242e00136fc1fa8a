//! The content of an `m.room.encrypted` event under Megolm.

use serde_json::Value;
use vodozemac::megolm::MegolmMessage;

use super::{JsonMap, MAX_ID_BYTES, encryption::MEGOLM_V1};

/// A Megolm-encrypted content, with what the keeper must know of it before it decrypts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MegolmContent {
    /// The session's id: unpadded base64 of its Ed25519 key, as the sender wrote it.
    pub session_id: String,
    /// The sender's Curve25519 key, unpadded base64. Deprecated by the spec, and unauthenticated.
    pub sender_key: Option<String>,
    /// The sender's device. Deprecated by the spec, and unauthenticated.
    pub device_id: Option<String>,
    /// The Megolm message, base64.
    pub ciphertext: String,
    /// The ratchet index at which it was encrypted, read from the message itself. Nobody vouches
    /// for it before the message has been decrypted.
    pub message_index: u32,
}

/// Why a content is no Megolm message that could be decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedMegolm {
    /// The algorithm is another one, or none.
    #[error("the algorithm is not m.megolm.v1.aes-sha2")]
    Algorithm,
    /// A field is missing, of the wrong type, or too long.
    #[error("the field {0} is missing or wrong")]
    Field(&'static str),
    /// The ciphertext is not a Megolm message.
    #[error("the ciphertext is no Megolm message")]
    Ciphertext,
}

impl MegolmContent {
    /// Reads the content of an `m.room.encrypted` event (spec: "m.megolm.v1.aes-sha2").
    ///
    /// # Errors
    /// [`MalformedMegolm`] names the field that is wrong, and never repeats it.
    pub fn parse(content: &JsonMap) -> Result<Self, MalformedMegolm> {
        if content.get("algorithm").and_then(Value::as_str) != Some(MEGOLM_V1) {
            return Err(MalformedMegolm::Algorithm);
        }
        let session_id = bounded(content, "session_id")?
            .filter(|id| !id.is_empty())
            .ok_or(MalformedMegolm::Field("session_id"))?;
        let ciphertext = content
            .get("ciphertext")
            .and_then(Value::as_str)
            .ok_or(MalformedMegolm::Field("ciphertext"))?;
        let message = MegolmMessage::from_base64(ciphertext)
            .map_err(|_decode_error| MalformedMegolm::Ciphertext)?;
        Ok(Self {
            session_id,
            sender_key: bounded(content, "sender_key")?,
            device_id: bounded(content, "device_id")?,
            ciphertext: ciphertext.to_owned(),
            message_index: message.message_index(),
        })
    }
}

fn bounded(content: &JsonMap, field: &'static str) -> Result<Option<String>, MalformedMegolm> {
    match content.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= MAX_ID_BYTES => Ok(Some(text.clone())),
        Some(_) => Err(MalformedMegolm::Field(field)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use vodozemac::megolm::{GroupSession, SessionConfig};

    use super::*;

    fn parse(content: &Value) -> Result<MegolmContent, MalformedMegolm> {
        MegolmContent::parse(content.as_object().unwrap())
    }

    #[test]
    fn the_index_is_read_from_the_message_itself() {
        let mut session = GroupSession::new(SessionConfig::version_1());
        for expected in 0..130 {
            let content = json!({
                "algorithm": MEGOLM_V1,
                "session_id": session.session_id(),
                "ciphertext": session.encrypt("text").to_base64(),
            });
            let parsed = parse(&content).unwrap();
            assert_eq!(parsed.message_index, expected);
            assert_eq!(parsed.session_id, session.session_id());
            assert_eq!(parsed.sender_key, None);
        }
    }

    /// As Synapse gave it for a name that matrix-js-sdk sealed.
    #[test]
    fn a_stock_clients_sealed_name_is_read() {
        let content = json!({
            "algorithm": "m.megolm.v1.aes-sha2",
            "ciphertext": "AwgAEoABD913XIXT2p4Qyu6GgBsVvPT6/HM94XmiN2kpzOyBmzWrd+NZKKuBFXq+bMc34gRnzeHIrqKOAAGHhfGpX9gMrx53l8aSrRaIg5GUzxy6VCAtNA530XSYUNh1/6uBPpVEdLO3ruzkIMA4lYZhp80JfvS120AtBXrTdfSC9r04gsVoG4fhYwxWhuJC8Ms3aAIt8FjRI5jQ1lLTgFUQFHZJ2ilnht27nIPVVUUcVJqwPrmvI/zmzVOzK1gUNCfNrZ63JMfr9Wu/vQM",
            "device_id": "UGTADDCTMU",
            "sender_key": "iIOVdhkf6sLOh96EpugBS67avJtej4Y5VB+Qu1LMaVk",
            "session_id": "HtOeeQy+bsdni2ApYEc1tODavMnTGCJYeim366Yh+ME",
        });
        let parsed = parse(&content).unwrap();
        assert_eq!(parsed.message_index, 0);
        assert_eq!(parsed.device_id.as_deref(), Some("UGTADDCTMU"));
        assert_eq!(parsed.session_id, "HtOeeQy+bsdni2ApYEc1tODavMnTGCJYeim366Yh+ME");
    }

    #[test]
    fn a_wrong_field_is_named_and_not_repeated() {
        let good = json!({
            "algorithm": MEGOLM_V1,
            "session_id": "id",
            "ciphertext":
                GroupSession::new(SessionConfig::version_1()).encrypt("text").to_base64(),
        });
        assert!(parse(&good).is_ok());
        for (field, value, expected) in [
            ("algorithm", json!("m.olm.v1.curve25519-aes-sha2"), MalformedMegolm::Algorithm),
            ("algorithm", json!(null), MalformedMegolm::Algorithm),
            ("session_id", json!(""), MalformedMegolm::Field("session_id")),
            ("session_id", json!(7), MalformedMegolm::Field("session_id")),
            ("session_id", json!("x".repeat(256)), MalformedMegolm::Field("session_id")),
            ("ciphertext", json!({}), MalformedMegolm::Field("ciphertext")),
            ("ciphertext", json!("AwgA"), MalformedMegolm::Ciphertext),
            ("ciphertext", json!("secret?"), MalformedMegolm::Ciphertext),
            ("sender_key", json!([]), MalformedMegolm::Field("sender_key")),
            ("device_id", json!("d".repeat(256)), MalformedMegolm::Field("device_id")),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            assert_eq!(parse(&bad), Err(expected), "{field}");
        }
    }

    proptest! {
        #[test]
        fn no_ciphertext_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let content = json!({
                "algorithm": MEGOLM_V1,
                "session_id": "id",
                "ciphertext": vodozemac::base64_encode(&bytes),
            });
            if let Ok(parsed) = parse(&content) {
                prop_assert!(matches!(bytes[0], 3 | 4));
                prop_assert_eq!(parsed.session_id, "id");
            }
        }
    }
}
