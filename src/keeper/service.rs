//! Starting, serving, ending.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use ruma::{OwnedRoomId, OwnedUserId};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, watch},
    task::JoinSet,
};

use super::{
    KeeperError,
    asking::Asker,
    clock::now_ms,
    commissions::Commissioner,
    gone_back,
    imported::Importer,
    ingest::{Taker, forget},
    keys,
    lane::Lanes,
    life,
    listen::{Listener, hear_late, note_lost_device},
    management::{Notices, Talker},
    meeting::{self, Newcomer, Newcomers},
    opening::open_store,
    operator::{self, Operator},
    outbox::Sender,
    pacing::{Allowance, Inviters, Pacer},
    reaching::reach,
    reload::{Reloader, Reread, weigh_entitlement},
    renewal::{Devices, Settled, publish},
    requests::{
        Outcome,
        desk::Desk,
        limits::{RateLimits, Scope},
    },
    rotation_pace::RotationPace,
    rule_book::RuleBook,
    scheduler,
    spaces::{
        Bells,
        advice::Standing,
        follow::Follower,
        inviting::Host,
        paces::Paces,
        provide::{Provided, Provider},
    },
    standing,
    succession::Successors,
    upkeep,
    vigil::{Vigil, look_back},
};
use crate::{
    admin::{self, AdminSocket, Dashboard, Metrics, Readiness, Supervisor},
    appservice::{self, IncomingEvent, SinkError, TransactionSink},
    config::{Config, registration::Registration},
    crypto::{KeeperDevice, crypto_folder},
    homeserver::{Homeserver, retrying},
    state::Membership,
    store::{NewEvent, Retired, RoomRow, Store, inbox, marks, outbox, rooms, tuples},
};

/// How often it is looked whether all rooms are loaded at the start.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many times at most.
const MOST_LOOKS: u32 = 600;
/// How long the lanes may take to end what they are at.
const DRAIN: Duration = Duration::from_secs(20);

/// Commits a transaction's events to the inbox before it is acknowledged.
struct Inbox {
    store: Store,
    arrived: Arc<Notify>,
    newcomers: Newcomers,
}

impl TransactionSink for Inbox {
    async fn accept(&self, events: Vec<IncomingEvent>) -> Result<usize, SinkError> {
        if events.is_empty() {
            return Ok(0);
        }
        for newcomer in events.iter().filter_map(meeting::newcomer) {
            self.newcomers.arrive(newcomer);
        }
        let events: Vec<NewEvent> = events
            .into_iter()
            .map(|event| NewEvent {
                event_id: event.event_id,
                room_id: event.room_id,
                body: event.body.get().to_owned(),
            })
            .collect();
        let mut transaction = self.store.begin().await.map_err(SinkError::new)?;
        let new =
            inbox::insert(&mut transaction, &events, now_ms()).await.map_err(SinkError::new)?;
        transaction.commit().await.map_err(SinkError::new)?;
        self.arrived.notify_one();
        Ok(new)
    }
}

/// Everything that a running keeper is made of.
struct Keeper {
    lanes: Lanes,
    homeserver: Homeserver,
    readiness: Readiness,
    arrived: Arc<Notify>,
    promised: Arc<Notify>,
}

/// What tells the process to end. Made once, before anything else: nothing that is told while the keeper begins anew is
/// lost.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on.
    ///
    /// # Errors
    ///
    /// When the system does not let it.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns once it is told.
    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Why [`serve`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to end.
    AsTold,
    /// The keeper has to begin anew, with another device.
    ToBeginAnew,
}

