//! A company's space: whoever is in it reads the name of each of its rooms the moment he opens it.

use serde_json::{Value, json};

use crate::support::{
    api::Api,
    client::Sdk,
    eventually,
    js::JsClient,
    keeper::KEEPER,
    room::{JoinRule, RoomSpec},
    synapse,
    world::World,
};

const ROOMS: usize = 10;

/// A space that an administrator has the keeper follow, with restricted rooms in it that have names.
struct Company {
    world: World,
    boss: JsClient,
    space_id: String,
    /// Each room with the event that the keeper sealed for its name.
    rooms: Vec<(String, Value)>,
}

impl Company {
    async fn found() -> Self {
        let overrides = json!({ "access": { "admins": ["@boss:localhost"] } });
        let world = World::with(synapse::Options::default(), &overrides).await;
        let api = Api::register(&world.synapse.url(), "boss").await;
        let boss = JsClient::start(&world.js, api, true).await;
        let (space_id, _) = world.space(&boss).await;
        boss.api.invite(&space_id, KEEPER).await;
        let mut rooms = Vec::new();
        for number in 0..ROOMS {
            let mut spec = RoomSpec {
                join_rule: JoinRule::Restricted(space_id.clone()),
                ..RoomSpec::default()
            };
            // Nobody invites the keeper: it comes because the space lists the room.
            spec.power.push((KEEPER.to_owned(), 100));
            let room_id = world.room(&boss, &spec).await;
            world.add_to_space(&boss, &space_id, &room_id).await;
            eventually("the keeper joins a room of the space", async || {
                boss.api.is_joined(&room_id, KEEPER).await.then_some(())
            })
            .await;
            boss.see_member(&room_id, KEEPER).await;
            let id = boss.set_name(&room_id, &name_of(number)).await;
            let sealed = world.sealed(&boss.api, &room_id, "m.room.name", &id).await;
            rooms.push((room_id, sealed));
        }
        Self { world, boss, space_id, rooms }
    }

    /// Waits until the keeper has given so many keys to people who have not joined.
    async fn given(&self, keys: f64) {
        eventually("people are provided for", async || {
            let name = "statekeeper_space_provisioned_total";
            let given = self.world.keeper.metrics().await.sum(name, &[("outcome", "given")]);
            (given >= keys).then_some(())
        })
        .await;
    }

    /// Waits until it is noted that a user was given a key for each room: before that the keeper does not go by it.
    async fn noted(&self, user_id: &str) {
        eventually("it is noted that he has the keys", async || {
            let arguments = ["ledger", "--config", "config.yaml", "--json", "--user", user_id];
            let rows = self.world.keeper.run(&arguments);
            let rows = rows.lines().filter_map(|row| serde_json::from_str::<Value>(row).ok());
            let delivered = rows.into_iter().filter(|row| row["outcome"] == "delivered");
            (delivered.count() >= ROOMS).then_some(())
        })
        .await;
    }

    async fn already_given(&self) -> f64 {
        let name = "statekeeper_space_provisioned_total";
        self.world.keeper.metrics().await.sum(name, &[("outcome", "given")])
    }
}

fn name_of(number: usize) -> String {
    format!("Room number {number}")
}

fn all_rooms() -> f64 {
    f64::from(u32::try_from(ROOMS).unwrap())
}

#[tokio::test]
async fn a_member_of_the_space_opens_each_room_and_its_name_is_there() {
    let company = Company::found().await;
    for sdk in [Sdk::Js, Sdk::Rust] {
        let before = company.already_given().await;
        let newcomer = company.world.stock_user(sdk, "newcomer").await;
        newcomer.join(&company.space_id).await;
        company.given(before + all_rooms()).await;
        company.noted(newcomer.user_id()).await;
        for (number, (room_id, _)) in company.rooms.iter().enumerate() {
            newcomer.join(room_id).await;
            newcomer.see_name(room_id, &name_of(number)).await;
        }
    }
    for (room_id, sealed) in &company.rooms {
        let event = company.boss.api.state_event(room_id, "m.room.encrypted", "m.room.name:").await;
        assert_eq!(event.unwrap()["event_id"], sealed["event_id"], "the name was sealed anew");
    }
    let metrics = company.world.keeper.metrics().await;
    let refreshes = metrics.sum("statekeeper_state_events_sealed_total", &[("cause", "join")]);
    assert!(refreshes.abs() < f64::EPSILON, "{refreshes} refreshes");
}

