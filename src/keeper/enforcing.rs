//! Enforcing what the homeserver cannot: which rule an event broke is noted and told in the commit that takes it in;
//! [`super::decide`] says what follows, and here that is performed.

use ruma::{EventId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{
    KeeperError,
    clock::now_ms,
    copies,
    decide::{Breach, Plan, Remedy},
    ingest::{Arrival, Taker, power_levels},
    journal::recorded,
    lane::Visit,
    outbox::redaction_of,
    redaction,
    requests::Outcome,
    restating,
    rules::Rules,
    wars,
};
use crate::{
    config::{Action, ExemptSealed},
    state::{
        Refusal, RoomEvent, Rule, StateTuple, exempt::is_read_by_servers, rule::is_absurd_time,
    },
    store::{
        NewOutbox, RoomRow, StateEventRow, Store, TupleRow, inbox,
        ledger::{self, Violation},
        marks, outbox, tuples,
    },
};

/// The verdict on a forged event that the keeper may not redact, and in whose place it has said the truth again.
const SAID_AGAIN: &str = "said_again";

/// Why state in plain is redacted.
const WHY_PLAIN: &str = "The state of this room is encrypted, and this was not";

/// The rule that a member breaks who seals an exempt type, in the ledger and in metrics.
const EXEMPT: &str = "exempt";

/// Tells of an event that is not sealed.
pub(super) fn report(
    taker: &Taker,
    room: &RoomRow,
    event_id: &str,
    sender: &UserId,
    tuple: &StateTuple,
    refusal: &Refusal,
) {
    taker.metrics.state_refused(refusal.as_label());
    tracing::warn!(room = %room.room_id, event = event_id, %sender, event_type = tuple.event_type,
        rule = refusal.as_label(), "a state event was left as it is: {refusal}");
}

/// Which rule a live event breaks by its packed key alone.
pub(super) fn broken_on_key(
    taker: &Taker,
    room: &RoomRow,
    tuple: &StateTuple,
    sender: &UserId,
) -> Option<Rule> {
    let rules = taker.rules.of(room);
    Rule::broken_on_key(tuple, sender, &power_levels(room), &rules.exempt)
}

/// A room with the power levels that stood when an event was sent, as far as they are known.
pub(super) fn then(room: &RoomRow, seen: &StateEventRow) -> RoomRow {
    let levels = seen.levels.clone().unwrap_or_else(|| room.power_levels.clone());
    RoomRow { power_levels: levels, ..room.clone() }
}

/// What is wrong with an event that broke a rule by its packed key, which needs no reading to be said.
pub fn refusal_on_key(room: &RoomRow, seen: &StateEventRow) -> Option<Refusal> {
    let room = &then(room, seen);
    match seen.breach? {
        Rule::Critical => Some(Refusal::Critical),
        Rule::Ownership => Some(Refusal::NotOwner),
        Rule::Power => {
            let power = power_levels(room);
            Some(Refusal::NoPower {
                needed: power.needed_for_state(&seen.tuple.event_type),
                has: power.user_level(&seen.sender),
            })
        }
        Rule::Timestamp | Rule::Shape | Rule::Plain | Rule::Unsealed | Rule::Replay => None,
    }
}

/// Notes an event's refusal, and tells of it once.
pub(super) fn conclude(taker: &Taker, room: &RoomRow, seen: &mut StateEventRow, refusal: &Refusal) {
    let answered = seen.verdict == SAID_AGAIN;
    let told = answered || seen.verdict == refusal.as_label();
    if !answered {
        seen.verdict = refusal.as_label().to_owned();
    }
    let known = seen.breach.filter(|rule| *rule != Rule::Timestamp);
    seen.breach = known.or_else(|| Rule::of_refusal(refusal)).or(seen.breach);
    // A device may be signed yet, an identity confirmed: these are judged again when its owner's devices change, or
    // an administrator has spoken.
    seen.awaits = matches!(refusal, Refusal::DeviceNotCrossSigned | Refusal::IdentityChanged);
    if !told {
        report(taker, room, seen.event_id.as_str(), &seen.sender, &seen.tuple, refusal);
    }
}

/// Keeps what became of an event. A rule that it broke and that is not told of yet is counted and, where something is
/// done about it, that is promised for now.
pub(super) async fn keep(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    seen: &StateEventRow,
) -> Result<(), KeeperError> {
    let before = tuples::get_event(&taker.store, db, &seen.event_id).await?;
    tuples::put_event(&taker.store, db, &room.room_id, seen).await?;
    let rules = taker.rules.of(room);
    let was_exempt = before.as_ref().is_some_and(|before| before.verdict == seen.verdict);
    if seen.verdict == Refusal::Exempt.as_label() && seen.breach.is_none() && !was_exempt {
        let action = exempt_label(taker, db, (room, &rules), seen).await?;
        return tell(taker, db, (room, &rules), seen, (EXEMPT, action)).await;
    }
    let told =
        before.is_some_and(|before| before.breach == seen.breach && before.live == seen.live);
    let Some(rule) = seen.breach.filter(|_| !told) else { return Ok(()) };
    wars::note(taker, db, room, seen).await?;
    if rule.is_in_plain() && seen.live && rules.action(rule) == Action::Redact && !rules.noop {
        tuples::owe(db, &room.room_id, &seen.event_id).await?;
    }
    let breach = breach_of(taker, db, room, seen).await?;
    // What was found when the keeper came is left.
    let action = match &breach {
        Some(breach) => action_label(taker, db, (room, &rules), breach).await?,
        None => "report",
    };
    tell(taker, db, (room, &rules), seen, (rule.told_as(), action)).await?;
    if breach.is_none() {
        return Ok(());
    }
    tracing::warn!(room = %room.room_id, event = %seen.event_id, sender = %seen.sender, action,
        event_type = seen.tuple.event_type, rule = rule.told_as(), "a state event broke a rule");
    Ok(marks::mark(db, &room.room_id, None, now_ms(), taker.store.next_tick()).await?)
}

/// Counts an event that broke a rule, and writes it into the ledger, from which administrators are told.
async fn tell(
    taker: &Taker,
    db: &mut SqliteConnection,
    (room, rules): (&RoomRow, &Rules),
    seen: &StateEventRow,
    (rule, action): (&'static str, &'static str),
) -> Result<(), KeeperError> {
    taker.metrics.policy_violation(rule, action);
    let violation = Violation {
        event_id: &seen.event_id,
        sender: &seen.sender,
        tuple: &seen.tuple,
        rule,
        action,
        policy: &rules.policy,
    };
    Ok(ledger::violated(&taker.store, db, &room.room_id, violation, now_ms()).await?)
}

/// What is done about an exempt type that a member sealed, as a label.
async fn exempt_label(
    taker: &Taker,
    db: &mut SqliteConnection,
    (room, rules): (&RoomRow, &Rules),
    seen: &StateEventRow,
) -> Result<&'static str, KeeperError> {
    let row = tuples::get(&taker.store, db, &room.room_id, &seen.tuple).await?;
    let is_value =
        row.and_then(|row| row.source).is_some_and(|source| source.event_id == seen.event_id);
    let may = power_levels(room).may_send_state(&taker.keeper, &seen.tuple.event_type);
    Ok(match rules.exempt_sealed {
        ExemptSealed::Publish if is_value && may && rules.noop => "noop",
        ExemptSealed::Publish if is_value && may => "publish",
        _ => "report",
    })
}

