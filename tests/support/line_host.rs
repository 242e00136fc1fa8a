//! A process that is home to clients and is driven over lines of JSON:
//! `{ "id", "client", "method", "params" }` in, `{ "id", "result" }` or `{ "id", "error" }` out.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{RunDir, process};

/// What a method returned, or the error that it ended with.
pub type Answer = Result<Value, String>;

/// The running process.
#[derive(Debug)]
pub struct LineHost {
    stdin: Mutex<ChildStdin>,
    waiting: Arc<Mutex<Waiting>>,
    _process: Mutex<process::Process>,
    _dir: RunDir,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    calls: HashMap<u64, oneshot::Sender<Answer>>,
}

impl LineHost {
    /// Starts `command`; what it writes to standard error goes into a directory named for `stem`.
    pub fn start(stem: &str, command: &mut Command) -> Self {
        let dir = RunDir::new(stem);
        let log = dir.path().join("output.log");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(process::append(&log));
        let mut process = process::Process::spawn_with_output(command, &log);
        let stdin = process.child().stdin.take().unwrap();
        let stdout = process.child().stdout.take().unwrap();
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let for_reader = waiting.clone();
        std::thread::spawn(move || read_answers(stdout, &for_reader));
        Self { stdin: Mutex::new(stdin), waiting, _process: Mutex::new(process), _dir: dir }
    }

    /// Calls a method of a client, who comes into being by being named.
    pub async fn call(&self, client: &str, method: &str, params: Value) -> Answer {
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting.lock().unwrap();
            waiting.next += 1;
            let id = waiting.next;
            waiting.calls.insert(id, sender);
            id
        };
        let line = json!({ "id": id, "client": client, "method": method, "params": params });
        writeln!(self.stdin.lock().unwrap(), "{line}").expect("the clients' process reads");
        answer.await.unwrap_or_else(|_| Err("the clients' process ended".to_owned()))
    }
}

fn read_answers(stdout: ChildStdout, waiting: &Mutex<Waiting>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let Ok(answer) = serde_json::from_str::<Value>(&line) else { continue };
        let Some(id) = answer["id"].as_u64() else { continue };
        let Some(call) = waiting.lock().unwrap().calls.remove(&id) else { continue };
        let outcome = match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer["result"].clone()),
        };
        let _ = call.send(outcome);
    }
    waiting.lock().unwrap().calls.clear();
}
