//! Sending what was written down: what `outbox` does, towards a homeserver whose answers may be lost.

use ruma::OwnedEventId;

use super::{
    Done, Halt, Sim,
    performing::{Delivery, Visit},
    rows::Outgoing,
    world::{Cipher, Said},
};
use statekeeper::{
    state::{Rule, StateTuple},
    store::{SealedValue, StateDetail},
};

impl Sim {
    /// `Sender::flush`: keys before events, whatever their order.
    pub fn flush(&mut self) -> Done<()> {
        let rows: Vec<(u64, Outgoing)> =
            self.rows.outbox.iter().map(|(number, row)| (*number, row.clone())).collect();
        let mut delivered = Vec::new();
        for (number, row) in &rows {
            if matches!(row, Outgoing::Keys { .. }) {
                delivered.push(self.send_keys(*number)?);
            }
        }
        if !delivered.is_empty() {
            self.meanwhile()?;
            self.note_all_delivered(delivered);
            self.rows.mark(None, self.now);
        }
        for (number, row) in rows {
            match row {
                Outgoing::Keys { .. } => {}
                Outgoing::State { tuple, detail } => self.repeat_state(number, &tuple, &detail)?,
                Outgoing::Redaction { target, txn } => self.send_redaction(number, target, txn)?,
            }
        }
        Ok(())
    }

    /// `outbox::note_delivered`, as a part of the caller's commit.
    pub fn note_all_delivered(&mut self, delivered: Vec<Delivery>) {
        for delivery in delivered {
            let (at, tick) = (delivery.at, delivery.tick);
            self.rows.delivered(&delivery.session_id, &delivery.recipients, at, tick);
            self.rows.outbox.remove(&delivery.number);
        }
    }

    /// `Visit::deliver`.
    pub fn deliver(&mut self, visit: &mut Visit, requests: &[u64]) -> Done<()> {
        self.meanwhile()?;
        let mut delivered = Vec::new();
        for number in requests {
            delivered.push(self.send_keys(*number)?);
        }
        visit.delivered.append(&mut delivered);
        self.meanwhile()
    }

    /// `Sender::send_to_device`.
    fn send_keys(&mut self, number: u64) -> Done<Delivery> {
        let Some(Outgoing::Keys { session_id, index, recipients }) =
            self.rows.outbox.get(&number).cloned()
        else {
            return Err(Halt::Broken("keys were struck off before they were sent".to_owned()));
        };
        self.answers_at_all()?;
        let key = Cipher { session: session_id.clone(), index };
        for holder in &recipients {
            self.check_key(holder, &key)?;
            self.world.hand_over(&holder.0, &holder.1, &key);
        }
        self.note(|| format!("handed {key:?} to {recipients:?}"));
        self.answer_comes()?;
        let tick = self.rows.next_tick();
        Ok(Delivery { number, session_id, recipients, at: self.now, tick })
    }

    /// `Sender::send_state`: the homeserver takes a sealed event.
    pub fn put_state(&mut self, tuple: &StateTuple, detail: &StateDetail) -> Done<OwnedEventId> {
        self.answers_at_all()?;
        let cipher = Cipher { session: detail.session_id.clone(), index: detail.message_index };
        let standing = self.world.current.get(tuple).cloned();
        let event_id = match standing {
            // The same content that stands there makes no new event.
            Some(id) if self.world.cipher_of(&id).as_ref() == Some(&cipher) => id,
            _ => {
                self.check_index(&cipher)?;
                let root = self.world.event(&detail.stands_for).cloned();
                let said = root.map(|root| root.said);
                let Some(Said::State { content, .. } | Said::Plain { content, .. }) = said else {
                    return Err(Halt::Broken("a seal stands for nothing".to_owned()));
                };
                let stands_for = Some(detail.stands_for.clone());
                let said = Said::State { tuple: tuple.clone(), cipher, content, stands_for };
                let id = self.world.send(self.keeper(), said, self.now, self.now);
                self.note(|| {
                    format!("sealed {tuple} as {id} for {} ({})", detail.stands_for, detail.cause)
                });
                id
            }
        };
        self.answer_comes()?;
        self.meanwhile()?;
        Ok(event_id)
    }

    /// `Sender::repeat_state`.
    fn repeat_state(&mut self, number: u64, tuple: &StateTuple, detail: &StateDetail) -> Done<()> {
        let known = self.rows.tuples.get(tuple);
        let source = known.and_then(|row| row.source.as_ref());
        let wanted = source.is_some_and(|source| source.event_id == detail.stands_for);
        self.answers_at_all()?;
        let current = self.world.current.get(tuple).cloned();
        let cipher = Cipher { session: detail.session_id.clone(), index: detail.message_index };
        let ours = current.as_ref().and_then(|id| self.world.cipher_of(id)) == Some(cipher);
        let event_id = match current {
            Some(id) if ours => Some(id),
            current if wanted && current == detail.based_on => Some(self.put_state(tuple, detail)?),
            _ => None,
        };
        self.conclude_state(number, tuple, detail, event_id.as_ref());
        self.rows.mark(None, self.now);
        Ok(())
    }

    /// `Sender::conclude_state`, with `redact_if_source_is`.
    pub fn conclude_state(
        &mut self,
        number: u64,
        tuple: &StateTuple,
        detail: &StateDetail,
        event_id: Option<&OwnedEventId>,
    ) {
        self.rows.outbox.remove(&number);
        let Some(event_id) = event_id else { return };
        self.rows.put_seal(event_id, tuple, &detail.stands_for);
        let keeper = self.keeper();
        let (session, index) = (&detail.session_id, detail.message_index);
        self.rows.record_index(session, index, &keeper, event_id);
        let now = self.now;
        if let Some(row) = self.rows.tuples.get_mut(tuple) {
            row.sealed = Some(SealedValue {
                event_id: event_id.clone(),
                from: detail.stands_for.clone(),
                session_id: detail.session_id.clone(),
                message_index: detail.message_index,
                tick: detail.tick,
            });
            if row.current_event_id == detail.based_on {
                row.current_event_id = Some(event_id.clone());
                row.current_sender = Some(keeper);
                row.current_fit = true;
            }
            match detail.cause.as_str() {
                "join" => row.refreshed_at = now,
                "device" => row.device_refresh_at = now,
                _ => {}
            }
            self.rows.snapshots.insert(tuple.clone(), detail.message_index);
        }
        if let Some(offence) = &detail.redacts {
            // `enforcing::redact_after`.
            let seen = self.rows.events.get(offence);
            match seen.and_then(|seen| seen.breach).is_some_and(Rule::is_in_plain) {
                true => drop(self.rows.owed.insert(offence.clone())),
                false => self.rows.redact(offence),
            }
            self.rows.mark(None, self.now);
        }
        let source = self.rows.events.get(&detail.stands_for);
        if source.is_some_and(|source| source.verdict == "redacted") {
            for sealed in self.rows.take_seals_of(&detail.stands_for) {
                self.rows.redact(&sealed);
            }
            self.rows.mark(None, self.now);
        }
    }

    /// `Sender::send_redaction`: the homeserver knows a transaction id that comes again.
    fn send_redaction(&mut self, number: u64, target: OwnedEventId, txn: u64) -> Done<()> {
        self.answers_at_all()?;
        if self.world.done.insert(txn, ()).is_none() {
            self.check_redaction(&target)?;
            self.note(|| format!("redacted {target}"));
            self.world.send(self.keeper(), Said::Redaction(target), self.now, self.now);
        }
        self.answer_comes()?;
        self.meanwhile()?;
        self.rows.outbox.remove(&number);
        Ok(())
    }
}
