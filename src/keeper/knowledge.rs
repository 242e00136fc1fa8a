//! What is known of a room, gathered from the store and the device's key store for one decision.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::{
    KeeperError,
    clock::now_ms,
    copies::Places,
    decide::{
        Breach, DeviceView, ExemptView, Knowledge, MemberView, Owed, SealedView, SourceView,
        TupleView,
    },
    enforcing::{breach_of, is_left_in_plain},
    ingest::power_levels,
    lane::Visit,
    people::Company,
    restating,
    rules::{Rules, SessionScope},
};
use crate::{
    crypto::KnownDevice,
    policy::{DeviceFacts, MemberFacts, UserFacts},
    state::{Form, Membership, Rule, StateTuple},
    store::{
        Grant, MemberRow, Orders, Over, Retired, SealedValue, SessionRow, SourceValue, TupleRow,
        ledger, orders, rooms, sessions, tuples,
    },
};

/// By device and session.
pub(super) type GrantsOfUser = BTreeMap<OwnedDeviceId, BTreeMap<String, Grant>>;
pub(super) type Grants = BTreeMap<OwnedUserId, GrantsOfUser>;

impl Visit<'_> {
    /// Gathers what a decision weighs, for the visit's scope.
    pub(super) async fn know(&mut self) -> Result<Knowledge, KeeperError> {
        let store = self.lanes.taker.store.clone();
        let room_id = self.room_id();
        let db = &mut *store.read().await?;
        if let Some(room) = rooms::get(db, &room_id).await? {
            self.room = room;
        }
        self.rules = self.lanes.taker.rules.of(&self.room);
        let basis = self.basis(db).await?;
        let (tuples, exempt, forged) = self.tuple_views(db).await?;
        self.looked_at = match &self.scope {
            None => self.few_of(db, &basis, &tuples).await?,
            Some(users) => Some(users.clone()),
        };
        self.basis = Some(basis);
        let members = self.members(db).await?;
        let orders = orders::of_room(db, &room_id).await?;
        let mut grants = self.grants(db).await?;
        give_once_more(&mut grants, &orders);
        let company = self.company(db).await?;
        let mut views = Vec::with_capacity(members.len());
        for member in members {
            let device = &self.lanes.taker.device;
            // Asked first: an answer that comes in between brings devices which are not among those read before it.
            let settled = device.is_settled(&member.user_id);
            let known = device.known_user(&member.user_id).await?;
            let facts = self.facts(db, &company, &member, known.master_key.as_deref()).await?;
            let view = self.view(member, &known.devices, facts, &company, &mut grants);
            views.push(MemberView { settled, ..view });
        }
        let previewers = self.previewers(db, &company, &views, &mut grants).await?;
        let departed = match self.looked_at {
            None => grants.values().flat_map(orphaned).collect(),
            Some(_) => BTreeSet::new(),
        };
        Ok(Knowledge {
            elevated: self.room.elevated,
            may_redact: power_levels(&self.room).may_redact_other(&self.lanes.taker.keeper),
            sayable: restating::sayable(&power_levels(&self.room), &self.lanes.taker.keeper),
            forged,
            owed: self.owed(db).await?,
            exempt,
            whole_room: self.scope.is_none(),
            members: views,
            previewers,
            tuples,
            departed,
            requests: self.request_views(),
            refresh_upto: orders.refresh_upto,
        })
    }

    /// The room's tuples, what members sealed of exempt types, and what broke a rule where the keeper never seals.
    async fn tuple_views(
        &self,
        db: &mut sqlx::SqliteConnection,
    ) -> Result<(Vec<TupleView>, Vec<ExemptView>, Vec<Breach>), KeeperError> {
        let (store, room_id) = (&self.lanes.taker.store, &self.room.room_id);
        let (mut views, mut exempt, mut forged) = (Vec::new(), Vec::new(), Vec::new());
        let (rows, mut places) = match &self.only {
            None => {
                let places = Places::of_room(&self.lanes.taker, db, &self.room).await?;
                (tuples::of_room(store, db, room_id).await?, places)
            }
            Some(only) => {
                let mut rows = Vec::new();
                for tuple in only {
                    rows.extend(tuples::get(store, db, room_id, tuple).await?);
                }
                (rows, Places::unseen(&self.lanes.taker, &self.room))
            }
        };
        for row in rows {
            let breach = self.breach(db, &row).await?;
            if self.rules.exempt.contains(&row.tuple.event_type) || row.tuple.packed().is_err() {
                forged.extend(breach);
                exempt.extend(places.exempt(&row));
                continue;
            }
            let scope = session_scope(&self.rules, &row.tuple);
            let active = sessions::active(db, room_id, scope).await?;
            let sealed = row.sealed.as_ref().map(|sealed| sealed.session_id.as_str());
            let over = match sealed.filter(|id| active.as_ref().is_none_or(|a| a.session_id != *id))
            {
                Some(sealed) => sessions::over(db, room_id, scope, sealed).await?,
                None => None,
            };
            let sessions = (active, over);
            let plain = places.beside(&row);
            let may_write_plain = places.may_write(&row.tuple);
            let view = tuple_view(row, sessions, &self.lanes.taker.keeper, &self.rules, now_ms());
            let view = TupleView { plain, may_write_plain, ..view };
            views.push(enforced(view, breach, &self.rules));
        }
        Ok((views, exempt, forged))
    }

    /// State in plain that is to be redacted, where it still has to be encrypted.
    async fn owed(&self, db: &mut sqlx::SqliteConnection) -> Result<Vec<Owed>, KeeperError> {
        let mut owed = Vec::new();
        if self.only.is_some() {
            return Ok(owed);
        }
        let taker = &self.lanes.taker;
        for row in tuples::owed(db, &self.room.room_id).await? {
            if is_left_in_plain(&self.rules, &row.tuple) {
                continue;
            }
            let event = tuples::get_event(&taker.store, db, &row.event_id).await?;
            let Some(event) = event else { continue };
            if let Some(breach) = breach_of(taker, db, &self.room, &event).await? {
                owed.push(Owed { breach, tick: row.tick });
            }
        }
        Ok(owed)
    }

    async fn members(
        &self,
        db: &mut sqlx::SqliteConnection,
    ) -> Result<Vec<MemberRow>, KeeperError> {
        let room_id = &self.room.room_id;
        let mut members = match &self.looked_at {
            None => rooms::present_members(db, room_id).await?,
            Some(users) => {
                let mut members = Vec::new();
                for user in users {
                    members.extend(rooms::get_member(db, room_id, user).await?);
                }
                members
            }
        };
        members.retain(|member| {
            matches!(member.membership, Membership::Join | Membership::Invite)
                && member.user_id != self.lanes.taker.keeper
        });
        Ok(members)
    }

    async fn grants(&self, db: &mut sqlx::SqliteConnection) -> Result<Grants, KeeperError> {
        let mut grants = Grants::new();
        match &self.looked_at {
            None => self.read_grants(db, None, &mut grants).await?,
            Some(users) => {
                for user in users {
                    self.read_grants(db, Some(user), &mut grants).await?;
                }
            }
        }
        self.overlay(&mut grants);
        Ok(grants)
    }

    /// Reads what a user holds, or all members hold.
    pub(super) async fn read_grants(
        &self,
        db: &mut sqlx::SqliteConnection,
        user: Option<&UserId>,
        grants: &mut Grants,
    ) -> Result<(), KeeperError> {
        let (store, room_id) = (&self.lanes.taker.store, &self.room.room_id);
        for row in ledger::of_room(store, db, room_id, user).await? {
            let device = grants.entry(row.user_id).or_default().entry(row.device_id).or_default();
            device.insert(row.session_id, row.grant);
        }
        Ok(())
    }

    /// What was delivered on this visit stands in the ledger with the next commit; it counts already.
    pub(super) fn overlay(&self, grants: &mut Grants) {
        for delivery in &self.delivered {
            for (user, device) in &delivery.detail.recipients {
                let held = grants.get_mut(user).and_then(|devices| devices.get_mut(device));
                let Some(device) = held else { continue };
                if !delivery.taken {
                    device.remove(&delivery.detail.session_id);
                } else if let Some(grant) = device.get_mut(&delivery.detail.session_id) {
                    grant.sent_at = Some(delivery.at);
                    grant.sent_tick = Some(delivery.tick);
                }
            }
        }
    }

    pub(super) fn view(
        &mut self,
        member: MemberRow,
        known: &[KnownDevice],
        (user, standing): (UserFacts, MemberFacts),
        company: &Company,
        grants: &mut Grants,
    ) -> MemberView {
        let mut grants = grants.remove(&member.user_id).unwrap_or_default();
        let first_key = first_key(&grants);
        let (mut devices, mut unreachable) = (Vec::with_capacity(known.len()), Vec::new());
        for device in known {
            let key = (device.user_id.clone(), device.device_id.clone());
            let held = grants.remove(&key.1).unwrap_or_default();
            let view = device_view(device, company.is_device_blocked(&key.0, &key.1), held);
            match self.unreachable.contains(&key) {
                true => unreachable.push(view),
                false => devices.push(view),
            }
            self.devices.insert(key, device.clone());
        }
        MemberView {
            orphaned: orphaned(&grants).collect(),
            user_id: member.user_id,
            membership: member.membership,
            user,
            standing,
            since: member.since,
            tick: member.tick,
            devices,
            unreachable,
            first_key,
            settled: false,
        }
    }
}

