//! State tuples and MSC4362's packed state keys.

use std::fmt;

use super::MAX_ID_BYTES;

/// The true `(type, state_key)` of a state event, whether it was sent sealed or in plain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateTuple {
    /// The true event type, such as `m.room.name`.
    pub event_type: String,
    /// The true state key, often empty.
    pub state_key: String,
}

/// MSC4362's outer state key: `type:state_key`, at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackedStateKey(String);

/// Why a tuple has no packed state key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// `type:state_key` is longer than a state key may be.
    #[error("the packed state key is {0} bytes long, 255 are allowed")]
    TooLong(usize),
    /// The type is empty or has a colon in it, so what was packed could not be told apart again.
    #[error("the event type is empty or contains a colon and cannot be packed")]
    AmbiguousType,
}

impl StateTuple {
    /// A tuple of this type and state key.
    pub fn new(event_type: impl Into<String>, state_key: impl Into<String>) -> Self {
        Self { event_type: event_type.into(), state_key: state_key.into() }
    }

    /// The outer state key under which this tuple is sealed (MSC4362, "packed state key").
    ///
    /// # Errors
    /// [`PackError`] when no homeserver would take the key, or no client could unpack it.
    pub fn packed(&self) -> Result<PackedStateKey, PackError> {
        if self.event_type.is_empty() || self.event_type.contains(':') {
            return Err(PackError::AmbiguousType);
        }
        let bytes = self.event_type.len() + 1 + self.state_key.len();
        if bytes > MAX_ID_BYTES {
            return Err(PackError::TooLong(bytes));
        }
        Ok(PackedStateKey(self.to_string()))
    }

    /// The tuple behind an outer state key: split at the **first** colon, as state keys may hold
    /// colons and types may not. `None` when there is no colon, no type, or too many bytes.
    pub fn from_packed(packed: &str) -> Option<Self> {
        if packed.len() > MAX_ID_BYTES {
            return None;
        }
        let (event_type, state_key) = packed.split_once(':')?;
        (!event_type.is_empty()).then(|| Self::new(event_type, state_key))
    }

    /// Whether this is what makes a room recognisable: its name, its topic or its avatar.
    pub fn is_aesthetic(&self) -> bool {
        self.state_key.is_empty()
            && matches!(self.event_type.as_str(), "m.room.name" | "m.room.topic" | "m.room.avatar")
    }
}

/// `type:state_key`, without the checks of [`StateTuple::packed`].
impl fmt::Display for StateTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.event_type, self.state_key)
    }
}

impl PackedStateKey {
    /// The key as it goes into the path of `PUT …/state/m.room.encrypted/{stateKey}`, unescaped.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for PackedStateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for PackedStateKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_packs_to_its_type_and_a_colon() {
        let packed = StateTuple::new("m.room.name", "").packed().unwrap();
        assert_eq!(packed.as_str(), "m.room.name:");
    }

    #[test]
    fn a_state_key_keeps_its_own_colons() {
        let tuple = StateTuple::from_packed("m.space.child:!room:example.org").unwrap();
        assert_eq!(tuple, StateTuple::new("m.space.child", "!room:example.org"));
    }

    #[test]
    fn what_cannot_be_unpacked_again_is_not_packed() {
        assert_eq!(StateTuple::new("a:b", "c").packed(), Err(PackError::AmbiguousType));
        assert_eq!(StateTuple::new("", "c").packed(), Err(PackError::AmbiguousType));
    }

    #[test]
    fn a_packed_key_may_have_255_bytes_and_no_more() {
        assert!(StateTuple::new("t", "k".repeat(253)).packed().is_ok());
        let long = StateTuple::new("t", "k".repeat(254));
        assert_eq!(long.packed(), Err(PackError::TooLong(256)));
        assert_eq!(StateTuple::from_packed(&long.to_string()), None);
        // Bytes, not characters.
        assert!(StateTuple::new("t", "é".repeat(127)).packed().is_err());
    }

    #[test]
    fn an_outer_key_without_a_type_is_no_tuple() {
        for outer in ["", ":", ":key", "m.room.name"] {
            assert_eq!(StateTuple::from_packed(outer), None, "{outer:?}");
        }
    }

    #[test]
    fn only_name_topic_and_avatar_are_aesthetic() {
        for event_type in ["m.room.name", "m.room.topic", "m.room.avatar"] {
            assert!(StateTuple::new(event_type, "").is_aesthetic());
            assert!(!StateTuple::new(event_type, "x").is_aesthetic());
        }
        assert!(!StateTuple::new("im.vector.modular.widgets", "").is_aesthetic());
    }

    proptest! {
        #[test]
        fn packing_and_unpacking_gives_the_same_tuple(
            event_type in "[^:]{1,80}",
            state_key in ".{0,80}",
        ) {
            let tuple = StateTuple::new(event_type, state_key);
            match tuple.packed() {
                Ok(packed) => {
                    prop_assert!(packed.as_str().len() <= MAX_ID_BYTES);
                    prop_assert_eq!(StateTuple::from_packed(packed.as_str()), Some(tuple));
                }
                Err(error) => prop_assert!(matches!(error, PackError::TooLong(n) if n > 255)),
            }
        }

        #[test]
        fn unpacking_and_packing_gives_the_same_key(outer in ".{0,260}") {
            if let Some(tuple) = StateTuple::from_packed(&outer) {
                let packed = tuple.packed().unwrap();
                prop_assert_eq!(packed.as_str(), outer);
            }
        }
    }
}