/// What is done about a broken rule, as a label.
async fn action_label(
    taker: &Taker,
    db: &mut SqliteConnection,
    (room, rules): (&RoomRow, &Rules),
    breach: &Breach,
) -> Result<&'static str, KeeperError> {
    let power = power_levels(room);
    let redacts = power.may_redact_other(&taker.keeper);
    let says = |event_type: &str| power.may_send_state(&taker.keeper, event_type);
    let remedy = match breach.remedy(rules) {
        Remedy::Report | Remedy::Wait => return Ok("report"),
        _ if rules.noop => return Ok("noop"),
        remedy => remedy,
    };
    let hides_plain = breach.hides_plain(rules);
    let is_unsayable = breach.is_unsayable(rules);
    if redacts && (hides_plain || is_unsayable || remedy == Remedy::Redact) {
        return Ok("redact");
    }
    if is_unsayable {
        return Ok("report");
    }
    let is_restored = if hides_plain {
        restating::because_of(&breach.event_id, &breach.tuple).is_some()
            && says(&breach.tuple.event_type)
    } else {
        // The last allowed value, where there is one.
        let row = tuples::get(&taker.store, db, &room.room_id, &breach.tuple).await?;
        room.elevated && row.is_some_and(|row| row.source.is_some())
    };
    Ok(if is_restored { "restore" } else { "report" })
}

