//! What a decision weighs, gathered from the rows: what `knowledge`, `people` and `enforcing` do with the store's.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedDeviceId, OwnedUserId};

use super::{Fault, Sim, performing::Visit, rows::Holder, taking::KnownDevice};
use statekeeper::{
    keeper::{
        decide::{Breach, DeviceView, Knowledge, MemberView, Owed, Remedy},
        ingest::power_levels,
        knowledge::{enforced, session_scope, tuple_view},
    },
    policy::{DeviceFacts, MemberFacts, UserFacts, Word},
    state::{Membership, PowerLevel},
    store::{Grant, MemberRow, TupleRow},
};

type GrantsOfUser = BTreeMap<OwnedDeviceId, BTreeMap<String, Grant>>;

impl Sim {
    /// `Visit::know`.
    pub fn know(&mut self, visit: &mut Visit) -> Knowledge {
        let members = self.members_in(visit);
        let mut grants = self.grants_in(visit);
        let mut views = Vec::with_capacity(members.len());
        for member in members {
            views.push(self.member_view(visit, member, &mut grants));
        }
        let orphaned = |grants: &GrantsOfUser| {
            grants.values().flat_map(|held| held.keys().cloned()).collect::<Vec<_>>()
        };
        let departed = match visit.scope {
            None => grants.values().flat_map(orphaned).collect(),
            Some(_) => BTreeSet::new(),
        };
        let (mut tuples, mut forged) = (Vec::new(), Vec::new());
        for row in self.rows.tuples_of_room() {
            let breach = self.breach(&row);
            if self.rules.exempt.contains(&row.tuple.event_type) {
                forged.extend(breach);
                continue;
            }
            let scope = session_scope(&self.rules, &row.tuple);
            let active = self.rows.active(scope);
            let sealed = row.sealed.as_ref().map(|sealed| sealed.session_id.clone());
            let over = sealed
                .filter(|id| active.as_ref().is_none_or(|active| active.session_id != *id))
                .and_then(|id| self.rows.over(scope, &id));
            let view = tuple_view(row, (active, over), &self.keeper(), &self.rules, self.now);
            tuples.push(enforced(view, breach, &self.rules));
        }
        let may_redact = power_levels(&self.rows.room).may_redact_other(&self.keeper());
        Knowledge {
            exempt: Vec::new(),
            elevated: self.rows.room.elevated,
            may_redact,
            sayable: Vec::new(),
            whole_room: visit.scope.is_none(),
            members: views,
            tuples,
            forged,
            owed: self.owed(),
            previewers: Vec::new(),
            departed,
            requests: Vec::new(),
            refresh_upto: 0,
        }
    }

    fn members_in(&self, visit: &Visit) -> Vec<MemberRow> {
        let in_scope = |user: &OwnedUserId| {
            visit.scope.as_ref().is_none_or(|scope| scope.contains(user)) && *user != self.keeper()
        };
        let present = |member: &&MemberRow| {
            matches!(member.membership, Membership::Join | Membership::Invite)
                && in_scope(&member.user_id)
        };
        self.rows.members.values().filter(present).cloned().collect()
    }

    fn grants_in(&self, visit: &Visit) -> BTreeMap<OwnedUserId, GrantsOfUser> {
        let mut grants: BTreeMap<OwnedUserId, GrantsOfUser> = BTreeMap::new();
        for ((session, user, device), grant) in &self.rows.grants {
            if visit.scope.as_ref().is_some_and(|scope| !scope.contains(user)) {
                continue;
            }
            let devices = grants.entry(user.clone()).or_default();
            devices.entry(device.clone()).or_default().insert(session.clone(), grant.clone());
        }
        // `Visit::overlay`.
        for delivery in &visit.delivered {
            for (user, device) in &delivery.recipients {
                let held = grants.get_mut(user).and_then(|devices| devices.get_mut(device));
                if let Some(grant) = held.and_then(|held| held.get_mut(&delivery.session_id)) {
                    (grant.sent_at, grant.sent_tick) = (Some(delivery.at), Some(delivery.tick));
                }
            }
        }
        grants
    }

