//! Who was given a bundle of history keys: no grant, no bundle.

use std::collections::BTreeSet;

use ruma::{OwnedDeviceId, OwnedUserId, RoomId};
use sqlx::SqliteConnection;

use super::{holder, names, names::Kind, number};
use crate::store::{Result, Store};

/// The reason in the ledger.
const REASON: &str = "bundle";

/// What stands for a bundle in the ledger where the id of a session stands else.
pub fn bundle_name(id: i64) -> String {
    format!("bundle:{id}")
}

/// Writes down that devices are given a bundle, before it leaves, at `now` (milliseconds). `policy` is what decided.
///
/// # Errors
///
/// [`StoreError`](crate::store::StoreError) when the database cannot be written.
pub async fn grant_bundle(
    store: &Store,
    connection: &mut SqliteConnection,
    room: &RoomId,
    bundle_id: i64,
    holders: &[(OwnedUserId, OwnedDeviceId)],
    (policy, now): (&str, i64),
) -> Result<()> {
    let mut wanted =
        BTreeSet::from([(Kind::Room, room.to_string()), (Kind::Policy, policy.to_owned())]);
    for (user, device) in holders {
        wanted.insert((Kind::User, user.to_string()));
        wanted.insert((Kind::Device, device.to_string()));
    }
    let numbers = names::intern(store, connection, &wanted).await?;
    let room = number(&numbers, Kind::Room, room.as_str())?;
    let policy = number(&numbers, Kind::Policy, policy)?;
    for (user, device) in holders {
        let user = number(&numbers, Kind::User, user.as_str())?;
        let device = number(&numbers, Kind::Device, device.as_str())?;
        sqlx::query(
            "INSERT OR REPLACE INTO bundle_grants (bundle_id, user, device, granted_at) \
             VALUES (?, ?, ?, ?)",
        )
        .bind(bundle_id)
        .bind(user)
        .bind(device)
        .bind(now)
        .execute(&mut *connection)
        .await?;
        sqlx::query(
            "INSERT INTO ledger (at, room, user, device, session_id, reason, policy, outcome, \
             last_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'granted', ?1)",
        )
        .bind(now)
        .bind(room)
        .bind(user)
        .bind(device)
        .bind(bundle_name(bundle_id))
        .bind(REASON)
        .bind(policy)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Notes that the homeserver took a bundle for devices, or refused it for good: then it never left. The ledger's
/// history is concluded like that of any key, under the bundle's name.
///
/// # Errors
///
/// [`StoreError`](crate::store::StoreError) when the database cannot be written.
pub async fn bundle_taken(
    store: &Store,
    connection: &mut SqliteConnection,
    bundle_id: i64,
    holders: &[(OwnedUserId, OwnedDeviceId)],
    (taken, now): (bool, i64),
) -> Result<()> {
    let sql = if taken {
        "UPDATE bundle_grants SET sent_at = ?1 WHERE bundle_id = ?2 AND user = ?3 AND device = ?4"
    } else {
        "DELETE FROM bundle_grants WHERE ?1 IS NOT NULL AND bundle_id = ?2 AND user = ?3 AND device = ?4"
    };
    for (user, device) in holders {
        let Some((user, device)) = holder(store, connection, user, device).await? else { continue };
        sqlx::query(sql)
            .bind(now)
            .bind(bundle_id)
            .bind(user)
            .bind(device)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
