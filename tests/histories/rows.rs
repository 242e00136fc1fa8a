//! The store's rows in memory: the same row types, and of each statement what it does to them.
//!
//! A commit is a change that is made without anything in between, so a kill, which happens between two of them, finds
//! here what it would find on the disk.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedDeviceId, OwnedEventId, OwnedUserId, RoomId};

use statekeeper::{
    policy::Word,
    state::{HistoryVisibility, Membership, Rule, StateTuple},
    store::{
        Grant, Identity, Mark, MemberRow, NewGrant, Over, Retired, RoomRow, SessionRow,
        StateDetail, StateEventRow, TupleRow,
    },
};

/// A device and its user.
pub type Holder = (OwnedUserId, OwnedDeviceId);

/// A row of `sessions`.
#[derive(Clone)]
pub struct Session {
    pub row: SessionRow,
    pub scope: Option<StateTuple>,
    pub retired: Option<(Retired, i64)>,
}

/// A row of `outbox`.
#[derive(Clone)]
pub enum Outgoing {
    Keys { session_id: String, index: u32, recipients: Vec<Holder> },
    State { tuple: StateTuple, detail: StateDetail },
    Redaction { target: OwnedEventId, txn: u64 },
}

/// A row of `seals`.
#[derive(Clone)]
pub struct SealRow {
    pub tuple: StateTuple,
    pub stands_for: OwnedEventId,
    pub redacted: bool,
}

/// The store.
#[derive(Clone)]
pub struct Rows {
    tick: i64,
    pub room: RoomRow,
    pub visibility: Option<HistoryVisibility>,
    pub inbox: BTreeSet<OwnedEventId>,
    pub members: BTreeMap<OwnedUserId, MemberRow>,
    pub tuples: BTreeMap<StateTuple, TupleRow>,
    /// The index of each tuple's key snapshot.
    pub snapshots: BTreeMap<StateTuple, u32>,
    pub events: BTreeMap<OwnedEventId, StateEventRow>,
    indices: BTreeMap<(String, u32, OwnedUserId), OwnedEventId>,
    messages: BTreeSet<(String, u32, OwnedUserId)>,
    pub sessions: Vec<Session>,
    pub grants: BTreeMap<(String, OwnedUserId, OwnedDeviceId), Grant>,
    pub outbox: BTreeMap<u64, Outgoing>,
    numbers: u64,
    pub prepared: BTreeMap<(String, u32), OwnedEventId>,
    pub seals: BTreeMap<OwnedEventId, SealRow>,
    pub owed: BTreeSet<OwnedEventId>,
    pub marks: BTreeMap<Option<OwnedUserId>, (i64, Mark)>,
    pub identities: BTreeMap<OwnedUserId, Identity>,
    pub blocks: BTreeSet<OwnedUserId>,
    pub words: BTreeMap<OwnedUserId, Word>,
    /// Since when there is a war with whom, and when the last one was settled.
    pub wars: BTreeMap<OwnedUserId, (bool, i64)>,
}

impl Rows {
    pub fn new(room: &RoomId) -> Self {
        let mut row = RoomRow::new(room.to_owned(), Membership::Join);
        (row.loaded, row.encrypted, row.flagged, row.state_encrypted) = (true, true, true, true);
        (row.elevated, row.version) = (true, "11".to_owned());
        Self {
            tick: 1,
            room: row,
            visibility: None,
            inbox: BTreeSet::new(),
            members: BTreeMap::new(),
            tuples: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            events: BTreeMap::new(),
            indices: BTreeMap::new(),
            messages: BTreeSet::new(),
            sessions: Vec::new(),
            grants: BTreeMap::new(),
            outbox: BTreeMap::new(),
            numbers: 0,
            prepared: BTreeMap::new(),
            seals: BTreeMap::new(),
            owed: BTreeSet::new(),
            marks: BTreeMap::new(),
            identities: BTreeMap::new(),
            blocks: BTreeSet::new(),
            words: BTreeMap::new(),
            wars: BTreeMap::new(),
        }
    }

    /// `Store::next_tick`.
    pub fn next_tick(&mut self) -> i64 {
        self.tick += 1;
        self.tick
    }

    /// `tuples::of_room`: name, topic and avatar first.
    pub fn tuples_of_room(&self) -> Vec<TupleRow> {
        let mut rows: Vec<TupleRow> = self.tuples.values().cloned().collect();
        rows.sort_by_key(|row| !row.tuple.is_aesthetic());
        rows
    }

    /// `tuples::record_message`.
    pub fn record_message(&mut self, session: &str, index: u32, sender: &OwnedUserId) {
        self.messages.insert((session.to_owned(), index, sender.clone()));
    }

