//! Requests that came too early to be judged: of somebody whose join, or of a device whose keys, the keeper has not
//! heard of. The to-device message overtakes the event often enough; a stranger's waits in vain, and not for long.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ruma::{OwnedRoomId, OwnedUserId, RoomId};

use super::request::{KeyRequest, RequestName};

/// How long a request may wait for its sender to be heard of, in milliseconds.
const WAITS: i64 = 10_000;
/// How many wait at once.
const MOST: usize = 10_000;
/// How many of one user.
const MOST_OF_A_USER: usize = 100;

/// Requests that wait to be judged, the oldest first.
#[derive(Debug, Default)]
pub struct Early {
    by_age: BTreeMap<u64, KeyRequest>,
    by_room: BTreeSet<(OwnedRoomId, u64)>,
    by_name: HashMap<RequestName, u64>,
    of_user: HashMap<OwnedUserId, usize>,
    last: u64,
}

impl Early {
    /// Whether the request of that name waits here.
    pub fn contains(&self, name: &RequestName) -> bool {
        self.by_name.contains_key(name)
    }

    /// Lets a request wait. Returns the one that has no place: itself when its sender has too many here, the oldest
    /// when all places are taken.
    pub fn put(&mut self, request: KeyRequest) -> Option<KeyRequest> {
        if self.of_user.get(&request.sender).is_some_and(|count| *count >= MOST_OF_A_USER) {
            return Some(request);
        }
        self.last = self.last.saturating_add(1);
        let number = self.last;
        *self.of_user.entry(request.sender.clone()).or_default() += 1;
        self.by_name.insert(request.name(), number);
        self.by_room.insert((request.room_id.clone(), number));
        self.by_age.insert(number, request);
        if self.by_age.len() <= MOST {
            return None;
        }
        let oldest = self.by_age.first_key_value().map(|(number, _)| *number)?;
        self.take(oldest)
    }

    /// Who waits for a room.
    pub fn senders(&self, room: &RoomId) -> BTreeSet<OwnedUserId> {
        let numbers = self.numbers(room);
        numbers.filter_map(|number| Some(self.by_age.get(&number)?.sender.clone())).collect()
    }

    /// Takes the requests of these users for a room out, the oldest first: something was heard of them.
    pub fn of_users(&mut self, room: &RoomId, users: &BTreeSet<OwnedUserId>) -> Vec<KeyRequest> {
        let of_users = |number: &u64| {
            self.by_age.get(number).is_some_and(|request| users.contains(&request.sender))
        };
        let numbers: Vec<u64> = self.numbers(room).filter(of_users).collect();
        numbers.into_iter().filter_map(|number| self.take(number)).collect()
    }

    fn numbers(&self, room: &RoomId) -> impl Iterator<Item = u64> {
        let first = (room.to_owned(), 0);
        self.by_room.range(first..).take_while(move |(of, _)| of == room).map(|(_, number)| *number)
    }

    /// Takes one out by its name.
    pub fn cancel(&mut self, name: &RequestName) -> Option<KeyRequest> {
        let number = self.by_name.get(name).copied()?;
        self.take(number)
    }

    /// Takes those out whose time is up at `now` (milliseconds).
    pub fn expired(&mut self, now: i64) -> Vec<KeyRequest> {
        let is_over = |request: &KeyRequest| now.saturating_sub(request.heard_at) >= WAITS;
        let mut expired = Vec::new();
        while let Some((number, request)) = self.by_age.first_key_value()
            && is_over(request)
        {
            let number = *number;
            expired.extend(self.take(number));
        }
        expired
    }

    /// When the oldest one's time is up, in milliseconds.
    pub fn next_expiry(&self) -> Option<i64> {
        self.by_age.first_key_value().map(|(_, request)| request.heard_at.saturating_add(WAITS))
    }

