//! The decisions, case by case, and what holds for all of them.

mod asked;
mod plain;
mod rest;
mod restore;
mod rotation;

use proptest::prelude::*;
use ruma::{event_id, owned_device_id, owned_event_id};

use super::*;
use crate::{
    config::Config,
    keeper::rules::Rules,
    policy::{MemberPolicy, WithheldCode, Word},
    state::PowerLevel,
};

const NOW: i64 = 1_000_000;

fn rules() -> Rules {
    let config = Config::from_yaml_for_test(
        "homeserver: { address: \"http://127.0.0.1:1\", domain: \"localhost\" }\n\
         appservice: { listen: \"127.0.0.1:2\", address: \"http://127.0.0.1:2\", \
         registration: \"r.yaml\", \
         bot: { localpart: \"statekeeper\" } }\n\
         store: { url: \"sqlite:a.db\", passphrase: \"x\" }\n",
    );
    Rules::new(&config.unwrap())
}

fn signed() -> DeviceFacts {
    DeviceFacts {
        known: true,
        deleted: false,
        cross_signed_by_owner: true,
        blocked: false,
        is_keeper_itself: false,
    }
}

fn device(id: &str) -> DeviceView {
    DeviceView { device_id: id.into(), facts: signed(), first_seen: 1, grants: BTreeMap::new() }
}

fn grant(message_index: u32, sent_at: i64, sent_tick: i64) -> Grant {
    let (sent_at, sent_tick) = (Some(sent_at), Some(sent_tick));
    Grant { message_index, sent_at, sent_tick, granted_at: 1, asked: false }
}

fn holding(id: &str, index: u32, sent_at: i64, sent_tick: i64) -> DeviceView {
    let grant = grant(index, sent_at, sent_tick);
    DeviceView { grants: BTreeMap::from([("session".to_owned(), grant)]), ..device(id) }
}

fn member(name: &str, membership: Membership, devices: Vec<DeviceView>) -> MemberView {
    MemberView {
        user_id: format!("@{name}:localhost").try_into().unwrap(),
        membership,
        user: UserFacts::ADMITTED,
        standing: MemberFacts::of(Some(membership)),
        since: 500,
        tick: 50,
        devices,
        unreachable: vec![],
        orphaned: BTreeSet::new(),
        first_key: None,
        settled: true,
    }
}

/// A name that the keeper sealed at tick 10, index 4, long ago.
fn sealed_name() -> TupleView {
    TupleView {
        tuple: StateTuple::new("m.room.name", ""),
        source: Some(SourceView {
            event_id: owned_event_id!("$source"),
            at: 100,
            tick: 5,
            unsaid: false,
        }),
        sealed: Some(SealedView {
            from: owned_event_id!("$source"),
            session_id: "session".to_owned(),
            message_index: 4,
            tick: 10,
            stands: true,
        }),
        active: Some(("session".to_owned(), 5)),
        worn: None,
        over: None,
        wears_out_at: None,
        current_fit: true,
        breach: None,
        plain: None,
        may_write_plain: true,
        redacted: false,
        refreshed_at: 0,
        device_refresh_at: 0,
    }
}

fn renamed() -> TupleView {
    let source = SourceView {
        event_id: owned_event_id!("$newer"),
        at: NOW - 10_000,
        tick: 60,
        unsaid: false,
    };
    TupleView { source: Some(source), ..sealed_name() }
}

fn room(members: Vec<MemberView>, tuples: Vec<TupleView>) -> Knowledge {
    Knowledge {
        may_redact: true,
        sayable: Vec::new(),
        forged: vec![],
        owed: vec![],
        exempt: vec![],
        elevated: true,
        whole_room: true,
        members,
        previewers: Vec::new(),
        tuples,
        departed: BTreeSet::new(),
        requests: Vec::new(),
        refresh_upto: 0,
    }
}

fn recipients(plan: &Plan) -> Vec<(String, Reason)> {
    let to = plan.shares.iter().flat_map(|share| &share.recipients);
    to.map(|to| (to.device_id.to_string(), to.reason)).collect()
}