    /// `tuples::record_index`.
    pub fn record_index(
        &mut self,
        session: &str,
        index: u32,
        sender: &OwnedUserId,
        event: &OwnedEventId,
    ) -> bool {
        let key = (session.to_owned(), index, sender.clone());
        if self.messages.contains(&key) && !self.indices.contains_key(&key) {
            return false;
        }
        self.indices.entry(key).or_insert_with(|| event.clone()) == event
    }

    /// `tuples::breaches_since`.
    pub fn breaches_since(
        &self,
        sender: &OwnedUserId,
        (after, until): (i64, i64),
        rules: &[Rule],
    ) -> u32 {
        let breaches = self.events.values().filter(|row| {
            row.sender == *sender
                && row.breach.is_some_and(|rule| rules.contains(&rule))
                && row.live
                && row.received_at > after
                && row.received_at <= until
        });
        u32::try_from(breaches.count()).unwrap()
    }

    /// `tuples::awaiting` and, of one session, `tuples::never_read`.
    pub fn unread(&self, session: Option<&str>) -> Vec<StateEventRow> {
        let waits = |row: &&StateEventRow| match session {
            None => row.awaits,
            Some(session) => {
                row.session_id.as_deref() == Some(session)
                    && row.body.is_some()
                    && (row.awaits || row.content.is_none())
            }
        };
        let mut rows: Vec<_> = self.events.values().filter(waits).cloned().collect();
        rows.sort_by_key(|row| row.tick);
        rows
    }

    /// `tuples::newest_allowed`.
    pub fn newest_allowed(&self, tuple: &StateTuple, but: &OwnedEventId) -> Option<&StateEventRow> {
        let counts = |row: &&StateEventRow| {
            row.tuple == *tuple
                && row.event_id != *but
                && matches!(row.verdict.as_str(), "accepted" | "cleared" | "redacted")
                && row.breach.is_none_or(Rule::allows_value)
        };
        let newest = self.events.values().filter(counts).max_by_key(|row| row.tick)?;
        Some(newest).filter(|row| row.verdict != "redacted")
    }

    /// `wars::settle`, and the mark with it. Whether there was a war.
    pub fn settle_war(&mut self, user: &OwnedUserId, now: i64) -> bool {
        let Some(war) = self.wars.get_mut(user).filter(|war| war.0) else { return false };
        *war = (false, now);
        self.mark(None, now);
        true
    }

    /// `tuples::is_superseded`.
    pub fn is_superseded(&self, tuple: &StateTuple, tick: i64) -> bool {
        self.events.values().any(|row| {
            row.tuple == *tuple
                && row.tick > tick
                && matches!(row.verdict.as_str(), "accepted" | "cleared" | "redacted")
                && row.breach.is_none_or(Rule::allows_value)
        })
    }

    /// `tuples::newest_plain_breach`.
    pub fn newest_plain_breach(&self, tuple: &StateTuple) -> Option<&StateEventRow> {
        let stands = |row: &&StateEventRow| {
            row.tuple == *tuple
                && row.breach.is_some_and(Rule::is_in_plain)
                && !matches!(row.verdict.as_str(), "redacted" | "cleared" | "emptied")
        };
        self.events.values().filter(stands).max_by_key(|row| row.tick)
    }

    /// `tuples::take_seals_of`.
    pub fn take_seals_of(&mut self, source: &OwnedEventId) -> Vec<OwnedEventId> {
        let mut taken = Vec::new();
        for (id, seal) in &mut self.seals {
            if seal.stands_for == *source && !std::mem::replace(&mut seal.redacted, true) {
                taken.push(id.clone());
            }
        }
        taken
    }

    /// `tuples::take_seal`.
    pub fn take_seal(&mut self, id: &OwnedEventId) -> bool {
        self.seals.get_mut(id).is_some_and(|seal| !std::mem::replace(&mut seal.redacted, true))
    }

    /// `sessions::active`.
    pub fn active(&self, scope: Option<&StateTuple>) -> Option<SessionRow> {
        let active = self
            .sessions
            .iter()
            .filter(|session| session.retired.is_none() && session.scope.as_ref() == scope);
        active.max_by_key(|session| session.row.created_at).map(|session| session.row.clone())
    }

    /// `sessions::put`.
    pub fn put_session(&mut self, scope: Option<&StateTuple>, row: &SessionRow) {
        let known = self.sessions.iter_mut().find(|kept| kept.row.session_id == row.session_id);
        match known {
            Some(kept) => kept.row.messages = row.messages,
            None => {
                // What is written has a pickle.
                let row = SessionRow { pickle: vec![1], ..row.clone() };
                self.sessions.push(Session { row, scope: scope.cloned(), retired: None });
            }
        }
    }

