//! Which rules a room is kept by.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use ruma::ServerName;

use super::rules::{GlobalRules, Rules};
use crate::{
    config::{Config, Match},
    policy::{RoomFacts, RoomMatch, ServerGlob},
    state::Glob,
    store::{KeptAs, RoomRow},
};

/// The rules of every room, and those that hold for all rooms together.
#[derive(Debug)]
pub struct RuleBook {
    edition: RwLock<Arc<Edition>>,
    /// Whether an administrator has had everything decided and nothing sent.
    noop: AtomicBool,
}

/// What one reading of the configuration states.
#[derive(Debug)]
pub struct Edition {
    global: Arc<GlobalRules>,
    default: Arc<Rules>,
    policies: Vec<(RoomMatch, Arc<Rules>)>,
}

impl RuleBook {
    /// What a configuration states.
    pub fn new(config: &Config) -> Self {
        Self { edition: RwLock::new(Arc::new(Edition::new(config))), noop: AtomicBool::new(false) }
    }

    /// The rules that hold for all rooms together, as they are now.
    pub fn global(&self) -> Arc<GlobalRules> {
        self.edition().global.clone()
    }

    /// The rules of a room, by what is known of it now. Neither waits nor reads the store, and keeps nothing:
    /// what a room is told by is part of its row, so no answer can be stale.
    pub fn of(&self, room: &RoomRow) -> Arc<Rules> {
        let rules = self.edition().of(room);
        if !self.noop.load(Ordering::SeqCst) {
            return rules;
        }
        Arc::new(Rules { noop: true, ..(*rules).clone() })
    }

    /// Which of the policies is a room's: its place in the list.
    pub fn place_of(&self, room: &RoomRow) -> Option<usize> {
        let facts = facts(room);
        self.edition().policies.iter().position(|(matches, _)| matches.matches(facts))
    }

    /// Has nothing sent in any room from now on, or what the configuration says.
    pub fn set_noop(&self, noop: bool) {
        self.noop.store(noop, Ordering::SeqCst);
    }

    /// Whether an administrator has had nothing sent in any room.
    pub fn is_noop(&self) -> bool {
        self.noop.load(Ordering::SeqCst)
    }

    /// Whether nothing is sent where no policy says otherwise.
    pub fn is_noop_by_default(&self) -> bool {
        self.is_noop() || self.edition().default.noop
    }

    /// Whether the rules of any room are such, whether there is a room like that or not.
    pub fn any(&self, such: impl Fn(&Rules) -> bool) -> bool {
        let edition = self.edition();
        such(&edition.default) || edition.policies.iter().any(|(_, rules)| such(rules))
    }

    /// Says once that there are rooms in which nothing is sent.
    pub fn warn_of_noop(&self) {
        if self.is_noop() || self.any(|rules| rules.noop) {
            tracing::warn!(
                "`noop` is set: where it holds, everything is decided and reported, and nothing is sent"
            );
        }
    }

    /// Whether rooms may differ in their rules.
    pub fn has_policies(&self) -> bool {
        !self.edition().policies.is_empty()
    }

