//! Deciding about copies in plain: which one is written beside what is sealed, which one is emptied, and which sealed
//! value of an exempt type is put back where the homeserver reads it. Pure.
//!
//! Clients show of two copies the one that came last. So a copy in plain goes out before the seal, and one of the
//! keeper's that is newer than the seal calls for another seal.

use ruma::OwnedEventId;

use super::{Cause, Knowledge, Plan, Seal, SourceView, TupleView, before_a_seal};
use crate::{
    config::{ExemptSealed, PlainCopy},
    keeper::rules::Rules,
    state::{StateTuple, exempt::is_read_by_servers},
};

/// How often somebody may write over the keeper's copy before the keeper leaves that there.
pub const MOST_ANSWERS: u32 = 4;
/// For how long nobody else may have written there, in milliseconds, before the keeper writes again.
pub const QUIET_AFTER: i64 = 600_000;

/// What stands in plain at a tuple's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainView {
    /// The event; `None` while nothing stands there.
    pub event_id: Option<OwnedEventId>,
    /// Whether the keeper sent it.
    pub ours: bool,
    /// The tick at which it was taken in, or sent.
    pub tick: i64,
    /// Whether it says nothing.
    pub says_nothing: bool,
    /// Whether it says what the tuple's source does.
    pub says_value: bool,
    /// Whether it says what policy wants in the place of names.
    pub says_stub: bool,
    /// How often somebody wrote over the keeper's copy, close together.
    pub rounds: u32,
    /// When somebody else wrote there last, in milliseconds.
    pub said_at: i64,
    /// What was warned of.
    pub warned: Option<Warning>,
    /// The source of which the homeserver took no copy.
    pub refused: Option<OwnedEventId>,
}

/// An exempt type that a member's client sealed.
#[derive(Clone, Debug)]
pub struct ExemptView {
    /// The true type and state key.
    pub tuple: StateTuple,
    /// The newest value that a member was allowed to give it.
    pub source: SourceView,
    /// What stands in plain.
    pub plain: Option<PlainView>,
    /// Whether the keeper has the power to send this type in plain.
    pub may_write: bool,
}

/// What is wrong with a copy that the keeper leaves there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// It says something else than what is sealed.
    Stale,
    /// It tells what is sealed.
    Telling,
}

/// A copy in plain, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyKind {
    /// The value, for clients that cannot read the sealed one.
    Mirror,
    /// A fixed text in the place of a name.
    Stub,
    /// Nothing, over what stood there.
    Clear,
    /// The value of an exempt type, for the homeserver.
    Publish,
}

/// A copy in plain to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainPut {
    /// Which tuple.
    pub tuple: StateTuple,
    /// What it is.
    pub copy: CopyKind,
    /// The source that the tuple has.
    pub source: OwnedEventId,
    /// What stands there now.
    pub based_on: Option<OwnedEventId>,
    /// The event that is redacted once this one stands.
    pub redacts: Option<OwnedEventId>,
}

impl Warning {
    /// The label in metrics and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Telling => "telling",
        }
    }

    /// The warning of this label.
    pub fn from_label(label: &str) -> Option<Self> {
        [Self::Stale, Self::Telling].into_iter().find(|warning| warning.as_str() == label)
    }
}

impl CopyKind {
    /// The label in metrics and in the outbox.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Stub => "stub",
            Self::Clear => "clear",
            Self::Publish => "publish",
        }
    }

    /// The copy of this label.
    pub fn from_label(label: &str) -> Option<Self> {
        [Self::Mirror, Self::Stub, Self::Clear, Self::Publish]
            .into_iter()
            .find(|copy| copy.as_str() == label)
    }

    /// Whether rules still want such copies.
    pub fn is_wanted_by(self, rules: &Rules) -> bool {
        match self {
            Self::Mirror => rules.plain_copy == PlainCopy::Mirror,
            Self::Stub => rules.plain_copy == PlainCopy::Stub,
            Self::Clear => matches!(rules.plain_copy, PlainCopy::Stub | PlainCopy::Clear),
            Self::Publish => rules.exempt_sealed == ExemptSealed::Publish,
        }
    }
}

impl PlainView {
    /// Until when the keeper leaves what others go on writing there.
    fn quarrel(&self, now: i64) -> Option<i64> {
        let quiet_at = self.said_at.saturating_add(QUIET_AFTER);
        (self.rounds > MOST_ANSWERS && now < quiet_at).then_some(quiet_at)
    }

    fn is_refused(&self, source: &SourceView) -> bool {
        self.refused.as_ref() == Some(&source.event_id)
    }
}

