//! Comparing what lies beneath the followed spaces with what was found there before.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use ruma::{OwnedRoomId, OwnedServerName, RoomId};
use sqlx::SqliteConnection;

use super::{
    advice::{Standing, give_power, let_in, standing_of},
    news::end_all,
    rules::SpaceRules,
};
use crate::{
    keeper::{
        KeeperError,
        clock::now_ms,
        ingest::{Arrival, Taker},
    },
    policy::{Child, Found, PreviewPolicy, walk},
    state::Membership,
    store::{FollowedRow, RoomRow, SpaceRoomRow, invites, previews, rooms, spaces},
};

/// The word for a space that is followed.
const FOLLOWED: &str = "followed";

/// A room or space that the keeper is to join, with the file of the token for the homeserver's administration, where
/// that is to help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToJoin {
    /// A space to follow, by its name.
    Space(String, Option<PathBuf>),
    /// A room beneath one.
    Room(OwnedRoomId, Vec<OwnedServerName>, Option<PathBuf>),
    /// A room beneath one that the keeper is in, to be given power there.
    Elevate(OwnedRoomId, PathBuf),
}

/// What came of a survey.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// What is to be joined now, the nearest first.
    pub(super) joins: Vec<ToJoin>,
    /// When something has to be tried again, in milliseconds.
    pub(super) next: Option<i64>,
}

/// What is known beforehand.
struct Known {
    rooms: BTreeMap<OwnedRoomId, RoomRow>,
    spaces: BTreeSet<OwnedRoomId>,
    lists: BTreeMap<OwnedRoomId, Vec<Child>>,
    before: BTreeMap<OwnedRoomId, SpaceRoomRow>,
}

/// The followed spaces that the keeper knows the ids of, each with its rules.
pub(in crate::keeper) async fn roots(
    taker: &Taker,
    db: &mut SqliteConnection,
) -> Result<Vec<(OwnedRoomId, SpaceRules)>, KeeperError> {
    let rows = spaces::followed(db).await?;
    let pairs = to_follow(taker, &rows).into_iter();
    Ok(pairs.filter_map(|(row, rules)| Some((row.space_id?, rules))).collect())
}

/// What is to be followed: what is configured, in its order, then what administrators invited the keeper into.
fn to_follow(taker: &Taker, rows: &[FollowedRow]) -> Vec<(FollowedRow, SpaceRules)> {
    let global = taker.rules.global();
    let mut pairs: Vec<(FollowedRow, SpaceRules)> = Vec::new();
    for rules in &global.spaces {
        let name = rules.room.as_str();
        let known = rows.iter().find(|row| row.name == name).cloned();
        let id = RoomId::parse(name).ok();
        let row = known.unwrap_or_else(|| FollowedRow::new(name.to_owned(), id));
        pairs.push((row, rules.clone()));
    }
    for row in rows.iter().filter(|row| row.invited) {
        let Some(id) = &row.space_id else { continue };
        if !pairs.iter().any(|(other, _)| other.space_id.as_ref() == Some(id)) {
            pairs.push((row.clone(), SpaceRules::of_invited(id)));
        }
    }
    pairs
}

/// Walks down from every followed space, notes what has changed, and says what is to be joined.
///
/// # Errors
///
/// [`KeeperError`] when the store fails.
pub(super) async fn survey(taker: &Taker) -> Result<Survey, KeeperError> {
    let (known, rows) = {
        let db = &mut *taker.store.read().await?;
        let rows = spaces::followed(db).await?;
        let before = spaces::rooms(db).await?;
        if rows.is_empty() && before.is_empty() && taker.rules.global().spaces.is_empty() {
            return Ok(Survey::default());
        }
        let rooms = rooms::all(db).await?.into_iter();
        let mut known = Known {
            rooms: rooms.map(|room| (room.room_id.clone(), room)).collect(),
            spaces: spaces::all_spaces(db).await?,
            lists: spaces::lists(db).await?,
            before: before.into_iter().map(|row| (row.room_id.clone(), row)).collect(),
        };
        // Beyond the bound are those that come last: none is pushed out by one that comes later.
        for list in known.lists.values_mut() {
            list.sort_by_key(|child| !known.before.contains_key(&child.room_id));
        }
        (known, rows)
    };
    let mut survey = Survey::default();
    let (followed, found) = look(taker, &known, &rows, &mut survey);
    note(taker, &known, (&rows, &followed), found).await?;
    Ok(survey)
}

