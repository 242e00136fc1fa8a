//! Histories: the keeper's decisions in thousands of random rooms, with a seeded clock and symbolic keys.
//!
//! What decides is the real thing: `decide` and what stands under it, `policy::entitlement`, `state::judge`, the rules
//! on packed keys, power levels, and the views that `knowledge` makes of the store's rows. What performs is a symbolic
//! keeper that does step by step what the real one does ([`performing`], [`sending`], [`taking`]; each function names
//! its model), on the same row types, kept in memory ([`rows`]). Around it is a world ([`world`]) that joins, leaves,
//! edits, says things in plain, redacts, forges, logs devices in and out, gives keys late or never, repeats events,
//! loses answers, acts while the keeper waits, and kills it between any two commits ([`steps`]). What must hold stands in
//! [`oracle`].
//!
//! `STATEKEEPER_HISTORIES` says how many; `STATEKEEPER_SEED` replays one and tells it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "histories/in_plain.rs"]
mod in_plain;
#[path = "histories/knowing.rs"]
mod knowing;
#[path = "histories/oracle.rs"]
mod oracle;
#[path = "histories/performing.rs"]
mod performing;
#[path = "histories/rows.rs"]
mod rows;
#[path = "histories/sealing.rs"]
mod sealing;
#[path = "histories/sending.rs"]
mod sending;
#[path = "histories/steps.rs"]
mod steps;
#[path = "histories/taking.rs"]
mod taking;
#[path = "histories/world.rs"]
mod world;

use std::{
    collections::BTreeSet,
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use ruma::{OwnedEventId, OwnedUserId, room_id};

use self::{
    rows::Rows,
    steps::{Act, Step, steps},
    taking::KeyStore,
    world::{Said, World},
};
use statekeeper::{
    config::{Action, Config, RotateReseal, RotateWhen},
    keeper::{
        ingest::power_levels,
        rules::{Reseal, Rules, SessionScope},
    },
    policy::{InviteePolicy, MemberPolicy},
    state::{JsonMap, Membership},
};

/// How many histories there are unless somebody says otherwise.
const HISTORIES: u64 = 10_000;
/// How often the keeper may come back to a room that nobody changes any more.
const MOST_VISITS: usize = 400;

/// Longer than anything waits but for a session's age, in milliseconds.
const LONG: i64 = 400 * 24 * 3_600_000;

/// Why the keeper stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// It was killed.
    Killed,
    /// The homeserver did not answer; or it did what it was asked, and its answer was lost.
    Away,
    /// Something is so that must not be.
    Broken(String),
}

type Done<T> = Result<T, Halt>;

/// Something that a broken keeper does or leaves undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    NothingRetiresOnLeave,
    NothingRetiresOnDecision,
    RetirementOverlooked,
    NewsOverheard,
    OldIndexShared,
    NoRefresh,
    SealsBeforeKeys,
    StillPresentSkipped,
    RedactedStaysCurrent,
    LateKeyForgotten,
    NothingRestored,
    NarrowedOverlooked,
    WordOverlooked,
    UsedUpOverlooked,
    PlainRedactedFirst,
    PlainTakenBack,
    PlainLeft,
}

/// One history.
struct Sim {
    now: i64,
    rng: StdRng,
    rules: Rules,
    world: World,
    first_levels: JsonMap,
    rows: Rows,
    keys: KeyStore,
    sessions_made: u64,
    /// Members' values that the keeper stood on at some time.
    accepted: BTreeSet<OwnedEventId>,
    /// Sessions that must encrypt nothing any more.
    over: BTreeSet<String>,
    /// Nothing happens any more but what the keeper does.
    calm: bool,
    fault: Option<Fault>,
    tells: bool,
}

static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let config = Config::from_yaml_for_test(
        "homeserver: { address: \"http://127.0.0.1:1\", domain: \"s\" }\n\
         appservice: { listen: \"127.0.0.1:2\", address: \"http://127.0.0.1:2\", \
         registration: \"r.yaml\", bot: { localpart: \"keeper\" } }\n\
         store: { url: \"sqlite:a.db\", passphrase: \"x\" }\n",
    );
    Rules::new(&config.unwrap())
});