#[test]
fn a_joiner_is_given_the_key_and_then_shown_the_value_anew() {
    let known = room(vec![member("bob", Membership::Join, vec![device("B")])], vec![sealed_name()]);
    let plan = decide(&known, &rules(), NOW);
    assert_eq!(recipients(&plan), [("B".to_owned(), Reason::Join)]);
    assert_eq!((plan.seals.len(), plan.seals[0].cause), (1, Cause::Join));
    assert_eq!(plan.seals[0].recipients, plan.shares[0].recipients, "the key goes first");
}

#[test]
fn a_joiner_gets_the_key_at_once_though_the_refresh_has_to_wait() {
    let bob = || vec![member("bob", Membership::Join, vec![device("B")])];
    let lately = TupleView { refreshed_at: NOW - 1, ..sealed_name() };
    let plan = decide(&room(bob(), vec![lately]), &rules(), NOW);
    assert_eq!((plan.shares.len(), plan.seals.len()), (1, 0));
    let worn = TupleView { active: None, ..sealed_name() };
    let plan = decide(&room(bob(), vec![worn]), &rules(), NOW);
    assert_eq!((plan.shares.len(), plan.seals.len()), (1, 0), "a new session takes longer");
}

#[test]
fn silence_about_a_value_ends_with_the_first_who_lacks_its_key() {
    let source = SourceView {
        event_id: owned_event_id!("$echo"),
        at: NOW + 60_000,
        tick: 60,
        unsaid: false,
    };
    let silent = TupleView { source: Some(source), ..sealed_name() };
    let there = member("alice", Membership::Join, vec![holding("A", 4, 400, 20)]);
    let plan = decide(&room(vec![there.clone()], vec![silent.clone()]), &rules(), NOW);
    assert!(plan.is_idle() && plan.again_at.is_some_and(|at| at > NOW + 60_000));
    let joiner = MemberView { tick: 61, ..member("bob", Membership::Join, vec![device("B")]) };
    let plan = decide(&room(vec![there, joiner], vec![silent]), &rules(), NOW);
    assert_eq!((plan.seals.len(), plan.seals[0].cause), (1, Cause::Reseal));
}

#[test]
fn a_joiner_who_got_the_key_after_the_join_is_shown_the_value_anew() {
    let bob = member("bob", Membership::Join, vec![holding("B", 4, 600, 70)]);
    let plan = decide(&room(vec![bob], vec![sealed_name()]), &rules(), NOW);
    assert_eq!(plan.seals.len(), 1);
    assert_eq!(plan.seals[0].cause, Cause::Join);
    assert!(plan.seals[0].recipients.is_empty(), "the session goes on: everybody has it");
}

#[test]
fn a_joiner_who_had_the_key_before_the_join_needs_no_refresh() {
    let bob = member("bob", Membership::Join, vec![holding("B", 4, 400, 20)]);
    assert!(decide(&room(vec![bob], vec![sealed_name()]), &rules(), NOW).is_idle());
}

#[test]
fn a_key_that_left_in_the_very_millisecond_of_the_join_counts_as_late() {
    let bob = member("bob", Membership::Join, vec![holding("B", 4, 500, 20)]);
    assert_eq!(decide(&room(vec![bob], vec![sealed_name()]), &rules(), NOW).seals.len(), 1);
}

#[test]
fn an_invitee_gets_the_aesthetic_keys_and_holds_no_seal_up() {
    let carol = || member("carol", Membership::Invite, vec![device("C")]);
    let widget = TupleView { tuple: StateTuple::new("im.widget", "1"), ..sealed_name() };
    let plan = decide(&room(vec![carol()], vec![sealed_name(), widget]), &rules(), NOW);
    assert_eq!(plan.shares.len(), 1, "the widget is none of an invitee's business");
    assert_eq!(recipients(&plan), [("C".to_owned(), Reason::Invite)]);

    let plan = decide(&room(vec![carol()], vec![renamed()]), &rules(), NOW);
    assert!(plan.seals[0].recipients.is_empty());
}

