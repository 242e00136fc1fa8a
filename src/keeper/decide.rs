//! Deciding: what is known of a room, and what has to be done about it. Pure.
//!
//! Nothing has to be remembered beside who holds what and what was sealed when. Joins, invites that race
//! with joins, new devices, edits and restarts all come out of one comparison, so a kill can lose
//! none of them: whoever decides next finds the same difference again.

mod asked;
mod late;
mod ordered;
mod plain;
mod preview;
mod rest;
mod restore;
mod rotation;

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedDeviceId, OwnedEventId, OwnedUserId};

pub(super) use self::late::came_late;
use self::late::{is_new_device, reason};
pub use self::{
    asked::{Answer, RequestView},
    plain::{CopyKind, ExemptView, MOST_ANSWERS, PlainPut, PlainView, QUIET_AFTER, Warning},
    preview::{PreviewPlan, decide_previews},
    rest::Rest,
    restore::{Breach, MOST_ROUNDS, Owed, Remedy, WAR_WITHIN},
    rotation::Handover,
};
use super::rules::{Reseal, Rules};
use crate::{
    policy::{self, DeviceFacts, Entitlement, HoldReason, MemberFacts, UserFacts},
    state::{Membership, StateTuple},
    store::{Grant, Over, Retired},
};

/// A device in the scope of a decision.
#[derive(Clone, Debug)]
pub struct DeviceView {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// What policy weighs.
    pub facts: DeviceFacts,
    /// When the keeper first saw it, in milliseconds.
    pub first_seen: i64,
    /// What it holds, by session.
    pub grants: BTreeMap<String, Grant>,
}

/// A member in the scope of a decision.
#[derive(Clone, Debug)]
pub struct MemberView {
    /// Who.
    pub user_id: OwnedUserId,
    /// Joined or invited.
    pub membership: Membership,
    /// What policy weighs of the user.
    pub user: UserFacts,
    /// What policy weighs of the member, beside the membership.
    pub standing: MemberFacts,
    /// Since when at the latest, in milliseconds.
    pub since: i64,
    /// The tick at which the membership was taken in.
    pub tick: i64,
    /// Whether a device that is not among `devices` does not exist. It was asked before they were read: what became
    /// known in between must not make them complete.
    pub settled: bool,
    /// The user's devices.
    pub devices: Vec<DeviceView>,
    /// Others that could not be written to: they are given nothing for now, and what they hold counts.
    pub unreachable: Vec<DeviceView>,
    /// Sessions that devices of this user hold which exist no more.
    pub orphaned: BTreeSet<String>,
    /// The tick of the first key that any device of this user, also one that exists no more, was given.
    pub first_key: Option<i64>,
}

/// The value that a tuple should show.
#[derive(Clone, Debug)]
pub struct SourceView {
    /// The event that said it.
    pub event_id: OwnedEventId,
    /// When it arrived, in milliseconds.
    pub at: i64,
    /// The tick at which it was taken in.
    pub tick: i64,
    /// Whether it stands in no event yet: nobody knows it before it is sealed.
    pub unsaid: bool,
}

/// The value that the keeper sealed.
#[derive(Clone, Debug)]
pub struct SealedView {
    /// The event that it stands for.
    pub from: OwnedEventId,
    /// Its session.
    pub session_id: String,
    /// Its index.
    pub message_index: u32,
    /// The tick before its sending.
    pub tick: i64,
    /// Whether it is what stands in the room now.
    pub stands: bool,
}

