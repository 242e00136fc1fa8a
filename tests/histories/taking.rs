//! What the keeper takes in: the room's events, and the news of its long poll. Each call is one commit.
//!
//! This follows `ingest`, `state_events`, `enforcing`, `rotation` and `listen` step by step, with the store's rows in
//! memory and symbolic keys; what is judged is judged by the real `state::judge`, `Rule` and `PowerLevels`.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedEventId, OwnedUserId};

use super::{
    Fault, Sim,
    world::{Cipher, Event, News, Said},
};
use statekeeper::{
    config::{Action, RotateReseal, RotateWhen},
    keeper::{
        decide::{Breach, MOST_ROUNDS, WAR_WITHIN},
        echoes::silent_for,
        enforcing::{enforced, refusal_on_key},
        ingest::power_levels,
        people::inviter,
        redaction::{stand_anew, take_back, was_never_allowed, was_taken_back},
    },
    policy::Word,
    state::{
        DeviceTrust, Form, HistoryVisibility, JsonMap, Judgement, Membership, PayloadFacts,
        PowerLevels, Refusal, Rule, StateTuple, Verdict, judge, rule::is_absurd_time,
    },
    store::{MemberRow, Retired, SourceValue, StateEventRow, TupleRow},
};

/// A device as the keeper knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownDevice {
    pub id: ruma::OwnedDeviceId,
    pub cross_signed: bool,
    pub first_seen: i64,
}

/// The key store: what the Olm machine knows.
#[derive(Clone, Debug, Default)]
pub struct KeyStore {
    /// Members' sessions whose key is here, with the identity that vouched for their device first.
    pub sessions: BTreeMap<String, Option<u32>>,
    /// Users with their devices and the number of their identity.
    pub known: BTreeMap<OwnedUserId, (Vec<KnownDevice>, u32)>,
    /// Whose devices have changed since they were asked for.
    pub outdated: BTreeSet<OwnedUserId>,
}

impl Sim {
    /// `Taker::take_batch`: takes the next event in that the homeserver pushes.
    pub fn take_event(&mut self) {
        let Some(place) = self.world.pushed.pop_front() else { return };
        let event = self.world.events[place].clone();
        if !self.rows.inbox.insert(event.id.clone()) {
            return;
        }
        let tick = self.rows.next_tick();
        self.note(|| format!("took in {} of {}: {:?}", event.id, event.sender, event.said));
        match event.said.clone() {
            Said::Member(user, membership) => self.take_member(&event, &user, membership, tick),
            Said::Power(levels) => {
                self.rows.room.power_levels = Some(serde_json::to_string(&levels).unwrap());
                let power = power_levels(&self.rows.room);
                self.rows.room.elevated = power.elevated(&self.keeper());
                // `wars::take_power`.
                for user in self.rows.wars.keys().cloned().collect::<Vec<_>>() {
                    if !power.may_send_state(&user, "m.room.encrypted") {
                        self.rows.settle_war(&user, self.now);
                    }
                }
            }
            Said::Visibility(visibility) => self.take_visibility(visibility),
            Said::Redaction(target) => self.take_redaction(&event, &target),
            Said::Message(cipher) => {
                self.rows.record_message(&cipher.session, cipher.index, &event.sender);
            }
            Said::Plain { tuple, content } => self.take_plain(&event, tuple, content, tick),
            Said::State { tuple, cipher, .. } => self.take_encrypted(&event, tuple, &cipher, tick),
        }
    }

