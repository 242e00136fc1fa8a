//! Whether a room's state is sealed: what the room says of itself, and what its policy makes of that.

use ruma::RoomId;
use sqlx::SqliteConnection;

use super::{KeeperError, clock::now_ms, ingest::Taker};
use crate::{
    config::Seal,
    state::{JsonMap, RoomEncryption},
    store::{Retired, RoomRow, held_sessions, sessions},
};

/// Notes what an `m.room.encryption` event says. Once on, it stays on: clients refuse to turn encryption off, and so
/// does the keeper.
pub(super) fn hear(room: &mut RoomRow, content: &JsonMap) {
    let Some(encryption) = RoomEncryption::from_content(content) else { return };
    room.encrypted |= encryption.is_usable();
    room.flagged |= encryption.is_state_encrypted();
}

/// Notes in a room's row whether its state is sealed, by its policy as it is now. Returns whether that is news.
pub(super) fn weigh(taker: &Taker, room: &mut RoomRow) -> bool {
    let sealed = is_sealed(room, taker.rules.of(room).seal);
    std::mem::replace(&mut room.state_encrypted, sealed) != sealed
}

fn is_sealed(room: &RoomRow, seal: Seal) -> bool {
    match seal {
        Seal::Flagged => room.flagged,
        Seal::EncryptedRooms => room.encrypted,
        Seal::Off => false,
    }
}

/// Nothing more is sealed in a room. What was sealed stays; but who leaves from now on is not heard, so no session
/// goes on where it was, should the room be sealed again.
pub(super) async fn close(db: &mut SqliteConnection, room_id: &RoomId) -> Result<(), KeeperError> {
    held_sessions::left(db, room_id, None, now_ms()).await?;
    sessions::retire_all(db, room_id, Retired::NotSealed, now_ms()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::{Value, json};

    use super::*;
    use crate::state::Membership;

    fn hearing(said: &[Value]) -> RoomRow {
        let mut room = RoomRow::new(room_id!("!a:localhost").to_owned(), Membership::Join);
        for content in said {
            hear(&mut room, content.as_object().unwrap());
        }
        room
    }

    fn sealed(room: &RoomRow) -> [bool; 3] {
        [Seal::Flagged, Seal::EncryptedRooms, Seal::Off].map(|seal| is_sealed(room, seal))
    }

    #[test]
    fn policy_says_what_is_made_of_what_the_room_says() {
        let megolm = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
        let flagged = json!({ "algorithm": "m.megolm.v1.aes-sha2", "encrypt_state_events": true });
        let strange = json!({ "algorithm": "m.megolm.v9", "encrypt_state_events": true });
        assert_eq!(sealed(&hearing(&[])), [false; 3]);
        assert_eq!(sealed(&hearing(&[strange])), [false; 3]);
        assert_eq!(sealed(&hearing(std::slice::from_ref(&megolm))), [false, true, false]);
        assert_eq!(sealed(&hearing(std::slice::from_ref(&flagged))), [true, true, false]);
        // Nothing that comes later takes it back.
        assert_eq!(sealed(&hearing(&[flagged, megolm.clone(), json!({})])), [true, true, false]);
        assert_eq!(sealed(&hearing(&[megolm, json!({})])), [false, true, false]);
    }
}
