//! What a joiner sees without and with the keeper, on one machine and with real parts.
//!
//! `make demo` installs what this needs and runs it. `DEMO_EXIT=1` ends it by itself, with exit code
//! 0 only when the joiner saw the name where the keeper was, and saw none where it was not.
// The futures of matrix-sdk are nested deeper than the default.
#![recursion_limit = "256"]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    process::{Command, ExitCode},
    time::Duration,
};

use support::{
    client::{Sdk, StockClient},
    js::JsClient,
    keeper::KEEPER,
    room::RoomSpec,
    world::World,
};

const NAME: &str = "The Orchard";

/// What the joiner's client showed for one room.
struct Seen {
    label: String,
    named: bool,
    joined_in: f64,
    shown_after: Option<f64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    build_the_keeper();
    println!("Starting Synapse, the keeper and two stock clients (matrix-js-sdk) ...");
    let world = World::start().await;
    let owner = world.js_user("owner").await;
    let joiner = world.stock_user(Sdk::Js, "joiner").await;

    let without = world.room(&owner, &RoomSpec::public()).await;
    owner.set_name(&without, NAME).await;
    let with = world.room(&owner, &RoomSpec::public().with_keeper()).await;
    let original = owner.set_name(&with, NAME).await;
    world.sealed(&owner.api, &with, "m.room.name", &original).await;
    println!("A stock client made two public rooms with encrypted state, named {NAME:?}.");
    println!("{KEEPER} is in the second. Somebody joins both, without an invite.\n");

    let first = look(&joiner, &owner, &without, false).await;
    let second = look(&joiner, &owner, &with, true).await;
    print_side_by_side(&first, &second);

    let as_hoped = !first.named && second.named;
    if std::env::var_os("DEMO_EXIT").is_none_or(|value| value.is_empty()) {
        print_addresses(&world, &owner, &joiner, &[&without, &with]);
        tokio::signal::ctrl_c().await.unwrap();
    }
    if as_hoped { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Cargo builds the example without the binary that it shows. Both are named, since the binary alone is built with other
/// features of its dependencies, and what Cargo told this process of its package is kept from it, since some of them are
/// built anew where that changes.
fn build_the_keeper() {
    let Some(cargo) = std::env::var_os("CARGO") else { return };
    let mut build = Command::new(cargo);
    for (name, _) in std::env::vars_os() {
        let told = ["CARGO_PKG_", "CARGO_MANIFEST_"];
        if name.to_str().is_some_and(|name| told.iter().any(|prefix| name.starts_with(prefix))) {
            build.env_remove(&name);
        }
    }
    let built = build
        .args(["build", "--quiet", "--bins", "--examples"])
        .current_dir(support::repository())
        .status()
        .unwrap();
    assert!(built.success(), "the keeper does not build");
}

/// Joins, and looks at the room until it has its name or, where nobody will give the joiner a key,
/// until the client has read a message that was sent after the join.
async fn look(joiner: &StockClient, owner: &JsClient, room_id: &str, keeper: bool) -> Seen {
    let join = joiner.join(room_id).await;
    let shown = if keeper {
        joiner.name_within(room_id, NAME, Duration::from_secs(20)).await.ok()
    } else {
        joiner.see_joined(room_id).await;
        owner.see_member(room_id, joiner.user_id()).await;
        owner.send_message(room_id, "hello").await;
        joiner.see_message(room_id, "hello").await;
        joiner.name_within(room_id, NAME, Duration::from_millis(1)).await.ok()
    };
    let StockClient::Js(client) = joiner else { unreachable!("the demo's joiner is on js-sdk") };
    let room = client.call("shown", serde_json::json!({ "room_id": room_id })).await;
    Seen {
        label: room["label"].as_str().unwrap_or("(nothing)").to_owned(),
        named: shown.is_some(),
        joined_in: join.answered_at - join.sent_at,
        shown_after: shown.map(|at| at - join.answered_at),
    }
}

fn print_side_by_side(without: &Seen, with: &Seen) {
    let time = |seen: &Seen| match seen.shown_after {
        Some(after) if after < 1.0 => "with the join".to_owned(),
        Some(after) => format!("{after:.0} ms after the join"),
        None => "never".to_owned(),
    };
    let row = |what: &str, left: &str, right: &str| println!("  {what:<25}{left:<30}{right}");
    row("", "without the keeper", "with the keeper");
    row("", "------------------", "---------------");
    row("the joiner's list says", &without.label, &with.label);
    row("the name was shown", &time(without), &time(with));
    let [left, right] = [without, with].map(|seen| format!("{:.0} ms", seen.joined_in));
    row("the join itself took", &left, &right);
    println!();
}

fn print_addresses(world: &World, owner: &JsClient, joiner: &StockClient, rooms: &[&str; 2]) {
    println!("Everything keeps running. Ctrl-C ends it.");
    println!("  homeserver        {}", world.synapse.url());
    println!("  keeper            {}/metrics", world.keeper.admin_url());
    println!("  keeper's log      {}", world.keeper.log().display());
    println!("  without, with     {}  {}", rooms[0], rooms[1]);
    for api in [&owner.api, joiner.api()] {
        println!("  user              {}  password: {}", api.user_id, api.password);
    }
    println!("Log in with a client that has encrypted state switched on.");
}
