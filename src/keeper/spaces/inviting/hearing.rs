//! What changes who is to be invited, taken in with the commit that brings it.

use ruma::UserId;
use sqlx::SqliteConnection;

use crate::{
    keeper::{
        KeeperError,
        ingest::{Arrival, Taker},
        spaces::news,
    },
    policy::UserGlob,
    state::Membership,
    store::{RoomRow, invites},
};

/// Somebody's membership of a room has changed, by `sender`'s doing: an invite is answered, or he knocks.
pub(in crate::keeper) async fn take_member(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    sender: &UserId,
    (user, was, membership): (&UserId, Option<Membership>, Membership),
    arrival: Arrival,
) -> Result<(), KeeperError> {
    if !room.state_encrypted {
        return Ok(());
    }
    let (room_id, tick) = (&room.room_id, arrival.tick);
    match membership {
        Membership::Join => invites::made(db, room_id, user).await?,
        Membership::Invite => {
            invites::made(db, room_id, user).await?;
            // He may have left in the meantime what lets him in.
            news::withdraw(taker, db, std::slice::from_ref(room_id), Some(user), arrival).await?;
        }
        Membership::Leave | Membership::Ban => {
            let was_there =
                matches!(was, Some(Membership::Join | Membership::Invite | Membership::Knock));
            // What others did to him counts however long ago; that the keeper withdrew an invite does not.
            let put_out = sender != user && sender != taker.keeper;
            if was_there || put_out {
                invites::over(db, room_id, user, put_out, tick).await?;
            }
        }
        Membership::Knock => {
            if UserGlob::any(&taker.rules.global().accept_knocks_from, user) {
                invites::knock(db, room_id, user, tick, arrival.at).await?;
                taker.spaces.note_invite();
            }
        }
    }
    Ok(())
}