#[test]
fn a_rename_is_sealed_for_every_joined_device_that_lacks_the_session() {
    let alice = member("alice", Membership::Join, vec![holding("A", 0, 1, 1), device("A2")]);
    let plan = decide(&room(vec![alice], vec![renamed()]), &rules(), NOW);
    let seal = &plan.seals[0];
    assert_eq!(seal.cause, Cause::Reseal);
    let to: Vec<_> = seal.recipients.iter().map(|to| to.device_id.clone()).collect();
    assert_eq!(to, [owned_device_id!("A2")]);
}

#[test]
fn a_rename_waits_for_the_edits_that_follow_it() {
    let mut name = renamed();
    name.source.as_mut().unwrap().at = NOW;
    let plan = decide(&room(vec![], vec![name]), &rules(), NOW);
    assert!(plan.seals.is_empty());
    assert_eq!(plan.again_at, Some(NOW + rules().reseal_delay));
}

#[test]
fn a_new_session_needs_everybody() {
    let late = || vec![member("bob", Membership::Join, vec![holding("B", 4, 600, 70)])];
    let worn = || TupleView { active: None, ..sealed_name() };
    let partial = Knowledge { whole_room: false, ..room(late(), vec![worn()]) };
    let plan = decide(&partial, &rules(), NOW);
    assert!(plan.needs_whole_room && plan.seals.is_empty());
    let plan = decide(&room(late(), vec![worn()]), &rules(), NOW);
    assert_eq!(plan.seals[0].recipients.len(), 1);
}

#[test]
fn joins_in_a_short_window_share_one_refresh() {
    let bob = member("bob", Membership::Join, vec![holding("B", 4, 600, 70)]);
    let name = TupleView { refreshed_at: NOW - 1, ..sealed_name() };
    let plan = decide(&room(vec![bob], vec![name]), &rules(), NOW);
    assert!(plan.seals.is_empty());
    assert_eq!(plan.again_at, Some(NOW - 1 + rules().refresh_window));
}

#[test]
fn a_new_device_refreshes_the_aesthetic_tuples_once_an_interval() {
    let mut bob = member("bob", Membership::Join, vec![holding("NEW", 4, 600, 70)]);
    (bob.tick, bob.first_key) = (2, Some(3));
    let widget = TupleView { tuple: StateTuple::new("im.widget", "1"), ..sealed_name() };
    let plan = decide(&room(vec![bob.clone()], vec![sealed_name(), widget]), &rules(), NOW);
    assert_eq!(plan.seals.len(), 1);
    assert_eq!((plan.seals[0].tuple, plan.seals[0].cause), (0, Cause::Device));
    let name = TupleView { device_refresh_at: NOW - 1, ..sealed_name() };
    assert!(decide(&room(vec![bob], vec![name]), &rules(), NOW).seals.is_empty());
}

#[test]
fn a_joiner_whom_a_seal_overtook_is_shown_every_value_anew() {
    // The join was taken in before the seal went out, and the key came after it.
    let mut bob = member("bob", Membership::Join, vec![holding("B", 4, 600, 70)]);
    bob.tick = 9;
    bob.first_key = Some(70);
    let widget = TupleView { tuple: StateTuple::new("im.widget", "1"), ..sealed_name() };
    let plan = decide(&room(vec![bob], vec![sealed_name(), widget]), &rules(), NOW);
    assert_eq!(plan.seals.iter().map(|seal| seal.cause).collect::<Vec<_>>(), [Cause::Join; 2]);
}

#[test]
fn an_old_device_that_got_a_key_late_is_not_taken_for_a_new_one() {
    let mut device = holding("B", 4, 600, 70);
    let earlier = grant(0, 1, 2);
    device.grants.insert("another".to_owned(), earlier);
    let mut bob = member("bob", Membership::Join, vec![device]);
    (bob.tick, bob.first_key) = (1, Some(2));
    let plan = decide(&room(vec![bob], vec![sealed_name()]), &rules(), NOW);
    assert_eq!(plan.seals[0].cause, Cause::Join);
}

