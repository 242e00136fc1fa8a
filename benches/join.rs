//! How long somebody looks at a room without a name, on one machine and with real parts: Synapse, the
//! keeper's own binary and matrix-js-sdk.
//!
//! `STATEKEEPER_BENCH_ROUNDS` (20). Install Synapse and the client first with `tests/setup.sh`. A
//! busy machine shows in every figure here, so let nothing else run beside it.
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
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use support::{
    PATIENCE,
    client::{Join, Sdk, StockClient},
    eventually,
    js::JsClient,
    keeper::{KEEPER, Keeper},
    metrics::Metrics,
    now_ms,
    room::{JoinRule, RoomSpec},
    synapse,
    world::World,
};

const NAME: &str = "The Orchard";
/// For how long the keeper must ask nothing before the next round: longer than the window in which
/// joins share one refresh.
const QUIET: Duration = Duration::from_millis(1500);
/// How many transactions are sent, and how often the disk is tried.
const TRANSACTIONS: usize = 200;
/// What a room key passes through on its way to a joiner, in order.
const STEPS: [&str; 4] = ["keys_query", "keys_claim", "send_to_device", "state_put"];

/// Times in milliseconds.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn push(&mut self, time: f64) {
        self.0.push(time);
    }

    fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let place = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
        sorted.get(place).copied().unwrap_or(f64::NAN)
    }

    fn median(&self) -> f64 {
        self.at(0.5)
    }

    fn print(&self, what: &str, reach: &str) {
        let (median, p95) = (self.median(), self.at(0.95));
        println!("  {what:<52} median {median:>7.1} ms   p95 {p95:>7.1} ms   {reach}");
    }
}

/// One request of the keeper's, as its log tells it. Milliseconds since the epoch.
#[derive(Debug, Clone)]
struct Asked {
    endpoint: String,
    from: f64,
    to: f64,
}

/// The end of the keeper's log, from where it stood when a round began.
struct LogTail<'a> {
    path: &'a Path,
    offset: u64,
}

impl<'a> LogTail<'a> {
    fn from_here(path: &'a Path) -> Self {
        Self { path, offset: std::fs::metadata(path).unwrap().len() }
    }

    /// The requests that have ended since, without the long poll.
    fn requests(&self) -> Vec<Asked> {
        let mut text = String::new();
        let mut file = File::open(self.path).unwrap();
        file.seek(SeekFrom::Start(self.offset)).unwrap();
        file.read_to_string(&mut text).unwrap();
        let asked = text.lines().filter_map(Asked::parse);
        asked.filter(|asked| asked.endpoint != "sync").collect()
    }
}

impl Asked {
    fn parse(line: &str) -> Option<Self> {
        let (_, fields) = line.split_once("homeserver request ")?;
        let field = |name: &str| {
            let word = fields.split(' ').find_map(|word| word.strip_prefix(name))?;
            Some(word.trim_matches('"').to_owned())
        };
        let seconds: f64 = field("seconds=")?.parse().ok()?;
        let to = epoch_ms(line.split(' ').next()?)?;
        Some(Self { endpoint: field("endpoint=")?, from: to - seconds * 1000.0, to })
    }
}

/// An RFC 3339 time in UTC, such as `2026-01-31T12:00:00.123456Z`.
fn epoch_ms(time: &str) -> Option<f64> {
    let (date, time) = time.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.split('-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    // Years that begin in March, so that the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468;
    let mut time = time.split(':').map(str::parse::<f64>);
    let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    Some((((days * 24) as f64 + hour) * 60.0 + minute) * 60_000.0 + second * 1000.0)
}

/// How much of `from..to` any of the requests was under way.
fn covered(requests: &[Asked], from: f64, to: f64) -> f64 {
    let mut spans: Vec<(f64, f64)> =
        requests.iter().map(|asked| (asked.from.max(from), asked.to.min(to))).collect();
    spans.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut sum, mut reached) = (0.0, from);
    for (from, to) in spans {
        sum += (to - from.max(reached)).max(0.0);
        reached = reached.max(to);
    }
    sum
}

fn refreshes(metrics: &Metrics) -> f64 {
    metrics.sum("statekeeper_state_events_sealed_total", &[("cause", "join")])
}

struct Bench {
    world: World,
    owner: JsClient,
}

