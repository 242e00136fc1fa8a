//! Answering key requests, as part of a visit to their room: whoever is entitled is given the key, whoever has
//! business in the room and is not entitled is told so once, and everybody else hears nothing.
//!
//! A request's row stands until the very commit that grants or refuses the key. So a kill loses no request, and one
//! that is taken back before that commit is not answered.

use std::collections::BTreeSet;

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde_json::json;
use sqlx::SqliteConnection;

use super::{
    KeeperError,
    clock::now_ms,
    decide::{Answer, RequestView, Share},
    lane::Visit,
    letters::Letters,
    requests::{Outcome, desk::Taken, request::KeyRequest},
};
use crate::{
    crypto::{MEGOLM, ToDevice},
    policy::{Entitlement, WithheldCode},
    state::Membership,
    store::{AskedSession, KeyRequestRow, Refusal, key_requests, ledger, rooms},
};

/// A request that a visit has to answer.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) request: KeyRequest,
    pub(super) session: AskedSession,
    /// Whether it has been within every budget.
    pub(super) paid: bool,
    /// Whether nothing could be said of it, by the last decision.
    pub(super) waits: bool,
}

/// What a request comes to, that needs no key to be sent.
enum Conclusion {
    Refused(Asked, Entitlement),
    Ended(Asked, Outcome),
}

