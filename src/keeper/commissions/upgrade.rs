//! Moving a room: what has to be there for it, what goes over, and what stays behind.

use std::collections::BTreeSet;

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    gathering::{Gathered, Standing, gather},
    order::{being_moved, room_version},
};
use crate::{
    config::Seal,
    homeserver::Homeserver,
    keeper::{
        KeeperError, ingest::power_levels, lane::Lanes, operator::Refusal, rule_book::kept_as,
        rules::Rules,
    },
    state::{
        HistoryVisibility, JsonMap, Membership, PowerLevel, PowerLevels, RoomEvent, rooms_let_in,
        succession::{Government, Inheritance, encryption_from_birth, successor},
    },
    store::{
        Blueprint, KeptAs, RoomRow, SpaceLink, StateValue, commissions, places, rooms, spaces,
    },
};

/// What moving a room comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradePlan {
    /// The old room.
    pub room: OwnedRoomId,
    /// Its room version.
    pub from_version: String,
    /// The new one's.
    pub to_version: String,
    /// Who creates the new room, and so has the most power there: the keeper.
    pub creator: OwnedUserId,
    /// Who creates it beside the keeper, where the room version has such.
    pub additional_creators: Vec<OwnedUserId>,
    /// How many pieces of state are sealed there.
    pub sealed: usize,
    /// How many are said in plain.
    pub plain: usize,
    /// Whether the picture is encrypted, which is public until now.
    pub picture: bool,
    /// The spaces that will list it in place of the old one.
    pub spaces: Vec<OwnedRoomId>,
    /// The addresses that will lead there.
    pub addresses: Vec<String>,
    /// Who is invited.
    pub invited: usize,
    /// How many members the join rule lets in without.
    pub admitted: usize,
    /// What has to be mended before it can be done.
    pub missing: Vec<String>,
    /// What stays behind, or has to be done by hand.
    pub losses: Vec<String>,
}

/// Looks at a room that is to be moved.
///
/// # Errors
///
/// [`Refusal`] when the keeper is not in it, it is being moved or was, or the homeserver does not answer.
pub(in crate::keeper) async fn plan(
    lanes: &Lanes,
    room: &RoomId,
    version: Option<&str>,
) -> Result<UpgradePlan, Refusal> {
    Ok(look(lanes, room, version).await?.0)
}

/// The same with all that is wanted of the new room.
pub(super) async fn look(
    lanes: &Lanes,
    room: &RoomId,
    version: Option<&str>,
) -> Result<(UpgradePlan, Blueprint, KeptAs), Refusal> {
    let known = known_room(lanes, room).await?;
    let version = room_version(lanes, version).await?;
    let standing = Standing::of(lanes, room).await?;
    if let Some(new) = standing.content("m.room.tombstone", "").and_then(successor) {
        let message = format!("{room}: goes on in {new} already");
        return Err(Refusal::new("moved_already", &message));
    }
    let keeper = &lanes.taker.keeper;
    let inheritance = inheritance(keeper, &known, &standing, &version);
    let Gathered { hidden, plain, mut losses, .. } = gather(lanes, &known, &standing).await?;
    losses.extend(inheritance.disempowered.iter().map(|user| {
        format!("the power of {user}, who is banned, or created the old room and has left it")
    }));
    let (links, unlinked) = links(lanes, room, &standing).await?;
    losses.extend(unlinked);
    let (addresses, stay) = addresses(&lanes.homeserver, room).await?;
    losses.extend(stay);
    losses.extend(letting_in(lanes, room).await?);
    losses.extend(left_behind(&known));
    let (invites, admitted) = invitees(lanes, &standing).await?;
    let plain = in_plain(&plain, &links);
    let picture = hidden.iter().any(StateValue::has_public_picture);
    let canonical_alias = standing.content("m.room.canonical_alias", "").cloned();
    losses.extend(other_policy(lanes, &known, &links, canonical_alias.as_ref(), &addresses));
    let creation =
        creation(room, &standing, &inheritance.additional_creators, newest(lanes, room).await?);
    let plan = UpgradePlan {
        room: room.to_owned(),
        from_version: known.version.clone(),
        to_version: version.clone(),
        creator: keeper.clone(),
        additional_creators: inheritance.additional_creators,
        sealed: hidden.len(),
        plain: plain.len(),
        picture,
        spaces: links.iter().map(|link| link.space.clone()).collect(),
        addresses: addresses.clone(),
        invited: invites.len(),
        admitted,
        missing: missing(lanes, &known),
        losses,
    };
    let blueprint = Blueprint {
        version,
        creation,
        power_levels: inheritance.power_levels,
        encryption: encryption_from_birth(standing.content("m.room.encryption", "")),
        history_visibility: visibility(&standing).as_str().to_owned(),
        hidden,
        plain,
        spaces: links,
        canonical_alias,
        addresses,
        invites,
    };
    Ok((plan, blueprint, kept_as(&known)))
}

