//! How fast values are sealed anew after rotations: each room has a pace of its own.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ruma::{OwnedRoomId, RoomId};

/// How many rooms are remembered before those are let go of that wait for nothing.
const REMEMBERED: usize = 1000;

/// When the next value of a room may be sealed anew. Nothing is saved up beyond one second.
#[derive(Debug, Default)]
pub struct RotationPace {
    next: Mutex<HashMap<OwnedRoomId, Instant>>,
}

impl RotationPace {
    /// Takes one of a room's `per_second` at `now`, or says how long to wait before asking again.
    ///
    /// # Errors
    ///
    /// The time after which there is one to take.
    pub fn take(&self, room: &RoomId, per_second: u32, now: Instant) -> Result<(), Duration> {
        let each = Duration::from_secs(1) / per_second.max(1);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if next.len() >= REMEMBERED {
            next.retain(|_, then| *then > now);
        }
        // A second's worth may go out at once, and is paid off before the next.
        let then = next.get(room).copied().map_or(now, |then| then.max(now)) + each;
        let ahead = then.saturating_duration_since(now);
        if ahead > each * per_second.max(1) {
            return Err(ahead - each * per_second.max(1));
        }
        next.insert(room.to_owned(), then);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;

    #[test]
    fn a_room_has_a_second_s_worth_at_once_and_keeps_its_pace_after_that() {
        let pace = RotationPace::default();
        let (room, other, start) =
            (room_id!("!a:localhost"), room_id!("!b:localhost"), Instant::now());
        assert!((0..5).all(|_| pace.take(room, 5, start).is_ok()));
        let wait = pace.take(room, 5, start).unwrap_err();
        assert_eq!(wait, Duration::from_millis(200));
        assert!(pace.take(other, 5, start).is_ok(), "another room does not wait for it");
        assert!(pace.take(room, 5, start + wait).is_ok());
        assert!(pace.take(room, 5, start + wait).is_err());
    }

    #[test]
    fn rooms_that_wait_for_nothing_are_forgotten() {
        let pace = RotationPace::default();
        let start = Instant::now();
        for number in 0..REMEMBERED {
            let room = RoomId::parse(format!("!r{number}:localhost")).unwrap();
            assert!(pace.take(&room, 1, start).is_ok());
        }
        assert!(pace.take(room_id!("!a:localhost"), 1, start + Duration::from_secs(2)).is_ok());
        assert_eq!(pace.next.lock().unwrap().len(), 1);
    }
}
