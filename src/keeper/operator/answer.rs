//! What an operator is answered. Nothing in it is key material, nor any content of state.

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{examine::Examination, spaces::Spaces, why::Why};
use crate::{
    keeper::{KeeperError, commissions::UpgradePlan, ingest::power_levels},
    state::PowerLevel,
    store::{
        CommandRow, CommissionRow, Done, HistoryRow, HoldRow, Refused, RoomOverview, StoreError,
        TupleOverview,
    },
};

/// The answer to a [`super::Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`super::Query::Status`].
    Status(Status),
    /// To [`super::Query::Rooms`].
    Rooms(Vec<RoomSummary>),
    /// To [`super::Query::Room`].
    Room(RoomDetail),
    /// To [`super::Query::Why`].
    Why(Why),
    /// To [`super::Query::Holds`].
    Holds(Holds),
    /// To [`super::Query::Examine`].
    Examination(Examination),
    /// To [`super::Query::Spaces`].
    Spaces(Spaces),
    /// To [`super::Query::UpgradePlan`].
    UpgradePlan(UpgradePlan),
    /// To [`super::Query::Commissions`].
    Commissions(Vec<CommissionRow>),
    /// To [`super::Query::Commission`] and [`super::Request::Making`].
    Commission(CommissionRow),
    /// To [`super::Query::Ledger`].
    Ledger(Vec<LedgerEntry>),
    /// To [`super::Query::Commands`].
    Commands(Vec<CommandRow>),
    /// To [`super::Request::Command`].
    Done(Done),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The word for it that scripts see, such as `unknown_room`.
    pub code: String,
    /// What is the matter, and what to do about it.
    pub message: String,
}

/// How the keeper fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version that runs.
    pub version: String,
    /// The keeper.
    pub user_id: OwnedUserId,
    /// Its device; `None` until the homeserver was reached for the first time since the start.
    pub device_id: Option<OwnedDeviceId>,
    /// Where its homeserver is.
    pub homeserver: String,
    /// When the process was started, in milliseconds.
    pub started_at: i64,
    /// Whether it can do all of its work.
    pub ready: bool,
    /// What it lacks for that, as `/health/ready` says.
    pub missing: Vec<String>,
    /// What is wrong, each in a sentence with what mends it.
    #[serde(default)]
    pub troubles: Vec<String>,
    /// Whether an administrator has had nothing sent.
    pub noop: bool,
    /// Whether the configuration says of all rooms, or of some, that nothing is sent.
    pub noop_configured: bool,
    /// Rooms by status.
    pub rooms: BTreeMap<String, i64>,
    /// How many members are held.
    pub held: i64,
    /// How many tuples show an event that the keeper cannot read.
    pub undecryptable: i64,
    /// What is still to be decided: now, and at a later time.
    pub due: i64,
    /// See [`Status::due`].
    pub later: i64,
    /// How many requests wait to be sent.
    pub sending: i64,
    /// How many key requests wait for their turn.
    pub key_requests: u64,
    /// How many state sessions may encrypt.
    pub sessions: i64,
}

/// A room in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomSummary {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its main address.
    pub alias: Option<String>,
    /// `kept`, `not_elevated`, `state_not_encrypted`, `loading`, `invited`, `left` or `banned`.
    pub status: String,
    /// How many are joined, the keeper among them.
    pub joined: i64,
    /// How many are held.
    pub held: i64,
    /// How many values there are.
    pub values: i64,
    /// How many of these are sealed.
    pub sealed: i64,
    /// How many tuples show an event that the keeper cannot read.
    pub undecryptable: i64,
    /// How many of these the keeper sealed itself, in a life of which its store knows nothing.
    pub lost: i64,
    /// How many avatars are hidden whose pictures are not.
    pub public_pictures: i64,
    /// How many promises to decide stand.
    pub promises: i64,
    /// When the first of them is due, in milliseconds.
    pub due_at: Option<i64>,
    /// The power level that the keeper needs there; `None` where it has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_needed: Option<i64>,
}

/// A room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomDetail {
    /// The room as in the list.
    #[serde(flatten)]
    pub summary: RoomSummary,
    /// Its room version.
    pub version: String,
    /// Whether it has said that it is encrypted.
    pub encrypted: bool,
    /// Whether it has said that its state is.
    pub flagged: bool,
    /// Whether the keeper may send sealed state there.
    pub elevated: bool,
    /// The spaces that it is in.
    pub spaces: Vec<OwnedRoomId>,
    /// The policy that decides who is given keys, in words; `None` where no keeper runs to say.
    pub policy: Option<String>,
    /// Whether everything is decided there and nothing sent; `None` where no keeper runs to say.
    pub noop: Option<bool>,
    /// Its state tuples.
    pub tuples: Vec<TupleOverview>,
    /// Who is held there.
    pub holds: Vec<Hold>,
    /// Whose changes are restored no more before an administrator says `resume`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wars: Vec<OwnedUserId>,
    /// How many more state tuples there are, where no more were asked for.
    #[serde(default, skip_serializing_if = "is_none")]
    pub more_tuples: i64,
    /// How many more are held there, likewise.
    #[serde(default, skip_serializing_if = "is_none")]
    pub more_holds: i64,
}