/// What becomes of the old room's power levels and creators.
pub(super) fn inheritance(
    keeper: &UserId,
    room: &RoomRow,
    standing: &Standing,
    version: &str,
) -> Inheritance {
    let nothing = JsonMap::new();
    let users = |membership| standing.users(membership).into_iter();
    let government = Government {
        power_levels: standing.content("m.room.power_levels", "").unwrap_or(&nothing),
        creators: &room.creators,
        version: &room.version,
        present: &users(Membership::Join).chain(users(Membership::Invite)).collect(),
        banned: &users(Membership::Ban).collect(),
    };
    government.inherit(keeper, version)
}

async fn known_room(lanes: &Lanes, room: &RoomId) -> Result<RoomRow, Refusal> {
    let db = &mut *lanes.taker.store.read().await?;
    let known = rooms::get(db, room).await?;
    let known = known.filter(|known| known.membership == Membership::Join && known.loaded);
    let Some(known) = known else {
        return Err(crate::store::Refused::UnknownRoom(room.to_owned()).into());
    };
    if let Some(order) = commissions::moving(db, room).await? {
        return Err(being_moved(room, &order));
    }
    Ok(known)
}

/// What the keeper lacks in the old room.
fn missing(lanes: &Lanes, room: &RoomRow) -> Vec<String> {
    let (keeper, power) = (&lanes.taker.keeper, power_levels(room));
    let mut missing = Vec::new();
    if !power.may_send_state(keeper, "m.room.tombstone") {
        missing.push(give_power(room, &power, keeper, "m.room.tombstone"));
    }
    // Until all is done the new room is kept as the old one.
    missing.extend(never_sealed(&lanes.taker.rules.of(room)));
    missing
}

/// Why nothing would be sealed in a new room of these rules, and what to do about it.
pub(super) fn never_sealed(rules: &Rules) -> Option<String> {
    if rules.noop {
        return Some(
            "`noop` holds for the room: turn it off, or take it out of its policy".to_owned(),
        );
    }
    let is_off = rules.seal == Seal::Off;
    is_off.then(|| "`state.seal` is `off` for the room: nothing would be sealed in it".to_owned())
}

/// What every room that is moved leaves behind.
fn left_behind(room: &RoomRow) -> Vec<String> {
    let mut left = vec!["messages, which are read on in the old room".to_owned()];
    if !room.encrypted {
        left.push(
            "bridges and bots that cannot encrypt: the old room is not encrypted, and the new one is"
                .to_owned(),
        );
    }
    left
}

/// The policy, where another one will hold for the new room once it has all of its own.
fn other_policy(
    lanes: &Lanes,
    old: &RoomRow,
    links: &[SpaceLink],
    canonical_alias: Option<&JsonMap>,
    addresses: &[String],
) -> Option<String> {
    let keeper = &lanes.taker.keeper;
    let id = RoomId::parse(format!("!new:{}", keeper.server_name())).ok()?;
    let alias = canonical_alias.and_then(|content| content.get("alias")?.as_str());
    let is_in = |space: &&OwnedRoomId| links.iter().any(|link| link.space == **space);
    let new = RoomRow {
        creators: vec![keeper.clone()],
        predecessors: [std::slice::from_ref(&old.room_id), &old.predecessors].concat(),
        canonical_alias: alias
            .filter(|it| addresses.iter().any(|moved| moved == it))
            .map(str::to_owned),
        spaces: old.spaces.iter().filter(is_in).cloned().collect(),
        former_spaces: old.former_spaces.clone(),
        ..RoomRow::new(id, Membership::Join)
    };
    let rules = &lanes.taker.rules;
    if rules.of(old) == rules.of(&new) {
        return None;
    }
    let word = |place: Option<usize>| match place {
        Some(place) => format!("policies[{place}]"),
        None => "no policy".to_owned(),
    };
    Some(format!(
        "the policy: by `policies[].match` the old room has {}, and the new one will have {}",
        word(rules.place_of(old)),
        word(rules.place_of(&new))
    ))
}

fn give_power(room: &RoomRow, power: &PowerLevels, keeper: &OwnedUserId, kind: &str) -> String {
    let needed = match power.needed_for_state(kind) {
        PowerLevel::Level(level) => level.to_string(),
        PowerLevel::Infinite => "the highest level".to_owned(),
    };
    let id = &room.room_id;
    format!(
        "in m.room.power_levels of {id}, set users[\"{keeper}\"] to {needed} or more, for {kind}"
    )
}

/// What `m.room.create` says, beside the version.
fn creation(
    room: &RoomId,
    standing: &Standing,
    additional_creators: &[OwnedUserId],
    newest: Option<String>,
) -> JsonMap {
    let mut creation = JsonMap::new();
    let before = standing.content("m.room.create", "");
    for field in ["type", "m.federate"] {
        if let Some(value) = before.and_then(|before| before.get(field)) {
            creation.insert(field.to_owned(), value.clone());
        }
    }
    let mut predecessor = json!({ "room_id": room });
    if let (Some(newest), Some(predecessor)) = (newest, predecessor.as_object_mut()) {
        predecessor.insert("event_id".to_owned(), newest.into());
    }
    creation.insert("predecessor".to_owned(), predecessor);
    if !additional_creators.is_empty() {
        creation.insert("additional_creators".to_owned(), json!(additional_creators));
    }
    creation
}

