//! Ten attackers ask as fast as they can, with everything made up, while honest joiners ask.
//!
//! `STATEKEEPER_HONEST` says how many these are, and with them how fast the attackers; six in the
//! everyday run, 50 and 1,000 requests a second in the benchmark `flood`, which measures time.

use serde_json::json;

use crate::{
    races::audience::Audience,
    simulated::{Flood, World, measure::size},
};

const ATTACKERS: usize = 10;
/// Requests a second for each honest joiner.
const PRESSURE: usize = 20;
const QUEUE: usize = 500;

#[tokio::test]
async fn attackers_keep_no_honest_joiner_from_the_key_and_hear_nothing() {
    let honest = size("STATEKEEPER_HONEST", 6).max(1);
    let per_second = honest * PRESSURE;
    let audience = Audience::open(json!({ "requests": { "queue": QUEUE } })).await;
    let named = audience.named("Tea").await;
    let sim = &audience.stage.sim;
    // More than a test has the patience for: it goes on until it is stopped.
    let each = per_second * 60;
    let flood = Flood { attackers: ATTACKERS, each, per_second, seed: 11 };
    let attack = flood.start(&named.room, &named.session_id());
    let begun = |_: &mut World| attack.sent() >= per_second;
    sim.wait_for("the attack has gone on for a second", begun).await;

    let sent_before = attack.sent();
    let joiners: Vec<_> = (0..honest)
        .map(|number| audience.member(&format!("honest{number}"), &named.room))
        .collect();
    for joiner in &joiners {
        named.asked_by(joiner, "honest");
    }
    for joiner in &joiners {
        audience.served(joiner, &named).await;
        let queued = audience.stage.keeper.metric("statekeeper_key_requests_queued", &[]).await;
        assert!(queued <= QUEUE as f64, "{queued} requests wait");
    }
    assert!(attack.is_under_way() && attack.sent() > sent_before, "nobody waited for its end");
    for joiner in &joiners {
        assert_eq!(joiner.keys_from_keeper().len(), 1, "{}", joiner.device_id);
    }
    for attacker in &attack.attackers {
        let heard = attacker.heard_from_keeper();
        assert!(heard.is_empty(), "{} hears {heard:?}", attacker.device_id);
    }
}
