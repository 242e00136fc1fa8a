//! Dead servers, limits, edits that cross, departures, and kills at chosen instants.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    races::stage::{NAME, Stage},
    simulated::{Fault, World},
};

#[tokio::test]
async fn a_dead_server_delays_a_rename_by_no_more_than_the_gate() {
    let gate = json!({ "sharing": { "gate_timeout": "500ms" } });
    let mut stage = Stage::prepare(gate).await;
    stage.keeper.start().await;
    let rita = stage.sim.user("@rita:far.example").create();
    let room = stage.named_room("Tea").await;
    let dead_for = Duration::from_secs(8);
    stage.sim.kill_server("far.example", dead_for);
    stage.sim.join(&room, "@rita:far.example");
    let started = Instant::now();
    stage.name(&room, "Coffee").await;
    let took = started.elapsed();
    assert!(took < dead_for / 2, "the rename took {took:?}");
    assert!(rita.device(1).keys_from_keeper().is_empty());
    stage.sim.revive_server("far.example");
    let rita = rita.device(1);
    let reached = |world: &mut World| rita.reads_name_in(world, &room, "Coffee");
    assert!(
        stage.sim.holds_within(Duration::from_secs(90), reached).await,
        "the late server's member gets key and refresh"
    );
}

#[tokio::test]
async fn whoever_cannot_be_given_a_key_causes_no_refresh() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let seals = stage.seals(&room, NAME);
    stage.sim.user("empty").without_one_time_keys().create();
    stage.sim.join(&room, "empty");
    stage.settle(&room, "the join was dealt with").await;
    assert_eq!(stage.seals(&room, NAME), seals, "nobody could read the refresh");
    // Somebody who can read it is shown it all the same.
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
}

#[tokio::test]
async fn a_device_without_one_time_keys_delays_nobody() {
    let mut stage = Stage::prepare(json!({ "sharing": { "gate_timeout": "500ms" } })).await;
    stage.keeper.start().await;
    let room = stage.named_room("Tea").await;
    stage.sim.user("empty").without_one_time_keys().create();
    stage.sim.join(&room, "empty");
    let started = Instant::now();
    stage.name(&room, "Coffee").await;
    assert!(started.elapsed() < Duration::from_secs(4), "took {:?}", started.elapsed());
}

#[tokio::test]
async fn an_edit_that_lands_between_reading_and_sealing_is_not_lost() {
    let stage = Stage::open().await;
    let room = stage.named_room("First").await;
    let alice = stage.alice_device();
    let newer = alice.seal(&room, ("m.room.name", ""), &json!({ "name": "Newer" }));
    let room_id = room.room_id.clone();
    stage.sim.before_next_state_put(move |world| {
        let tuple = ("m.room.encrypted", NAME);
        world.put_state(&room_id, "@alice:localhost", tuple, newer).expect("Alice may");
    });
    alice.rename(&room, "Older");
    stage.sealed(&room, NAME, &json!({ "name": "Newer" })).await;
    stage.settle(&room, "later").await;
    let read = alice.reads(&room, NAME).expect("the name is readable");
    assert_eq!(read.content()["name"], "Newer", "and it stays");
}

#[tokio::test]
async fn an_untold_edit_is_not_taken_for_newer_than_one_that_replaced_it() {
    let stage = Stage::open().await;
    let room = stage.named_room("First").await;
    let alice = stage.alice_device();
    let tuple = ("m.room.name", "");
    let untold = alice.seal(&room, tuple, &json!({ "name": "Untold" }));
    let newest = alice.seal(&room, tuple, &json!({ "name": "Newest" }));
    let room_id = room.room_id.clone();
    stage.sim.before_next_state_put(move |world| {
        let kind = ("m.room.encrypted", Some(NAME));
        let under = world.append(&room_id, "@alice:localhost", kind, untold);
        world.lose_newest();
        world.append(&room_id, "@alice:localhost", kind, newest);
        // The keeper's was being written at the same moment as the newest.
        world.fork = Some(under.into());
    });
    alice.rename(&room, "Older");
    stage.sealed(&room, NAME, &json!({ "name": "Newest" })).await;
    let fetched = |world: &mut World| world.requests.to("event").count() > 0;
    stage.sim.wait_for("what was not told is fetched", fetched).await;
    stage.settle(&room, "later").await;
    stage.settle(&room, "and later").await;
    let read = alice.reads(&room, NAME).expect("the name is readable");
    assert_eq!(read.content()["name"], "Newest", "and it stays");
}

#[tokio::test]
async fn after_a_departure_the_next_seal_is_under_a_session_which_the_leaver_lacks() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    let before = stage.alice_device().reads(&room, NAME).unwrap().session_id;
    room.leave("bob");
    stage.name(&room, "Without Bob").await;
    let after = stage.alice_device().reads(&room, NAME).unwrap().session_id;
    assert_ne!(before, after);
    assert!(bob.device(1).reads(&room, NAME).is_err());
}

