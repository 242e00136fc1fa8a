//! How long an administrator waits for the ledger's answer, beside a search in a log that says the same.
//!
//! `STATEKEEPER_BENCH_ROWS` (10,000,000), `STATEKEEPER_BENCH_USERS` (10,000; two devices each),
//! `STATEKEEPER_BENCH_ROOMS` (1,000), `STATEKEEPER_BENCH_ROUNDS` (20).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ruma::RoomId;
use secrecy::SecretString;
use sqlx::{
    Connection as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use statekeeper::{
    state::StateTuple,
    store::{NewGrant, Store, ledger},
};

const BINARY: &str = env!("CARGO_BIN_EXE_statekeeper");
const PASSPHRASE: &str = "a passphrase for benchmarks and for nothing else";
const DAY: i64 = 86_400_000;
/// How far back the history reaches: as long as it is kept by default.
const DAYS: i64 = 90;
/// How many devices a session goes to: those of a room's members.
const FAN_OUT: usize = 1_000;
const DEVICES: usize = 2;

struct Sizes {
    rows: usize,
    users: usize,
    rooms: usize,
    rounds: usize,
}

fn size(name: &str, usual: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

fn user(number: usize) -> String {
    format!("@person.number{number:05}:example.org")
}

fn room(number: usize) -> String {
    format!("!room{number:014}:example.org")
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// Has the keeper's own code write every name, with a grant for each device and one for each room.
async fn write_names(path: &Path, sizes: &Sizes) {
    let store = Store::open(path, &SecretString::from(PASSPHRASE)).await.unwrap();
    let grant = |user_number: usize, device: usize| NewGrant {
        session_id: "names".to_owned(),
        user_id: user(user_number).try_into().unwrap(),
        device_id: format!("DEVICE{user_number:05}{device}").into(),
        message_index: 0,
        reason: "join",
        again: false,
        preview: false,
        tuple: StateTuple::new("m.room.name", ""),
        policy: "devices=cross_signed invitees=aesthetic members=joined".to_owned(),
    };
    let all: Vec<NewGrant> = (0..sizes.users)
        .flat_map(|user| (0..DEVICES).map(move |device| (user, device)))
        .map(|(user, device)| grant(user, device))
        .collect();
    let mut db = store.begin().await.unwrap();
    for number in 0..sizes.rooms {
        let room = RoomId::parse(room(number)).unwrap();
        let first = usize::from(number > 0) * (all.len() - 1);
        ledger::grant(&store, &mut db, &room, &all[first..], 0).await.unwrap();
    }
    db.commit().await.unwrap();
    store.close().await;
}

/// Fills the history as a keeper does over the days: a session after the other goes to the devices of a room's
/// members. All indexes are kept while it is written, so that the file is as scattered as a real one.
async fn write_rows(path: &Path, sizes: &Sizes) {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Off)
        .synchronous(SqliteSynchronous::Off)
        .pragma("cache_size", "-1500000")
        .pragma("temp_store", "MEMORY");
    let mut db = SqliteConnection::connect_with(&options).await.unwrap();
    let last = sizes.rows.div_ceil(FAN_OUT);
    sqlx::raw_sql(
        "CREATE TEMP TABLE holders (n INTEGER PRIMARY KEY, user INTEGER, device INTEGER);
         INSERT INTO holders SELECT row_number() OVER (ORDER BY user, device) - 1, user, device
             FROM grants GROUP BY user, device;
         CREATE TEMP TABLE halls (n INTEGER PRIMARY KEY, room INTEGER);
         INSERT INTO halls SELECT row_number() OVER (ORDER BY id) - 1, id FROM names WHERE kind = 'room';
         CREATE TEMP TABLE seen AS SELECT tuple, policy FROM ledger LIMIT 1;
         DELETE FROM grants; DELETE FROM ledger;",
    )
    .execute(&mut db)
    .await
    .unwrap();
    let began = now() - DAYS * DAY;
    let step = DAYS * DAY / i64::try_from(last).unwrap();
    let holders = sizes.users * DEVICES;
    sqlx::query("BEGIN").execute(&mut db).await.unwrap();
    for session in 0..last {
        let number = i64::try_from(session).unwrap();
        // Neighbours in the list of rooms share no more than some of their members.
        let first = session % sizes.rooms * 7_919 * DEVICES % holders;
        sqlx::query(
            "INSERT INTO ledger (at, room, user, device, session_id, message_index, tuple, reason, policy, \
             outcome, last_at) \
             SELECT ?1, halls.room, holders.user, holders.device, ?2, 0, tuple, \
                 CASE holders.n % 10 WHEN 0 THEN 'join' ELSE 'seal' END, policy, 'delivered', ?1 + 20 \
             FROM holders, halls, seen \
             WHERE halls.n = ?3 \
                 AND ((holders.n >= ?5 AND holders.n < ?5 + ?6) OR holders.n < ?5 + ?6 - ?4)",
        )
        .bind(began + number * step)
        .bind(format!("{:043}", session.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .bind(i64::try_from(session % sizes.rooms).unwrap())
        .bind(i64::try_from(holders).unwrap())
        .bind(i64::try_from(first).unwrap())
        .bind(i64::try_from(FAN_OUT.min(sizes.rows - session * FAN_OUT)).unwrap())
        .execute(&mut db)
        .await
        .unwrap();
    }
    sqlx::query("COMMIT").execute(&mut db).await.unwrap();
    sqlx::query("PRAGMA journal_mode = WAL").execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}

fn write_config(folder: &Path) {
    fs::write(folder.join("passphrase"), PASSPHRASE).unwrap();
    fs::write(
        folder.join("config.yaml"),
        r#"{ homeserver: { address: "http://127.0.0.1:8008", domain: "example.org" },
             appservice: { listen: "127.0.0.1:29330", address: "http://127.0.0.1:29330",
                           registration: "registration.yaml",
                           bot: { localpart: "statekeeper", displayname: "State Keeper" } },
             store: { url: "sqlite:keeper.db", passphrase_file: "passphrase" },
             admin: { listen: "127.0.0.1:29331" },
             access: { admins: ["@ops:example.org"], invite_from: ["*:example.org"] },
             logging: { format: text, level: info } }"#,
    )
    .unwrap();
}

/// The command, from the start of a process to its end, with its output in a file. How long, and how many lines.
fn timed(command: &mut Command, out: &Path) -> (Duration, usize) {
    let started = Instant::now();
    let status = command.stdout(File::create(out).unwrap()).status().unwrap();
    let took = started.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    let written = fs::read(out).unwrap();
    (took, written.iter().filter(|byte| **byte == b'\n').count())
}

fn ledger_command(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["ledger", "--config"]).arg(folder.join("config.yaml")).args(more);
    // That there are no rows is seen in the figures.
    command.stderr(Stdio::null());
    command
}

/// Has the operating system forget what it keeps of a file in memory.
fn forget(path: &Path) {
    let status = Command::new("dd")
        .arg(format!("of={}", path.display()))
        .args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"])
        .status();
    assert!(status.unwrap().success());
}

fn print(what: &str, times: &mut [Duration], lines: usize) -> f64 {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64();
    let (median, p95) = (at(0.5), at(0.95));
    println!(
        "{what:<52} median {:>8.1} ms   p95 {:>8.1} ms   {lines} rows",
        median * 1000.0,
        p95 * 1000.0
    );
    median
}

struct Bench {
    folder: PathBuf,
    sizes: Sizes,
}

impl Bench {
    /// One question about somebody else in each round.
    fn ask(&self, what: &str, cold: bool, arguments: impl Fn(usize) -> Vec<String>) -> f64 {
        let mut times = Vec::new();
        let mut most = 0;
        for round in 0..self.sizes.rounds {
            let arguments = arguments(round * 7_919 + 13);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            if cold {
                forget(&self.folder.join("keeper.db"));
            }
            let mut command = ledger_command(&self.folder, &arguments);
            let (took, lines) = timed(&mut command, &self.folder.join("answer"));
            times.push(took);
            most = most.max(lines);
        }
        print(what, &mut times, most)
    }

    fn user(&self, number: usize) -> String {
        user(number % self.sizes.users)
    }

    fn questions(&self) -> f64 {
        let words =
            |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let by_user = |n| words(&["--json", "--user", &self.user(n)]);
        let by_room = |n| words(&["--json", "--room", &room(n % self.sizes.rooms)]);
        self.ask("ledger --user, file not in memory (reach: 1 s)", true, by_user);
        let median = self.ask("ledger --user (reach: 1 s)", false, by_user);
        self.ask("ledger --user, the table", false, |n| words(&["--user", &self.user(n)]));
        self.ask("ledger --user --since 7d", false, |n| {
            words(&["--json", "--user", &self.user(n), "--since", "7d"])
        });
        self.ask("ledger --room", false, by_room);
        self.ask("ledger --room --limit 100", false, |n| {
            [by_room(n), words(&["--limit", "100"])].concat()
        });
        self.ask("ledger --since 1h", false, |_| words(&["--json", "--since", "1h"]));
        self.ask("ledger --limit 100", false, |_| words(&["--json", "--limit", "100"]));
        self.ask("ledger --user nobody", false, |_| words(&["--user", &user(99_999_999)]));
        median
    }

    /// What one would do without the ledger: search a log with a line for each key.
    fn log_search(&self, log: &Path) -> f64 {
        let (took, lines) = timed(&mut ledger_command(&self.folder, &["--json"]), log);
        assert_eq!(lines, self.sizes.rows);
        let mib = fs::metadata(log).unwrap().size() / (1024 * 1024);
        println!(
            "all of it as JSON: {:.1} s, {:.0} rows/s, {mib} MiB",
            took.as_secs_f64(),
            lines as f64 / took.as_secs_f64()
        );
        let (mut times, mut most) = (Vec::new(), 0);
        for round in 0..self.sizes.rounds.min(5) {
            let name = self.user(round * 7_919 + 13);
            let mut grep = Command::new("grep");
            grep.env("LC_ALL", "C").args(["-F", &format!("\"{name}\"")]).arg(log);
            let (took, lines) = timed(&mut grep, &self.folder.join("answer"));
            times.push(took);
            most = most.max(lines);
            let by_user = ["--json", "--user", &name];
            let mut ledger = ledger_command(&self.folder, &by_user);
            assert_eq!(timed(&mut ledger, &self.folder.join("answer")).1, lines, "{name}");
        }
        print("grep -F for the user in these lines", &mut times, most)
    }
}

#[tokio::main]
async fn main() {
    let sizes = Sizes {
        rows: size("STATEKEEPER_BENCH_ROWS", 10_000_000).max(1),
        users: size("STATEKEEPER_BENCH_USERS", 10_000).max(FAN_OUT / DEVICES),
        rooms: size("STATEKEEPER_BENCH_ROOMS", 1_000).max(1),
        rounds: size("STATEKEEPER_BENCH_ROUNDS", 20).max(1),
    };
    // Not in /tmp, which may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("keeper.db");
    write_config(folder.path());
    let started = Instant::now();
    write_names(&path, &sizes).await;
    write_rows(&path, &sizes).await;
    println!(
        "== {} rows, {} users with {DEVICES} devices each, {} rooms: {} MiB, written in {:.0} s",
        sizes.rows,
        sizes.users,
        sizes.rooms,
        fs::metadata(&path).unwrap().size() / (1024 * 1024),
        started.elapsed().as_secs_f64()
    );
    let bench = Bench { folder: folder.path().to_owned(), sizes };
    let ledger = bench.questions();
    let grep = bench.log_search(&folder.path().join("log.json"));
    println!("grep / ledger --user: {:.0} times as long", grep / ledger);
}
