//! What stands in a room that is to be moved: what is hidden, what is said in plain, and what stays behind.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedUserId, RoomId};
use serde_json::Value;

use crate::{
    keeper::{KeeperError, lane::Lanes},
    state::{JsonMap, Membership, RoomEvent, StateTuple},
    store::{RoomRow, StateValue, tuples},
};

/// What a new room has of its own, or what is seen to elsewhere.
const OWN: [&str; 9] = [
    "m.room.create",
    "m.room.member",
    "m.room.power_levels",
    "m.room.encryption",
    "m.room.encrypted",
    "m.room.tombstone",
    "m.room.canonical_alias",
    "m.room.third_party_invite",
    "m.room.aliases",
];
/// Who may join is said last.
const JOIN_RULES: &str = "m.room.join_rules";

/// A room's state as the homeserver has it.
pub(super) struct Standing {
    events: Vec<RoomEvent>,
}

/// What a room that takes its place is to have.
#[derive(Default)]
pub(super) struct Gathered {
    /// What is hidden.
    pub(super) hidden: Vec<StateValue>,
    /// What stands in plain, who may join at last.
    pub(super) plain: Vec<StateValue>,
    /// What stays behind, and why.
    pub(super) losses: Vec<String>,
    /// What has a newer value that the keeper cannot read, or not yet.
    pub(super) unread: BTreeSet<StateTuple>,
}

impl Standing {
    /// Asks the homeserver.
    pub(super) async fn of(lanes: &Lanes, room: &RoomId) -> Result<Self, KeeperError> {
        let bodies = lanes.homeserver.room_state(room).await?;
        let events = bodies.iter().filter_map(|body| RoomEvent::parse_str(body.get()).ok());
        Ok(Self { events: events.collect() })
    }

    /// The content that stands there; `None` where it is empty.
    pub(super) fn content(&self, event_type: &str, state_key: &str) -> Option<&JsonMap> {
        self.event(event_type, state_key).map(|event| &event.content).filter(|it| !it.is_empty())
    }

    pub(super) fn event(&self, event_type: &str, state_key: &str) -> Option<&RoomEvent> {
        let is_it = |event: &&RoomEvent| {
            event.event_type == event_type && event.state_key.as_deref() == Some(state_key)
        };
        self.events.iter().find(is_it)
    }

    /// The users of this membership.
    pub(super) fn users(&self, membership: Membership) -> Vec<OwnedUserId> {
        let of_it = self.events.iter().filter(|event| {
            event.event_type == "m.room.member"
                && Membership::from_content(&event.content) == Some(membership)
        });
        of_it.filter_map(|event| event.state_key.as_deref()?.try_into().ok()).collect()
    }
}

/// Gathers what a room that takes this one's place is to have. Of what the keeper seals it is the value that it accepted:
/// not what somebody forged, and nothing that was taken back.
pub(super) async fn gather(
    lanes: &Lanes,
    room: &RoomRow,
    standing: &Standing,
) -> Result<Gathered, KeeperError> {
    let taker = &lanes.taker;
    let rules = taker.rules.of(room);
    let mut gathered = Gathered::default();
    let mut hidden: BTreeMap<StateTuple, JsonMap> = BTreeMap::new();
    let mut rule = None;
    for event in &standing.events {
        let Some(tuple) = event.outer_tuple() else { continue };
        if OWN.contains(&event.event_type.as_str()) || event.content.is_empty() {
            continue;
        }
        if event.event_type == JOIN_RULES {
            rule = Some(StateValue::new(JOIN_RULES, "", event.content.clone()));
        } else if rules.exempt.contains(&event.event_type) {
            let (kind, key) = (&tuple.event_type, &tuple.state_key);
            gathered.plain.push(StateValue::new(kind, key, event.content.clone()));
        } else {
            hidden.insert(tuple, event.content.clone());
        }
    }
    if room.state_encrypted {
        let db = &mut *taker.store.read().await?;
        gathered.unread = tuples::unread(db, &room.room_id).await?;
        for row in tuples::of_room(&taker.store, db, &room.room_id).await? {
            if rules.exempt.contains(&row.tuple.event_type) {
                continue;
            }
            // What stands in plain beside it is a copy, or nothing that counts.
            hidden.remove(&row.tuple);
            match row.source.filter(|_| !row.redacted) {
                Some(source) if !source.content.is_empty() => {
                    if gathered.unread.contains(&row.tuple) {
                        gathered.losses.push(format!(
                            "{}: the keeper cannot read its newest value; the one before goes over",
                            row.tuple.event_type
                        ));
                    }
                    hidden.insert(row.tuple, source.content);
                }
                None if row.current_event_id.is_some() && !row.redacted => {
                    gathered.losses.push(format!(
                        "{}: the keeper cannot read it, or it was not allowed",
                        row.tuple.event_type
                    ));
                }
                _ => {}
            }
        }
    }
    let mut bound = 0_usize;
    for (tuple, content) in hidden {
        if rules.sender_bound.binds(&tuple) {
            bound += 1;
        } else if tuple.packed().is_err() {
            gathered
                .losses
                .push(format!("{}: its state key is too long to be sealed", tuple.event_type));
        } else {
            gathered.hidden.push(StateValue::new(&tuple.event_type, &tuple.state_key, content));
        }
    }
    if bound > 0 {
        gathered.losses.push(format!(
            "{bound} events that mean nothing without their sender, such as calls and live locations"
        ));
    }
    let banned = standing.users(Membership::Ban).into_iter();
    let ban = || JsonMap::from_iter([("membership".to_owned(), Value::from("ban"))]);
    gathered
        .plain
        .extend(banned.map(|user| StateValue::new("m.room.member", user.as_str(), ban())));
    gathered.plain.extend(rule);
    Ok(gathered)
}
