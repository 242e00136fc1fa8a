//! The command as a script sees it: arguments and files in, exit code, output and files out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

#[path = "contract/ledger.rs"]
mod ledger;
#[path = "contract/operator.rs"]
mod operator;
#[path = "contract/pages.rs"]
mod pages;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output},
};

const CONFIG: &str = r#"
homeserver: { address: "http://127.0.0.1:8008", domain: "localhost" }
appservice: { listen: "127.0.0.1:29330", address: "http://127.0.0.1:29330", registration: "registration.yaml", bot: { localpart: "statekeeper", displayname: "State Keeper" } }
store:      { url: "sqlite:data/statekeeper.db", passphrase_file: "data/passphrase" }
admin:      { listen: "127.0.0.1:29331" }
access:     { admins: ["@ops:localhost"], invite_from: ["*:localhost"] }
logging:    { format: text, level: info }
"#;

/// A configuration with more in `admin`.
fn with_dashboard(more: &str) -> String {
    let listen = "listen: \"127.0.0.1:29331\"";
    CONFIG.replace(listen, &format!("{listen}, {more}"))
}

/// A folder with a configuration, in which commands are run.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new(config: &str) -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(site.path("config.yaml"), config).unwrap();
        fs::create_dir(site.path("data")).unwrap();
        fs::write(site.path("data/passphrase"), "a long random line\n").unwrap();
        fs::set_permissions(site.path("data/passphrase"), fs::Permissions::from_mode(0o600))
            .unwrap();
        site
    }

    /// With a registration as well, so that `check` is content.
    fn complete(config: &str) -> Self {
        let site = Self::new(CONFIG);
        assert_eq!(site.register(&[]).code, 0);
        fs::write(site.path("config.yaml"), config).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_statekeeper"))
            .args(arguments)
            .current_dir(self.folder.path())
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        Said::from(output)
    }

    fn register(&self, more: &[&str]) -> Said {
        let arguments = ["registration", "--config", "config.yaml", "--out", "registration.yaml"];
        self.run(&[&arguments, more].concat(), &[])
    }

    fn check(&self) -> Said {
        self.run(&["check", "--config", "config.yaml"], &[])
    }
}

#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Said {
    /// Asserts that exactly these mistakes were reported, by how their lines start.
    fn mistakes(&self, starts: &[&str]) {
        assert_eq!(self.code, 1, "{self:?}");
        let lines: Vec<_> = self.err.lines().collect();
        assert_eq!(lines.len(), starts.len(), "{self:#?}");
        for start in starts {
            assert!(lines.iter().any(|line| line.starts_with(start)), "{start}: {self:#?}");
        }
        assert!(!self.out.contains("good"), "{self:?}");
    }
}

