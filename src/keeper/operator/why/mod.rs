//! Why a user has or lacks a room's keys, device by device: from the ledger, and from the one function that says who
//! is entitled.

mod words;

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

use self::words::Words;
use super::Refusal;
use crate::{
    crypto::KnownDevice,
    keeper::{
        KeeperError,
        clock::now_ms,
        decide::{DeviceView, Knowledge, MemberView, SealedView, TupleView, came_late},
        lane::{Lanes, Visit},
        rules::Rules,
    },
    policy::{self, DeviceFacts, Judgement, MemberFacts, UserFacts},
    state::{Membership, StateTuple},
    store::{Grant, Refused, RoomRow, ledger, marks, overview, rooms},
};

/// Why a user has or lacks a room's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// Where.
    pub room_id: OwnedRoomId,
    /// Who.
    pub user_id: OwnedUserId,
    /// What they are there: `join`, `invite`, `leave`, `ban` or `knock`; `None` where the room says nothing of them.
    pub membership: Option<String>,
    /// Since when at the latest, in milliseconds.
    pub since: Option<i64>,
    /// The policy that decides, in words.
    pub policy: String,
    /// What concerns the room or the user as a whole.
    pub findings: Vec<Finding>,
    /// Each of the user's devices.
    pub devices: Vec<DeviceWhy>,
}

/// What is the matter, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The word for it that scripts see.
    pub code: Code,
    /// A sentence.
    pub text: String,
    /// What mends it, where something does.
    pub fix: Option<String>,
}

/// What may be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // Each is explained by its sentence in `words`.
pub enum Code {
    // Of the room.
    RoomLoading,
    StateNotEncrypted,
    NotElevated,
    Noop,
    Undecryptable,
    // Of the user.
    NotAMember,
    Invited,
    UserBlocked,
    NotAdmitted,
    Denied,
    IdentityChanged,
    NotVouched,
    AwaitsApproval,
    NoDevices,
    DevicesUnknown,
    // Of a device.
    DeviceUnknown,
    DeviceDeleted,
    KeeperItself,
    DeviceBlocked,
    Unsigned,
    NoOneTimeKey,
    HasToAsk,
    Waiting,
    OnItsWay,
    WaitsForRefresh,
    KeySent,
    NothingSealed,
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceWhy {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// Whether its owner cross-signed it.
    pub cross_signed: bool,
    /// Whether it is entitled to the key of at least the room's name.
    pub entitled: bool,
    /// What is the matter with it.
    pub finding: Finding,
    /// Each of the room's values.
    pub values: Vec<ValueWhy>,
    /// What it was told that it does not get.
    pub told: Vec<Told>,
}

/// A value of the room's, for one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueWhy {
    /// The true type.
    pub event_type: String,
    /// The true state key.
    pub state_key: String,
    /// Whether the device can read it.
    pub state: ValueState,
    /// Since when, in milliseconds: of a key that was sent, when the homeserver took it.
    pub at: Option<i64>,
}

/// Whether a device can read a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueState {
    /// The homeserver took the key for it before the value was sealed, or the device asked for it.
    KeySent,
    /// The homeserver took the key, but a running client may have met the value before: a refresh follows.
    KeySentLate,
    /// The key is being sent.
    OnItsWay,
    /// It has no key of it.
    Lacking,
    /// It is not entitled to it.
    NotEntitled,
    /// The value is not sealed yet.
    NotSealed,
    /// The keeper itself cannot read the value.
    Undecryptable,
    /// The value was refused: it breaks a rule.
    Refused,
}

impl ValueState {
    /// The same word as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeySent => "key_sent",
            Self::KeySentLate => "key_sent_late",
            Self::OnItsWay => "on_its_way",
            Self::Lacking => "lacking",
            Self::NotEntitled => "not_entitled",
            Self::NotSealed => "not_sealed",
            Self::Undecryptable => "undecryptable",
            Self::Refused => "refused",
        }
    }
}

/// A refusal that stands in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// `withheld:` and the code, or `held`.
    pub outcome: String,
    /// When for the last time, in milliseconds.
    pub last_at: i64,
}

