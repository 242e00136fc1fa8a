//! The handle on a simulated homeserver.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::json;
use tokio::sync::{Notify, watch};

use super::{
    builder::{DeviceRef, RoomBuilder, RoomRef, UserBuilder},
    crypto::Trust,
    faults::{DeadServer, Fault},
    push, server,
    world::{BeforePut, SERVER_NAME, World},
};

/// How long a test waits for a condition before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What an application service's registration file says.
#[derive(Clone, Debug)]
pub struct Registration {
    pub id: String,
    pub url: String,
    pub as_token: String,
    pub hs_token: String,
    pub sender_localpart: String,
    pub bot_localpart: String,
}

impl Registration {
    /// A registration of the keeper at `url`.
    pub fn new(url: &str) -> Self {
        Self {
            id: "statekeeper".to_owned(),
            url: url.to_owned(),
            as_token: "simulated-application-service-token-0123456789".to_owned(),
            hs_token: "simulated-homeserver-token-0123456789abcdef".to_owned(),
            sender_localpart: "_statekeeper_sender_0123456789".to_owned(),
            bot_localpart: "statekeeper".to_owned(),
        }
    }

    /// The keeper's user id.
    pub fn bot_user_id(&self) -> String {
        format!("@{}:{SERVER_NAME}", self.bot_localpart)
    }

    /// The file's content. JSON is YAML, too.
    pub fn to_yaml(&self) -> String {
        let regex = format!("@{}:{SERVER_NAME}", self.bot_localpart);
        json!({
            "id": self.id, "url": self.url,
            "as_token": self.as_token, "hs_token": self.hs_token,
            "sender_localpart": self.sender_localpart, "rate_limited": false,
            "namespaces": {
                "users": [{ "exclusive": true, "regex": regex }], "rooms": [], "aliases": [],
            },
        })
        .to_string()
    }
}

struct Shared {
    world: Mutex<World>,
    version: watch::Sender<u64>,
    retry: Notify,
    url: String,
}

/// A running simulated homeserver. Clones are the same one.
#[derive(Clone)]
pub struct Sim {
    shared: Arc<Shared>,
}

impl Sim {
    /// Listens on a free loopback port.
    pub async fn start(registration: Registration) -> Self {
        let listener =
            tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Shared {
            world: Mutex::new(World::new(registration)),
            version: watch::Sender::new(0),
            retry: Notify::new(),
            url: format!("http://{address}"),
        };
        let sim = Self { shared: Arc::new(shared) };
        tokio::spawn(server::serve(sim.clone(), listener));
        tokio::spawn(push::push_transactions(sim.clone()));
        sim
    }

    /// The homeserver's address.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// The world, locked.
    pub fn lock(&self) -> MutexGuard<'_, World> {
        // A test that failed under the lock has said so already.
        self.shared.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the world, or changes it without telling those who wait.
    pub fn with<R>(&self, look: impl FnOnce(&mut World) -> R) -> R {
        look(&mut self.lock())
    }

    /// Changes the world and tells all who wait for a condition.
    pub fn change<R>(&self, change: impl FnOnce(&mut World) -> R) -> R {
        let result = self.with(change);
        self.touch();
        result
    }