/// The newest event of the old room, which older clients want to know.
async fn newest(lanes: &Lanes, room: &RoomId) -> Result<Option<String>, KeeperError> {
    let newest = lanes.homeserver.recent_events(room, 1).await?;
    let newest = newest.first().and_then(|body| RoomEvent::parse_str(body.get()).ok());
    Ok(newest.map(|event| event.event_id.to_string()))
}

/// What of an old room's plain state is said in plain in the new one, and by nothing else.
pub(super) fn in_plain(plain: &[StateValue], links: &[SpaceLink]) -> Vec<StateValue> {
    let is_claim = |it: &StateValue| {
        it.event_type == "m.space.parent" && links.iter().any(|link| link.space == *it.state_key)
    };
    let is_said = |it: &&StateValue| !is_claim(it) && it.event_type != "m.room.history_visibility";
    plain.iter().filter(is_said).cloned().collect()
}

pub(super) fn visibility(standing: &Standing) -> HistoryVisibility {
    let content = standing.content("m.room.history_visibility", "");
    content.map(HistoryVisibility::from_content).unwrap_or_default()
}

/// The spaces that list the old room and can be made to list the new one, and those that cannot.
async fn links(
    lanes: &Lanes,
    room: &RoomId,
    standing: &Standing,
) -> Result<(Vec<SpaceLink>, Vec<String>), KeeperError> {
    let (mut links, mut unlinked) = (Vec::new(), Vec::new());
    let keeper = &lanes.taker.keeper;
    let listing = places::listing(&mut *lanes.taker.store.read().await?, room).await?;
    for space in listing {
        let known = rooms::get(&mut *lanes.taker.store.read().await?, &space).await?;
        let Some(known) = known.filter(|known| known.membership == Membership::Join) else {
            continue;
        };
        let power = power_levels(&known);
        if !power.may_send_state(keeper, "m.space.child") {
            unlinked.push(format!(
                "{space} goes on listing the old room: {}, or list the new one by hand",
                give_power(&known, &power, keeper, "m.space.child")
            ));
            continue;
        }
        let child =
            lanes.homeserver.get_state_event(&space, "m.space.child", room.as_str()).await?;
        let child = child.and_then(|event| RoomEvent::parse_str(event.0.get()).ok());
        let Some(child) = child.filter(|child| !child.content.is_empty()) else { continue };
        let parent = standing.content("m.space.parent", space.as_str()).cloned();
        links.push(SpaceLink { space, child: child.content, parent: parent.unwrap_or_default() });
    }
    Ok((links, unlinked))
}

/// Rooms that go on letting in the old one's members, and not the new one's.
async fn letting_in(lanes: &Lanes, room: &RoomId) -> Result<Vec<String>, KeeperError> {
    let rooms = spaces::letting_in(&mut *lanes.taker.store.read().await?, room).await?;
    let told = |it: OwnedRoomId| {
        format!(
            "{it} lets in the members of the old room: put the new one into its m.room.join_rules"
        )
    };
    Ok(rooms.into_iter().map(told).collect())
}

/// The own server's addresses of the room. Homeservers let an application service move those alone that are its own
/// by its registration; which these are is seen when they are moved.
async fn addresses(
    homeserver: &Homeserver,
    room: &RoomId,
) -> Result<(Vec<String>, Vec<String>), KeeperError> {
    match homeserver.aliases(room).await {
        Ok(addresses) if addresses.is_empty() => Ok((addresses, Vec::new())),
        Ok(addresses) => {
            let stay = "addresses that the registration's `namespaces.aliases` does not name: the \
                        homeserver lets nobody but an administrator move them";
            Ok((addresses, vec![stay.to_owned()]))
        }
        Err(error) if error.is_transient() => Err(error.into()),
        Err(error) => {
            Ok((Vec::new(), vec![format!("its addresses, which are not known: {error}")]))
        }
    }
}

/// Who has to be invited, and how many the join rule lets in.
pub(super) async fn invitees(
    lanes: &Lanes,
    standing: &Standing,
) -> Result<(Vec<OwnedUserId>, usize), KeeperError> {
    let nothing = JsonMap::new();
    let rule = standing.content("m.room.join_rules", "").unwrap_or(&nothing);
    let is_public = rule.get("join_rule").and_then(Value::as_str) == Some("public");
    let mut let_in: BTreeSet<OwnedUserId> = BTreeSet::new();
    let db = &mut *lanes.taker.store.read().await?;
    for room in rooms_let_in(rule) {
        let members = rooms::present_members(db, &room).await?.into_iter();
        let joined = members.filter(|member| member.membership == Membership::Join);
        let_in.extend(joined.map(|member| member.user_id));
    }
    let (mut invites, mut admitted) = (Vec::new(), 0);
    let there = [standing.users(Membership::Join), standing.users(Membership::Invite)].concat();
    for user in there.into_iter().filter(|user| *user != lanes.taker.keeper) {
        if is_public || let_in.contains(&user) {
            admitted += 1;
        } else {
            invites.push(user);
        }
    }
    Ok((invites, admitted))
}
