//! Deciding about those who may read a room before they join it. Pure.
//!
//! They stand apart from the members: nothing that is sealed waits for them, nothing is sealed anew for them, and only
//! those of whom there is something to decide are looked at.

use super::{
    Knowledge, Plan, Reason, Recipient, SealedView, Share, TupleView, entitlement, rotation,
};
use crate::{keeper::rules::Rules, policy::PreviewPolicy, store::Retired};

/// What has to be done about those who may read a room before they join it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreviewPlan {
    /// Keys to hand over.
    pub shares: Vec<Share>,
    /// Sessions that must never encrypt again, and why.
    pub retire: Vec<(String, Retired)>,
}

/// Decides what those lack who may read the room before they join it, and what they hold and should not.
pub fn decide_previews(known: &Knowledge, rules: &Rules) -> PreviewPlan {
    let mut plan = Plan::default();
    rotation::find_over(known, rules, &mut plan);
    let mut shares = Vec::new();
    if rules.unasked {
        for (place, view, sealed) in standing(known) {
            let recipients = lacking(known, rules, view, sealed);
            if !recipients.is_empty() {
                shares.push(Share { tuple: place, recipients });
            }
        }
    }
    PreviewPlan { shares, retire: plan.retire.into_iter().collect() }
}

/// The tuples whose current value the keeper sealed.
pub(super) fn standing(
    known: &Knowledge,
) -> impl Iterator<Item = (usize, &TupleView, &SealedView)> {
    known.tuples.iter().enumerate().filter_map(|(place, view)| {
        let (sealed, source) = (view.sealed.as_ref()?, view.source.as_ref()?);
        let is_current = sealed.stands && view.current_fit && !view.redacted;
        (is_current && source.event_id == sealed.from).then_some((place, view, sealed))
    })
}

fn lacking(
    known: &Knowledge,
    rules: &Rules,
    view: &TupleView,
    sealed: &SealedView,
) -> Vec<Recipient> {
    let mut recipients = Vec::new();
    let may_read = known.previewers.iter().filter(|it| it.standing.preview != PreviewPolicy::None);
    for previewer in may_read {
        for device in &previewer.devices {
            let holds = device
                .grants
                .get(&sealed.session_id)
                .is_some_and(|grant| grant.message_index <= sealed.message_index);
            if !holds && entitlement(previewer, device, &view.tuple, rules).is_grant() {
                recipients.push(Recipient {
                    user_id: previewer.user_id.clone(),
                    device_id: device.device_id.clone(),
                    reason: Reason::Preview,
                });
            }
        }
    }
    recipients
}