/// Those who wait for an administrator's word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// They, the longest first.
    pub holds: Vec<Hold>,
    /// How many more there are, where no more were asked for.
    pub more: i64,
}

/// A member who waits for an administrator's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Where.
    pub room_id: OwnedRoomId,
    /// Who.
    pub user_id: OwnedUserId,
    /// Since when, in milliseconds.
    pub since: i64,
    /// `identity_changed`, `not_vouched` or `awaits_approval`.
    pub reason: String,
}

/// A key that was given or refused, or a state event that broke a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The row's number.
    pub id: i64,
    /// When, in milliseconds.
    pub at: i64,
    /// When for the last time.
    pub last_at: i64,
    /// Where.
    pub room_id: String,
    /// To whom; of a violation, who sent the event.
    pub user_id: String,
    /// To which device; empty for none.
    pub device_id: String,
    /// The true type and state key of the value that the key opens.
    pub tuple: Option<(String, String)>,
    /// Why.
    pub reason: String,
    /// What became of it.
    pub outcome: String,
    /// How often it was refused or held.
    pub count: Option<i64>,
}

impl From<HistoryRow> for LedgerEntry {
    fn from(row: HistoryRow) -> Self {
        Self {
            id: row.id,
            at: row.at,
            last_at: row.last_at,
            room_id: row.room_id.as_ref().to_owned(),
            user_id: row.user_id.as_ref().to_owned(),
            device_id: row.device_id.as_ref().to_owned(),
            tuple: row.tuple,
            reason: row.reason,
            outcome: row.outcome,
            count: row.count,
        }
    }
}

impl Refusal {
    /// A refusal by its word for scripts, and in a sentence.
    pub(in crate::keeper) fn new(code: &str, message: &str) -> Self {
        Self { code: code.to_owned(), message: message.to_owned() }
    }

    /// The same, with what it is about.
    pub(in crate::keeper) fn about(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// The keeper has not come so far since its start.
    pub(super) fn starting() -> Self {
        Self {
            code: "starting".to_owned(),
            message: "the keeper has not reached its homeserver since its start, and knows no \
                      devices yet; `statekeeper status` says what is missing"
                .to_owned(),
        }
    }

    /// Whether it is the keeper's own trouble.
    pub fn is_failure(&self) -> bool {
        matches!(self.code.as_str(), "store" | "failed")
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self { code: refused.code().to_owned(), message: refused.to_string() }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Refused::Store(error).into()
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl From<KeeperError> for Refusal {
    fn from(error: KeeperError) -> Self {
        Self { code: "failed".to_owned(), message: error.to_string() }
    }
}

impl From<RoomOverview> for RoomSummary {
    fn from(row: RoomOverview) -> Self {
        let needed = power_levels(&row.room).needed_for_state("m.room.encrypted");
        let power_needed = match needed {
            PowerLevel::Level(level) if row.room.status() == "not_elevated" => Some(level),
            _ => None,
        };
        Self {
            power_needed,
            status: row.room.status().to_owned(),
            alias: row.room.canonical_alias,
            room_id: row.room.room_id,
            joined: row.joined,
            held: row.held,
            values: row.values,
            sealed: row.sealed,
            undecryptable: row.undecryptable,
            lost: row.lost,
            public_pictures: row.public_pictures,
            promises: row.promises,
            due_at: row.due_at,
        }
    }
}

impl From<HoldRow> for Hold {
    fn from(row: HoldRow) -> Self {
        let HoldRow { room_id, user_id, since, reason } = row;
        Self { room_id, user_id, since, reason }
    }
}

impl From<Vec<HoldRow>> for Holds {
    fn from(rows: Vec<HoldRow>) -> Self {
        Self { holds: rows.into_iter().map(Hold::from).collect(), more: 0 }
    }
}

impl Holds {
    /// The same, of so many in all.
    pub(super) fn of_all(self, all: i64) -> Self {
        Self { more: left_over(all, self.holds.len()), ..self }
    }
}

/// How many of `all` are not among those that are shown.
pub(super) fn left_over(all: i64, shown: usize) -> i64 {
    all.saturating_sub(i64::try_from(shown).unwrap_or(i64::MAX)).max(0)
}

// The form that `skip_serializing_if` asks for.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_none(count: &i64) -> bool {
    *count == 0
}

impl RoomDetail {
    /// What the store alone says of a room.
    pub fn of_store(row: RoomOverview, tuples: Vec<TupleOverview>, holds: Vec<HoldRow>) -> Self {
        Self {
            version: row.room.version.clone(),
            encrypted: row.room.encrypted,
            flagged: row.room.flagged,
            elevated: row.room.elevated,
            spaces: row.room.spaces.clone(),
            wars: row.wars.clone(),
            policy: None,
            noop: None,
            tuples,
            holds: holds.into_iter().map(Hold::from).collect(),
            more_tuples: 0,
            more_holds: 0,
            summary: row.into(),
        }
    }
}
