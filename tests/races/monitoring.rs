//! What an operator's monitoring is given: a real Prometheus reads a running keeper, and every query of the dashboard
//! and of the alerts is one that it understands and that has something to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use http::Method;
use regex::Regex;
use serde_json::{Value, json};
use statekeeper::admin::{Metrics, Trouble};
use tempfile::TempDir;

use crate::{
    races::stage::{NAME, Stage},
    simulated::{
        World,
        keeper::free_address,
        push::{HttpClient, http_client, request},
        queries::megolm_place,
    },
};

/// How long a query may take to have something to say.
const PATIENCE: Duration = Duration::from_secs(60);
const DASHBOARD: &str = "deploy/grafana/statekeeper.json";
const RULES: &str = "deploy/prometheus/statekeeper.rules.yaml";
const RULE_TESTS: &str = "deploy/prometheus/tests.yaml";

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_yaml::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One of Prometheus' programs: as `tests/setup.sh` unpacked it, or as it is installed.
fn tool(name: &str) -> Command {
    let unpacked = file(".work/prometheus/usr/bin").join(name);
    Command::new(if unpacked.exists() { unpacked } else { name.into() })
}

fn run(mut command: Command) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!("{:?} cannot be run, `tests/setup.sh` gets it: {error}", command.get_program())
    })
}

/// The texts under a key, wherever it stands.
fn texts(tree: &Value, key: &str) -> Vec<String> {
    match tree {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| match value {
                Value::String(text) if name == key => vec![text.clone()],
                value => texts(value, key),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(|item| texts(item, key)).collect(),
        _ => Vec::new(),
    }
}

/// The dashboard's queries as Grafana would send them, for a job and all instances of it.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let queries = texts(&dashboard["panels"], "expr");
    assert!(queries.len() > 20, "{queries:?}");
    let filled = |query: &String| {
        let query = query.replace("$job", "statekeeper").replace("$instance", ".*");
        query.replace("$__rate_interval", "5m")
    };
    queries.iter().map(filled).collect()
}

fn alerts() -> Vec<Value> {
    let rules = yaml(RULES);
    let groups = rules["groups"].as_array().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// The metrics that texts name, without what a histogram puts behind its name.
fn named(texts: &[String]) -> BTreeSet<String> {
    let name = Regex::new("(?:statekeeper|process)_[a-z_]+").unwrap();
    let names = texts.iter().flat_map(|text| name.find_iter(text));
    names.map(|name| family(name.as_str())).collect()
}

fn family(name: &str) -> String {
    let suffixes = ["_bucket", "_sum", "_count"];
    suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name).to_owned()
}

#[test]
fn dashboard_alerts_and_runbooks_name_no_metric_that_does_not_exist() {
    let metrics = Metrics::new().unwrap();
    let known: BTreeSet<String> =
        metrics.entries().iter().map(|entry| entry.about.name.to_owned()).collect();
    let queries = dashboard_queries();
    let rules: Vec<String> = alerts().iter().map(|alert| alert["expr"].to_string()).collect();
    let pages: Vec<String> = fs::read_dir(file("docs/runbooks"))
        .unwrap()
        .map(|page| fs::read_to_string(page.unwrap().path()).unwrap())
        .collect();
    for texts in [&queries, &rules, &pages] {
        let named = named(texts);
        assert!(!named.is_empty());
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
    let changelog = read("CHANGELOG.md");
    for name in known.iter().filter(|name| name.starts_with("statekeeper_")) {
        assert!(changelog.contains(name.as_str()), "{name} is not in the changelog");
    }
}

#[test]
fn every_alert_has_a_page_and_a_test_and_every_page_has_its_alert() {
    let tests = yaml(RULE_TESTS);
    let mut fired = BTreeSet::new();
    for case in texts_of_alerts(&tests) {
        if case["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty()) {
            fired.insert(case["alertname"].as_str().unwrap().to_owned());
        }
    }
    let mut pages: BTreeSet<String> = fs::read_dir(file("docs/runbooks"))
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    let operations = read("docs/OPERATIONS.md");
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(fired.contains(name), "{RULE_TESTS} never has {name} fire");
        assert_eq!(alert["annotations"]["runbook"], format!("docs/runbooks/{name}.md"));
        for text in ["summary", "description", "mend"] {
            assert!(alert["annotations"][text].is_string(), "{name} has no {text}");
        }
        assert!(pages.remove(&format!("{name}.md")), "{name} has no page");
        let page = read(&format!("docs/runbooks/{name}.md"));
        for part in ["**What it means.**", "**How to see it.**", "**How to mend it.**"] {
            assert!(page.contains(part), "{name}: {part}");
        }
        assert!(operations.contains(&format!("[{name}](runbooks/{name}.md)")), "{name}");
    }
    assert!(pages.is_empty(), "pages without an alert: {pages:?}");
}

