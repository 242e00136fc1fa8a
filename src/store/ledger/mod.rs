//! The ledger: who holds what, and the history of what was given and refused. No grant, no key.

mod bundles;
mod delivery;
mod history;
mod names;
mod refusals;
mod violations;

use std::collections::{BTreeSet, HashMap};

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, RoomId, UserId};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

pub use self::bundles::{bundle_name, bundle_taken, grant_bundle};
pub use self::delivery::delivered;
pub use self::history::{History, HistoryFilter, HistoryRow, OutcomeKind, newest};
pub(in crate::store) use self::names::Cache;
use self::names::Kind;
pub use self::refusals::{RefusedRow, refusals};
pub use self::violations::{Violation, found_between, violated};
use super::{Result, Store, StoreError};
use crate::state::StateTuple;

/// How many rows one statement takes.
const CHUNK: usize = 500;

/// A key that is about to be given.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// The session.
    pub session_id: String,
    /// To whom.
    pub user_id: OwnedUserId,
    /// To which device of theirs.
    pub device_id: OwnedDeviceId,
    /// The first index that the key opens.
    pub message_index: u32,
    /// Why: `invite`, `join`, `device`, `seal`, `request`, `resend`, `forward`, `preview`.
    pub reason: &'static str,
    /// Whether the device holds it already and is sent it once more.
    pub again: bool,
    /// Whether it is for somebody who is no member.
    pub preview: bool,
    /// The tuple whose value it opens.
    pub tuple: StateTuple,
    /// The policy that decided, such as `devices=cross_signed invitees=aesthetic`.
    pub policy: String,
}

/// What a device holds of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The first index that its key opens.
    pub message_index: u32,
    /// When the homeserver took it, in milliseconds; `None` while that is not known.
    pub sent_at: Option<i64>,
    /// The tick of that.
    pub sent_tick: Option<i64>,
    /// When it was given last, in milliseconds.
    pub granted_at: i64,
    /// Whether the device asked for it: a client that asks reads again what it could not read.
    pub asked: bool,
}

/// A grant with whose it is.
#[derive(Clone, Debug)]
pub struct GrantRow {
    /// The session.
    pub session_id: String,
    /// Whose.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: OwnedDeviceId,
    /// What it holds.
    pub grant: Grant,
}