/// Keys that were given before an administrator had them given once more count as lost. That they may be held still
/// counts.
fn give_once_more(grants: &mut Grants, orders: &Orders) {
    for (user, upto) in &orders.shares {
        let devices = grants.get_mut(user).into_iter().flat_map(BTreeMap::values_mut);
        for grant in devices.flat_map(BTreeMap::values_mut) {
            if grant.granted_at <= *upto {
                grant.message_index = u32::MAX;
            }
        }
    }
}

/// Sessions that devices hold which the homeserver does not list any more.
fn orphaned(grants: &GrantsOfUser) -> impl Iterator<Item = String> {
    grants.values().flat_map(|sessions| sessions.keys().cloned())
}

fn first_key(grants: &GrantsOfUser) -> Option<i64> {
    grants.values().flat_map(BTreeMap::values).filter_map(|grant| grant.sent_tick).min()
}

/// What policy weighs of a device of somebody's; `blocked` is whether an administrator blocked it.
pub(super) fn device_facts(device: &KnownDevice, blocked: bool) -> DeviceFacts {
    DeviceFacts {
        known: true,
        deleted: device.deleted,
        cross_signed_by_owner: device.cross_signed,
        blocked: blocked || device.blocked,
        is_keeper_itself: false,
    }
}

fn device_view(device: &KnownDevice, blocked: bool, grants: BTreeMap<String, Grant>) -> DeviceView {
    DeviceView {
        device_id: device.device_id.clone(),
        facts: device_facts(device, blocked),
        first_seen: device.first_seen,
        grants,
    }
}

