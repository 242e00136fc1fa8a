//! What a running keeper is made of: put together at the start, and each part at its work.

use std::{sync::Arc, time::Instant};

use anyhow::Context;
use ruma::{OwnedRoomId, OwnedUserId};
use tokio::{sync::Notify, task::JoinSet};

use super::{
    KeeperError,
    asking::Asker,
    clock::now_ms,
    commissions::Commissioner,
    gone_back,
    imported::Importer,
    ingest::{Arrival, Taker, forget},
    keys,
    lane::Lanes,
    life,
    listen::{Listener, hear_late, note_lost_device},
    management::{Notices, Talker},
    meeting::{self, Newcomer, Newcomers},
    operator::Operator,
    outbox::Sender,
    pacing::{Allowance, Inviters, Pacer},
    reload::weigh_entitlement,
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
        news,
        paces::Paces,
        provide::{Provided, Provider},
    },
    standing,
    succession::Successors,
    upkeep,
    vigil::{Vigil, look_back},
};
use crate::{
    admin::{Metrics, Readiness},
    config::Config,
    crypto::{KeeperDevice, crypto_folder},
    homeserver::{Homeserver, retrying},
    state::Membership,
    store::{Retired, RoomRow, Store, marks, outbox, rooms, tuples},
};

/// Everything that a running keeper is made of.
pub(super) struct Keeper {
    pub(super) lanes: Lanes,
    pub(super) homeserver: Homeserver,
    pub(super) readiness: Readiness,
    pub(super) arrived: Arc<Notify>,
    pub(super) promised: Arc<Notify>,
}

/// Users whose devices became known after somebody stopped waiting for them.
pub(super) type Late = tokio::sync::mpsc::UnboundedReceiver<Vec<OwnedUserId>>;

/// Sees to the device, and puts the keeper's parts together.
pub(super) async fn start(
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
    pub(super) async fn look_at_rooms(&self) -> Result<(), KeeperError> {
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
                let taker = &self.lanes.taker;
                forget(store, &mut transaction, &room.room_id).await?;
                let arrival = Arrival::live(now_ms(), store.next_tick());
                news::keeper_left(taker, &mut transaction, &room.room_id, arrival).await?;
                room.membership = Membership::Leave;
                rooms::put(&mut transaction, &room).await?;
                news::waited_for(taker, &mut transaction, &room.room_id).await?;
            }
        }
        for room_id in outbox::rooms(&mut transaction).await? {
            mark(store, &mut transaction, &room_id).await?;
        }
        for room_id in tuples::rooms_awaiting(&mut transaction).await? {
            self.lanes.taker.look_again(&mut transaction, &room_id).await?;
        }
        for room in rooms::all(&mut transaction).await? {
            self.lanes.taker.judge_anew(&mut transaction, &room).await?;
        }
        transaction.commit().await?;
        upkeep::set_gauges(&self.lanes.taker).await
    }

    /// Has all parts work, each as a task of its own.
    pub(super) fn run(
        self,
        late: Late,
        tasks: &mut JoinSet<anyhow::Result<()>>,
        stop: Arc<Notify>,
    ) {
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
pub(super) fn talk(keeper: &Keeper, operator: Operator, tasks: &mut JoinSet<anyhow::Result<()>>) {
    let talker = Talker {
        taker: keeper.lanes.taker.clone(),
        homeserver: keeper.homeserver.clone(),
        operator,
    };
    let notices = Notices { talker: talker.clone(), readiness: keeper.readiness.clone() };
    tasks.spawn(async move { Ok(talker.run().await?) });
    tasks.spawn(async move { Ok(notices.run().await?) });
}

/// Meets those who come before they are decided upon.
pub(super) async fn meeting_task(
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