/// A state tuple that is, or should be, sealed.
#[derive(Clone, Debug)]
pub struct TupleView {
    /// The true type and state key.
    pub tuple: StateTuple,
    /// The newest value that a member was allowed to give it.
    pub source: Option<SourceView>,
    /// What the keeper sealed last.
    pub sealed: Option<SealedView>,
    /// The session that may encrypt next, with the index that it is at; `None` calls for a new one.
    pub active: Option<(String, u32)>,
    /// One that would encrypt next if it were not too old or had not encrypted too much, and which of these it is.
    pub worn: Option<(String, Retired)>,
    /// Since when the session of the sealed value encrypts no more.
    pub over: Option<Over>,
    /// When the active session is too old, in milliseconds.
    pub wears_out_at: Option<i64>,
    /// Whether the current event is one that the keeper may stand on.
    pub current_fit: bool,
    /// The rule that what it shows has broken.
    pub breach: Option<Breach>,
    /// What stands in plain.
    pub plain: Option<PlainView>,
    /// Whether the keeper may write a copy in plain: it has the power for the type, and the value is not its sender's.
    pub may_write_plain: bool,
    /// Whether its value was redacted: final.
    pub redacted: bool,
    /// When it was last refreshed for joiners, in milliseconds.
    pub refreshed_at: i64,
    /// When it was last refreshed for devices, in milliseconds.
    pub device_refresh_at: i64,
}

/// What is known of a room.
#[derive(Clone, Debug)]
pub struct Knowledge {
    /// Whether the keeper may send sealed state there.
    pub elevated: bool,
    /// Whether the keeper may redact what others sent.
    pub may_redact: bool,
    /// The critical types of which the keeper has the power to say in plain again what stands there.
    pub sayable: Vec<&'static str>,
    /// Whether `members` is everybody, or only those about whom there is something to decide.
    pub whole_room: bool,
    /// The members in scope.
    pub members: Vec<MemberView>,
    /// Those in scope who are no members and may read the room before they join it, or were given keys of it.
    pub previewers: Vec<MemberView>,
    /// The room's tuples.
    pub tuples: Vec<TupleView>,
    /// What members sealed of exempt types.
    pub exempt: Vec<ExemptView>,
    /// What broke a rule where the keeper never seals.
    pub forged: Vec<Breach>,
    /// State in plain that is to be redacted.
    pub owed: Vec<Owed>,
    /// Sessions that users hold who are not in the room any more.
    pub departed: BTreeSet<String>,
    /// What is asked for and has to be answered.
    pub requests: Vec<RequestView>,
    /// What was sealed at this tick or before an administrator wants sealed once more.
    pub refresh_upto: i64,
}

/// Why a device is given a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its user is invited.
    Invite,
    /// Its user joined.
    Join,
    /// It became entitled later than its user.
    Device,
    /// Something is about to be sealed.
    Seal,
    /// It asked.
    Request,
    /// It asked once more, long after it was given the key.
    Resend,
    /// It asked for a session that a member made.
    Forward,
    /// The session before was retired, and nothing is sealed under this one yet.
    Rotation,
    /// Its user may join.
    Preview,
}

impl Reason {
    /// The label in metrics and in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invite => "invite",
            Self::Join => "join",
            Self::Device => "device",
            Self::Seal => "seal",
            Self::Request => "request",
            Self::Resend => "resend",
            Self::Forward => "forward",
            Self::Rotation => "rotation",
            Self::Preview => "preview",
        }
    }

    /// Whether the device asked for it.
    pub fn is_asked(self) -> bool {
        matches!(self, Self::Request | Self::Resend | Self::Forward)
    }
}

/// Why something is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A member gave the tuple a value.
    Reseal,
    /// Joiners got the key after their join, and their clients read only what comes after a key.
    Join,
    /// Devices got the key after they had seen the event.
    Device,
    /// The session that it was sealed under was retired.
    Rotation,
    /// What stands there broke a rule.
    Restore,
    /// An administrator said so.
    Admin,
    /// A copy in plain went out after it: clients show what came last.
    Plain,
}

impl Cause {
    /// The label in metrics and in the outbox.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reseal => "reseal",
            Self::Join => "join",
            Self::Device => "device",
            Self::Rotation => "rotation",
            Self::Restore => "restore",
            Self::Admin => "admin",
            Self::Plain => "plain",
        }
    }
}

