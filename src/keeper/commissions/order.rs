//! Taking orders down: what an administrator says, made into all that is wanted.

use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomOrAliasId, TransactionId};
use serde_json::{Value, json};
use sqlx::SqliteConnection;

use super::{
    pictures::encrypted_avatar,
    upgrade::{look, never_sealed},
};
use crate::{
    homeserver::HomeserverError,
    keeper::{
        clock::now_ms,
        lane::Lanes,
        operator::{Making, Picture, Refusal},
    },
    state::{
        JsonMap, Membership,
        succession::{encryption_from_birth, governed_by},
    },
    store::{
        Blueprint, CommissionKind, CommissionRow, KeptAs, RoomRow, SpaceLink, StateValue, Step,
        StoreError, commands, commissions, rooms, spaces,
    },
};

/// The most bytes of a name.
const LONGEST_NAME: usize = 1024;
/// The most bytes of a topic: an event has room for 64 KiB, and ciphertext takes a third more.
const LONGEST_TOPIC: usize = 32 << 10;
/// The most people who are invited into a new room.
const MOST_INVITES: usize = 1000;

/// Takes an order down for `actor`: from then on it is carried out, over restarts as well.
///
/// # Errors
///
/// [`Refusal`] when it cannot be carried out as it stands, or the homeserver does not answer.
pub(in crate::keeper) async fn order(
    lanes: &Lanes,
    actor: &str,
    making: &Making,
) -> Result<CommissionRow, Refusal> {
    if let Making::RoomCancel { order } = making {
        return cancel(lanes, actor, making, order).await;
    }
    let taken = take(lanes, actor, making).await;
    let store = &lanes.taker.store;
    let mut transaction = store.begin().await?;
    let taken = match taken {
        Ok(order) => first(&mut transaction, order).await?,
        refused => refused,
    };
    let outcome = match &taken {
        Ok(_) => "done".to_owned(),
        Err(refusal) => format!("refused:{}", refusal.code),
    };
    if let Ok(Order { row, wanted, kept_as }) = &taken {
        commissions::insert(store, &mut transaction, row, wanted, kept_as).await?;
    }
    commands::note(&mut transaction, actor, &making.asked(), &outcome, now_ms()).await?;
    transaction.commit().await?;
    match &taken {
        Ok(Order { row, .. }) => {
            tracing::info!(actor, ?making, commission = row.id, "an order was taken down")
        }
        Err(refusal) => tracing::info!(actor, ?making, %refusal, "an order was refused"),
    }
    taken.map(|order| order.row)
}

/// An order that can be carried out.
struct Order {
    row: CommissionRow,
    wanted: Blueprint,
    kept_as: KeptAs,
}

/// Whether no other order moves that room: somebody else may have given one while this one was looked at.
async fn first(
    db: &mut SqliteConnection,
    order: Order,
) -> Result<Result<Order, Refusal>, StoreError> {
    let Some(old) = &order.row.old_room else { return Ok(Ok(order)) };
    Ok(match commissions::moving(db, old).await? {
        Some(other) => Err(being_moved(old, &other)),
        None => Ok(order),
    })
}

/// The refusal to move a room that another order moves.
pub(super) fn being_moved(room: &RoomId, order: &CommissionRow) -> Refusal {
    Refusal::new(
        "being_moved",
        &format!("{room}: is being moved already, by the order {}", order.id),
    )
}

/// Ends an order where it is: what was made stays.
async fn cancel(
    lanes: &Lanes,
    actor: &str,
    making: &Making,
    id: &str,
) -> Result<CommissionRow, Refusal> {
    let (store, now) = (&lanes.taker.store, now_ms());
    let mut transaction = store.begin().await?;
    let known = commissions::get(&mut transaction, id).await?;
    let open = known.filter(|known| !known.step.is_end());
    let is_open = open.is_some();
    if let Some(open) = &open {
        commissions::note(&mut transaction, id, "it was cancelled").await?;
        super::go_on(lanes, &mut transaction, open, Step::Failed).await?;
    }
    let outcome = if is_open { "done" } else { "refused:unknown_order" };
    commands::note(&mut transaction, actor, &making.asked(), outcome, now).await?;
    let row = commissions::get(&mut transaction, id).await?;
    transaction.commit().await?;
    tracing::info!(actor, ?making, outcome, "an order was cancelled, or none was there");
    let unknown = "no such order is being carried out; `statekeeper room progress` lists them";
    row.filter(|_| is_open).ok_or_else(|| Refusal::new("unknown_order", unknown).about(id))
}

