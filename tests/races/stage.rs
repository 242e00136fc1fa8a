//! What the tests of this file begin with: a simulated homeserver, Alice, and a keeper that is
//! ready.

use serde_json::{Value, json};

use crate::simulated::{DeviceRef, Keeper, RoomRef, Sim, UserRef, World, keeper::merge};

/// The packed state key of a room's name.
pub const NAME: &str = "m.room.name:";

/// A homeserver and the keeper beside it.
pub struct Stage {
    pub sim: Sim,
    pub keeper: Keeper,
    pub alice: UserRef,
}

impl Stage {
    /// Everything but the running keeper: short delays unless `settings` say otherwise.
    pub async fn prepare(settings: Value) -> Self {
        let mut all = json!({
            "sharing": { "refresh_per_second": 1000, "refresh_window": "20ms" },
            "state": { "reseal_delay": "20ms" },
        });
        merge(&mut all, &settings);
        let (sim, keeper) = Keeper::with_sim(all).await;
        let alice = sim.user("alice").create();
        Self { sim, keeper, alice }
    }

    /// The same with the keeper ready.
    pub async fn open() -> Self {
        Self::with(json!({})).await
    }

    /// The same with settings of its own.
    pub async fn with(settings: Value) -> Self {
        let mut stage = Self::prepare(settings).await;
        stage.keeper.start().await;
        stage
    }

    /// Alice's device.
    pub fn alice_device(&self) -> DeviceRef {
        self.alice.device(1)
    }

    /// A room of Alice's which the keeper is invited to and joins.
    pub async fn room(&self) -> RoomRef {
        let room = self.sim.room().create();
        self.invite_keeper(&room).await;
        room
    }

    /// Invites the keeper with the power to work, and waits for its join.
    pub async fn invite_keeper(&self, room: &RoomRef) {
        let keeper = self.sim.keeper();
        room.set_power(&keeper, 100);
        room.invite(&keeper);
        let joined =
            |world: &mut World| world.room(&room.room_id).membership(&world.keeper()) == "join";
        self.sim.wait_for("the keeper joins", joined).await;
    }

    /// Alice names the room, and the keeper seals it.
    pub async fn name(&self, room: &RoomRef, name: &str) {
        self.alice_device().rename(room, name);
        self.sealed(room, NAME, &json!({ "name": name })).await;
    }

    /// A room with a name which the keeper sealed.
    pub async fn named_room(&self, name: &str) -> RoomRef {
        let room = self.room().await;
        self.name(&room, name).await;
        room
    }

    /// Alice sends state, and the keeper seals it.
    pub async fn set(&self, room: &RoomRef, tuple: (&str, &str), content: Value) {
        self.alice_device().send_state(room, tuple, &content);
        self.sealed(room, &format!("{}:{}", tuple.0, tuple.1), &content).await;
    }

    /// Waits until Alice reads this as the keeper's current value of a tuple.
    pub async fn sealed(&self, room: &RoomRef, packed: &str, content: &Value) {
        let alice = self.alice_device();
        let what = format!("the keeper seals {packed} as {content}");
        self.sim.wait_for(&what, |world| reads(world, &alice, room, packed, content)).await;
    }

    /// Waits until a device reads this name in the keeper's words.
    pub async fn shows(&self, device: &DeviceRef, room: &RoomRef, name: &str) {
        let what = format!("{} reads the name {name}", device.device_id);
        self.sim.wait_for(&what, |world| device.reads_name_in(world, room, name)).await;
    }

    /// Makes sure that the keeper has dealt with all that happened in a room so far: what comes
    /// later in the same room was sealed.
    pub async fn settle(&self, room: &RoomRef, token: &str) {
        self.set(room, ("m.room.topic", ""), json!({ "topic": token })).await;
    }

    /// How often the keeper has sealed a tuple.
    pub fn seals(&self, room: &RoomRef, packed: &str) -> usize {
        self.sim.with(|world| world.keeper_seals(&room.room_id, packed).len())
    }
}

/// Does a device read this as the keeper's current value of a tuple?
pub fn reads(
    world: &mut World,
    device: &DeviceRef,
    room: &RoomRef,
    packed: &str,
    content: &Value,
) -> bool {
    world.keeper_seal(&room.room_id, packed).is_some()
        && device.reads_in(world, room, packed).is_ok_and(|opened| opened.content() == content)
}