/// Writes grants and their history, before their keys leave. One that reaches further back replaces the one
/// that stood; one that is given again leaves all of it as it stood but the time.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn grant(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    grants: &[NewGrant],
    now: i64,
) -> Result<()> {
    let mut wanted = BTreeSet::from([(Kind::Room, room.to_string())]);
    for grant in grants {
        wanted.extend(grant.names());
    }
    let numbers = names::intern(store, connection, &wanted).await?;
    let room = number(&numbers, Kind::Room, room.as_str())?;
    let mut rows = Vec::with_capacity(grants.len());
    for grant in grants {
        let [user, device, tuple, policy] = grant.names();
        let mut ids = [0; 4];
        for (id, name) in ids.iter_mut().zip([user, device, tuple, policy]) {
            *id = number(&numbers, name.0, &name.1)?;
        }
        rows.push((grant, ids));
    }
    let (again, new): (Vec<_>, Vec<_>) = rows.iter().cloned().partition(|(grant, _)| grant.again);
    for (grant, [user, device, _, _]) in again {
        sqlx::query(
            "UPDATE grants SET granted_at = ? WHERE session_id = ? AND user = ? AND device = ?",
        )
        .bind(now)
        .bind(&grant.session_id)
        .bind(user)
        .bind(device)
        .execute(&mut *connection)
        .await?;
    }
    for chunk in new.chunks(CHUNK) {
        let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(
            "INSERT INTO grants (session_id, user, device, room, message_index, reason, granted_at, \
             preview) ",
        );
        query.push_values(chunk, |mut row, (grant, [user, device, _, _])| {
            row.push_bind(&grant.session_id).push_bind(*user).push_bind(*device).push_bind(room);
            row.push_bind(i64::from(grant.message_index)).push_bind(grant.reason).push_bind(now);
            row.push_bind(grant.preview);
        });
        query.push(
            " ON CONFLICT (session_id, user, device) DO UPDATE SET \
             preview = MIN(preview, excluded.preview), message_index = MIN(message_index, excluded.message_index), reason = excluded.reason, \
             granted_at = excluded.granted_at, sent_at = NULL, sent_tick = NULL",
        );
        query.build().execute(&mut *connection).await?;
    }
    for chunk in rows.chunks(CHUNK) {
        let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(
            "INSERT INTO ledger (at, room, user, device, session_id, message_index, tuple, reason, \
             policy, outcome, last_at) ",
        );
        query.push_values(chunk, |mut row, (grant, [user, device, tuple, policy])| {
            row.push_bind(now).push_bind(room).push_bind(*user).push_bind(*device);
            row.push_bind(&grant.session_id).push_bind(i64::from(grant.message_index));
            row.push_bind(*tuple).push_bind(grant.reason).push_bind(*policy);
            row.push_bind("granted").push_bind(now);
        });
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}

impl NewGrant {
    /// Whether the device asked for it.
    pub fn is_asked(&self) -> bool {
        matches!(self.reason, "request" | "resend" | "forward")
    }

    fn names(&self) -> [(Kind, String); 4] {
        let tuple = format!("{} {}", self.tuple.event_type, self.tuple.state_key);
        [
            (Kind::User, self.user_id.to_string()),
            (Kind::Device, self.device_id.to_string()),
            (Kind::Tuple, tuple),
            (Kind::Policy, self.policy.clone()),
        ]
    }
}

fn number(numbers: &HashMap<(Kind, String), i64>, kind: Kind, name: &str) -> Result<i64> {
    let found = numbers.get(&(kind, name.to_owned())).copied();
    found.ok_or(StoreError::Corrupt { what: "name of the ledger" })
}

/// The numbers of a device and its user; `None` where the ledger knows one of them not.
async fn holder(
    store: &Store,
    connection: &mut SqliteConnection,
    user: &UserId,
    device: &DeviceId,
) -> Result<Option<(i64, i64)>> {
    let user = names::find(store, connection, Kind::User, user.as_str()).await?;
    let device = names::find(store, connection, Kind::Device, device.as_str()).await?;
    Ok(user.zip(device))
}

/// A key that was on its way when its grant was withdrawn is concluded, too: what became of it is what counts.
async fn conclude(
    connection: &mut SqliteConnection,
    session_id: &str,
    (user, device): (i64, i64),
    outcome: &str,
    now: i64,
) -> Result<()> {
    sqlx::query(
        "UPDATE ledger INDEXED BY ledger_unsure SET outcome = ?, last_at = ? \
         WHERE session_id = ? AND user = ? AND device = ? AND outcome IN ('granted', 'withdrawn')",
    )
    .bind(outcome)
    .bind(now)
    .bind(session_id)
    .bind(user)
    .bind(device)
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes a grant back whose key the homeserver refused for good: it never left.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn withdraw(
    store: &Store,
    connection: &mut SqliteConnection,
    session_id: &str,
    (user, device): (&UserId, &DeviceId),
    now: i64,
) -> Result<()> {
    let Some((user, device)) = holder(store, connection, user, device).await? else {
        return Ok(());
    };
    sqlx::query(
        "DELETE FROM grants WHERE session_id = ? AND user = ? AND device = ? AND sent_at IS NULL",
    )
    .bind(session_id)
    .bind(user)
    .bind(device)
    .execute(&mut *connection)
    .await?;
    conclude(connection, session_id, (user, device), "refused_by_homeserver", now).await
}

/// Forgets from which index on a device holds its keys: its Olm session was broken, so nobody knows what it
/// received. That it may hold them still counts.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn doubt(
    store: &Store,
    connection: &mut SqliteConnection,
    user: &UserId,
    device: &DeviceId,
) -> Result<()> {
    let Some((user, device)) = holder(store, connection, user, device).await? else {
        return Ok(());
    };
    sqlx::query("UPDATE grants SET message_index = ? WHERE user = ? AND device = ?")
        .bind(i64::from(u32::MAX))
        .bind(user)
        .bind(device)
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes back the grants of a room whose keys never left, at `now` (milliseconds).
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn withdraw_unsent(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    now: i64,
) -> Result<()> {
    let Some(room) = room_number(store, connection, room).await? else { return Ok(()) };
    // By the index of the rows whose end is not known: they are few, those of a room may be very many. It is for
    // the rows that `conclude` looks for, so the condition has to say what the index says.
    sqlx::query(
        "UPDATE ledger INDEXED BY ledger_unsure SET outcome = 'withdrawn', last_at = ?1 \
         WHERE room = ?2 AND outcome = 'granted' AND outcome IN ('granted', 'withdrawn')",
    )
    .bind(now)
    .bind(room)
    .execute(&mut *connection)
    .await?;
    sqlx::query("DELETE FROM grants WHERE room = ? AND sent_at IS NULL")
        .bind(room)
        .execute(connection)
        .await?;
    Ok(())
}

/// The number by which `grants` knows a room; `None` where nothing was given there.
pub(super) async fn room_number(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<Option<i64>> {
    names::find(store, connection, Kind::Room, room.as_str()).await
}

/// The number by which `grants` knows a user; `None` for somebody who was given nothing.
pub(super) async fn user_number(
    store: &Store,
    connection: &mut SqliteConnection,
    user: &UserId,
) -> Result<Option<i64>> {
    names::find(store, connection, Kind::User, user.as_str()).await
}

/// Somebody who was given keys of a room before is a member of it now: they count as a member's.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn admit(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: &UserId,
) -> Result<()> {
    let room = room_number(store, connection, room).await?;
    let user = user_number(store, connection, user).await?;
    let Some((room, user)) = room.zip(user) else { return Ok(()) };
    sqlx::query("UPDATE grants SET preview = 0 WHERE room = ? AND user = ? AND preview = 1")
        .bind(room)
        .bind(user)
        .execute(connection)
        .await?;
    Ok(())
}

/// Every grant of a room's members, and of those who were members; or every one of one user there, also those of
/// before a join.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn of_room(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    user: Option<&UserId>,
) -> Result<Vec<GrantRow>> {
    let Some(room) = room_number(store, connection, room).await? else { return Ok(Vec::new()) };
    // One row for each device: a row for each grant would cost more to hand over than to find.
    let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(
        "SELECT u.hash AS user_hash, u.name AS user_name, d.hash AS device_hash, \
         d.name AS device_name, held FROM (SELECT user, device, group_concat( \
         session_id || ' ' || message_index || ' ' || COALESCE(sent_at, '') || ' ' \
         || COALESCE(sent_tick, '') || ' ' || granted_at || ' ' \
         || (reason IN ('request', 'forward')), char(10)) AS held FROM grants WHERE room = ",
    );
    query.push_bind(room);
    match user {
        Some(user) => {
            let Some(user) = user_number(store, connection, user).await? else {
                return Ok(Vec::new());
            };
            query.push(" AND user = ").push_bind(user);
        }
        // Those who have not joined may be very many.
        None => {
            query.push(" AND preview = 0");
        }
    }
    query.push(" GROUP BY user, device) JOIN names u ON u.id = user JOIN names d ON d.id = device");
    let rows: Vec<HeldColumns> = query.build_query_as().fetch_all(connection).await?;
    let mut grants = Vec::new();
    for row in rows {
        row.read(store, &mut grants)?;
    }
    Ok(grants)
}

/// What a device holds, with the names of its holder.
#[derive(sqlx::FromRow)]
struct HeldColumns {
    user_hash: Vec<u8>,
    user_name: Vec<u8>,
    device_hash: Vec<u8>,
    device_name: Vec<u8>,
    /// A line for each grant.
    held: String,
}

impl HeldColumns {
    fn read(self, store: &Store, grants: &mut Vec<GrantRow>) -> Result<()> {
        let user = names::open(store, &self.user_hash, &self.user_name)?;
        let user_id: OwnedUserId = user.try_into().map_err(StoreError::corrupt("user id"))?;
        let device = names::open(store, &self.device_hash, &self.device_name)?;
        let device_id = OwnedDeviceId::from(device);
        for line in self.held.lines() {
            let (session_id, grant) =
                read_grant(line).ok_or(StoreError::Corrupt { what: "grant" })?;
            let (user_id, device_id) = (user_id.clone(), device_id.clone());
            grants.push(GrantRow { session_id, user_id, device_id, grant });
        }
        Ok(())
    }
}

/// A line of [`HeldColumns::held`]. A session id is base64: no space is in it.
fn read_grant(line: &str) -> Option<(String, Grant)> {
    let mut fields = line.split(' ');
    let session_id = fields.next()?.to_owned();
    let message_index = fields.next()?.parse().ok()?;
    let time = |field: &str| match field {
        "" => Some(None),
        field => field.parse().ok().map(Some),
    };
    let (sent_at, sent_tick) = (time(fields.next()?)?, time(fields.next()?)?);
    let granted_at = fields.next()?.parse().ok()?;
    let asked = fields.next()? == "1";
    Some((session_id, Grant { message_index, sent_at, sent_tick, granted_at, asked }))
}

/// A key that a known device is refused, or that is held back from it.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// The device and its user.
    pub holder: (&'a UserId, &'a DeviceId),
    /// The session that was asked for; `""` for whatever session there is.
    pub session_id: &'a str,
    /// `withheld:` and the code, or `held`.
    pub outcome: &'a str,
    /// The policy that decided.
    pub policy: &'a str,
}

