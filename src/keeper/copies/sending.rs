//! Sending copies in plain.
//!
//! Recovery: a state event has no transaction id, so its place is looked at first. The copy stands there → it was sent;
//! what it was made from still stands there, and policy and the value are what they were → it goes out; anything
//! else → it is dropped and decided anew.

use ruma::{OwnedEventId, RoomId};
use serde_json::value::RawValue;
use sqlx::SqliteConnection;

use super::{CLEARED, EMPTIED, REFUSED};
use crate::{
    keeper::{
        KeeperError,
        clock::now_ms,
        decide::CopyKind,
        outbox::{Sender, is_passing, redaction_of, tuple_of},
    },
    state::{RoomEvent, StateTuple},
    store::{
        NewOutbox, OutboxRow, PlainCopy, PlainDetail, StateEventRow, copies, marks, outbox, rooms,
        tuples,
    },
};

/// Why a copy's predecessor is redacted.
const WHY_EMPTIED: &str = "This room keeps no copy in plain of what is encrypted";

/// What became of a copy.
enum Sent {
    /// It stands there.
    Stands(OwnedEventId),
    /// The homeserver does not take it.
    Refused,
    /// It was not sent.
    Dropped,
}

impl Sender {
    /// Sends copies in plain, in their order, and notes what became of them.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] when the homeserver is away; what was not sent stays in the outbox and is looked at first.
    pub(super) async fn put_copies(
        &self,
        room: &RoomId,
        rows: &[(OutboxRow, PlainDetail)],
    ) -> Result<(), KeeperError> {
        let mut redacts = false;
        for (row, detail) in rows {
            let sent = self.send_copy(row, detail).await?;
            self.conclude_copy(row, detail, &sent).await?;
            redacts |= detail.redacts.is_some();
        }
        if redacts {
            // Boxed: a flush may come to send copies itself.
            Box::pin(self.flush(room)).await?;
        }
        Ok(())
    }

    async fn send_copy(&self, row: &OutboxRow, detail: &PlainDetail) -> Result<Sent, KeeperError> {
        let (room, request) = (&row.room_id, &row.request);
        let content = RawValue::from_string(serde_json::to_string(&detail.content)?)?;
        let answer = self
            .homeserver
            .put_state(room, &request.event_type, &request.state_key, &content)
            .await;
        match answer {
            Ok(event_id) => Ok(Sent::Stands(event_id)),
            Err(error) if is_passing(&error) => Err(error.into()),
            Err(error) => {
                tracing::warn!(room = %room, %error, what = detail.what,
                    event_type = request.event_type, "the homeserver refused a copy in plain");
                Ok(Sent::Refused)
            }
        }
    }

    /// Sends a copy that may have been sent.
    ///
    /// # Errors
    ///
    /// As [`Sender::put_copies`].
    pub(in crate::keeper) async fn repeat_copy(&self, row: &OutboxRow) -> Result<(), KeeperError> {
        let detail = row.plain(&self.store)?;
        let tuple = tuple_of(row);
        let event = self
            .homeserver
            .get_state_event(&row.room_id, &tuple.event_type, &tuple.state_key)
            .await;
        let current = match event {
            Ok(event) => event.and_then(|event| RoomEvent::parse_str(event.0.get()).ok()),
            Err(error) if error.is_transient() => return Err(error.into()),
            Err(_) => return self.conclude_copy(row, &detail, &Sent::Dropped).await,
        };
        let sent = match current {
            Some(current)
                if current.sender == self.homeserver.user_id()
                    && current.content == detail.content =>
            {
                Sent::Stands(current.event_id)
            }
            current => {
                let same = current.map(|current| current.event_id) == detail.based_on;
                match same && self.is_wanted(row, &tuple, &detail).await? {
                    true => self.send_copy(row, &detail).await?,
                    false => Sent::Dropped,
                }
            }
        };
        self.conclude_copy(row, &detail, &sent).await
    }

    /// Whether policy still wants a copy, and its tuple's value is what it was.
    async fn is_wanted(
        &self,
        row: &OutboxRow,
        tuple: &StateTuple,
        detail: &PlainDetail,
    ) -> Result<bool, KeeperError> {
        let db = &mut *self.store.read().await?;
        let Some(room) = rooms::get(db, &row.room_id).await? else { return Ok(false) };
        let known = tuples::get(&self.store, db, &row.room_id, tuple).await?;
        let same = known
            .filter(|known| !known.redacted)
            .and_then(|known| known.source)
            .is_some_and(|source| source.event_id == detail.source);
        let rules = self.rules.of(&room);
        let wanted = |copy: CopyKind| copy.is_wanted_by(&rules);
        Ok(same && room.state_encrypted && CopyKind::from_label(&detail.what).is_some_and(wanted))
    }