impl Bench {
    /// Waits until the keeper has nothing to do and asks nothing more apart from its long poll.
    async fn quiet(&self) -> Metrics {
        let mut asked = (-1.0, Instant::now());
        eventually("the keeper comes to rest", async || {
            let metrics = self.world.keeper.metrics().await;
            let all = metrics.sum("statekeeper_homeserver_requests_total", &[]);
            let polls =
                metrics.sum("statekeeper_homeserver_requests_total", &[("endpoint", "sync")]);
            let waits = ["due", "sending"]
                .map(|state| metrics.sum("statekeeper_intents", &[("state", state)]));
            if asked.0 != all - polls || waits != [0.0, 0.0] {
                asked = (all - polls, Instant::now());
            }
            (asked.1.elapsed() > QUIET).then_some(metrics)
        })
        .await
    }

    /// A room whose name the keeper has sealed.
    async fn named_room(&self, spec: RoomSpec) -> String {
        let room_id = self.world.room(&self.owner, &spec.with_keeper()).await;
        let original = self.owner.set_name(&room_id, NAME).await;
        self.world.sealed(&self.owner.api, &room_id, "m.room.name", &original).await;
        room_id
    }

    async fn joiners(&self, count: usize) -> Vec<StockClient> {
        let mut joiners = Vec::with_capacity(count);
        for _ in 0..count {
            joiners.push(self.world.stock_user(Sdk::Js, "joiner").await);
        }
        joiners
    }

    /// The keys come with the invite; the join only has to show what is there.
    async fn invited(&self, joiner: &StockClient, rounds: usize) {
        let (mut from_request, mut from_answer, mut sent) =
            (Times::default(), Times::default(), 0.0);
        for _ in 0..rounds {
            let room_id = self.named_room(RoomSpec::default()).await;
            let before = self.quiet().await;
            let StockClient::Js(client) = joiner else { unreachable!("joiners are on js-sdk") };
            let held = client.to_device_senders().await.len();
            self.owner.api.invite(&room_id, joiner.user_id()).await;
            eventually("the invitee's device gets the key", async || {
                let heard = client.to_device_senders().await;
                heard.iter().skip(held).any(|(_, sender)| sender == KEEPER).then_some(())
            })
            .await;
            self.quiet().await;
            let join = joiner.join(&room_id).await;
            let shown = joiner.see_name(&room_id, NAME).await;
            from_request.push(shown - join.sent_at);
            from_answer.push(shown - join.answered_at);
            sent += refreshes(&self.quiet().await) - refreshes(&before);
        }
        println!("\n1. Joins with the keys shared while invited ({rounds})");
        from_request.print("join requested, to the name on the screen", "(reach: 90 ms)");
        from_answer.print("join answered, to the name on the screen", "");
        println!("  refreshes sent: {sent:.0} (reach: 0)");
    }

    /// Joins that nobody was asked for: the keys come after the join, and a refresh after the keys. A restricted
    /// join is through a space that the keeper is not in; the joiner is in it before.
    async fn unasked(&self, title: &str, rule: JoinRule, joiners: &[&StockClient]) -> Vec<String> {
        let (log, mut seen, mut rooms) = (self.world.keeper.log(), Vec::new(), Vec::new());
        for joiner in joiners {
            let spec = RoomSpec { join_rule: rule.clone(), ..RoomSpec::default() };
            let room_id = self.named_room(spec).await;
            if let JoinRule::Restricted(space_id) = &rule {
                self.world.add_to_space(&self.owner, space_id, &room_id).await;
                joiner.join(space_id).await;
            }
            let before = self.quiet().await;
            let tail = LogTail::from_here(&log);
            let join = joiner.join(&room_id).await;
            let shown = joiner.see_name(&room_id, NAME).await;
            let after = self.quiet().await;
            assert!(refreshes(&after) > refreshes(&before), "the name came with a refresh");
            seen.push(Served::new(join, shown, tail.requests(), &before, &after));
            rooms.push(room_id);
        }
        println!("\n{title} ({})", joiners.len());
        print_served(&seen);
        rooms
    }

    /// A device of somebody in the room, logged in later and signed after that.
    async fn devices(&self, members: &[(&StockClient, &String)]) {
        let mut times = Times::default();
        for (first, room_id) in members {
            let second = self.world.second_device(first).await;
            second.see_joined(room_id).await;
            self.quiet().await;
            let signed_at = first.sign_device(&second.api().device_id).await;
            times.push(second.see_name(room_id, NAME).await - signed_at);
            let StockClient::Js(client) = &second else { unreachable!("joiners are on js-sdk") };
            client.call("stop", Value::Null).await;
        }
        println!("\n3. New devices ({})", members.len());
        times.print("device signed, to the name on its screen", "(reach: 150 ms)");
    }
}

/// One join that a refresh followed.
struct Served {
    join: Join,
    shown: f64,
    /// When the keeper put the join into its inbox.
    arrival: f64,
    /// What it asked for until the refresh stood in the room.
    requests: Vec<Asked>,
    put: Asked,
}

