//! The keeper's own binary, configured the way an operator would.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use serde_json::{Map, Value, json};

use super::{PATIENCE, RunDir, api, metrics::Metrics, ports, process::Process, within};

/// The keeper's user.
pub const KEEPER: &str = "@statekeeper:localhost";

/// A keeper with a configuration, an identity and a store of its own; running or not.
#[derive(Debug)]
pub struct Keeper {
    process: Option<Process>,
    dir: RunDir,
    admin_port: u16,
}

/// The `statekeeper` binary: the one that `STATEKEEPER_BINARY` names, such as a release build; or
/// where Cargo says that it is; or beside the example that asks.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("STATEKEEPER_BINARY") {
        return path.into();
    }
    if let Some(path) = option_env!("CARGO_BIN_EXE_statekeeper") {
        return path.into();
    }
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    if path.ends_with("examples") || path.ends_with("deps") {
        path.pop();
    }
    path.join("statekeeper")
}

impl Keeper {
    /// Writes a configuration, with `overrides` laid over it section by section, and lets the
    /// binary write the registration that the homeserver has to load before it starts.
    pub fn prepare(homeserver: &str, overrides: &Value) -> Self {
        let dir = RunDir::new("keeper");
        let (port, admin_port) = (ports::free(), ports::free());
        let mut config = json!({
            "homeserver": { "address": homeserver, "domain": "localhost" },
            "appservice": {
                "listen": format!("127.0.0.1:{port}"),
                "address": format!("http://127.0.0.1:{port}"),
                "registration": "registration.yaml",
                "bot": { "localpart": "statekeeper", "displayname": "State Keeper" },
            },
            "store": { "url": "sqlite:data/statekeeper.db", "passphrase_file": "data/passphrase" },
            "admin": { "listen": format!("127.0.0.1:{admin_port}") },
            "access": { "admins": ["@ops:localhost"], "invite_from": ["*:localhost"] },
            "logging": { "format": "text", "level": "info,statekeeper=debug" },
        });
        lay_over(&mut config, overrides);
        let data = dir.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("passphrase"), "a passphrase that only this test knows\n")
            .unwrap();
        std::fs::write(dir.path().join("config.yaml"), config.to_string()).unwrap();
        let keeper = Self { process: None, dir, admin_port };
        keeper.run(&["registration", "--config", "config.yaml", "--out", "registration.yaml"]);
        keeper
    }

    /// Lays settings over the configuration. A running keeper does not hear of it.
    pub fn configure(&self, overrides: &Value) {
        let path = self.dir.path().join("config.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        lay_over(&mut config, overrides);
        std::fs::write(path, config.to_string()).unwrap();
    }

    /// Writes a file beside the configuration.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// Runs one of the other commands to its end and returns what it printed.
    pub fn run(&self, args: &[&str]) -> String {
        let output =
            Command::new(binary()).args(args).current_dir(self.dir.path()).output().unwrap();
        let printed = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "statekeeper {args:?}: {}\n{printed}", output.status);
        printed
    }

    /// The same of a command that may fail: what it wrote to standard output where it did not.
    pub fn attempt(&self, args: &[&str]) -> Option<String> {
        let output =
            Command::new(binary()).args(args).current_dir(self.dir.path()).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What the doctor finds.
    pub fn doctor(&self) -> Value {
        let args = ["doctor", "--config", "config.yaml", "--json"];
        let output =
            Command::new(binary()).args(args).current_dir(self.dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// The registration that Synapse has to load.
    pub fn registration(&self) -> PathBuf {
        self.dir.path().join("registration.yaml")
    }

    /// The token by which the homeserver knows the keeper.
    pub fn as_token(&self) -> String {
        let registration = std::fs::read_to_string(self.registration()).unwrap();
        let line = registration.lines().find_map(|line| line.strip_prefix("as_token:"));
        line.expect("a registration has its token").trim().trim_matches('"').to_owned()
    }

    /// Starts `serve` without waiting for anything.
    pub fn spawn(&mut self) {
        let mut command = Command::new(binary());
        command
            .args(["serve", "--config", "config.yaml"])
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        self.process = Some(Process::spawn(&mut command, &self.log()));
    }

    /// Starts `serve` and waits until it says that it can work.
    pub async fn start(&mut self) {
        self.spawn();
        self.ready().await;
    }

    /// Waits until `/health/ready` answers 200.
    pub async fn ready(&mut self) {
        let ready = within(PATIENCE, async || {
            self.assert_alive();
            self.is_ready().await.then_some(())
        })
        .await;
        assert!(ready.is_some(), "the keeper did not become ready:\n{}", self.output());
    }

    /// Whether `/health/ready` answers 200 at this moment.
    pub async fn is_ready(&self) -> bool {
        self.health("ready").await == Some(200)
    }

    /// The status of `/health/live` or `/health/ready`; none when nobody listens.
    pub async fn health(&self, which: &str) -> Option<u16> {
        let answer = api::get_text(&format!("{}/health/{which}", self.admin_url())).await;
        answer.map(|(status, _)| status)
    }

    /// Fails when the process ended by itself.
    pub fn assert_alive(&mut self) {
        let process = self.process.as_mut().expect("the keeper was started");
        if let Some(status) = process.exited() {
            panic!("the keeper ended with {status}:\n{}", process.output());
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// SIGKILL, then a new start on the same store.
    pub async fn restart(&mut self) {
        self.kill();
        self.start().await;
    }

    /// SIGTERM, and the status with which the keeper ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        let status = self.process.as_mut().expect("the keeper was started").terminate().await;
        self.process = None;
        status
    }

    /// Waits until it has ended by itself.
    pub async fn wait_for_end(&mut self) {
        let ended = within(PATIENCE, async || self.process.as_mut()?.exited()).await;
        assert!(ended.is_some(), "the keeper runs on:\n{}", self.output());
        self.process = None;
    }

    /// Its metrics, where somebody gives them.
    pub async fn try_metrics(&self) -> Option<Metrics> {
        let answer = api::get_text(&format!("{}/metrics", self.admin_url())).await;
        answer.filter(|(status, _)| *status == 200).map(|(_, text)| Metrics::parse(&text))
    }

    pub async fn metrics(&self) -> Metrics {
        let (status, text) =
            api::get_text(&format!("{}/metrics", self.admin_url())).await.expect("metrics");
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text)
    }

    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin_port)
    }

    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("output.log")
    }

    /// The end of what the keeper has logged.
    pub fn output(&self) -> String {
        super::process::tail(&self.log())
    }
}

/// Replaces values of `base` by those of `over`, objects member by member.
fn lay_over(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => merge(base, over),
        (_, Value::Null) => {}
        (base, over) => *base = over.clone(),
    }
}

fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        lay_over(base.entry(key.as_str()).or_insert(Value::Null), value);
    }
}
