//! Saying in plain again what stands there in plain.
//!
//! Stock clients apply a forged, encrypted `m.room.power_levels`, and a redaction of it does not bring them back to
//! the true ones: matrix-js-sdk then goes by none, matrix-sdk keeps what it derived. Both take the next event in plain.
//! So the keeper says the true content once more, as an event of its own.
//!
//! Recovery: what the keeper says carries a mark of why, and of what stood there before. What stands there is read
//! before it is said, so a repetition finds what was said already; and what was said is read again, so that a newer
//! value on which it landed is not lost.

use ruma::{EventId, OwnedEventId, UserId};
use serde_json::{Value, json, value::RawValue};

use super::{KeeperError, outbox::Sender};
use crate::{
    state::{JsonMap, PowerLevels, RoomEvent, StateTuple},
    store::{NewOutbox, OutboxKind, OutboxRow, outbox},
};

/// The field of the content that says why it was said again: `because_of` what forgery, and `over` which event.
const MARK: &str = "io.statekeeper.said_again";
/// How often one forgery makes the keeper say something, while others change the same.
const MOST_WORDS: usize = 4;
/// What anybody who has the power may say in another's place. A membership is its sender's or about him, and a room is
/// created once.
const SAYABLE: [&str; 10] = [
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
    "m.room.server_acl",
    "m.room.tombstone",
    "m.room.canonical_alias",
    "m.space.child",
    "m.space.parent",
];

/// The types that the keeper can say again in a room with these power levels.
pub(super) fn sayable(power: &PowerLevels, keeper: &UserId) -> Vec<&'static str> {
    SAYABLE.into_iter().filter(|event_type| power.may_send_state(keeper, event_type)).collect()
}

/// The request that says a tuple again because of a forged event; `None` where the keeper cannot say it.
pub(super) fn because_of(forged: &EventId, tuple: &StateTuple) -> Option<NewOutbox> {
    SAYABLE.contains(&tuple.event_type.as_str()).then(|| NewOutbox {
        kind: OutboxKind::Restatement,
        txn_id: String::new(),
        event_type: tuple.event_type.clone(),
        state_key: tuple.state_key.clone(),
        body: forged.to_string(),
        detail: Vec::new(),
    })
}

impl Sender {
    /// Says again what stands in plain, and strikes the request off.
    pub(super) async fn restate(&self, row: &OutboxRow) -> Result<(), KeeperError> {
        if let Some(said) = self.say_again(row).await? {
            self.metrics.state_restored();
            tracing::info!(room = %row.room_id, event = %said, event_type = row.request.event_type,
                "what a forged event hid from clients is said again in plain");
        }
        let mut transaction = self.store.begin().await?;
        outbox::remove(&mut transaction, row.id).await?;
        Ok(transaction.commit().await?)
    }

    /// Returns the event that says it, if any does.
    async fn say_again(&self, row: &OutboxRow) -> Result<Option<OwnedEventId>, KeeperError> {
        let Some(standing) = self.in_plain(row).await? else { return Ok(None) };
        let forged = row.request.body.as_str();
        let mut said = match standing.event_id.clone() {
            _ if mark_of(&standing.content, forged).is_some() => standing,
            over => match self.say(row, standing.content, &over).await? {
                Some(said) => said,
                None => return Ok(None),
            },
        };
        for _ in 1..MOST_WORDS {
            let Some(newer) = self.landed_on(row, &said).await? else { break };
            let over = said.event_id.clone();
            tracing::warn!(room = %row.room_id, event = %newer.event_id,
                "an event in plain was overtaken by the keeper's; its content is said again");
            let Some(again) = self.say(row, newer.content, &over).await? else { break };
            said = again;
        }
        Ok(Some(said.event_id))
    }