/// A device that is to be given a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Whose.
    pub user_id: OwnedUserId,
    /// Which.
    pub device_id: OwnedDeviceId,
    /// Why.
    pub reason: Reason,
}

/// The key of a tuple's current value, for devices that lack it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which tuple, by its place in [`Knowledge::tuples`].
    pub tuple: usize,
    /// To whom.
    pub recipients: Vec<Recipient>,
}

/// A tuple to be sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Which tuple, by its place in [`Knowledge::tuples`].
    pub tuple: usize,
    /// Why.
    pub cause: Cause,
    /// Who must have the key before the event goes out.
    pub recipients: Vec<Recipient>,
    /// The event that is redacted once this one stands.
    pub redacts: Option<OwnedEventId>,
}

/// What has to be done about a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Keys to hand over.
    pub shares: Vec<Share>,
    /// Tuples to seal, after the keys.
    pub seals: Vec<Seal>,
    /// Sessions that must never encrypt again, and why.
    pub retire: BTreeMap<String, Retired>,
    /// Sessions to hand over before anything is sealed under them.
    pub handovers: Vec<Handover>,
    /// What is redacted, with nothing sealed in its place.
    pub redactions: Vec<Breach>,
    /// Copies in plain to write, before anything is sealed.
    pub plain: Vec<PlainPut>,
    /// Copies in plain that are left there, and what is wrong with each.
    pub warnings: Vec<(StateTuple, OwnedEventId, Warning)>,
    /// Keys to hand over because they were asked for.
    pub given: Vec<Share>,
    /// What becomes of each of [`Knowledge::requests`], in its order.
    pub answers: Vec<Answer>,
    /// Devices that get nothing, and why: withheld or held.
    pub refusals: Vec<(OwnedUserId, OwnedDeviceId, Entitlement)>,
    /// Members in scope about whom an administrator has to decide, and why.
    pub holds: Vec<(OwnedUserId, HoldReason)>,
    /// Whether the decision needs all members: what is planned here is not to be performed.
    pub needs_whole_room: bool,
    /// When to decide again though nothing happens, in milliseconds.
    pub again_at: Option<i64>,
    /// When the first of the sessions is too old that are to be followed though nothing changes, in milliseconds.
    pub wears_out_at: Option<i64>,
}

impl MemberView {
    /// What policy weighs of the member.
    pub(super) fn facts(&self) -> MemberFacts {
        MemberFacts { membership: Some(self.membership), ..self.standing }
    }
}

impl Plan {
    /// Whether there is nothing to perform.
    pub fn is_idle(&self) -> bool {
        self.shares.is_empty()
            && self.seals.is_empty()
            && self.handovers.is_empty()
            && self.retire.is_empty()
            && self.redactions.is_empty()
            && self.plain.is_empty()
            && self.answers.is_empty()
    }

