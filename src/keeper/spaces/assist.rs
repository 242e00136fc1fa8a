//! Joining, with the help of the homeserver's administration where `spaces[].admin_assist` wants it: it lets the keeper
//! into a room that nobody invited it into, and gives it power where it has too little.
//!
//! Recovery: both may be repeated at will. What was done and not noted is found done.

use std::path::Path;

use ruma::{OwnedRoomId, OwnedServerName, RoomAliasId, RoomId};

use super::survey::ToJoin;
use crate::{
    config::read_secret,
    homeserver::{Endpoint, Homeserver, HomeserverError},
};

/// Joins, or gives the keeper power where it has joined.
pub(super) async fn perform(
    homeserver: &Homeserver,
    what: &ToJoin,
) -> Result<OwnedRoomId, HomeserverError> {
    match what {
        ToJoin::Room(room_id, via, token) => {
            join(homeserver, (room_id, via), token.as_deref()).await?;
            Ok(room_id.clone())
        }
        ToJoin::Space(name, token) => {
            let (room_id, via) = find(homeserver, name).await?;
            join(homeserver, (&room_id, &via), token.as_deref()).await?;
            Ok(room_id)
        }
        ToJoin::Elevate(room_id, token) => {
            raise(homeserver, room_id, token).await?;
            Ok(room_id.clone())
        }
    }
}

async fn find(
    homeserver: &Homeserver,
    name: &str,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), HomeserverError> {
    if let Ok(alias) = RoomAliasId::parse(name) {
        return homeserver.resolve_alias(&alias).await;
    }
    let room_id = OwnedRoomId::try_from(name).map_err(|_| HomeserverError::Unsendable {
        endpoint: Endpoint::Join,
        what: "the space has no id".to_owned(),
    })?;
    Ok((room_id, Vec::new()))
}

async fn join(
    homeserver: &Homeserver,
    (room_id, via): (&RoomId, &[OwnedServerName]),
    token: Option<&Path>,
) -> Result<(), HomeserverError> {
    let refused = match homeserver.join(room_id, via).await {
        Err(error) if error.status() == Some(403) => error,
        joined => return joined,
    };
    let Some(token) = token else { return Err(refused) };
    if let Err(error) = raise(homeserver, room_id, token).await {
        tracing::warn!(room = %room_id, %error,
            "the homeserver's administration did not let the keeper into a space's room");
        return Err(refused);
    }
    homeserver.join(room_id, via).await
}

async fn raise(
    homeserver: &Homeserver,
    room_id: &RoomId,
    token: &Path,
) -> Result<(), HomeserverError> {
    let endpoint = Endpoint::MakeRoomAdmin;
    let token = read_secret(token).map_err(|error| HomeserverError::Unsendable {
        endpoint,
        what: format!("cannot read {}: {error}", token.display()),
    })?;
    homeserver.make_room_admin(room_id, token).await?;
    tracing::info!(room = %room_id, "the homeserver's administration gave the keeper power in a space's room");
    Ok(())
}