impl Served {
    fn new(
        join: Join,
        shown: f64,
        mut requests: Vec<Asked>,
        before: &Metrics,
        after: &Metrics,
    ) -> Self {
        let grown = |name: &str| after.sum(name, &[]) - before.sum(name, &[]);
        let joins = grown("statekeeper_join_to_key_seconds_count");
        assert!((joins - 1.0).abs() < f64::EPSILON, "one join a round, not {joins}");
        let keys: Vec<&Asked> =
            requests.iter().filter(|asked| asked.endpoint == "send_to_device").collect();
        let key = keys.first().expect("a key was sent").to;
        let arrival = key - grown("statekeeper_join_to_key_seconds_sum") * 1000.0;
        let put = requests.iter().find(|asked| asked.endpoint == "state_put");
        let put = put.expect("a refresh was sent").clone();
        requests.retain(|asked| asked.to > arrival && asked.from < put.from);
        Self { join, shown, arrival, requests, put }
    }

    /// What the homeserver took of the time from the join's arrival to its answer to the refresh.
    fn homeservers(&self) -> f64 {
        covered(&self.requests, self.arrival, self.put.from) + self.put.to - self.put.from
    }

    fn keepers(&self) -> f64 {
        self.put.to - self.arrival - self.homeservers()
    }
}

fn print_served(seen: &[Served]) {
    let print = |what: &str, reach: &str, time: &dyn Fn(&Served) -> f64| {
        let times = Times(seen.iter().map(time).collect());
        times.print(what, reach);
        times.median()
    };
    print("join requested, to the name on the screen", "(reach: 150 ms)", &|served| {
        served.shown - served.join.sent_at
    });
    print("join answered, to the name on the screen", "", &|served| {
        served.shown - served.join.answered_at
    });
    let keepers = print("  join's arrival to refreshed, the keeper's share", "", &Served::keepers);
    let homeservers =
        print("  join's arrival to refreshed, the homeserver's", "", &Served::homeservers);
    let ratios = Times(seen.iter().map(|served| served.keepers() / served.homeservers()).collect());
    println!(
        "  keeper's share / homeserver's: {:.2} of the medians, {:.2} at the median (reach: 0.3)",
        keepers / homeservers,
        ratios.median(),
    );
    println!("  Step by step:");
    print("    join requested, to its answer", "", &|s| s.join.answered_at - s.join.sent_at);
    print("    join answered, to its being in the inbox", "", &|s| s.arrival - s.join.answered_at);
    print_steps(seen);
    print("    refresh answered, to the name on the screen", "", &|s| s.shown - s.put.to);
}

/// The requests on the joiner's way in their order, each with what the keeper did before it.
fn print_steps(seen: &[Served]) {
    let mut steps: Vec<(&str, Times, Times)> = Vec::new();
    for endpoint in STEPS {
        steps.push((endpoint, Times::default(), Times::default()));
    }
    for served in seen {
        let mut reached = served.arrival;
        for (endpoint, before, during) in &mut steps {
            let asked = served.requests.iter().chain([&served.put]);
            let mut asked = asked.filter(|asked| asked.endpoint == *endpoint);
            let Some(asked) = asked.find(|asked| asked.to > reached) else { continue };
            before.push(asked.from - reached);
            during.push(asked.to - asked.from);
            reached = asked.to;
        }
    }
    for (endpoint, before, during) in &steps {
        if !before.0.is_empty() {
            before.print("    keeper", "");
            during.print(&format!("    homeserver: {endpoint}"), "");
        }
    }
}

/// What the homeserver knows of the keeper, to push to it in its place.
struct Pusher {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
    hs_token: String,
    run: String,
}

impl Pusher {
    fn new(keeper: &Keeper) -> Self {
        let read = |name: &str| std::fs::read_to_string(keeper.dir().join(name)).unwrap();
        let config: Value = serde_json::from_str(&read("config.yaml")).unwrap();
        let registration = read("registration.yaml");
        let hs_token = registration.lines().find_map(|line| line.strip_prefix("hs_token:"));
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            url: config["appservice"]["address"].as_str().unwrap().to_owned(),
            hs_token: hs_token.unwrap().trim().trim_matches(['"', '\'']).to_owned(),
            run: format!("{:.0}", now_ms()),
        }
    }

    /// Pushes one event and says how long it took until the 200.
    async fn push(&self, number: usize, mut event: Value) -> f64 {
        event["event_id"] = json!(format!("$bench-{}-{number}", self.run));
        event["origin_server_ts"] = json!(0);
        let url = format!("{}/_matrix/app/v1/transactions/{}-{number}", self.url, self.run);
        let request = Request::put(url)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.hs_token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(json!({ "events": [event] }).to_string())))
            .unwrap();
        let started = Instant::now();
        let response = self.client.request(request).await.unwrap();
        let status = response.status();
        response.into_body().collect().await.unwrap();
        assert_eq!(status, 200, "the keeper takes a transaction");
        started.elapsed().as_secs_f64() * 1000.0
    }
}

