//! What became of many keys at once: a request to the homeserver carries those of hundreds of devices.

use ruma::{OwnedDeviceId, OwnedUserId};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{CHUNK, holder};
use crate::store::{Result, Store};

/// Notes that the homeserver took the keys of a session for these devices. One that held it keeps the time at which
/// it got it first.
///
/// # Errors
///
/// [`StoreError`](crate::store::StoreError) when the database cannot be written.
pub async fn delivered(
    store: &Store,
    connection: &mut SqliteConnection,
    session_id: &str,
    recipients: &[(OwnedUserId, OwnedDeviceId)],
    now: i64,
    tick: i64,
) -> Result<()> {
    let mut holders = Vec::with_capacity(recipients.len());
    for (user, device) in recipients {
        holders.extend(holder(store, connection, user, device).await?);
    }
    for holders in holders.chunks(CHUNK) {
        let mut query = QueryBuilder::new("UPDATE grants SET sent_at = COALESCE(sent_at, ");
        query.push_bind(now).push("), sent_tick = COALESCE(sent_tick, ");
        query.push_bind(tick).push(")");
        push_holders(&mut query, session_id, holders);
        query.build().execute(&mut *connection).await?;
        let mut query = QueryBuilder::new(
            "UPDATE ledger INDEXED BY ledger_unsure SET outcome = 'delivered', last_at = ",
        );
        query.push_bind(now);
        push_holders(&mut query, session_id, holders);
        query.push(" AND outcome IN ('granted', 'withdrawn')");
        query.build().execute(&mut *connection).await?;
    }
    Ok(())
}

fn push_holders(query: &mut QueryBuilder<Sqlite>, session_id: &str, holders: &[(i64, i64)]) {
    query.push(" WHERE session_id = ").push_bind(session_id.to_owned());
    query.push(" AND (user, device) IN (");
    query.push_values(holders, |mut row, (user, device)| {
        row.push_bind(*user).push_bind(*device);
    });
    query.push(")");
}