/// How each followed space stands, and each room beneath it.
fn look(
    taker: &Taker,
    known: &Known,
    rows: &[FollowedRow],
    survey: &mut Survey,
) -> (Vec<FollowedRow>, BTreeMap<OwnedRoomId, SpaceRoomRow>) {
    let mut followed = Vec::new();
    let mut found: BTreeMap<OwnedRoomId, SpaceRoomRow> = BTreeMap::new();
    for (mut row, rules) in to_follow(taker, rows) {
        if let Some(newer) = row.space_id.as_ref().and_then(|id| goes_on_in(known, id)) {
            tracing::info!(space = row.name, successor = %newer, "a space to follow goes on in another one");
            row.space_id = Some(newer);
        }
        if !stand_of_space(taker, known, &mut row, &rules, survey) {
            continue;
        }
        let root = row.space_id.clone().filter(|_| row.status == FOLLOWED);
        if let Some(root) = root {
            let children =
                |space: &RoomId| known.lists.get(space).map(Vec::as_slice).unwrap_or_default();
            let (mut beneath, beyond) = walk(&root, rules.bounds, children);
            row.beyond = i64::try_from(beyond).unwrap_or(i64::MAX);
            beneath.extend(rules.rooms.iter().map(|room| Found {
                room_id: room.clone(),
                space_id: root.clone(),
                depth: 1,
                via: Vec::new(),
                // Whoever named it meant it.
                suggested: true,
            }));
            for room in beneath {
                if room.room_id != root && !found.contains_key(&room.room_id) {
                    let stands = stand_of_room(taker, known, &root, &rules, room, survey);
                    found.insert(stands.room_id.clone(), stands);
                }
            }
        }
        followed.push(row);
    }
    (followed, found)
}

/// The space that a space goes on in, as both say, where the keeper is in it: the last of them.
fn goes_on_in(known: &Known, space: &RoomId) -> Option<OwnedRoomId> {
    let is_one = |room: &&RoomRow| {
        room.membership == Membership::Join
            && known.spaces.contains(&room.room_id)
            && room.predecessors.iter().any(|before| before == space)
    };
    let newer = known.rooms.values().filter(is_one);
    newer.max_by_key(|room| room.predecessors.len()).map(|room| room.room_id.clone())
}

/// Notes how a space to follow stands. Whether it is still one to follow.
fn stand_of_space(
    taker: &Taker,
    known: &Known,
    row: &mut FollowedRow,
    rules: &SpaceRules,
    survey: &mut Survey,
) -> bool {
    let room = row.space_id.as_ref().and_then(|id| known.rooms.get(id));
    let is_space = row.space_id.as_ref().is_some_and(|id| known.spaces.contains(id));
    match room {
        Some(room) if room.membership == Membership::Join => {
            let status = match (is_space, room.loaded) {
                (true, _) => FOLLOWED,
                (false, false) => Standing::Loading.as_str(),
                (false, true) if row.invited => return false,
                (false, true) => Standing::NotASpace.as_str(),
            };
            (row.status, row.detail, row.attempts, row.retry_at) = (status.to_owned(), None, 0, 0);
            if status == Standing::NotASpace.as_str() {
                row.detail = Some(format!("{} is no space; take it out of `spaces`", row.name));
            }
        }
        Some(room)
            if row.invited && matches!(room.membership, Membership::Leave | Membership::Ban) =>
        {
            return false;
        }
        _ => {
            if !Standing::has_failed(&row.status) {
                Standing::Joining.as_str().clone_into(&mut row.status);
            }
            // Whoever is invited accepts in any case.
            if !row.invited {
                let assist = assist(taker, room, rules);
                survey.due(row.retry_at, || ToJoin::Space(row.name.clone(), assist));
            }
        }
    }
    true
}

fn stand_of_room(
    taker: &Taker,
    known: &Known,
    root: &RoomId,
    rules: &SpaceRules,
    found: Found,
    survey: &mut Survey,
) -> SpaceRoomRow {
    let room = known.rooms.get(&found.room_id);
    let before = known.before.get(&found.room_id);
    let mut row = SpaceRoomRow {
        room_id: found.room_id.clone(),
        root_id: root.to_owned(),
        space_id: found.space_id,
        depth: found.depth,
        preview: rules.preview,
        invites: rules.invites_into(found.suggested),
        status: before.map(|row| row.status.clone()).unwrap_or_default(),
        detail: before.and_then(|row| row.detail.clone()),
        attempts: before.map_or(0, |row| row.attempts),
        retry_at: before.map_or(0, |row| row.retry_at),
    };
    let is_space = known.spaces.contains(&found.room_id);
    if let Some((room, standing)) = room.and_then(|room| Some((room, standing_of(room, is_space)?)))
    {
        standing.as_str().clone_into(&mut row.status);
        row.detail = (standing == Standing::NoPower).then(|| give_power(room, &taker.keeper));
        let as_before = before.is_some_and(|before| before.status == row.status);
        match assist(taker, Some(room), rules) {
            Some(token) if standing == Standing::NoPower => {
                if !as_before {
                    (row.attempts, row.retry_at) = (0, 0);
                }
                let elevate = || ToJoin::Elevate(found.room_id, token);
                survey.due(row.retry_at, elevate);
            }
            _ => (row.attempts, row.retry_at) = (0, 0),
        }
        return row;
    }
    // Whoever showed the keeper out has to ask it in.
    if room.is_some_and(|room| matches!(room.membership, Membership::Leave | Membership::Ban)) {
        Standing::CannotJoin.as_str().clone_into(&mut row.status);
        row.detail = Some(let_in(&row, room, &taker.keeper));
        return row;
    }
    if !Standing::has_failed(&row.status) {
        (row.status, row.detail) = (Standing::Joining.as_str().to_owned(), None);
    }
    let assist = assist(taker, room, rules);
    survey.due(row.retry_at, || ToJoin::Room(found.room_id, found.via, assist));
    row
}

