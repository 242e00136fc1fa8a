//! The ways into a room in which stock clients alone leave the newcomer without keys. Each is gone
//! with the keeper in the room, where name and topic have to show, and without it, where they must
//! not: or the test would prove nothing.

use std::time::Duration;

use serde_json::json;

use crate::support::{
    client::{Sdk, StockClient},
    eventually,
    js::JsClient,
    room::{JoinRule, RoomSpec},
    world::World,
};

const NAME: &str = "The Orchard";
const TOPIC: &str = "Apples, pears and quinces";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// An invite that comes from a client without key bundles.
    BareInvite,
    PublicJoin,
    /// A join that membership of a space allows.
    RestrictedJoin,
    /// An invite from a client with key bundles, into a room whose history begins for everybody
    /// with the invite: a bundle holds nothing then.
    InvitedVisibility,
    /// A device of a member, logged in after the name was set and signed after that.
    SecondDevice,
}

/// A newcomer in a room that was named before they came.
struct Arrival {
    owner: JsClient,
    room_id: String,
    newcomer: StockClient,
    /// Kept running: the newcomer's other device.
    _first_device: Option<StockClient>,
}

async fn arrive(sdk: Sdk, way: Way, with_keeper: bool) -> Arrival {
    let world = World::shared().await;
    let owner = world.js_user("owner").await;
    let user = world.user("newcomer").await;
    let mut spec = RoomSpec::default();
    let mut space = None;
    match way {
        Way::PublicJoin => spec.join_rule = JoinRule::Public,
        Way::RestrictedJoin => {
            let (space_id, rule) = world.space(&owner).await;
            spec.join_rule = rule;
            space = Some(space_id);
        }
        Way::InvitedVisibility => spec.history_visibility = "invited",
        Way::BareInvite | Way::SecondDevice => {}
    }
    if with_keeper {
        spec = spec.with_keeper();
    }
    let room_id = world.room(&owner, &spec).await;
    if let Some(space_id) = &space {
        world.add_to_space(&owner, space_id, &room_id).await;
        user.join(space_id).await;
    }
    let client = world.stock_device(sdk, &user, true).await;
    if way == Way::SecondDevice {
        owner.api.invite(&room_id, client.user_id()).await;
        client.join(&room_id).await;
        client.see_joined(&room_id).await;
    }

    let named = owner.set_name(&room_id, NAME).await;
    let described = owner.set_topic(&room_id, TOPIC).await;
    if with_keeper {
        world.sealed(&owner.api, &room_id, "m.room.name", &named).await;
        world.sealed(&owner.api, &room_id, "m.room.topic", &described).await;
    }

    match way {
        Way::BareInvite => owner.api.invite(&room_id, client.user_id()).await,
        Way::InvitedVisibility => {
            let invite = json!({ "room_id": room_id, "user_id": client.user_id() });
            owner.call("invite", invite).await;
        }
        Way::PublicJoin | Way::RestrictedJoin => {}
        Way::SecondDevice => {
            client.see_name(&room_id, NAME).await;
            let second = world.second_device(&client).await;
            second.see_joined(&room_id).await;
            client.sign_device(&second.api().device_id).await;
            return Arrival { owner, room_id, newcomer: second, _first_device: Some(client) };
        }
    }
    client.join(&room_id).await;
    Arrival { owner, room_id, newcomer: client, _first_device: None }
}

async fn the_newcomer_shows_name_and_topic(sdk: Sdk, way: Way) {
    let arrival = arrive(sdk, way, true).await;
    arrival.newcomer.see_name(&arrival.room_id, NAME).await;
    arrival.newcomer.see_topic(&arrival.room_id, TOPIC).await;
}

async fn the_newcomer_shows_none(sdk: Sdk, way: Way) {
    let Arrival { owner, room_id, newcomer, _first_device } = arrive(sdk, way, false).await;
    // A message that was sent after the newcomer came ends the wait: whoever can read it is in the
    // room, has keys, and has seen everything that came before.
    newcomer.see_joined(&room_id).await;
    owner.see_member(&room_id, newcomer.user_id()).await;
    // The owner's client shares a message's key with those devices that it knows of by then.
    let mut welcomes = 0;
    eventually("the newcomer reads a message", async || {
        welcomes += 1;
        let welcome = format!("welcome {welcomes}");
        owner.send_message(&room_id, &welcome).await;
        newcomer.message_within(&room_id, &welcome, Duration::from_secs(5)).await.then_some(())
    })
    .await;
    assert_eq!(newcomer.name(&room_id).await, None);
    assert_eq!(newcomer.topic(&room_id).await, None);
    let sealed = owner.api.state_event(&room_id, "m.room.encrypted", "m.room.name:").await;
    assert!(sealed.is_some(), "the room has a name, under encryption");
    let plain = owner.api.state_event(&room_id, "m.room.name", "").await;
    assert!(plain.is_none(), "the room has no name in plain");
}

/// State of a type that no client draws specially is sealed and shared like a name.
async fn a_joiner_holds_state_of_any_type(sdk: Sdk) {
    let world = World::shared().await;
    let owner = world.js_user("owner").await;
    let room_id = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    let content = json!({ "text": "of our own" });
    let original = owner.set_state(&room_id, "org.example.note", content.clone()).await;
    world.sealed(&owner.api, &room_id, "org.example.note", &original).await;
    let joiner = world.stock_user(sdk, "joiner").await;
    joiner.join(&room_id).await;
    joiner.see_state(&room_id, "org.example.note", &content).await;
    let content = json!({ "text": "of our own, changed" });
    owner.set_state(&room_id, "org.example.note", content.clone()).await;
    joiner.see_state(&room_id, "org.example.note", &content).await;
}

#[tokio::test]
async fn a_joiner_on_matrix_js_sdk_holds_state_of_any_type() {
    a_joiner_holds_state_of_any_type(Sdk::Js).await;
}

#[tokio::test]
async fn a_joiner_on_matrix_sdk_holds_state_of_any_type() {
    a_joiner_holds_state_of_any_type(Sdk::Rust).await;
}

macro_rules! ways {
    ($($with:ident, $without:ident: $way:ident;)*) => {
        ways!(@sdk on_matrix_js_sdk, Sdk::Js; $($with, $without: $way;)*);
        ways!(@sdk on_matrix_sdk, Sdk::Rust; $($with, $without: $way;)*);
    };
    (@sdk $module:ident, $sdk:expr; $($with:ident, $without:ident: $way:ident;)*) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test]
                async fn $with() {
                    the_newcomer_shows_name_and_topic($sdk, Way::$way).await;
                }

                #[tokio::test]
                async fn $without() {
                    the_newcomer_shows_none($sdk, Way::$way).await;
                }
            )*
        }
    };
}

ways! {
    whoever_is_invited_by_a_client_without_key_bundles_shows_name_and_topic,
        without_the_keeper_whoever_is_invited_by_a_client_without_key_bundles_shows_none: BareInvite;
    whoever_joins_a_public_room_shows_name_and_topic,
        without_the_keeper_whoever_joins_a_public_room_shows_none: PublicJoin;
    whoever_joins_through_a_space_shows_name_and_topic,
        without_the_keeper_whoever_joins_through_a_space_shows_none: RestrictedJoin;
    whoever_joins_where_history_begins_at_the_invite_shows_name_and_topic,
        without_the_keeper_whoever_joins_where_history_begins_at_the_invite_shows_none: InvitedVisibility;
    a_second_device_that_is_signed_later_shows_name_and_topic,
        without_the_keeper_a_second_device_that_is_signed_later_shows_none: SecondDevice;
}
