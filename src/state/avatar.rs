//! The picture of a room.

use serde_json::Value;

use super::JsonMap;

/// Where the picture of an `m.room.avatar` lies for everybody to see: an avatar may be sealed, and its picture not.
/// `None` where it lies there as ciphertext (a `file`, as messages have it), or where there is no picture.
pub fn public_picture(content: &JsonMap) -> Option<&str> {
    let url = content.get("url")?.as_str()?;
    url.starts_with("mxc://").then_some(url)
}

/// Whether a picture of an `m.room.avatar`, or a small copy of it (`info.thumbnail_url`), lies there for everybody to see.
pub fn has_public_picture(content: &JsonMap) -> bool {
    let small = content.get("info").and_then(|info| info.get("thumbnail_url"));
    public_picture(content).is_some()
        || small.and_then(Value::as_str).is_some_and(|url| url.starts_with("mxc://"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_picture_is_public_where_it_has_an_address_of_its_own() {
        let public = |content: Value| {
            let Value::Object(content) = content else { panic!("no object") };
            public_picture(&content).map(str::to_owned)
        };
        let url = "mxc://localhost/a";
        assert_eq!(public(json!({ "url": url })).as_deref(), Some(url));
        let small = json!({ "file": { "url": url }, "info": { "thumbnail_url": url } });
        assert!(has_public_picture(small.as_object().unwrap()));
        assert_eq!(public(small), None);
        // Both: the homeserver may look at the one.
        assert!(public(json!({ "url": url, "file": { "url": url } })).is_some());
        for hidden in [
            json!({ "file": { "url": url } }),
            json!({}),
            json!({ "url": "" }),
            json!({ "url": 5 }),
        ] {
            assert_eq!(public(hidden.clone()), None, "{hidden}");
            assert!(!has_public_picture(hidden.as_object().unwrap()), "{hidden}");
        }
    }
}