#[test]
fn what_cannot_be_read_is_never_sealed_over_or_refreshed_over() {
    let bob = || member("bob", Membership::Join, vec![holding("B", 4, 600, 70)]);
    for tuple in [
        TupleView { current_fit: false, ..sealed_name() },
        TupleView { current_fit: false, ..renamed() },
        TupleView { redacted: true, ..sealed_name() },
        TupleView { redacted: true, ..renamed() },
    ] {
        assert!(decide(&room(vec![bob()], vec![tuple]), &rules(), NOW).is_idle());
    }
}

#[test]
fn a_sealed_value_that_somebody_replaced_is_handed_to_nobody() {
    let mut name = sealed_name();
    name.sealed.as_mut().unwrap().stands = false;
    let bob = member("bob", Membership::Join, vec![device("B")]);
    assert!(decide(&room(vec![bob], vec![name]), &rules(), NOW).is_idle());
}

#[test]
fn without_power_keys_are_handed_over_and_nothing_is_sealed() {
    let bob = member("bob", Membership::Join, vec![device("B")]);
    let known = Knowledge { elevated: false, ..room(vec![bob], vec![sealed_name(), renamed()]) };
    let plan = decide(&known, &rules(), NOW);
    assert_eq!((plan.shares.len(), plan.seals.len()), (1, 0));
}

#[test]
fn an_unsigned_device_gets_nothing_and_is_told_why_in_the_ledger() {
    let mut unsigned = device("U");
    unsigned.facts.cross_signed_by_owner = false;
    let bob = member("bob", Membership::Join, vec![unsigned]);
    let plan = decide(&room(vec![bob], vec![sealed_name()]), &rules(), NOW);
    assert!(plan.shares.is_empty());
    assert_eq!(plan.refusals[0].2, Entitlement::Withhold(WithheldCode::Unverified));
}

#[test]
fn a_session_known_to_a_device_that_lost_its_signature_is_retired() {
    let mut unsigned = holding("U", 4, 400, 20);
    unsigned.facts.cross_signed_by_owner = false;
    let bob = member("bob", Membership::Join, vec![unsigned]);
    let plan = decide(&room(vec![bob], vec![sealed_name()]), &rules(), NOW);
    assert!(plan.retire.contains_key("session"));
}

#[test]
fn a_session_known_to_a_device_that_is_gone_is_retired() {
    let mut bob = member("bob", Membership::Join, vec![holding("B", 4, 400, 20)]);
    bob.orphaned.insert("session".to_owned());
    let plan = decide(&room(vec![bob], vec![sealed_name()]), &rules(), NOW);
    assert!(plan.retire.contains_key("session"));
}

fn is_served(member: MemberView, rules: &Rules) -> bool {
    !decide(&room(vec![member], vec![sealed_name()]), rules, NOW).shares.is_empty()
}

#[test]
fn a_member_whose_identity_changed_is_held_and_what_he_held_is_retired() {
    let mut bob = member("bob", Membership::Join, vec![holding("B", 4, 400, 20)]);
    bob.user.identity_changed = true;
    let plan = decide(&room(vec![bob.clone()], vec![sealed_name()]), &rules(), NOW);
    assert_eq!(plan.holds, [(bob.user_id, HoldReason::IdentityChanged)]);
    assert!(plan.retire.contains_key("session") && plan.shares.is_empty());
}

#[test]
fn a_blocked_user_loses_the_session_and_is_no_hold() {
    let mut bob = member("bob", Membership::Join, vec![holding("B", 4, 400, 20)]);
    bob.user.blocked = true;
    let plan = decide(&room(vec![bob], vec![sealed_name()]), &rules(), NOW);
    assert!(plan.retire.contains_key("session") && plan.holds.is_empty());
    assert_eq!(plan.refusals[0].2, Entitlement::Withhold(WithheldCode::Blacklisted));
}

