//! What somebody does to a keeper at its homeserver, and to its own files: the doctor, what the alert rests on and the
//! management room each name the cause and the mend. What is done to the store, the clock and the
//! one-time keys is shown in `tests/races/sabotage.rs`.

use std::time::Duration;

use http::Method;
use ruma::{device_id, user_id};
use serde_json::{Value, json};
use statekeeper::admin::Trouble;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::{
    management::Office,
    support::{
        api::{self, encode},
        eventually,
        keeper::KEEPER,
        now_ms,
        room::RoomSpec,
    },
};

/// One world for all of them, one after another: a homeserver is dear.
async fn office() -> MutexGuard<'static, Office> {
    static OFFICE: OnceCell<Mutex<Office>> = OnceCell::const_new();
    let office = OFFICE.get_or_init(async || Mutex::new(Office::open(true).await)).await;
    office.lock().await
}

impl Office {
    /// Waits until a metric that an alert rests on is so.
    async fn metric(&self, name: &str, label: (&str, &str), such: impl Fn(f64) -> bool) {
        eventually(&format!("{name}{{{label:?}}} makes the alert fire"), async || {
            let metrics = self.world.keeper.try_metrics().await?;
            such(metrics.sum(name, &[label])).then_some(())
        })
        .await;
    }

    async fn lasts(&self, trouble: Trouble) {
        let label = ("cause", trouble.as_str());
        self.metric("statekeeper_trouble", label, |value| value >= 1.0).await;
    }

    async fn is_over(&self, trouble: Trouble) {
        let label = ("cause", trouble.as_str());
        self.metric("statekeeper_trouble", label, |value| value < 1.0).await;
    }

    /// Waits until the doctor finds something at this check; what mends it.
    async fn doctor(&self, level: &str, check: &str) -> Value {
        eventually(&format!("the doctor finds {level} at {check}"), async || {
            let said = self.world.keeper.doctor();
            let mut findings = said["findings"].as_array().unwrap().iter();
            let found = findings.find(|it| it["check"] == check && it["level"] == level)?;
            assert_eq!(found["fix"].is_string(), level != "fine", "{found}");
            Some(found.clone())
        })
        .await
    }

    /// Waits until the administrator's client shows a notice with all of this in it. What went wrong while the homeserver was
    /// away is told after the keeper's next try, which may be a minute later.
    async fn is_told(&self, parts: &[&str]) {
        let params = json!({ "room_id": self.room_id, "parts": parts });
        let seen = self.admin.wait("waitNotice", params, Duration::from_secs(90)).await;
        seen.unwrap_or_else(|error| panic!("{error}\n{}", self.world.keeper.output()));
    }

    async fn is_told_of_the_past(&self, trouble: Trouble) {
        self.is_told(&[trouble.cause(), ", from 20", "Should it come again: ", trouble.mend()])
            .await;
    }

    /// Whoever is told something can also ask.
    async fn is_at_work(&self) {
        let asked = self.says("!keeper holds").await;
        self.reacted(&asked, "✅").await;
    }

    /// Does something with the keeper's own token.
    async fn with_token(&self, method: Method, path: &str, body: Value) -> Value {
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("/_matrix/client/v3/{path}{separator}user_id={}", encode(KEEPER));
        let url = format!("{}{path}", self.world.synapse.url());
        let token = self.world.keeper.as_token();
        api::send(method, &url, Some(&token), Some(&body)).await.unwrap()
    }

    async fn device(&self) -> String {
        let body = json!({ "device_keys": { KEEPER: [] } });
        let answer = self.admin.api.call(Method::POST, "v3/keys/query", Some(body)).await.unwrap();
        answer["device_keys"][KEEPER].as_object().unwrap().keys().next().unwrap().clone()
    }

    /// Gives the homeserver another registration than the keeper's.
    async fn give_registration(&mut self, change: impl Fn(&str) -> String) {
        let own = std::fs::read_to_string(self.world.keeper.registration()).unwrap();
        self.world.keeper.write("elsewhere.yaml", &change(&own));
        let path = self.world.keeper.dir().join("elsewhere.yaml");
        self.restart_homeserver_with(&path).await;
    }

    async fn give_own_registration(&mut self) {
        let path = self.world.keeper.registration();
        self.restart_homeserver_with(&path).await;
    }

    async fn restart_homeserver_with(&mut self, registration: &std::path::Path) {
        self.world.synapse.stop();
        self.world.synapse.configure("app_service_config_files", &json!([registration]));
        self.world.synapse.resume().await;
    }
}

#[tokio::test]
async fn a_keeper_that_was_demoted_is_named_with_the_power_that_it_needs() {
    let office = office().await;
    let room = office.world.room(&office.admin, &RoomSpec::public().with_keeper()).await;
    office.admin.set_name(&room, "Mutiny").await;
    office.admin.api.set_power(&room, KEEPER, 0).await;
    office.metric("statekeeper_rooms", ("status", "not_elevated"), |rooms| rooms >= 1.0).await;
    let finding = office.doctor("trouble", "room").await;
    assert_eq!(finding["about"], room.as_str());
    assert!(finding["fix"].as_str().unwrap().contains("sets the keeper to 50"), "{finding}");
    let level = format!("set users[\"{KEEPER}\"] to 50");
    office.is_told(&[&format!("I am not elevated in {room}"), &level]).await;
    office.admin.api.set_power(&room, KEEPER, 100).await;
    office.metric("statekeeper_rooms", ("status", "not_elevated"), |rooms| rooms < 1.0).await;
}

