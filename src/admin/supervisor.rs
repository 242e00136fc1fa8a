//! What the service manager is told: systemd's `sd_notify` protocol, a word or two a datagram.

use std::{
    ffi::OsStr,
    io,
    os::unix::{
        ffi::OsStrExt as _,
        net::{SocketAddr, UnixDatagram},
    },
    sync::Arc,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use super::Readiness;

/// Whoever started the process and wants to hear of it. Without one nobody is told anything.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    /// How long it waits for a sign of life before it ends the process.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names: `NOTIFY_SOCKET`, and `WATCHDOG_USEC` where it wants signs of life.
    #[must_use]
    pub fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let usec = std::env::var("WATCHDOG_USEC").ok();
        let pid = std::env::var("WATCHDOG_PID").ok();
        match connect(&name) {
            Ok(socket) => Self {
                socket: Some(Arc::new(socket)),
                watchdog: watchdog_of(usec.as_deref(), pid.as_deref(), std::process::id()),
            },
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET names no socket; the service manager is told nothing");
                Self::default()
            }
        }
    }

    /// The process listens: it can be reached, and waits by itself for what it needs.
    pub fn started(&self) {
        self.tell("READY=1");
    }

    /// The configuration is being read anew; [`Supervisor::started`] follows.
    pub fn reloading(&self) {
        self.tell("RELOADING=1");
    }

    /// The process brings what is under way to its end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=brings to its end what is under way");
    }

    /// Says what the keeper waits for whenever that changes, and that it lives, for ever.
    ///
    /// The signs of life come from the runtime that does the work: one that is stuck gives none.
    pub async fn follow(self, readiness: Readiness) {
        let mut missing = readiness.subscribe();
        let mut alive = self.watchdog.map(|longest| {
            let mut alive = interval(longest / 2);
            alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
            alive
        });
        self.tell(&status(&readiness));
        loop {
            tokio::select! {
                changed = missing.changed() => match changed {
                    Ok(()) => self.tell(&status(&readiness)),
                    Err(_) => return,
                },
                () = next(&mut alive) => self.tell("WATCHDOG=1"),
            }
        }
    }

    fn tell(&self, words: &str) {
        let Some(socket) = &self.socket else { return };
        let (socket, address) = &**socket;
        if let Err(error) = socket.send_to_addr(words.as_bytes(), address) {
            tracing::debug!(%error, words, "the service manager could not be told");
        }
    }
}

async fn next(alive: &mut Option<tokio::time::Interval>) {
    match alive {
        Some(alive) => {
            alive.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn status(readiness: &Readiness) -> String {
    let missing = readiness.missing();
    if missing.is_empty() {
        return "STATUS=ready".to_owned();
    }
    format!("STATUS=waits for {}", missing.join(", "))
}

/// A socket to send from, and the address that `name` means: a path, or with `@` before it an abstract name.
fn connect(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => abstract_address(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // Whoever does not read what it is told holds up nobody.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_name: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// How long signs of life may be apart; `None` where nobody waits for this process's.
fn watchdog_of(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let usec: u64 = usec?.parse().ok()?;
    (usec > 0).then(|| Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A supervisor in a folder of its own, and where it is told.
    fn listening(watchdog: Option<Duration>) -> (tempfile::TempDir, UnixDatagram, Supervisor) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        heard.set_nonblocking(true).unwrap();
        let socket = Some(Arc::new(connect(path.as_os_str()).unwrap()));
        (folder, heard, Supervisor { socket, watchdog })
    }

    fn said(heard: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 256];
        std::iter::from_fn(|| heard.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()))
            .map(|words| String::from_utf8(words).unwrap())
            .collect()
    }

    #[test]
    fn it_is_told_in_its_own_words() {
        let (_folder, heard, supervisor) = listening(None);
        supervisor.started();
        supervisor.reloading();
        supervisor.stopping();
        let all =
            ["READY=1", "RELOADING=1", "STOPPING=1\nSTATUS=brings to its end what is under way"];
        assert_eq!(said(&heard), all);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_abstract_name_is_a_socket_too() {
        let name = format!("statekeeper-test-{}", std::process::id());
        let heard = UnixDatagram::bind_addr(&abstract_address(name.as_bytes()).unwrap()).unwrap();
        heard.set_nonblocking(true).unwrap();
        let socket = Some(Arc::new(connect(OsStr::new(&format!("@{name}"))).unwrap()));
        Supervisor { socket, watchdog: None }.started();
        assert_eq!(said(&heard), ["READY=1"]);
    }

    /// Waits until this is said, and gives all that was said until then.
    async fn until(heard: &UnixDatagram, words: &str) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..2000 {
            all.append(&mut said(heard));
            if all.iter().any(|said| said == words) {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{words} is not said: {all:?}");
    }

    #[tokio::test]
    async fn it_hears_what_the_keeper_waits_for_and_that_it_lives() {
        let (_folder, heard, supervisor) = listening(Some(Duration::from_millis(20)));
        let readiness = Readiness::new();
        let rooms = readiness.latch("rooms");
        readiness.lost("homeserver");
        tokio::spawn(supervisor.follow(readiness.clone()));
        let first = until(&heard, "WATCHDOG=1").await;
        assert_eq!(first.first().map(String::as_str), Some("STATUS=waits for homeserver, rooms"));
        readiness.regained("homeserver");
        rooms.release();
        until(&heard, "STATUS=ready").await;
        until(&heard, "WATCHDOG=1").await;
    }

    #[test]
    fn signs_of_life_are_given_to_whoever_waits_for_this_process() {
        let minute = Some(Duration::from_secs(60));
        assert_eq!(watchdog_of(Some("60000000"), None, 7), minute);
        assert_eq!(watchdog_of(Some("60000000"), Some("7"), 7), minute);
        for (usec, pid) in [
            (Some("60000000"), Some("8")),
            (Some("60000000"), Some("x")),
            (Some("0"), None),
            (Some("soon"), None),
            (None, None),
        ] {
            assert_eq!(watchdog_of(usec, pid, 7), None, "{usec:?} {pid:?}");
        }
    }

    #[test]
    fn without_a_supervisor_nobody_is_told() {
        Supervisor::default().started();
    }
}