    fn again(&mut self, at: i64) {
        self.again_at = Some(self.again_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Decides what has to be done about a room at `now` (milliseconds).
pub fn decide(known: &Knowledge, rules: &Rules, now: i64) -> Plan {
    let mut plan = Plan::default();
    find_refused(known, rules, &mut plan);
    rotation::find_over(known, rules, &mut plan);
    for (place, tuple) in known.tuples.iter().enumerate() {
        decide_tuple(known, rules, now, place, tuple, &mut plan);
    }
    for view in &known.exempt {
        plain::decide_exempt(rules, now, view, &mut plan);
    }
    for breach in &known.forged {
        restore::decide_alone(known, rules, breach, &mut plan);
    }
    for owed in &known.owed {
        restore::decide_owed(known, rules, owed, &mut plan);
    }
    asked::decide_requests(known, rules, now, &mut plan);
    plan.wears_out_at = rotation::wears_out_at(known, rules);
    plan
}

fn find_refused(known: &Knowledge, rules: &Rules, plan: &mut Plan) {
    for member in &known.members {
        let held = policy::hold(&member.user, &member.facts(), &rules.sharing);
        plan.holds.extend(held.map(|reason| (member.user_id.clone(), reason)));
        for device in &member.devices {
            let name = StateTuple::new("m.room.name", "");
            let refused = entitlement(member, device, &name, rules);
            if matches!(refused, Entitlement::Withhold(_) | Entitlement::Hold(_)) {
                plan.refusals.push((member.user_id.clone(), device.device_id.clone(), refused));
            }
        }
    }
}

fn entitlement(
    member: &MemberView,
    device: &DeviceView,
    tuple: &StateTuple,
    rules: &Rules,
) -> Entitlement {
    policy::entitlement(&device.facts, &member.user, &member.facts(), tuple, &rules.sharing)
}

fn decide_tuple(
    known: &Knowledge,
    rules: &Rules,
    now: i64,
    place: usize,
    view: &TupleView,
    plan: &mut Plan,
) {
    if view.redacted {
        return;
    }
    if let Some(breach) = &view.breach
        && breach.remedy(rules) != Remedy::Report
        // What is allowed goes on, in a war and where the keeper cannot seal: whose it is, and what stands beside it, hides
        // nothing. And a value that is not read yet may be an allowed one, whatever its time and whatever stands in plain.
        && (!breach.rule.leaves_value()
            || (!breach.waits && known.elevated && view.current_fit))
    {
        return restore::decide_tuple(known, rules, (place, view, breach), plan);
    }
    if !view.current_fit {
        return;
    }
    let Some(source) = &view.source else { return };
    let sealed = view.sealed.as_ref().filter(|sealed| sealed.from == source.event_id);
    match sealed {
        None => decide_reseal(known, rules, now, place, view, source, plan),
        Some(sealed) if sealed.stands => {
            decide_sharing(known, rules, now, place, view, sealed, plan);
            rotation::decide_rotation(known, rules, now, (place, view), sealed, plan);
            ordered::decide_ordered(known, rules, (place, view), sealed, plan);
        }
        Some(_) => {}
    }
    plain::decide_copy(known, rules, now, (place, view), plan);
}

/// The tuple has a value that is not sealed.
fn decide_reseal(
    known: &Knowledge,
    rules: &Rules,
    now: i64,
    place: usize,
    view: &TupleView,
    source: &SourceView,
    plan: &mut Plan,
) {
    // A value that the keeper's own event has hidden is missed by everybody.
    let hidden = view.sealed.as_ref().is_some_and(|sealed| sealed.stands);
    let known_already = !hidden && !source.unsaid && !is_needed(known, source);
    let waits = rules.reseal == Reseal::OnNeed && known_already;
    if !known.elevated || waits {
        return;
    }
    let due = source.at.saturating_add(rules.reseal_delay);
    // A value of the future is one that the keeper is silent about, but not towards those who lack its key.
    let speaks = source.at > now && is_needed(known, source);
    if now < due && !speaks {
        return plan.again(due);
    }
    if !known.whole_room {
        plan.needs_whole_room = true;
        return;
    }
    let recipients = before_a_seal(known, rules, view);
    plan.seals.push(Seal { tuple: place, cause: Cause::Reseal, recipients, redacts: None });
}

/// Whether somebody came, or some device, after the value did: its author's client had no key for them.
fn is_needed(known: &Knowledge, source: &SourceView) -> bool {
    known.members.iter().any(|member| {
        member.tick > source.tick
            || member.devices.iter().any(|device| device.first_seen > source.at)
    })
}

/// The joined members' devices that lack the key of the tuple's next event. Invitees hold no seal up.
fn before_a_seal(known: &Knowledge, rules: &Rules, view: &TupleView) -> Vec<Recipient> {
    let mut recipients = Vec::new();
    if !rules.unasked {
        return recipients;
    }
    for member in known.members.iter().filter(|member| member.membership == Membership::Join) {
        for device in &member.devices {
            let holds = view.active.as_ref().is_some_and(|(session, next)| {
                device.grants.get(session).is_some_and(|grant| grant.message_index <= *next)
            });
            if !holds && entitlement(member, device, &view.tuple, rules).is_grant() {
                recipients.push(Recipient {
                    user_id: member.user_id.clone(),
                    device_id: device.device_id.clone(),
                    reason: Reason::Seal,
                });
            }
        }
    }
    recipients
}

/// The tuple's value is sealed: who lacks its key, and who got it too late to read the event?
///
/// A member who lacks it now gets it too late in any case. So the refresh is planned beside the share: where it
/// may happen at once, the key goes with it, and the share is done.
fn decide_sharing(
    known: &Knowledge,
    rules: &Rules,
    now: i64,
    place: usize,
    view: &TupleView,
    sealed: &SealedView,
    plan: &mut Plan,
) {
    let mut recipients = Vec::new();
    let mut late: Option<Cause> = None;
    let mut is_late = |member: &MemberView, device: &DeviceView| {
        let new = is_new_device(member, device, sealed);
        let cause = if new { Cause::Device } else { Cause::Join };
        late = Some(late.map_or(cause, |earlier| earlier.min(cause)));
    };
    for member in &known.members {
        for device in &member.devices {
            if !entitlement(member, device, &view.tuple, rules).is_grant() {
                continue;
            }
            let grant = device
                .grants
                .get(&sealed.session_id)
                .filter(|grant| grant.message_index <= sealed.message_index);
            match grant {
                // It has to ask (MSC3414).
                None if !rules.unasked => {}
                None => {
                    recipients.push(Recipient {
                        user_id: member.user_id.clone(),
                        device_id: device.device_id.clone(),
                        reason: reason(member, device, sealed),
                    });
                    if member.membership == Membership::Join {
                        is_late(member, device);
                    }
                }
                Some(grant) if came_late(member, grant, sealed) => is_late(member, device),
                Some(_) => {}
            }
        }
    }
    if let Some(cause) = late {
        decide_refresh(known, rules, now, (place, view), (cause, &recipients), plan);
    }
    if !recipients.is_empty() {
        plan.shares.push(Share { tuple: place, recipients });
    }
}

fn decide_refresh(
    known: &Knowledge,
    rules: &Rules,
    now: i64,
    (place, view): (usize, &TupleView),
    (cause, lacking): (Cause, &[Recipient]),
    plan: &mut Plan,
) {
    if !known.elevated {
        return;
    }
    let due = match cause {
        Cause::Join => view.refreshed_at.saturating_add(rules.refresh_window),
        Cause::Device if view.tuple.is_aesthetic() => {
            view.device_refresh_at.saturating_add(rules.device_refresh_interval)
        }
        _ => return,
    };
    if now < due {
        return plan.again(due);
    }
    let goes_on = matches!((&view.active, &view.sealed), (Some((active, _)), Some(sealed))
        if *active == sealed.session_id);
    if !goes_on {
        // Everybody needs the new session's key, which takes longer: what stands there is shared first.
        if lacking.iter().any(|to| to.reason != Reason::Invite) {
            return;
        }
        if !known.whole_room {
            plan.needs_whole_room = true;
            return;
        }
    }
    let mut recipients = before_a_seal(known, rules, view);
    let reasons: BTreeMap<_, _> =
        lacking.iter().map(|to| ((&to.user_id, &to.device_id), to.reason)).collect();
    for to in &mut recipients {
        let why = reasons.get(&(&to.user_id, &to.device_id));
        to.reason = why.copied().unwrap_or(to.reason);
    }
    plan.seals.push(Seal { tuple: place, cause, recipients, redacts: None });
}

#[cfg(test)]
mod tests;