    fn take_member(
        &mut self,
        event: &Event,
        user: &OwnedUserId,
        membership: Membership,
        tick: i64,
    ) {
        let before = self.rows.members.get(user).cloned();
        if before.as_ref().is_some_and(|before| before.membership == membership) {
            return;
        }
        let member = MemberRow {
            user_id: user.clone(),
            membership,
            // The homeserver gives the event's age.
            since: event.at,
            arrived_at: self.now,
            tick,
            inviter: inviter(&self.rows.room, &event.sender, membership, before.as_ref()),
        };
        self.rows.members.insert(user.clone(), member);
        match membership {
            Membership::Join | Membership::Invite => self.rows.mark(Some(user), self.now),
            Membership::Leave | Membership::Ban | Membership::Knock => {
                // `people::left`: an approval goes with the member.
                if self.rows.words.get(user) == Some(&Word::Approved) {
                    self.rows.words.remove(user);
                }
                // `wars::take_leave`.
                if self.rows.wars.get(user).is_some_and(|war| war.0) {
                    if event.sender != *user {
                        self.rows.settle_war(user, self.now);
                    }
                    self.rows.mark(None, self.now);
                }
                let invited = before.is_some_and(|before| before.membership == Membership::Invite);
                let why = if invited { Retired::InviteWithdrawn } else { Retired::MemberLeft };
                let retired = if self.is(Fault::NothingRetiresOnLeave) {
                    0
                } else {
                    self.rows.retire_known_to(user, why, self.now)
                };
                self.promise_rotation(retired);
            }
        }
    }

    /// `rotation::take_visibility`.
    fn take_visibility(&mut self, visibility: HistoryVisibility) {
        let before = self.rows.visibility.replace(visibility).unwrap_or_default();
        if visibility.is_narrower_than(before) {
            self.all_are_over();
            let retired = match self.is(Fault::NarrowedOverlooked) {
                true => 0,
                false => self.rows.retire(Retired::HistoryVisibility, self.now, |_| true),
            };
            self.promise_rotation(retired);
        }
    }

    fn promise_rotation(&mut self, retired: u64) {
        let follows = self.rules.rotate_when == RotateWhen::AtOnce
            || self.rules.rotate_reseal != RotateReseal::None;
        if retired > 0 && follows {
            let due = self.now + self.rules.rotation_settle;
            self.rows.mark(None, due);
        }
    }

    pub fn tuple_row(&self, tuple: &StateTuple) -> TupleRow {
        let known = self.rows.tuples.get(tuple).cloned();
        known.unwrap_or_else(|| TupleRow::new(tuple.clone()))
    }

    pub fn put_tuple(&mut self, row: TupleRow) {
        self.rows.tuples.insert(row.tuple.clone(), row);
    }

    /// `state_events::take_encrypted`.
    fn take_encrypted(&mut self, event: &Event, tuple: StateTuple, cipher: &Cipher, tick: i64) {
        let mut row = self.tuple_row(&tuple);
        row.current_event_id = Some(event.id.clone());
        row.current_sender = Some(event.sender.clone());
        row.current_fit = true;
        let (session, index) = (&cipher.session, cipher.index);
        if event.sender == self.keeper() {
            self.rows.record_index(session, index, &event.sender, &event.id);
            self.note_own(event, &row, cipher);
            return self.put_tuple(row);
        }
        row.redacted = false;
        let fresh = self.rows.record_index(session, index, &event.sender, &event.id);
        let power = power_levels(&self.rows.room);
        let breach = Rule::broken_on_key(&tuple, &event.sender, &power, &self.rules.exempt);
        let absurd = is_absurd_time(event.claims, self.now).then_some(Rule::Timestamp);
        let mut seen = StateEventRow {
            event_id: event.id.clone(),
            tuple: tuple.clone(),
            sender: event.sender.clone(),
            tick,
            received_at: self.now,
            session_id: Some(session.clone()),
            powerful: power.may_send_state(&event.sender, &tuple.event_type),
            levels: Some(self.rows.room.power_levels.clone()),
            verdict: if fresh { "unreadable" } else { "replayed" }.to_owned(),
            breach: breach.or(absurd),
            live: true,
            awaits: fresh,
            body: fresh.then(String::new),
            content: None,
        };
        if !fresh {
            row.current_fit = false;
            self.put_tuple(row);
            seen.breach =
                seen.breach.filter(|rule| *rule != Rule::Timestamp).or(Some(Rule::Replay));
            return self.keep(seen);
        }
        self.weigh(row, seen, self.now);
    }

