//! SIGKILL at random instants, in the middle of joins, renames, departures and redactions.
//!
//! `STATEKEEPER_KILLS` says how often; the everyday run keeps it small.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use crate::support::{
    client::{Sdk, StockClient},
    eventually,
    js::JsClient,
    room::RoomSpec,
    synapse,
    timeline::{megolm_place, reused_places},
    world::World,
};

const NOTE: &str = "org.example.note";
const MEMBERS: usize = 5;

fn kills() -> usize {
    let set = std::env::var("STATEKEEPER_KILLS").ok();
    set.map_or(5, |kills| kills.parse().expect("STATEKEEPER_KILLS is a number"))
}

/// What the room must show when everything has settled.
struct Story {
    owner: JsClient,
    moderator: JsClient,
    room_id: String,
    members: Vec<StockClient>,
    name: String,
    topic: String,
    note: Option<Value>,
}

impl Story {
    async fn begin(world: &World) -> Self {
        let owner = world.js_user("owner").await;
        let moderator = world.js_user("moderator").await;
        let mut spec = RoomSpec::public().with_keeper();
        spec.power.push((moderator.api.user_id.clone(), 50));
        let room_id = world.room(&owner, &spec).await;
        let both = StockClient::Js(moderator.clone());
        both.join(&room_id).await;
        both.see_joined(&room_id).await;
        Self {
            owner,
            moderator,
            room_id,
            members: vec![both],
            name: String::new(),
            topic: String::new(),
            note: None,
        }
    }

    /// What happens in one round; a kill falls somewhere into it.
    async fn events_of(&mut self, round: usize, newcomer: Option<StockClient>) {
        self.name = format!("Name {round}");
        self.topic = format!("Topic {round}");
        let arrive = async {
            let newcomer = newcomer?;
            newcomer.join(&self.room_id).await;
            Some(newcomer)
        };
        let note = json!({ "text": format!("Note {round}") });
        let annotate = async {
            let id = self.owner.set_state(&self.room_id, NOTE, note.clone()).await;
            if round % 4 != 2 {
                return Some(note.clone());
            }
            self.owner.redact(&self.room_id, &id).await;
            None
        };
        let (arrived, _, _, note) = tokio::join!(
            arrive,
            self.owner.set_name(&self.room_id, &self.name),
            self.moderator.set_topic(&self.room_id, &self.topic),
            annotate,
        );
        self.note = note;
        self.members.extend(arrived);
        if self.members.len() > MEMBERS {
            // The moderator stands first and stays.
            let leaver = self.members.remove(1);
            let path = format!("v3/rooms/{}/leave", crate::support::api::encode(&self.room_id));
            leaver.api().call(http::Method::POST, &path, Some(json!({}))).await.unwrap();
        }
    }

    /// Fails with the room's story when it does not settle.
    async fn settles(&self) {
        if let Err(failure) =
            AssertUnwindSafe(self.everybody_sees_everything()).catch_unwind().await
        {
            self.tell().await;
            resume_unwind(failure);
        }
    }

    /// What happened in the room: time, event, place in its session, sender and what was done.
    async fn tell(&self) {
        for event in self.owner.api.timeline(&self.room_id).await {
            let place = megolm_place(&event);
            let place = place.map(|place| format!("{} at {}", place.session_id, place.index));
            eprintln!(
                "{} {} {} {} {} {}",
                event["origin_server_ts"],
                event["event_id"],
                event["sender"],
                event["type"],
                event["state_key"],
                place.unwrap_or_else(|| event["content"]["membership"].to_string()),
            );
        }
    }

    /// Everybody shows everything that is current, and nothing that was taken back.
    async fn everybody_sees_everything(&self) {
        for member in &self.members {
            member.see_name(&self.room_id, &self.name).await;
            member.see_topic(&self.room_id, &self.topic).await;
            if let Some(note) = &self.note {
                member.see_state(&self.room_id, NOTE, note).await;
            }
        }
        if self.note.is_none() {
            eventually("a redacted note is unreadable", async || {
                let packed = format!("{NOTE}:");
                let api = &self.owner.api;
                let event = api.state_event(&self.room_id, "m.room.encrypted", &packed).await?;
                event["content"]["ciphertext"].is_null().then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_the_keeper_is_killed_everybody_ends_up_seeing_everything() {
    let logging =
        json!({ "logging": { "level": "info,statekeeper=debug,matrix_sdk_crypto=debug" } });
    let mut world = World::with(synapse::Options::default(), &logging).await;
    let mut story = Story::begin(&world).await;
    let kills = kills();
    for round in 0..kills {
        let newcomer = match round % 3 {
            0 => Some(world.stock_user(Sdk::Js, "member").await),
            1 if round % 2 == 0 => Some(world.stock_user(Sdk::Rust, "member").await),
            _ => None,
        };
        let wait_until_ready = rand::random_bool(0.6);
        if wait_until_ready {
            world.keeper.ready().await;
        }
        let delay = Duration::from_millis(rand::random_range(0..600));
        eprintln!("round {round}: kill after {delay:?}, ready before: {wait_until_ready}");
        let deadline = Instant::now() + delay;
        // The instant owes nothing to how far the round's events have come.
        tokio::join!(story.events_of(round, newcomer), async {
            tokio::time::sleep_until(deadline.into()).await;
            world.keeper.kill();
            world.keeper.spawn();
        });
        // A lost promise shows only while nothing comes after it, so some rounds are looked at on
        // their own; others run into the next kill.
        if round % 3 == 2 || round + 1 == kills {
            story.settles().await;
        }
    }
    story.settles().await;
    world.keeper.ready().await;
    let timeline = story.owner.api.timeline(&story.room_id).await;
    let reused = reused_places(&timeline);
    assert!(reused.is_empty(), "Megolm indices that stand in two events: {reused:?}");
}
