//! What happens while a room's state is being fetched anew, and what a fetched state has the keeper do once more.

use serde_json::json;

use crate::{
    races::journal::{Scene, becomes, row},
    simulated::{Fault, World},
};

/// The state is fetched anew, and what happens meanwhile comes before the try that succeeds.
async fn while_it_is_fetched(scene: &Scene, happens: impl FnOnce(&Scene)) {
    let fetches = |world: &mut World| world.requests.to("state").count();
    let before = scene.stage.sim.with(fetches);
    scene.stage.sim.fault("state", Fault::Status(502), 1);
    scene.stage.sim.hold("state");
    scene.is_fetched_anew(json!({}));
    scene.stage.sim.wait_for("the state is asked for", |world| fetches(world) > before).await;
    happens(scene);
    scene.stage.sim.wait_for("the keeper was told of it", |world| world.all_pushed()).await;
    scene.stage.sim.release("state");
}

#[tokio::test]
async fn what_is_redacted_while_the_state_is_fetched_is_redacted() {
    let scene = Scene::open(json!({})).await;
    let hers = scene.carol.rename(&scene.room, "Carol's");
    scene.is_sealed("Carol's").await;
    while_it_is_fetched(&scene, |scene| scene.room.redact(&hers)).await;
    becomes(&scene.stage, &hers, &row("redacted", [false, false, true, false])).await;
    scene.is_gone().await;
}

#[tokio::test]
async fn a_redaction_that_the_homeserver_refused_is_sent_again_when_the_state_is_fetched_anew() {
    let scene = Scene::open(json!({})).await;
    let hers = scene.carol.rename(&scene.room, "Carol's");
    scene.is_sealed("Carol's").await;
    scene.stage.sim.fault("redact", Fault::Status(403), 1);
    scene.room.redact(&hers);
    scene.stage.keeper.wait_for_log("an event could not be redacted").await;
    scene.is_fetched_anew(json!({}));
    scene.is_gone().await;
}

#[tokio::test]
async fn what_was_allowed_while_the_state_was_fetched_is_not_lost_under_what_was_not() {
    let scene = Scene::open(json!({})).await;
    let mut his = String::new();
    while_it_is_fetched(&scene, |scene| {
        scene.carol.rename(&scene.room, "Carol's");
        his = scene.bob.rename(&scene.room, "Bob's");
    })
    .await;
    scene.goes_back(&his).await;
    scene.is_sealed("Carol's").await;
}
