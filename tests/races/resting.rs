//! Rooms at rest: what changes there is decided without a look at everybody, and nobody is overlooked for it.

use serde_json::json;

use crate::{races::stage::Stage, simulated::RoomRef};

/// Of how many members the decisions were that have been made about a room since the log was so long.
fn members_looked_at(stage: &Stage, room: &RoomRef, since: usize) -> Vec<usize> {
    let log = stage.keeper.log();
    let decisions = log.get(since..).unwrap().lines().filter_map(|line| {
        let of_room = line.contains(&room.room_id) && line.contains("deciding");
        let members = line.split_once("members=").filter(|_| of_room)?.1;
        members.split_whitespace().next()?.parse().ok()
    });
    decisions.collect()
}

#[tokio::test]
async fn a_rename_where_everybody_has_the_key_is_sealed_without_a_look_at_them() {
    let words = json!({ "level": "info,statekeeper::keeper::lane=debug" });
    let stage = Stage::with(json!({ "logging": words })).await;
    let room = stage.sim.room().members(20).create();
    stage.invite_keeper(&room).await;
    stage.name(&room, "Tea").await;
    stage.name(&room, "Coffee").await;
    stage.settle(&room, "everybody has the key").await;
    // It is at rest once something was dealt with without a look at anybody.
    let mut rounds = 0..50;
    loop {
        let round = rounds.next().expect("the room comes to rest");
        let since = stage.keeper.log().len();
        stage.settle(&room, &format!("of the topic, too: {round}")).await;
        let looked_at = members_looked_at(&stage, &room, since);
        if !looked_at.is_empty() && looked_at.iter().all(|members| *members == 0) {
            break;
        }
    }
    let since = stage.keeper.log().len();
    for name in ["Water", "Juice"] {
        stage.name(&room, name).await;
        stage.settle(&room, name).await;
    }
    let looked_at = members_looked_at(&stage, &room, since);
    assert!(looked_at.len() >= 2 && looked_at.iter().all(|members| *members == 0), "{looked_at:?}");
    // Somebody new wakes the room up.
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Juice").await;
    stage.name(&room, "Milk").await;
    stage.shows(&bob.device(1), &room, "Milk").await;
}
