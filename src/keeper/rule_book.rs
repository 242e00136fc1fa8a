//! Which rules a room is kept by.

use std::sync::{Arc, PoisonError, RwLock};

use super::rules::{GlobalRules, Rules};
use crate::{config::Config, store::RoomRow};

/// The rules of every room, and those that hold for all rooms together.
#[derive(Debug)]
pub struct RuleBook {
    edition: RwLock<Arc<Edition>>,
}

/// What one reading of the configuration states.
#[derive(Debug)]
struct Edition {
    global: Arc<GlobalRules>,
    default: Arc<Rules>,
}

impl RuleBook {
    /// What a configuration states.
    pub fn new(config: &Config) -> Self {
        Self { edition: RwLock::new(Arc::new(Edition::new(config))) }
    }

    /// The rules that hold for all rooms together, as they are now.
    pub fn global(&self) -> Arc<GlobalRules> {
        self.edition().global.clone()
    }

    /// The rules of a room, by what is known of it now. Neither waits nor reads the store.
    pub fn of(&self, room: &RoomRow) -> Arc<Rules> {
        self.edition().of(room)
    }

    /// Whether the rules of any room are such, whether there is a room like that or not.
    pub fn any(&self, such: impl Fn(&Rules) -> bool) -> bool {
        such(&self.edition().default)
    }

    fn edition(&self) -> Arc<Edition> {
        self.edition.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Edition {
    fn new(config: &Config) -> Self {
        Self { global: Arc::new(GlobalRules::new(config)), default: Arc::new(Rules::new(config)) }
    }

    fn of(&self, _room: &RoomRow) -> Arc<Rules> {
        self.default.clone()
    }
}
