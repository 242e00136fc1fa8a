//! How much the keeper may say: refreshes keep to their pace, and two who seal for ever do not.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    races::stage::{NAME, Stage},
    simulated::{RoomRef, Trust, World},
};

/// When the keeper asked for each of its state events from the `first` on.
fn seals_since(stage: &Stage, first: usize) -> Vec<Instant> {
    stage.sim.with(|world| world.requests.to("state/put").skip(first).map(|put| put.at).collect())
}

/// Asserts that in no stretch of time there were more than a bucket of `burst` allows that fills with
/// `rate` a second.
fn keeps_to_its_pace(times: &[Instant], burst: f64, rate: f64) {
    for (place, from) in times.iter().enumerate() {
        for (count, until) in times[place..].iter().enumerate() {
            let allowed = burst + rate * until.duration_since(*from).as_secs_f64();
            let said = f64::from(u32::try_from(count + 1).unwrap());
            // One more: a request is counted at its arrival, a little after it was permitted.
            assert!(said <= allowed + 1.0, "{said} refreshes where {allowed} are allowed");
        }
    }
}

#[tokio::test]
async fn a_login_in_many_rooms_keeps_to_the_pace_and_a_joiner_goes_first() {
    let settings = json!({
        "sharing": { "refresh_per_second": 2 },
        "access": { "invites": { "burst": 100 } },
    });
    let stage = Stage::with(settings).await;
    let mut rooms: Vec<RoomRef> = Vec::new();
    for number in 0..14 {
        rooms.push(stage.named_room(&format!("Room {number}")).await);
    }
    let seals = stage.sim.requests("state/put");
    let second = stage.sim.add_device("alice", 2, Trust::CrossSigned);
    let reads_some = |world: &mut World, rooms: &[RoomRef]| {
        let named = |room: &&RoomRef| {
            let current = world.keeper_seal(&room.room_id, NAME);
            current.is_some_and(|event| {
                world.open(second.id(), &event).is_ok_and(|it| it.key_came <= event.tick)
            })
        };
        rooms.iter().filter(named).count()
    };
    let holds_all = |world: &mut World| {
        rooms.iter().all(|room| {
            let event = world.keeper_seal(&room.room_id, NAME).expect("it is sealed");
            world.open(second.id(), &event).is_ok()
        })
    };
    stage.sim.wait_for("the new device holds every key", holds_all).await;
    let waiting = |world: &mut World| {
        let shown = reads_some(world, &rooms);
        (1..rooms.len() - 1).contains(&shown)
    };
    stage.sim.wait_for("some rooms are refreshed, and others wait", waiting).await;
    let last = stage.sim.with(|world| {
        let mut waiting = rooms.iter().filter(|room| reads_some(world, &[(*room).clone()]) == 0);
        waiting.next_back().expect("a room waits").clone()
    });
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&last, "bob");
    let name = format!("Room {}", rooms.iter().position(|r| r.room_id == last.room_id).unwrap());
    stage.shows(&bob.device(1), &last, &name).await;
    let shown = stage.sim.with(|world| reads_some(world, &rooms));
    assert!(shown < rooms.len(), "the joiner was served before the last of the waiting rooms");
    let all = |world: &mut World| reads_some(world, &rooms) == rooms.len();
    stage.sim.wait_for("every room's turn comes", all).await;
    let times = seals_since(&stage, seals);
    assert!(times.len() >= rooms.len());
    // Four seconds' worth may be said at once.
    keeps_to_its_pace(&times, 8.0, 2.0);
}

/// Somebody's bot who seals again whatever is not its own, as long as the keeper answers within
/// `patience`. How often the keeper answered.
async fn answers_to_a_bot(stage: &Stage, room: &RoomRef, patience: Duration) -> usize {
    let bot = stage.sim.device("bot", 1);
    for round in 0..20 {
        bot.rename(room, "Tea");
        let answered = |world: &mut World| world.keeper_seal(&room.room_id, NAME).is_some();
        if !stage.sim.holds_within(patience, answered).await {
            return round;
        }
    }
    20
}

#[tokio::test]
async fn a_bot_that_seals_whatever_the_keeper_sealed_is_not_answered_for_ever() {
    let stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    stage.sim.user("bot").create();
    stage.sim.join(&room, "bot");
    room.set_power("bot", 50);
    stage.settle(&room, "the bot is there").await;
    let answers = answers_to_a_bot(&stage, &room, Duration::from_secs(3)).await;
    assert!((1..=5).contains(&answers), "answered {answers} times");
    assert!(stage.keeper.metric("statekeeper_state_refused_total", &["war"]).await >= 1.0);
    // Who lacks the key is served all the same, once.
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&room, "bob");
    stage.shows(&bob.device(1), &room, "Tea").await;
    let answers = answers_to_a_bot(&stage, &room, Duration::from_secs(1)).await;
    assert_eq!(answers, 0, "and the bot is not");
    // What a person says is no part of it.
    stage.name(&room, "Coffee").await;
    stage.shows(&bob.device(1), &room, "Coffee").await;
}
