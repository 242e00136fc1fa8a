//! The listener: takes a request in, counts it, plays the planned trouble, answers.

use std::time::{Duration, Instant};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    response::Response,
    serve::ListenerExt,
};
use http::Method;
use serde_json::{Value, json};

use super::{
    faults::Fault,
    http::{Call, Reply},
    push,
    requests::Request,
    routes::Route,
    sim::Sim,
    world::{UploadedDevice, World},
};

const DAY: Duration = Duration::from_secs(86_400);

/// Serves until the runtime ends.
pub async fn serve(sim: Sim, listener: tokio::net::TcpListener) {
    let listener = listener.tap_io(|stream| {
        // A small answer must not wait for the one before it.
        let _ = stream.set_nodelay(true);
    });
    let router = Router::new().fallback(handle).with_state(sim);
    // It ends with the runtime; there is nobody to tell.
    let _ = axum::serve(listener, router).await;
}

async fn handle(State(sim): State<Sim>, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return response(&Reply::error(400, "M_UNKNOWN", "the body did not arrive"));
    };
    let call = Call::new(&parts, &body);
    let route = Route::of(&call);
    let endpoint = route.name(&call.method);
    let user_id = caller(&sim, &call);
    let started = Instant::now();
    let (place, fault, latency) = sim.with(|world| {
        let request = logged(world, &call, &route, user_id.as_deref().unwrap_or_default());
        let place = world.requests.arrive(request);
        (place, world.faults.take(endpoint), world.faults.latency(endpoint))
    });
    sim.touch();
    tokio::time::sleep(latency).await;
    released(&sim, endpoint).await;
    let reply = match before(fault.as_ref()).await {
        Some(reply) => reply,
        None => {
            let reply = match user_id {
                Some(user_id) => answer(&sim, &route, &call, &user_id).await,
                None => Reply::error(401, "M_UNKNOWN_TOKEN", "Invalid access token"),
            };
            sim.touch();
            after(fault.as_ref(), reply).await
        }
    };
    sim.with(|world| {
        let tick = world.tick();
        world.requests.answer(place, tick, reply.status, started.elapsed());
    });
    sim.touch();
    match route {
        Route::Download(id) if reply.status == 200 => {
            let file = sim.with(|world| world.files.get(id).cloned()).unwrap_or_default();
            Response::new(Body::from(file))
        }
        _ => dated(response(&reply), sim.with(|world| world.clock_ahead)),
    }
}

/// With the date of a clock that is off, where it is.
fn dated(mut response: Response, ahead: i64) -> Response {
    if ahead != 0 {
        let date = (chrono::Utc::now() + chrono::Duration::seconds(ahead)).to_rfc2822();
        let date = date.replace("+0000", "GMT").parse().expect("a date is a header");
        response.headers_mut().insert(http::header::DATE, date);
    }
    response
}

/// The user whom the call masquerades as, if its token is right.
fn caller(sim: &Sim, call: &Call) -> Option<String> {
    if call.segments.last().is_some_and(|last| last == "versions") {
        return Some(String::new());
    }
    sim.with(|world| {
        let registration = &world.registration;
        if call.bearer.as_deref() != Some(registration.as_token.as_str()) {
            return None;
        }
        let sender = format!("@{}:localhost", registration.sender_localpart);
        Some(call.query("user_id").map_or(sender, str::to_owned))
    })
}

fn logged(world: &mut World, call: &Call, route: &Route<'_>, user_id: &str) -> Request {
    Request {
        endpoint: route.name(&call.method),
        method: call.method.to_string(),
        path: call.path.clone(),
        user_id: user_id.to_owned(),
        body: route.keeps_body().then(|| call.body.clone()),
        at: Instant::now(),
        arrived: world.tick(),
        answered: None,
        status: None,
        took: Duration::ZERO,
    }
}