    /// `state_events::note_own`.
    fn note_own(&mut self, event: &Event, row: &TupleRow, cipher: &Cipher) {
        let key = (cipher.session.clone(), cipher.index);
        let Some(stands_for) = self.rows.prepared.remove(&key) else { return };
        self.rows.put_seal(&event.id, &row.tuple, &stands_for);
        let source = self.rows.events.get(&stands_for);
        if was_taken_back(row, source) {
            for sealed in self.rows.take_seals_of(&stands_for) {
                self.rows.redact(&sealed);
            }
            self.rows.mark(None, self.now);
        }
    }

    /// `weighing::read_again`.
    pub fn read_again(&mut self, mut seen: StateEventRow, now: i64) {
        let row = self.tuple_row(&seen.tuple);
        if self.rows.is_superseded(&seen.tuple, seen.tick) {
            if let Some((_, content)) = self.read(&seen) {
                seen.content = Some(content);
            }
            (seen.verdict, seen.awaits) = ("superseded".to_owned(), false);
            self.rows.events.insert(seen.event_id.clone(), seen);
            return;
        }
        self.weigh(row, seen, now);
    }

    /// `Taker::look_again` and, of one session, `Taker::read_session`.
    pub fn look_again(&mut self, session: Option<&str>) {
        if self.is(Fault::LateKeyForgotten) {
            return;
        }
        for seen in self.rows.unread(session) {
            self.read_again(seen, self.now);
        }
    }

    /// `weighing::weigh`.
    fn weigh(&mut self, mut row: TupleRow, mut seen: StateEventRow, now: i64) {
        let stands = row.current_event_id.as_ref() == Some(&seen.event_id);
        let on_key = refusal_on_key(&self.rows.room, &seen);
        let read = self.read(&seen);
        if let Some((_, content)) = &read {
            seen.content = Some(content.clone());
        }
        match read {
            None => {
                row.current_fit &= !stands;
                if let Some(refusal) = on_key {
                    conclude(&mut seen, &refusal);
                }
            }
            Some((Verdict::Refuse(refusal), _)) => {
                row.current_fit &= !stands;
                conclude(&mut seen, &refusal);
                self.without(&mut row, &seen);
            }
            Some((Verdict::Accept, _)) if on_key.is_some() => {
                row.current_fit &= !stands;
                conclude(&mut seen, &on_key.unwrap());
                self.without(&mut row, &seen);
            }
            Some((Verdict::Accept, content)) => {
                (seen.verdict, seen.awaits) = ("accepted".to_owned(), false);
                self.accepted.insert(seen.event_id.clone());
                self.accept(&mut row, &seen, content, now);
            }
        }
        self.put_tuple(row);
        self.keep(seen);
    }

    /// `weighing::without`.
    fn without(&mut self, row: &mut TupleRow, seen: &StateEventRow) {
        let is_value = row.source.as_ref().is_some_and(|source| source.event_id == seen.event_id);
        if !is_value || seen.awaits {
            return;
        }
        let allowed = self.rows.newest_allowed(&seen.tuple, &seen.event_id);
        row.source = allowed.map(|allowed| SourceValue {
            event_id: allowed.event_id.clone(),
            sender: allowed.sender.clone(),
            form: if allowed.session_id.is_some() { Form::Encrypted } else { Form::Plain },
            at: allowed.received_at,
            tick: allowed.tick,
            content: allowed.content.clone().unwrap(),
        });
        self.rows.mark(None, self.now);
    }

