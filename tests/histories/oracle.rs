//! What must hold: of every seal and key when it goes out, and of the room once everything has come to rest.

use std::collections::BTreeSet;

use ruma::{OwnedEventId, OwnedUserId};

use super::{
    Done, Halt, Sim,
    rows::Holder,
    world::{Cipher, Event, Said},
};
use statekeeper::{
    config::Action,
    keeper::rules::{Reseal, SessionScope},
    state::{JsonMap, Membership, PowerLevels, Rule, StateTuple},
    store::StateDetail,
};

/// Whether a value that a member gave a tuple is one that he was allowed to give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Allowed,
    /// It hangs on what the keeper knew of its author when it read it.
    Unsure,
    /// The keeper was never given the key, or its author's device was never signed.
    Unread,
    Broke(Rule),
}

impl Sim {
    /// Every session that there is must encrypt nothing any more, whoever holds it.
    pub fn all_are_over(&mut self) {
        let all = self.rows.sessions.iter().map(|session| session.row.session_id.clone());
        self.over.extend(all);
    }

    /// No session encrypts after it is over, or more than the rules say.
    fn check_session(&self, tuple: &StateTuple, detail: &StateDetail) -> Done<()> {
        let session = &detail.session_id;
        if self.over.contains(session) {
            return Err(Halt::Broken(format!("{tuple} is sealed under {session}, which is over")));
        }
        if i64::from(detail.message_index) >= self.rules.rotation_messages {
            return Err(Halt::Broken(format!(
                "{session} is used up, and {tuple} is sealed under it"
            )));
        }
        Ok(())
    }

    /// Nobody who has to go, by what the keeper knows in the moment of the commit, can open what is sealed in it.
    pub fn check_seal(&self, tuple: &StateTuple, detail: &StateDetail) -> Done<()> {
        self.check_session(tuple, detail)?;
        let session = &detail.session_id;
        for ((held, user, device), grant) in &self.rows.grants {
            if held != session || grant.message_index > detail.message_index {
                continue;
            }
            let holder = (user.clone(), device.clone());
            let entitled = match self.rules.session_scope {
                SessionScope::Tuple => self.is_entitled(&holder, tuple),
                // Whoever may have one value's key has the session.
                SessionScope::Room => {
                    self.rows.tuples.keys().any(|tuple| self.is_entitled(&holder, tuple))
                }
            };
            if !entitled {
                return Err(Halt::Broken(format!(
                    "{user} {device} has to go and can open what is sealed for {tuple} under \
                     {session} at {}",
                    detail.message_index
                )));
            }
        }
        Ok(())
    }

    /// No grant, no key; no key opens more than its grant says; and no joiner's key opens an older value.
    pub fn check_key(&self, (user, device): &Holder, key: &Cipher) -> Done<()> {
        let id = (key.session.clone(), user.clone(), device.clone());
        let Some(grant) = self.rows.grants.get(&id) else {
            return Err(Halt::Broken(format!("{user} {device} is given {key:?} without a grant")));
        };
        if key.index < grant.message_index {
            return Err(Halt::Broken(format!(
                "{key:?} opens more than {user} {device} was granted"
            )));
        }
        let mut opened = BTreeSet::new();
        for event in &self.world.events {
            if let Said::State { cipher, stands_for: Some(root), .. } = &event.said
                && cipher.session == key.session
                && cipher.index >= key.index
            {
                opened.insert(root);
            }
        }
        if self.rules.session_scope == SessionScope::Tuple && opened.len() > 1 {
            return Err(Halt::Broken(format!("{key:?} opens an older value for {user} {device}")));
        }
        Ok(())
    }

    /// No index of the keeper's stands in two events.
    pub fn check_index(&self, new: &Cipher) -> Done<()> {
        let used =
            |event: &Event| matches!(&event.said, Said::State { cipher, .. } if cipher == new);
        if self.world.events.iter().any(used) {
            return Err(Halt::Broken(format!("{new:?} stands in two events")));
        }
        Ok(())
    }

    /// What holds once everything has come to rest.
    pub fn check_rest(&self) -> Done<()> {
        let tuples: Vec<StateTuple> = self.world.current.keys().cloned().collect();
        for tuple in &tuples {
            self.check_value(tuple).map_err(Halt::Broken)?;
            self.check_readers(tuple).map_err(Halt::Broken)?;
        }
        for event in &self.world.events {
            if let Said::Plain { tuple, .. } = &event.said {
                self.check_plain(event, tuple).map_err(Halt::Broken)?;
            }
            if let Said::State { stands_for: Some(root), .. } = &event.said
                && self.world.is_taken_back(root)
                && !self.world.redacted.contains_key(&event.id)
            {
                return Err(Halt::Broken(format!("{} shows {root}, which was redacted", event.id)));
            }
        }
        Ok(())
    }