/// Finds out why `user` has or lacks the keys of `room`.
pub(super) async fn why(lanes: &Lanes, room: &RoomId, user: &UserId) -> Result<Why, Refusal> {
    let store = lanes.taker.store.clone();
    let row = rooms::get(&mut *store.read().await?, room).await?;
    let Some(row) = row.filter(|row| row.membership == Membership::Join) else {
        return Err(Refused::UnknownRoom(room.to_owned()).into());
    };
    let mut visit = Visit::new(lanes, row, Some([user.to_owned()].into()));
    let known = visit.know().await?;
    // Not before: what is known is read over a connection of its own, and there are few.
    let db = &mut *store.read().await?;
    let member = rooms::get_member(db, room, user).await?;
    let membership = member.as_ref().map(|member| member.membership);
    let rules = visit.rules.clone();
    let due_at = marks::due_at(db, room, user).await?;
    let refusing_list = lanes.taker.rules.global().access.refusal(user);
    let words = Words { room, user, due_at, refusing_list };
    let mut view = match known.members.first().or(known.previewers.first()) {
        Some(view) => view.clone(),
        None => stranger(lanes, user, membership).await?,
    };
    let states = tuple_states(db, room).await?;
    let refused = ledger::refusals(&store, db, room, user).await?;
    let mut why = Why {
        room_id: room.to_owned(),
        user_id: user.to_owned(),
        membership: membership.map(|membership| membership.as_str().to_owned()),
        since: member.map(|member| member.arrived_at),
        policy: rules.policy.clone(),
        findings: of_room(&visit.room, &rules, &states, &words),
        devices: Vec::new(),
    };
    let standing = MemberFacts { membership, ..view.standing };
    let by_user = judgement(&SOUND, &view.user, &standing, &name(), &rules);
    why.findings.extend(of_user(by_user, &view.devices, view.settled, &words));
    view.devices.sort_by(|one, other| one.device_id.cmp(&other.device_id));
    let case = Case { known: &known, rules: &rules, member: &view, standing, states: &states };
    for device in &view.devices {
        let channel = match visit.devices.get(&(user.to_owned(), device.device_id.clone())) {
            Some(met) => lanes.taker.device.has_channel(met).await.map_err(KeeperError::from)?,
            None => false,
        };
        let told = refused.iter().filter(|row| row.device_id == device.device_id);
        let told = told.map(|row| Told { outcome: row.outcome.clone(), last_at: row.last_at });
        let told = told.collect();
        why.devices.push(DeviceWhy { told, ..case.of_device(device, channel, &words) });
    }
    Ok(why)
}

/// A device against which nothing can be said.
const SOUND: DeviceFacts = DeviceFacts {
    known: true,
    deleted: false,
    cross_signed_by_owner: true,
    blocked: false,
    is_keeper_itself: false,
};

fn name() -> StateTuple {
    StateTuple::new("m.room.name", "")
}

fn judgement(
    device: &DeviceFacts,
    user: &UserFacts,
    standing: &MemberFacts,
    tuple: &StateTuple,
    rules: &Rules,
) -> Judgement {
    policy::judge(device, user, standing, tuple, &rules.sharing)
}

/// Somebody who is not in the room, with the devices that are known all the same.
async fn stranger(
    lanes: &Lanes,
    user: &UserId,
    membership: Option<Membership>,
) -> Result<MemberView, Refusal> {
    // Before the devices are read: what comes between counts as not known.
    let settled = lanes.taker.device.is_settled(user);
    let known = lanes.taker.device.known_user(user).await.map_err(KeeperError::from)?;
    let global = lanes.taker.rules.global();
    let devices = known.devices.iter().map(stranger_device).collect();
    Ok(MemberView {
        user_id: user.to_owned(),
        membership: Membership::Leave,
        user: UserFacts { admitted: global.access.admits(user), ..UserFacts::ADMITTED },
        standing: MemberFacts::of(membership),
        since: 0,
        tick: 0,
        settled,
        devices,
        unreachable: Vec::new(),
        orphaned: Default::default(),
        first_key: None,
    })
}

fn stranger_device(device: &KnownDevice) -> DeviceView {
    DeviceView {
        device_id: device.device_id.clone(),
        facts: DeviceFacts {
            deleted: device.deleted,
            cross_signed_by_owner: device.cross_signed,
            blocked: device.blocked,
            ..SOUND
        },
        first_seen: device.first_seen,
        grants: BTreeMap::new(),
    }
}

async fn tuple_states(
    db: &mut SqliteConnection,
    room: &RoomId,
) -> Result<BTreeMap<(String, String), String>, Refusal> {
    let tuples = overview::tuples(db, room, None).await?;
    Ok(tuples.into_iter().map(|row| ((row.event_type, row.state_key), row.state)).collect())
}

fn of_room(
    room: &RoomRow,
    rules: &Rules,
    states: &BTreeMap<(String, String), String>,
    words: &Words<'_>,
) -> Vec<Finding> {
    let undecryptable = states.values().any(|state| state == "undecryptable");
    let codes = [
        (!room.loaded).then_some(Code::RoomLoading),
        (room.loaded && !room.state_encrypted).then_some(Code::StateNotEncrypted),
        (room.loaded && room.state_encrypted && !room.elevated).then_some(Code::NotElevated),
        rules.noop.then_some(Code::Noop),
        undecryptable.then_some(Code::Undecryptable),
    ];
    codes.into_iter().flatten().map(|code| words.finding(code)).collect()
}

/// What concerns the user as a whole: it stands against the best device that there could be.
fn of_user(
    judgement: Judgement,
    devices: &[DeviceView],
    is_settled: bool,
    words: &Words<'_>,
) -> Vec<Finding> {
    let mut codes: Vec<Code> = Vec::new();
    codes.extend(code_of(judgement));
    if devices.is_empty() {
        codes.push(if is_settled { Code::NoDevices } else { Code::DevicesUnknown });
    }
    codes.into_iter().map(|code| words.finding(code)).collect()
}

