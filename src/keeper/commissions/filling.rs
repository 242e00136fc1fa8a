//! What stands in a room that was made: what is hidden is sealed, the rest is said in plain, and people are let in.

use std::time::Duration;

use ruma::{EventId, OwnedEventId, RoomId, UserId};

use super::{Went, Work};
use crate::{
    keeper::{KeeperError, clock::now_ms, rooms::membership_now, rules::Rules},
    state::{Form, Membership},
    store::{
        Blueprint, CommissionRow, SourceValue, StateValue, Step, TupleRow, marks, rooms, tuples,
    },
};

/// How long until it is looked whether a value was sealed.
pub(super) const SEALS: Duration = Duration::from_millis(50);
/// How often an invite is tried that the homeserver cannot deliver.
const MOST_TRIES: u32 = 3;

impl Work {
    /// Gives what is hidden to the keeper as values of the room's, and waits until all of it is sealed.
    pub(super) async fn seal(
        &mut self,
        row: &CommissionRow,
        room: &RoomId,
        wanted: &Blueprint,
    ) -> Result<Went, KeeperError> {
        let store = self.lanes.taker.store.clone();
        let Some(known) = rooms::get(&mut *store.read().await?, room).await? else {
            return Ok(Went::Stuck(format!("{room}: the keeper is not there any more")));
        };
        let rules = self.lanes.taker.rules.of(&known);
        let hidden: Vec<&StateValue> =
            wanted.hidden.iter().filter(|value| is_hidden(value, &rules)).collect();
        if hidden.is_empty() {
            return self.next(row).await;
        }
        if !known.state_encrypted || !known.elevated || rules.noop {
            return Ok(Went::Stuck(format!(
                "{room}: the keeper does not seal there: it is {}, `state.seal` is for other rooms, or \
                 `noop` is set for it",
                known.status()
            )));
        }
        self.give(room, &hidden, &rules).await?;
        let mut sealed = 0;
        for value in &hidden {
            let tuple =
                tuples::get(&store, &mut *store.read().await?, room, &value.tuple()).await?;
            sealed += usize::from(tuple.is_some_and(|tuple| is_settled(&tuple)));
        }
        let counted = (usize::try_from(row.done).ok(), usize::try_from(row.total).ok());
        if counted != (Some(sealed), Some(hidden.len())) {
            self.progress(sealed, hidden.len()).await?;
        }
        if sealed == hidden.len() {
            return self.next(row).await;
        }
        Ok(Went::Waits(SEALS))
    }

    /// Makes them values of the room's, where nobody has said anything else meanwhile.
    async fn give(
        &self,
        room: &RoomId,
        hidden: &[&StateValue],
        rules: &Rules,
    ) -> Result<(), KeeperError> {
        let taker = &self.lanes.taker;
        let (store, now) = (&taker.store, now_ms());
        let mut transaction = store.begin().await?;
        let mut any = false;
        for (number, value) in hidden.iter().enumerate() {
            let tuple = value.tuple();
            let known = tuples::get(store, &mut transaction, room, &tuple).await?;
            let mut row = known.unwrap_or_else(|| TupleRow::new(tuple));
            let Some(event_id) = self.name_of(number) else { continue };
            if row.source.is_some() || row.current_event_id.is_some() || row.redacted {
                continue;
            }
            row.source = Some(SourceValue {
                event_id,
                sender: taker.keeper.clone(),
                form: Form::Own,
                // Nobody edits it: nothing has to be waited for.
                at: now.saturating_sub(rules.reseal_delay),
                tick: store.next_tick(),
                content: value.content.clone(),
            });
            tuples::put(store, &mut transaction, room, &row).await?;
            any = true;
        }
        if !any {
            return Ok(());
        }
        marks::mark(&mut transaction, room, None, now, store.next_tick()).await?;
        transaction.commit().await?;
        self.promised.notify_one();
        Ok(())
    }

    /// The name of a value that stands in no event: no homeserver makes such an id.
    fn name_of(&self, number: usize) -> Option<OwnedEventId> {
        EventId::parse(format!("$io.statekeeper.{}.{number}", self.id)).ok()
    }

    /// Says what stands in plain, who may join at last.
    pub(super) async fn open(
        &mut self,
        row: &CommissionRow,
        room: &RoomId,
        wanted: &Blueprint,
    ) -> Result<Went, KeeperError> {
        let known = rooms::get(&mut *self.lanes.taker.store.read().await?, room).await?;
        let rules = known.map(|known| self.lanes.taker.rules.of(&known));
        let exempt = wanted.hidden.iter().filter(|value| {
            rules.as_ref().is_some_and(|rules| rules.exempt.contains(&value.event_type))
        });
        let values: Vec<&StateValue> = exempt.chain(&wanted.plain).collect();
        let done = usize::try_from(row.done).unwrap_or(0);
        let Some(value) = values.get(done) else { return self.next(row).await };
        let tuple = (value.event_type.as_str(), value.state_key.as_str());
        if let Err(error) = self.put(room, tuple, &value.content).await? {
            self.note(&format!("{} could not be put into the room ({error})", value.event_type))
                .await?;
        }
        self.progress(done.saturating_add(1), values.len()).await?;
        Ok(Went::On)
    }

    /// Invites one after another.
    pub(super) async fn invite(
        &mut self,
        row: &CommissionRow,
        room: &RoomId,
        wanted: &Blueprint,
    ) -> Result<Went, KeeperError> {
        let done = usize::try_from(row.done).unwrap_or(0);
        let Some(user) = wanted.invites.get(done) else {
            self.leave_others(row, room).await?;
            return self.go_on(row, Step::Done).await;
        };
        if !self.is_there(room, user).await? {
            self.tries += 1;
            match self.lanes.homeserver.invite(room, user, None).await {
                Ok(()) => {}
                // It is the homeserver itself that is away, or wants us to wait.
                Err(error) if error.errcode().is_none() || error.retry_after().is_some() => {
                    self.tries = 0;
                    return Err(error.into());
                }
                Err(error) if error.is_transient() && self.tries < MOST_TRIES => {
                    return Err(error.into());
                }
                Err(error) => self.note(&format!("{user} could not be invited ({error})")).await?,
            }
        }
        self.tries = 0;
        self.progress(done.saturating_add(1), wanted.invites.len()).await?;
        Ok(Went::On)
    }

    /// Whether somebody is in a room, or invited, or kept out. An invite that was sent before a kill has not been heard of
    /// yet, so the homeserver is asked.
    async fn is_there(&self, room: &RoomId, user: &UserId) -> Result<bool, KeeperError> {
        let membership = membership_now(&self.lanes.homeserver, room, user).await?;
        Ok(matches!(membership, Some(Membership::Join | Membership::Invite | Membership::Ban)))
    }
}

/// Whether the keeper seals such a value in a room of these rules.
pub(super) fn is_hidden(value: &StateValue, rules: &Rules) -> bool {
    let tuple = value.tuple();
    !rules.exempt.contains(&value.event_type)
        && !rules.sender_bound.binds(&tuple)
        && tuple.packed().is_ok()
}

/// Whether a value is sealed, or nothing that has to be sealed any more.
pub(super) fn is_settled(row: &TupleRow) -> bool {
    let Some(source) = &row.source else { return true };
    row.redacted || row.sealed.as_ref().is_some_and(|sealed| sealed.from == source.event_id)
}
