//! Whoever the keeper invites reads what was said before he came, with a stock client.

use serde_json::{Value, json};

use crate::support::{
    api::Api,
    client::Sdk,
    eventually,
    js::JsClient,
    keeper::KEEPER,
    room::{JoinRule, RoomSpec, public_space},
    synapse,
    world::World,
};

const SENT: &str = "statekeeper_bundles_sent_total";

/// A company's space, into whose rooms the keeper invites its members.
struct Company {
    world: World,
    boss: JsClient,
    space_id: String,
}

impl Company {
    async fn found() -> Self {
        let overrides = json!({
            "access": { "admins": ["@boss:localhost"], "accept_knocks_from": ["*:localhost"] },
            "spaces": [{ "room": "#company:localhost", "invite": "all" }],
        });
        let mut world = World::without_keeper(synapse::Options::default(), &overrides).await;
        let api = Api::register(&world.synapse.url(), "boss").await;
        let boss = JsClient::start(&world.js, api, true).await;
        let mut body = public_space();
        body["room_alias_name"] = json!("company");
        let space_id = boss.create_room(body, false).await;
        world.keeper.start().await;
        Self { world, boss, space_id }
    }

    /// A room with a message in it that the boss sent before anybody else came.
    async fn room(&self, join_rule: JoinRule, history_visibility: &'static str) -> (String, Value) {
        let mut spec = RoomSpec { join_rule, history_visibility, ..RoomSpec::default() };
        spec.power.push((KEEPER.to_owned(), 100));
        let is_listed = matches!(spec.join_rule, JoinRule::Restricted(_));
        if !is_listed {
            spec.invite.push(KEEPER.to_owned());
        }
        let room_id = self.world.room(&self.boss, &spec).await;
        if is_listed {
            self.world.add_to_space(&self.boss, &self.space_id, &room_id).await;
            eventually("the keeper joins a room of the space", async || {
                self.boss.api.is_joined(&room_id, KEEPER).await.then_some(())
            })
            .await;
            self.boss.see_member(&room_id, KEEPER).await;
        }
        let message = self.boss.send_message(&room_id, "said before he came").await;
        // Under the same session: once the name is sealed, the keeper has its key.
        let named = self.boss.set_name(&room_id, "The room").await;
        self.world.sealed(&self.boss.api, &room_id, "m.room.name", &named).await;
        (room_id.clone(), self.boss.api.event(&room_id, &message).await)
    }

    fn restricted(&self) -> JoinRule {
        JoinRule::Restricted(self.space_id.clone())
    }

    async fn sent(&self) -> f64 {
        self.world.keeper.metrics().await.sum(SENT, &[])
    }
}

#[tokio::test]
async fn whoever_the_keeper_invites_reads_what_was_said_before_he_came() {
    let company = Company::found().await;
    let (room_id, message) = company.room(company.restricted(), "shared").await;
    for sdk in [Sdk::Js, Sdk::Rust] {
        let before = company.sent().await;
        let newcomer = company.world.stock_user(sdk, "newcomer").await;
        newcomer.join(&company.space_id).await;
        newcomer.see_invited(&room_id).await;
        assert!(company.sent().await > before, "the bundle is there before the invite");
        assert!(!newcomer.can_decrypt(&room_id, &message).await, "he has accepted nothing yet");
        newcomer.join(&room_id).await;
        eventually("the message is read", async || {
            newcomer.can_decrypt(&room_id, &message).await.then_some(())
        })
        .await;
        newcomer.see_name(&room_id, "The room").await;
    }
}

#[tokio::test]
async fn where_members_read_only_what_came_after_them_an_invite_brings_nothing_else() {
    let company = Company::found().await;
    let (room_id, message) = company.room(company.restricted(), "joined").await;
    for sdk in [Sdk::Js, Sdk::Rust] {
        let newcomer = company.world.stock_user(sdk, "newcomer").await;
        newcomer.join(&company.space_id).await;
        newcomer.see_invited(&room_id).await;
        newcomer.join(&room_id).await;
        newcomer.see_name(&room_id, "The room").await;
        assert!(!newcomer.can_decrypt(&room_id, &message).await, "he reads what came before him");
    }
    assert!(company.sent().await.abs() < f64::EPSILON, "a bundle was sent");
}