#[test]
fn a_fresh_registration_is_private_and_fits_its_configuration() {
    let site = Site::new(CONFIG);
    let said = site.register(&[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("app_service_config_files"), "{said:?}");
    let mode = fs::metadata(site.path("registration.yaml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let said = site.check();
    assert_eq!((said.code, said.out.as_str()), (0, "configuration is good\n"), "{said:?}");
    assert_eq!(said.err, "");
}

#[test]
fn a_registration_leaves_no_other_file_behind() {
    let site = Site::new(CONFIG);
    site.register(&[]);
    site.register(&[]);
    site.register(&["--force"]);
    let mut names: Vec<_> = fs::read_dir(site.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["config.yaml", "data", "registration.yaml"]);
}

#[test]
fn a_registration_that_is_there_is_replaced_only_by_force() {
    let site = Site::new(CONFIG);
    site.register(&[]);
    let first = site.read("registration.yaml");
    let said = site.register(&[]);
    said.mistakes(&["registration.yaml: there is such a file already"]);
    assert_eq!(site.read("registration.yaml"), first);
    assert_eq!(site.register(&["--force"]).code, 0);
    assert_ne!(site.read("registration.yaml"), first);
    let mode = fs::metadata(site.path("registration.yaml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_registration_needs_no_passphrase_yet() {
    let site = Site::new(CONFIG);
    fs::remove_file(site.path("data/passphrase")).unwrap();
    assert_eq!(site.register(&[]).code, 0);
    site.check().mistakes(&["config.yaml: store.passphrase_file: cannot read "]);
}

#[test]
fn no_registration_is_written_for_a_wrong_configuration() {
    let site = Site::new(&CONFIG.replace("domain: \"localhost\"", "domain: \"local host\""));
    site.register(&[]).mistakes(&["config.yaml: homeserver.domain: "]);
    assert!(!site.path("registration.yaml").exists());
}

#[test]
fn a_registration_that_cannot_be_written_is_said_so() {
    let site = Site::new(CONFIG);
    let said = site.run(&["registration", "--config", "config.yaml", "--out", "no/r.yaml"], &[]);
    said.mistakes(&["warning: config.yaml: appservice", "no/r.yaml: cannot be written"][1..]);
}

#[test]
fn a_misspelt_key_is_refused_with_the_nearest_known_one() {
    let site = Site::complete(&format!("{CONFIG}\nsharing: {{ gate_timout: 3s }}\n"));
    let said = site.check();
    said.mistakes(&[
        "config.yaml: sharing.gate_timout: there is no such key; did you mean \"gate_timeout\"?",
    ]);
}

#[test]
fn all_mistakes_of_both_files_are_named_at_once() {
    let config =
        CONFIG.replace("level: info", "level: \"info,=\"").replace("\"*:localhost\"", "localhost");
    let site =
        Site::complete(&format!("{config}\nsharing: {{ gate_timeout: 3 parsecs, devices: 5 }}\n"));
    let registration = site.read("registration.yaml").replace("http://127.0.0.1:29330", "http://x");
    fs::write(site.path("registration.yaml"), registration).unwrap();
    let path = site.path("registration.yaml").display().to_string();
    site.check().mistakes(&[
        "config.yaml: sharing.gate_timeout: \"3 parsecs\" is not a duration; write a number and a unit, like \"3s\"",
        "config.yaml: sharing.devices: 5 is not one of cross_signed, all",
        "config.yaml: access.invite_from[0]: \"localhost\" is not a pattern for user ids",
        "config.yaml: logging.level: ",
        &format!("{path}: url: \"http://x\" is not appservice.address"),
    ]);
}

#[test]
fn a_passphrase_given_twice_is_a_mistake() {
    let site = Site::complete(
        &CONFIG.replace("passphrase_file:", "passphrase: \"hunter2\", passphrase_file:"),
    );
    let said = site.check();
    said.mistakes(&["config.yaml: store: has both passphrase and passphrase_file"]);
    assert!(!said.err.contains("hunter2"));
}

#[test]
fn an_empty_passphrase_is_a_mistake() {
    let site = Site::complete(CONFIG);
    fs::write(site.path("data/passphrase"), "\n").unwrap();
    site.check().mistakes(&["config.yaml: store: the passphrase is empty"]);
}

#[test]
fn a_variable_sets_a_key_over_the_file() {
    let site = Site::complete(&CONFIG.replace("level: info", "level: \"\""));
    assert_eq!(site.check().code, 1);
    let check = ["check", "--config", "config.yaml"];
    let said = site.run(&check, &[("STATEKEEPER__LOGGING__LEVEL", "debug")]);
    assert_eq!(said.code, 0, "{said:?}");
    let said = site.run(
        &check,
        &[("STATEKEEPER__LOGGING__LEVEL", "debug"), ("STATEKEEPER__LOGGING__FORMAT", "xml")],
    );
    said.mistakes(&["environment: STATEKEEPER__LOGGING__FORMAT: \"xml\" is not one of text, json"]);
}

#[test]
fn the_passphrase_file_can_come_from_the_environment() {
    let site = Site::complete(CONFIG);
    fs::rename(site.path("data/passphrase"), site.path("elsewhere")).unwrap();
    assert_eq!(site.check().code, 1);
    let set = [("STATEKEEPER__STORE__PASSPHRASE_FILE", "elsewhere")];
    assert_eq!(site.run(&["check", "--config", "config.yaml"], &set).code, 0);
}

#[test]
fn paths_are_relative_to_the_configuration_and_not_to_the_shell() {
    let site = Site::complete(CONFIG);
    let config = site.path("config.yaml").display().to_string();
    let elsewhere = Site::new("");
    assert_eq!(elsewhere.run(&["check", "--config", &config], &[]).code, 0);
}

#[test]
fn missing_files_are_named() {
    let site = Site::new(CONFIG);
    let path = site.path("registration.yaml").display().to_string();
    site.check().mistakes(&[&format!("{path}: there is no such file; write it with ")]);
    site.run(&["check", "--config", "nowhere.yaml"], &[])
        .mistakes(&["nowhere.yaml: cannot be read: "]);
}

#[test]
fn a_registration_whose_sender_is_the_keeper_is_refused() {
    let site = Site::complete(CONFIG);
    let yaml = site.read("registration.yaml");
    let sender = yaml.lines().find(|line| line.starts_with("sender_localpart")).unwrap();
    let yaml = yaml.replace(sender, "sender_localpart: statekeeper");
    fs::write(site.path("registration.yaml"), yaml).unwrap();
    let path = site.path("registration.yaml").display().to_string();
    site.check().mistakes(&[&format!("{path}: sender_localpart: is the keeper itself")]);
}

#[test]
fn what_is_risky_and_not_wrong_is_a_warning() {
    let site = Site::complete(CONFIG);
    let yaml = site.read("registration.yaml").replace("rate_limited: false", "rate_limited: true");
    fs::write(site.path("registration.yaml"), yaml).unwrap();
    fs::set_permissions(site.path("data/passphrase"), fs::Permissions::from_mode(0o644)).unwrap();
    let said = site.check();
    assert_eq!(said.code, 0, "{said:?}");
    let path = |name| site.path(name).display().to_string();
    let lines: Vec<_> = said.err.lines().collect();
    assert_eq!(lines.len(), 2, "{said:?}");
    assert!(
        lines[0].starts_with(&format!("warning: {}: rate_limited: ", path("registration.yaml")))
    );
    assert!(lines[1].starts_with(&format!("warning: {}: can be read", path("data/passphrase"))));
}

#[test]
fn a_secret_of_the_dashboard_that_everybody_may_read_is_a_warning() {
    let site = Site::complete(&with_dashboard(
        "trusted_proxies: [\"127.0.0.1\"], dashboard: { token_file: token, user_header: X-User, \
         proxy_secret_file: secret }",
    ));
    for name in ["token", "secret"] {
        fs::write(site.path(name), "a long random line, made up here\n").unwrap();
        fs::set_permissions(site.path(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let said = site.check();
    assert_eq!(said.code, 0, "{said:?}");
    for name in ["token", "secret"] {
        let warning = format!("warning: {}: can be read", site.path(name).display());
        assert!(said.err.contains(&warning), "{said:?}");
        fs::set_permissions(site.path(name), fs::Permissions::from_mode(0o640)).unwrap();
    }
    assert_eq!(site.check().err, "");
}

#[test]
fn a_secret_of_the_dashboard_is_measured_without_the_spaces_around_it() {
    let site = Site::complete(&with_dashboard("dashboard: { token_file: token }"));
    let path = |site: &Site| site.path("token");
    fs::write(path(&site), "   short                     \n\n").unwrap();
    site.check()
        .mistakes(&["config.yaml: admin.dashboard.token_file: has fewer than 20 characters"]);
    fs::write(path(&site), "  exactly-20-letters-!  \n").unwrap();
    assert_eq!(site.check().code, 0);
}

#[test]
fn serve_refuses_what_check_refuses() {
    let site = Site::complete(&CONFIG.replace("level: info", "levl: info"));
    site.run(&["serve", "--config", "config.yaml"], &[])
        .mistakes(&["config.yaml: logging.levl: there is no such key; did you mean \"level\"?"]);
}

#[test]
fn a_wrong_call_is_told_apart_from_a_wrong_configuration() {
    let site = Site::new(CONFIG);
    for arguments in
        [&[][..], &["chek"], &["check"], &["check", "--config"], &["registration", "--config", "c"]]
    {
        let said = site.run(arguments, &[]);
        assert_eq!(said.code, 2, "{arguments:?}: {said:?}");
    }
    assert_eq!(site.run(&["--help"], &[]).code, 0);
    assert!(site.run(&["--version"], &[]).out.starts_with("statekeeper "));
}

#[test]
fn the_committed_samples_work_together() {
    let site = Site::new(include_str!("../config/statekeeper.sample.yaml"));
    assert_eq!(site.register(&[]).code, 0);
    assert_eq!(site.check().code, 0);
}

const POLICIES: &str = r##"
sharing:
  members: vouched
policies:
  - match:
      rooms: ["!team:localhost"]
    sharing:
      invitees: none
  - match: { aliases: ["#x:localhost"] }
    noop: true
"##;

fn explain(site: &Site, more: &[&str], environment: &[(&str, &str)]) -> Said {
    let arguments = ["policy", "explain", "--config", "config.yaml", "!team:localhost"];
    site.run(&[&arguments, more].concat(), environment)
}

#[test]
fn a_rooms_policy_is_explained_line_by_line_also_without_a_store() {
    let site = Site::new(&format!("{CONFIG}{POLICIES}"));
    let text = site.read("config.yaml");
    let line = |part: &str| text.lines().position(|line| line.contains(part)).unwrap() + 1;
    let said = explain(&site, &[], &[("STATEKEEPER__STATE__RESEAL", "on_need")]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    let settings = [
        ("sharing.members", "vouched", format!("config.yaml:{}", line("members:"))),
        ("sharing.invitees", "none", format!("config.yaml:{}", line("invitees:"))),
        ("sharing.devices", "cross_signed", "default".to_owned()),
        ("state.reseal", "on_need", "STATEKEEPER__STATE__RESEAL".to_owned()),
        ("noop", "false", "default".to_owned()),
    ];
    for (key, value, origin) in &settings {
        let mut words = said.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let wanted = [*key, value, &format!("({origin})")];
        assert!(words.any(|words| words == wanted), "{wanted:?} in:\n{}", said.out);
    }
    let policy = format!("policies[0] (config.yaml:{})", line("- match:"));
    assert!(said.out.contains(&policy), "{policy} in:\n{}", said.out);
    assert!(said.out.contains("by alias or space are not weighed"), "{}", said.out);
    assert!(!said.out.contains("refresh_per_second"), "that is no room's:\n{}", said.out);
    assert!(!site.path("data/statekeeper.db").exists(), "no store is made");

    let said = explain(&site, &["--json"], &[]);
    let told: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&told["policy"]["index"], &told["known"]), (&0.into(), &false.into()));
    let rows = told["settings"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["key"] == "sharing.invitees" && row["value"] == "none"));
}

#[test]
fn a_mistake_in_a_policy_is_found_by_check_and_keeps_explain_from_guessing() {
    let wrong = POLICIES.replace("invitees: none", "invitees: nobody");
    let site = Site::complete(&format!("{CONFIG}{wrong}"));
    let start = "config.yaml: policies[0].sharing.invitees: \"nobody\" is not one of";
    site.check().mistakes(&[start]);
    explain(&site, &[], &[]).mistakes(&[start]);
}
