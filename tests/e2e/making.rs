//! Rooms that the keeper makes: whoever comes in reads the name, and the homeserver never does.

use std::io::{Cursor, Read as _};

use matrix_sdk_crypto::{AttachmentDecryptor, MediaEncryptionInfo};
use serde_json::{Value, json};

use crate::support::{
    client::{Sdk, StockClient},
    eventually,
    js::JsClient,
    keeper::KEEPER,
    room::public_space,
    world::World,
};

const NAME: &str = "Garden Club";
const TOPIC: &str = "Tomatoes, mostly";

/// A space of the owner's that the keeper is in, with power.
async fn space(world: &World, owner: &JsClient) -> String {
    let mut body = public_space();
    let users = json!({ owner.api.user_id.clone(): 100, KEEPER: 100 });
    // The creator of a room of version 12 must not be named.
    body["room_version"] = json!("11");
    body["power_level_content_override"] = json!({ "users": users });
    let space = owner.create_room(body, false).await;
    owner.api.invite(&space, KEEPER).await;
    eventually("the keeper has come into the space", async || {
        let room = world.keeper.attempt(&["room", "--config", "config.yaml", "--json", &space])?;
        let room: Value = serde_json::from_str(&room).ok()?;
        (room["status"] == "state_not_encrypted").then_some(())
    })
    .await;
    space
}

/// Everything that the homeserver keeps of a room, as text.
async fn kept_by_the_homeserver(member: &JsClient, room_id: &str) -> String {
    let state = member.api.state(room_id).await;
    let timeline = member.api.timeline(room_id).await;
    format!("{}{}", Value::Array(state), Value::Array(timeline))
}

#[tokio::test]
async fn a_room_that_the_keeper_made_shows_its_name_to_everybody_but_the_homeserver() {
    let world = World::shared().await;
    for version in ["11", "12"] {
        let owner = world.js_user("owner").await;
        let space = space(world, &owner).await;
        let out = world.keeper.run(&[
            "room",
            "create",
            "--config",
            "config.yaml",
            "--name",
            NAME,
            "--topic",
            TOPIC,
            "--space",
            &space,
            "--restricted",
            "--admin",
            &owner.api.user_id,
            "--room-version",
            version,
        ]);
        let room_id = out.lines().last().unwrap().to_owned();
        assert!(room_id.starts_with('!'), "{out}");
        // The owner was invited, and others come by way of the space.
        owner.api.join(&room_id).await;
        StockClient::Js(owner.clone()).see_name(&room_id, NAME).await;
        for sdk in [Sdk::Js, Sdk::Rust] {
            let member = world.stock_user(sdk, "member").await;
            member.join(&space).await;
            member.join(&room_id).await;
            member.see_name(&room_id, NAME).await;
            member.see_topic(&room_id, TOPIC).await;
        }
        let kept = kept_by_the_homeserver(&owner, &room_id).await;
        assert!(!kept.contains("Garden") && !kept.contains("Tomatoes"), "{kept}");
        let child = owner.api.state_event(&space, "m.space.child", &room_id).await.unwrap();
        assert_eq!(child["content"]["via"], json!(["localhost"]));
        // The owner governs the room: a rename of his is the room's name.
        let renamed = owner.set_name(&room_id, "Vegetable Club").await;
        world.sealed(&owner.api, &room_id, "m.room.name", &renamed).await;
    }
}

/// A picture of one pixel.
const PNG: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89";

/// What whoever reads the avatar sees of a file.
fn opened(file: &Value, ciphertext: Vec<u8>) -> Vec<u8> {
    let key: MediaEncryptionInfo = serde_json::from_value(file.clone()).unwrap();
    let (mut ciphertext, mut picture) = (Cursor::new(ciphertext), Vec::new());
    let mut opened = AttachmentDecryptor::new(&mut ciphertext, key).unwrap();
    opened.read_to_end(&mut picture).unwrap();
    picture
}