#[test]
fn under_approved_everybody_is_held_who_has_no_word() {
    let mut rules = rules();
    rules.sharing.members = MemberPolicy::Approved;
    let bob = || member("bob", Membership::Join, vec![device("B")]);
    let plan = decide(&room(vec![bob()], vec![sealed_name()]), &rules, NOW);
    assert_eq!(plan.holds, [(bob().user_id, HoldReason::AwaitsApproval)]);
    assert!(plan.shares.is_empty() && plan.seals.is_empty());
    let mut approved = bob();
    approved.standing.word = Some(Word::Approved);
    assert!(is_served(approved, &rules));
}

#[test]
fn a_held_member_without_any_device_is_shown_as_well() {
    let mut rules = rules();
    rules.sharing.members = MemberPolicy::Vouched(PowerLevel::Level(50));
    let bob = member("bob", Membership::Join, vec![]);
    let plan = decide(&room(vec![bob], vec![]), &rules, NOW);
    assert_eq!(plan.holds[0].1, HoldReason::NotVouched);
}

#[test]
fn where_devices_have_to_ask_nobody_is_given_a_key_unasked() {
    let rules = Rules { unasked: false, ..rules() };
    for membership in [Membership::Join, Membership::Invite] {
        assert!(!is_served(member("bob", membership, vec![device("B")]), &rules));
    }
    let alice = member("alice", Membership::Join, vec![device("A")]);
    let plan = decide(&room(vec![alice], vec![renamed()]), &rules, NOW);
    assert!(plan.seals[0].recipients.is_empty(), "the value is sealed all the same");
    // Who asked and got the key after the event still has to see it.
    let bob = member("bob", Membership::Join, vec![holding("B", 4, 600, 70)]);
    let plan = decide(&room(vec![bob], vec![sealed_name()]), &rules, NOW);
    assert_eq!(plan.seals.len(), 1);
}

#[test]
fn on_need_waits_until_somebody_comes_who_lacks_the_key() {
    let rules = Rules { reseal: Reseal::OnNeed, ..rules() };
    let mut alice = member("alice", Membership::Join, vec![device("A")]);
    alice.tick = 1;
    let mut name = renamed();
    name.sealed.as_mut().unwrap().stands = false;
    let plan = decide(&room(vec![alice.clone()], vec![name.clone()]), &rules, NOW);
    assert!(plan.seals.is_empty(), "alice was there when the name came");
    let mut bob = member("bob", Membership::Join, vec![device("B")]);
    bob.tick = 61;
    let plan = decide(&room(vec![alice, bob], vec![name]), &rules, NOW);
    assert_eq!(plan.seals.len(), 1);
}

#[test]
fn on_need_does_not_wait_where_the_keeper_s_own_event_hides_the_value() {
    let rules = Rules { reseal: Reseal::OnNeed, ..rules() };
    let mut hidden = renamed();
    assert_eq!(decide(&room(vec![], vec![hidden.clone()]), &rules, NOW).seals.len(), 1);
    hidden.sealed.as_mut().unwrap().stands = false;
    assert!(decide(&room(vec![], vec![hidden]), &rules, NOW).is_idle());
}

#[test]
fn on_need_does_not_wait_with_a_value_that_stands_in_no_event() {
    let rules = Rules { reseal: Reseal::OnNeed, ..rules() };
    let mut new = TupleView { sealed: None, active: None, ..renamed() };
    assert!(decide(&room(vec![], vec![new.clone()]), &rules, NOW).is_idle());
    new.source.as_mut().unwrap().unsaid = true;
    assert_eq!(decide(&room(vec![], vec![new]), &rules, NOW).seals.len(), 1);
}

fn any_device() -> impl Strategy<Value = DeviceView> {
    let grant = (0u32..8, 0i64..1000, 0i64..100);
    (any::<bool>(), any::<bool>(), any::<bool>(), proptest::option::of(grant)).prop_map(
        |(cross_signed, blocked, deleted, grant)| {
            let mut device = grant
                .map_or_else(|| device("D"), |(index, at, tick)| holding("D", index, at, tick));
            device.facts.cross_signed_by_owner = cross_signed;
            device.facts.blocked = blocked;
            device.facts.deleted = deleted;
            device
        },
    )
}

