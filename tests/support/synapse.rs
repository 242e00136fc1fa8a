//! A real Synapse on loopback with SQLite, from the virtual environment of `tests/setup.sh`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::{PATIENCE, RunDir, api, api::Api, ports, process::Process, repository, within};

/// What registers a server administrator.
const SHARED_SECRET: &str = "of a test, too";

/// What differs between one Synapse and another.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Keep the rate limits that Synapse ships with. Registration and login alone are lifted even
    /// then: all users of a test come from one address.
    pub default_limits: bool,
    /// State beyond the default that invitees are shown: `(type, state key)`.
    pub prejoin_state: Vec<(String, String)>,
    /// Registrations of application services.
    pub app_services: Vec<PathBuf>,
}

/// A running homeserver named `localhost`.
#[derive(Debug)]
pub struct Synapse {
    process: Option<Process>,
    dir: RunDir,
    port: u16,
}

impl Synapse {
    /// Writes a configuration and starts the homeserver.
    pub async fn start(options: &Options) -> Self {
        let mut synapse = Self::prepare(options, ports::free());
        synapse.resume().await;
        synapse
    }

    /// Writes a configuration without starting anything. The `port` is chosen by the caller, because
    /// a keeper must know it before the homeserver may start.
    pub fn prepare(options: &Options, port: u16) -> Self {
        let dir = RunDir::new("synapse");
        let config = configuration(options, port, dir.path());
        std::fs::write(dir.path().join("homeserver.yaml"), config.to_string()).unwrap();
        std::fs::write(dir.path().join("log.yaml"), log_configuration(dir.path()).to_string())
            .unwrap();
        Self { process: None, dir, port }
    }

    /// Changes a key of its configuration, for its next start.
    pub fn configure(&self, key: &str, value: &Value) {
        let path = self.dir.path().join("homeserver.yaml");
        let mut config: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        config[key] = value.clone();
        std::fs::write(path, config.to_string()).unwrap();
    }

    /// Starts the homeserver, again or for the first time, and waits until it answers.
    pub async fn resume(&mut self) {
        let python = repository().join(".work/synapse/bin/python");
        assert!(python.exists(), "Synapse is not installed: run tests/setup.sh");
        let mut command = Command::new(python);
        command
            .args(["-m", "synapse.app.homeserver", "--config-path", "homeserver.yaml"])
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        self.process = Some(Process::spawn(&mut command, &self.dir.path().join("output.log")));
        let url = format!("{}/health", self.url());
        let healthy = within(PATIENCE, async || {
            let process = self.process.as_mut()?;
            if let Some(status) = process.exited() {
                panic!("Synapse ended with {status}:\n{}", process.output());
            }
            api::get_text(&url).await.filter(|(status, _)| *status == 200)
        })
        .await;
        assert!(healthy.is_some(), "Synapse did not become healthy");
    }

    /// Kills the homeserver; its database stays for [`Self::resume`].
    pub fn stop(&mut self) {
        self.process = None;
    }

    pub async fn restart(&mut self) {
        self.stop();
        self.resume().await;
    }

    /// Registers a server administrator and logs a first device in.
    pub async fn administrator(&self, localpart: &str) -> Api {
        let program = repository().join(".work/synapse/bin/register_new_matrix_user");
        let password = format!("{localpart} opens every door");
        let done = tokio::process::Command::new(program)
            .args(["--admin", "--shared-secret", SHARED_SECRET])
            .args(["--user", localpart, "--password", &password, &self.url()])
            .output()
            .await
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Api::log_in(&self.url(), localpart, &password).await
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("homeserver.log")
    }
}

/// Limits so high that no test meets them.
fn raised_limits() -> Value {
    let high = json!({ "per_second": 10_000, "burst_count": 10_000 });
    json!({
        "rc_message": high,
        "rc_admin_redaction": high,
        "rc_joins": { "local": high, "remote": high },
        "rc_joins_per_room": high,
        "rc_invites": { "per_room": high, "per_user": high, "per_issuer": high },
        "rc_room_creation": high,
        "rc_user_directory": high,
        "rc_key_requests": high,
        "rc_profile": high,
        "rc_delayed_event_mgmt": high,
        "rc_presence": { "per_user": high },
        "rc_reports": high,
    })
}

fn configuration(options: &Options, port: u16, dir: &Path) -> Value {
    let high = json!({ "per_second": 10_000, "burst_count": 10_000 });
    let mut config = json!({
        "server_name": "localhost",
        "public_baseurl": format!("http://127.0.0.1:{port}/"),
        "pid_file": dir.join("homeserver.pid"),
        "listeners": [{
            "port": port,
            "type": "http",
            "bind_addresses": ["127.0.0.1"],
            "resources": [{ "names": ["client"] }],
        }],
        "database": { "name": "sqlite3", "args": { "database": dir.join("homeserver.db") } },
        "log_config": dir.join("log.yaml"),
        "media_store_path": dir.join("media"),
        "signing_key_path": dir.join("signing.key"),
        "macaroon_secret_key": "of a test",
        "form_secret": "of a test",
        "registration_shared_secret": SHARED_SECRET,
        "report_stats": false,
        "presence": { "enabled": false },
        "trusted_key_servers": [],
        "federation_domain_whitelist": [],
        "enable_registration": true,
        "enable_registration_without_verification": true,
        "bcrypt_rounds": 4,
        "app_service_config_files": options.app_services,
        "room_prejoin_state": { "additional_event_types": options.prejoin_state },
        "rc_registration": high,
        "rc_login": { "address": high, "account": high, "failed_attempts": high },
    });
    if !options.default_limits {
        let Value::Object(limits) = raised_limits() else { unreachable!() };
        config.as_object_mut().unwrap().extend(limits);
    }
    config
}

fn log_configuration(dir: &Path) -> Value {
    json!({
        "version": 1,
        "formatters": { "line": { "format": "%(asctime)s %(levelname)s %(name)s %(message)s" } },
        "handlers": { "file": {
            "class": "logging.FileHandler",
            "formatter": "line",
            "filename": dir.join("homeserver.log"),
        } },
        "root": { "level": "WARNING", "handlers": ["file"] },
        "loggers": { "synapse.appservice": { "level": "INFO" } },
        "disable_existing_loggers": false,
    })
}
