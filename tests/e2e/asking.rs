//! `sharing.unasked: false`, MSC3414 to the letter: whoever joins has to ask. The asker is a client
//! of an independent implementation; stock clients ask their own devices only.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{
    eventually,
    js::JsClient,
    keeper::KEEPER,
    python::{Heard, PythonClient, PythonHost},
    room::RoomSpec,
    synapse,
    world::World,
};

/// A world whose keeper gives keys to those who ask, and the askers' process.
struct Scene {
    world: World,
    host: Arc<PythonHost>,
}

/// A public room of a js-sdk owner's, with the keeper in it and a name that the keeper sealed.
struct Named {
    owner: JsClient,
    room_id: String,
    sealed: Value,
}

impl Scene {
    /// One for all tests here.
    async fn shared() -> &'static Self {
        static SCENE: OnceCell<Scene> = OnceCell::const_new();
        SCENE
            .get_or_init(async || {
                let unasked = json!({ "sharing": { "unasked": false } });
                let world = World::with(synapse::Options::default(), &unasked).await;
                Self { world, host: PythonHost::start() }
            })
            .await
    }

    async fn named(&self, name: &str) -> Named {
        let owner = self.world.js_user("owner").await;
        let room_id = self.world.room(&owner, &RoomSpec::public().with_keeper()).await;
        let sealed = self.name(&owner, &room_id, name).await;
        Named { owner, room_id, sealed }
    }

    /// Names a room, and waits for the keeper's copy.
    async fn name(&self, owner: &JsClient, room_id: &str, name: &str) -> Value {
        let original = owner.set_name(room_id, name).await;
        self.world.sealed(&owner.api, room_id, "m.room.name", &original).await
    }

    async fn user(&self, stem: &str, cross_sign: bool) -> PythonClient {
        PythonClient::register(&self.host, &self.world, stem, cross_sign).await
    }

    /// Somebody in the room asks and gets the key: whoever asked before has had his turn, and
    /// nothing waits any more.
    async fn turn_is_over(&self, named: &Named) {
        let witness = self.user("witness", true).await;
        witness.join(&named.room_id).await;
        let event = witness.name_event(&named.room_id).await;
        witness.ask(&event).await;
        witness.wait_key(&event).await;
        eventually("no request waits", async || {
            let metrics = self.world.keeper.metrics().await;
            let counted = metrics.sum("statekeeper_key_requests_total", &[]);
            let queued = metrics.sum("statekeeper_key_requests_queued", &[]);
            (counted > 0.0 && queued == 0.0).then_some(())
        })
        .await;
    }
}

/// What the keeper told a device.
async fn from_keeper(client: &PythonClient) -> Vec<Heard> {
    let mut heard = client.heard().await;
    heard.retain(|heard| heard.sender == KEEPER);
    heard
}

#[tokio::test]
async fn whoever_joins_and_asks_gets_the_key_over_olm_and_reads_the_name() {
    let scene = Scene::shared().await;
    let mut named = scene.named("The name before").await;
    let past = named.sealed;
    named.sealed = scene.name(&named.owner, &named.room_id, "The Orchard").await;
    let joiner = scene.user("joiner", true).await;
    joiner.join(&named.room_id).await;
    // Somebody else asks and is served, and the joiner, who did not, still has nothing.
    scene.turn_is_over(&named).await;
    let event = joiner.name_event(&named.room_id).await;
    assert!(joiner.read_name(&event).await.is_err(), "it never could before");
    assert!(from_keeper(&joiner).await.is_empty(), "nothing goes to whoever does not ask");

    joiner.ask(&event).await;
    joiner.wait_key(&event).await;
    assert_eq!(joiner.read_name(&event).await.as_deref(), Ok("The Orchard"));
    let refused = joiner.read_name(&past).await;
    assert!(refused.is_err(), "the joiner reads the past: {refused:?}");
    let heard = from_keeper(&joiner).await;
    assert!(heard.iter().all(|heard| heard.encrypted && heard.event_type == "m.room_key"));
}

#[tokio::test]
async fn a_device_that_nobody_signed_asks_and_hears_that_it_is_unverified() {
    let scene = Scene::shared().await;
    let named = scene.named("Members only").await;
    let unsigned = scene.user("unsigned", false).await;
    unsigned.join(&named.room_id).await;
    let event = unsigned.name_event(&named.room_id).await;
    unsigned.ask(&event).await;
    let word = unsigned.wait_withheld(&event).await;
    assert_eq!(word.sender, KEEPER);
    assert_eq!(word.content["code"], "m.unverified");
    assert_eq!(word.content["algorithm"], "m.megolm.v1.aes-sha2");
    assert_eq!(word.content["room_id"], named.room_id.as_str());
    assert!(word.content["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    assert!(word.content["sender_key"].is_string(), "the keeper's own Curve25519 key");

    unsigned.ask(&event).await;
    scene.turn_is_over(&named).await;
    assert_eq!(from_keeper(&unsigned).await.len(), 1, "it is told once");
    assert!(unsigned.read_name(&event).await.is_err());
}

#[tokio::test]
async fn whoever_is_not_in_the_room_asks_and_hears_nothing() {
    let scene = Scene::shared().await;
    let named = scene.named("A closed book").await;
    let stranger = scene.user("stranger", true).await;
    stranger.ask_users(&named.sealed, &[KEEPER]).await;
    let unsigned = scene.user("unsigned", false).await;
    unsigned.ask_users(&named.sealed, &[KEEPER]).await;
    scene.turn_is_over(&named).await;
    for outsider in [&stranger, &unsigned] {
        let heard = from_keeper(outsider).await;
        assert!(heard.is_empty(), "{} hears {heard:?}", outsider.api.user_id);
        assert!(outsider.read_name(&named.sealed).await.is_err());
    }
}

#[tokio::test]
async fn whoever_left_before_asking_gets_nothing() {
    let scene = Scene::shared().await;
    let named = scene.named("Come and gone").await;
    let leaver = scene.user("leaver", true).await;
    leaver.join(&named.room_id).await;
    let event = leaver.name_event(&named.room_id).await;
    leaver.leave(&named.room_id).await;
    // The keeper is told of the leave before it hears the request.
    scene.turn_is_over(&named).await;
    leaver.ask_users(&event, &[KEEPER]).await;
    scene.turn_is_over(&named).await;
    assert!(from_keeper(&leaver).await.is_empty());
    assert!(leaver.read_name(&event).await.is_err());
}

#[tokio::test]
async fn a_request_that_waits_while_its_asker_leaves_gets_nothing() {
    let unasked = json!({ "sharing": { "unasked": false } });
    let world = World::with(synapse::Options::default(), &unasked).await;
    let mut scene = Scene { world, host: PythonHost::start() };
    let named = scene.named("Too late").await;
    let leaver = scene.user("leaver", true).await;
    // Request, join and leave wait at the homeserver: whichever of them the keeper hears first, at no
    // time does it have reason to believe that the asker is in.
    scene.world.keeper.kill();
    leaver.join(&named.room_id).await;
    let event = leaver.name_event(&named.room_id).await;
    leaver.ask(&event).await;
    leaver.leave(&named.room_id).await;
    scene.world.keeper.start().await;
    scene.turn_is_over(&named).await;
    let heard = from_keeper(&leaver).await;
    assert!(heard.is_empty(), "the leaver hears {heard:?}");
    assert!(leaver.read_name(&event).await.is_err());
}