/// The rules about which more is done than telling, and over which a member can be at war with the keeper: what is a value
/// all the same is not fought about.
pub fn enforced(rules: &Rules) -> Vec<Rule> {
    let fought = |rule: &Rule| *rule != Rule::Unsealed && rules.action(*rule) != Action::Report;
    Rule::ALL.into_iter().filter(fought).collect()
}

/// The rule that an event broke, where the keeper may do something about it: it saw it happen, or the type is critical.
pub(super) async fn breach_of(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    seen: &StateEventRow,
) -> Result<Option<Breach>, KeeperError> {
    // What the truth was said over is redacted once the keeper may.
    let answered =
        seen.verdict == SAID_AGAIN && !power_levels(room).may_redact_other(&taker.keeper);
    let open = (seen.live || seen.breach == Some(Rule::Critical)) && !answered;
    let Some(rule) = seen.breach.filter(|_| open) else {
        return Ok(None);
    };
    Ok(Some(Breach {
        event_id: seen.event_id.clone(),
        tuple: seen.tuple.clone(),
        rule,
        waits: rule != Rule::Unsealed && wars::waits(db, room, &seen.sender).await?,
    }))
}

/// An allowed value may claim a time in the far future: nothing goes by that, and the keeper's seal has a sane one.
pub(super) fn note_time(event: &RoomEvent, seen: &mut StateEventRow) {
    if is_absurd_time(event.origin_server_ts, seen.received_at) {
        seen.breach = seen.breach.or(Some(Rule::Timestamp));
    }
}

/// Keeps an event in plain that gives its tuple a value, or was to, while nothing stands there under encryption. Where the
/// room says that its state is encrypted, that breaks a rule all the same, if the keeper saw it happen.
pub(super) async fn keep_value(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    (event, tuple): (&RoomEvent, &StateTuple),
    refusal: Option<&Refusal>,
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let before = tuples::get_event(&taker.store, db, &event.event_id).await?;
    let rule = if refusal.is_some() { Rule::Plain } else { Rule::Unsealed };
    let live = is_live(db, event, (before.is_some(), arrival)).await?;
    let breaks = (room.flagged && live && !is_read_by_servers(&tuple.event_type)).then_some(rule);
    let breach = before.as_ref().and_then(|before| before.breach).or(breaks);
    let verdict = refusal.map_or("accepted", Refusal::as_label);
    let seen = recorded(room, (event, tuple), verdict, (before, arrival));
    let live = seen.live || live;
    keep(taker, db, room, &StateEventRow { breach, live, ..seen }).await
}

/// Whether the keeper saw an event in plain happen: it came by itself, if only while the room's state was being fetched,
/// which shows it.
async fn is_live(
    db: &mut SqliteConnection,
    event: &RoomEvent,
    (is_kept, arrival): (bool, Arrival),
) -> Result<bool, KeeperError> {
    if arrival.live || is_kept {
        return Ok(arrival.live);
    }
    let event = &event.event_id;
    // What was taken in before is older than the rule: the room did not say then that its state is encrypted.
    Ok(inbox::was_told(db, event).await? && !inbox::is_taken(db, event).await?)
}

/// A fetched state shows an event in plain that the keeper has redacted: the homeserver refused that, or the keeper was put
/// out before it was sent.
pub(super) async fn owe_again(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    event: &RoomEvent,
) -> Result<(), KeeperError> {
    let Some(seen) = tuples::get_event(&taker.store, db, &event.event_id).await? else {
        return Ok(());
    };
    let was_done = [copies::CLEARED, copies::EMPTIED].contains(&seen.verdict.as_str())
        && !outbox::redacts(db, &room.room_id, &event.event_id).await?;
    if was_done && seen.breach.is_some_and(Rule::is_in_plain) {
        tuples::owe(db, &room.room_id, &event.event_id).await?;
    }
    Ok(())
}

