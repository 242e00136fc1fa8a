//! Attackers who ask and ask: for sessions, in rooms, from devices and under request ids that they
//! make up.
//!
//! Their requests come to the keeper as any to-device event does, through `/sync` and at most so
//! many an answer. A real homeserver may drop a part of such a flood; this one is on nobody's side.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    asking::key_request,
    builder::{DeviceRef, RoomRef},
    sim::Sim,
};

/// How often attackers act: what is due since the last time goes out at once.
const BEAT: Duration = Duration::from_millis(10);

/// A flood in the making.
pub struct Flood {
    /// How many attackers there are. Every other one is a member of the room.
    pub attackers: usize,
    /// How many requests each of them sends.
    pub each: usize,
    /// How many requests a second all of them send together.
    pub per_second: usize,
    /// What the attackers make up follows from it.
    pub seed: u64,
}

/// A flood that is under way. Dropping it ends it.
pub struct Attack {
    pub attackers: Vec<DeviceRef>,
    sent: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Flood {
    /// The attackers come into being and begin. `session_id` is a session of the room which they
    /// would like to have.
    pub fn start(self, room: &RoomRef, session_id: &str) -> Attack {
        let sim = room.sim.clone();
        let attackers: Vec<DeviceRef> = (1..=self.attackers)
            .map(|number| sim.user(&format!("attacker{number}")).create().device(1))
            .collect();
        for member in attackers.iter().step_by(2) {
            sim.join(room, &member.user_id);
        }
        let sent = Arc::new(AtomicUsize::new(0));
        let forger = Forger {
            rng: StdRng::seed_from_u64(self.seed),
            room_id: room.room_id.clone(),
            session_id: session_id.to_owned(),
        };
        let task = tokio::spawn(self.run(sim, attackers.clone(), forger, sent.clone()));
        Attack { attackers, sent, task }
    }

    async fn run(
        self,
        sim: Sim,
        attackers: Vec<DeviceRef>,
        mut forger: Forger,
        sent: Arc<AtomicUsize>,
    ) {
        let (started, total) = (Instant::now(), self.attackers * self.each);
        let mut beat = tokio::time::interval(BEAT);
        let mut done = 0;
        while done < total {
            beat.tick().await;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let due = (started.elapsed().as_secs_f64() * self.per_second as f64) as usize;
            let due = due.min(total);
            if due <= done {
                continue;
            }
            sim.change(|world| {
                for number in done..due {
                    let attacker = &attackers[number % attackers.len()];
                    world.request_key(&attacker.user_id, &forger.request(&attacker.device_id));
                }
            });
            done = due;
            sent.store(done, Ordering::Relaxed);
        }
    }
}

impl Attack {
    /// How many requests have been sent.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Are there more to come?
    pub fn is_under_way(&self) -> bool {
        !self.task.is_finished()
    }

    /// Waits until all requests are sent.
    ///
    /// # Panics
    /// When the attackers did.
    pub async fn finished(&mut self) {
        (&mut self.task).await.expect("the attackers do as they are told");
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Makes requests up.
struct Forger {
    rng: StdRng,
    room_id: String,
    session_id: String,
}

impl Forger {
    /// A request in which something is invented, or all of it, and which is like no other.
    fn request(&mut self, device_id: &str) -> Value {
        let request_id = self.letters(32);
        let invented = (self.letters(43), format!("!{}:localhost", self.letters(18)));
        let kind = self.rng.random_range(0..4);
        let session = if kind == 0 || kind == 3 { &invented.0 } else { &self.session_id };
        let room = if kind == 1 || kind == 3 { &invented.1 } else { &self.room_id };
        let ghost = format!("GHOST{}", &invented.0[..8]);
        let device = if kind == 2 || kind == 3 { &ghost } else { device_id };
        key_request((room, session), device, &request_id)
    }

    fn letters(&mut self, count: usize) -> String {
        let rng = &mut self.rng;
        std::iter::repeat_with(|| char::from(rng.sample(rand::distr::Alphanumeric)))
            .take(count)
            .collect()
    }
}