/// Notes a refusal: one counted row for each device, session and outcome. Returns whether it is the first of its
/// kind.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be written.
pub async fn refuse(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    refusal: Refusal<'_>,
    now: i64,
) -> Result<bool> {
    let (user, device) = refusal.holder;
    let wanted = BTreeSet::from([
        (Kind::Room, room.to_string()),
        (Kind::User, user.to_string()),
        (Kind::Device, device.to_string()),
        (Kind::Policy, refusal.policy.to_owned()),
    ]);
    let numbers = names::intern(store, connection, &wanted).await?;
    let (count,): (i64,) = sqlx::query_as(
        "INSERT INTO ledger \
         (at, room, user, device, session_id, reason, policy, outcome, count, last_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, 'policy', ?6, ?7, 1, ?1) \
         ON CONFLICT (room, user, device, session_id, outcome) WHERE count IS NOT NULL \
         DO UPDATE SET count = count + 1, last_at = excluded.last_at RETURNING count",
    )
    .bind(now)
    .bind(number(&numbers, Kind::Room, room.as_str())?)
    .bind(number(&numbers, Kind::User, user.as_str())?)
    .bind(number(&numbers, Kind::Device, device.as_str())?)
    .bind(refusal.session_id)
    .bind(number(&numbers, Kind::Policy, refusal.policy)?)
    .bind(refusal.outcome)
    .fetch_one(connection)
    .await?;
    Ok(count == 1)
}

