//! `/keys/*` and `/sendToDevice`.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    http::{Call, Reply},
    world::{Repeated, World, server_of},
};

const CROSS_SIGNING: [&str; 3] = ["master_key", "self_signing_key", "user_signing_key"];

impl World {
    pub(super) fn keys_upload(&mut self, user_id: &str, call: &Call) -> Reply {
        let Some(device_id) = call.device_id() else {
            return Reply::error(400, "M_UNKNOWN", "to upload keys, you must pass device_id");
        };
        let mut body = call.json();
        let has_device_keys = body.get("device_keys").is_some_and(Value::is_object);
        let user = self.user_mut(user_id);
        let Some(device) = user.uploaded.get_mut(device_id) else {
            return Reply::error(400, "M_UNKNOWN", "no such device");
        };
        if has_device_keys {
            device.keys = Some(body["device_keys"].take());
        }
        for (id, key) in take_object(&mut body["one_time_keys"]) {
            if device.one_time_keys.get(&id).is_some_and(|known| *known != key) {
                let message = format!("One time key {id} already exists");
                return Reply::error(400, "M_INVALID_PARAM", &message);
            }
            device.one_time_keys.insert(id, key);
        }
        for name in ["fallback_keys", "org.matrix.msc2732.fallback_keys"] {
            let keys = take_object(&mut body[name]);
            if !keys.is_empty() {
                device.fallback_keys = keys.into_iter().collect();
                device.fallback_used = false;
            }
        }
        let count = device.one_time_keys.len();
        if has_device_keys {
            self.devices_changed(user_id);
        }
        Reply::ok(json!({ "one_time_key_counts": { "signed_curve25519": count } }))
    }

    pub(super) fn device_signing_upload(&mut self, user_id: &str, call: &Call) -> Reply {
        let mut body = call.json();
        let user = self.user_mut(user_id);
        for name in CROSS_SIGNING {
            if body.get(name).is_some_and(Value::is_object) {
                user.cross_signing.insert(name, body[name].take());
            }
        }
        self.devices_changed(user_id);
        Reply::empty()
    }

    pub(super) fn signatures_upload(&mut self, user_id: &str, call: &Call) -> Reply {
        let body = call.json();
        let user = self.user_mut(user_id);
        for (name, signed) in body[user_id].as_object().into_iter().flatten() {
            let device = user.uploaded.get_mut(name).and_then(|device| device.keys.as_mut());
            let master = user.cross_signing.get_mut("master_key");
            let target = device.or(master);
            let signatures = signed["signatures"][user_id].as_object();
            let (Some(target), Some(signatures)) = (target, signatures) else { continue };
            for (key_id, signature) in signatures {
                target["signatures"][user_id][key_id] = signature.clone();
            }
        }
        self.devices_changed(user_id);
        Reply::ok(json!({ "failures": {} }))
    }

    /// How long a request that touches these users waits for dead servers, and which they are.
    pub(super) fn dead_servers_in(&self, call: &Call, claim: bool) -> (Duration, Vec<String>) {
        let field = if claim { "one_time_keys" } else { "device_keys" };
        let body = call.json();
        let mut delay = Duration::ZERO;
        let mut dead = Vec::new();
        for user_id in body[field].as_object().into_iter().flat_map(Map::keys) {
            let server = server_of(user_id).to_owned();
            let Some(trouble) = self.faults.dead_servers.get(&server) else { continue };
            if (claim || trouble.fails_queries) && !dead.contains(&server) {
                delay = delay.max(trouble.delay);
                dead.push(server);
            }
        }
        (delay, dead)
    }