    /// States what another configuration says from now on. Returns what was stated until now.
    pub fn replace(&self, config: &Config) -> Arc<Edition> {
        let edition = Arc::new(Edition::new(config));
        let mut current = self.edition.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut current, edition)
    }

    fn edition(&self) -> Arc<Edition> {
        self.edition.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Edition {
    fn new(config: &Config) -> Self {
        let rules = |policy| Arc::new(Rules::of_policy(config, policy));
        let policies = config.policies.iter();
        Self {
            global: Arc::new(GlobalRules::new(config)),
            default: Arc::new(Rules::new(config)),
            policies: policies.map(|policy| (room_match(&policy.matches), rules(policy))).collect(),
        }
    }

    /// The rules that hold for all rooms together.
    pub fn global(&self) -> &GlobalRules {
        &self.global
    }

    /// The rules of a room, by what is known of it now.
    pub fn of(&self, room: &RoomRow) -> Arc<Rules> {
        let facts = facts(room);
        let policy = self.policies.iter().find(|(matches, _)| matches.matches(facts));
        policy.map_or(&self.default, |(_, rules)| rules).clone()
    }
}

/// Which of the configuration's policies is a room's: its place in the list.
pub fn policy_of(config: &Config, room: &RoomRow) -> Option<usize> {
    config.policies.iter().position(|policy| room_match(&policy.matches).matches(facts(room)))
}

/// What a room is told by. One that is being made is told by what it is to be, or by the room whose place it takes: its
/// own addresses and spaces come after its state was sealed.
pub fn facts(room: &RoomRow) -> RoomFacts<'_> {
    let Some(kept_as) = &room.kept_as else { return own_facts(room) };
    RoomFacts {
        room_id: kept_as.room.as_deref().unwrap_or(&room.room_id),
        predecessors: &kept_as.predecessors,
        alias: kept_as.alias.as_deref(),
        spaces: &kept_as.spaces,
        former_spaces: &kept_as.former_spaces,
        server: kept_as.server.as_deref().or_else(|| server_of(room)),
    }
}

fn own_facts(room: &RoomRow) -> RoomFacts<'_> {
    RoomFacts {
        room_id: &room.room_id,
        predecessors: &room.predecessors,
        alias: room.canonical_alias.as_deref(),
        spaces: &room.spaces,
        former_spaces: &room.former_spaces,
        server: server_of(room),
    }
}

/// What a room that takes this one's place is told by until it has all of its own.
pub fn kept_as(room: &RoomRow) -> KeptAs {
    let facts = facts(room);
    KeptAs {
        room: Some(facts.room_id.to_owned()),
        predecessors: facts.predecessors.to_vec(),
        alias: facts.alias.map(str::to_owned),
        spaces: facts.spaces.to_vec(),
        former_spaces: facts.former_spaces.to_vec(),
        server: facts.server.map(ToOwned::to_owned),
    }
}

/// The server on which a room was made: its id names it, up to room version 11. In later ones the first
/// creator is who sent `m.room.create`.
fn server_of(room: &RoomRow) -> Option<&ServerName> {
    let creator = || room.creators.first().map(|creator| creator.server_name());
    room.room_id.server_name().or_else(creator)
}

fn room_match(matches: &Match) -> RoomMatch {
    RoomMatch {
        rooms: matches.rooms.iter().cloned().collect(),
        aliases: matches.aliases.iter().map(|glob| Glob::new(glob.as_str())).collect(),
        spaces: matches.spaces.iter().cloned().collect(),
        servers: matches.servers.iter().map(|glob| ServerGlob::new(glob.as_str())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;

    #[test]
    fn of_policies_that_are_all_a_rooms_the_first_counts() {
        let room_id = room_id!("!room:localhost");
        let config = Config::from_yaml_for_test(
            "homeserver: { address: 'http://127.0.0.1:8008', domain: localhost }\n\
             appservice: { listen: '127.0.0.1:29330', address: 'http://127.0.0.1:29330', \
             registration: r.yaml, bot: { localpart: keeper } }\n\
             store: { passphrase: right }\n\
             policies:\n\
             - { rotation: { messages: 1 }, match: { rooms: ['!elsewhere:localhost'] } }\n\
             - { rotation: { messages: 2 }, match: { rooms: ['!room:localhost'] } }\n\
             - { rotation: { messages: 3 }, match: { rooms: ['!room:localhost'] } }\n",
        )
        .unwrap();
        let room = RoomRow::new(room_id.to_owned(), crate::state::Membership::Join);
        assert_eq!(policy_of(&config, &room), Some(1));
        let book = RuleBook::new(&config);
        assert_eq!((book.place_of(&room), book.of(&room).rotation_messages), (Some(1), 2));
    }
}