    fn take(&mut self, number: u64) -> Option<KeyRequest> {
        let request = self.by_age.remove(&number)?;
        self.by_room.remove(&(request.room_id.clone(), number));
        self.by_name.remove(&request.name());
        if let Some(count) = self.of_user.get_mut(&request.sender) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.of_user.remove(&request.sender);
            }
        }
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use ruma::OwnedDeviceId;

    use super::*;

    fn request(user: usize, room: usize, id: usize, heard_at: i64) -> KeyRequest {
        KeyRequest {
            sender: format!("@u{user}:localhost").try_into().unwrap(),
            device: OwnedDeviceId::from("D"),
            request_id: id.to_string(),
            room_id: format!("!r{room}:localhost").try_into().unwrap(),
            session_id: "session".to_owned(),
            sender_key: None,
            heard_at,
        }
    }

    fn is_empty(early: &Early) -> bool {
        early.by_age.is_empty()
            && early.by_room.is_empty()
            && early.by_name.is_empty()
            && early.of_user.is_empty()
    }

    #[test]
    fn a_room_gets_its_own_requests_back_in_their_order() {
        let mut early = Early::default();
        for (id, room) in [1, 2, 1, 10].into_iter().enumerate() {
            assert_eq!(early.put(request(id, room, id, 0)), None);
        }
        let ids = |requests: Vec<KeyRequest>| -> Vec<String> {
            requests.into_iter().map(|request| request.request_id).collect()
        };
        let room = |number| OwnedRoomId::try_from(format!("!r{number}:localhost")).unwrap();
        let mut all = |number| {
            let senders = early.senders(&room(number));
            ids(early.of_users(&room(number), &senders))
        };
        assert_eq!(all(1), ["0", "2"]);
        assert!(all(1).is_empty());
        assert_eq!(all(2), ["1"]);
        assert_eq!(all(10), ["3"]);
        assert!(is_empty(&early));
    }

    #[test]
    fn nobody_is_judged_of_whom_nothing_was_heard() {
        let mut early = Early::default();
        early.put(request(1, 1, 1, 0));
        early.put(request(2, 1, 2, 0));
        let room = OwnedRoomId::try_from("!r1:localhost").unwrap();
        let one = BTreeSet::from([OwnedUserId::try_from("@u2:localhost").unwrap()]);
        let taken = early.of_users(&room, &one);
        assert_eq!((taken.len(), taken[0].request_id.as_str()), (1, "2"));
        assert_eq!(early.senders(&room).len(), 1);
    }

    #[test]
    fn whoever_is_not_heard_of_in_time_has_waited_in_vain() {
        let mut early = Early::default();
        early.put(request(1, 1, 1, 0));
        early.put(request(2, 1, 2, 500));
        assert_eq!(early.next_expiry(), Some(WAITS));
        assert!(early.expired(WAITS - 1).is_empty());
        assert_eq!(early.expired(WAITS).len(), 1);
        assert_eq!(early.expired(WAITS + 500).len(), 1);
        assert!(is_empty(&early) && early.next_expiry().is_none());
    }

    #[test]
    fn only_the_sender_takes_a_request_back() {
        let mut early = Early::default();
        early.put(request(1, 1, 1, 0));
        assert!(early.cancel(&request(2, 1, 1, 0).name()).is_none());
        assert!(early.contains(&request(1, 9, 1, 7).name()));
        assert!(early.cancel(&request(1, 1, 1, 0).name()).is_some());
        assert!(is_empty(&early));
    }

    #[test]
    fn one_user_takes_a_few_places_and_all_users_together_no_more_than_there_are() {
        let mut early = Early::default();
        for id in 0..MOST_OF_A_USER {
            assert_eq!(early.put(request(1, 1, id, 0)), None);
        }
        let one_more = request(1, 1, MOST_OF_A_USER, 0);
        assert_eq!(early.put(one_more.clone()), Some(one_more));
        let mut gone = Vec::new();
        for user in 2..MOST + 2 {
            gone.extend(early.put(request(user, user, 0, 0)));
        }
        assert_eq!(early.by_age.len(), MOST);
        assert_eq!(gone.len(), MOST_OF_A_USER, "the oldest go first");
        assert!(gone.iter().all(|request| request.sender == "@u1:localhost"));
    }
}
