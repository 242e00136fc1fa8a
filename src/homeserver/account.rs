//! The server itself, the bot, its device, and the ping.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header::DATE};
use ruma::{
    DeviceId, MilliSecondsSinceUnixEpoch, OwnedDeviceId, OwnedUserId,
    api::client::{account::whoami, discovery::get_supported_versions},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json as object;

use super::{Call, Endpoint, Homeserver, HomeserverError, Identity, found, json, path::Path, read};

/// What [`Homeserver::register_bot`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The user is new.
    New,
    /// The user was registered before.
    AlreadyThere,
}

/// What [`Homeserver::ensure_device`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// The device is new: nothing that was published for its id before is there any more.
    Created,
    /// The device was there already, or the server does not tell.
    AlreadyThere,
}

/// A device of the bot as the homeserver has it.
#[derive(Clone, Debug, Deserialize)]
pub struct Device {
    /// When the homeserver last saw a request of this device; `None` if it keeps no count of it.
    #[serde(default)]
    pub last_seen_ts: Option<MilliSecondsSinceUnixEpoch>,
    /// Its name.
    #[serde(default)]
    pub display_name: Option<String>,
}

impl Homeserver {
    /// The versions of the spec that the homeserver speaks (client-server API, "API Versions").
    /// Only looks.
    pub async fn versions(&self) -> Result<get_supported_versions::Response, HomeserverError> {
        let endpoint = Endpoint::Versions;
        let path = Path::under("/_matrix/client/versions", &[]);
        let mut call = self.request(endpoint, Method::GET, path, Bytes::new());
        call.identity = Identity::Service;
        let answer = self.call(call).await?;
        ruma::api::IncomingResponse::try_from_http_response(answer).map_err(
            |error: ruma::api::error::FromHttpResponseError<ruma::api::error::Error>| {
                super::unreadable(endpoint, &error.to_string())
            },
        )
    }

    /// Whom the homeserver takes us for (client-server API, "GET /account/whoami"). With a device on
    /// this handle it also says whether the device is known. Only looks.
    pub async fn whoami(&self) -> Result<whoami::v3::Response, HomeserverError> {
        self.send(Endpoint::Whoami, whoami::v3::Request::new()).await
    }