#[tokio::test]
async fn a_device_that_was_deleted_is_named_though_it_was_made_again() {
    let office = office().await;
    let device = office.device().await;
    let before = now_ms() / 1000.0;
    office.with_token(Method::DELETE, &format!("devices/{device}"), json!({})).await;
    let begun = "statekeeper_trouble_last_begun_seconds";
    office.metric(begun, ("cause", "device"), |at| at >= before.floor()).await;
    let finding = office.doctor("warning", "device").await;
    assert_eq!(finding["fix"], Trouble::Device.mend());
    assert!(finding["text"].as_str().unwrap().contains(Trouble::Device.cause()), "{finding}");
    office.is_told_of_the_past(Trouble::Device).await;
    office.is_at_work().await;
}

#[tokio::test]
async fn a_reset_of_the_keepers_cross_signing_is_named_and_a_restart_mends_it() {
    let mut office = office().await;
    let stranger =
        matrix_sdk_crypto::OlmMachine::new(user_id!("@statekeeper:localhost"), device_id!("X"))
            .await;
    let keys = stranger.bootstrap_cross_signing(true).await.unwrap().upload_signing_keys_req;
    let body = json!({
        "master_key": keys.master_key,
        "self_signing_key": keys.self_signing_key,
        "user_signing_key": keys.user_signing_key,
    });
    office.with_token(Method::POST, "keys/device_signing/upload", body).await;
    office.lasts(Trouble::Identity).await;
    let finding = office.doctor("trouble", "cross_signing").await;
    assert_eq!(finding["fix"], Trouble::Identity.mend());
    // A device that clients do not trust does not encrypt: the room is told by the one that they trust again.
    office.world.keeper.restart().await;
    office.is_told_of_the_past(Trouble::Identity).await;
    office.is_over(Trouble::Identity).await;
    office.doctor("fine", "cross_signing").await;
    office.is_at_work().await;
}

#[tokio::test]
async fn a_homeserver_that_is_down_is_named_and_the_room_is_told_when_it_was() {
    let mut office = office().await;
    office.world.synapse.stop();
    let stopped = now_ms();
    office.lasts(Trouble::Homeserver).await;
    office.metric("statekeeper_missing", ("part", "homeserver"), |value| value >= 1.0).await;
    let finding = office.doctor("trouble", "homeserver").await;
    assert_eq!(finding["fix"], Trouble::Homeserver.mend());
    eventually("it is away for long enough to be told of", async || {
        (now_ms() - stopped > 17_000.0).then_some(())
    })
    .await;
    office.world.synapse.resume().await;
    office.is_told_of_the_past(Trouble::Homeserver).await;
    office.is_over(Trouble::Homeserver).await;
    office.is_at_work().await;
}

#[tokio::test]
async fn a_token_that_the_homeserver_does_not_know_is_named_and_waited_for() {
    let mut office = office().await;
    let own = office.world.keeper.as_token();
    office.give_registration(|own_file| own_file.replace(&own, "another-token-of-somebody")).await;
    office.lasts(Trouble::Token).await;
    let finding = office.doctor("trouble", "token").await;
    assert_eq!(finding["fix"], Trouble::Token.mend());
    office.world.keeper.assert_alive();
    assert!(office.world.keeper.output().contains(Trouble::Token.mend()));

    // One that is started meanwhile waits as well.
    office.world.keeper.kill();
    office.world.keeper.spawn();
    office.lasts(Trouble::Token).await;
    office.give_own_registration().await;
    office.world.keeper.ready().await;
    office.is_told_of_the_past(Trouble::Token).await;
    office.is_at_work().await;
}

#[tokio::test]
async fn a_localpart_that_the_homeserver_does_not_allow_is_named_and_waited_for() {
    let mut office = office().await;
    office.give_registration(|own_file| own_file.replace("@statekeeper:", "@another:")).await;
    office.world.keeper.wait_for_end().await;
    office.world.keeper.spawn();
    office.lasts(Trouble::Localpart).await;
    let finding = office.doctor("trouble", "namespace").await;
    assert!(finding["fix"].as_str().unwrap().starts_with(Trouble::Localpart.mend()), "{finding}");
    office.give_own_registration().await;
    office.world.keeper.ready().await;
    office.is_told_of_the_past(Trouble::Localpart).await;

    // With a localpart that its own registration does not have, it does not start at all, and says why.
    office.world.keeper.kill();
    office.world.keeper.configure(&json!({ "appservice": { "bot": { "localpart": "other" } } }));
    office.world.keeper.spawn();
    office.world.keeper.wait_for_end().await;
    let said = office.world.keeper.output();
    assert!(said.contains("no regex fits the keeper, @other:localhost; write one like"), "{said}");
    let finding = office.doctor("trouble", "config").await;
    assert!(finding["text"].as_str().unwrap().contains("namespaces.users"), "{finding}");
    let own = json!({ "appservice": { "bot": { "localpart": "statekeeper" } } });
    office.world.keeper.configure(&own);
    office.world.keeper.start().await;
    office.is_at_work().await;
}
