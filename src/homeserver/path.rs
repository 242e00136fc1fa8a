//! Paths and queries of requests, percent-encoded.

use std::fmt::Write;

/// The path of a request below the homeserver's address, with its query.
///
/// State keys, event types, room and device ids come from the network and may hold any character,
/// so everything but RFC 3986's unreserved characters is encoded: what arrives is what was meant,
/// even through a proxy that normalises paths.
#[derive(Clone, Debug)]
pub(super) struct Path {
    text: String,
    has_query: bool,
}

impl Path {
    /// A path of `/_matrix/client/v3` and these segments, each encoded by itself.
    pub(super) fn v3(segments: &[&str]) -> Self {
        Self::under("/_matrix/client/v3", segments)
    }

    /// A path of `root`, which is taken as it is, and these segments, each encoded by itself.
    pub(super) fn under(root: &str, segments: &[&str]) -> Self {
        let mut text = root.to_owned();
        for segment in segments {
            text.push('/');
            encode_segment(&mut text, segment);
        }
        Self { text, has_query: false }
    }

    /// Adds `name=value` to the query.
    pub(super) fn query(mut self, name: &str, value: &str) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        encode(&mut self.text, name);
        self.text.push('=');
        encode(&mut self.text, value);
        self
    }

    /// The path and query, ready to follow the homeserver's address.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

/// Encodes one segment of a path. `.` and `..` are encoded whole, since a proxy would resolve them.
fn encode_segment(out: &mut String, segment: &str) {
    match segment {
        "." => out.push_str("%2E"),
        ".." => out.push_str("%2E%2E"),
        _ => encode(out, segment),
    }
}

fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_key_with_every_kind_of_character_stays_one_segment() {
        let path = Path::v3(&["rooms", "!r:h", "state", "m.room.encrypted", "a:b/c?d#e%2Ff ü+&"]);
        assert_eq!(
            path.as_str(),
            "/_matrix/client/v3/rooms/%21r%3Ah/state/m.room.encrypted/a%3Ab%2Fc%3Fd%23e%252Ff%20%C3%BC%2B%26"
        );
    }

    #[test]
    fn dot_segments_do_not_climb() {
        assert_eq!(Path::under("/x", &["..", ".", "a..b"]).as_str(), "/x/%2E%2E/%2E/a..b");
    }

    #[test]
    fn query_values_cannot_add_parameters() {
        let path = Path::under("/x", &[]).query("a", "1&b=2").query("via", "h:8448");
        assert_eq!(path.as_str(), "/x?a=1%26b%3D2&via=h%3A8448");
    }
}
