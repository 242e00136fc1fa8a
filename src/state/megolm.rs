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