/// Events that ask nothing of the keeper: a message, and a member who stays one.
fn harmless(number: usize, room_id: &str, user_id: &str) -> Value {
    if number.is_multiple_of(2) {
        return json!({
            "type": "m.room.message", "room_id": room_id, "sender": user_id,
            "content": { "msgtype": "m.text", "body": format!("message {number}") },
        });
    }
    json!({
        "type": "m.room.member", "room_id": room_id, "sender": user_id, "state_key": user_id,
        "content": { "membership": "join", "displayname": format!("Owner {number}") },
    })
}

/// Writes 4 KiB and waits until they are on the disk.
fn try_disk(file: &mut File, times: &mut Times) {
    let started = Instant::now();
    file.write_all(&[7; 4096]).unwrap();
    file.sync_all().unwrap();
    times.push(started.elapsed().as_secs_f64() * 1000.0);
}

async fn transactions(bench: &Bench, room_id: &str) {
    let keeper = &bench.world.keeper;
    let (pusher, user_id) = (Pusher::new(keeper), bench.owner.api.user_id.as_str());
    let path = keeper.dir().join("data/disk");
    let mut file = OpenOptions::new().create_new(true).append(true).open(&path).unwrap();
    let (mut disk, mut alone, mut in_a_row) =
        (Times::default(), Times::default(), Times::default());
    bench.quiet().await;
    for number in 0..TRANSACTIONS {
        alone.push(pusher.push(number, harmless(number, room_id, user_id)).await);
        // The keeper takes the event in with a commit of its own: not what is measured here.
        tokio::time::sleep(Duration::from_millis(30)).await;
        try_disk(&mut file, &mut disk);
    }
    for number in TRANSACTIONS..2 * TRANSACTIONS {
        in_a_row.push(pusher.push(number, harmless(number, room_id, user_id)).await);
    }
    drop(file);
    std::fs::remove_file(path).unwrap();
    println!("\n4. Transactions of one small event, received to 200 ({TRANSACTIONS} each)");
    alone.print("each for itself", "(reach: p95 5 ms)");
    in_a_row.print("one right after the other", "");
    disk.print("this disk: write 4 KiB and fsync", "");
}

#[tokio::main]
async fn main() {
    let rounds = std::env::var("STATEKEEPER_BENCH_ROUNDS").ok();
    let rounds: usize = rounds.and_then(|value| value.parse().ok()).unwrap_or(20).max(1);
    println!(
        "Starting Synapse, the keeper and {} stock clients (matrix-js-sdk) ...",
        2 * rounds + 2
    );
    // Its requests are what the keeper's log is read for; more of it would cost time.
    // And one owner invites it into more rooms than anybody should in so short a time.
    let overrides = json!({
        "logging": { "level": "info,statekeeper::homeserver=debug" },
        "access": { "invites": { "burst": 1000, "per_minute": 1000 } },
    });
    let world = World::with(synapse::Options::default(), &overrides).await;
    let owner = world.js_user("owner").await;
    let bench = Bench { world, owner };
    let known = bench.world.stock_user(Sdk::Js, "known").await;
    let (strangers, of_space) = (bench.joiners(rounds).await, bench.joiners(rounds).await);
    println!("keeper: {}", support::keeper::binary().display());

    // The first meeting is not counted.
    let room_id = bench.named_room(RoomSpec::public()).await;
    known.join(&room_id).await;
    known.name_within(&room_id, NAME, PATIENCE).await.unwrap();

    bench.invited(&known, rounds).await;
    let everybody: Vec<&StockClient> = strangers.iter().collect();
    let title = "2. Public joins by somebody whom the keeper never met";
    let rooms = bench.unasked(title, JoinRule::Public, &everybody).await;
    let title = "   Public joins by somebody whom it has an Olm session with";
    bench.unasked(title, JoinRule::Public, &vec![&known; rounds]).await;
    let title = "   Restricted joins, through a space, by somebody whom it never met";
    let (_, rule) = bench.world.space(&bench.owner).await;
    bench.unasked(title, rule, &of_space.iter().collect::<Vec<_>>()).await;
    let members: Vec<_> = everybody.into_iter().zip(&rooms).collect();
    bench.devices(&members).await;
    transactions(&bench, &room_id).await;
}