    /// Tells all who wait that something may have changed.
    pub fn touch(&self) {
        self.shared.version.send_modify(|version| *version += 1);
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    pub(super) async fn retry_now(&self) {
        self.shared.retry.notified().await;
    }

    /// Makes a failed transaction go out again at once.
    pub fn push_again(&self) {
        self.shared.retry.notify_one();
    }

    /// Waits until the condition holds.
    ///
    /// # Panics
    /// When it does not within [`PATIENCE`]; the message names the condition.
    pub async fn wait_for(&self, what: &str, condition: impl FnMut(&mut World) -> bool) {
        if !self.holds_within(PATIENCE, condition).await {
            let log = self.with(|world| world.recent_requests(40));
            panic!("waited {PATIENCE:?} in vain: {what}\nlast requests:\n{log}");
        }
    }

    /// Does the condition come to hold within this time?
    pub async fn holds_within(
        &self,
        patience: Duration,
        mut condition: impl FnMut(&mut World) -> bool,
    ) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        let mut changes = self.changes();
        loop {
            if self.with(&mut condition) {
                return true;
            }
            if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
                return false;
            }
        }
    }

    /// How many requests an endpoint has had; names are those of [`super::routes::Route::name`].
    pub fn requests(&self, endpoint: &str) -> usize {
        self.with(|world| world.requests.to(endpoint).count())
    }

    /// The keeper's user id.
    pub fn keeper(&self) -> String {
        self.with(|world| world.keeper())
    }

    /// Starts the description of a user: a localpart, or a whole id for a remote one.
    pub fn user(&self, name: &str) -> UserBuilder {
        UserBuilder::new(self.clone(), name)
    }

    /// Starts the description of a room.
    pub fn room(&self) -> RoomBuilder {
        RoomBuilder::new(self.clone())
    }

    /// A device by its user and its number, counted from 1.
    pub fn device(&self, user_id: &str, number: usize) -> DeviceRef {
        let user_id = full_user_id(user_id);
        let device_id = device_name(&user_id, number);
        DeviceRef { sim: self.clone(), user_id, device_id }
    }

    /// Logs a further device in.
    pub fn add_device(&self, user_id: &str, number: usize, trust: Trust) -> DeviceRef {
        let device = self.device(user_id, number);
        self.change(|world| {
            world.add_device(&device.user_id, &device.device_id, trust);
            world.devices_changed(&device.user_id);
        });
        device
    }

    /// Joins a room as somebody (who may be a stranger to it: the rules are not asked).
    pub fn join(&self, room: &RoomRef, user_id: &str) {
        let user_id = full_user_id(user_id);
        self.change(|world| world.set_membership(&room.room_id, &user_id, &user_id, "join"));
    }

    /// The next `times` requests to an endpoint go wrong.
    pub fn fault(&self, endpoint: &str, fault: Fault, times: usize) {
        self.with(|world| world.faults.plan(endpoint, &fault, times));
    }

    /// Every answer of an endpoint (`*`: of all) takes so much longer.
    pub fn latency(&self, endpoint: &str, latency: Duration) {
        self.with(|world| world.faults.set_latency(endpoint, latency));
    }

    /// An endpoint does and answers nothing until [`Sim::release`]: what a test does meanwhile comes
    /// between a request and its answer.
    pub fn hold(&self, endpoint: &str) {
        self.with(|world| world.faults.hold(endpoint));
    }

    /// Lets an endpoint go on.
    pub fn release(&self, endpoint: &str) {
        self.change(|world| world.faults.release(endpoint));
    }

    /// A remote server stops answering: the homeserver waits for it so long, then reports it.
    pub fn kill_server(&self, server: &str, delay: Duration) {
        let dead = DeadServer { delay, fails_queries: true };
        self.with(|world| world.faults.dead_servers.insert(server.to_owned(), dead));
    }

    /// The remote server answers again.
    pub fn revive_server(&self, server: &str) {
        self.with(|world| world.faults.dead_servers.remove(server));
    }

    /// Runs `hook` once, after the keeper decided on its next state PUT and before it is applied.
    pub fn before_next_state_put(&self, hook: impl FnOnce(&mut World) + Send + 'static) {
        self.with(|world| world.before_state_put.push_back(Box::new(hook) as BeforePut));
    }
}

/// `alice` is `@alice:localhost`; a whole id stays as it is.
pub fn full_user_id(name: &str) -> String {
    if name.starts_with('@') { name.to_owned() } else { format!("@{name}:{SERVER_NAME}") }
}

/// The id of a user's n-th device.
pub fn device_name(user_id: &str, number: usize) -> String {
    let local = user_id.trim_start_matches('@').split(':').next().unwrap_or_default();
    format!("{}{number}", local.to_uppercase())
}