    /// The keeper redacts what is in plain where policy says so, once what it says stands under encryption.
    pub fn check_redaction(&self, target: &OwnedEventId) -> Done<()> {
        let Some(Said::Plain { tuple, .. }) = self.world.event(target).map(|event| &event.said)
        else {
            return Ok(());
        };
        if self.rules.action(Rule::Plain) != Action::Redact {
            return Err(Halt::Broken(format!("{target} is redacted, and policy does not say so")));
        }
        let row = self.rows.tuples.get(tuple).filter(|row| !row.redacted);
        let source = row.and_then(|row| row.source.as_ref()).map(|source| &source.event_id);
        let shows = |event: &Event| matches!(&event.said, Said::State { stands_for: Some(root), .. } if root == target);
        if source == Some(target) && !self.world.events.iter().any(shows) {
            return Err(Halt::Broken(format!("{target} is redacted before it is sealed")));
        }
        Ok(())
    }

    /// What is in plain is a value where nothing stood under encryption, and gone where policy says so.
    fn check_plain(&self, event: &Event, tuple: &StateTuple) -> Result<(), String> {
        if self.rules.sender_bound.binds(tuple) {
            return Ok(());
        }
        let id = &event.id;
        let is_state =
            |of: &&Event| matches!(&of.said, Said::State { tuple: its, .. } if its == tuple);
        let mut before = self.world.events.iter().take_while(|other| other.id != *id);
        let accepted = self.accepted.contains(id);
        if accepted && before.any(|other| is_state(&other)) {
            return Err(format!("{id} says {tuple} in plain over what is sealed, and counts"));
        }
        let row = self.rows.tuples.get(tuple);
        let is_value = row.and_then(|row| row.source.as_ref()).is_some_and(|it| it.event_id == *id);
        let sealed = self.world.current.contains_key(tuple);
        if is_value && !sealed && self.rules.reseal == Reseal::OnChange {
            return Err(format!("{id} says {tuple} in plain, and is never sealed"));
        }
        let unread = row.is_some_and(|row| !row.current_fit && !row.redacted);
        let redacts = self.rules.action(Rule::Plain) == Action::Redact;
        if redacts && !(is_value && unread) && !self.world.redacted.contains_key(id) {
            return Err(format!("{id} says {tuple} in plain, and is not redacted"));
        }
        Ok(())
    }

    /// Every entitled device can open the current value, and those who are in the room have read what makes it
    /// recognisable.
    fn check_readers(&self, tuple: &StateTuple) -> Result<(), String> {
        let current = &self.world.current[tuple];
        let Some(event) = self.world.event(current) else { return Ok(()) };
        let Some(cipher) = self.world.cipher_of(current) else { return Ok(()) };
        if event.sender != self.keeper() {
            return Ok(());
        }
        for person in &self.world.people {
            let joined = self.world.members.get(&person.id) == Some(&Membership::Join);
            for device in person.devices.iter().filter(|device| !device.gone) {
                let holder = (person.id.clone(), device.id.clone());
                if !self.is_entitled(&holder, tuple) {
                    continue;
                }
                let opens =
                    device.keys.get(&cipher.session).is_some_and(|from| *from <= cipher.index);
                if !opens {
                    return Err(format!("{holder:?} is entitled to {tuple} and cannot open it"));
                }
                let read = device.read.get(tuple).map(|id| self.world.root_of(id));
                if joined && tuple.is_aesthetic() && read != Some(self.world.root_of(current)) {
                    return Err(format!("{holder:?} has the key of {tuple} and never read it"));
                }
            }
        }
        Ok(())
    }

    /// What a tuple shows is the newest value that somebody was allowed to give it.
    fn check_value(&self, tuple: &StateTuple) -> Result<(), String> {
        let current = self.world.current[tuple].clone();
        let event = self.world.event(&current).ok_or("no event")?;
        let redacted = self.world.redacted.contains_key(&current);
        let (values, class) = self.values_of(tuple);
        let root = self.world.root_of(&current);
        if event.sender == self.keeper() {
            let shown = (!redacted).then_some(root);
            return match values.contains(&shown) {
                true => Ok(()),
                false => Err(format!("{tuple} shows {shown:?} and should show {values:?}")),
            };
        }
        let bound = self.rules.sender_bound.binds(tuple);
        let is_wrong = match class {
            Class::Allowed if redacted => false,
            Class::Allowed => {
                !values.contains(&Some(current.clone()))
                    || (!bound && self.rules.reseal == Reseal::OnChange)
                    || (!bound && self.somebody_came_after(&current, tuple))
            }
            Class::Unsure | Class::Unread => false,
            Class::Broke(rule) if self.rules.action(rule) == Action::Report => false,
            Class::Broke(Rule::Critical) => !redacted,
            Class::Broke(_) => !values.contains(&None),
        };
        if is_wrong {
            return Err(format!(
                "{tuple} shows {current} ({class:?}, redacted: {redacted}) of {} and should show {values:?}",
                event.sender
            ));
        }
        Ok(())
    }