/// What the session of a tuple is kept under.
pub fn session_scope<'a>(rules: &Rules, tuple: &'a StateTuple) -> Option<&'a StateTuple> {
    match rules.session_scope {
        SessionScope::Tuple => Some(tuple),
        SessionScope::Room => None,
    }
}

/// Whether a session is too old, or has encrypted too much, to go on. One that has encrypted nothing is not too old:
/// nothing is gained by another in its place.
pub fn worn(session: &SessionRow, rules: &Rules, now: i64) -> Option<Retired> {
    if session.messages >= rules.rotation_messages {
        return Some(Retired::Messages);
    }
    let old = now.saturating_sub(session.created_at) >= rules.rotation_age;
    (old && session.messages > 0).then_some(Retired::Age)
}

/// A tuple as a decision at `now` (milliseconds) sees it: with the session that would encrypt next, and since when that
/// of its sealed value does not.
pub fn tuple_view(
    row: TupleRow,
    (active, over): (Option<SessionRow>, Option<Over>),
    keeper: &UserId,
    rules: &Rules,
    now: i64,
) -> TupleView {
    let wear = active.as_ref().and_then(|session| worn(session, rules, now));
    let worn = active.as_ref().and_then(|session| Some((session.session_id.clone(), wear?)));
    let active = active.filter(|_| wear.is_none());
    let used = active.as_ref().filter(|session| session.messages > 0);
    let wears_out_at = used.map(|session| session.created_at.saturating_add(rules.rotation_age));
    let active = active
        .map(|session| (session.session_id, u32::try_from(session.messages).unwrap_or(u32::MAX)));
    let keepers = row.current_sender.as_deref() == Some(keeper);
    let current = row.current_event_id.clone();
    let stands = |sealed: &SealedValue| keepers || current.as_ref() == Some(&sealed.event_id);
    TupleView {
        source: row.source.as_ref().map(source_view),
        sealed: row.sealed.map(|sealed| SealedView {
            stands: stands(&sealed),
            from: sealed.from,
            session_id: sealed.session_id,
            message_index: sealed.message_index,
            tick: sealed.tick,
        }),
        active,
        worn,
        over,
        wears_out_at,
        current_fit: row.current_fit,
        breach: None,
        plain: None,
        may_write_plain: false,
        redacted: row.redacted,
        refreshed_at: row.refreshed_at,
        device_refresh_at: row.device_refresh_at,
        tuple: row.tuple,
    }
}

/// A value as a decision sees it.
pub(super) fn source_view(source: &SourceValue) -> SourceView {
    SourceView {
        event_id: source.event_id.clone(),
        at: source.at,
        tick: source.tick,
        unsaid: source.form == Form::Own,
    }
}

/// A tuple with the rule that what it shows has broken. A value whose meaning hangs on its sender is the keeper's to say
/// only where it repairs what somebody else did to its owner's key, and for as long as that stands.
pub fn enforced(mut view: TupleView, breach: Option<Breach>, rules: &Rules) -> TupleView {
    view.breach = breach;
    if rules.sender_bound.binds(&view.tuple) {
        let wronged = view.breach.as_ref().is_some_and(|breach| breach.rule != Rule::Timestamp);
        // Also what its owner said since: the keeper's repair may have landed on it.
        let repaired = view.sealed.as_ref().is_some_and(|sealed| sealed.stands);
        let repairs = !rules.sender_bound.binds_type(&view.tuple.event_type);
        view.source = view.source.filter(|_| repairs && (wronged || repaired));
    }
    view
}
