//! Child processes that never outlive the test that started them.

use std::{
    fs::{File, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use super::{PATIENCE, within};

/// A running program with its output in a file. Dropping it kills the program's whole group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Kills the group when this process dies without running destructors, as statics and SIGKILL
    /// make it do: its standard input ends then.
    watchdog: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`. Standard input stays as the caller set it.
    pub fn spawn(command: &mut Command, log: &Path) -> Self {
        let out = append(log);
        command.stdout(out.try_clone().unwrap());
        Self::spawn_with_output(command.stderr(out), log)
    }

    /// Starts `command` as it is; `log` is only remembered.
    pub fn spawn_with_output(command: &mut Command, log: &Path) -> Self {
        let child = command
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
        let watchdog = Command::new("sh")
            .args(["-c", "read -r _; kill -s KILL -- -\"$1\"", "watchdog", &child.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Self { child, watchdog, log: log.to_owned() }
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The status with which the program ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// SIGKILL, and waits until the program is gone.
    pub fn kill(&mut self) {
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        if self.exited().is_none() {
            self.signal_group("KILL");
            let _ = self.child.wait();
        }
    }

    /// SIGTERM, and waits for the program's own end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal_group("TERM");
        let ended = within(PATIENCE, async || self.child.try_wait().unwrap()).await;
        ended.unwrap_or_else(|| panic!("no end after SIGTERM; its output:\n{}", self.output()))
    }

    fn signal_group(&self, signal: &str) {
        let group = format!("-{}", self.child.id());
        let _ =
            Command::new("kill").args(["-s", signal, "--", &group]).stderr(Stdio::null()).status();
    }

    /// The end of what the program wrote.
    pub fn output(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.log.display(), self.output());
        }
    }
}

/// Opens a log file so that a second run of the same program continues it.
pub fn append(log: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(log).unwrap()
}

/// The last sixty lines of a file.
pub fn tail(path: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