/// Whether such a refusal stands in the ledger already.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read.
pub async fn is_refused(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    refusal: Refusal<'_>,
) -> Result<bool> {
    let (user, device) = refusal.holder;
    let holder = holder(store, connection, user, device).await?;
    let room = room_number(store, connection, room).await?;
    let Some((room, (user, device))) = room.zip(holder) else { return Ok(false) };
    let row: Option<(i64,)> = sqlx::query_as(
        "SELECT 1 FROM ledger WHERE room = ? AND user = ? AND device = ? AND session_id = ? \
         AND outcome = ? AND count IS NOT NULL",
    )
    .bind(room)
    .bind(user)
    .bind(device)
    .bind(refusal.session_id)
    .bind(refusal.outcome)
    .fetch_optional(connection)
    .await?;
    Ok(row.is_some())
}

/// Drops at most `most` rows of history that last changed before `before`; never who holds what. Returns how
/// many there were.
///
/// # Errors
///
/// [`StoreError::Database`] when the database cannot be written.
pub async fn prune(connection: &mut SqliteConnection, before: i64, most: i64) -> Result<u64> {
    let done = sqlx::query(
        "DELETE FROM ledger WHERE id IN (SELECT id FROM ledger WHERE last_at < ? LIMIT ?)",
    )
    .bind(before)
    .bind(most)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests;