/// The rules of one history.
fn rules(rng: &mut StdRng) -> Rules {
    let mut rules = RULES.clone();
    rules.session_scope =
        if rng.random_bool(0.3) { SessionScope::Room } else { SessionScope::Tuple };
    rules.rotate_when =
        if rng.random_bool(0.5) { RotateWhen::AtOnce } else { RotateWhen::NextChange };
    rules.rotate_reseal = match rng.random_range(0..4) {
        0 => RotateReseal::Aesthetic,
        1 => RotateReseal::All,
        _ => RotateReseal::None,
    };
    rules.sharing.invitees = match rng.random_range(0..4) {
        0 => InviteePolicy::None,
        1 => InviteePolicy::All,
        _ => InviteePolicy::Aesthetic,
    };
    if rng.random_bool(0.15) {
        rules.sharing.members = MemberPolicy::Approved;
    }
    if rng.random_bool(0.15) {
        rules.reseal = Reseal::OnNeed;
    }
    if rng.random_bool(0.3) {
        rules.rotation_messages = rng.random_range(1..6);
    }
    if rng.random_bool(0.2) {
        rules.rotation_age = rng.random_range(1_000..600_000);
    }
    let action = |rng: &mut StdRng, default| match rng.random_range(0..6) {
        0 => Action::Report,
        1 => Action::Redact,
        2 => Action::Restore,
        _ => default,
    };
    let default = rules.enforce.clone();
    rules.enforce.power = action(rng, default.power);
    rules.enforce.ownership = action(rng, default.ownership);
    rules.enforce.critical = action(rng, default.critical);
    rules.enforce.timestamp = action(rng, default.timestamp);
    rules.enforce.shape = action(rng, default.shape);
    rules.enforce.plain = action(rng, default.plain);
    rules.enforce.replay = action(rng, default.replay);
    rules
}

impl Sim {
    /// A room with its owner and perhaps others in it, and a name that the owner gave it.
    fn new(rng: &mut StdRng, fault: Option<Fault>) -> Self {
        let now = 1_700_000_000_000;
        let world = World::new();
        let mut rows = Rows::new(room_id!("!r:s"));
        rows.room.power_levels = Some(serde_json::to_string(&world.levels).unwrap());
        assert!(power_levels(&rows.room).elevated(&world.keeper));
        let mut sim = Self {
            now,
            rules: rules(rng),
            rng: StdRng::seed_from_u64(rng.random()),
            first_levels: world.levels.clone(),
            world,
            rows,
            keys: KeyStore::default(),
            over: BTreeSet::new(),
            sessions_made: 0,
            accepted: BTreeSet::new(),
            calm: false,
            fault,
            tells: false,
        };
        for n in 0..rng.random_range(1..4) {
            let user = sim.world.people[n].id.clone();
            let said = Said::Member(user.clone(), Membership::Join);
            sim.world.send(user, said, now, now);
        }
        let edit = steps::Edit::Honest;
        sim.world_acts(Act::Edit { who: 0, device: 0, tuple: 0, edit });
        sim
    }

    fn keeper(&self) -> OwnedUserId {
        self.world.keeper.clone()
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn note(&self, what: impl FnOnce() -> String) {
        if self.tells {
            eprintln!("{:>8} {}", self.now - 1_700_000_000_000, what());
        }
    }

    /// One in so many hundred times.
    fn chance(&mut self, percent: u32) -> bool {
        !self.calm && self.rng.random_ratio(percent, 100)
    }

    /// The keeper waits for a disk or a network: the clock goes on, and others do something, or kill it.
    fn meanwhile(&mut self) -> Done<()> {
        self.now += 1;
        if self.calm {
            return Ok(());
        }
        self.now += self.rng.random_range(0..40);
        if self.chance(2) {
            return Err(Halt::Killed);
        }
        while self.chance(35) {
            if self.chance(40) {
                self.keep_up(1);
                continue;
            }
            match steps::act(&mut self.rng) {
                Act::Visit | Act::Wait(_) | Act::Kill => {}
                Act::Take(_) => self.take_event(),
                Act::Poll(_) => self.poll(),
                Act::Pump => self.pump(),
                act => {
                    self.note(|| format!("  meanwhile {act:?}"));
                    self.hear_administrator(act);
                    self.world_acts(act);
                }
            }
        }
        Ok(())
    }

    /// The keeper hears of the next few things, as it does all the time while it decides and performs.
    fn keep_up(&mut self, count: usize) {
        for _ in 0..count {
            self.take_event();
            self.poll();
        }
        self.pump();
    }

    /// Whether a request reaches the homeserver.
    fn answers_at_all(&mut self) -> Done<()> {
        if self.chance(2) { Err(Halt::Away) } else { Ok(()) }
    }

    /// Whether the answer to one that did comes back.
    fn answer_comes(&mut self) -> Done<()> {
        if self.chance(2) { Err(Halt::Away) } else { Ok(()) }
    }

    /// Lives through a history and checks what must hold.
    fn live(&mut self, steps: &[Step], gives_all_keys: bool) -> Result<(), String> {
        for step in steps {
            let mut done = self.act_out(step);
            // Mostly the keeper is at work; sometimes it lags behind.
            if done.is_ok() && self.chance(50) {
                self.keep_up(4);
                done = self.visit();
            }
            match done {
                Ok(()) | Err(Halt::Away) => {}
                Err(Halt::Killed) => {
                    self.note(|| "killed".to_owned());
                    self.start();
                }
                Err(Halt::Broken(what)) => return Err(what),
            }
        }
        self.calm = true;
        for n in 0..self.world.people.len() {
            self.world.people[n].devices.iter_mut().for_each(|device| device.reachable = true);
            // An invitee's devices are not told of before he is in the room.
            self.world.news.push_back(world::News::Devices(n));
        }
        let kept_back = std::mem::take(&mut self.world.kept_back);
        if gives_all_keys {
            self.world.news.extend(kept_back.into_iter().map(world::News::Key));
        }
        match self.come_to_rest().and_then(|()| self.check_rest()) {
            Ok(()) => Ok(()),
            Err(Halt::Broken(what)) => Err(what),
            Err(halt) => Err(format!("{halt:?} in a calm")),
        }
    }

    fn come_to_rest(&mut self) -> Done<()> {
        self.note(|| "calm".to_owned());
        // What is sealed anew for its age is so for ever: here, not before everything else has come to rest.
        self.rules.rotation_age = 2 * LONG;
        for _ in 0..MOST_VISITS {
            while !self.world.pushed.is_empty() {
                self.take_event();
            }
            while !self.world.news.is_empty() {
                self.poll();
            }
            self.pump();
            let due = self.rows.marks.values().map(|(due, _)| *due).min();
            let Some(due) = due.filter(|due| *due < self.now + LONG) else {
                // An administrator has a look at the wars.
                let wars: Vec<OwnedUserId> = self.rows.wars.keys().cloned().collect();
                let settled = wars.iter().filter(|user| self.rows.settle_war(user, self.now));
                if settled.count() > 0 {
                    continue;
                }
                return Ok(());
            };
            self.now = self.now.max(due);
            self.visit()?;
        }
        Err(Halt::Broken("the keeper never comes to rest".to_owned()))
    }
}

/// What becomes of the history of a seed, with all of its steps or some.
fn live(seed: u64, only: Option<&[Step]>, fault: Option<Fault>, tells: bool) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sim = Sim::new(&mut rng, fault);
    sim.tells = tells;
    let all = steps(&mut rng);
    sim.live(only.unwrap_or(&all), rng.random_bool(0.7))
}