async fn take(lanes: &Lanes, actor: &str, making: &Making) -> Result<Order, Refusal> {
    if lanes.taker.rules.is_noop() {
        return Err(Refusal::new(
            "noop",
            "noop is on, so nothing is sent; `statekeeper noop off` first",
        ));
    }
    let (kind, old_room, wanted, kept_as) = match making {
        Making::RoomCreate { .. } => {
            let wanted = new_room(lanes, making).await?;
            let kept_as = in_spaces(lanes, &wanted.spaces).await?;
            sealable(lanes, &kept_as)?;
            (CommissionKind::Create, None, wanted, kept_as)
        }
        Making::RoomUpgrade { room, version } => {
            let (plan, wanted, kept_as) = look(lanes, room, version.as_deref()).await?;
            if !plan.missing.is_empty() {
                let message = format!("{room}: {}", plan.missing.join("; "));
                return Err(Refusal::new("missing", &message));
            }
            (CommissionKind::Upgrade, Some(room.clone()), wanted, kept_as)
        }
        Making::RoomCancel { .. } => {
            return Err(Refusal::new("not_understood", "this makes no room"));
        }
    };
    let row = CommissionRow {
        id: TransactionId::new().to_string(),
        kind,
        actor: actor.to_owned(),
        old_room,
        room_id: None,
        step: Step::Create,
        attempts: 0,
        spoilt: 0,
        done: 0,
        total: 0,
        trouble: None,
        notes: Vec::new(),
        more_notes: 0,
        created_at: now_ms(),
        ended_at: None,
    };
    Ok(Order { row, wanted, kept_as })
}

/// What a new room is kept as that is to be in these spaces.
async fn in_spaces(lanes: &Lanes, links: &[SpaceLink]) -> Result<KeptAs, StoreError> {
    let mut kept_as = KeptAs::default();
    let db = &mut *lanes.taker.store.read().await?;
    for link in links {
        kept_as.spaces.push(link.space.clone());
        let known = rooms::get(db, &link.space).await?;
        kept_as.former_spaces.extend(known.into_iter().flat_map(|space| space.predecessors));
    }
    Ok(kept_as)
}

/// Refuses a new room in which nothing would be sealed.
fn sealable(lanes: &Lanes, kept_as: &KeptAs) -> Result<(), Refusal> {
    let keeper = &lanes.taker.keeper;
    let Ok(id) = RoomId::parse(format!("!new:{}", keeper.server_name())) else { return Ok(()) };
    let new = RoomRow {
        creators: vec![keeper.clone()],
        kept_as: Some(kept_as.clone()),
        ..RoomRow::new(id, Membership::Join)
    };
    match never_sealed(&lanes.taker.rules.of(&new)) {
        Some(why) => Err(Refusal::new("never_sealed", &why)),
        None => Ok(()),
    }
}

/// What is wanted of a new room.
async fn new_room(lanes: &Lanes, making: &Making) -> Result<Blueprint, Refusal> {
    let Making::RoomCreate { name, topic, avatar, space, restricted, admins, invite, version } =
        making
    else {
        return Err(Refusal::new("not_understood", "this makes no room"));
    };
    let keeper = &lanes.taker.keeper;
    let invites = invitees(keeper, admins, invite)?;
    let space = match space {
        Some(space) => Some(space_of(lanes, space).await?),
        None if *restricted => {
            return Err(Refusal::new(
                "no_space",
                "a restricted room lets in the members of a space; name it",
            ));
        }
        None => None,
    };
    let version = room_version(lanes, version.as_deref()).await?;
    let mut hidden = Vec::new();
    hidden.extend(text("m.room.name", "name", name.as_deref(), LONGEST_NAME)?);
    hidden.extend(text("m.room.topic", "topic", topic.as_deref(), LONGEST_TOPIC)?);
    if let Some(picture) = avatar {
        hidden.push(uploaded(lanes, picture).await?);
    }
    let government = governed_by(keeper, admins, &version);
    let mut creation = JsonMap::new();
    if !government.additional_creators.is_empty() {
        creation.insert("additional_creators".to_owned(), json!(government.additional_creators));
    }
    let rule = space.as_deref().filter(|_| *restricted).map(restricted_to);
    Ok(Blueprint {
        version,
        creation,
        power_levels: government.power_levels,
        encryption: encryption_from_birth(None),
        history_visibility: "shared".to_owned(),
        hidden,
        plain: rule.into_iter().collect(),
        spaces: space.iter().map(|space| link(lanes, space)).collect(),
        addresses: Vec::new(),
        canonical_alias: None,
        invites,
    })
}