/// Waits while a test holds the endpoint.
pub(super) async fn released(sim: &Sim, endpoint: &str) {
    let mut changes = sim.changes();
    while sim.with(|world| world.faults.is_held(endpoint)) {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Trouble that comes before anything is done.
async fn before(fault: Option<&Fault>) -> Option<Reply> {
    match fault? {
        Fault::Status(status) => Some(Reply::error(*status, "M_UNKNOWN", "planned trouble")),
        Fault::Limited { retry_after_ms } => Some(Reply {
            status: 429,
            body: json!({
                "errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests",
                "retry_after_ms": retry_after_ms,
            }),
        }),
        Fault::Hang => {
            tokio::time::sleep(DAY).await;
            None
        }
        Fault::Nothing | Fault::DoneThenHang | Fault::DoneThenStatus(_) => None,
    }
}

/// Trouble that comes when all is done.
async fn after(fault: Option<&Fault>, reply: Reply) -> Reply {
    match fault {
        Some(Fault::DoneThenHang) => {
            tokio::time::sleep(DAY).await;
            reply
        }
        Some(Fault::DoneThenStatus(status)) => {
            Reply::error(*status, "M_UNKNOWN", "planned trouble")
        }
        _ => reply,
    }
}

async fn answer(sim: &Sim, route: &Route<'_>, call: &Call, user_id: &str) -> Reply {
    if let Some(refusal) = sim.with(|world| world.unknown_device(route, call, user_id)) {
        return refusal;
    }
    match *route {
        Route::Sync => sync(sim, call, user_id).await,
        Route::Ping => {
            let (status, body) = push::ping(sim, &call.json()).await;
            Reply { status, body }
        }
        Route::KeysQuery | Route::KeysClaim => {
            let is_claim = matches!(route, Route::KeysClaim);
            let (delay, dead) = sim.with(|world| world.dead_servers_in(call, is_claim));
            tokio::time::sleep(delay).await;
            sim.with(|world| match is_claim {
                true => world.keys_claim(call, &dead),
                false => world.keys_query(user_id, call, &dead),
            })
        }
        Route::Join(room_id) => {
            if let Some(delay) = sim.with(|world| world.dead_server_of(room_id)) {
                tokio::time::sleep(delay).await;
                return Reply::error(502, "M_UNKNOWN", "Failed to make_join via any server");
            }
            sim.with(|world| world.join_room(user_id, room_id))
        }
        _ => sim.with(|world| world.answer(route, call, user_id)),
    }
}

impl World {
    /// Who speaks for a device that does not exist is refused, except where devices are made.
    fn unknown_device(&self, route: &Route<'_>, call: &Call, user_id: &str) -> Option<Reply> {
        let device_id = call.device_id()?;
        let is_known =
            self.users.get(user_id).is_some_and(|user| user.uploaded.contains_key(device_id));
        if is_known || matches!(route, Route::Register | Route::Device(_)) {
            return None;
        }
        let message = "Application service trying to use a device that doesn't exist";
        Some(Reply::error(400, "M_UNKNOWN_DEVICE", message))
    }

    fn answer(&mut self, route: &Route<'_>, call: &Call, user_id: &str) -> Reply {
        match *route {
            Route::Versions => Reply::ok(json!({ "versions": versions() })),
            Route::Whoami => self.whoami(user_id, call),
            Route::Capabilities => self.capabilities(),
            Route::CreateRoom => self.create_room(user_id, call),
            Route::Aliases(room_id) => self.aliases(room_id),
            Route::Upload => self.upload(call),
            Route::RemoveFile(id) => self.remove_file(id),
            Route::Download(id) if self.files.contains_key(id) => Reply::empty(),
            Route::Download(_) => Reply::not_found("Not found"),
            Route::Directory(alias) if call.method != Method::GET => self.change_alias(alias, call),
            Route::Register => self.register(call),
            Route::Devices => self.devices(user_id),
            Route::AccountData(event_type) => self.account_data(user_id, event_type, call),
            Route::Device(device_id) => self.device(user_id, device_id, call),
            Route::Profile(of) => self.profile(of, call),
            Route::KeysUpload => self.keys_upload(user_id, call),
            Route::DeviceSigningUpload => self.device_signing_upload(user_id, call),
            Route::SignaturesUpload => self.signatures_upload(user_id, call),
            Route::SendToDevice { event_type, txn_id } => {
                self.put_to_device(user_id, (event_type, txn_id), call)
            }
            Route::JoinedRooms => self.joined_rooms(user_id),
            Route::Directory(alias) => self.directory(alias),
            Route::Leave(room_id) => self.leave_room(user_id, room_id),
            Route::Invite(room_id) => self.invite_to_room(user_id, room_id, call),
            Route::Kick(room_id) => self.kick_from_room(user_id, room_id, call),
            Route::State(room_id) => self.get_state(user_id, room_id),
            Route::StateEvent { room_id, event_type, state_key } => {
                self.state_event(user_id, room_id, (event_type, state_key), call)
            }
            Route::Members(room_id) => self.get_members(user_id, room_id, call),
            Route::JoinedMembers(room_id) => self.get_joined_members(user_id, room_id),
            Route::Redact { room_id, event_id, txn_id } => {
                self.redact_event(user_id, (room_id, event_id, txn_id))
            }
            Route::Send { room_id, event_type, txn_id } => {
                self.send_event(user_id, (room_id, event_type, txn_id), call)
            }
            Route::Event { room_id, event_id } => self.get_event(user_id, room_id, event_id),
            Route::Messages(room_id) => self.get_messages(user_id, room_id, call),
            Route::Context { room_id, event_id } => {
                self.event_context(user_id, (room_id, event_id), call)
            }
            Route::KeysQuery
            | Route::KeysClaim
            | Route::Sync
            | Route::Ping
            | Route::Join(_)
            | Route::Unknown => Reply::error(404, "M_UNRECOGNIZED", "Unrecognized request"),
        }
    }

    fn whoami(&self, user_id: &str, call: &Call) -> Reply {
        let is_sender = user_id == format!("@{}:localhost", self.registration.sender_localpart);
        if !is_sender && self.users.get(user_id).is_none_or(|user| !user.registered) {
            return Reply::forbidden("Application service has not registered this user");
        }
        Reply::ok(json!({
            "user_id": user_id, "device_id": call.device_id(), "is_guest": false,
        }))
    }

    fn register(&mut self, call: &Call) -> Reply {
        let body = call.json();
        if body["type"] != "m.login.application_service" {
            return Reply::error(400, "M_UNKNOWN", "not an application service's registration");
        }
        let user_id = format!("@{}:localhost", body["username"].as_str().unwrap_or_default());
        let user = self.user_mut(&user_id);
        if std::mem::replace(&mut user.registered, true) {
            return Reply::error(400, "M_USER_IN_USE", "User ID already taken.");
        }
        Reply::ok(json!({ "user_id": user_id, "home_server": "localhost" }))
    }

    fn account_data(&mut self, user_id: &str, event_type: &str, call: &Call) -> Reply {
        let kept = &mut self.user_mut(user_id).account_data;
        if call.method == Method::PUT {
            kept.insert(event_type.to_owned(), call.json());
            return Reply::empty();
        }
        match kept.get(event_type) {
            Some(content) => Reply::ok(content.clone()),
            None => Reply::not_found("Account data not found"),
        }
    }

    fn devices(&mut self, user_id: &str) -> Reply {
        let devices =
            self.user_mut(user_id).uploaded.iter().map(
                |(id, device)| json!({ "device_id": id, "display_name": device.display_name }),
            );
        Reply::ok(json!({ "devices": devices.collect::<Vec<_>>() }))
    }

    fn device(&mut self, user_id: &str, device_id: &str, call: &Call) -> Reply {
        if call.method == Method::DELETE {
            self.delete_device(user_id, device_id);
            return Reply::empty();
        }
        let user = self.user_mut(user_id);
        match call.method {
            Method::PUT => {
                let is_new = !user.uploaded.contains_key(device_id);
                let device: &mut UploadedDevice =
                    user.uploaded.entry(device_id.to_owned()).or_default();
                device.display_name = call.json()["display_name"].as_str().map(str::to_owned);
                Reply { status: if is_new { 201 } else { 200 }, body: json!({}) }
            }
            _ => match user.uploaded.get(device_id) {
                Some(device) => Reply::ok(json!({
                    "device_id": device_id, "user_id": user_id,
                    "display_name": device.display_name,
                })),
                None => Reply::not_found("No device"),
            },
        }
    }

    fn profile(&mut self, user_id: &str, call: &Call) -> Reply {
        let user = self.user_mut(user_id);
        if call.method == Method::PUT {
            if let Some(name) = call.json()["displayname"].as_str() {
                user.display_name = Some(name.to_owned());
            }
            return Reply::empty();
        }
        match &user.display_name {
            Some(name) => Reply::ok(json!({ "displayname": name })),
            None => Reply::not_found("Profile was not found"),
        }
    }
}

async fn sync(sim: &Sim, call: &Call, user_id: &str) -> Reply {
    let Some(device_id) = call.device_id() else {
        return Reply::error(500, "M_UNKNOWN", "Internal server error");
    };
    let since = call.query("since").and_then(|token| token.strip_prefix('s')?.parse().ok());
    let Some(since) = since else {
        return Reply::ok(sim.with(|world| initial_sync(world, user_id, device_id)));
    };
    if call.query("filter").is_some_and(|filter| filter.contains("timeline")) {
        return Reply::ok(sim.with(|world| world.own_events_since(user_id, device_id, since)));
    }
    let timeout = call.query("timeout").and_then(|ms| ms.parse().ok()).unwrap_or(0);
    let deadline = tokio::time::Instant::now() + Duration::from_millis(timeout);
    sim.change(|world| world.acknowledge_to_device(user_id, device_id, since));
    let mut changes = sim.changes();
    loop {
        if let Some(answer) = sim.with(|world| world.sync_from(user_id, device_id, since)) {
            return Reply::ok(answer);
        }
        if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
            return Reply::ok(sim.with(|world| world.sync_answer(user_id, device_id, since)));
        }
    }
}

/// A first sync tells of no changed devices: who has no token has no device list to bring up to
/// date.
fn initial_sync(world: &World, user_id: &str, device_id: &str) -> Value {
    let mut answer = world.sync_answer(user_id, device_id, 0);
    answer["device_lists"] = json!({ "changed": [], "left": [] });
    answer
}

fn versions() -> Vec<String> {
    (1..=15).map(|minor| format!("v1.{minor}")).collect()
}

fn response(reply: &Reply) -> Response {
    Response::builder()
        .status(reply.status)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Body::from(reply.body.to_string()))
        .expect("a status and a body make a response")
}
