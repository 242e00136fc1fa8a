//! A stage on which keys go only to those who ask. Alice is no exception: she asks for each session
//! under which the keeper seals what she set.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{DeviceRef, RoomRef, World, keeper::merge, room::Event, sim::PATIENCE},
};

/// The stage, with the keeper ready.
pub struct Audience {
    pub stage: Stage,
}

/// A room, and the keeper's seal of one of its values.
pub struct Named {
    pub room: RoomRef,
    /// The packed state key under which it is sealed.
    pub packed: String,
    pub seal: Event,
}

/// What a device sees of a tuple.
enum Seen {
    /// Nothing of the keeper's, or another value.
    Nothing,
    /// Something under a session that it lacks.
    Closed(String),
    /// What it waits for.
    Wanted(Box<Event>),
}

impl Seen {
    fn by(
        world: &mut World,
        device: &DeviceRef,
        (room_id, packed): (&str, &str),
        content: &Value,
    ) -> Self {
        let Some(seal) = world.keeper_seal(room_id, packed) else { return Self::Nothing };
        match world.open(device.id(), &seal) {
            Ok(opened) if opened.content() == content => Self::Wanted(Box::new(seal)),
            Ok(_) => Self::Nothing,
            Err(_) => Self::Closed(session_of(&seal)),
        }
    }
}

fn session_of(seal: &Event) -> String {
    seal.sent_content()["session_id"].as_str().expect("it is a sealed event").to_owned()
}

impl Named {
    /// The session under which it is sealed.
    pub fn session_id(&self) -> String {
        session_of(&self.seal)
    }

    /// Lets a device ask for the session.
    pub fn asked_by(&self, device: &DeviceRef, request_id: &str) {
        device.ask_for_key(&self.room.room_id, &self.session_id(), request_id);
    }
}

impl Audience {
    /// A keeper that gives keys to those who ask, with `settings` over that.
    pub async fn open(settings: Value) -> Self {
        let mut all = json!({ "sharing": { "unasked": false } });
        merge(&mut all, &settings);
        let mut stage = Stage::prepare(all).await;
        stage.keeper.start().await;
        Self { stage }
    }

    /// A room of Alice's with a name.
    pub async fn named(&self, name: &str) -> Named {
        let room = self.stage.room().await;
        self.name(&room, name).await
    }

    /// Alice names the room, and the keeper seals it.
    pub async fn name(&self, room: &RoomRef, name: &str) -> Named {
        self.set(room, ("m.room.name", ""), &json!({ "name": name })).await
    }

    /// Alice sends state, and the keeper seals it.
    pub async fn set(&self, room: &RoomRef, tuple: (&str, &str), content: &Value) -> Named {
        let (sim, alice) = (&self.stage.sim, self.stage.alice_device());
        alice.send_state(room, tuple, content);
        let packed = format!("{}:{}", tuple.0, tuple.1);
        let what = format!("Alice reads what the keeper seals as {packed}");
        let mut asked = BTreeSet::new();
        loop {
            let mut seen = Seen::Nothing;
            let news = |world: &mut World| {
                seen = Seen::by(world, &alice, (&room.room_id, &packed), content);
                match &seen {
                    Seen::Wanted(_) => true,
                    Seen::Closed(session_id) => !asked.contains(session_id),
                    Seen::Nothing => false,
                }
            };
            sim.wait_for(&what, news).await;
            match seen {
                Seen::Wanted(seal) => return Named { room: room.clone(), packed, seal: *seal },
                Seen::Closed(session_id) => {
                    alice.ask_for_key(&room.room_id, &session_id, &format!("for {session_id}"));
                    asked.insert(session_id);
                }
                Seen::Nothing => {}
            }
        }
    }

    /// A new user with one cross-signed device, who joins a room.
    pub fn member(&self, name: &str, room: &RoomRef) -> DeviceRef {
        let user = self.stage.sim.user(name).create();
        self.stage.sim.join(room, &user.user_id);
        user.device(1)
    }

    /// Waits until a device can open the tuple as it is sealed now: what was sealed since stands
    /// under the same session.
    pub async fn served(&self, device: &DeviceRef, named: &Named) {
        let what = format!("{} gets the key that it asked for", device.device_id);
        let opens = |world: &mut World| {
            let seal = world.keeper_seal(&named.room.room_id, &named.packed);
            seal.is_some_and(|seal| world.open(device.id(), &seal).is_ok())
        };
        self.stage.sim.wait_for(&what, opens).await;
    }

    /// Waits until the keeper has taken in everything that happened in rooms.
    pub async fn told_of_all(&self) {
        self.stage.sim.wait_for("all events are pushed", |world| world.all_pushed()).await;
    }

    /// Makes sure that whoever asked before has had his turn: somebody who joins now and asks last
    /// was served, and no request waits.
    pub async fn turn_is_over(&self, room: &RoomRef) {
        let seal = self.stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME));
        let seal = seal.expect("the room has a name");
        let named = Named { room: room.clone(), packed: NAME.to_owned(), seal };
        let tick = self.stage.sim.with(|world| world.tick());
        let witness = self.member(&format!("witness{tick}"), room);
        named.asked_by(&witness, "witness");
        self.served(&witness, &named).await;
        self.none_waits().await;
        let counted = self.stage.keeper.metric("statekeeper_key_requests_total", &[]).await;
        assert!(counted > 0.0, "requests are counted");
    }

    /// Waits until no request waits for its turn.
    pub async fn none_waits(&self) {
        let name = "statekeeper_key_requests_queued";
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.stage.keeper.metric(name, &[]).await > 0.0 {
            assert!(tokio::time::Instant::now() < deadline, "requests wait for {PATIENCE:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}
