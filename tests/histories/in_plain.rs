//! What the keeper takes in of state in plain.

use super::{Sim, world::Event};
use statekeeper::{
    keeper::ingest::power_levels,
    state::{Form, JsonMap, Judgement, Rule, StateTuple, Verdict, judge},
    store::{SourceValue, StateEventRow},
};

impl Sim {
    /// `state_events::take_plain`, with `keep_value` and `plain_beside`. That of an owned key is the homeserver's.
    pub fn take_plain(&mut self, event: &Event, tuple: StateTuple, content: JsonMap, tick: i64) {
        if self.rules.exempt.contains(&tuple.event_type) || self.rules.sender_bound.binds(&tuple) {
            return;
        }
        let mut row = self.tuple_row(&tuple);
        let power = power_levels(&self.rows.room);
        let verdict = judge(&Judgement {
            room_id: &self.rows.room.room_id,
            tuple: &tuple,
            sender: &event.sender,
            power: &power,
            exempt: &self.rules.exempt,
            content: &content,
            payload: None,
            require_cross_signed: self.rules.require_cross_signed,
        });
        let (verdict, breach) = match verdict {
            _ if row.current_event_id.is_some() || row.redacted => ("plain", Rule::Plain),
            Verdict::Refuse(refusal) => (refusal.as_label(), Rule::Plain),
            Verdict::Accept => ("accepted", Rule::Unsealed),
        };
        let seen = StateEventRow {
            event_id: event.id.clone(),
            tuple,
            sender: event.sender.clone(),
            tick,
            received_at: self.now,
            session_id: None,
            powerful: true,
            levels: Some(self.rows.room.power_levels.clone()),
            verdict: verdict.to_owned(),
            breach: Some(breach),
            live: true,
            awaits: false,
            body: None,
            content: Some(content.clone()),
        };
        if breach == Rule::Unsealed {
            self.accepted.insert(event.id.clone());
            (row.redacted, row.current_fit) = (false, true);
            row.source = Some(SourceValue {
                event_id: event.id.clone(),
                sender: event.sender.clone(),
                form: Form::Plain,
                at: self.now,
                tick,
                content,
            });
            self.put_tuple(row);
            self.rows.mark(None, self.now + self.rules.reseal_delay);
        }
        self.keep(seen);
    }
}
