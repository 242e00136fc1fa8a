//! Pictures of rooms: whether the homeserver can look at them.

use serde_json::json;

use crate::races::stage::Stage;

#[tokio::test]
async fn a_sealed_avatar_whose_picture_is_public_is_reported() {
    let stage = Stage::open().await;
    let room = stage.room().await;
    let public = json!({ "url": "mxc://localhost/cat" });
    stage.set(&room, ("m.room.avatar", ""), public).await;
    let (_, out, _) = stage.keeper.command("room", &[&room.room_id]);
    assert!(out.contains("sealed, its picture is public"), "{out}");
    let told =
        || stage.keeper.log().matches("its picture lies on the server for everybody").count();
    assert_eq!(told(), 1);
    let hidden = json!({ "file": { "url": "mxc://localhost/dog" } });
    stage.set(&room, ("m.room.avatar", ""), hidden).await;
    let (_, out, _) = stage.keeper.command("room", &[&room.room_id]);
    assert!(!out.contains("public"), "{out}");
    assert_eq!(told(), 1);
}
