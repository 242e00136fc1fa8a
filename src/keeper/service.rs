//! Starting, serving, ending.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, watch},
    task::JoinSet,
};

use super::{
    KeeperError,
    clock::now_ms,
    meeting::{self, Newcomers},
    opening::open_store,
    operator::{self, Operator},
    parts::{meeting_task, start, talk},
    reaching::reach,
    reload::{Reloader, Reread},
    rule_book::RuleBook,
};
use crate::{
    admin::{self, AdminSocket, Dashboard, Metrics, Readiness, Supervisor},
    appservice::{self, IncomingEvent, SinkError, TransactionSink},
    config::{Config, registration::Registration},
    state::Membership,
    store::{NewEvent, Store, inbox, rooms},
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
