//! An organisation in one space: what it costs to provide for a new employee, and for everybody once.
//!
//! `STATEKEEPER_BENCH_PEOPLE` (10000): everybody has two devices, and there is a room for every fifty of them, which
//! lets in the space's members and has twenty of them in it. `STATEKEEPER_BENCH_ROUNDS` (5): so many new employees, one
//! after the other, at the pace that is the default, while everybody else is still being provided for. Then a tenth of
//! the organisation's rooms, and a fortieth, a twentieth and a tenth of its people, all of whom are provided for once,
//! with no pace that would hold the keeper back. A join in a room that is not the space's is measured with an idle
//! keeper, and in either of these times.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "../tests/simulated/mod.rs"]
mod simulated;

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use simulated::{
    DeviceRef, Keeper, RoomRef, Sim, World,
    measure::{mark, median_and_p95, ms, quiet, report, size},
};

const PATIENCE: Duration = Duration::from_secs(1800);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long after a join in an unrelated room the next one follows.
const JOIN_EVERY: Duration = Duration::from_millis(250);
const PEOPLE_A_ROOM: usize = 50;
const MEMBERS: usize = 20;
const DEVICES: usize = 2;
const MIB: f64 = 1024.0 * 1024.0;
const NAME: &str = "m.room.name:";
const GIVEN: &str = "statekeeper_space_provisioned_total";

struct Organisation {
    sim: Sim,
    keeper: Keeper,
    people: usize,
    space: RoomRef,
    rooms: Vec<RoomRef>,
    elsewhere: RoomRef,
    strangers: Cell<usize>,
}

/// What providing for everybody once came to.
struct Cost {
    keys: usize,
    time: Duration,
    requests: usize,
    memory: f64,
}

impl Organisation {
    /// With all names sealed, and nobody provided for yet.
    async fn found(people: usize, rooms: usize, per_second: Option<u32>) -> Self {
        let settings = json!({
            "sharing": { "refresh_window": "1ms", "refresh_per_second": 1000 },
            "state": { "reseal_delay": "1ms" },
        });
        let (sim, mut keeper) = Keeper::with_sim(settings).await;
        let alice = sim.user("alice").create().device(1);
        for number in 1..=people {
            sim.user(&format!("m{number}")).devices(DEVICES).create();
        }
        let elsewhere = sim.room().keeper_power(100).create();
        let space = sim.room().space().keeper_power(100).members(people).create();
        let build = |number: usize| {
            let first = 1 + (number * PEOPLE_A_ROOM) % people.saturating_sub(MEMBERS).max(1);
            let room = sim.room().restricted_to(&[&space.room_id]).keeper_power(100);
            let room = room.members(MEMBERS.min(people)).members_from(first).create();
            let tuple = ("m.space.child", room.room_id.as_str());
            space.put_state("alice", tuple, json!({ "via": ["localhost"] }));
            room
        };
        let rooms: Vec<RoomRef> = (0..rooms).map(build).collect();
        keeper.configure(&followed(&space, "none", per_second));
        println!("start to ready: {}", ms(keeper.start().await));
        let strangers = Cell::new(0);
        let company = Self { sim, keeper, people, space, rooms, elsewhere, strangers };
        for room in company.rooms.iter().chain([&company.elsewhere]) {
            alice.rename(room, "A name");
        }
        let sealed = |world: &mut World| {
            let mut all = company.rooms.iter().chain([&company.elsewhere]);
            all.all(|room| world.keeper_seal(&room.room_id, NAME).is_some())
        };
        assert!(company.sim.holds_within(PATIENCE, sealed).await, "not all names were sealed");
        quiet(&company.sim).await;
        company
    }

    /// From now on its people read names before they join.
    async fn provide(&self, per_second: Option<u32>) {
        self.keeper.configure(&followed(&self.space, "aesthetic", per_second));
        self.keeper.hang_up();
    }

    /// A stranger joins the unrelated room: how long until he reads its name.
    async fn join_elsewhere(&self) -> Duration {
        self.strangers.set(self.strangers.get() + 1);
        let name = format!("stranger{}", self.strangers.get());
        let device = self.sim.user(&name).create().device(1);
        let started = Instant::now();
        self.sim.join(&self.elsewhere, &name);
        let reads = |world: &mut World| device.reads_name_in(world, &self.elsewhere, "A name");
        assert!(self.sim.holds_within(PATIENCE, reads).await, "{name} reads nothing");
        started.elapsed()
    }

    async fn join_idle(&self, rounds: usize) -> Vec<Duration> {
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(self.join_elsewhere().await);
            quiet(&self.sim).await;
        }
        times
    }

    async fn join_until(&self, done: &Cell<bool>) -> Vec<Duration> {
        let mut times = Vec::new();
        while !done.get() {
            times.push(self.join_elsewhere().await);
            tokio::time::sleep(JOIN_EVERY).await;
        }
        times
    }

    /// Somebody comes into the space: how long until each of his devices can open the name of each room.
    async fn employ(&self, number: usize) -> Duration {
        let name = format!("employee{number}");
        let employee = self.sim.user(&name).devices(DEVICES).create();
        let mut left: Vec<(RoomRef, DeviceRef)> = Vec::new();
        for room in &self.rooms {
            left.extend((1..=DEVICES).map(|number| (room.clone(), employee.device(number))));
        }
        let started = Instant::now();
        self.sim.join(&self.space, &name);
        let reads_all = |world: &mut World| {
            while left.last().is_some_and(|(room, device)| opens(world, room, device)) {
                left.pop();
            }
            left.is_empty()
        };
        assert!(self.sim.holds_within(PATIENCE, reads_all).await, "{name} does not read all names");
        started.elapsed()
    }

    async fn given(&self) -> usize {
        let given = self.keeper.metric(GIVEN, &["outcome=\"given\""]).await;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let given = given as usize;
        given
    }

    /// Waits until so many keys were given, and returns the highest resident memory until then, in MiB.
    async fn watch(&self, keys: usize) -> f64 {
        let (mut highest, began) = (0, Instant::now());
        while self.given().await < keys {
            highest = highest.max(self.keeper.resident_memory());
            assert!(began.elapsed() < PATIENCE, "not everybody is provided for");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        highest.max(self.keeper.resident_memory()) as f64 / MIB
    }

    /// How many names some device in the space cannot open.
    fn unread(&self) -> usize {
        let mut unread = 0;
        for number in 1..=self.people {
            for device in (1..=DEVICES).map(|one| self.sim.device(&format!("m{number}"), one)) {
                let closed = |room: &&RoomRef| !self.sim.with(|world| opens(world, room, &device));
                unread += self.rooms.iter().filter(closed).count();
            }
        }
        unread
    }
}