/// What stands against a device; `None` where nothing does.
fn code_of(judgement: Judgement) -> Option<Code> {
    use policy::HoldReason;
    Some(match judgement {
        Judgement::Entitled => return None,
        Judgement::DeviceUnknown => Code::DeviceUnknown,
        Judgement::DeviceDeleted => Code::DeviceDeleted,
        Judgement::KeeperItself => Code::KeeperItself,
        Judgement::NotAMember => Code::NotAMember,
        Judgement::Invited => Code::Invited,
        Judgement::UserBlocked => Code::UserBlocked,
        Judgement::DeviceBlocked => Code::DeviceBlocked,
        Judgement::NotAdmitted => Code::NotAdmitted,
        Judgement::Denied => Code::Denied,
        Judgement::Unsigned => Code::Unsigned,
        Judgement::Held(HoldReason::IdentityChanged) => Code::IdentityChanged,
        Judgement::Held(HoldReason::NotVouched) => Code::NotVouched,
        Judgement::Held(HoldReason::AwaitsApproval) => Code::AwaitsApproval,
    })
}

/// What is known when a device is looked at.
struct Case<'a> {
    known: &'a Knowledge,
    rules: &'a Rules,
    member: &'a MemberView,
    standing: MemberFacts,
    states: &'a BTreeMap<(String, String), String>,
}

impl Case<'_> {
    fn of_device(&self, device: &DeviceView, channel: bool, words: &Words<'_>) -> DeviceWhy {
        let values: Vec<ValueWhy> =
            self.known.tuples.iter().filter_map(|view| self.of_value(device, view)).collect();
        let judged = self.judge(device, &name());
        let code = code_of(judged).unwrap_or_else(|| self.of_entitled(&values, channel, words));
        let last = values.iter().filter_map(|value| value.at).max();
        DeviceWhy {
            device_id: device.device_id.clone(),
            cross_signed: device.facts.cross_signed_by_owner,
            entitled: judged == Judgement::Entitled,
            finding: words.finding_about(code, &device.device_id, last),
            values,
            told: Vec::new(),
        }
    }

    fn judge(&self, device: &DeviceView, tuple: &StateTuple) -> Judgement {
        judgement(&device.facts, &self.member.user, &self.standing, tuple, self.rules)
    }

    fn of_entitled(&self, values: &[ValueWhy], channel: bool, words: &Words<'_>) -> Code {
        let any = |state| values.iter().any(|value| value.state == state);
        if any(ValueState::Lacking) {
            let is_due = words.due_at.is_some_and(|due_at| due_at <= now_ms());
            return match (self.rules.unasked, channel || is_due) {
                (false, _) => Code::HasToAsk,
                (true, false) => Code::NoOneTimeKey,
                (true, true) => Code::Waiting,
            };
        }
        if any(ValueState::OnItsWay) {
            return Code::OnItsWay;
        }
        if any(ValueState::KeySentLate) {
            return Code::WaitsForRefresh;
        }
        if any(ValueState::KeySent) { Code::KeySent } else { Code::NothingSealed }
    }

    /// What a device has of a value; `None` of a tuple that shows nothing.
    fn of_value(&self, device: &DeviceView, view: &TupleView) -> Option<ValueWhy> {
        let StateTuple { event_type, state_key } = view.tuple.clone();
        let stored = self.states.get(&(event_type.clone(), state_key.clone()));
        let (state, at) = match stored.map(String::as_str) {
            Some("undecryptable") => (ValueState::Undecryptable, None),
            Some("refused") => (ValueState::Refused, None),
            Some("redacted" | "empty") | None => return None,
            _ => match current(view) {
                Some(sealed) => self.of_sealed(device, view, sealed),
                None => (ValueState::NotSealed, None),
            },
        };
        Some(ValueWhy { event_type, state_key, state, at })
    }

    fn of_sealed(
        &self,
        device: &DeviceView,
        view: &TupleView,
        sealed: &SealedView,
    ) -> (ValueState, Option<i64>) {
        if self.judge(device, &view.tuple) != Judgement::Entitled {
            return (ValueState::NotEntitled, None);
        }
        let grant = device.grants.get(&sealed.session_id);
        match grant.filter(|grant| grant.message_index <= sealed.message_index) {
            None => (ValueState::Lacking, None),
            Some(Grant { sent_at: None, granted_at, .. }) => {
                (ValueState::OnItsWay, Some(*granted_at))
            }
            Some(grant) if came_late(self.member, grant, sealed) => {
                (ValueState::KeySentLate, grant.sent_at)
            }
            Some(grant) => (ValueState::KeySent, grant.sent_at),
        }
    }
}

/// The sealed value that a tuple shows.
fn current(view: &TupleView) -> Option<&SealedView> {
    let source = view.source.as_ref()?;
    view.sealed.as_ref().filter(|sealed| sealed.stands && sealed.from == source.event_id)
}