/// The fewest steps found of which the history still fails.
fn shrink(seed: u64, fault: Option<Fault>) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let _ = Sim::new(&mut rng, fault);
    let mut kept = steps(&mut rng);
    let mut size = kept.len().div_ceil(2);
    while size > 0 {
        let mut from = 0;
        while from < kept.len() {
            let mut fewer = kept.clone();
            fewer.drain(from..(from + size).min(kept.len()));
            if live(seed, Some(&fewer), fault, false).is_err() {
                kept = fewer;
            } else {
                from += size;
            }
        }
        size /= 2;
    }
    kept
}

/// The first of `count` histories that fails, by its seed, with what is wrong.
fn first_failure(first: u64, count: u64, fault: Option<Fault>) -> Option<(u64, String)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(0);
    let failed: Mutex<Option<(u64, String)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let seed = first.wrapping_add(number);
                    if let Err(what) = live(seed, None, fault, false) {
                        next.store(count, Ordering::Relaxed);
                        let mut failed = failed.lock().unwrap();
                        if failed.as_ref().is_none_or(|(earlier, _)| seed < *earlier) {
                            *failed = Some((seed, what));
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap()
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn nobody_who_has_to_go_reads_on_and_everybody_entitled_reads_the_newest_allowed_value() {
    if let Some(seed) = from_environment("STATEKEEPER_SEED") {
        let done = live(seed, None, None, true);
        if done.is_err() {
            tell_shrunk(seed);
        }
        assert_eq!(done, Ok(()), "STATEKEEPER_SEED={seed}");
        return;
    }
    let count = from_environment("STATEKEEPER_HISTORIES").unwrap_or(HISTORIES);
    let Some((seed, what)) = first_failure(0, count, None) else { return };
    tell_shrunk(seed);
    panic!("STATEKEEPER_SEED={seed} {what}");
}

fn tell_shrunk(seed: u64) {
    let steps = shrink(seed, None);
    eprintln!("the same with {} steps:", steps.len());
    let told = live(seed, Some(&steps), None, true);
    eprintln!("{told:?}");
}

/// How many histories it takes to find that a keeper is broken.
fn found_after(fault: Fault) -> Option<u64> {
    first_failure(0, 2_000, Some(fault)).map(|(seed, what)| {
        eprintln!("{fault:?} is found by seed {seed}: {what}");
        seed
    })
}

#[test]
fn a_keeper_that_is_broken_in_any_one_way_is_found() {
    for fault in [
        Fault::NothingRetiresOnLeave,
        Fault::NothingRetiresOnDecision,
        Fault::RetirementOverlooked,
        Fault::NewsOverheard,
        Fault::OldIndexShared,
        Fault::NoRefresh,
        Fault::SealsBeforeKeys,
        Fault::StillPresentSkipped,
        Fault::RedactedStaysCurrent,
        Fault::LateKeyForgotten,
        Fault::NothingRestored,
        Fault::NarrowedOverlooked,
        Fault::WordOverlooked,
        Fault::UsedUpOverlooked,
        Fault::PlainRedactedFirst,
        Fault::PlainTakenBack,
        Fault::PlainLeft,
    ] {
        assert!(found_after(fault).is_some(), "{fault:?} is not found");
    }
}
