//! State that broke a rule, told in the history beside the keys.

use std::collections::BTreeSet;

use ruma::{EventId, RoomId, UserId};
use sqlx::SqliteConnection;

use super::{
    names::{self, Kind},
    number,
};
use crate::{
    state::StateTuple,
    store::{Result, Store},
};

/// A state event that broke a rule.
#[derive(Clone, Copy, Debug)]
pub struct Violation<'a> {
    /// The event.
    pub event_id: &'a EventId,
    /// Who sent it.
    pub sender: &'a UserId,
    /// The tuple that its packed key names.
    pub tuple: &'a StateTuple,
    /// The rule, by its label.
    pub rule: &'a str,
    /// What the keeper does about it: `report`, `restore`, `redact`, `publish` or `noop`.
    pub action: &'a str,
    /// The policy that decided.
    pub policy: &'a str,
}

/// Notes a violation: a row of its own. It concerns no device and no key.
///
/// # Errors
///
/// [`crate::store::StoreError`] when the database cannot be written.
pub async fn violated(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    violation: Violation<'_>,
    now: i64,
) -> Result<()> {
    let tuple = format!("{} {}", violation.tuple.event_type, violation.tuple.state_key);
    let wanted = BTreeSet::from([
        (Kind::Room, room.to_string()),
        (Kind::User, violation.sender.to_string()),
        (Kind::Device, String::new()),
        (Kind::Tuple, tuple.clone()),
        (Kind::Policy, violation.policy.to_owned()),
    ]);
    let numbers = names::intern(store, connection, &wanted).await?;
    sqlx::query(
        "INSERT INTO ledger \
         (at, room, user, device, session_id, tuple, reason, policy, outcome, last_at, event_id) \
         VALUES (?1, ?2, ?3, ?4, '', ?5, ?6, ?7, ?8, ?1, ?9)",
    )
    .bind(now)
    .bind(number(&numbers, Kind::Room, room.as_str())?)
    .bind(number(&numbers, Kind::User, violation.sender.as_str())?)
    .bind(number(&numbers, Kind::Device, "")?)
    .bind(number(&numbers, Kind::Tuple, &tuple)?)
    .bind(violation.rule)
    .bind(number(&numbers, Kind::Policy, violation.policy)?)
    .bind(format!("violation:{}", violation.action))
    .bind(violation.event_id.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

/// Which users' events were found to break which rules in which rooms, and how many, after `after` and not after `until`
/// (milliseconds): room, user, rule, count.
///
/// # Errors
///
/// [`crate::store::StoreError`] when the database cannot be read, or a name of it cannot be decrypted.
pub async fn found_between(
    store: &Store,
    connection: &mut SqliteConnection,
    (after, until): (i64, i64),
) -> Result<Vec<(String, String, String, i64)>> {
    type Row = (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>, String, i64);
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT r.hash, r.name, u.hash, u.name, l.reason, COUNT(*) FROM ledger l \
         JOIN names r ON r.id = l.room JOIN names u ON u.id = l.user \
         WHERE l.outcome GLOB 'violation:*' AND l.at > ? AND l.at <= ? \
         GROUP BY l.room, l.user, l.reason",
    )
    .bind(after)
    .bind(until)
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|(room_hash, room, user_hash, user, rule, count)| {
            let room = names::open(store, &room_hash, &room)?;
            let user = names::open(store, &user_hash, &user)?;
            Ok((room, user, rule, count))
        })
        .collect()
}