#[tokio::test]
async fn a_limit_is_waited_out_as_long_as_it_says() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let wait = Duration::from_millis(700);
    for endpoint in ["state/put", "sendToDevice"] {
        stage.sim.fault(endpoint, Fault::Limited { retry_after_ms: 700 }, 1);
    }
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.name(&room, "Coffee").await;
    stage.shows(&bob.device(1), &room, "Coffee").await;
    for endpoint in ["state/put", "sendToDevice"] {
        let after = stage.sim.with(|world| {
            let requests: Vec<_> = world.requests.to(endpoint).collect();
            let limited = requests.iter().position(|r| r.status == Some(429)).unwrap();
            let path = &requests[limited].path;
            let again = requests[limited + 1..].iter().find(|r| r.path == *path);
            again.expect("it was repeated").at - requests[limited].at
        });
        assert!(after >= wait, "{endpoint} was repeated after {after:?}");
    }
}

#[tokio::test]
async fn a_to_device_request_that_may_have_been_sent_is_repeated_as_it_was() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.fault("sendToDevice", Fault::DoneThenHang, 1);
    stage.sim.join(&room, "bob");
    let arrived = |world: &mut World| world.waiting_for("@bob:localhost", "BOB1") > 0;
    stage.sim.wait_for("the key arrives and its answer does not", arrived).await;
    stage.keeper.kill();
    stage.keeper.start().await;
    stage.shows(&bob.device(1), &room, "Tea").await;
    stage.sim.wait_for("it comes again under its id", |world| !world.repeated.is_empty()).await;
    let repeated = stage.sim.with(|world| world.repeated.clone());
    assert!(repeated.iter().all(|repeat| repeat.same_body), "{repeated:?}");
}

#[tokio::test]
async fn a_seal_whose_answer_was_lost_is_not_sent_twice() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let before = stage.seals(&room, NAME);
    stage.sim.fault("state/put", Fault::DoneThenHang, 1);
    stage.alice_device().rename(&room, "Coffee");
    let alice = stage.alice_device();
    let sealed = |world: &mut World| alice.reads_name_in(world, &room, "Coffee");
    stage.sim.wait_for("the seal arrives and its answer does not", sealed).await;
    stage.keeper.kill();
    stage.keeper.start().await;
    stage.settle(&room, "after the restart").await;
    assert_eq!(stage.seals(&room, NAME), before + 1);
    assert!(stage.sim.with(|world| world.reused_indices()).is_empty());
}

#[tokio::test]
async fn what_happened_while_the_keeper_was_down_is_made_good() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    stage.keeper.kill();
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.alice_device().rename(&room, "Coffee");
    stage.keeper.start().await;
    stage.shows(&bob.device(1), &room, "Coffee").await;
}

#[tokio::test]
async fn a_redacted_original_takes_its_seal_with_it() {
    let stage = Stage::open().await;
    let room = stage.room().await;
    let original = stage.alice_device().rename(&room, "Oops");
    stage.sealed(&room, NAME, &json!({ "name": "Oops" })).await;
    room.redact(&original);
    let redacted = |world: &mut World| {
        let current = world.room(&room.room_id).current("m.room.encrypted", NAME);
        current.is_some_and(|event| event.redacted.is_some())
    };
    stage.sim.wait_for("the seal is redacted", redacted).await;
    let seals = stage.seals(&room, NAME);
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.settle(&room, "after the redaction").await;
    assert_eq!(stage.seals(&room, NAME), seals, "a redacted value is final");
    assert!(
        bob.device(1)
            .opens(
                &stage.sim.with(|world| { world.keeper_seals(&room.room_id, NAME).pop().unwrap() })
            )
            .is_err(),
        "and nobody gets its key any more"
    );
}

#[tokio::test]
async fn the_keeper_ends_soon_when_it_is_told_to() {
    let mut stage = Stage::open().await;
    stage.named_room("Tea").await;
    assert!(stage.keeper.terminate().await < Duration::from_secs(15));
}

#[tokio::test]
async fn a_key_delayed_past_a_leave_and_a_new_join_is_still_followed_by_a_refresh() {
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.fault("sendToDevice", Fault::Hang, 1);
    let before = stage.sim.requests("sendToDevice");
    stage.sim.join(&room, "bob");
    let asked = |world: &mut World| world.requests.to("sendToDevice").count() > before;
    stage.sim.wait_for("the key is on its way", asked).await;
    stage.keeper.kill();
    room.leave("bob");
    stage.sim.join(&room, "bob");
    stage.keeper.start().await;
    stage.shows(&bob.device(1), &room, "Tea").await;
}

#[tokio::test]
async fn who_is_slow_to_be_known_is_shown_every_tuple_and_not_the_name_alone() {
    let mut stage = Stage::prepare(json!({ "sharing": { "gate_timeout": "200ms" } })).await;
    stage.keeper.start().await;
    let room = stage.named_room("Tea").await;
    let bob = stage.sim.user("bob").create();
    for endpoint in ["keys/query", "keys/claim"] {
        stage.sim.latency(endpoint, Duration::from_millis(1500));
    }
    stage.sim.join(&room, "bob");
    let plan = json!({ "plan": "picnic" });
    stage.set(&room, ("org.example.plan", ""), plan.clone()).await;
    stage.shows(&bob.device(1), &room, "Tea").await;
    let device = bob.device(1);
    let shown = |world: &mut World| {
        device.reads_in(world, &room, "org.example.plan:").is_ok_and(|it| *it.content() == plan)
    };
    stage.sim.wait_for("the tuple that is not aesthetic is shown, too", shown).await;
}
