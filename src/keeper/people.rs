//! The people whom a decision is about: what is known of them, and what the decision notes of them.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::Value;
use sqlx::SqliteConnection;

use super::{
    KeeperError,
    clock::now_ms,
    ingest::{Taker, power_levels},
    lane::Visit,
    letters::Letters,
    rules::Rules,
};
use crate::{
    policy::{HoldReason, MemberFacts, MemberPolicy, PreviewPolicy, UserFacts, Word},
    state::{Membership, PowerLevel, PowerLevels, rooms_let_in},
    store::{Identity, Inviter, MemberRow, People, RoomRow, marks, people, previews, rooms},
};

/// What is known of a room's people beside their memberships.
pub(super) struct Company {
    said: People,
    identities: BTreeMap<OwnedUserId, Identity>,
    levels: PowerLevels,
    /// Rooms whose members the join rule lets in, as far as the keeper is in them.
    spaces: Vec<OwnedRoomId>,
}

/// Who is held after a decision, with the scope of that decision; `None` is everybody.
pub(super) type Held = (Option<BTreeSet<OwnedUserId>>, Vec<(OwnedUserId, HoldReason)>);

impl Company {
    /// Whether an administrator blocked the device.
    pub(super) fn is_device_blocked(&self, user: &UserId, device: &ruma::DeviceId) -> bool {
        self.said.is_device_blocked(user, device)
    }
}

impl Visit<'_> {
    /// Gathers what is known of the people in the visit's scope.
    pub(super) async fn company(&self, db: &mut SqliteConnection) -> Result<Company, KeeperError> {
        let room_id = &self.room.room_id;
        Ok(Company {
            said: People::of_room(db, room_id, self.looked_at.as_ref()).await?,
            identities: people::identities(db, room_id, self.looked_at.as_ref()).await?,
            levels: power_levels(&self.room),
            spaces: match self.rules.sharing.members {
                MemberPolicy::Vouched(_) => spaces_of(db, &self.room).await?,
                MemberPolicy::Joined | MemberPolicy::Approved => Vec::new(),
            },
        })
    }

    /// What policy weighs of a member, beside the devices.
    pub(super) async fn facts(
        &mut self,
        db: &mut SqliteConnection,
        company: &Company,
        member: &MemberRow,
        master_key: Option<&str>,
    ) -> Result<(UserFacts, MemberFacts), KeeperError> {
        let user = &member.user_id;
        let rules = self.lanes.taker.rules.global();
        let facts = UserFacts {
            admitted: rules.access.admits(user),
            blocked: company.said.is_blocked(user),
            identity_changed: self.is_changed(company, user, master_key),
            is_admin: rules.admins.contains(user),
        };
        let standing = MemberFacts {
            membership: Some(member.membership),
            power: company.levels.user_level(user),
            inviter_power: member.inviter.as_ref().map(|inviter| PowerLevel::Level(inviter.power)),
            through_space: is_in_any(db, &company.spaces, user).await?,
            preview: match member.membership {
                Membership::Join => PreviewPolicy::None,
                _ => previews::of_user(db, &self.room.room_id, user).await?,
            },
            word: company.said.word(user),
        };
        Ok((facts, standing))
    }

    /// Whether a user's identity is another than the one that counts. What has to be noted of it is noted by
    /// the visit's next commit: the very one that lets a key go, if one goes.
    fn is_changed(&mut self, company: &Company, user: &UserId, master_key: Option<&str>) -> bool {
        let Some(key) = master_key else { return false };
        let known = company.identities.get(user);
        let newest = known.map(|known| known.changed_to.as_ref().unwrap_or(&known.master_key));
        if newest.is_none_or(|newest| newest != key) {
            self.sightings.insert(user.to_owned(), key.to_owned());
        }
        known.is_some_and(|known| known.master_key != key)
    }

    /// Notes which identities were seen, as part of the caller's transaction.
    pub(super) async fn note_sightings(
        &mut self,
        db: &mut SqliteConnection,
    ) -> Result<(), KeeperError> {
        for (user, key) in std::mem::take(&mut self.sightings) {
            people::see_identity(db, &user, &key, now_ms()).await?;
        }
        Ok(())
    }

    /// Whether an administrator has refused anybody for whom a key was encrypted: asked in the transaction that
    /// writes the grants, because an administrator's command may have come since the decision.
    pub(super) async fn any_refused(
        &self,
        db: &mut SqliteConnection,
        letters: &Letters,
    ) -> Result<bool, KeeperError> {
        let said = People::of_room(db, &self.room.room_id, None).await?;
        Ok(letters.grants.iter().any(|grant| {
            said.is_blocked(&grant.user_id)
                || said.is_device_blocked(&grant.user_id, &grant.device_id)
                || said.word(&grant.user_id) == Some(Word::Denied)
        }))
    }

    /// Makes the holds of the visit's scope those of its last decision, as part of the caller's transaction.
    pub(super) async fn settle_holds(
        &mut self,
        db: &mut SqliteConnection,
    ) -> Result<(), KeeperError> {
        let Some((scope, held)) = self.held.take() else { return Ok(()) };
        let room_id = &self.room.room_id;
        for row in people::holds(db, Some(room_id), None).await? {
            let concerned = scope.as_ref().is_none_or(|scope| scope.contains(&row.user_id));
            if concerned && !held.iter().any(|(user, _)| *user == row.user_id) {
                people::let_go(db, room_id, Some(&row.user_id)).await?;
            }
        }
        for (user, reason) in held {
            // Whoever left since the decision is nobody's concern any more.
            let member = rooms::get_member(db, room_id, &user).await?;
            let present = member.is_some_and(|member| {
                matches!(member.membership, Membership::Join | Membership::Invite)
            });
            if present && people::hold(db, room_id, &user, reason, now_ms()).await? {
                tracing::info!(room = %room_id, %user, reason = reason.as_str(),
                    "a member is held: no keys before an administrator's word");
            }
        }
        Ok(())
    }
}