#[tokio::test]
async fn whoever_leaves_the_space_reads_no_later_name_of_rooms_that_he_never_joined() {
    let company = Company::found().await;
    let before = company.already_given().await;
    let leaver = company.world.stock_user(Sdk::Js, "leaver").await;
    leaver.join(&company.space_id).await;
    company.given(before + all_rooms()).await;
    for (room_id, sealed) in &company.rooms {
        assert!(leaver.can_decrypt(room_id, sealed).await, "he reads it before he joins");
    }
    leaver.api().leave(&company.space_id).await;
    eventually("the sessions that he holds retire", async || {
        let metrics = company.world.keeper.metrics().await;
        let ended = [("reason", "preview_ended")];
        (metrics.sum("statekeeper_rotations_total", &ended) >= all_rooms()).then_some(())
    })
    .await;
    for (room_id, _) in &company.rooms {
        let id = company.boss.set_name(room_id, "Without him").await;
        let sealed = company.world.sealed(&company.boss.api, room_id, "m.room.name", &id).await;
        assert!(!leaver.can_decrypt(room_id, &sealed).await, "he reads what came after");
    }
}

#[tokio::test]
async fn with_the_administrations_help_the_keeper_comes_into_rooms_and_has_the_power_to_seal() {
    let mut world = World::without_keeper(synapse::Options::default(), &Value::Null).await;
    let admin = world.synapse.administrator("root").await;
    let api = Api::register(&world.synapse.url(), "boss").await;
    let boss = JsClient::start(&world.js, api, true).await;
    let (space_id, rule) = world.space(&boss).await;
    // Nobody invites the keeper into the one, and nobody gives it power in the other.
    let closed = world.room(&boss, &RoomSpec::default()).await;
    let powerless = RoomSpec { join_rule: rule, ..RoomSpec::default() };
    let powerless = world.room(&boss, &powerless).await;
    for room_id in [&closed, &powerless] {
        world.add_to_space(&boss, &space_id, room_id).await;
    }
    world.keeper.write("admin-token", &admin.token);
    // Without help it says what has to be changed.
    world.keeper.configure(&json!({ "spaces": [{ "room": space_id }] }));
    world.keeper.start().await;
    let is_outside = |told: &str| {
        let stands = |room: &str, status: &str| {
            told.lines().any(|line| line.contains(room) && line.contains(status))
        };
        stands(&closed, "cannot_join") && stands(&powerless, "no_power")
    };
    let told = world.keeper.run(&["spaces", "--config", "config.yaml", "--wait"]);
    assert!(is_outside(&told), "{told}");
    world.keeper.terminate().await;
    let helped = json!({
        "room": space_id, "admin_assist": "synapse", "admin_token_file": "admin-token",
    });
    // Under `noop` it sends nothing, and so asks nobody for help.
    world.keeper.configure(&json!({ "noop": true, "spaces": [helped] }));
    world.keeper.start().await;
    let told = world.keeper.run(&["spaces", "--config", "config.yaml", "--wait"]);
    assert!(is_outside(&told), "{told}");
    world.keeper.terminate().await;
    world.keeper.configure(&json!({ "noop": false }));
    world.keeper.start().await;
    for room_id in [&closed, &powerless] {
        eventually("the keeper comes in", async || {
            boss.api.is_joined(room_id, KEEPER).await.then_some(())
        })
        .await;
        boss.see_member(room_id, KEEPER).await;
        let id = boss.set_name(room_id, "Let in").await;
        world.sealed(&boss.api, room_id, "m.room.name", &id).await;
    }
    let log = std::fs::read_to_string(world.keeper.log()).unwrap();
    assert!(!log.contains(&admin.token), "the token stands in the log");
}