/// Serves until SIGTERM or SIGINT, then ends what is under way and returns. Where the store turns out to have gone back in
/// time, it returns as well, at once: it is to be called again, on another runtime, so that nothing of this life goes on.
///
/// It is ready once the homeserver was reached by ping and back, the device is published and the rooms are
/// loaded; the homeserver may be away at the start or at any time. A store that cannot be written at the start is
/// waited for as well. At SIGHUP the configuration is read anew
/// with `reread`; one with mistakes changes nothing.
///
/// # Errors
///
/// When a listener cannot be bound, a store does not open or fails, or the homeserver refuses the keeper
/// for a reason that waiting does not mend.
pub async fn serve(
    config: Config,
    registration: Registration,
    reread: Reread,
    signals: &mut Signals,
) -> anyhow::Result<Ended> {
    // Before anything else: a process that does not listen for it is ended by it.
    let hangup = signal(SignalKind::hangup())?;
    let metrics = Metrics::new()?;
    let readiness = Readiness::new();
    let supervisor = Supervisor::from_environment();
    let store_latch = readiness.latch("store");
    let homeserver_latch = readiness.latch("homeserver");
    let device_latch = readiness.latch("device");
    let rooms_latch = readiness.latch("rooms");

    let (stop, _) = watch::channel(false);
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let admin_listener = TcpListener::bind(config.admin.listen)
        .await
        .with_context(|| format!("admin.listen: cannot listen on {}", config.admin.listen))?;
    let dashboard = Dashboard::new(&config.admin, metrics.clone(), readiness.clone())
        .context("admin.dashboard")?;
    let serving = admin::serve(
        admin_listener,
        metrics.clone(),
        readiness.clone(),
        dashboard.clone(),
        stopped(stop.subscribe()),
    );
    tasks.spawn(async move { Ok(serving.await?) });

    let bot = config.bot_user_id()?;
    let listener = TcpListener::bind(config.appservice.listen).await.with_context(|| {
        format!("appservice.listen: cannot listen on {}", config.appservice.listen)
    })?;
    supervisor.started();
    tokio::spawn(supervisor.clone().follow(readiness.clone()));

    let store = open_store(&config, readiness.troubles()).await?;
    store_latch.release();
    let arrived = Arc::new(Notify::new());
    let rules = Arc::new(RuleBook::new(&config));
    rules.set_noop(store.noop().await?);
    let operator = Operator::new(operator::Parts {
        store: store.clone(),
        readiness: readiness.clone(),
        rules: rules.clone(),
        promised: Arc::new(Notify::new()),
        keeper: bot.clone(),
        homeserver: config.homeserver.address.to_string(),
    });
    if let Some(dashboard) = dashboard {
        dashboard.begin(operator.clone());
        tokio::spawn(dashboard.watch());
    }
    let socket = config.socket_path().context("admin.socket")?;
    let socket = AdminSocket::bind(&socket).await.context("admin.socket")?;
    let heeding = admin::serve_socket(socket, operator.clone(), stopped(stop.subscribe()));
    tasks.spawn(async move { Ok(heeding.await?) });
    let (pings, pinged) = watch::channel(None);
    let options = appservice::Options {
        hs_token: registration.hs_token.clone(),
        bot: bot.clone(),
        max_body_size: config.appservice.max_body_size,
    };
    let (newcomers, arriving) = Newcomers::new();
    let sink =
        Inbox { store: store.clone(), arrived: arrived.clone(), newcomers: newcomers.clone() };
    let hearing = appservice::serve(
        listener,
        options,
        sink,
        metrics.clone(),
        pings,
        stopped(stop.subscribe()),
    );
    tasks.spawn(async move { Ok(hearing.await?) });

    let starting = async {
        let told = (&metrics, readiness.troubles());
        let homeserver = reach(&config, &registration, &bot, told, pinged).await?;
        homeserver_latch.release();
        let (keeper, late) = start(
            &config,
            store.clone(),
            homeserver,
            &metrics,
            &readiness,
            arrived,
            (newcomers, rules, operator.clone()),
        )
        .await?;
        device_latch.release();
        keeper.look_at_rooms().await?;
        anyhow::Ok((keeper, late))
    };
    let lanes_stop = Arc::new(Notify::new());
    let ended = tokio::select! {
        started = starting => match started {
            Ok((keeper, late)) => {
                let loading = loaded(store.clone());
                let reloader = Reloader {
                    taker: keeper.lanes.taker.clone(),
                    promised: keeper.promised.clone(),
                    started: config,
                    reread,
                    supervisor: supervisor.clone(),
                };
                tasks.spawn(async move { Ok(reloader.run(hangup).await?) });
                tasks.spawn(meeting_task(keeper.lanes.clone(), arriving));
                talk(&keeper, operator.clone(), &mut tasks);
                keeper.run(late, &mut tasks, lanes_stop.clone());
                tokio::spawn(async move {
                    loading.await;
                    rooms_latch.release();
                    tracing::info!(keeper = %bot, "ready");
                });
                tokio::select! {
                    () = signals.told() => Ok(()),
                    Some(ended) = tasks.join_next() => flatten(ended),
                }
            }
            Err(error) => Err(error),
        },
        () = signals.told() => Ok(()),
    };
    if ended.as_ref().is_err_and(is_renewal) {
        // At once, as by a kill: whatever is under way was encrypted by what must not go on.
        tasks.abort_all();
        store.close().await;
        return Ok(Ended::ToBeginAnew);
    }
    supervisor.stopping();
    tracing::info!("ending: what is under way is brought to its end");
    stop.send_replace(true);
    lanes_stop.notify_one();
    let drained = tokio::time::timeout(DRAIN, drain(&mut tasks)).await;
    if drained.is_err() {
        tracing::warn!("not everything ended in time; what is left is done after the next start");
    }
    tasks.abort_all();
    store.close().await;
    ended.map(|()| Ended::AsTold)
}