/// Somebody says in plain what stands there under encryption.
pub(super) async fn plain_beside(
    taker: &Taker,
    db: &mut SqliteConnection,
    room: &RoomRow,
    (event, row): (&RoomEvent, &TupleRow),
    arrival: Arrival,
) -> Result<(), KeeperError> {
    let before = tuples::get_event(&taker.store, db, &event.event_id).await?;
    // It was taken in with the room's state, and comes by itself now.
    if before.as_ref().is_some_and(redaction::was_counted) {
        return Ok(());
    }
    let is_kept = before.is_some();
    let is_allowed = event.sender == taker.keeper || is_read_by_servers(&row.tuple.event_type);
    if is_allowed || !is_live(db, event, (is_kept, arrival)).await? {
        return Ok(());
    }
    let seen = recorded(room, (event, &row.tuple), "plain", (None, arrival));
    let (breach, live) = (Some(Rule::Plain), true);
    keep(taker, db, room, &StateEventRow { breach, live, ..seen }).await
}

/// Whether a tuple stands in plain by policy, or for homeservers: what is said there breaks no rule, and did none before.
pub(super) fn is_left_in_plain(rules: &Rules, tuple: &StateTuple) -> bool {
    let event_type = &tuple.event_type;
    rules.exempt.contains(event_type)
        || rules.sender_bound.binds(tuple)
        || is_read_by_servers(event_type)
}

/// Whether more is done about a breach than telling.
fn is_mended(breach: &Breach, rules: &Rules) -> bool {
    !matches!(breach.remedy(rules), Remedy::Report | Remedy::Wait)
}