#[tokio::test]
async fn a_room_in_plain_is_moved_and_its_members_read_the_name_that_the_homeserver_sees_no_more() {
    let world = World::shared().await;
    for version in ["11", "12"] {
        let owner = world.js_user("owner").await;
        let space = space(world, &owner).await;
        let members = [
            world.stock_user(Sdk::Js, "member").await,
            world.stock_user(Sdk::Rust, "member").await,
        ];
        let picture = owner.api.upload(PNG).await;
        let users = json!({ owner.api.user_id.clone(): 100, KEEPER: 100 });
        let body = json!({
            "preset": "private_chat",
            "room_version": "11",
            "name": NAME,
            "topic": TOPIC,
            "invite": [KEEPER, members[0].user_id(), members[1].user_id()],
            "power_level_content_override": { "users": users },
            "initial_state": [
                { "type": "m.room.avatar", "state_key": "", "content": { "url": picture } },
                { "type": "m.space.parent", "state_key": space, "content": { "via": ["localhost"] } },
            ],
        });
        let old = owner.create_room(body, false).await;
        world.add_to_space(&owner, &space, &old).await;
        for member in &members {
            member.join(&old).await;
        }
        // Somebody who is banned stays so, whatever he was.
        let mallory = world.user("mallory").await;
        let ban = json!({ "membership": "ban" });
        owner.api.set_state(&old, "m.room.member", &mallory.user_id, ban).await;
        owner.api.set_power(&old, &mallory.user_id, 100).await;
        eventually("the keeper has come into the room", async || {
            let room = ["room", "--config", "config.yaml", "--json", &old];
            let room: Value = serde_json::from_str(&world.keeper.attempt(&room)?).ok()?;
            (room["status"] == "state_not_encrypted").then_some(())
        })
        .await;
        let out = world.keeper.run(&[
            "room",
            "upgrade",
            "--config",
            "config.yaml",
            "--yes",
            "--room-version",
            version,
            &old,
        ]);
        let new = out.lines().rfind(|line| line.starts_with('!')).unwrap().to_owned();
        let tombstone = owner.api.state_event(&old, "m.room.tombstone", "").await.unwrap();
        assert_eq!(tombstone["content"]["replacement_room"], new);
        owner.api.join(&new).await;
        StockClient::Js(owner.clone()).see_name(&new, NAME).await;
        for member in &members {
            member.join(&new).await;
            member.see_name(&new, NAME).await;
            member.see_topic(&new, TOPIC).await;
        }
        let create = owner.api.state_event(&new, "m.room.create", "").await.unwrap();
        assert_eq!(create["content"]["predecessor"]["room_id"], old);
        let avatar = members[0].state_content(&new, "m.room.avatar").await.unwrap();
        let file = avatar["file"]["url"].as_str().unwrap();
        let ciphertext = owner.api.download(file).await;
        assert_ne!(ciphertext, PNG, "what lies there is ciphertext");
        assert_eq!(opened(&avatar["file"], ciphertext), PNG);
        let creators = &create["content"]["additional_creators"];
        assert_eq!(
            *creators,
            if version == "12" { json!([owner.api.user_id]) } else { Value::Null }
        );
        let banned = owner.api.state_event(&new, "m.room.member", &mallory.user_id).await.unwrap();
        assert_eq!(banned["content"]["membership"], "ban");
        let levels = owner.api.state_event(&new, "m.room.power_levels", "").await.unwrap();
        assert_eq!(levels["content"]["users"].get(&mallory.user_id), None);
        let kept = kept_by_the_homeserver(&owner, &new).await;
        for secret in ["Garden", "Tomatoes", &picture] {
            assert!(!kept.contains(secret), "{secret}: {kept}");
        }
        // The owner has as much power as before: a rename of his is the room's name.
        let renamed = owner.set_name(&new, "Vegetable Club").await;
        world.sealed(&owner.api, &new, "m.room.name", &renamed).await;
    }
}