fn any_room() -> impl Strategy<Value = Knowledge> {
    let membership = prop_oneof![
        Just(Membership::Join),
        Just(Membership::Invite),
        Just(Membership::Leave),
        Just(Membership::Ban),
    ];
    let members = proptest::collection::vec((membership, any_device(), 0i64..100), 0..6);
    let tuple = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (members, tuple, any::<bool>(), any::<bool>()).prop_map(
        |(members, (newer, fit, redacted, stands), elevated, whole_room)| {
            let mut name = if newer { renamed() } else { sealed_name() };
            name.current_fit = fit;
            name.redacted = redacted;
            name.sealed.as_mut().unwrap().stands = stands;
            let members = members.into_iter().enumerate().map(|(n, (membership, device, tick))| {
                MemberView { tick, ..member(&format!("u{n}"), membership, vec![device]) }
            });
            Knowledge { elevated, whole_room, ..room(members.collect(), vec![name]) }
        },
    )
}

proptest! {
    #[test]
    fn no_key_is_planned_for_a_device_that_is_not_entitled(known in any_room()) {
        let plan = decide(&known, &rules(), NOW);
        let to = plan.shares.iter().flat_map(|share| &share.recipients);
        for to in to.chain(plan.seals.iter().flat_map(|seal| &seal.recipients)) {
            let member = known.members.iter().find(|m| m.user_id == to.user_id).unwrap();
            let facts = &member.devices[0].facts;
            prop_assert!(facts.cross_signed_by_owner && !facts.blocked && !facts.deleted);
            prop_assert!(matches!(member.membership, Membership::Join | Membership::Invite));
        }
    }

    #[test]
    fn nothing_is_sealed_without_power_or_over_what_is_unfit_or_redacted(known in any_room()) {
        let plan = decide(&known, &rules(), NOW);
        let name = &known.tuples[0];
        if !known.elevated || !name.current_fit || name.redacted {
            prop_assert!(plan.seals.is_empty());
        }
    }

    #[test]
    fn once_all_is_done_nothing_is_left_to_do(known in any_room()) {
        // Perform the plan symbolically until it is idle; it has to become so.
        let mut known = Knowledge { whole_room: true, ..known };
        let rules = Rules { refresh_window: 0, device_refresh_interval: 0, ..rules() };
        let mut tick = 1000;
        for _ in 0..6 {
            let plan = decide(&known, &rules, NOW);
            if plan.shares.is_empty() && plan.seals.is_empty() {
                return Ok(());
            }
            tick += 10;
            let to: Vec<_> = plan.shares.iter().flat_map(|share| &share.recipients)
                .chain(plan.seals.iter().flat_map(|seal| &seal.recipients)).cloned().collect();
            let index = if plan.seals.is_empty() { 4 } else { 5 };
            for to in to {
                let member = known.members.iter_mut().find(|m| m.user_id == to.user_id).unwrap();
                let grant = grant(index, NOW, tick);
                let held = member.devices[0].grants.entry("session".to_owned()).or_insert(grant.clone());
                if held.message_index > index { *held = grant; }
            }
            if !plan.seals.is_empty() {
                let name = &mut known.tuples[0];
                let from = name.source.as_ref().unwrap().event_id.clone();
                name.sealed = Some(SealedView {
                    from, session_id: "session".to_owned(), message_index: 5, tick: tick + 1, stands: true,
                });
                name.active = Some(("session".to_owned(), 6));
            }
        }
        prop_assert!(false, "the keeper never comes to rest: {known:?}");
    }
}

#[test]
fn the_event_that_a_seal_stands_for_is_what_is_compared() {
    assert_ne!(event_id!("$source"), event_id!("$newer"));
    let plan = decide(&room(vec![], vec![renamed()]), &rules(), NOW);
    assert_eq!(plan.seals.len(), 1);
    assert!(decide(&room(vec![], vec![sealed_name()]), &rules(), NOW).is_idle());
}
