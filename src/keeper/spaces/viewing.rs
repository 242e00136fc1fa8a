//! What a visit knows of those who are no members of its room: who may read it before they join it, and who holds
//! keys of it.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, UserId};
use sqlx::SqliteConnection;

use crate::{
    keeper::{
        KeeperError, decide::MemberView, knowledge::Grants, lane::Visit, letters::Letters,
        people::Company,
    },
    policy::PreviewPolicy,
    state::{Membership, StateTuple},
    store::{MemberRow, previews, rooms},
};

impl Visit<'_> {
    /// Those in the visit's scope who are not among its members. Of the room as a whole these are the ones alone whom
    /// the visit is for by name: they may be very many, and nothing that is sealed waits for them.
    pub(in crate::keeper) async fn previewers(
        &mut self,
        db: &mut SqliteConnection,
        company: &Company,
        members: &[MemberView],
        grants: &mut Grants,
    ) -> Result<Vec<MemberView>, KeeperError> {
        self.previewers.clear();
        let scope = self.scope.clone().unwrap_or_else(|| self.named.clone());
        let present: BTreeSet<&UserId> =
            members.iter().map(|member| member.user_id.as_ref()).collect();
        let mut views = Vec::new();
        for user in scope.iter().filter(|user| !present.contains(user.as_ref() as &UserId)) {
            if *user == self.lanes.taker.keeper {
                continue;
            }
            let member = self.outsider(db, user).await?;
            // Asked first, as of members.
            let settled = self.lanes.taker.device.is_settled(user);
            let known = self.lanes.taker.device.known_user(user).await?;
            let facts = self.facts(db, company, &member, known.master_key.as_deref()).await?;
            let whole = self.looked_at.is_none();
            if facts.1.preview == PreviewPolicy::None && (whole || !grants.contains_key(user)) {
                continue;
            }
            // What they hold is not read with what all members hold.
            if whole {
                self.read_grants(db, Some(user), grants).await?;
                self.overlay(grants);
            }
            let view = self.view(member, &known.devices, facts, company, grants);
            views.push(MemberView { settled, ..view });
            self.previewers.insert(user.clone());
        }
        Ok(views)
    }

    /// What is known of somebody's membership; of whom the room's state says nothing, he is not there.
    pub(in crate::keeper) async fn outsider(
        &self,
        db: &mut SqliteConnection,
        user: &UserId,
    ) -> Result<MemberRow, KeeperError> {
        let known = rooms::get_member(db, &self.room.room_id, user).await?;
        Ok(known.unwrap_or_else(|| MemberRow {
            user_id: user.to_owned(),
            membership: Membership::Leave,
            since: 0,
            arrived_at: 0,
            tick: 0,
            inviter: None,
        }))
    }

    /// Whether everybody for whom a key was encrypted without being a member may still read what it opens, and is
    /// none yet: asked in the very transaction that writes the grants, after which a departure from where he was let
    /// in finds them.
    pub(in crate::keeper) async fn may_still_preview(
        &self,
        db: &mut SqliteConnection,
        letters: &Letters,
    ) -> Result<bool, KeeperError> {
        let room = &self.room.room_id;
        let mut asked: BTreeSet<(OwnedUserId, StateTuple)> = BTreeSet::new();
        for grant in letters.grants.iter().filter(|grant| grant.preview) {
            asked.insert((grant.user_id.clone(), grant.tuple.clone()));
        }
        let mut before: Option<(OwnedUserId, PreviewPolicy)> = None;
        for (user, tuple) in asked {
            let preview = match &before {
                Some((known, preview)) if *known == user => *preview,
                _ => {
                    let member = rooms::get_member(db, room, &user).await?;
                    let has_come = member.is_some_and(|member| {
                        matches!(member.membership, Membership::Join | Membership::Invite)
                    });
                    if has_come {
                        return Ok(false);
                    }
                    previews::of_user(db, room, &user).await?
                }
            };
            if !preview.shows(&tuple) {
                return Ok(false);
            }
            before = Some((user, preview));
        }
        Ok(true)
    }
}