    /// `Visit::view`.
    fn member_view(
        &mut self,
        visit: &mut Visit,
        member: MemberRow,
        grants: &mut BTreeMap<OwnedUserId, GrantsOfUser>,
    ) -> MemberView {
        let mut grants = grants.remove(&member.user_id).unwrap_or_default();
        let all = grants.values().flat_map(BTreeMap::values);
        let first_key = all.filter_map(|grant| grant.sent_tick).min();
        let known = self.keys.known.get(&member.user_id).cloned();
        let (devices, identity) = known.unzip();
        let (user, standing) = self.facts_of(&member, identity);
        if let Some(identity) = identity {
            visit.sightings.insert(member.user_id.clone(), identity);
        }
        let (mut views, mut unreachable) = (Vec::new(), Vec::new());
        for device in devices.unwrap_or_default() {
            let held = grants.remove(&device.id).unwrap_or_default();
            let key = (member.user_id.clone(), device.id.clone());
            let view = DeviceView {
                device_id: device.id.clone(),
                facts: device_facts(&device),
                first_seen: device.first_seen,
                grants: held,
            };
            match visit.unreachable.contains(&key) {
                true => unreachable.push(view),
                false => views.push(view),
            }
            visit.devices.insert(key, device);
        }
        MemberView {
            orphaned: grants.values().flat_map(|held| held.keys().cloned()).collect(),
            user_id: member.user_id.clone(),
            membership: member.membership,
            user,
            standing,
            since: member.since,
            tick: member.tick,
            settled: !self.keys.outdated.contains(&member.user_id),
            devices: views,
            unreachable,
            first_key,
        }
    }

    /// `Visit::facts`.
    pub fn facts_of(&self, member: &MemberRow, identity: Option<u32>) -> (UserFacts, MemberFacts) {
        let user = &member.user_id;
        let counting = self.rows.identities.get(user).map(|known| known.master_key.clone());
        let changed = identity.zip(counting);
        let facts = UserFacts {
            admitted: true,
            blocked: self.rows.blocks.contains(user),
            identity_changed: changed.is_some_and(|(now, counts)| now.to_string() != counts),
            is_admin: false,
        };
        let standing = MemberFacts {
            preview: statekeeper::policy::PreviewPolicy::None,
            membership: Some(member.membership),
            power: power_levels(&self.rows.room).user_level(user),
            inviter_power: member.inviter.as_ref().map(|by| PowerLevel::Level(by.power)),
            through_space: false,
            word: self.rows.words.get(user).copied(),
        };
        (facts, standing)
    }

    /// `Visit::breach`.
    fn breach(&self, row: &TupleRow) -> Option<Breach> {
        if row.redacted {
            return None;
        }
        let ours = row.current_sender == Some(self.keeper());
        let current = row.current_event_id.as_ref().filter(|_| !ours);
        let stands = current.and_then(|current| self.rows.events.get(current));
        let broken = stands.and_then(|stands| self.breach_of(stands));
        let is_mended =
            |it: &Breach| !matches!(it.remedy(&self.rules), Remedy::Report | Remedy::Wait);
        if broken.as_ref().is_some_and(|it| !it.rule.allows_value() || is_mended(it)) {
            return broken;
        }
        let sealed = row.sealed.as_ref().filter(|_| ours).map(|sealed| sealed.tick);
        let since = stands.map(|stands| stands.tick).or(sealed).unwrap_or_default();
        let plain = self.rows.newest_plain_breach(&row.tuple);
        match plain.filter(|plain| plain.tick > since) {
            Some(plain) => self.breach_of(plain),
            None => broken,
        }
    }

    /// `Visit::owed`.
    fn owed(&self) -> Vec<Owed> {
        let mut owed: Vec<Owed> = self
            .rows
            .owed
            .iter()
            .filter_map(|event| {
                let seen = self.rows.events.get(event)?;
                Some(Owed { breach: self.breach_of(seen)?, tick: seen.tick })
            })
            .collect();
        owed.sort_by_key(|owed| owed.tick);
        owed
    }

    /// `Visit::still_present`, for whom a key was encrypted.
    pub fn still_present(&self, grants: &[statekeeper::store::NewGrant]) -> bool {
        if self.is(Fault::StillPresentSkipped) {
            return true;
        }
        grants.iter().all(|grant| {
            let member = self.rows.members.get(&grant.user_id);
            let membership = member
                .map(|member| member.membership)
                .filter(|_| !self.rows.blocks.contains(&grant.user_id))
                .filter(|_| self.rows.words.get(&grant.user_id) != Some(&Word::Denied));
            statekeeper::keeper::sharing::may_still_get(
                self.rules.sharing.invitees,
                membership,
                grant,
            )
        })
    }

    /// Whether a device may have the key of a tuple, by what the keeper knows in this moment.
    pub fn is_entitled(&self, holder: &Holder, tuple: &statekeeper::state::StateTuple) -> bool {
        let Some(member) = self.rows.members.get(&holder.0) else { return false };
        let Some((devices, identity)) = self.keys.known.get(&holder.0) else { return false };
        let Some(device) = devices.iter().find(|device| device.id == holder.1) else {
            return false;
        };
        let (user, standing) = self.facts_of(member, Some(*identity));
        let facts = device_facts(device);
        statekeeper::policy::entitlement(&facts, &user, &standing, tuple, &self.rules.sharing)
            .is_grant()
    }
}

fn device_facts(device: &KnownDevice) -> DeviceFacts {
    DeviceFacts {
        known: true,
        deleted: false,
        cross_signed_by_owner: device.cross_signed,
        blocked: false,
        is_keeper_itself: false,
    }
}