    /// `KeeperDevice::decrypt`, `state_events::device_trust` and `judge_encrypted`.
    fn read(&mut self, seen: &StateEventRow) -> Option<(Verdict, JsonMap)> {
        let event = self.world.event(&seen.event_id).unwrap().clone();
        let Said::State { tuple, cipher, content, .. } = &event.said else { return None };
        let judged_by = *self.keys.sessions.get(&cipher.session)?;
        let owner = self.maker_of(&cipher.session);
        let device = self.trust_of(&cipher.session, &seen.sender, judged_by);
        let power = if seen.powerful {
            PowerLevels::from_content(None, std::slice::from_ref(&seen.sender), "11")
        } else {
            power_levels(&self.rows.room)
        };
        let verdict = judge(&Judgement {
            room_id: &self.rows.room.room_id,
            tuple: &seen.tuple,
            sender: &seen.sender,
            power: &power,
            exempt: &self.rules.exempt,
            content,
            payload: Some(PayloadFacts {
                event_type: Some(&tuple.event_type),
                state_key: Some(&tuple.state_key),
                room_id: Some(self.rows.room.room_id.as_str()),
                session_owner: owner.as_deref(),
                device,
                seen_in_another_event: false,
            }),
            require_cross_signed: self.rules.require_cross_signed,
        });
        Some((verdict, content.clone()))
    }

    /// Whose device made a session: it is named after the device.
    fn maker_of(&self, session: &str) -> Option<OwnedUserId> {
        let made = |person: &&super::world::Person| {
            person.devices.iter().any(|device| session == format!("m{}", device.id))
        };
        self.world.people.iter().find(made).map(|person| person.id.clone())
    }

    fn trust_of(
        &mut self,
        session: &str,
        sender: &OwnedUserId,
        judged_by: Option<u32>,
    ) -> DeviceTrust {
        let Some((devices, identity)) = self.keys.known.get(sender).cloned() else {
            return DeviceTrust::Unknown;
        };
        let signed = devices
            .iter()
            .any(|device| device.cross_signed && session == format!("m{}", device.id));
        if !signed && judged_by.is_none() {
            return DeviceTrust::NotCrossSigned;
        }
        let newest = identity.to_string();
        self.rows.see_identity(sender, &newest);
        let counting = &self.rows.identities[sender].master_key;
        let judged_by = judged_by.filter(|_| !signed).map(|key| key.to_string());
        let are_all = newest == *counting && judged_by.is_none_or(|key| key == *counting);
        if are_all { DeviceTrust::CrossSigned } else { DeviceTrust::OtherIdentity }
    }

    /// `weighing::accept`.
    fn accept(&mut self, row: &mut TupleRow, seen: &StateEventRow, content: JsonMap, now: i64) {
        if row.current_event_id.as_ref() == Some(&seen.event_id) {
            row.current_fit = true;
        }
        if row.source.as_ref().is_some_and(|source| source.event_id == seen.event_id) {
            return;
        }
        let silent = if self.rules.sender_bound.binds(&row.tuple) {
            0
        } else {
            silent_for(row, &content, now).0
        };
        let at = now + silent;
        if let Some(current) = row.current_event_id.clone().filter(|_| row.redacted) {
            let own = self.rows.seals.get(&current).map(|seal| seal.stands_for.clone());
            let said = self.rows.events.get(&own.unwrap_or(current));
            stand_anew(row, seen, said, &self.world.keeper);
        }
        row.source = Some(SourceValue {
            event_id: seen.event_id.clone(),
            sender: seen.sender.clone(),
            form: Form::Encrypted,
            at,
            tick: seen.tick,
            content,
        });
        self.rows.mark(None, at + self.rules.reseal_delay);
    }