fn is_renewal(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(KeeperError::Renewal))
}

/// Waits until the state of every room that the keeper is in was fetched; for those that cannot be fetched, no
/// longer than a while.
async fn loaded(store: Store) {
    for _ in 0..MOST_LOOKS {
        let Ok(mut db) = store.read().await else { return };
        let Ok(rooms) = rooms::all(&mut db).await else { return };
        drop(db);
        if rooms.iter().all(|room| room.membership != Membership::Join || room.loaded) {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    tracing::warn!("some rooms' state could not be fetched yet; the others are served");
}

fn flatten(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Result<()> {
    match ended {
        Ok(Ok(())) => anyhow::bail!("a part of the keeper ended by itself"),
        Ok(Err(error)) => Err(error),
        Err(error) => Err(anyhow::anyhow!("a part of the keeper failed: {error}")),
    }
}

/// Waits for those tasks that end by themselves once they are told to; the others are aborted after them.
async fn drain(tasks: &mut JoinSet<anyhow::Result<()>>) {
    // The two listeners, the socket and the lanes.
    for _ in 0..4 {
        let _ = tasks.join_next().await;
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

type Late = tokio::sync::mpsc::UnboundedReceiver<Vec<OwnedUserId>>;

/// Sees to the device, and puts the keeper's parts together.
async fn start(
    config: &Config,
    store: Store,
    homeserver: Homeserver,
    metrics: &Metrics,
    readiness: &Readiness,
    arrived: Arc<Notify>,
    (newcomers, rules, operator): (Newcomers, Arc<RuleBook>, Operator),
) -> anyhow::Result<(Keeper, Late)> {
    let bot = config.bot_user_id()?;
    let devices = Devices { config, store: &store, homeserver: &homeserver, keeper: &bot };
    let Settled { device_id, is_new, was_heard, was_lost } = devices.settle().await?;
    let name = config.appservice.bot.displayname.as_str();
    if was_lost {
        note_lost_device(readiness.troubles(), now_ms());
    }
    if let Err(error) = homeserver.set_displayname(name).await {
        tracing::debug!(%error, "the display name could not be set");
    }
    let homeserver = homeserver.with_device(device_id.clone());
    let database = config.store.sqlite_path().context("store.url")?;
    let (device, late) = KeeperDevice::open(
        &crypto_folder(database),
        &config.store.read_passphrase()?,
        &bot,
        &device_id,
        homeserver.clone(),
        config.sharing.gate_timeout.get(),
    )
    .await?;
    if was_heard && !is_new {
        look_back(&device, readiness.troubles()).await;
    }
    publish(&device).await?;
    rules.warn_of_noop();
    let taker = Taker {
        store: store.clone(),
        device,
        rules,
        metrics: metrics.clone(),
        keeper: bot,
        began_at: now_ms(),
        is_of_today: is_new,
        renewal: Arc::default(),
        spaces: Bells::default(),
    };
    weigh_entitlement(&taker, config).await?;
    let sender = Sender::new(store, homeserver.clone(), metrics.clone(), taker.rules.clone());
    let invites = &config.access.invites;
    let global = taker.rules.global();
    let lanes = Lanes {
        taker,
        sender,
        homeserver: homeserver.clone(),
        pacer: Arc::new(Pacer::new(global.refresh_per_second)),
        rotations: Arc::new(RotationPace::default()),
        unasked: Arc::new(Allowance::new(global.unasked_budget)),
        inviters: Arc::new(Inviters::new(invites.burst, invites.per_minute)),
        newcomers,
        arrived: arrived.clone(),
        resting: Arc::default(),
        desk: Arc::new(Desk::new(&RateLimits::of(&global), global.requests.queue, Instant::now())),
        began: Instant::now(),
        checked: Arc::default(),
        heartbeat: Arc::default(),
    };
    metrics.expect_rotations(&Retired::ALL.map(Retired::as_str));
    metrics.expect_plain_copies(&super::copies::COUNTED);
    metrics.expect_spaces(
        &Standing::ROOMS.map(Standing::as_str),
        &Provided::ALL.map(Provided::as_str),
    );
    metrics.expect_key_requests(&Outcome::ALL.map(Outcome::as_str), &Scope::ALL.map(Scope::as_str));
    lanes.restore_requests().await?;
    operator.begin(lanes.clone());
    let keeper = Keeper {
        lanes,
        homeserver,
        readiness: readiness.clone(),
        arrived,
        promised: operator.promised(),
    };
    Ok((keeper, late))
}

impl Keeper {
    /// Compares the rooms that the homeserver says the keeper is in with those in the store, and promises to
    /// look at whatever a kill left behind.
    async fn look_at_rooms(&self) -> Result<(), KeeperError> {
        let joined = retrying(None, || self.homeserver.joined_rooms()).await?;
        let store = &self.lanes.taker.store;
        let mut transaction = store.begin().await?;
        let known = rooms::all(&mut transaction).await?;
        for room_id in &joined {
            let joined_before = known
                .iter()
                .any(|room| room.room_id == *room_id && room.membership == Membership::Join);
            if !joined_before {
                let room = RoomRow::new(room_id.clone(), Membership::Join);
                rooms::put(&mut transaction, &room).await?;
                mark(store, &mut transaction, room_id).await?;
            }
        }
        for mut room in known {
            // As after an update that wants to know more of it.
            if room.membership == Membership::Join
                && standing::weigh(&self.lanes.taker, &mut room.clone())
            {
                room.loaded = false;
                rooms::put(&mut transaction, &room).await?;
            }
            if room.membership == Membership::Join && !room.loaded {
                mark(store, &mut transaction, &room.room_id).await?;
            }
            if room.membership == Membership::Join && !joined.contains(&room.room_id) {
                room.membership = Membership::Leave;
                rooms::put(&mut transaction, &room).await?;
                forget(&self.lanes.taker.store, &mut transaction, &room.room_id).await?;
            }
        }
        for room_id in outbox::rooms(&mut transaction).await? {
            mark(store, &mut transaction, &room_id).await?;
        }
        for room_id in tuples::rooms_with_unreadable(&mut transaction).await? {
            self.lanes.taker.retry_unreadable(&mut transaction, &room_id, None).await?;
        }
        transaction.commit().await?;
        upkeep::set_gauges(&self.lanes.taker).await
    }

    fn run(self, late: Late, tasks: &mut JoinSet<anyhow::Result<()>>, stop: Arc<Notify>) {
        let taker = self.lanes.taker.clone();
        let (arrived, promised) = (self.arrived.clone(), self.promised.clone());
        tasks.spawn(scheduler_task(self.lanes.clone(), self.promised.clone(), stop));
        let taking = taker.clone();
        tasks.spawn(async move { Ok(taking.run(&arrived, &promised).await?) });
        let own_changed = Arc::new(Notify::new());
        let listener = Listener {
            taker: taker.clone(),
            lanes: self.lanes.clone(),
            homeserver: self.homeserver.clone(),
            promised: self.promised.clone(),
            newcomers: self.lanes.newcomers.clone(),
            readiness: self.readiness.clone(),
            own_changed: own_changed.clone(),
        };
        let vigil = Vigil {
            device: taker.device.clone(),
            homeserver: self.homeserver.clone(),
            troubles: self.readiness.troubles().clone(),
            changed: own_changed,
        };
        tasks.spawn(async move {
            vigil.run().await;
            Ok(())
        });
        tasks.spawn(async move { Ok(listener.run().await?) });
        let hearing = hear_late(taker.clone(), late, self.promised.clone());
        tasks.spawn(async move { Ok(hearing.await?) });
        let renewing = gone_back::end_when_due(taker.clone());
        tasks.spawn(async move { Ok(renewing.await?) });
        let living = life::go_on(taker.store.clone(), self.homeserver.clone());
        tasks.spawn(async move { Ok(living.await?) });
        let counting = upkeep::count(taker.clone());
        tasks.spawn(async move { Ok(counting.await?) });
        let heeding = upkeep::heed(taker.clone(), self.promised.clone());
        tasks.spawn(async move { Ok(heeding.await?) });
        let again = super::rooms::look_again(
            taker.clone(),
            self.homeserver.clone(),
            self.arrived.clone(),
            self.promised.clone(),
        );
        tasks.spawn(async move {
            again.await?;
            std::future::pending().await
        });
        let follower = Follower {
            taker: taker.clone(),
            homeserver: self.homeserver.clone(),
            promised: self.promised.clone(),
        };
        tasks.spawn(async move { Ok(follower.run().await?) });
        let paces = Paces::default();
        let provider = Provider::new(self.lanes.clone(), self.promised.clone(), paces.clone());
        tasks.spawn(async move { Ok(provider.run().await?) });
        let host = Host::new(self.lanes.clone(), paces);
        tasks.spawn(async move { Ok(host.run().await?) });
        let commissioner =
            Commissioner { lanes: self.lanes.clone(), promised: self.promised.clone() };
        tasks.spawn(async move { Ok(commissioner.run().await?) });
        let successors = Successors {
            taker: taker.clone(),
            homeserver: self.homeserver.clone(),
            promised: self.promised.clone(),
        };
        tasks.spawn(async move { Ok(successors.run().await?) });
        let asker = Asker { taker: taker.clone(), sender: self.lanes.sender.clone() };
        tasks.spawn(async move { Ok(asker.run().await?) });
        let importer = Importer {
            taker: taker.clone(),
            homeserver: self.homeserver.clone(),
            promised: self.promised.clone(),
        };
        tasks.spawn(async move { Ok(importer.run().await?) });
        let letting_go = keys::let_go(taker.clone());
        tasks.spawn(async move { Ok(letting_go.await?) });
        let tending = upkeep::tend(taker, self.homeserver);
        tasks.spawn(async move { Ok(tending.await?) });
    }
}

/// Answers in the management room, and tells there what needs an administrator.
fn talk(keeper: &Keeper, operator: Operator, tasks: &mut JoinSet<anyhow::Result<()>>) {
    let talker = Talker {
        taker: keeper.lanes.taker.clone(),
        homeserver: keeper.homeserver.clone(),
        operator,
    };
    let notices = Notices { talker: talker.clone(), readiness: keeper.readiness.clone() };
    tasks.spawn(async move { Ok(talker.run().await?) });
    tasks.spawn(async move { Ok(notices.run().await?) });
}

async fn meeting_task(
    lanes: Lanes,
    arriving: tokio::sync::mpsc::Receiver<Newcomer>,
) -> anyhow::Result<()> {
    Ok(meeting::meet(lanes.taker, lanes.newcomers, arriving).await?)
}

async fn scheduler_task(
    lanes: Lanes,
    promised: Arc<Notify>,
    stop: Arc<Notify>,
) -> anyhow::Result<()> {
    Ok(scheduler::run(lanes, promised, stop).await?)
}

async fn mark(
    store: &Store,
    db: &mut sqlx::SqliteConnection,
    room: &OwnedRoomId,
) -> Result<(), KeeperError> {
    Ok(marks::mark(db, room, None, now_ms(), store.next_tick()).await?)
}
