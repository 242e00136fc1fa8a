//! Judging what a member sealed: what stands in it, and whether it was allowed.

use ruma::UserId;
use serde_json::Value;
use sqlx::SqliteConnection;

use super::{
    KeeperError,
    enforcing::then,
    ingest::{Taker, power_levels},
    state_events::as_creator,
};
use crate::{
    crypto::Decrypted,
    state::{
        DeviceTrust, ExemptTypes, JsonMap, Judgement, PayloadFacts, Verdict, judge,
        payload::STANDS_FOR,
    },
    store::{RoomRow, StateEventRow, people},
};

/// What a decrypted state event says.
pub(super) struct Reading {
    pub(super) content: JsonMap,
    pub(super) stands_for: Option<Value>,
}

/// What the keeper makes of the device that encrypted an event, and of the identity behind it: which is noted, so that
/// the first one counts and an administrator can confirm another.
pub(super) async fn device_trust(
    db: &mut SqliteConnection,
    sender: &UserId,
    decrypted: &Decrypted,
    now: i64,
) -> Result<DeviceTrust, KeeperError> {
    if !decrypted.cross_signed {
        return Ok(DeviceTrust::NotCrossSigned);
    }
    if let Some(newest) = &decrypted.vouchers.newest {
        people::see_identity(db, sender, newest, now).await?;
    }
    let known = people::identity(db, sender).await?;
    let counts = known.is_none_or(|known| decrypted.vouchers.are_all(&known.master_key));
    Ok(if counts { DeviceTrust::CrossSigned } else { DeviceTrust::OtherIdentity })
}

/// The verdict about a decrypted event, and what it says.
pub(super) fn judge_encrypted(
    taker: &Taker,
    room: &RoomRow,
    seen: &StateEventRow,
    decrypted: &Decrypted,
    (device, exempt): (DeviceTrust, &ExemptTypes),
) -> (Verdict, Reading) {
    let inner = inner(decrypted);
    let reading = Reading::of_inner(&inner);
    // The power was weighed when the event came; what the sender may do today is not what counts.
    let power = match seen.powerful {
        true => as_creator(room, &seen.sender),
        false => power_levels(&then(room, seen)),
    };
    let text = |field: &str| inner.get(field).and_then(Value::as_str);
    let rules = taker.rules.of(room);
    let verdict = judge(&Judgement {
        room_id: &room.room_id,
        tuple: &seen.tuple,
        sender: &seen.sender,
        power: &power,
        exempt,
        content: &reading.content,
        payload: Some(PayloadFacts {
            event_type: text("type"),
            state_key: text("state_key"),
            // The Olm machine refuses a payload of another room before it gets here.
            room_id: Some(room.room_id.as_str()),
            session_owner: (!decrypted.mismatched_sender).then_some(seen.sender.as_ref()),
            device,
            seen_in_another_event: false,
        }),
        require_cross_signed: rules.require_cross_signed,
    });
    (verdict, reading)
}

impl Reading {
    /// What stands in a decrypted event, whatever that is worth.
    pub(super) fn of(decrypted: &Decrypted) -> Self {
        Self::of_inner(&inner(decrypted))
    }

    fn of_inner(inner: &JsonMap) -> Self {
        let content = match inner.get("content") {
            Some(Value::Object(content)) => content.clone(),
            _ => JsonMap::new(),
        };
        Self { content, stands_for: inner.get(STANDS_FOR).cloned() }
    }
}

fn inner(decrypted: &Decrypted) -> JsonMap {
    match serde_json::from_str(decrypted.event.get()) {
        Ok(Value::Object(inner)) => inner,
        _ => JsonMap::new(),
    }
}