    /// `enforcing::keep`.
    pub fn keep(&mut self, seen: StateEventRow) {
        let before = self.rows.events.insert(seen.event_id.clone(), seen.clone());
        let told = before.is_some_and(|before| before.breach == seen.breach);
        if seen.breach.is_none() || told {
            return;
        }
        self.note_war(&seen);
        let rule = seen.breach.filter(|rule| rule.is_in_plain());
        if rule.is_some_and(|rule| self.rules.action(rule) == Action::Redact) {
            self.rows.owed.insert(seen.event_id.clone());
        }
        if self.breach_of(&seen).is_some() {
            self.rows.mark(None, self.now);
        }
    }

    /// `wars::note`.
    fn note_war(&mut self, seen: &StateEventRow) {
        let enforced = enforced(&self.rules);
        if !seen.breach.is_some_and(|rule| enforced.contains(&rule)) {
            return;
        }
        let settled = self.rows.wars.get(&seen.sender).map_or(0, |war| war.1);
        let after = settled.max(seen.received_at - WAR_WITHIN);
        let within = (after, seen.received_at);
        if self.rows.breaches_since(&seen.sender, within, &enforced) > MOST_ROUNDS {
            let war = self.rows.wars.entry(seen.sender.clone()).or_default();
            war.0 = true;
        }
    }

    /// `enforcing::breach_of`.
    pub fn breach_of(&self, seen: &StateEventRow) -> Option<Breach> {
        let rule = seen.breach.filter(|rule| seen.live || *rule == Rule::Critical)?;
        // `wars::waits`.
        let stands = self.rows.wars.get(&seen.sender).is_some_and(|war| war.0);
        let member = self.rows.members.get(&seen.sender).map(|member| member.membership);
        let power = power_levels(&self.rows.room);
        let can = member == Some(Membership::Join)
            && power.may_send_state(&seen.sender, "m.room.encrypted");
        Some(Breach {
            event_id: seen.event_id.clone(),
            tuple: seen.tuple.clone(),
            rule,
            waits: rule != Rule::Unsealed && stands && can,
        })
    }

    /// `redaction::take_redaction`.
    fn take_redaction(&mut self, event: &Event, target: &OwnedEventId) {
        let seen = self.rows.events.get(target).cloned();
        let is_done = |seen: &StateEventRow| matches!(seen.verdict.as_str(), "cleared" | "emptied");
        if event.sender == self.keeper() && seen.as_ref().is_some_and(is_done) {
            return;
        }
        let own = self.rows.seals.get(target).cloned();
        let (tuple, author) = match (&seen, &own) {
            (Some(seen), _) => (seen.tuple.clone(), seen.sender.clone()),
            (None, Some(seal)) => (seal.tuple.clone(), self.keeper()),
            (None, None) => return,
        };
        if event.sender != author && !power_levels(&self.rows.room).may_redact_other(&event.sender)
        {
            return;
        }
        self.rows.owed.remove(target);
        let broke = seen.as_ref().is_some_and(was_never_allowed);
        let said = match (seen, &own) {
            (None, Some(_)) if self.is(Fault::RedactedStaysCurrent) => None,
            (None, Some(seal)) => self.rows.events.get(&seal.stands_for).cloned(),
            (seen, _) => seen,
        };
        if let Some(mut said) = said {
            (said.verdict, said.awaits) = ("redacted".to_owned(), false);
            (said.body, said.content) = (None, None);
            self.rows.events.insert(said.event_id.clone(), said);
        }
        let mut row = self.tuple_row(&tuple);
        let stands_for = own.map_or_else(|| target.clone(), |seal| seal.stands_for);
        let keeper = self.keeper();
        let beside = match self.is(Fault::RedactedStaysCurrent) {
            true => None,
            false => take_back(&mut row, (target, &stands_for), &keeper, broke),
        };
        self.put_tuple(row);
        if let Some(current) = beside
            && self.rows.take_seal(&current)
        {
            self.rows.redact(&current);
        }
        for sealed in self.rows.take_seals_of(&stands_for) {
            if sealed != *target {
                self.rows.redact(&sealed);
            }
        }
        self.rows.mark(None, self.now);
    }

