//! What fan-outs are measured by: `OlmMachine::share_room_key` of matrix-sdk-crypto over its SQLite store, to
//! devices with which there are Olm sessions; and what the homeserver saw of either side's fan-out.

use std::time::{Duration, Instant};

use matrix_sdk_crypto::OlmMachine;
use matrix_sdk_sqlite::SqliteCryptoStore;
use ruma::{OwnedRoomId, OwnedUserId};

use super::{
    builder::RoomRef,
    measure::{mark, report},
    sim::{Registration, Sim},
    stand_in::{DEVICE, StandIn},
};

/// A machine of the library's that has Olm sessions with many devices, at a homeserver of its own.
pub struct Library {
    pub sim: Sim,
    pub stand_in: StandIn,
    members: Vec<OwnedUserId>,
    _folder: tempfile::TempDir,
}

impl Library {
    /// With Olm sessions with so many users' devices.
    pub async fn met(devices: usize) -> Self {
        let sim = Sim::start(Registration::new("http://127.0.0.1:9")).await;
        let members: Vec<OwnedUserId> = (1..=devices)
            .map(|number| OwnedUserId::try_from(format!("@m{number}:localhost")).unwrap())
            .collect();
        for member in &members {
            sim.user(member.as_str()).create();
        }
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteCryptoStore::open(folder.path(), Some("a passphrase")).await.unwrap();
        let user_id = OwnedUserId::try_from(sim.keeper()).unwrap();
        let machine = OlmMachine::with_store(&user_id, DEVICE.into(), store, None).await.unwrap();
        let stand_in = StandIn::publish_machine(&sim, machine).await;
        stand_in.meet(&members).await;
        Self { sim, stand_in, members, _folder: folder }
    }

    /// Shares a new session with all of them, once: from the call to the last 200.
    pub async fn share(&self, room_id: &OwnedRoomId) -> Duration {
        let started = Instant::now();
        self.stand_in.share_room_key(room_id, &self.members).await;
        started.elapsed()
    }

    /// The same so many times, each for a room of its own, and printed.
    pub async fn shares(&self, rounds: usize) -> Vec<Duration> {
        let (mut times, start) = (Vec::new(), mark(&self.sim));
        for round in 0..rounds {
            let room_id = OwnedRoomId::try_from(format!("!round{round}:localhost")).unwrap();
            times.push(self.share(&room_id).await);
        }
        report(&self.sim, "OlmMachine::share_room_key, per share", &times, start);
        times
    }
}

/// The instant of the last answer to a to-device request since `start`.
pub fn last_handed_over(sim: &Sim, start: usize) -> Instant {
    sim.with(|world| {
        let requests = world.requests.all.iter().skip(start);
        let sent = requests
            .filter(|request| request.endpoint == "sendToDevice" && request.status == Some(200))
            .map(|request| request.at + request.took);
        sent.max().expect("keys were sent")
    })
}

/// How many joined members' first devices cannot read all of a room's sealed state.
pub fn cannot_read(sim: &Sim, room: &RoomRef) -> usize {
    sim.with(|world| {
        let (members, keeper) = (world.room(&room.room_id).members("join"), world.keeper());
        let lacks = |user_id: &&String| {
            let device = sim.device(user_id, 1);
            **user_id != keeper && !world.closed_state(&room.room_id, device.id()).is_empty()
        };
        members.iter().filter(lacks).count()
    })
}