    pub(super) fn keys_query(&mut self, asker: &str, call: &Call, dead: &[String]) -> Reply {
        let body = call.json();
        let (mut devices, mut master) = (Map::new(), Map::new());
        let (mut self_signing, mut user_signing) = (Map::new(), Map::new());
        for user_id in body["device_keys"].as_object().into_iter().flat_map(Map::keys) {
            if dead.iter().any(|server| server == server_of(user_id)) {
                continue;
            }
            let user = self.users.get(user_id);
            devices.insert(user_id.clone(), user.map_or(json!({}), |user| user.device_keys()));
            let Some(user) = user else { continue };
            if let Some(key) = user.cross_signing.get("master_key") {
                master.insert(user_id.clone(), key.clone());
            }
            if let Some(key) = user.cross_signing.get("self_signing_key") {
                self_signing.insert(user_id.clone(), key.clone());
            }
            if let (true, Some(key)) =
                (user_id == asker, user.cross_signing.get("user_signing_key"))
            {
                user_signing.insert(user_id.clone(), key.clone());
            }
        }
        Reply::ok(json!({
            "device_keys": devices, "master_keys": master, "self_signing_keys": self_signing,
            "user_signing_keys": user_signing, "failures": failures(dead),
        }))
    }

    pub(super) fn keys_claim(&mut self, call: &Call, dead: &[String]) -> Reply {
        let body = call.json();
        let mut claimed: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        for (user_id, devices) in body["one_time_keys"].as_object().into_iter().flatten() {
            if dead.iter().any(|server| server == server_of(user_id)) {
                continue;
            }
            for device_id in devices.as_object().into_iter().flat_map(Map::keys) {
                if let Some((key_id, key)) = self.claim_one(user_id, device_id) {
                    let of_user = claimed.entry(user_id.clone()).or_default();
                    of_user.insert(device_id.clone(), json!({ key_id: key }));
                }
            }
        }
        Reply::ok(json!({ "one_time_keys": claimed, "failures": failures(dead) }))
    }

    /// Takes a one-time key of a device, simulated or uploaded, or else its fallback key.
    pub(super) fn claim_one(&mut self, user_id: &str, device_id: &str) -> Option<(String, Value)> {
        let user = self.users.get_mut(user_id)?;
        if let Some(device) = user.devices.get_mut(device_id) {
            return device.claim_one_time_key();
        }
        let device = user.uploaded.get_mut(device_id)?;
        if let Some(claimed) = device.one_time_keys.pop_first() {
            return Some(claimed);
        }
        device.fallback_used = true;
        device.fallback_keys.iter().next().map(|(id, key)| (id.clone(), key.clone()))
    }

    pub(super) fn put_to_device(
        &mut self,
        user_id: &str,
        (event_type, txn_id): (&str, &str),
        call: &Call,
    ) -> Reply {
        let id = (format!("{user_id} {event_type}"), txn_id.to_owned());
        if let Some(first) = self.sent_transactions.get(&id) {
            let same_body = *first == call.body;
            self.repeated.push(Repeated { txn_id: txn_id.to_owned(), same_body });
            return Reply::empty();
        }
        self.sent_transactions.insert(id, call.body.clone());
        let body = call.json();
        for (recipient, devices) in body["messages"].as_object().into_iter().flatten() {
            for (device_id, content) in devices.as_object().into_iter().flatten() {
                self.send_to_device(user_id, event_type, (recipient, device_id), content);
            }
        }
        Reply::empty()
    }
}

impl super::world::User {
    fn device_keys(&self) -> Value {
        let simulated = self.devices.iter().map(|(id, device)| (id.clone(), device.keys.clone()));
        let uploaded = self.uploaded.iter().filter_map(|(id, device)| {
            let mut keys = device.keys.clone()?;
            keys["unsigned"]["device_display_name"] = json!(device.display_name);
            Some((id.clone(), keys))
        });
        simulated.chain(uploaded).collect::<Map<_, _>>().into()
    }
}

fn take_object(value: &mut Value) -> Map<String, Value> {
    match value.take() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn failures(dead: &[String]) -> Value {
    dead.iter()
        .map(|server| (server.clone(), json!({ "status": 503 })))
        .collect::<Map<_, _>>()
        .into()
}
