//! Files for a media repository that must not see what is in them (spec: "Sending encrypted attachments").

use std::io::Read as _;

use matrix_sdk_crypto::{AttachmentEncryptor, MediaEncryptionInfo};
use ruma::OwnedMxcUri;
use serde_json::Value;

use super::CryptoError;
use crate::state::JsonMap;

/// A file that was encrypted, and not uploaded yet.
pub struct EncryptedFile {
    /// What goes up.
    pub ciphertext: Vec<u8>,
    key: MediaEncryptionInfo,
}

impl EncryptedFile {
    /// Encrypts a file under a key of its own.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Interrupted`] when the file cannot be read to its end.
    pub fn new(mut plain: &[u8]) -> Result<Self, CryptoError> {
        let mut encryptor = AttachmentEncryptor::new(&mut plain);
        let mut ciphertext = Vec::new();
        let read = encryptor.read_to_end(&mut ciphertext);
        read.map_err(|error| CryptoError::Interrupted(error.to_string()))?;
        Ok(Self { ciphertext, key: encryptor.finish() })
    }

    /// The `file` of an event's content (spec: "`EncryptedFile`"), for the ciphertext at `url`. It holds the key: it
    /// is to stand under encryption alone.
    ///
    /// # Errors
    ///
    /// [`CryptoError::Json`] when it cannot be written as JSON.
    pub fn at(&self, url: &OwnedMxcUri) -> Result<JsonMap, CryptoError> {
        let mut file = match serde_json::to_value(&self.key)? {
            Value::Object(file) => file,
            _ => JsonMap::new(),
        };
        file.insert("url".to_owned(), url.as_str().into());
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use matrix_sdk_crypto::AttachmentDecryptor;
    use ruma::owned_mxc_uri;

    use super::*;

    #[test]
    fn a_file_is_read_with_what_its_event_says_and_with_nothing_else() {
        let picture = b"a picture that is longer than one block of the cipher".as_slice();
        let encrypted = EncryptedFile::new(picture).unwrap();
        assert_ne!(encrypted.ciphertext, picture);
        let file = encrypted.at(&owned_mxc_uri!("mxc://localhost/a")).unwrap();
        for field in ["url", "key", "iv", "hashes", "v"] {
            assert!(file.contains_key(field), "{field}");
        }
        let open = |ciphertext: &[u8]| {
            let key: MediaEncryptionInfo = serde_json::from_value(file.clone().into()).unwrap();
            let mut ciphertext = ciphertext;
            let mut plain = Vec::new();
            AttachmentDecryptor::new(&mut ciphertext, key)
                .unwrap()
                .read_to_end(&mut plain)
                .map(|_| plain)
        };
        assert_eq!(open(&encrypted.ciphertext).unwrap(), picture);
        assert!(open(b"something else").is_err(), "its hash gives it away");
        assert_ne!(EncryptedFile::new(picture).unwrap().ciphertext, encrypted.ciphertext);
    }
}
