//! What somebody may read of a room before he joins it.

use crate::state::StateTuple;

/// Which keys somebody gets of a room that he may join through another one (`spaces[].preview`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PreviewPolicy {
    /// None before the join.
    #[default]
    None,
    /// Those of name, topic and avatar.
    Aesthetic,
    /// All of them.
    All,
}

impl PreviewPolicy {
    /// The word for it in the configuration and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Aesthetic => "aesthetic",
            Self::All => "all",
        }
    }

    /// What a word means; an unknown one means nothing is to be read.
    pub fn from_name(name: &str) -> Self {
        match name {
            "aesthetic" => Self::Aesthetic,
            "all" => Self::All,
            _ => Self::None,
        }
    }

    /// Whether the key of a tuple is among them.
    pub fn shows(self, tuple: &StateTuple) -> bool {
        match self {
            Self::None => false,
            Self::Aesthetic => tuple.is_aesthetic(),
            Self::All => true,
        }
    }
}
