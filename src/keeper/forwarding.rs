//! Forwarding members' sessions to those who ask, where `requests.forward_member_sessions` allows it. A stock
//! client encrypts messages and state under one session, so this is done with the narrowest key there is, and only
//! once its creator has moved on: from an index on from which nothing but current state stands under it.
//!
//! Nobody is told that a member's session is withheld: it is not the keeper's to give.

use ruma::DeviceId;

use super::{
    KeeperError,
    answering::Asked,
    clock::now_ms,
    decide::{Answer, DeviceView, Knowledge, MemberView, Reason},
    lane::Visit,
    letters::Letters,
    requests::{Outcome, request::KeyRequest},
};
use crate::{
    crypto::wipe,
    policy::entitlement,
    state::Membership,
    store::{AskedSession, NewGrant, key_requests, ledger, member_sessions},
};

/// What may be forwarded of a session.
struct Forwardable {
    message_index: u32,
    tuple: crate::state::StateTuple,
}

impl Visit<'_> {
    /// Whether a request for a member's session is answered.
    pub(super) async fn judge_forwarding(
        &self,
        known: &Knowledge,
        Asked { request, paid, .. }: &Asked,
    ) -> Result<Answer, KeeperError> {
        if !self.rules.forward_member_sessions {
            return Ok(Answer::Silence);
        }
        let Some((member, device)) = asker(known, request) else {
            let member = known.members.iter().find(|member| member.user_id == request.sender);
            // The request may have overtaken the join.
            let ends = member.map_or(*paid, |member| member.settled);
            return Ok(if ends { Answer::Silence } else { Answer::Wait });
        };
        match self.forwardable(member, device, request).await? {
            Some(forwardable) if self.holds(device, request, &forwardable) => Ok(Answer::Holds),
            Some(_) => Ok(Answer::Give),
            None => Ok(Answer::Silence),
        }
    }

    fn holds(&self, device: &DeviceView, request: &KeyRequest, what: &Forwardable) -> bool {
        let cool_down = self.rules.cool_down;
        device.grants.get(&request.session_id).is_some_and(|grant| {
            grant.message_index <= what.message_index
                && now_ms().saturating_sub(grant.granted_at) < cool_down
        })
    }

    async fn forwardable(
        &self,
        member: &MemberView,
        device: &DeviceView,
        request: &KeyRequest,
    ) -> Result<Option<Forwardable>, KeeperError> {
        let taker = &self.lanes.taker;
        let (room, session_id) = (&self.room.room_id, &request.session_id);
        if member.membership != Membership::Join {
            return Ok(None);
        }
        let db = &mut *taker.store.read().await?;
        let Some(session) = member_sessions::get(db, room, session_id).await? else {
            return Ok(None);
        };
        let facts = member.facts();
        let entitled = session.tuples.iter().all(|tuple| {
            let sharing = &self.rules.sharing;
            entitlement(&device.facts, &member.user, &facts, tuple, sharing).is_grant()
        });
        let Some(tuple) = session.tuples.first().filter(|_| entitled) else { return Ok(None) };
        for later in &session.later {
            if taker.device.same_creator(room, session_id, later).await? {
                let message_index = session.message_index;
                return Ok(Some(Forwardable { message_index, tuple: tuple.clone() }));
            }
        }
        Ok(None)
    }

    /// Answers what is asked for of members' sessions. Returns whether anything was.
    pub(super) async fn forward(&mut self, known: &Knowledge) -> Result<bool, KeeperError> {
        let (asked, others): (Vec<Asked>, Vec<Asked>) = std::mem::take(&mut self.asked)
            .into_iter()
            .partition(|asked| asked.session == AskedSession::Members);
        self.asked = others;
        let mut any = false;
        for asked in asked {
            match self.judge_forwarding(known, &asked).await? {
                Answer::Give if asked.paid => {
                    self.forward_one(known, asked).await?;
                    any = true;
                }
                Answer::Give => {
                    self.lanes.offer(asked.request);
                }
                Answer::Wait => self.asked.push(Asked { waits: true, ..asked }),
                Answer::Holds | Answer::Refuse(_) | Answer::Silence => {
                    self.lanes.taker.metrics.key_request(Outcome::Silence.as_str());
                    self.lanes.desk.dismiss(asked.request.name());
                }
            }
        }
        Ok(any)
    }

    async fn forward_one(&mut self, known: &Knowledge, asked: Asked) -> Result<(), KeeperError> {
        let Some((member, device)) = asker(known, &asked.request) else { return Ok(()) };
        let Some(what) = self.forwardable(member, device, &asked.request).await? else {
            self.lanes.desk.dismiss(asked.request.name());
            return Ok(());
        };
        let mut letters = Letters::default();
        self.write_forwarded(&mut letters, &asked.request, &what).await?;
        let (store, room_id, now) = (self.lanes.taker.store.clone(), self.room_id(), now_ms());
        self.asked.push(asked);
        self.lanes.taker.device.written().await?;
        let mut transaction = store.begin().await?;
        if !self.still_present(&mut transaction, &letters).await?
            || !self.still_wanted(&mut transaction, &letters).await?
        {
            return Ok(());
        }
        self.note_delivered(&mut transaction).await?;
        ledger::grant(&store, &mut transaction, &room_id, &letters.grants, now).await?;
        let mut answered = self.answered(&mut transaction, &[], &mut letters).await?;
        if answered.is_empty()
            && let Some(asked) = self.asked.pop()
        {
            // No channel to the device, or the session is not there any more: nothing to say, as ever.
            let request = asked.request;
            let name = (&*request.sender, &*request.device, request.request_id.as_str());
            key_requests::remove(&mut transaction, name).await?;
            answered.push((request, Outcome::Silence));
        }
        let requests = self.insert(&mut transaction, &room_id, letters, now).await?;
        transaction.commit().await?;
        self.deliver(requests).await?;
        self.count_answered(&answered);
        Ok(())
    }

    /// Encrypts a member's session for whoever asked for it.
    async fn write_forwarded(
        &mut self,
        letters: &mut Letters,
        request: &KeyRequest,
        what: &Forwardable,
    ) -> Result<(), KeeperError> {
        let device = self.lanes.taker.device.clone();
        let (room, session_id, index) = (self.room_id(), &request.session_id, what.message_index);
        let to = (request.sender.clone(), request.device.clone());
        let Some(recipient) = self.devices.get(&to).cloned() else { return Ok(()) };
        device.claim_missing(std::slice::from_ref(&to.0)).await?;
        let Some(mut content) = device.forwarded_room_key(&room, session_id, index).await? else {
            return Ok(());
        };
        let encrypted = device.encrypt_for(&[recipient], "m.forwarded_room_key", &content).await;
        wipe(&mut content);
        let (requests, _) = encrypted?;
        for letter in requests {
            letters.grants.push(NewGrant {
                session_id: session_id.clone(),
                user_id: to.0.clone(),
                device_id: to.1.clone(),
                message_index: index,
                reason: Reason::Forward.as_str(),
                again: false,
                preview: false,
                tuple: what.tuple.clone(),
                policy: self.rules.policy.clone(),
            });
            self.reasons.insert(to.clone(), Reason::Forward);
            letters.requests.push((session_id.clone(), letter));
        }
        Ok(())
    }
}

/// Who asks, and from which device, as the decision sees them.
fn asker<'k>(
    known: &'k Knowledge,
    request: &KeyRequest,
) -> Option<(&'k MemberView, &'k DeviceView)> {
    let member = known.members.iter().find(|member| member.user_id == request.sender)?;
    let asking: &DeviceId = &request.device;
    let device = member.devices.iter().find(|device| device.device_id == asking)?;
    Some((member, device))
}