fn followed(space: &RoomRef, preview: &str, per_second: Option<u32>) -> Value {
    let mut entry = json!({ "room": space.room_id, "preview": preview });
    if let Some(per_second) = per_second {
        entry["per_second"] = json!(per_second);
    }
    json!({ "spaces": [entry] })
}

fn opens(world: &mut World, room: &RoomRef, device: &DeviceRef) -> bool {
    let event = world.keeper_seal(&room.room_id, NAME);
    event.is_some_and(|event| world.open(device.id(), &event).is_ok())
}

/// New employees, one after the other, at full size.
async fn employ_some(people: usize, rounds: usize) {
    let rooms = (people / PEOPLE_A_ROOM).max(1);
    println!("== {people} people with {DEVICES} devices each, a space of {rooms} rooms");
    let company = Organisation::found(people, rooms, None).await;
    let idle = company.join_idle(rounds).await;
    let before = company.keeper.resident_memory() as f64 / MIB;
    company.provide(None).await;
    company.watch(1).await;
    let (done, mut times, mut peak) = (Cell::new(false), Vec::new(), 0.0_f64);
    let (start, given) = (mark(&company.sim), company.given().await);
    let employ = async {
        for number in 0..rounds {
            times.push(company.employ(number).await);
            peak = peak.max(company.keeper.resident_memory() as f64 / MIB);
        }
        done.set(true);
    };
    let ((), busy) = tokio::join!(employ, company.join_until(&done));
    let given = company.given().await.saturating_sub(given);
    report(&company.sim, "a new employee, to the last name", &times, start);
    println!(
        "{:<46} to-device messages to each one: {}; to everybody in that time: {given}",
        "",
        rooms * DEVICES
    );
    println!("resident memory: {before:.0} MiB before, {peak:.0} MiB at most");
    report_joins(&idle, &busy);
}

/// Everybody in the space is provided for, once.
async fn provide_for_all(people: usize, rooms: usize, rounds: usize) -> Cost {
    println!("\n== everybody once: {people} people with {DEVICES} devices each, {rooms} rooms");
    let no_pace = Some(1_000_000);
    let company = Organisation::found(people, rooms, no_pace).await;
    let idle = company.join_idle(rounds).await;
    // Alice is in each room.
    let keys = rooms * (people - MEMBERS.min(people)) * DEVICES;
    let (start, began, done) = (mark(&company.sim), Instant::now(), Cell::new(false));
    company.provide(no_pace).await;
    let watch = async {
        let memory = company.watch(keys).await;
        done.set(true);
        (memory, began.elapsed())
    };
    let ((memory, time), busy) = tokio::join!(watch, company.join_until(&done));
    report(&company.sim, "everybody, to the last key", &[time], start);
    let requests = mark(&company.sim) - start;
    println!(
        "{:<46} {keys} keys, {:.0} a second; names that a device cannot open: {}",
        "",
        keys as f64 / time.as_secs_f64(),
        company.unread()
    );
    println!("resident memory at most: {memory:.0} MiB");
    report_joins(&idle, &busy);
    Cost { keys, time, requests, memory }
}

fn report_joins(idle: &[Duration], busy: &[Duration]) {
    let (idle, busy) = (median_and_p95(idle), median_and_p95(busy));
    println!(
        "a join elsewhere: idle {} (p95 {}), in that time {} (p95 {})",
        ms(idle.0),
        ms(idle.1),
        ms(busy.0),
        ms(busy.1)
    );
}

/// By which power of the number of keys something grows.
fn power(keys: (usize, usize), values: (f64, f64)) -> f64 {
    (values.1 / values.0).ln() / (keys.1 as f64 / keys.0 as f64).ln()
}

#[tokio::main]
async fn main() {
    let people = size("STATEKEEPER_BENCH_PEOPLE", 10_000).max(400);
    let rounds = size("STATEKEEPER_BENCH_ROUNDS", 5).max(1);
    employ_some(people, rounds).await;
    let mut costs: Vec<Cost> = Vec::new();
    for part in [40, 20, 10] {
        let rooms = (people / PEOPLE_A_ROOM / 10).max(1);
        costs.push(provide_for_all(people / part, rooms, rounds).await);
    }
    println!("\n== growth with the number of keys (1.00 is linear)");
    for pair in costs.windows(2) {
        let [one, two] = pair else { continue };
        let keys = (one.keys, two.keys);
        let seconds = (one.time.as_secs_f64(), two.time.as_secs_f64());
        println!(
            "{} to {} keys: time {:.2}, requests {:.2}, memory {:.2}",
            one.keys,
            two.keys,
            power(keys, seconds),
            power(keys, (one.requests as f64, two.requests as f64)),
            power(keys, (one.memory, two.memory)),
        );
    }
}
