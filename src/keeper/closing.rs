//! The end of a visit: its promises are settled, or left to the next one.

use std::collections::BTreeSet;

use ruma::UserId;

use super::{KeeperError, clock::now_ms, lane::Visit, pacing::unreachable_wait};
use crate::store::{Mark, Refusal, ledger, marks};

impl Visit<'_> {
    /// Ends the visit: settles its promises, or leaves them when something failed.
    pub(super) async fn close(&mut self, due: &[Mark], settled: bool) -> Result<(), KeeperError> {
        let store = self.lanes.taker.store.clone();
        let room_id = self.room_id();
        let now = now_ms();
        let mut transaction = store.begin().await?;
        self.note_delivered(&mut transaction).await?;
        self.settle_holds(&mut transaction).await?;
        for (user, device, refused) in std::mem::take(&mut self.refusals) {
            let Some((code, outcome)) = refused.code().zip(refused.outcome()) else { continue };
            let refusal = Refusal {
                holder: (&user, &device),
                session_id: "",
                outcome: &outcome,
                policy: &self.rules.policy,
            };
            if ledger::refuse(&store, &mut transaction, &room_id, refusal, now).await? {
                self.lanes.taker.metrics.room_keys_withheld(code.as_str(), 1);
            }
        }
        if settled {
            for mark in due {
                marks::settle(&mut transaction, &room_id, mark).await?;
            }
            self.come_again(&mut transaction, due).await?;
            if let Some(at) = self.wears_out_at {
                marks::mark(&mut transaction, &room_id, None, at, store.next_tick()).await?;
            }
            if self.sealed && !self.lanes.desk.unheard_of(&room_id).is_empty() {
                marks::mark(&mut transaction, &room_id, None, now, store.next_tick()).await?;
            }
            self.retry_unreachable(&mut transaction, due, now).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn come_again(
        &self,
        db: &mut sqlx::SqliteConnection,
        due: &[Mark],
    ) -> Result<(), KeeperError> {
        let Some(at) = self.again_at else { return Ok(()) };
        let tick = self.lanes.taker.store.next_tick();
        for mark in due {
            marks::mark(db, &self.room.room_id, mark.user_id.as_deref(), at, tick).await?;
        }
        Ok(())
    }

    /// Promises to try those again who could not be reached. Whoever is waited for already goes on waiting as long
    /// as before: what others do in the room makes his device no more reachable.
    async fn retry_unreachable(
        &self,
        db: &mut sqlx::SqliteConnection,
        due: &[Mark],
        now: i64,
    ) -> Result<(), KeeperError> {
        // Whoever has to ask asks again.
        if !self.rules.unasked {
            return Ok(());
        }
        let users: BTreeSet<&UserId> =
            self.unreachable.iter().map(|(user, _)| user.as_ref()).collect();
        for user in users {
            let own = due.iter().find(|mark| mark.user_id.as_deref() == Some(user));
            let attempts = own.map_or(0, |mark| mark.attempts);
            // A visit that comes again at once has not settled anything, and is no attempt of its own.
            let tried = attempts.saturating_add(i64::from(self.again_at.is_none()));
            let due_at = now.saturating_add(unreachable_wait(attempts));
            let tick = self.lanes.taker.store.next_tick();
            if own.is_some() || !marks::stands(db, &self.room.room_id, user).await? {
                marks::put(db, &self.room.room_id, Some(user), due_at, tick, tried).await?;
            }
        }
        Ok(())
    }
}