    /// The event that `said` replaced, if it is not the one that it was to replace, and nothing newer stands since.
    async fn landed_on(
        &self,
        row: &OutboxRow,
        said: &RoomEvent,
    ) -> Result<Option<RoomEvent>, KeeperError> {
        let over = mark_of(&said.content, &row.request.body);
        let Some(replaced) = said.replaces_state.as_ref() else { return Ok(None) };
        if over.is_none_or(|over| over == replaced.as_str()) {
            return Ok(None);
        }
        let standing = self.in_plain(row).await?;
        if standing.is_none_or(|standing| standing.event_id != said.event_id) {
            return Ok(None);
        }
        self.event(row, replaced).await
    }

    async fn say(
        &self,
        row: &OutboxRow,
        mut content: JsonMap,
        over: &EventId,
    ) -> Result<Option<RoomEvent>, KeeperError> {
        let request = &row.request;
        content.insert(MARK.to_owned(), json!({ "because_of": request.body, "over": over }));
        let content = RawValue::from_string(serde_json::to_string(&content)?)?;
        let (event_type, state_key) = (&request.event_type, &request.state_key);
        match self.homeserver.put_state(&row.room_id, event_type, state_key, &content).await {
            Ok(said) => self.event(row, &said).await,
            Err(error) if error.is_transient() => Err(error.into()),
            Err(error) => {
                tracing::error!(room = %row.room_id, %error, event_type,
                    "what a forged event hides from clients could not be said again");
                Ok(None)
            }
        }
    }

    async fn in_plain(&self, row: &OutboxRow) -> Result<Option<RoomEvent>, KeeperError> {
        let (event_type, state_key) = (&row.request.event_type, &row.request.state_key);
        match self.homeserver.get_state_event(&row.room_id, event_type, state_key).await {
            Ok(event) => Ok(event.and_then(|event| whole(event.0.get()))),
            Err(error) if error.is_transient() => Err(error.into()),
            Err(_) => Ok(None),
        }
    }

    async fn event(&self, row: &OutboxRow, id: &EventId) -> Result<Option<RoomEvent>, KeeperError> {
        match self.homeserver.event(&row.room_id, id).await {
            Ok(event) => Ok(event.and_then(|event| whole(event.get()))),
            Err(error) if error.is_transient() => Err(error.into()),
            Err(_) => Ok(None),
        }
    }
}

/// An event that still says something.
fn whole(body: &str) -> Option<RoomEvent> {
    RoomEvent::parse_str(body).ok().filter(|event| !event.is_redacted)
}

/// Over which event a content was said because of this forgery.
fn mark_of<'a>(content: &'a JsonMap, forged: &str) -> Option<&'a str> {
    let mark = content.get(MARK)?;
    let because_of = mark.get("because_of").and_then(Value::as_str)?;
    (because_of == forged).then(|| mark.get("over").and_then(Value::as_str))?
}

#[cfg(test)]
mod tests {
    use ruma::event_id;

    use super::*;

    #[test]
    fn what_only_its_owner_may_say_is_not_said_again() {
        let forged = event_id!("$forged");
        for (event_type, said) in [
            ("m.room.power_levels", true),
            ("m.room.join_rules", true),
            ("m.room.encryption", true),
            ("m.room.member", false),
            ("m.room.create", false),
            ("m.room.encrypted", false),
            ("m.room.name", false),
        ] {
            let request = because_of(forged, &StateTuple::new(event_type, ""));
            assert_eq!(request.is_some(), said, "{event_type}");
        }
    }

    #[test]
    fn a_mark_counts_for_its_own_forgery() {
        let content = json!({ MARK: { "because_of": "$forged", "over": "$before" } });
        let content = content.as_object().unwrap();
        assert_eq!(mark_of(content, "$forged"), Some("$before"));
        assert_eq!(mark_of(content, "$another"), None);
        for odd in [json!({}), json!({ MARK: 1 }), json!({ MARK: { "because_of": "$forged" } })] {
            assert_eq!(mark_of(odd.as_object().unwrap(), "$forged"), None);
        }
    }
}