    /// `sessions::retire` and its siblings: those of a room that are such.
    pub fn retire(&mut self, why: Retired, now: i64, such: impl Fn(&str) -> bool) -> u64 {
        let mut count = 0;
        for session in &mut self.sessions {
            if session.retired.is_none() && such(&session.row.session_id) {
                session.retired = Some((why, now));
                count += 1;
            }
        }
        count
    }

    /// `sessions::retire_known_to`.
    pub fn retire_known_to(&mut self, user: &OwnedUserId, why: Retired, now: i64) -> u64 {
        let granted: BTreeSet<String> = self
            .grants
            .keys()
            .filter(|(_, holder, _)| holder == user)
            .map(|(session, _, _)| session.clone())
            .collect();
        self.retire(why, now, |session| granted.contains(session))
    }

    /// `sessions::is_retired`.
    pub fn is_retired(&self, id: &str) -> bool {
        let known = self.sessions.iter().find(|session| session.row.session_id == id);
        known.is_none_or(|session| session.retired.is_some())
    }

    /// `sessions::over`.
    pub fn over(&self, scope: Option<&StateTuple>, id: &str) -> Option<Over> {
        let sealed = self.sessions.iter().find(|session| session.row.session_id == id)?;
        sealed.retired?;
        let since = sealed.row.created_at;
        let retired: Vec<(Retired, i64)> = self
            .sessions
            .iter()
            .filter(|session| session.scope.as_ref() == scope && session.row.created_at >= since)
            .filter_map(|session| session.retired)
            .collect();
        let by_use = |(why, _): &(Retired, i64)| matches!(why, Retired::Messages);
        let at = retired.iter().map(|(_, at)| *at).max()?;
        Some(Over { at, by_use: retired.iter().all(by_use) })
    }

    /// `ledger::grant`.
    pub fn grant(&mut self, grants: &[NewGrant], now: i64) {
        for new in grants {
            let key = (new.session_id.clone(), new.user_id.clone(), new.device_id.clone());
            let granted = Grant {
                message_index: new.message_index,
                sent_at: None,
                sent_tick: None,
                granted_at: now,
                asked: new.is_asked(),
            };
            let held = self.grants.entry(key).or_insert_with(|| granted.clone());
            let message_index = held.message_index.min(new.message_index);
            *held = Grant { message_index, ..granted };
        }
    }

    /// `ledger::delivered`.
    pub fn delivered(&mut self, session: &str, recipients: &[Holder], at: i64, tick: i64) {
        for (user, device) in recipients {
            let key = (session.to_owned(), user.clone(), device.clone());
            if let Some(grant) = self.grants.get_mut(&key) {
                grant.sent_at = grant.sent_at.or(Some(at));
                grant.sent_tick = grant.sent_tick.or(Some(tick));
            }
        }
    }

    /// `outbox::insert`.
    pub fn write_down(&mut self, outgoing: Outgoing) -> u64 {
        self.numbers += 1;
        self.outbox.insert(self.numbers, outgoing);
        self.numbers
    }

    /// `outbox::insert` of `redaction_of` an event.
    pub fn redact(&mut self, target: &OwnedEventId) {
        let txn = self.numbers + 1;
        self.write_down(Outgoing::Redaction { target: target.clone(), txn });
    }

    /// `marks::put`.
    pub fn put_mark(&mut self, user: Option<&OwnedUserId>, due: i64, tick: i64, attempts: i64) {
        let mark = Mark { user_id: user.cloned(), tick, attempts };
        let before = self.marks.get(&mark.user_id).map_or(due, |(before, _)| *before);
        self.marks.insert(mark.user_id.clone(), (due.min(before), mark));
    }

    /// `marks::mark`.
    pub fn mark(&mut self, user: Option<&OwnedUserId>, due: i64) {
        let tick = self.next_tick();
        self.put_mark(user, due, tick, 0);
    }

    /// `marks::due`.
    pub fn due(&self, now: i64) -> Vec<Mark> {
        let due = self.marks.values().filter(|(due, _)| *due <= now);
        due.map(|(_, mark)| mark.clone()).collect()
    }

    /// `marks::settle`.
    pub fn settle(&mut self, mark: &Mark) {
        if self.marks.get(&mark.user_id).is_some_and(|(_, kept)| kept.tick == mark.tick) {
            self.marks.remove(&mark.user_id);
        }
    }

    /// `people::see_identity`.
    pub fn see_identity(&mut self, user: &OwnedUserId, key: &str) {
        let known = self.identities.entry(user.clone());
        let known =
            known.or_insert_with(|| Identity { master_key: key.to_owned(), changed_to: None });
        known.changed_to = (known.master_key != key).then(|| key.to_owned());
    }
}