/// What the keeper's troubles are told by where their alerts do not name them: the general ones of homeserver and store.
fn is_of(trouble: Trouble, expression: &str) -> bool {
    let by_part = match trouble {
        Trouble::Homeserver => {
            expression.starts_with("statekeeper_missing{part=\"homeserver\"} == 1")
        }
        Trouble::Store => expression.starts_with("(statekeeper_missing{part=\"store\"} == 1"),
        _ => false,
    };
    by_part || expression.contains(&format!("{{cause=\"{}\"}}", trouble.as_str()))
}

#[test]
fn every_trouble_has_its_alert_which_says_what_the_keeper_says_mends_it() {
    let operations = read("docs/OPERATIONS.md");
    let alerts = alerts();
    for trouble in Trouble::ALL {
        let is_of = |alert: &&Value| is_of(trouble, alert["expr"].as_str().unwrap());
        let [alert] = alerts.iter().filter(is_of).collect::<Vec<_>>()[..] else {
            panic!("{trouble:?} has no alert, or several");
        };
        let mend = alert["annotations"]["mend"].as_str().unwrap();
        assert_eq!(mend, format!("{}.", trouble.mend()), "{}", alert["alert"]);
        let row = format!("| `{}` | ", trouble.as_str());
        let page = format!("(runbooks/{}.md)", alert["alert"].as_str().unwrap());
        let is_row = |line: &str| line.starts_with(&row) && line.contains(&page);
        assert!(operations.lines().any(is_row), "{trouble:?} is not in OPERATIONS.md");
    }
}

fn texts_of_alerts(tests: &Value) -> Vec<Value> {
    let tests = tests["tests"].as_array().unwrap();
    tests.iter().flat_map(|test| test["alert_rule_test"].as_array().unwrap().clone()).collect()
}

#[test]
fn every_alert_fires_when_it_should_and_not_before() {
    let mut check = tool("promtool");
    check.args(["check", "rules"]).arg(file(RULES));
    let mut test = tool("promtool");
    test.args(["test", "rules"]).arg(file(RULE_TESTS));
    for command in [check, test] {
        let said = run(command);
        assert!(said.status.success(), "{said:?}");
    }
}

/// A Prometheus that reads one keeper and evaluates the alerts.
struct Prometheus {
    address: String,
    process: Child,
    client: HttpClient,
    folder: TempDir,
}

