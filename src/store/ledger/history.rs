//! The history as it is read beside a running keeper: page by page, so that neither this process's memory
//! nor the keeper's write-ahead log grows with what is read, however slowly that is done.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use matrix_sdk_store_encryption::StoreCipher;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::{
    CHUNK,
    names::{self, Kind},
};
use crate::store::{Result, Store, StoreError};

/// How many rows are read at once.
const PAGE: u64 = 1_000;
/// How many names are kept in memory at most.
const MOST_NAMES: usize = 65_536;
/// What the ledger says of a key from its grant until the homeserver's answer is known.
const GRANTED: &str = "granted";
/// The same for whoever reads it.
const UNKNOWN: &str = "delivery_unknown";
/// What the index of all other rows says of itself: a query has to say the same to be led by it.
const NOT_GIVEN: &str = "outcome NOT IN ('granted', 'delivered')";

/// Which rows of the history are asked for: those that meet all that is given.
#[derive(Clone, Debug, Default)]
pub struct HistoryFilter {
    /// Of this room.
    pub room: Option<OwnedRoomId>,
    /// Of this user.
    pub user: Option<OwnedUserId>,
    /// With which something happened at this time or later, in milliseconds.
    pub since: Option<i64>,
    /// No more than this many, the newest.
    pub newest: Option<u64>,
    /// Of this outcome.
    pub outcome: Option<OutcomeKind>,
    /// Before this row ([`HistoryRow::id`]).
    pub before: Option<i64>,
}

/// What became of a key, roughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// It was given, as far as is known.
    Given,
    /// Policy or the homeserver refused it.
    Refused,
    /// It is held back until an administrator decides.
    Held,
    /// No key: a state event broke a rule.
    Violation,
}

impl OutcomeKind {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Given, Self::Refused, Self::Held, Self::Violation];

    /// The word for it in a query.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Refused => "refused",
            Self::Held => "held",
            Self::Violation => "violation",
        }
    }

    fn condition(self) -> &'static str {
        match self {
            Self::Given => "outcome IN ('granted', 'delivered')",
            Self::Refused => "(outcome = 'refused_by_homeserver' OR outcome GLOB 'withheld:*')",
            Self::Held => "outcome = 'held'",
            Self::Violation => "outcome GLOB 'violation:*'",
        }
    }
}

/// A key that was given, a counted refusal or hold, or a state event that broke a rule. Keys are named by their session's id alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// The row's number.
    pub id: i64,
    /// When it was given, or refused for the first time, in milliseconds.
    pub at: i64,
    /// When the outcome came to be known, or it was refused for the last time, in milliseconds.
    pub last_at: i64,
    /// In which room.
    pub room_id: Arc<str>,
    /// To whom; of a violation, who sent the event.
    pub user_id: Arc<str>,
    /// To which device of theirs; empty for a violation, which concerns none.
    pub device_id: Arc<str>,
    /// The session's id; `None` for a refusal that concerns whatever session there is.
    pub session_id: Option<String>,
    /// The first index that the key opens.
    pub message_index: Option<i64>,
    /// The type and the state key of the value that it opens.
    pub tuple: Option<(String, String)>,
    /// Why, such as `join`; of a violation, the rule.
    pub reason: String,
    /// The policy that decided.
    pub policy: Option<Arc<str>>,
    /// `delivered`, `delivery_unknown`, `refused_by_homeserver`, `withdrawn`, `withheld:` with the code, `held`, `violation:`
    /// with what the keeper does about it.
    pub outcome: String,
    /// How often it was refused or held; `None` for a key that was given.
    pub count: Option<i64>,
    /// Of a violation, the event that broke the rule.
    pub event_id: Option<String>,
}

/// The newest rows that a filter lets through, the newest first: no more than a page of them.
///
/// # Errors
///
/// [`StoreError`] when the database cannot be read, or a name of it cannot be decrypted.
pub async fn newest(
    store: &Store,
    connection: &mut SqliteConnection,
    filter: &HistoryFilter,
) -> Result<Vec<HistoryRow>> {
    let filter =
        HistoryFilter { newest: Some(filter.newest.unwrap_or(PAGE).min(PAGE)), ..filter.clone() };
    let mut rows =
        History::new(connection, store.cipher.clone(), &filter).await?.next_page().await?;
    rows.reverse();
    Ok(rows)
}

/// The history that a [`HistoryFilter`] lets through, the newest last.
pub struct History<'a> {
    connection: &'a mut SqliteConnection,
    cipher: Arc<StoreCipher>,
    names: HashMap<i64, Arc<str>>,
    unknown: Vec<String>,
    chosen: Chosen,
    /// The row that was read last.
    after: i64,
    /// How many are still to be read.
    left: u64,
}