    /// Whether somebody came into the room after an event of a member's whose client had no key for him then.
    fn somebody_came_after(&self, event: &OwnedEventId, tuple: &StateTuple) -> bool {
        let (mut joined, mut came) = (BTreeSet::new(), BTreeSet::new());
        for at in &self.world.events {
            match &at.said {
                Said::Member(user, Membership::Join) => {
                    came.extend(joined.insert(user).then_some(user));
                }
                Said::Member(user, _) => {
                    joined.remove(user);
                    came.remove(user);
                }
                _ if at.id == *event => came.clear(),
                _ => {}
            }
        }
        let people = self.world.people.iter().filter(|person| came.contains(&person.id));
        people.flat_map(|person| person.devices.iter().map(|device| (&person.id, device))).any(
            |(user, device)| {
                !device.gone && self.is_entitled(&(user.clone(), device.id.clone()), tuple)
            },
        )
    }

    /// The values that a tuple may have, by all that ever happened, and what its current event is.
    fn values_of(&self, tuple: &StateTuple) -> (BTreeSet<Option<OwnedEventId>>, Class) {
        let mut values = BTreeSet::from([None]);
        let mut levels = self.first_levels.clone();
        let mut used: BTreeSet<(OwnedUserId, Cipher)> = BTreeSet::new();
        let mut class = Class::Unread;
        for event in &self.world.events {
            match &event.said {
                Said::Power(said) => levels.clone_from(said),
                Said::Message(cipher) => {
                    used.insert((event.sender.clone(), cipher.clone()));
                }
                // What the keeper redacts was taken back before, or broke a rule.
                Said::Redaction(target) if event.sender != self.keeper() => {
                    let root = Some(self.world.root_of(target));
                    if values.remove(&root) {
                        values.insert(None);
                    }
                }
                Said::Plain { tuple: its, .. }
                    if its == tuple && self.accepted.contains(&event.id) =>
                {
                    values = BTreeSet::from([Some(event.id.clone())]);
                }
                Said::State { cipher, stands_for: None, tuple: its, .. } => {
                    let fresh = used.insert((event.sender.clone(), cipher.clone()));
                    if its != tuple {
                        continue;
                    }
                    class = self.class_of(event, &levels, fresh);
                    match class {
                        Class::Allowed => values = BTreeSet::from([Some(event.id.clone())]),
                        Class::Unsure => drop(values.insert(Some(event.id.clone()))),
                        Class::Unread | Class::Broke(_) => {}
                    }
                }
                _ => {}
            }
        }
        (values, class)
    }

    fn class_of(&self, event: &Event, levels: &JsonMap, fresh: bool) -> Class {
        let Said::State { tuple, cipher, content, .. } = &event.said else { return Class::Unread };
        let power = PowerLevels::from_content(Some(levels), &[], "11");
        let broken = Rule::broken_on_key(tuple, &event.sender, &power, &self.rules.exempt);
        if let Some(rule) = broken {
            return Class::Broke(rule);
        }
        if !fresh {
            return Class::Broke(Rule::Replay);
        }
        if !self.keys.sessions.contains_key(&cipher.session) {
            return Class::Unread;
        }
        let redacted = self.world.redacted.contains_key(&event.id);
        let misshapen = content.get("name").is_some_and(serde_json::Value::is_number);
        let person = self.world.people.iter().find(|person| person.id == event.sender);
        let Some(person) = person.filter(|person| person.identity == 0) else {
            return if misshapen && !redacted { Class::Unread } else { Class::Unsure };
        };
        // Somebody who went is not asked about any more.
        let present = self.world.members.get(&person.id) == Some(&Membership::Join);
        let known = self.keys.known.get(&person.id).is_some_and(|(devices, _)| {
            devices
                .iter()
                .any(|device| device.cross_signed && cipher.session == format!("m{}", device.id))
        });
        if misshapen && !redacted {
            // What comes from a device that is not signed is refused for that.
            return if present && known { Class::Broke(Rule::Shape) } else { Class::Unread };
        }
        match self.accepted.contains(&event.id) {
            true => Class::Allowed,
            // What was redacted before it could be read may have been anything.
            false if redacted || !present || !known => Class::Unsure,
            false => Class::Allowed,
        }
    }
}