impl Visit<'_> {
    /// Takes up these requests, and those that came before their senders were heard of, as far as these have been
    /// since.
    pub(super) async fn take_up_requests(
        &mut self,
        ready: Vec<KeyRequest>,
    ) -> Result<(), KeeperError> {
        let room = self.room_id();
        let heard_of = match &self.scope {
            Some(users) => users.clone(),
            None => {
                let mut present = self.present(self.lanes.desk.unheard_of(&room)).await?;
                // Others may be who may read the room before they join it.
                present.extend(self.named.iter().cloned());
                present
            }
        };
        let early = self.lanes.desk.recall(&room, &heard_of);
        let mut gone = BTreeSet::new();
        if self.lanes.is_just_started() {
            let askers: BTreeSet<&OwnedUserId> = ready.iter().map(|asked| &asked.sender).collect();
            for user in askers {
                if self.is_gone(user).await {
                    gone.insert(user.clone());
                }
            }
        }
        let ready = ready.into_iter().map(|request| (request, true));
        for (request, paid) in ready.chain(early.into_iter().map(|request| (request, false))) {
            let db = &mut *self.lanes.taker.store.read().await?;
            let session = key_requests::asked_session(db, &room, &request.session_id).await?;
            match session {
                Some(session) if !gone.contains(&request.sender) => {
                    self.asked.push(Asked { request, session, paid, waits: false });
                }
                _ => {
                    self.lanes.taker.metrics.key_request(Outcome::Silence.as_str());
                    self.lanes.desk.dismiss(request.name());
                }
            }
        }
        Ok(())
    }

    /// Those of `users` who are in the room or invited to it.
    async fn present(
        &self,
        users: BTreeSet<OwnedUserId>,
    ) -> Result<BTreeSet<OwnedUserId>, KeeperError> {
        let db = &mut *self.lanes.taker.store.read().await?;
        let mut present = BTreeSet::new();
        for user in users {
            let member = rooms::get_member(db, &self.room.room_id, &user).await?;
            if member.is_some_and(|member| is_present(member.membership)) {
                present.insert(user);
            }
        }
        Ok(present)
    }

    /// Whether the homeserver says that a user is not in the room. Just after a start it may still hold back the
    /// event that says so, and the request overtakes it. Where it does not say, what is known counts.
    async fn is_gone(&self, user: &UserId) -> bool {
        let room = &self.room.room_id;
        let answer =
            self.lanes.homeserver.get_state_event(room, "m.room.member", user.as_str()).await;
        let Ok(Some(event)) = answer else { return false };
        let event = crate::state::RoomEvent::parse_str(event.0.get());
        let membership = event.ok().and_then(|event| Membership::from_content(&event.content));
        membership.is_some_and(|membership| !is_present(membership))
    }

    /// The requests as a decision sees them: those for the keeper's own sessions.
    pub(super) fn request_views(&self) -> Vec<RequestView> {
        let views = self.asked.iter().filter_map(|asked| {
            let AskedSession::Keepers(tuple) = &asked.session else { return None };
            Some(RequestView {
                user_id: asked.request.sender.clone(),
                device_id: asked.request.device.clone(),
                session_id: asked.request.session_id.clone(),
                tuple: tuple.clone(),
                may_wait: !asked.paid,
            })
        });
        views.collect()
    }

    /// Does what a decision says of the requests, but for the keys. Returns whether the keys may go out; if not,
    /// another decision is due.
    pub(super) async fn conclude(&mut self, answers: &[Answer]) -> Result<bool, KeeperError> {
        let (requests, others): (Vec<Asked>, Vec<Asked>) = std::mem::take(&mut self.asked)
            .into_iter()
            .partition(|asked| matches!(asked.session, AskedSession::Keepers(_)));
        self.asked = others;
        let mut concluded = Vec::new();
        let mut all_paid = true;
        for (asked, answer) in requests.into_iter().zip(answers) {
            match answer {
                Answer::Give if asked.paid => self.asked.push(asked),
                Answer::Give => all_paid &= self.pay(asked),
                // What this visit does next may be what it waits for.
                Answer::Wait => self.asked.push(Asked { waits: true, ..asked }),
                Answer::Refuse(refusal) => {
                    concluded.push(Conclusion::Refused(asked, *refusal));
                }
                Answer::Holds => concluded.push(Conclusion::Ended(asked, Outcome::Repeated)),
                Answer::Silence => concluded.push(Conclusion::Ended(asked, Outcome::Silence)),
            }
        }
        self.end(concluded).await?;
        Ok(all_paid)
    }

    /// Offers a request that waited to be judged. Returns whether it is within every budget.
    fn pay(&mut self, asked: Asked) -> bool {
        let name = asked.request.name();
        let taken = self.lanes.offer(asked.request.clone());
        if taken != Taken::Ready {
            return false;
        }
        // It is ready, and this is the visit: it need not wait for the next one.
        if self.lanes.desk.cancel(&name) {
            self.asked.push(Asked { paid: true, ..asked });
        }
        true
    }

    /// Strikes requests off that get no key, and tells those who have to be told, once.
    async fn end(&mut self, concluded: Vec<Conclusion>) -> Result<(), KeeperError> {
        if concluded.is_empty() {
            return Ok(());
        }
        let store = self.lanes.taker.store.clone();
        let room_id = self.room_id();
        let now = now_ms();
        let mut letters = Letters::default();
        let mut outcomes = Vec::with_capacity(concluded.len());
        let mut transaction = store.begin().await?;
        for conclusion in concluded {
            match conclusion {
                Conclusion::Ended(asked, outcome) => {
                    strike_off(&mut transaction, &asked.request).await?;
                    outcomes.push(outcome);
                }
                Conclusion::Refused(asked, refusal) => {
                    let stands = strike_off(&mut transaction, &asked.request).await?;
                    if stands && self.refuse(&mut transaction, &asked.request, refusal).await? {
                        letters.requests.push(self.withheld(&asked.request, refusal));
                    }
                    outcomes.push(if stands { Outcome::Withheld } else { Outcome::Cancelled });
                }
            }
        }
        let requests = self.insert(&mut transaction, &room_id, letters, now).await?;
        transaction.commit().await?;
        for outcome in outcomes {
            self.lanes.taker.metrics.key_request(outcome.as_str());
        }
        self.deliver(requests).await
    }

    /// Writes a refusal into the ledger, as part of the caller's transaction. Returns whether the device has to be
    /// told: it has not been yet.
    async fn refuse(
        &self,
        db: &mut SqliteConnection,
        request: &KeyRequest,
        refused: Entitlement,
    ) -> Result<bool, KeeperError> {
        let taker = &self.lanes.taker;
        let Some((code, outcome)) = refused.code().zip(refused.outcome()) else { return Ok(false) };
        let refusal = refusal_of(request, code, &outcome, &self.rules.policy);
        let room = &self.room.room_id;
        let first = ledger::refuse(&taker.store, db, room, refusal, now_ms()).await?;
        if first {
            taker.metrics.room_keys_withheld(code.as_str(), 1);
        }
        Ok(first)
    }

    /// The `m.room_key.withheld` (spec) that says why a device gets no key, with the session that it is about.
    fn withheld(&self, request: &KeyRequest, refused: Entitlement) -> (String, ToDevice) {
        let code = refused.code().unwrap_or(WithheldCode::Unauthorised);
        let device = &self.lanes.taker.device;
        let mut content = json!({
            "algorithm": MEGOLM,
            "code": code.as_str(),
            "reason": code.reason(),
            "sender_key": device.curve25519_key(),
            "from_device": device.device_id(),
        });
        // Without a channel there is no key of any session, and the spec has neither of these.
        if code != WithheldCode::NoOlm
            && let Some(content) = content.as_object_mut()
        {
            content.insert("room_id".to_owned(), json!(request.room_id));
            content.insert("session_id".to_owned(), json!(request.session_id));
        }
        let messages = json!({
            "messages": { request.sender.as_str(): { request.device.as_str(): content } },
        });
        let letter = ToDevice {
            txn_id: ruma::TransactionId::new().to_string(),
            event_type: "m.room_key.withheld".to_owned(),
            body: messages.to_string(),
            // It carries no key, so there is no grant.
            recipients: Vec::new(),
        };
        (request.session_id.clone(), letter)
    }

    /// Whether everybody who is about to be given a key because of a request still wants it: asked in the very
    /// transaction that writes the grants. Requests that were taken back are forgotten.
    pub(super) async fn still_wanted(
        &mut self,
        db: &mut SqliteConnection,
        letters: &Letters,
    ) -> Result<bool, KeeperError> {
        let mut taken_back = BTreeSet::new();
        for asked in self.asked.iter().filter(|asked| is_answered_by(asked, letters)) {
            let request = &asked.request;
            let name = (&*request.sender, &*request.device, request.request_id.as_str());
            if !key_requests::stands(db, name).await? {
                taken_back.insert(request.name());
            }
        }
        self.asked.retain(|asked| !taken_back.contains(&asked.request.name()));
        for _ in &taken_back {
            self.lanes.taker.metrics.key_request(Outcome::Cancelled.as_str());
        }
        Ok(taken_back.is_empty())
    }

    /// Strikes the requests off that these letters answer, as part of the transaction that writes their grants.
    /// Those for devices that could not be reached are told so, once.
    pub(super) async fn answered(
        &mut self,
        db: &mut SqliteConnection,
        given: &[Share],
        letters: &mut Letters,
    ) -> Result<Vec<(KeyRequest, Outcome)>, KeeperError> {
        let mut answered = Vec::new();
        let meant: BTreeSet<(OwnedUserId, OwnedDeviceId)> = given
            .iter()
            .flat_map(|share| &share.recipients)
            .filter(|to| to.reason.is_asked())
            .map(|to| (to.user_id.clone(), to.device_id.clone()))
            .collect();
        let mut left = Vec::new();
        for asked in std::mem::take(&mut self.asked) {
            let request = &asked.request;
            let to = (request.sender.clone(), request.device.clone());
            if is_answered_by(&asked, letters) {
                strike_off(db, request).await?;
                answered.push((asked.request, Outcome::Answered));
            } else if meant.contains(&to) && self.unreachable.contains(&to) {
                strike_off(db, request).await?;
                let refused = Entitlement::Withhold(WithheldCode::NoOlm);
                if self.refuse(db, request, refused).await? {
                    letters.requests.push(self.withheld(request, refused));
                }
                answered.push((asked.request, Outcome::Withheld));
            } else {
                left.push(asked);
            }
        }
        self.asked = left;
        Ok(answered)
    }

    /// Counts requests whose answers the homeserver took.
    pub(super) fn count_answered(&self, answered: &[(KeyRequest, Outcome)]) {
        let now = now_ms();
        for (request, outcome) in answered {
            let metrics = &self.lanes.taker.metrics;
            metrics.key_request(outcome.as_str());
            if *outcome == Outcome::Silence {
                continue;
            }
            let took = u32::try_from(now.saturating_sub(request.heard_at)).unwrap_or(0);
            metrics.key_request_answered(f64::from(took) / 1000.0);
        }
    }

    /// Gives those requests back that this visit did not answer.
    pub(super) fn give_back(&mut self) {
        let left = std::mem::take(&mut self.asked);
        let (paid, unpaid): (Vec<Asked>, Vec<Asked>) =
            left.into_iter().partition(|asked| asked.paid && !asked.waits);
        for asked in unpaid {
            self.lanes.desk.wait_for_sender(asked.request);
        }
        self.lanes.desk.give_back(paid.into_iter().map(|asked| asked.request).collect());
    }
}

