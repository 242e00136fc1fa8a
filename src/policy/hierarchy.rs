//! What lies beneath a space: rooms, and spaces in turn.

use std::collections::{BTreeSet, VecDeque};

use ruma::{OwnedRoomId, OwnedServerName, RoomId};

/// A room that a space lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The room, which may be a space itself.
    pub room_id: OwnedRoomId,
    /// Servers through which it can be joined.
    pub via: Vec<OwnedServerName>,
    /// Whether the space suggests joining it.
    pub suggested: bool,
}

/// How far rooms are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many spaces deep: 1 is the space's own list.
    pub depth: u32,
    /// How many rooms.
    pub rooms: usize,
}

/// A room beneath a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The space that lists it, the nearest one where several do.
    pub space_id: OwnedRoomId,
    /// How many spaces deep it lies.
    pub depth: u32,
    /// Servers through which it can be joined.
    pub via: Vec<OwnedServerName>,
    /// Whether that space suggests joining it.
    pub suggested: bool,
}

/// Walks from a space down to the rooms beneath it, each once, the nearest first. `children_of` says what a space
/// lists; nothing for a room that is no space, or of which nothing is known. Returns them, and how many more there
/// are within the bound for depth than the bound for their number allows.
pub fn walk<'c>(
    root: &RoomId,
    bounds: Bounds,
    children_of: impl Fn(&RoomId) -> &'c [Child],
) -> (Vec<Found>, usize) {
    let mut seen = BTreeSet::from([root.to_owned()]);
    let mut found = Vec::new();
    let mut beyond = 0_usize;
    let mut spaces = VecDeque::from([(root.to_owned(), 1)]);
    while let Some((space_id, depth)) = spaces.pop_front() {
        if depth > bounds.depth {
            continue;
        }
        for child in children_of(&space_id) {
            if !seen.insert(child.room_id.clone()) {
                continue;
            }
            if found.len() >= bounds.rooms {
                beyond = beyond.saturating_add(1);
                continue;
            }
            spaces.push_back((child.room_id.clone(), depth.saturating_add(1)));
            found.push(Found {
                room_id: child.room_id.clone(),
                space_id: space_id.clone(),
                depth,
                via: child.via.clone(),
                suggested: child.suggested,
            });
        }
    }
    (found, beyond)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const FAR: Bounds = Bounds { depth: 20, rooms: 10_000 };

    fn id(number: usize) -> OwnedRoomId {
        RoomId::parse(format!("!r{number}:localhost")).unwrap()
    }

    /// What each space lists.
    fn lists(links: &[(usize, usize)]) -> BTreeMap<OwnedRoomId, Vec<Child>> {
        let mut lists = BTreeMap::<_, Vec<Child>>::new();
        for (space, room) in links {
            let child = Child { room_id: id(*room), via: Vec::new(), suggested: false };
            lists.entry(id(*space)).or_default().push(child);
        }
        lists
    }

    fn walked(links: &[(usize, usize)], bounds: Bounds) -> (Vec<(OwnedRoomId, u32)>, usize) {
        let lists = lists(links);
        let children = |room: &RoomId| lists.get(room).map(Vec::as_slice).unwrap_or_default();
        let (found, beyond) = walk(&id(0), bounds, children);
        (found.into_iter().map(|found| (found.room_id, found.depth)).collect(), beyond)
    }

    #[test]
    fn a_space_in_itself_is_walked_once() {
        let links = [(0, 1), (1, 2), (2, 0), (2, 1), (2, 3), (1, 3), (3, 3)];
        let (found, beyond) = walked(&links, FAR);
        assert_eq!(found, [(id(1), 1), (id(2), 2), (id(3), 2)]);
        assert_eq!(beyond, 0);
    }

    #[test]
    fn what_lies_too_deep_or_is_too_much_is_left_and_the_nearest_is_not() {
        let links = [(0, 1), (1, 2), (2, 3), (0, 4)];
        let shallow = Bounds { depth: 2, ..FAR };
        assert_eq!(walked(&links, shallow).0, [(id(1), 1), (id(4), 1), (id(2), 2)]);
        let few = Bounds { rooms: 2, ..FAR };
        assert_eq!(walked(&links, few), (vec![(id(1), 1), (id(4), 1)], 1));
        let many: Vec<(usize, usize)> = (1..=5000).map(|room| (0, room)).collect();
        let (found, beyond) = walked(&many, Bounds { rooms: 1000, ..FAR });
        assert_eq!((found.len(), beyond), (1000, 4000));
    }

    proptest! {
        #[test]
        fn every_walk_ends_and_finds_each_room_once(
            links in prop::collection::vec((0_usize..12, 0_usize..12), 0..60),
            depth in 1_u32..6,
            rooms in 0_usize..12,
        ) {
            let (found, _) = walked(&links, Bounds { depth, rooms });
            let once: BTreeSet<_> = found.iter().map(|(room, _)| room.clone()).collect();
            prop_assert_eq!(once.len(), found.len());
            prop_assert!(found.len() <= rooms);
            prop_assert!(found.iter().all(|(room, at)| *at <= depth && *room != id(0)));
            // The nearest first.
            prop_assert!(found.is_sorted_by_key(|(_, at)| *at));
        }
    }
}
