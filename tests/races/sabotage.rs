//! What somebody does to the keeper's machine, or to its homeserver's: the doctor, what the alert rests on and the
//! management room each name the cause and the mend. What is done to the homeserver alone is shown with a real one, in
//! `tests/e2e/sabotage.rs`.

use serde_json::{Value, json};
use statekeeper::admin::Trouble;

use crate::{
    races::{
        doctor::comes_to,
        stage::{NAME, Stage},
    },
    simulated::{RoomRef, disk::Disk},
};

/// A keeper with a management room, which is not encrypted: the homeserver reads what is told there.
struct Office {
    stage: Stage,
    room: RoomRef,
}

impl Office {
    async fn prepare() -> Self {
        let stage = Stage::prepare(json!({})).await;
        let room = stage.sim.room().encrypted_state(false).keeper_power(0).create();
        stage.keeper.configure(&json!({
            "admin": { "management_room": room.room_id },
            "access": { "admins": [stage.alice.user_id] },
        }));
        Self { stage, room }
    }

    /// Waits until the trouble's metric stands at this.
    async fn metric_is(&self, trouble: Trouble, value: f64) {
        let name = format!("statekeeper_trouble{{cause=\"{}\"}}", trouble.as_str());
        self.stage.keeper.wait_for_metric(&name, value).await;
    }

    /// Waits until all three name the trouble: what the alert rests on, the doctor at this check, and, where it can be told
    /// while it lasts, the room.
    async fn is_named(&self, trouble: Trouble, check: &str) {
        self.metric_is(trouble, 1.0).await;
        let finding = comes_to(&self.stage, "trouble", check).await;
        assert_eq!(finding["fix"], trouble.mend(), "{finding}");
        let (_, health) = self.stage.keeper.health().await;
        let told = &health["troubles"][0];
        assert_eq!(
            (&told["text"], &told["fix"]),
            (&json!(trouble.cause()), &json!(trouble.mend()))
        );
    }

    /// Waits until the room is told this. The notice.
    async fn is_told(&self, words: &[&str]) -> String {
        let keeper = self.stage.sim.keeper();
        let mut found = None;
        self.stage
            .sim
            .wait_for(&format!("the room is told {words:?}"), |world| {
                let timeline = world.room(&self.room.room_id).timeline.iter();
                let mut notices = timeline
                    .filter(|event| event.sender == keeper && event.event_type == "m.room.message")
                    .filter_map(|event| event.content["body"].as_str());
                found = notices
                    .find(|notice| words.iter().all(|words| notice.contains(words)))
                    .map(str::to_owned);
                found.is_some()
            })
            .await;
        found.unwrap()
    }

    /// A room is named, which needs everything.
    async fn works(&self) {
        let room = self.stage.named_room("Tea").await;
        assert!(self.stage.seals(&room, NAME) > 0);
    }
}

#[tokio::test]
async fn a_clock_that_is_off_is_named_everywhere_and_so_is_its_end() {
    let mut office = Office::prepare().await;
    office.stage.sim.change(|world| world.clock_ahead = 3_600);
    office.stage.keeper.start().await;
    office.is_named(Trouble::Clock, "clock").await;
    office.is_told(&[Trouble::Clock.cause(), Trouble::Clock.mend()]).await;
    let finding = comes_to(&office.stage, "trouble", "clock").await;
    assert!(finding["text"].as_str().unwrap().contains("s behind the homeserver's"), "{finding}");
    office.stage.sim.change(|world| world.clock_ahead = 0);
    office.is_told(&["this is over since", Trouble::Clock.cause()]).await;
}

#[tokio::test]
async fn the_room_is_told_who_broke_a_rule() {
    let mut office = Office::prepare().await;
    let room = office.stage.sim.room().encrypted_power(0).keeper_power(100).create();
    office.stage.keeper.start().await;
    office.stage.name(&room, "Alice's").await;
    let bob = office.stage.sim.user("bob").create().device(1);
    office.stage.sim.join(&room, "bob");
    office.stage.shows(&bob, &room, "Alice's").await;
    bob.rename(&room, "Bob's");
    office.is_told(&["@bob:localhost broke the rule `power` in", &room.room_id]).await;
}

/// Ends the keeper's poll from time to time, for ever: each answer says how many keys are left.
async fn keeps_being_written_to(office: &Office) {
    let sim = &office.stage.sim;
    loop {
        sim.change(|world| {
            let peer = world.keeper_peer().expect("the keeper has published its device");
            let recipient = (peer.user_id.as_str(), peer.device_id.as_str());
            world.send_to_device("@alice:localhost", "org.example.wake", recipient, &json!({}));
        });
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
}

#[tokio::test]
async fn one_time_keys_that_stay_few_are_named_until_there_are_more() {
    let mut office = Office::prepare().await;
    office.stage.keeper.start().await;
    office.stage.sim.hold("keys/upload");
    office.stage.sim.change(|world| {
        let keeper = world.keeper();
        for device in world.user_mut(&keeper).uploaded.values_mut() {
            device.one_time_keys.clear();
        }
    });
    let named = async {
        office.metric_is(Trouble::OneTimeKeys, 1.0).await;
        let left = "statekeeper_one_time_keys{algorithm=\"signed_curve25519\"}";
        office.stage.keeper.wait_for_metric(left, 0.0).await;
        let finding = comes_to(&office.stage, "warning", "one_time_keys").await;
        let fix = finding["fix"].as_str().unwrap();
        assert!(fix.contains(Trouble::OneTimeKeys.mend()), "{finding}");
        office.is_told(&[Trouble::OneTimeKeys.cause(), Trouble::OneTimeKeys.mend()]).await;
        office.stage.sim.release("keys/upload");
        office.metric_is(Trouble::OneTimeKeys, 0.0).await;
    };
    tokio::select! {
        () = keeps_being_written_to(&office) => unreachable!("it goes on for ever"),
        () = named => {}
    }
}

#[tokio::test]
async fn a_full_disk_is_named_while_the_keeper_waits_and_in_the_room_when_there_is_space_again() {
    store_cannot_be_written("full", Trouble::StoreFull, "disk").await;
}

#[tokio::test]
async fn a_read_only_store_is_named_while_the_keeper_waits_and_in_the_room_when_it_can_be_written()
{
    store_cannot_be_written("read-only", Trouble::StoreReadOnly, "writable").await;
}

async fn store_cannot_be_written(word: &str, trouble: Trouble, check: &str) {
    let mut office = Office::prepare().await;
    let disk = Disk::of(&mut office.stage.keeper);
    office.stage.keeper.start().await;
    office.works().await;

    // What runs ends with its store, is started again by whoever watches over it, and waits.
    disk.is(word);
    office.stage.alice_device().rename(&office.room, "too much");
    office.stage.keeper.wait_for_end().await;
    office.stage.keeper.spawn();
    office.stage.keeper.wait_for_log(trouble.mend()).await;
    office.is_named(trouble, check).await;
    let missing = office.stage.keeper.metric("statekeeper_missing", &["part=\"store\""]).await;
    assert!((missing - 1.0).abs() < f64::EPSILON, "{missing}");
    let said: Value = comes_to(&office.stage, "trouble", "keeper").await;
    assert!(said["text"].as_str().unwrap().contains("waits for: "), "{said}");

    disk.is("sound");
    office.stage.keeper.wait_until_ready().await;
    office.is_told(&[trouble.cause(), ", from 20", "Should it come again: ", trouble.mend()]).await;
    office.metric_is(trouble, 0.0).await;
    office.works().await;
}