/// A filter in the ledger's numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Chosen {
    room: Option<i64>,
    user: Option<i64>,
    since: Option<i64>,
    outcome: Option<OutcomeKind>,
    before: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct Columns {
    id: i64,
    at: i64,
    last_at: i64,
    room: i64,
    user: i64,
    device: i64,
    session_id: String,
    message_index: Option<i64>,
    tuple: Option<i64>,
    reason: String,
    policy: Option<i64>,
    outcome: String,
    count: Option<i64>,
    event_id: Option<String>,
}

impl std::fmt::Debug for History<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}

impl<'a> History<'a> {
    /// Prepares to read what `filter` lets through, with the names that `cipher` opens.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database cannot be read.
    pub(in crate::store) async fn new(
        connection: &'a mut SqliteConnection,
        cipher: Arc<StoreCipher>,
        filter: &HistoryFilter,
    ) -> Result<Self> {
        let mut history = Self {
            connection,
            cipher,
            names: HashMap::new(),
            unknown: Vec::new(),
            chosen: Chosen {
                since: filter.since,
                outcome: filter.outcome,
                before: filter.before,
                ..Chosen::default()
            },
            after: i64::MIN,
            left: filter.newest.unwrap_or(u64::MAX),
        };
        if let Some(room) = &filter.room {
            history.chosen.room = history.number(Kind::Room, room.as_str()).await?;
        }
        if let Some(user) = &filter.user {
            history.chosen.user = history.number(Kind::User, user.as_str()).await?;
        }
        if history.unknown.is_empty() {
            history.after = history.start(filter.newest).await?.saturating_sub(1);
        } else {
            history.left = 0;
        }
        Ok(history)
    }

    /// Whichever of the room and the user that were asked for the ledger has never heard of. With one of
    /// them there are no rows.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// The next rows; none when all were read.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database cannot be read, or a name of it cannot be decrypted.
    pub async fn next_page(&mut self) -> Result<Vec<HistoryRow>> {
        let most = self.left.min(PAGE);
        if most == 0 {
            return Ok(Vec::new());
        }
        let mut query = self.chosen.page(self.after, most);
        let rows: Vec<Columns> = query.build_query_as().fetch_all(&mut *self.connection).await?;
        self.left = self.left.saturating_sub(rows.len() as u64);
        self.after = rows.last().map_or(self.after, |row| row.id);
        self.learn(&rows).await?;
        rows.into_iter().map(|row| self.open(row)).collect()
    }

    async fn number(&mut self, kind: Kind, name: &str) -> Result<Option<i64>> {
        let hash = names::hash_by(&self.cipher, kind, name);
        let row: Option<(i64,)> = sqlx::query_as("SELECT id FROM names WHERE hash = ?")
            .bind(hash.to_vec())
            .fetch_optional(&mut *self.connection)
            .await?;
        if row.is_none() {
            self.unknown.push(name.to_owned());
        }
        Ok(row.map(|(id,)| id))
    }

    /// Before which row there is nothing to be looked for.
    async fn start(&mut self, newest: Option<u64>) -> Result<i64> {
        let mut start = i64::MIN;
        if let (Some(since), None, None) = (self.chosen.since, self.chosen.room, self.chosen.user) {
            // Rows stand in the order in which they were first written, which is not that of their last change.
            let (first,): (Option<i64>,) = sqlx::query_as(
                "SELECT MIN(+id) FROM ledger INDEXED BY ledger_by_age WHERE last_at >= ?",
            )
            .bind(since)
            .fetch_one(&mut *self.connection)
            .await?;
            start = first.unwrap_or(i64::MAX);
        }
        let Some(before_the_newest) = newest.and_then(|count| count.checked_sub(1)) else {
            return Ok(start);
        };
        let mut query = self.chosen.nth_newest(start, before_the_newest);
        let row: Option<(i64,)> =
            query.build_query_as().fetch_optional(&mut *self.connection).await?;
        Ok(row.map_or(start, |(id,)| id))
    }

