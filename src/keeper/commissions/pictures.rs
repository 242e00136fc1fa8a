//! The picture of a room: what everybody could look at becomes ciphertext.
//!
//! Recovery: a picture that was uploaded and not noted is uploaded again, and the first is a file to which nobody has
//! the key.

use ruma::OwnedMxcUri;
use serde_json::{Value, json};

use super::{Went, Work};
use crate::{
    crypto::EncryptedFile,
    keeper::{KeeperError, lane::Lanes},
    state::{JsonMap, public_picture},
    store::{Blueprint, CommissionRow, StateValue, TupleRow},
};

/// The field of an avatar's sealed content that says which public picture it was made from, so that it is made once.
const MADE_FROM: &str = "io.statekeeper.made_from";
/// How often a picture is tried that cannot be had, or that the homeserver does not take.
const MOST_TRIES: u32 = 3;
/// What is said of a picture, and says nothing that its ciphertext hides.
const KEPT: [&str; 3] = ["mimetype", "w", "h"];

impl Work {
    /// Has the homeserver see nothing of the picture any more.
    pub(super) async fn picture(
        &mut self,
        row: &CommissionRow,
        wanted: &Blueprint,
    ) -> Result<Went, KeeperError> {
        let mut wanted = wanted.clone();
        let avatar = wanted.hidden.iter_mut().find(|value| value.has_public_picture());
        let Some(avatar) = avatar else { return self.next(row).await };
        self.hide(avatar).await?;
        self.want(wanted).await?;
        self.next(row).await
    }

    /// Puts an encrypted picture in a public one's place, and nothing in that of a small copy. One that cannot be had, or
    /// that the homeserver does not take, stays as it is after a few tries, and is told of.
    pub(super) async fn hide(&mut self, avatar: &mut StateValue) -> Result<(), KeeperError> {
        let Some(url) = public_picture(&avatar.content).map(OwnedMxcUri::from) else {
            forget_small(&mut avatar.content);
            return Ok(());
        };
        match self.hidden(&url, &avatar.content).await {
            Ok(content) => {
                self.tries = 0;
                avatar.content = content;
                Ok(())
            }
            Err(KeeperError::Homeserver(error))
                if !error.is_away() && !error.is_unknown_device() =>
            {
                self.tries = self.tries.saturating_add(1);
                if error.is_transient() && self.tries < MOST_TRIES {
                    return Err(error.into());
                }
                self.tries = 0;
                let note =
                    format!("the picture could not be encrypted, and stays public ({error})");
                self.note(&note).await
            }
            Err(error) => Err(error),
        }
    }

    async fn hidden(&self, url: &OwnedMxcUri, before: &JsonMap) -> Result<JsonMap, KeeperError> {
        let picture = self.lanes.homeserver.download(url).await?;
        let info = before.get("info").and_then(Value::as_object);
        let mut content = encrypted_avatar(&self.lanes, &picture, info).await?;
        content.insert(MADE_FROM.to_owned(), url.as_str().into());
        Ok(content)
    }
}

/// The content of an `m.room.avatar` whose picture is ciphertext to the homeserver, once it is there; with what `info`
/// says of its kind and size.
pub(super) async fn encrypted_avatar(
    lanes: &Lanes,
    picture: &[u8],
    info: Option<&JsonMap>,
) -> Result<JsonMap, KeeperError> {
    let encrypted = EncryptedFile::new(picture)?;
    let url = lanes.homeserver.upload(encrypted.ciphertext.clone().into()).await?;
    let mut kept = JsonMap::from_iter([("size".to_owned(), json!(picture.len()))]);
    for field in KEPT {
        let value = info.and_then(|info| info.get(field));
        if let Some(value) = value.filter(|it| it.is_string() || it.is_u64()) {
            kept.insert(field.to_owned(), value.clone());
        }
    }
    Ok(JsonMap::from_iter([
        ("file".to_owned(), Value::Object(encrypted.at(&url)?)),
        ("info".to_owned(), Value::Object(kept)),
    ]))
}

fn forget_small(content: &mut JsonMap) {
    if let Some(Value::Object(info)) = content.get_mut("info") {
        info.remove("thumbnail_url");
        info.remove("thumbnail_info");
    }
}

/// Whether a tuple says this already; of a picture, whether it was made from this one.
pub(super) fn says(row: &TupleRow, value: &StateValue) -> bool {
    let Some(source) = &row.source else { return false };
    let made_from = source.content.get(MADE_FROM).and_then(Value::as_str);
    let mut plain = value.content.clone();
    if value.event_type == "m.room.avatar" {
        forget_small(&mut plain);
    }
    source.content == value.content
        || source.content == plain
        || (made_from.is_some() && made_from == public_picture(&value.content))
}