/// Who invited a member, where an event tells it: an invite does, and a join keeps what the invite told.
pub fn inviter(
    room: &RoomRow,
    sender: &UserId,
    membership: Membership,
    before: Option<&MemberRow>,
) -> Option<Inviter> {
    match membership {
        Membership::Invite => {
            let power = match power_levels(room).user_level(sender) {
                PowerLevel::Level(level) => level,
                PowerLevel::Infinite => i64::MAX,
            };
            Some(Inviter { user_id: sender.to_owned(), power })
        }
        Membership::Join => before
            .filter(|before| before.membership == Membership::Invite)
            .and_then(|before| before.inviter.clone()),
        Membership::Leave | Membership::Ban | Membership::Knock => None,
    }
}

/// Promises to decide anew upon a user in the other rooms, which may have been let in, or not any more, by
/// the one where the membership changed.
pub(super) async fn mark_let_in(
    taker: &Taker,
    db: &mut SqliteConnection,
    space: &RoomId,
    user: &UserId,
) -> Result<(), KeeperError> {
    if !taker.rules.any(by_vouching) {
        return Ok(());
    }
    for room in rooms::rooms_of(db, user).await?.iter().filter(|room| **room != *space) {
        if rooms::get(db, room).await?.is_some_and(|room| by_vouching(&taker.rules.of(&room))) {
            marks::mark(db, room, Some(user), now_ms(), taker.store.next_tick()).await?;
        }
    }
    Ok(())
}

/// Promises to decide anew upon all rooms that let in the members of one that the keeper came into or left.
pub(super) async fn mark_all_let_in(
    taker: &Taker,
    db: &mut SqliteConnection,
    space: &RoomId,
) -> Result<(), KeeperError> {
    if !taker.rules.any(by_vouching) {
        return Ok(());
    }
    for room in rooms::all(db).await? {
        if by_vouching(&taker.rules.of(&room)) && named_by(&room).iter().any(|id| id == space) {
            marks::mark(db, &room.room_id, None, now_ms(), taker.store.next_tick()).await?;
        }
    }
    Ok(())
}

fn by_vouching(rules: &Rules) -> bool {
    matches!(rules.sharing.members, MemberPolicy::Vouched(_))
}

pub(super) fn named_by(room: &RoomRow) -> Vec<OwnedRoomId> {
    let content = room.join_rules.as_ref().and_then(|json| serde_json::from_str(json).ok());
    match content {
        Some(Value::Object(content)) => rooms_let_in(&content),
        _ => Vec::new(),
    }
}

async fn spaces_of(
    db: &mut SqliteConnection,
    room: &RoomRow,
) -> Result<Vec<OwnedRoomId>, KeeperError> {
    let mut spaces = Vec::new();
    for space in named_by(room) {
        let known = rooms::get(db, &space).await?;
        if known.is_some_and(|known| known.membership == Membership::Join && known.loaded) {
            spaces.push(space);
        }
    }
    Ok(spaces)
}

async fn is_in_any(
    db: &mut SqliteConnection,
    spaces: &[OwnedRoomId],
    user: &UserId,
) -> Result<bool, KeeperError> {
    for space in spaces {
        let member = rooms::get_member(db, space, user).await?;
        if member.is_some_and(|member| member.membership == Membership::Join) {
            return Ok(true);
        }
    }
    Ok(false)
}