    /// Reads the names that stand in `rows` and are not in memory.
    async fn learn(&mut self, rows: &[Columns]) -> Result<()> {
        let all: BTreeSet<i64> = rows.iter().flat_map(Columns::names).collect();
        if self.names.len().saturating_add(all.len()) > MOST_NAMES {
            self.names.clear();
        }
        let missing: Vec<i64> = all.into_iter().filter(|id| !self.names.contains_key(id)).collect();
        for chunk in missing.chunks(CHUNK) {
            let mut query: QueryBuilder<Sqlite> =
                QueryBuilder::new("SELECT id, name FROM names WHERE id IN (");
            let mut list = query.separated(", ");
            for id in chunk {
                list.push_bind(*id);
            }
            query.push(")");
            let found: Vec<(i64, Vec<u8>)> =
                query.build_query_as().fetch_all(&mut *self.connection).await?;
            for (id, locked) in found {
                let name: String =
                    self.cipher.decrypt_value(&locked).map_err(|_| StoreError::Cipher)?;
                self.names.insert(id, name.into());
            }
        }
        Ok(())
    }

    fn name(&self, id: i64) -> Result<Arc<str>> {
        self.names.get(&id).cloned().ok_or(StoreError::Corrupt { what: "name of the ledger" })
    }

    fn open(&self, row: Columns) -> Result<HistoryRow> {
        let tuple = row.tuple.map(|id| self.name(id)).transpose()?;
        Ok(HistoryRow {
            id: row.id,
            at: row.at,
            last_at: row.last_at,
            room_id: self.name(row.room)?,
            user_id: self.name(row.user)?,
            device_id: self.name(row.device)?,
            session_id: Some(row.session_id).filter(|id| !id.is_empty()),
            message_index: row.message_index,
            tuple: tuple.map(|tuple| {
                let (event_type, state_key) = tuple.split_once(' ').unwrap_or((&tuple, ""));
                (event_type.to_owned(), state_key.to_owned())
            }),
            reason: row.reason,
            policy: row.policy.map(|id| self.name(id)).transpose()?,
            outcome: if row.outcome == GRANTED { UNKNOWN.to_owned() } else { row.outcome },
            count: row.count,
            event_id: row.event_id,
        })
    }
}

impl Chosen {
    /// At most so many rows after one, in their order.
    fn page(&self, after: i64, most: u64) -> QueryBuilder<Sqlite> {
        let mut query = QueryBuilder::new(
            "SELECT id, at, last_at, room, user, device, session_id, message_index, tuple, reason, \
             policy, outcome, count, event_id FROM ledger",
        );
        query.push(self.index()).push(" WHERE id > ").push_bind(after);
        self.push(&mut query);
        query.push(" ORDER BY id LIMIT ").push_bind(i64::try_from(most).unwrap_or(i64::MAX));
        query
    }

    /// The row from `start` on that so many newer ones follow.
    fn nth_newest(&self, start: i64, newer: u64) -> QueryBuilder<Sqlite> {
        let mut query = QueryBuilder::new("SELECT id FROM ledger");
        query.push(self.index()).push(" WHERE id >= ").push_bind(start);
        self.push(&mut query);
        query.push(" ORDER BY id DESC LIMIT 1 OFFSET ");
        query.push_bind(i64::try_from(newer).unwrap_or(i64::MAX));
        query
    }

    /// Nearly all keys are given: what was not is found by an index of its own, unless a user's rows are fewer still.
    fn is_led_by_outcome(&self) -> bool {
        self.user.is_none() && self.outcome.is_some_and(|outcome| outcome != OutcomeKind::Given)
    }

    fn index(&self) -> &'static str {
        if self.is_led_by_outcome() { " INDEXED BY ledger_not_given" } else { "" }
    }

    /// Adds the conditions. A plus sign keeps a column from choosing the index: the one of a user leads to the
    /// fewest rows, that of a room to few, and both give them in their order.
    fn push(self, query: &mut QueryBuilder<Sqlite>) {
        if let Some(user) = self.user {
            query.push(" AND user = ").push_bind(user);
        }
        if let Some(room) = self.room {
            let column = if self.user.is_some() { " AND +room = " } else { " AND room = " };
            query.push(column).push_bind(room);
        }
        if let Some(since) = self.since {
            query.push(" AND +last_at >= ").push_bind(since);
        }
        if let Some(outcome) = self.outcome {
            if self.is_led_by_outcome() {
                query.push(" AND ").push(NOT_GIVEN);
            }
            query.push(" AND ").push(outcome.condition());
        }
        if let Some(before) = self.before {
            query.push(" AND id < ").push_bind(before);
        }
    }
}

impl Columns {
    fn names(&self) -> impl Iterator<Item = i64> {
        [Some(self.room), Some(self.user), Some(self.device), self.tuple, self.policy]
            .into_iter()
            .flatten()
    }
}

#[cfg(test)]
mod tests;