/// The ledger's row for a request that is refused. That there is no channel concerns whatever session there is.
pub(super) fn refusal_of<'r>(
    request: &'r KeyRequest,
    code: WithheldCode,
    outcome: &'r str,
    policy: &'r str,
) -> Refusal<'r> {
    let every_session = code == WithheldCode::NoOlm;
    Refusal {
        holder: (&request.sender, &request.device),
        session_id: if every_session { "" } else { &request.session_id },
        outcome,
        policy,
    }
}

fn is_present(membership: Membership) -> bool {
    matches!(membership, Membership::Join | Membership::Invite)
}

fn is_answered_by(asked: &Asked, letters: &Letters) -> bool {
    let request = &asked.request;
    let (user, device): (&UserId, &DeviceId) = (&request.sender, &request.device);
    letters.grants.iter().any(|grant| {
        grant.session_id == request.session_id && grant.user_id == user && grant.device_id == device
    })
}

async fn strike_off(db: &mut SqliteConnection, request: &KeyRequest) -> Result<bool, KeeperError> {
    let name = (&*request.sender, &*request.device, request.request_id.as_str());
    Ok(key_requests::remove(db, name).await?)
}

/// A request as it is written down.
pub(super) fn to_row(request: &KeyRequest) -> KeyRequestRow {
    KeyRequestRow {
        sender: request.sender.clone(),
        device_id: request.device.clone(),
        request_id: request.request_id.clone(),
        room_id: request.room_id.clone(),
        session_id: request.session_id.clone(),
        heard_at: request.heard_at,
    }
}

/// A request as it was written down.
pub(super) fn from_row(row: KeyRequestRow) -> KeyRequest {
    KeyRequest {
        sender: row.sender,
        device: row.device_id,
        request_id: row.request_id,
        room_id: row.room_id,
        session_id: row.session_id,
        sender_key: None,
        heard_at: row.heard_at,
    }
}