    /// What time the homeserver has, in milliseconds since the Unix epoch, by the `Date` of its answer; `None` where it
    /// does not say. To the second. Only looks.
    pub async fn clock(&self) -> Result<Option<i64>, HomeserverError> {
        let path = Path::under("/_matrix/client/versions", &[]);
        let mut call = self.request(Endpoint::Versions, Method::GET, path, Bytes::new());
        call.identity = Identity::Service;
        let answer = self.call(call).await?;
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| chrono::DateTime::parse_from_rfc2822(date).ok());
        Ok(date.map(|date| date.timestamp_millis()))
    }

    /// Whom the homeserver takes the application service itself for: the user of its `sender_localpart` (client-server
    /// API, "GET /account/whoami"). Only looks.
    pub async fn service_user(&self) -> Result<OwnedUserId, HomeserverError> {
        #[derive(Deserialize)]
        struct Whoami {
            user_id: OwnedUserId,
        }
        let endpoint = Endpoint::Whoami;
        let path = Path::v3(&["account", "whoami"]);
        let mut call = self.request(endpoint, Method::GET, path, Bytes::new());
        call.identity = Identity::Service;
        read::<Whoami>(endpoint, &self.call(call).await?).map(|found| found.user_id)
    }

    /// Registers the bot (application service API, "Server admin style permissions"), without a
    /// device and without an access token of its own. `localpart` is that of
    /// [`user_id`](Homeserver::user_id).
    ///
    /// May be repeated at will: `M_USER_IN_USE` is no error.
    pub async fn register_bot(&self, localpart: &str) -> Result<Registered, HomeserverError> {
        let endpoint = Endpoint::Register;
        let body = object!({
            "type": "m.login.application_service",
            "username": localpart,
            "inhibit_login": true,
        });
        let path = Path::v3(&["register"]).query("kind", "user");
        let mut call = self.request(endpoint, Method::POST, path, json(endpoint, &body)?);
        call.identity = Identity::Service;
        match self.call(call).await {
            Ok(_) => Ok(Registered::New),
            Err(error) if error.errcode() == Some("M_USER_IN_USE") => Ok(Registered::AlreadyThere),
            Err(error) => Err(error),
        }
    }

    /// Makes sure that the bot has a device of this id (client-server API, "PUT
    /// /devices/{deviceId}"; that an application service creates devices so is MSC4190).
    /// `display_name` names a new device; an existing one keeps its name.
    ///
    /// May be repeated at will. After [`Ensured::Created`] the device has no keys on the server: if
    /// it had some before, an administrator or a clean-up deleted it, and the same keys have to be
    /// published again under the same id. Other keys under a known id are refused by clients.
    pub async fn ensure_device(
        &self,
        device_id: &DeviceId,
        display_name: &str,
    ) -> Result<Ensured, HomeserverError> {
        // Looking first keeps a start quiet: each PUT tells everybody who shares a room with the
        // bot that its devices have changed.
        if self.get_device(device_id).await?.is_some() {
            return Ok(Ensured::AlreadyThere);
        }
        let endpoint = Endpoint::Devices;
        let body = json(endpoint, &object!({ "display_name": display_name }))?;
        let answer = self.call(self.device_call(Method::PUT, device_id, body)).await?;
        Ok(match answer.status() {
            StatusCode::OK => Ensured::AlreadyThere,
            _ => Ensured::Created,
        })
    }

    /// Moves the device's `last_seen_ts`, so that the homeserver does not delete it as stale: logs
    /// the device in (client-server API, "POST /login", `m.login.application_service`) and makes one
    /// request with the access token of that login, which is then forgotten.
    ///
    /// Only for a device whose `last_seen_ts` is there and old. Synapse keeps none for a device that
    /// an application service created, and never deletes such a device; once it has one, requests
    /// with the `as_token` do not move it. Each call leaves one access token behind on the
    /// homeserver (a logout would delete the device), so call it once in days, not in minutes.
    ///
    /// # Errors
    ///
    /// The usual ones; where an authentication service has taken the logins over, a refusal.
    pub async fn touch_device(&self, device_id: &DeviceId) -> Result<(), HomeserverError> {
        #[derive(Deserialize)]
        struct Login {
            access_token: SecretString,
        }
        let endpoint = Endpoint::Login;
        let body = object!({
            "type": "m.login.application_service",
            "identifier": { "type": "m.id.user", "user": self.user_id() },
            "device_id": device_id,
        });
        let mut call =
            self.request(endpoint, Method::POST, Path::v3(&["login"]), json(endpoint, &body)?);
        call.identity = Identity::Service;
        let login: Login = read(endpoint, &self.call(call).await?)?;
        let mut call = self.request(
            Endpoint::Whoami,
            Method::GET,
            Path::v3(&["account", "whoami"]),
            Bytes::new(),
        );
        call.identity = Identity::Login(login.access_token);
        self.call(call).await.map(drop)
    }

    /// A device of the bot (client-server API, "GET /devices/{deviceId}"); `None` if there is none
    /// of this id. Only looks.
    pub async fn get_device(
        &self,
        device_id: &DeviceId,
    ) -> Result<Option<Device>, HomeserverError> {
        let call = self.device_call(Method::GET, device_id, Bytes::new());
        let Some(answer) = found(self.call(call).await)? else { return Ok(None) };
        read(Endpoint::Devices, &answer).map(Some)
    }

    /// The ids of the bot's devices (client-server API, "GET /devices"). Only looks.
    pub async fn device_ids(&self) -> Result<Vec<OwnedDeviceId>, HomeserverError> {
        #[derive(Deserialize)]
        struct One {
            device_id: OwnedDeviceId,
        }
        #[derive(Deserialize)]
        struct Devices {
            devices: Vec<One>,
        }
        let endpoint = Endpoint::Devices;
        let mut call = self.request(endpoint, Method::GET, Path::v3(&["devices"]), Bytes::new());
        call.identity = Identity::Bot;
        let found: Devices = read(endpoint, &self.call(call).await?)?;
        Ok(found.devices.into_iter().map(|one| one.device_id).collect())
    }

    /// Deletes a device of the bot's with its keys and what waits for it (client-server API, "DELETE
    /// /devices/{deviceId}"; that an application service needs no password for it is MSC4190). May be repeated at
    /// will: one that is not there is no error.
    pub async fn delete_device(&self, device_id: &DeviceId) -> Result<(), HomeserverError> {
        let body = json(Endpoint::Devices, &object!({}))?;
        let call = self.device_call(Method::DELETE, device_id, body);
        found(self.call(call).await).map(drop)
    }

    /// A call about a device. It speaks for the bot alone: the device may not exist, and a request
    /// that speaks for a device that does not exist is refused.
    fn device_call(&self, method: Method, device_id: &DeviceId, body: Bytes) -> Call {
        let path = Path::v3(&["devices", device_id.as_str()]);
        let mut call = self.request(Endpoint::Devices, method, path, body);
        call.identity = Identity::Bot;
        call
    }

    /// What the bot keeps under a type of its own on the homeserver, where others do not see it (client-server API, "GET
    /// /user/{userId}/account_data/{type}"); `None` where it keeps nothing. Only looks.
    pub async fn kept<T: DeserializeOwned>(
        &self,
        event_type: &str,
    ) -> Result<Option<T>, HomeserverError> {
        let call = self.kept_call(Method::GET, event_type, Bytes::new());
        let Some(answer) = found(self.call(call).await)? else { return Ok(None) };
        read(Endpoint::AccountData, &answer).map(Some)
    }

    /// Keeps something there (client-server API, "PUT /user/{userId}/account_data/{type}"). May be repeated at will.
    pub async fn keep<T: Serialize>(
        &self,
        event_type: &str,
        content: &T,
    ) -> Result<(), HomeserverError> {
        let body = json(Endpoint::AccountData, content)?;
        self.call(self.kept_call(Method::PUT, event_type, body)).await.map(drop)
    }

    fn kept_call(&self, method: Method, event_type: &str, body: Bytes) -> Call {
        let user = self.user_id().as_str();
        let path = Path::v3(&["user", user, "account_data", event_type]);
        let mut call = self.request(Endpoint::AccountData, method, path, body);
        call.identity = Identity::Bot;
        call
    }

    /// Names the bot (client-server API, "PUT /profile/{userId}/displayname"). May be repeated at
    /// will, but each new name becomes a member event in each of the bot's rooms.
    pub async fn set_displayname(&self, name: &str) -> Result<(), HomeserverError> {
        let endpoint = Endpoint::DisplayName;
        let path = Path::v3(&["profile", self.user_id().as_str(), "displayname"]);
        let body = json(endpoint, &object!({ "displayname": name }))?;
        self.put(endpoint, path, body).await.map(drop)
    }

    /// Asks the homeserver to ping us (application service API, "Pinging"), which also makes it
    /// deliver at once what it holds back. Returns how long its request to us took.
    ///
    /// `appservice_id` is the registration's `id`; `transaction_id` comes back in the ping. May be
    /// repeated at will.
    ///
    /// # Errors
    ///
    /// Besides the usual ones `502 M_BAD_STATUS`, `502 M_CONNECTION_FAILED` and `504
    /// M_CONNECTION_TIMEOUT`: the homeserver is there and does not reach *us*.
    pub async fn ping(
        &self,
        appservice_id: &str,
        transaction_id: &str,
    ) -> Result<Duration, HomeserverError> {
        #[derive(Deserialize)]
        struct Pong {
            duration_ms: u64,
        }
        let endpoint = Endpoint::Ping;
        let path = Path::under("/_matrix/client/v1/appservice", &[appservice_id, "ping"]);
        let body = json(endpoint, &object!({ "transaction_id": transaction_id }))?;
        let mut call = self.request(endpoint, Method::POST, path, body);
        call.identity = Identity::Service;
        let pong: Pong = read(endpoint, &self.call(call).await?)?;
        Ok(Duration::from_millis(pong.duration_ms))
    }
}