/// Whose help the keeper asks for to come into a room and to have the power there that it needs. Under `noop` it sends
/// nothing, and so asks nobody.
fn assist(taker: &Taker, room: Option<&RoomRow>, rules: &SpaceRules) -> Option<PathBuf> {
    let noop = match room {
        Some(room) => taker.rules.of(room).noop,
        None => taker.rules.is_noop_by_default(),
    };
    rules.assist.clone().filter(|_| !noop)
}

impl Survey {
    /// Something is to be joined at `at`, or now if that is past.
    fn due(&mut self, at: i64, join: impl FnOnce() -> ToJoin) {
        if at <= now_ms() {
            self.joins.push(join());
        } else {
            self.next = Some(self.next.map_or(at, |next| next.min(at)));
        }
    }
}

/// Writes down what has changed, and what follows from it for those who read before they join.
async fn note(
    taker: &Taker,
    known: &Known,
    (before, followed): (&[FollowedRow], &[FollowedRow]),
    found: BTreeMap<OwnedRoomId, SpaceRoomRow>,
) -> Result<(), KeeperError> {
    let changed: Vec<&FollowedRow> = followed.iter().filter(|row| !before.contains(row)).collect();
    let dropped: Vec<&FollowedRow> =
        before.iter().filter(|row| !followed.iter().any(|it| it.name == row.name)).collect();
    let news: Vec<&SpaceRoomRow> =
        found.values().filter(|row| known.before.get(&row.room_id) != Some(row)).collect();
    let gone: Vec<&SpaceRoomRow> =
        known.before.values().filter(|row| !found.contains_key(&row.room_id)).collect();
    if changed.is_empty() && dropped.is_empty() && news.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let arrival = Arrival::live(now_ms(), taker.store.next_tick());
    let mut transaction = taker.store.begin().await?;
    for row in changed {
        tell_of_space(row, before.iter().find(|it| it.name == row.name));
        spaces::put_followed(&mut transaction, row).await?;
    }
    for row in dropped {
        tracing::info!(space = row.name, "a space is followed no more");
        spaces::drop_followed(&mut transaction, &row.name).await?;
    }
    for row in gone {
        tracing::debug!(room = %row.room_id, space = %row.space_id,
            "a room is beneath no followed space any more");
        end_all(taker, &mut transaction, &row.room_id, arrival).await?;
        previews::forget(&mut transaction, &row.room_id).await?;
        invites::drop_room(&mut transaction, &row.room_id).await?;
        spaces::drop_room(&mut transaction, &row.room_id).await?;
    }
    for row in news {
        let was = known.before.get(&row.room_id);
        tell_of_room(row, was);
        spaces::put_room(&mut transaction, row).await?;
        let shown = was.map_or(PreviewPolicy::None, |was| was.preview);
        if row.preview < shown {
            end_all(taker, &mut transaction, &row.room_id, arrival).await?;
        }
        let is_kept = |row: &SpaceRoomRow| row.status == Standing::Kept.as_str();
        if is_kept(row) && (row.preview > shown || !was.is_some_and(is_kept)) {
            previews::ask_round(&mut transaction, &row.room_id, arrival.at).await?;
            taker.spaces.note_provide();
        }
        let invited = was.is_some_and(|was| was.invites);
        if invited && !row.invites {
            invites::drop_room(&mut transaction, &row.room_id).await?;
        }
        if is_kept(row) && row.invites && !(invited && was.is_some_and(is_kept)) {
            invites::promise_all(&mut transaction, &row.room_id, arrival.at).await?;
            taker.spaces.note_invite();
        }
    }
    transaction.commit().await?;
    taker.spaces.ring();
    Ok(())
}

fn tell_of_space(row: &FollowedRow, before: Option<&FollowedRow>) {
    if row.beyond > 0 && before.is_none_or(|before| before.beyond == 0) {
        tracing::warn!(
            space = row.name,
            "rooms of a space lie beyond `max_rooms` and are not followed"
        );
    }
    if before.is_some_and(|before| before.status == row.status) {
        return;
    }
    match &row.detail {
        Some(change) => {
            tracing::warn!(
                space = row.name,
                status = row.status,
                change,
                "a space cannot be followed"
            );
        }
        None => tracing::info!(space = row.name, status = row.status, "a space to follow"),
    }
}

/// Says once how a room beneath a followed space stands, and what an administrator has to change.
pub(super) fn tell_of_room(row: &SpaceRoomRow, before: Option<&SpaceRoomRow>) {
    if before.is_some_and(|before| before.status == row.status) {
        return;
    }
    let (room, space, status) = (&row.room_id, &row.space_id, row.status.as_str());
    match &row.detail {
        Some(change) => {
            tracing::warn!(%room, %space, status, change, "the keeper cannot work in a space's room");
        }
        None => tracing::debug!(%room, %space, status, "a space's room"),
    }
}
