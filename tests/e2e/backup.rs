//! A backup made while the keeper works, and put back after its store is lost.

use http::Method;
use serde_json::{Value, json};

use crate::support::{
    api::Api, client::Sdk, eventually, room::RoomSpec, timeline::reused_places, world::World,
};

const KEEPER: &str = "@statekeeper:localhost";
const FLAGS: [&str; 4] = ["--config", "config.yaml", "--passphrase-file", "backup-passphrase"];

/// What the homeserver shows of the keeper: the ids of its devices, and the keys of its master key.
async fn shown(api: &Api) -> (Vec<String>, Value) {
    let ask = json!({ "device_keys": { KEEPER: [] } });
    let answer = api.call(Method::POST, "v3/keys/query", Some(ask)).await.unwrap();
    let devices = answer["device_keys"][KEEPER].as_object().unwrap().keys().cloned().collect();
    (devices, answer["master_keys"][KEEPER]["keys"].clone())
}

fn run(world: &World, what: &[&str], file: &str) -> String {
    world.keeper.run(&[what, &FLAGS[..], &[file]].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_put_back_goes_on_as_another_device_of_the_same_keeper() {
    let mut world = World::start().await;
    world.keeper.write("backup-passphrase", "a passphrase of the backup's own\n");
    let owner = world.js_user("owner").await;
    let room = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    let quiet = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    owner.set_name(&room, "Before").await;
    owner.set_name(&quiet, "Quiet").await;
    let member = world.stock_user(Sdk::Js, "member").await;
    for room in [&room, &quiet] {
        member.join(room).await;
        member.see_joined(room).await;
    }
    member.see_name(&room, "Before").await;
    member.see_name(&quiet, "Quiet").await;
    let (devices, master_key) = shown(&owner.api).await;
    assert_eq!(devices.len(), 1);

    run(&world, &["export", "store"], "backup.age");
    owner.set_name(&room, "After").await;
    member.see_name(&room, "After").await;
    world.keeper.kill();
    std::fs::remove_dir_all(world.keeper.dir().join("data/statekeeper-crypto")).unwrap();
    for name in ["statekeeper.db", "statekeeper.db-wal", "statekeeper.db-shm"] {
        let _ = std::fs::remove_file(world.keeper.dir().join("data").join(name));
    }
    let told = run(&world, &["import", "store"], "backup.age");
    assert!(told.contains("new device"), "{told}");
    world.keeper.spawn();
    world.keeper.ready().await;

    let another = eventually("the keeper has another device, and no other one", async || {
        let (now, _) = shown(&owner.api).await;
        (now.len() == 1 && now != devices).then_some(now)
    })
    .await;
    assert_eq!(shown(&owner.api).await, (another, master_key), "its identity is the same");
    // The value from after the backup, and one that nobody has touched since: for whoever was there, and for who comes.
    for sdk in [Sdk::Js, Sdk::Rust] {
        let newcomer = world.stock_user(sdk, "newcomer").await;
        for (room, name) in [(&room, "After"), (&quiet, "Quiet")] {
            newcomer.join(room).await;
            newcomer.see_joined(room).await;
            newcomer.see_name(room, name).await;
        }
    }
    owner.set_name(&room, "Again").await;
    member.see_name(&room, "Again").await;
    for room in [&room, &quiet] {
        eventually("the keeper has sealed the name", async || {
            let name =
                owner.api.state_event(room, "m.room.encrypted", "m.room.name:").await.unwrap();
            (name["sender"] == KEEPER).then_some(())
        })
        .await;
        let reused = reused_places(&owner.api.timeline(room).await);
        assert!(reused.is_empty(), "Megolm indices that stand in two events: {reused:?}");
    }
}
