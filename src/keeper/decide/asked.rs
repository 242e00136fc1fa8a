//! Deciding about key requests: what is asked for, and what of it the asker gets. Pure.

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedUserId};

use super::{
    DeviceView, Knowledge, MemberView, Plan, Reason, Recipient, SealedView, Share, TupleView,
    entitlement, preview,
};
use crate::{
    keeper::rules::Rules,
    policy::{Entitlement, PreviewPolicy, WithheldCode},
    state::StateTuple,
};

/// A request for the key of one of the keeper's sessions.
#[derive(Clone, Debug)]
pub struct RequestView {
    /// Who asks.
    pub user_id: OwnedUserId,
    /// From which device, by its own word.
    pub device_id: OwnedDeviceId,
    /// The session that is asked for.
    pub session_id: String,
    /// The tuple that the session is for; `None` is all of the room's state.
    pub tuple: Option<StateTuple>,
    /// Whether it may wait until its sender is heard of: it may have overtaken the join.
    pub may_wait: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The key goes out.
    Give,
    /// The device was given the key a short while ago, and has it.
    Holds,
    /// The device is told that it gets no key: [`Entitlement::Withhold`] or [`Entitlement::Hold`].
    Refuse(Entitlement),
    /// Nothing is said.
    Silence,
    /// It cannot be said yet.
    Wait,
}

/// Answers every request of [`Knowledge::requests`], in its order, and plans the keys that go out.
pub(super) fn decide_requests(known: &Knowledge, rules: &Rules, now: i64, plan: &mut Plan) {
    let mut given: BTreeMap<usize, Vec<Recipient>> = BTreeMap::new();
    for request in &known.requests {
        let (answer, keys) = answer(known, rules, now, request);
        for (tuple, reason) in keys {
            let recipients = given.entry(tuple).or_default();
            let recipient = Recipient {
                user_id: request.user_id.clone(),
                device_id: request.device_id.clone(),
                reason,
            };
            if !recipients.contains(&recipient) {
                recipients.push(recipient);
            }
        }
        plan.answers.push(answer);
    }
    plan.given = given.into_iter().map(|(tuple, recipients)| Share { tuple, recipients }).collect();
}

/// The answer to one request, with the tuples whose keys go out and why.
fn answer(
    known: &Knowledge,
    rules: &Rules,
    now: i64,
    request: &RequestView,
) -> (Answer, Vec<(usize, Reason)>) {
    let nothing = |answer| (answer, Vec::new());
    let unheard = if request.may_wait { Answer::Wait } else { Answer::Silence };
    let Some((member, has_joined)) = asker(known, request) else { return nothing(unheard) };
    let device = member.devices.iter().find(|device| device.device_id == request.device_id);
    let Some(device) = device else {
        return nothing(if member.settled { Answer::Silence } else { Answer::Wait });
    };
    let current: Vec<(usize, &TupleView, &SealedView)> = current_values(known, request).collect();
    let entitled = |tuple: &StateTuple| entitlement(member, device, tuple, rules);
    let granted: Vec<_> =
        current.iter().filter(|(_, view, _)| entitled(&view.tuple).is_grant()).collect();
    if granted.is_empty() {
        let answer = without_a_value(known, rules, (member, device), request, &current);
        // The join that entitles him to more may be on its way.
        return nothing(match answer {
            Answer::Silence if !has_joined => unheard,
            answer => answer,
        });
    }
    let keys: Vec<(usize, Reason)> = granted
        .into_iter()
        .filter_map(|(place, _, sealed)| Some((*place, why(device, sealed, rules, now)?)))
        .collect();
    if keys.is_empty() { nothing(Answer::Holds) } else { (Answer::Give, keys) }
}

/// Who asks, and whether he is in the room or invited to it: others may be who may read it before they join.
fn asker<'k>(known: &'k Knowledge, request: &RequestView) -> Option<(&'k MemberView, bool)> {
    let asks = |member: &&MemberView| member.user_id == request.user_id;
    let previewer = || {
        let found = known.previewers.iter().find(asks);
        found.filter(|previewer| previewer.standing.preview != PreviewPolicy::None)
    };
    let member = known.members.iter().find(asks).map(|member| (member, true));
    member.or_else(|| previewer().map(|previewer| (previewer, false)))
}

/// The tuples whose current value stands under the session that is asked for.
fn current_values<'k>(
    known: &'k Knowledge,
    request: &'k RequestView,
) -> impl Iterator<Item = (usize, &'k TupleView, &'k SealedView)> {
    preview::standing(known).filter(|(_, _, sealed)| sealed.session_id == request.session_id)
}

/// No current value stands under the session, or none that the device may read.
fn without_a_value(
    known: &Knowledge,
    rules: &Rules,
    (member, device): (&MemberView, &DeviceView),
    request: &RequestView,
    current: &[(usize, &TupleView, &SealedView)],
) -> Answer {
    let name = StateTuple::new("m.room.name", "");
    let tuple = request.tuple.as_ref().or(current.first().map(|(_, view, _)| &view.tuple));
    match entitlement(member, device, tuple.unwrap_or(&name), rules) {
        Entitlement::Silence => Answer::Silence,
        // The news of the devices may be that this one is signed.
        Entitlement::Withhold(_) | Entitlement::Hold(_) if !member.settled => Answer::Wait,
        refused @ (Entitlement::Withhold(_) | Entitlement::Hold(_)) => Answer::Refuse(refused),
        // The next value is about to be sealed under it.
        Entitlement::Grant if is_in_use(known, request) => Answer::Wait,
        Entitlement::Grant => Answer::Refuse(Entitlement::Withhold(WithheldCode::Unavailable)),
    }
}

fn is_in_use(known: &Knowledge, request: &RequestView) -> bool {
    known
        .tuples
        .iter()
        .filter(|view| !view.redacted && view.source.is_some())
        .any(|view| view.active.as_ref().is_some_and(|(session, _)| *session == request.session_id))
}

/// Why a device is given the key of a value; `None` when it was given it a short while ago.
fn why(device: &DeviceView, sealed: &SealedView, rules: &Rules, now: i64) -> Option<Reason> {
    let held = device.grants.get(&sealed.session_id);
    match held.filter(|grant| grant.message_index <= sealed.message_index) {
        None => Some(Reason::Request),
        Some(grant) => {
            let is_over = now.saturating_sub(grant.granted_at) >= rules.cool_down;
            is_over.then_some(Reason::Resend)
        }
    }
}