impl Visit<'_> {
    /// The rule that what a tuple shows has broken, if any.
    pub(super) async fn breach(
        &self,
        db: &mut SqliteConnection,
        row: &TupleRow,
    ) -> Result<Option<Breach>, KeeperError> {
        let (store, room) = (&self.lanes.taker.store, &self.room.room_id);
        if row.redacted {
            return Ok(None);
        }
        let ours = row.current_sender.as_ref() == Some(&self.lanes.taker.keeper);
        let stands = match row.current_event_id.as_ref().filter(|_| !ours) {
            Some(current) => tuples::get_event(store, db, current).await?,
            None => None,
        };
        let broken = match &stands {
            Some(stands) => breach_of(&self.lanes.taker, db, &self.room, stands).await?,
            None => None,
        };
        // A value of an absurd time that is only told of stands, and what is said in plain beside it is another matter.
        if broken.as_ref().is_some_and(|it| !it.rule.allows_value() || is_mended(it, &self.rules)) {
            return Ok(broken);
        }
        if is_left_in_plain(&self.rules, &row.tuple) {
            return Ok(broken);
        }
        // What is said in plain after what stands under encryption, or before anything does.
        let sealed = row.sealed.as_ref().filter(|_| ours).map(|sealed| sealed.tick);
        let since = stands.map(|stands| stands.tick).or(sealed).unwrap_or_default();
        let plain = tuples::newest_plain_breach(store, db, room, &row.tuple).await?;
        match plain.filter(|plain| plain.tick > since) {
            Some(plain) => breach_of(&self.lanes.taker, db, &self.room, &plain).await,
            None => Ok(broken),
        }
    }

    /// Redacts events in whose place the keeper has nothing to seal, and says in plain again what they hid. Without the
    /// power to redact, the latter is all. Returns whether there was anything to do.
    pub(super) async fn redact(&self, breaches: &[Breach]) -> Result<bool, KeeperError> {
        let store = &self.lanes.taker.store;
        let room = self.room_id();
        let may_redact = power_levels(&self.room).may_redact_other(&self.lanes.taker.keeper);
        let mut does = false;
        let mut transaction = store.begin().await?;
        for breach in breaches {
            if breach.rule.is_in_plain() {
                does |= self.redact_plain(&mut transaction, &breach.event_id).await?;
                continue;
            }
            let Some(mut row) = tuples::get(store, &mut transaction, &room, &breach.tuple).await?
            else {
                continue;
            };
            if row.current_event_id.as_ref() != Some(&breach.event_id) || row.redacted {
                continue;
            }
            does = true;
            if may_redact {
                row.redacted = true;
                tuples::put(store, &mut transaction, &room, &row).await?;
                let redaction = offence(&breach.event_id);
                outbox::insert(&mut transaction, &room, &redaction, now_ms()).await?;
            } else if let Some(seen) =
                tuples::get_event(store, &mut transaction, &breach.event_id).await?
            {
                let seen = StateEventRow { verdict: SAID_AGAIN.to_owned(), ..seen };
                tuples::put_event(store, &mut transaction, &room, &seen).await?;
            }
            if let Some(again) = self.restatement(breach) {
                outbox::insert(&mut transaction, &room, &again, now_ms()).await?;
            }
        }
        transaction.commit().await?;
        self.lanes.sender.flush(&room).await?;
        Ok(does)
    }

    /// Redacts an event in plain. What it said is not taken back by that. Returns whether that was owed.
    async fn redact_plain(
        &self,
        db: &mut SqliteConnection,
        event: &EventId,
    ) -> Result<bool, KeeperError> {
        let (store, room) = (&self.lanes.taker.store, &self.room.room_id);
        if !tuples::settle(db, event).await? {
            return Ok(false);
        }
        let Some(mut seen) = tuples::get_event(store, db, event).await? else { return Ok(true) };
        match seen.verdict.as_str() {
            "accepted" => seen.verdict = copies::CLEARED.to_owned(),
            // What says the same under encryption was taken back; or it was redacted before, to no effect.
            "redacted" | copies::CLEARED => {}
            _ => {
                seen.verdict = copies::EMPTIED.to_owned();
                seen.content = None;
            }
        }
        tuples::put_event(store, db, room, &seen).await?;
        let redaction = NewOutbox { body: WHY_PLAIN.to_owned(), ..redaction_of(event) };
        outbox::insert(db, room, &redaction, now_ms()).await?;
        Ok(true)
    }

    /// Clients go on showing a forged type that they have read: what says the truth in plain, where the keeper has the
    /// power for it.
    fn restatement(&self, breach: &Breach) -> Option<NewOutbox> {
        let again = restating::because_of(&breach.event_id, &breach.tuple)
            .filter(|_| breach.hides_plain(&self.rules))?;
        let power = power_levels(&self.room);
        if power.may_send_state(&self.lanes.taker.keeper, &breach.tuple.event_type) {
            return Some(again);
        }
        tracing::warn!(room = %self.room.room_id, event = %breach.event_id,
            event_type = breach.tuple.event_type,
            "clients that have read a forged event may show it until they are started anew: the keeper has not the \
             power to say in plain again what it hides");
        None
    }

    /// Tells what a keeper would do that may: nothing of it is done, and requests for keys are not answered.
    pub(super) fn rehearse(&mut self, plan: &Plan) {
        for asked in std::mem::take(&mut self.asked) {
            self.lanes.taker.metrics.key_request(Outcome::Silence.as_str());
            self.lanes.desk.dismiss(asked.request.name());
        }
        let keys: usize = plan.shares.iter().chain(&plan.given).map(|s| s.recipients.len()).sum();
        if !plan.is_idle() {
            tracing::info!(room = %self.room.room_id, keys, seals = plan.seals.len(),
                redactions = plan.redactions.len(), copies = plan.plain.len(), answers = plan.answers.len(),
                retired_sessions = plan.retire.len(), "noop: this would be done");
        }
        self.again_at = super::lane::earliest(self.again_at, plan.again_at);
    }
}

/// The keeper's event stands in the place of what broke a rule, which is redacted now.
pub(super) async fn redact_after(
    store: &Store,
    db: &mut SqliteConnection,
    room: &RoomId,
    event: &EventId,
) -> Result<(), KeeperError> {
    let seen = tuples::get_event(store, db, event).await?;
    // What stands in plain may be what the keeper's event says: the next look sees to that.
    if seen.and_then(|seen| seen.breach).is_some_and(Rule::is_in_plain) {
        return Ok(tuples::owe(db, room, event).await?);
    }
    outbox::insert(db, room, &offence(event), now_ms()).await?;
    Ok(())
}

/// The request that redacts what broke a rule.
fn offence(event: &ruma::EventId) -> NewOutbox {
    let body = "The event broke a rule of this room that its server cannot enforce".to_owned();
    NewOutbox { body, ..redaction_of(event) }
}