    /// `Listener::poll`: one answer with one piece of news.
    pub fn poll(&mut self) {
        let Some(news) = self.world.news.pop_front() else { return };
        self.note(|| format!("heard {news:?}"));
        match news {
            News::Devices(n) => {
                let user = self.world.people[n].id.clone();
                self.keys.outdated.insert(user.clone());
                let member = self.rows.members.get(&user).map(|member| member.membership);
                if matches!(member, Some(Membership::Join | Membership::Invite)) {
                    self.rows.mark(Some(&user), self.now);
                }
            }
            News::Key(session) => {
                let judged_by = self.voucher_of(&session);
                self.keys.sessions.entry(session.clone()).or_insert(judged_by);
                self.look_again(Some(&session));
            }
        }
    }

    /// The identity that has signed the device which made a session, as far as the keeper knows.
    fn voucher_of(&self, session: &str) -> Option<u32> {
        let owner = self.maker_of(session)?;
        let (devices, identity) = self.keys.known.get(&owner)?;
        let made = |device: &&KnownDevice| session == format!("m{}", device.id);
        devices.iter().find(made).filter(|device| device.cross_signed).map(|_| *identity)
    }

    /// `KeeperDevice::pump`: asks for the devices of whoever is tracked and has changed.
    pub fn pump(&mut self) {
        for user in std::mem::take(&mut self.keys.outdated) {
            let person = self.world.people.iter().find(|person| person.id == user).unwrap();
            let before = self.keys.known.get(&user).cloned();
            let first_seen = |id: &ruma::OwnedDeviceId| {
                let known = before.as_ref().and_then(|(devices, _)| {
                    devices.iter().find(|device| device.id == *id).map(|device| device.first_seen)
                });
                known.unwrap_or(self.now)
            };
            let known = person
                .devices
                .iter()
                .filter(|device| !device.gone)
                .map(|device| KnownDevice {
                    id: device.id.clone(),
                    cross_signed: device.signed_by == Some(person.identity),
                    first_seen: first_seen(&device.id),
                })
                .collect();
            self.keys.known.insert(user, (known, person.identity));
        }
        let unvouched: Vec<String> = self
            .keys
            .sessions
            .iter()
            .filter(|(_, judged_by)| judged_by.is_none())
            .map(|(session, _)| session.clone())
            .collect();
        for session in unvouched {
            let judged_by = self.voucher_of(&session);
            self.keys.sessions.insert(session, judged_by);
        }
    }

    /// `KeeperDevice::track`: who is new is asked about by the next [`Sim::pump`].
    pub fn track<'u>(&mut self, users: impl IntoIterator<Item = &'u OwnedUserId>) {
        for user in users {
            if !self.keys.known.contains_key(user) {
                self.keys.outdated.insert(user.clone());
            }
        }
    }

    /// `Service`'s start after a kill.
    pub fn start(&mut self) {
        if !self.rows.outbox.is_empty() {
            self.rows.mark(None, self.now);
        }
        self.look_again(None);
    }
}

impl super::rows::Rows {
    /// `tuples::put_seal`.
    pub fn put_seal(&mut self, id: &OwnedEventId, tuple: &StateTuple, stands_for: &OwnedEventId) {
        self.seals.entry(id.clone()).or_insert_with(|| super::rows::SealRow {
            tuple: tuple.clone(),
            stands_for: stands_for.clone(),
            redacted: false,
        });
    }
}

/// `enforcing::conclude`.
fn conclude(seen: &mut StateEventRow, refusal: &Refusal) {
    seen.verdict = refusal.as_label().to_owned();
    let known = seen.breach.filter(|rule| *rule != Rule::Timestamp);
    seen.breach = known.or_else(|| Rule::of_refusal(refusal)).or(seen.breach);
    seen.awaits = matches!(refusal, Refusal::DeviceNotCrossSigned | Refusal::IdentityChanged);
}