    /// Notes what became of a copy and strikes it off.
    async fn conclude_copy(
        &self,
        row: &OutboxRow,
        detail: &PlainDetail,
        sent: &Sent,
    ) -> Result<(), KeeperError> {
        let room = &row.room_id;
        let mut transaction = self.store.begin().await?;
        outbox::remove(&mut transaction, row.id).await?;
        match sent {
            Sent::Stands(event_id) => {
                self.note_copy(&mut transaction, row, detail, event_id).await?;
            }
            Sent::Refused => {
                let tuple = tuple_of(row);
                let known = copies::get(&self.store, &mut transaction, room, &tuple).await?;
                let mut copy = known.unwrap_or_else(|| PlainCopy::none(tuple));
                copy.refused = Some(detail.source.clone());
                copies::put(&self.store, &mut transaction, room, &copy).await?;
                self.metrics.plain_copy(REFUSED);
            }
            Sent::Dropped => {}
        }
        marks::mark(&mut transaction, room, None, now_ms(), self.store.next_tick()).await?;
        Ok(transaction.commit().await?)
    }

    async fn note_copy(
        &self,
        db: &mut SqliteConnection,
        row: &OutboxRow,
        detail: &PlainDetail,
        event_id: &OwnedEventId,
    ) -> Result<(), KeeperError> {
        let (room, tuple) = (&row.room_id, tuple_of(row));
        let copy = CopyKind::from_label(&detail.what);
        let known = copies::get(&self.store, db, room, &tuple).await?;
        let mut place = known.unwrap_or_else(|| PlainCopy::none(tuple.clone()));
        // Its echo says the same in the order of the stream, when this is not the newest any more.
        if place.event_id == detail.based_on || place.event_id.as_ref() == Some(event_id) {
            if place.event_id.as_ref() != Some(event_id) {
                place.tick = self.store.next_tick();
            }
            place.event_id = Some(event_id.clone());
            place.sender = Some(self.homeserver.user_id().to_owned());
            place.content = detail.content.clone();
            (place.warned, place.refused) = (None, None);
            copies::put(&self.store, db, room, &place).await?;
        }
        // A redaction of the value takes these with it. An emptied server ACL would shut every server out.
        if matches!(copy, Some(CopyKind::Mirror | CopyKind::Publish))
            && tuple.event_type != "m.room.server_acl"
        {
            tuples::put_seal(db, room, &tuple, event_id, &detail.source).await?;
            self.redact_if_source_is(db, room, &detail.source).await?;
        }
        if let Some(former) = &detail.redacts {
            self.clear(db, row, &tuple, former).await?;
        }
        if let Some(copy) = copy {
            self.metrics.plain_copy(copy.as_str());
        }
        tracing::info!(room = %room, event = %event_id, event_type = tuple.event_type,
            what = detail.what, "a copy in plain was written");
        Ok(())
    }

    /// Redacts what stood in plain. Its value is not redacted by that, and what stands for it stays.
    async fn clear(
        &self,
        db: &mut SqliteConnection,
        row: &OutboxRow,
        tuple: &StateTuple,
        former: &OwnedEventId,
    ) -> Result<(), KeeperError> {
        let known = tuples::get_event(&self.store, db, former).await?;
        let gone = ["redacted", CLEARED, EMPTIED];
        if known.as_ref().is_some_and(|known| gone.contains(&known.verdict.as_str())) {
            return Ok(());
        }
        let seen = known.unwrap_or_else(|| StateEventRow {
            event_id: former.clone(),
            tuple: tuple.clone(),
            sender: self.homeserver.user_id().to_owned(),
            tick: self.store.next_tick(),
            received_at: now_ms(),
            session_id: None,
            powerful: true,
            levels: None,
            verdict: String::new(),
            breach: None,
            live: false,
            awaits: false,
            body: None,
            content: None,
        });
        let verdict = if seen.verdict == "accepted" { CLEARED } else { EMPTIED };
        let seen = StateEventRow { verdict: verdict.to_owned(), ..seen };
        tuples::put_event(&self.store, db, &row.room_id, &seen).await?;
        tuples::take_seal(db, former).await?;
        tuples::settle(db, former).await?;
        let redaction = NewOutbox { body: WHY_EMPTIED.to_owned(), ..redaction_of(former) };
        outbox::insert(db, &row.room_id, &redaction, now_ms()).await?;
        Ok(())
    }
}