fn invitees(
    keeper: &OwnedUserId,
    admins: &[OwnedUserId],
    invite: &[OwnedUserId],
) -> Result<Vec<OwnedUserId>, Refusal> {
    let mut invites: Vec<OwnedUserId> = Vec::new();
    for user in admins.iter().chain(invite).filter(|user| *user != keeper) {
        if !invites.contains(user) {
            invites.push(user.clone());
        }
    }
    if invites.len() > MOST_INVITES {
        let message = format!("no more than {MOST_INVITES} people are invited into a new room");
        return Err(Refusal::new("too_many", &message));
    }
    Ok(invites)
}

fn text(
    event_type: &str,
    field: &str,
    text: Option<&str>,
    longest: usize,
) -> Result<Option<StateValue>, Refusal> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.len() > longest {
        let message = format!("the {field} has {} bytes; {longest} are the most", text.len());
        return Err(Refusal::new("too_long", &message));
    }
    let content = JsonMap::from_iter([(field.to_owned(), Value::String(text.to_owned()))]);
    Ok(Some(StateValue::new(event_type, "", content)))
}

/// The rule that lets in a space's members.
fn restricted_to(space: &RoomId) -> StateValue {
    let allow = json!([{ "type": "m.room_membership", "room_id": space }]);
    let content = JsonMap::from_iter([
        ("join_rule".to_owned(), json!("restricted")),
        ("allow".to_owned(), allow),
    ]);
    StateValue::new("m.room.join_rules", "", content)
}

fn link(lanes: &Lanes, space: &RoomId) -> SpaceLink {
    let via = || ("via".to_owned(), json!([lanes.taker.keeper.server_name()]));
    SpaceLink {
        space: space.to_owned(),
        child: JsonMap::from_iter([via()]),
        parent: JsonMap::from_iter([via(), ("canonical".to_owned(), json!(true))]),
    }
}

/// The space by its id or address; one that the keeper is in.
async fn space_of(lanes: &Lanes, space: &RoomOrAliasId) -> Result<OwnedRoomId, Refusal> {
    let id = match <&RoomId>::try_from(space) {
        Ok(id) => id.to_owned(),
        Err(alias) => {
            let resolved = lanes.homeserver.resolve_alias(alias).await;
            resolved.map_err(|error| asked_in_vain(space.as_str(), &error))?.0
        }
    };
    let db = &mut *lanes.taker.store.read().await?;
    let known = rooms::get(db, &id).await?;
    let is_there = known.is_some_and(|room| room.membership == Membership::Join && room.loaded);
    if !is_there || !spaces::all_spaces(db).await?.contains(&id) {
        let message = format!("{space}: is no space that the keeper is in; invite it there first");
        return Err(Refusal::new("not_in_space", &message));
    }
    Ok(id)
}

/// The version that the new room gets.
pub(super) async fn room_version(lanes: &Lanes, wanted: Option<&str>) -> Result<String, Refusal> {
    let offered = lanes.homeserver.room_versions().await;
    let offered = offered.map_err(|error| asked_in_vain("the room's version", &error))?;
    match (wanted, offered) {
        (None, Some(offered)) => Ok(offered.default),
        (Some(wanted), Some(offered)) if offered.available.contains_key(wanted) => {
            Ok(wanted.to_owned())
        }
        (Some(wanted), None) => Ok(wanted.to_owned()),
        (Some(wanted), Some(offered)) => {
            let all: Vec<&str> = offered.available.keys().map(String::as_str).collect();
            let message =
                format!("room version {wanted}: the homeserver offers {}", all.join(", "));
            Err(Refusal::new("version", &message))
        }
        (None, None) => Err(Refusal::new(
            "version",
            "the homeserver does not say which room version is its default; name one",
        )),
    }
}

fn asked_in_vain(what: &str, error: &HomeserverError) -> Refusal {
    Refusal::new("homeserver", &format!("{what}: {error}"))
}

/// The picture, uploaded as ciphertext, with its key. An upload that comes to nothing afterwards is a file to which
/// nobody has the key.
async fn uploaded(lanes: &Lanes, picture: &Picture) -> Result<StateValue, Refusal> {
    let bytes = vodozemac::base64_decode(&picture.data);
    let bytes = bytes.map_err(|_| Refusal::new("picture", "the picture did not arrive whole"))?;
    let info = JsonMap::from_iter([("mimetype".to_owned(), json!(picture.mimetype))]);
    let content = encrypted_avatar(lanes, &bytes, Some(&info)).await;
    let content = content.map_err(|error| Refusal::from(error).about("the picture"))?;
    Ok(StateValue::new("m.room.avatar", "", content))
}
