//! Whether anything has changed about the people of a room: the database itself notes it, in the commit that changes
//! it, whichever process makes that.

use ruma::RoomId;
use sqlx::SqliteConnection;

use super::Result;

/// The people of a room, and what is known of them wherever they are, as they were at one moment. Two that are equal
/// are of the same people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Company(Vec<(String, Vec<u8>)>);

/// The people of a room as they are now. Read it before them: what changes meanwhile then counts as a change.
///
/// What it stands for: the rows of `members` and `words` of the room, `blocks`, the identities that were seen more
/// than once, and that no grant was taken back or made smaller.
///
/// # Errors
///
/// [`super::StoreError::Database`] when the database cannot be read.
pub async fn now(connection: &mut SqliteConnection, room: &RoomId) -> Result<Company> {
    let tokens = sqlx::query_as(
        "SELECT room_id, token FROM companies WHERE room_id IN ('', ?) ORDER BY room_id",
    )
    .bind(room.as_str())
    .fetch_all(connection)
    .await?;
    Ok(Company(tokens))
}

#[cfg(test)]
mod tests {
    use ruma::{RoomId, room_id, user_id};
    use secrecy::SecretString;

    use super::*;
    use crate::{
        policy::Word,
        state::{Membership, StateTuple},
        store::{MemberRow, NewGrant, Store, ledger, people, rooms},
    };

    fn room() -> &'static RoomId {
        room_id!("!room:localhost")
    }

    fn grant(user: &str, message_index: u32) -> NewGrant {
        NewGrant {
            session_id: "session".to_owned(),
            user_id: user.try_into().unwrap(),
            device_id: "PHONE".into(),
            message_index,
            reason: "join",
            again: false,
            tuple: StateTuple::new("m.room.name", ""),
            policy: String::new(),
            preview: false,
        }
    }

    #[tokio::test]
    async fn every_change_that_may_leave_somebody_without_a_key_is_noted_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let passphrase = SecretString::from("right");
        let store = Store::open(&folder.path().join("keeper.db"), &passphrase).await.unwrap();
        let (bob, elsewhere) = (user_id!("@bob:localhost"), room_id!("!elsewhere:localhost"));
        let mut db = store.begin().await.unwrap();
        let mut before = now(&mut db, room()).await.unwrap();
        macro_rules! expect {
            ($changes:expr, $what:expr) => {
                $what.await.unwrap();
                let after = now(&mut db, room()).await.unwrap();
                assert_eq!(after != before, $changes, stringify!($what));
                before = after;
            };
        }
        let member = |membership, tick| MemberRow {
            user_id: bob.to_owned(),
            membership,
            since: 1,
            arrived_at: 1,
            tick,
            inviter: None,
        };
        let joined = [member(Membership::Join, 1), member(Membership::Leave, 2)];
        expect!(true, rooms::put_member(&mut db, room(), &joined[0]));
        expect!(true, rooms::put_member(&mut db, room(), &joined[1]));
        expect!(true, rooms::put_member(&mut db, room(), &joined[0]));
        expect!(false, rooms::put_member(&mut db, elsewhere, &joined[0]));
        expect!(true, people::block(&mut db, bob, None, 1));
        expect!(true, people::unblock(&mut db, bob, None));
        expect!(true, people::say(&mut db, room(), bob, Word::Denied, 1));
        expect!(true, people::say(&mut db, room(), bob, Word::Approved, 2));
        expect!(false, people::say(&mut db, elsewhere, bob, Word::Denied, 1));
        expect!(false, people::see_identity(&mut db, bob, "first", 1));
        expect!(false, people::see_identity(&mut db, bob, "first", 2));
        expect!(true, people::see_identity(&mut db, bob, "second", 1));
        expect!(false, people::see_identity(&mut db, bob, "second", 2));
        expect!(true, people::see_identity(&mut db, bob, "first", 1));
        let (first, wider) = ([grant("@bob:localhost", 3)], [grant("@bob:localhost", 2)]);
        expect!(false, ledger::grant(&store, &mut db, room(), &first, 1));
        expect!(false, ledger::grant(&store, &mut db, room(), &wider, 1));
        expect!(false, ledger::grant(&store, &mut db, room(), &first, 1));
        expect!(true, ledger::withdraw(&store, &mut db, "session", (bob, "PHONE".into()), 1));
        expect!(false, ledger::grant(&store, &mut db, room(), &first, 1));
        expect!(true, ledger::doubt(&store, &mut db, bob, "PHONE".into()));
        let _ = before;
    }
}