/// Decides about the copy in plain of a tuple whose value is sealed, or about to be.
pub(super) fn decide_copy(
    known: &Knowledge,
    rules: &Rules,
    now: i64,
    (place, view): (usize, &TupleView),
    plan: &mut Plan,
) {
    let Some(source) = &view.source else { return };
    let sealed =
        view.sealed.as_ref().filter(|sealed| sealed.stands && sealed.from == source.event_id);
    let planned = plan.seals.iter().any(|seal| seal.tuple == place);
    if sealed.is_none() && !planned {
        return;
    }
    let plain = view.plain.as_ref();
    let refused = plain.is_some_and(|plain| plain.is_refused(source));
    let able = known.elevated && view.may_write_plain && !refused;
    let put = wanted(known, rules, view, source).filter(|_| able);
    // Nothing is emptied before its value stands under encryption.
    if sealed.is_none() && put.as_ref().is_some_and(|put| put.copy == CopyKind::Clear) {
        return;
    }
    let quarrel = plain.and_then(|plain| plain.quarrel(now));
    match (put, quarrel) {
        (Some(_), Some(until)) => plan.again(until),
        (Some(_), None) if !known.whole_room => plan.needs_whole_room = true,
        (Some(put), None) => return plan.plain.push(put),
        (None, _) => {}
    }
    warn(rules, view, plan);
    let overtakes =
        plain.zip(sealed).is_some_and(|(plain, sealed)| plain.ours && plain.tick >= sealed.tick);
    if !overtakes || !known.elevated {
        return;
    }
    // One seal is enough, and this one does not wait for its turn.
    if let Some(seal) = plan.seals.iter_mut().find(|seal| seal.tuple == place) {
        seal.cause = Cause::Plain;
        return;
    }
    if !known.whole_room {
        plan.needs_whole_room = true;
        return;
    }
    let recipients = before_a_seal(known, rules, view);
    plan.seals.push(Seal { tuple: place, cause: Cause::Plain, recipients, redacts: None });
}

/// The copy that policy wants where another one, or none, stands.
fn wanted(
    known: &Knowledge,
    rules: &Rules,
    view: &TupleView,
    source: &SourceView,
) -> Option<PlainPut> {
    let plain = view.plain.as_ref();
    let says = |what: fn(&PlainView) -> bool| plain.is_some_and(what);
    let tells = plain.is_some_and(|plain| !plain.says_nothing)
        && !is_read_by_servers(&view.tuple.event_type);
    let copy = match rules.plain_copy {
        PlainCopy::Keep => None,
        PlainCopy::Mirror => (!says(|plain| plain.says_value)).then_some(CopyKind::Mirror),
        PlainCopy::Stub if view.tuple.event_type == "m.room.name" => {
            (!says(|plain| plain.says_stub)).then_some(CopyKind::Stub)
        }
        PlainCopy::Stub | PlainCopy::Clear => tells.then_some(CopyKind::Clear),
    }?;
    let based_on = plain.and_then(|plain| plain.event_id.clone());
    let redacts = based_on.clone().filter(|_| {
        rules.plain_copy == PlainCopy::Clear && (known.may_redact || says(|plain| plain.ours))
    });
    let (tuple, source) = (view.tuple.clone(), source.event_id.clone());
    Some(PlainPut { tuple, copy, source, based_on, redacts })
}

/// Warns of a copy that stays though it is no copy, or tells what was to be a secret: once of each.
fn warn(rules: &Rules, view: &TupleView, plan: &mut Plan) {
    let Some(plain) = &view.plain else { return };
    let Some(event_id) = plain.event_id.clone().filter(|_| !plain.says_nothing) else { return };
    let stub = rules.plain_copy == PlainCopy::Stub && plain.says_stub;
    let warning = match plain.says_value {
        _ if stub || is_read_by_servers(&view.tuple.event_type) => return,
        true if rules.plain_copy == PlainCopy::Mirror => return,
        true => Warning::Telling,
        false => Warning::Stale,
    };
    if plain.warned != Some(warning) {
        plan.warnings.push((view.tuple.clone(), event_id, warning));
    }
}

/// Decides about an exempt type that a member's client sealed. What somebody said in plain since is newer, and counts;
/// but what the keeper put there is a copy of something older.
pub(super) fn decide_exempt(rules: &Rules, now: i64, view: &ExemptView, plan: &mut Plan) {
    if rules.exempt_sealed != ExemptSealed::Publish || !view.may_write {
        return;
    }
    let source = &view.source;
    if let Some(plain) = &view.plain {
        let older = plain.ours || plain.event_id.is_none() || plain.tick < source.tick;
        if plain.says_value || !older || plain.is_refused(source) {
            return;
        }
        if let Some(until) = plain.quarrel(now) {
            return plan.again(until);
        }
    }
    plan.plain.push(PlainPut {
        tuple: view.tuple.clone(),
        copy: CopyKind::Publish,
        source: source.event_id.clone(),
        based_on: view.plain.as_ref().and_then(|plain| plain.event_id.clone()),
        redacts: None,
    });
}
