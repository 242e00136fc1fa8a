//! The keeper's real binary, run against the simulated homeserver.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    ports,
    push::{HttpClient, http_client, request},
    sim::{PATIENCE, Registration, Sim},
};

const BINARY: &str = env!("CARGO_BIN_EXE_statekeeper");
const POLL: Duration = Duration::from_millis(5);

/// A keeper with a folder of its own: configuration, registration, store and log.
pub struct Keeper {
    folder: TempDir,
    registration: Registration,
    admin: String,
    client: HttpClient,
    process: Option<Child>,
    started_by: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Keeper {
    /// A simulated homeserver and a keeper that is configured for it and not yet started.
    /// `settings` are merged over the configuration, section by section.
    pub async fn with_sim(settings: Value) -> (Sim, Self) {
        let listen = free_address();
        let admin = free_address();
        let registration = Registration::new(&format!("http://{listen}"));
        let sim = Sim::start(registration.clone()).await;
        let folder = tempfile::tempdir().expect("a folder for the keeper");
        let mut config = json!({
            "homeserver": { "address": sim.url(), "domain": "localhost" },
            "appservice": {
                "listen": listen, "address": registration.url,
                "registration": "registration.yaml",
                "bot": { "localpart": registration.bot_localpart, "displayname": "State Keeper" },
            },
            "store": { "url": "sqlite:statekeeper.db", "passphrase_file": "passphrase" },
            "admin": { "listen": admin },
            "access": { "admins": ["@ops:localhost"], "invite_from": ["*:localhost"] },
            "logging": { "format": "text", "level": "info" },
        });
        merge(&mut config, &settings);
        // JSON is YAML, too.
        write(&folder, "statekeeper.yaml", &config.to_string());
        write(&folder, "registration.yaml", &registration.to_yaml());
        write(&folder, "passphrase", "a passphrase for tests and for nothing else\n");
        let client = http_client();
        let keeper = Self {
            folder,
            registration,
            admin,
            client,
            process: None,
            started_by: Vec::new(),
            environment: Vec::new(),
        };
        (sim, keeper)
    }

    /// From now on it is started by this command, which gets the binary and its arguments.
    pub fn start_by(&mut self, command: &[&str]) {
        self.started_by = command.iter().map(|word| (*word).to_owned()).collect();
    }

    /// From now on it is started with this variable.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the keeper runs").id()
    }

