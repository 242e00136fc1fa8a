//! SIGKILL at random instants. `STATEKEEPER_KILLS` says how many; ten in the everyday run.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    races::stage::Stage,
    simulated::{RoomRef, Sim, World},
};

const PEOPLE: usize = 6;
const TUPLES: [&str; 3] = ["m.room.name", "m.room.topic", "org.example.plan"];

/// What the members did, so that the end can be compared with it.
struct Storm {
    sim: Sim,
    room: RoomRef,
    rng: StdRng,
    edits: usize,
    /// For each type the last edit: its event and its content, `None` when it was redacted.
    last: BTreeMap<&'static str, (String, Option<Value>)>,
}

impl Storm {
    fn one_thing(&mut self) {
        match self.rng.random_range(0..10) {
            0..=4 => self.edit(),
            5..=7 => self.join_or_leave(),
            8 => self.redact(),
            _ => self.sim.device("alice", 1).rotate(&self.room),
        }
    }

    fn edit(&mut self) {
        let kind = TUPLES[self.rng.random_range(0..TUPLES.len())];
        self.edits += 1;
        let content = json!({ "value": format!("edit {}", self.edits) });
        let alice = self.sim.device("alice", 1);
        let event_id = alice.send_state(&self.room, (kind, ""), &content);
        self.last.insert(kind, (event_id, Some(content)));
    }

    fn join_or_leave(&mut self) {
        let user_id = format!("@p{}:localhost", self.rng.random_range(1..=PEOPLE));
        let is_in =
            self.sim.with(|world| world.room(&self.room.room_id).membership(&user_id) == "join");
        if is_in { self.room.leave(&user_id) } else { self.sim.join(&self.room, &user_id) }
    }

    fn redact(&mut self) {
        let kind = TUPLES[self.rng.random_range(0..TUPLES.len())];
        if let Some((event_id, content)) = self.last.get_mut(kind)
            && content.take().is_some()
        {
            let event_id = event_id.clone();
            self.room.redact(&event_id);
        }
    }

    /// What is not yet as it has to be in the end.
    fn unfinished(&self, world: &mut World) -> Vec<String> {
        let mut unfinished = Vec::new();
        let people = world.room(&self.room.room_id).members("join");
        let keeper = world.keeper();
        for user_id in people.iter().filter(|user_id| **user_id != keeper) {
            let device = self.sim.device(user_id, 1);
            unfinished.extend(world.closed_state(&self.room.room_id, device.id()));
            for (kind, (_, content)) in &self.last {
                let packed = format!("{kind}:");
                let read = device.reads_in(world, &self.room, &packed);
                match (content, read) {
                    (Some(content), Ok(opened)) if opened.content() == content => {}
                    (None, _) if is_redacted(world, &self.room, &packed) => {}
                    (wanted, read) => unfinished.push(format!(
                        "{user_id} reads {packed} as {read:?} instead of {wanted:?}"
                    )),
                }
            }
        }
        unfinished
    }
}

fn is_redacted(world: &World, room: &RoomRef, packed: &str) -> bool {
    let current = world.room(&room.room_id).current("m.room.encrypted", packed);
    current.is_some_and(|event| event.redacted.is_some())
}

fn kills() -> usize {
    std::env::var("STATEKEEPER_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(10)
}

#[tokio::test]
async fn kills_at_random_instants_lose_nothing_and_reuse_no_index() {
    let seed: u64 = std::env::var("STATEKEEPER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| rand::rng().random());
    eprintln!("STATEKEEPER_SEED={seed}");
    let mut stage = Stage::open().await;
    let room = stage.named_room("Tea").await;
    for number in 1..=PEOPLE {
        stage.sim.user(&format!("p{number}")).create();
    }
    let (sim, rng) = (stage.sim.clone(), StdRng::seed_from_u64(seed));
    let mut storm = Storm { sim, room, rng, edits: 0, last: BTreeMap::new() };
    for round in 0..kills() {
        // Every third time the kill may come before the keeper is ready.
        if round % 3 == 0 {
            storm.one_thing();
        } else if stage.keeper.is_running() {
            stage.keeper.wait_until_ready().await;
        }
        for _ in 0..storm.rng.random_range(1..5) {
            storm.one_thing();
            let pause = storm.rng.random_range(0..60);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let instant = storm.rng.random_range(0..500);
        tokio::time::sleep(Duration::from_millis(instant)).await;
        stage.keeper.kill();
        storm.one_thing();
        stage.keeper.spawn();
    }
    stage.keeper.wait_until_ready().await;
    let mut unfinished = Vec::new();
    let patience = Duration::from_secs(60);
    let calm = stage
        .sim
        .holds_within(patience, |world| {
            unfinished = storm.unfinished(world);
            unfinished.is_empty()
        })
        .await;
    let log = stage.sim.with(|world| world.recent_requests(150));
    assert!(calm, "seed {seed}, after {patience:?}:\n{}\n{log}", unfinished.join("\n"));
    let (reused, repeated) =
        stage.sim.with(|world| (world.reused_indices(), world.repeated.clone()));
    assert!(reused.is_empty(), "seed {seed}: indices in two events: {reused:?}");
    assert!(repeated.iter().all(|repeat| repeat.same_body), "seed {seed}: {repeated:?}");
    let poisoned = stage.sim.with(|world| world.foreign_sessions_shared());
    assert!(poisoned.is_empty(), "seed {seed}: members' sessions went to {poisoned:?}");
}
