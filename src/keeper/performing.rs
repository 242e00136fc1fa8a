//! Performing a plan: what comes first, and what waits for the next look.

use super::clock::now_ms;
use super::{
    KeeperError,
    decide::{Cause, Knowledge, Plan, Reason, Seal, Share},
    lane::{MOST_SEALS, Visit},
};
use crate::store::sessions;

impl Visit<'_> {
    /// Performs a plan. Returns whether anything was done that calls for another look.
    pub(super) async fn perform(
        &mut self,
        known: &Knowledge,
        plan: &Plan,
    ) -> Result<bool, KeeperError> {
        if !plan.retire.is_empty() {
            let mut transaction = self.lanes.taker.store.begin().await?;
            for (session, why) in &plan.retire {
                sessions::retire(&mut transaction, session, *why, now_ms()).await?;
            }
            transaction.commit().await?;
            return Ok(true);
        }
        // What stands there is wrong, and everybody looks at it.
        let restores: Vec<Seal> =
            plan.seals.iter().filter(|seal| seal.cause == Cause::Restore).cloned().collect();
        if let Some(restores) =
            restores.get(..restores.len().min(MOST_SEALS)).filter(|s| !s.is_empty())
        {
            return self.seal_in_order(known, restores).await;
        }
        let redactions = plan.redactions.get(..plan.redactions.len().min(MOST_SEALS));
        if let Some(redactions) = redactions.filter(|redactions| !redactions.is_empty())
            && self.redact(redactions).await?
        {
            return Ok(true);
        }
        // Whoever asked has waited for a turn of his own.
        if !plan.given.is_empty() {
            self.share(known, &plan.given).await?;
            return Ok(true);
        }
        if self.forward(known).await? {
            return Ok(true);
        }
        // Clients show what came last: before any seal.
        let copies = self.permitted_copies(known, plan).await?;
        if !copies.is_empty() {
            self.write_copies(&copies).await?;
            return Ok(true);
        }
        let (invitees, members): (Vec<Share>, Vec<Share>) = plan
            .shares
            .iter()
            .flat_map(split)
            .partition(|share| share.recipients.iter().all(|to| to.reason == Reason::Invite));
        // Somebody who looks at a room without a name waits for a refresh: that comes first, keys and all.
        let (rotations, seals): (Vec<Seal>, Vec<Seal>) =
            plan.seals.iter().cloned().partition(|seal| seal.cause == Cause::Rotation);
        let (refreshes, reseals): (Vec<Seal>, Vec<Seal>) =
            seals.into_iter().partition(|seal| seal.cause != Cause::Reseal);
        let refreshes = self.permitted(refreshes).await?;
        if !refreshes.is_empty() && self.affords(refreshes.iter().flat_map(|s| &s.recipients)) {
            return self.seal_in_order(known, &refreshes).await;
        }
        if !members.is_empty() && self.affords(members.iter().flat_map(|s| &s.recipients)) {
            self.share(known, &members).await?;
            return Ok(true);
        }
        if let Some(reseals) =
            reseals.get(..reseals.len().min(MOST_SEALS)).filter(|s| !s.is_empty())
        {
            return self.seal_in_order(known, reseals).await;
        }
        if !invitees.is_empty() && self.affords(invitees.iter().flat_map(|s| &s.recipients)) {
            self.share(known, &invitees).await?;
            return Ok(true);
        }
        if !plan.handovers.is_empty() {
            return self.hand_over(known, &plan.handovers).await;
        }
        let rotations = self.paced(rotations);
        if !rotations.is_empty() {
            return self.seal_in_order(known, &rotations).await;
        }
        Ok(false)
    }
}

/// A share is either for invitees or for members: nobody waits for an invitee.
pub fn split(share: &Share) -> Vec<Share> {
    let (invitees, members): (Vec<_>, Vec<_>) =
        share.recipients.iter().cloned().partition(|to| to.reason == Reason::Invite);
    [invitees, members]
        .into_iter()
        .filter(|recipients| !recipients.is_empty())
        .map(|recipients| Share { tuple: share.tuple, recipients })
        .collect()
}