    /// Where its admin listener is.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// Waits until its log has this in it.
    ///
    /// # Panics
    /// When it does not come to.
    pub async fn wait_for_log(&self, words: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(words) {
            assert!(Instant::now() < deadline, "no `{words}` in:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// What `/health/ready` says.
    pub async fn health(&self) -> (u16, Value) {
        let url = format!("http://{}/health/ready", self.admin);
        request(&self.client, Method::GET, &url, None, "")
            .await
            .expect("the admin listener answers")
    }

    /// Starts the process and waits until it says that it is ready. How long that took.
    pub async fn start(&mut self) -> Duration {
        let started = Instant::now();
        self.spawn();
        self.wait_until_ready().await;
        started.elapsed()
    }

    /// Starts the process and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "the keeper runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("the keeper's log");
        let errors = log.try_clone().expect("the keeper's log");
        let mut words = self.started_by.iter().map(String::as_str).chain([BINARY]);
        let child = Command::new(words.next().expect("at least the binary"))
            .args(words)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(["serve", "--config"])
            .arg(self.folder.path().join("statekeeper.yaml"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("the keeper's binary runs");
        self.process = Some(child);
    }

    /// Waits until the process has ended by itself.
    pub async fn wait_for_end(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            assert!(Instant::now() < deadline, "it runs on:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
        self.kill();
    }

    /// Waits until `/health/ready` says 200.
    pub async fn wait_until_ready(&mut self) {
        let patience = Duration::from_secs(60);
        let deadline = Instant::now() + patience;
        let url = format!("http://{}/health/ready", self.admin);
        loop {
            if let Ok((200, _)) = request(&self.client, Method::GET, &url, None, "").await {
                return;
            }
            let exited = self.process.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = exited {
                panic!("the keeper ended with {status} before it was ready:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "not ready in {patience:?}:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGKILL: no goodbye.
    pub fn kill(&mut self) {
        let Some(mut child) = self.process.take() else { return };
        // It may have ended by itself; then there is nothing to kill.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// SIGTERM, and how long the keeper took to end.
    pub async fn terminate(&mut self) -> Duration {
        let mut child = self.process.take().expect("the keeper runs");
        let started = Instant::now();
        let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "SIGTERM could not be sent");
        while child.try_wait().expect("the keeper's status").is_none() {
            let patience = Duration::from_secs(60);
            assert!(started.elapsed() < patience, "did not end:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
        started.elapsed()
    }

    /// Merges settings over the configuration, section by section. A running keeper does not hear of it.
    pub fn configure(&self, settings: &Value) {
        let path = self.folder.path().join("statekeeper.yaml");
        let text = fs::read_to_string(&path).expect("the keeper's configuration");
        let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
        merge(&mut config, settings);
        write(&self.folder, "statekeeper.yaml", &config.to_string());
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let child = self.process.as_ref().expect("the keeper runs");
        let status = Command::new("kill").args(["-HUP", &child.id().to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "SIGHUP could not be sent");
    }

    /// Runs `policy explain --json` about a room beside the keeper: the exit code, standard output and
    /// standard error.
    pub fn explain(&self, room: &str) -> (Option<i32>, String, String) {
        self.command_of(&["policy", "explain"], &[room, "--json"])
    }

    /// Runs one of the binary's other commands beside the keeper, with its configuration: the exit code,
    /// standard output and standard error.
    pub fn command(&self, name: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
        self.command_of(&[name], arguments)
    }

    /// The same of a command that needs the homeserver, which is served by the very thread that would wait for it.
    pub async fn command_while_served(
        &self,
        name: &str,
        arguments: &[&str],
    ) -> (Option<i32>, String, String) {
        self.served_command_of(&[name], arguments).await
    }

    /// Runs a subcommand of `room` while the homeserver is served: the exit code, standard output and standard error.
    pub async fn room_command(
        &self,
        name: &str,
        arguments: &[&str],
    ) -> (Option<i32>, String, String) {
        self.served_command_of(&["room", name], arguments).await
    }

    async fn served_command_of(
        &self,
        names: &[&str],
        arguments: &[&str],
    ) -> (Option<i32>, String, String) {
        let done = tokio::process::Command::new(BINARY)
            .args(names)
            .arg("--config")
            .arg(self.folder.path().join("statekeeper.yaml"))
            .args(arguments)
            .output()
            .await
            .expect("the keeper's binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code(), text(&done.stdout), text(&done.stderr))
    }

    /// One of the binary's other commands beside the keeper, with its configuration, before it runs.
    pub fn prepared(&self, names: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(names).arg("--config").arg(self.folder.path().join("statekeeper.yaml"));
        command.args(arguments);
        command
    }

    fn command_of(&self, names: &[&str], arguments: &[&str]) -> (Option<i32>, String, String) {
        let done = self.prepared(names, arguments).output().expect("the keeper's binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code(), text(&done.stdout), text(&done.stderr))
    }

    /// Waits until a metric has this value.
    ///
    /// # Panics
    /// When it does not come to have it.
    pub async fn wait_for_metric(&self, name: &str, value: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.metric(name, &[]).await;
            if (now - value).abs() < f64::EPSILON {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {now} and not {value}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Does the process live?
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Puts a transaction to the keeper by hand: status and answer.
    pub async fn put_transaction(
        &self,
        txn_id: &str,
        hs_token: Option<&str>,
        body: impl Into<Bytes>,
    ) -> (u16, Value) {
        let url = format!("{}/_matrix/app/v1/transactions/{txn_id}", self.registration.url);
        request(&self.client, Method::PUT, &url, hs_token, body)
            .await
            .unwrap_or_else(|error| panic!("the keeper did not answer: {error}\n{}", self.log()))
    }

    /// The right token for [`Keeper::put_transaction`].
    pub fn hs_token(&self) -> &str {
        &self.registration.hs_token
    }

    /// The sum of a metric's series whose labels contain all of `labels`; 0 when there is none.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let url = format!("http://{}/metrics", self.admin);
        let answer = request(&self.client, Method::GET, &url, None, "").await;
        let Ok((200, Value::String(text))) = answer else {
            panic!("no metrics: {answer:?}");
        };
        text.lines()
            .filter(|line| {
                let series = line.strip_prefix(name);
                series.is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
                    && labels.iter().all(|label| line.contains(label))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Resident memory in bytes.
    pub fn resident_memory(&self) -> u64 {
        let Some(child) = &self.process else { return 0 };
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        let status = status.expect("the keeper's /proc entry");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        kib.expect("VmRSS in /proc") * 1024
    }

    /// The processor time that the process has taken so far, to the hundredth of a second.
    pub fn processor_time(&self) -> Duration {
        let id = self.process.as_ref().expect("the keeper runs").id();
        let stat =
            fs::read_to_string(format!("/proc/{id}/stat")).expect("the keeper's /proc entry");
        // After the name, which ends with the last parenthesis: the 14th and 15th field of all, in hundredths.
        let (_, fields) = stat.rsplit_once(") ").expect("a stat line");
        let spent = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        Duration::from_millis(spent.sum::<u64>() * 10)
    }

    /// Everything that the keeper has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A copy of the folder with the store; the keeper must not run.
    pub fn copy_store(&self) -> tempfile::TempDir {
        assert!(self.process.is_none(), "a copy of a running keeper's store is none");
        let copy = tempfile::tempdir().expect("a folder");
        copy_folder(self.folder.path(), copy.path());
        copy
    }

    /// Puts a copy of the store back in its place; the keeper must not run.
    pub fn put_store_back(&self, copy: &tempfile::TempDir) {
        assert!(self.process.is_none(), "the store is in use");
        for entry in fs::read_dir(self.folder.path()).expect("the folder is there") {
            let path = entry.expect("an entry").path();
            let done =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            done.expect("it can be removed");
        }
        copy_folder(copy.path(), self.folder.path());
    }

    /// Loses the store; the keeper must not run.
    pub fn lose_store(&self) {
        assert!(self.process.is_none(), "the store is in use");
        for entry in fs::read_dir(self.folder.path()).expect("the folder is there") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                fs::remove_dir_all(&path).expect("it can be removed");
            } else if name.starts_with("statekeeper.db") {
                fs::remove_file(&path).expect("it can be removed");
            }
        }
    }

    /// The folder with the store.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        let copy = to.join(path.file_name().expect("it has a name"));
        if path.is_dir() {
            copy_folder(&path, &copy);
        } else if path.is_file() {
            fs::copy(&path, &copy).expect("it can be copied");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("--- the keeper's last words");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// A loopback address which nobody listens on, and which no other call was given.
pub fn free_address() -> String {
    format!("127.0.0.1:{}", ports::free())
}

fn write(folder: &TempDir, name: &str, content: &str) {
    fs::write(folder.path().join(name), content).expect("the keeper's folder is writable");
}

/// Lays one tree of settings over another.
pub fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
