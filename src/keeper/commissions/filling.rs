//! What stands in a room that was made: what is hidden is sealed, the rest is said in plain, and people are let in.

use ruma::{EventId, OwnedUserId, RoomId, UserId};

use super::{Went, Work};
use crate::{
    keeper::{KeeperError, clock::now_ms, rooms::membership_now, rules::Rules},
    state::{Form, Membership},
    store::{
        Blueprint, CommissionRow, SourceValue, StateValue, Step, TupleRow, marks, rooms, tuples,
    },
};

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
            self.looks = 0;
            self.progress(sealed, hidden.len()).await?;
        }
        if sealed == hidden.len() {
            return self.next(row).await;
        }
        Ok(self.comes())
    }

    /// Makes them values of the room's, where nobody has said anything else meanwhile.
    async fn give(
        &self,
        room: &RoomId,
        hidden: &[&StateValue],
        rules: &Rules,
    ) -> Result<(), KeeperError> {
        let named: Vec<(String, &StateValue)> =
            hidden.iter().enumerate().map(|(number, value)| (number.to_string(), *value)).collect();
        // Nobody edits it: nothing has to be waited for.
        let at = now_ms().saturating_sub(rules.reseal_delay);
        let is_free = |row: &TupleRow| {
            row.source.is_none() && row.current_event_id.is_none() && !row.redacted
        };
        self.put_values(room, named, at, is_free).await
    }

    /// Gives the room values of the keeper's own, of this name and as old as `at`, where the tuple `may` have them.
    pub(super) async fn put_values(
        &self,
        room: &RoomId,
        values: Vec<(String, &StateValue)>,
        at: i64,
        may: impl Fn(&TupleRow) -> bool,
    ) -> Result<(), KeeperError> {
        let taker = &self.lanes.taker;
        let store = &taker.store;
        let mut transaction = store.begin().await?;
        let mut any = false;
        for (name, value) in values {
            let known = tuples::get(store, &mut transaction, room, &value.tuple()).await?;
            let mut row = known.unwrap_or_else(|| TupleRow::new(value.tuple()));
            // It stands in no event: no homeserver makes such an id.
            let name = EventId::parse(format!("$io.statekeeper.{}.{name}", self.id));
            let Some(event_id) = name.ok().filter(|_| may(&row)) else { continue };
            let (sender, form, tick) = (taker.keeper.clone(), Form::Own, store.next_tick());
            let content = value.content.clone();
            row.source = Some(SourceValue { event_id, sender, form, at, tick, content });
            tuples::put(store, &mut transaction, room, &row).await?;
            any = true;
        }
        if !any {
            return Ok(());
        }
        marks::mark(&mut transaction, room, None, now_ms(), store.next_tick()).await?;
        transaction.commit().await?;
        self.promised.notify_one();
        Ok(())
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
                // The homeserver waits for his in vain. Whoever comes after him does not.
                Err(error) if error.is_late() && !self.late.contains(user) => {
                    return self.put_last(wanted, done, user).await;
                }
                Err(error) if error.is_away() => {
                    self.tries = 0;
                    return Err(error.into());
                }
                Err(error)
                    if error.is_transient() && !error.is_late() && self.tries < MOST_TRIES =>
                {
                    return Err(error.into());
                }
                Err(error) => self.note(&format!("{user} could not be invited ({error})")).await?,
            }
        }
        self.tries = 0;
        self.progress(done.saturating_add(1), wanted.invites.len()).await?;
        Ok(Went::On)
    }

    /// Puts somebody off until everybody else is invited, with all of his server who are still to be: each of them is
    /// tried once more then.
    async fn put_last(
        &mut self,
        wanted: &Blueprint,
        done: usize,
        user: &UserId,
    ) -> Result<Went, KeeperError> {
        let mut wanted = wanted.clone();
        let left = wanted.invites.split_off(done.min(wanted.invites.len()));
        let server =
            Some(user.server_name()).filter(|it| *it != self.lanes.taker.keeper.server_name());
        let is_like = |other: &OwnedUserId| other == user || server == Some(other.server_name());
        let (last, first): (Vec<_>, Vec<_>) = left.into_iter().partition(is_like);
        tracing::info!(commission = self.id, %user, others = last.len(),
            "an invite is not delivered; it comes last, with others of that server");
        self.late.extend(last.iter().cloned());
        wanted.invites.extend(first.into_iter().chain(last));
        self.tries = 0;
        self.want(wanted).await?;
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