impl Prometheus {
    fn reading(keeper: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        // JSON is YAML, too.
        let config = json!({
            "global": { "scrape_interval": "250ms", "evaluation_interval": "250ms" },
            "rule_files": [file(RULES)],
            "scrape_configs": [{
                "job_name": "statekeeper", "static_configs": [{ "targets": [keeper] }],
            }],
        });
        fs::write(folder.path().join("prometheus.yaml"), config.to_string()).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = tool("prometheus")
            .arg(format!("--config.file={}", folder.path().join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("no Prometheus, `tests/setup.sh` gets it: {error}"));
        Self { address, process, client: http_client(), folder }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let url = format!("http://{}{path}", self.address);
        let url = url::Url::parse_with_params(&url, query).unwrap();
        let answer = request(&self.client, Method::GET, url.as_str(), None, "").await;
        let (_, said) = answer.ok()?;
        Some(said)
    }

    /// The values that a query gives now, those that are no number left out.
    async fn values(&self, query: &str) -> Result<Vec<f64>, String> {
        let Some(said) = self.get("/api/v1/query", &[("query", query)]).await else {
            return Ok(Vec::new());
        };
        // Until it has started it answers in plain words.
        if said["status"] == "error" {
            return Err(said.to_string());
        }
        let results = said["data"]["result"].as_array().cloned().unwrap_or_default();
        let numbers = results.iter().filter_map(|result| result["value"][1].as_str()?.parse().ok());
        Ok(numbers.filter(|number: &f64| number.is_finite()).collect())
    }

    /// Waits until a query has something to say.
    async fn answers(&self, query: &str) -> Vec<f64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.values(query).await {
                Ok(values) if !values.is_empty() => return values,
                Ok(_) => {}
                Err(error) => panic!("{query}: {error}"),
            }
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "nothing for {query}\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_real_prometheus_reads_the_keeper_and_every_query_has_an_answer() {
    let rotation = json!({ "when": "at_once", "settle": "20ms" });
    let stage =
        Stage::with(json!({ "requests": { "cool_down": "1ms" }, "rotation": rotation })).await;
    let prometheus = Prometheus::reading(stage.keeper.admin());
    // What a rate is made of has to be there before it changes.
    let deadline = Instant::now() + PATIENCE;
    while prometheus.answers("up{job=\"statekeeper\"}").await != [1.0] {
        assert!(Instant::now() < deadline, "Prometheus does not reach the keeper");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    prometheus.answers("statekeeper_join_to_key_seconds_count").await;
    bustle(&stage).await;
    for query in dashboard_queries() {
        prometheus.answers(&query).await;
    }
    let known = Metrics::new().unwrap();
    for entry in known.entries() {
        let name = entry.about.name;
        let series = match entry.kind.as_str() {
            "histogram" => format!("{name}_count"),
            _ => name.to_owned(),
        };
        prometheus.answers(&series).await;
    }
    let rules = prometheus.get("/api/v1/rules", &[]).await.unwrap();
    let health: BTreeMap<String, String> = rules["data"]["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .map(|rule| (rule["name"].to_string(), rule["health"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(health.len(), alerts().len());
    assert!(health.values().all(|health| health == "ok"), "{health:?}");
}

/// Something of everything that is counted: a join with and without keys, a departure, a broken rule, a key request.
async fn bustle(stage: &Stage) {
    let room = stage.sim.room().encrypted_power(0).create();
    stage.invite_keeper(&room).await;
    stage.name(&room, "Tea").await;
    let (bob, carol) =
        (stage.sim.user("bob").create(), stage.sim.user("carol").cross_signed(false).create());
    stage.sim.join(&room, "bob");
    stage.sim.join(&room, "carol");
    stage.shows(&bob.device(1), &room, "Tea").await;
    carol.device(1).ask_for_key(&room.room_id, "no session of ours", "first");
    bob.device(1).rename(&room, "Bob's");
    // What goes over it may be a restoring, or a refresh that was under way.
    stage.keeper.wait_for_metric("statekeeper_policy_violations_total", 1.0).await;
    let stands = |world: &mut World| world.keeper_seal(&room.room_id, NAME).is_some();
    stage.sim.wait_for("the keeper's name stands again", stands).await;
    let seal = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME)).unwrap();
    let (session, _) = megolm_place(seal.sent_content()).unwrap();
    bob.device(1).ask_for_key(&room.room_id, &session, "second");
    stage.keeper.wait_for_metric("statekeeper_key_request_seconds_count", 1.0).await;
    room.leave("bob");
    stage.keeper.wait_for_metric("statekeeper_rotation_seconds_count", 1.0).await;
    stage.name(&room, "Coffee").await;
    assert!(stage.seals(&room, NAME) > 0);
}
