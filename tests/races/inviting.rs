//! Inviting: whoever may join is invited once, with what the members share of the room's history, and a no is a no.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    races::stage::{NAME, Stage},
    simulated::{Fault, RoomRef, Trust, UserRef, World, keeper::merge, sim::PATIENCE},
};

const ALICE: &str = "@alice:localhost";

/// A keeper that follows one space of Alice's, and invites into its rooms.
async fn inviting() -> (Stage, RoomRef) {
    inviting_as(json!({ "invite": "all" }), json!({})).await
}

/// The same as the space's `entry` in the configuration says, and the `settings` beside it.
async fn inviting_as(entry: Value, settings: Value) -> (Stage, RoomRef) {
    let mut stage = Stage::prepare(settings).await;
    let space = stage.sim.room().space().create();
    let mut named = json!({ "room": space.room_id });
    merge(&mut named, &entry);
    stage.keeper.configure(&json!({ "spaces": [named] }));
    stage.keeper.start().await;
    joined(&stage, &space).await;
    (stage, space)
}

async fn joined(stage: &Stage, room: &RoomRef) {
    let is_in = |world: &mut World| world.room(&room.room_id).membership(&world.keeper()) == "join";
    stage.sim.wait_for("the keeper joins", is_in).await;
}

/// A room of Alice's that the space lists, with a name that the keeper sealed.
async fn child(stage: &Stage, space: &RoomRef, suggested: bool) -> RoomRef {
    let room = stage.sim.room().restricted_to(&[&space.room_id]).create();
    room.set_power(&stage.sim.keeper(), 100);
    let link = json!({ "via": ["localhost"], "suggested": suggested });
    space.put_state(ALICE, ("m.space.child", &room.room_id), link);
    joined(stage, &room).await;
    stage.name(&room, "Tea").await;
    room
}

fn membership(world: &World, room: &RoomRef, user: &UserRef) -> String {
    world.room(&room.room_id).membership(&user.user_id).to_owned()
}

async fn is(stage: &Stage, room: &RoomRef, user: &UserRef, wanted: &str) {
    let what = format!("{} is {wanted}", user.user_id);
    stage.sim.wait_for(&what, |world| membership(world, room, user) == wanted).await;
}

/// How many invites the keeper has asked for.
fn invites(world: &World) -> usize {
    world.requests.to("invite").count()
}

/// Somebody new comes into the space and is invited: so was everybody who was to be before him.
async fn a_late_comer_is_invited(stage: &Stage, space: &RoomRef, room: &RoomRef, name: &str) {
    let late = stage.sim.user(name).create();
    stage.sim.join(space, &late.user_id);
    is(stage, room, &late, "invite").await;
}

#[tokio::test]
async fn whoever_comes_into_the_space_is_invited_with_what_was_said_before() {
    let (stage, space) = inviting().await;
    let room = child(&stage, &space, false).await;
    let message = stage.alice_device().send_message(&room, "before him");
    let secret = stage.alice_device().send_unshared(&room, "for those who were there");
    stage.settle(&room, "both are sent").await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&space, "bob");
    is(&stage, &room, &bob, "invite").await;
    assert!(bob.device(1).reads_history(&room, &message));
    assert!(!bob.device(1).reads_history(&room, &secret), "it was not marked as shared history");
    let bundle = bob.device(1).bundle(&room).unwrap();
    let invited = stage.sim.with(|world| {
        let room = world.room(&room.room_id);
        room.current("m.room.member", "@bob:localhost").unwrap().tick
    });
    assert!(bundle.tick < invited, "the bundle comes first");
    // The keeper's own sessions are not in it.
    let sealed = stage.sim.with(|world| world.keeper_seal(&room.room_id, NAME).unwrap());
    assert!(bundle.open(sealed.sent_content()).is_err());
    stage.keeper.wait_for_metric("statekeeper_bundles_sent_total", 1.0).await;
}

#[tokio::test]
async fn a_room_is_suggested_or_it_is_not() {
    let (stage, space) = inviting_as(json!({ "invite": "suggested" }), json!({})).await;
    let other = child(&stage, &space, false).await;
    let room = child(&stage, &space, true).await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&space, "bob");
    is(&stage, &room, &bob, "invite").await;
    a_late_comer_is_invited(&stage, &space, &room, "carol").await;
    assert_eq!(stage.sim.with(|world| membership(world, &other, &bob)), "leave");
    // It is suggested from now on.
    let link = json!({ "via": ["localhost"], "suggested": true });
    space.put_state(ALICE, ("m.space.child", &other.room_id), link);
    is(&stage, &other, &bob, "invite").await;
}

#[tokio::test]
async fn members_read_nothing_from_before_them_where_the_room_says_so() {
    for visibility in ["joined", "invited"] {
        let (stage, space) = inviting().await;
        let room = child(&stage, &space, false).await;
        stage.alice_device().send_message(&room, "before him");
        let content = json!({ "history_visibility": visibility });
        room.put_state(ALICE, ("m.room.history_visibility", ""), content);
        stage.settle(&room, "it holds").await;
        let bob = stage.sim.user("bob").create();
        stage.sim.join(&space, "bob");
        is(&stage, &room, &bob, "invite").await;
        assert!(bob.device(1).bundle(&room).is_none(), "{visibility}");
        assert_eq!(stage.sim.with(|world| world.requests.to("upload").count()), 0);
    }
}

#[tokio::test]
async fn invitees_of_a_short_window_share_an_upload_until_new_history_comes_in() {
    let (stage, space) = inviting().await;
    let room = child(&stage, &space, false).await;
    let people: Vec<UserRef> =
        (0..6).map(|number| stage.sim.user(&format!("user{number}")).create()).collect();
    for user in &people[..5] {
        stage.sim.join(&space, &user.user_id);
        is(&stage, &room, user, "invite").await;
    }
    assert_eq!(stage.sim.with(|world| world.requests.to("upload").count()), 1);
    let first = people[0].device(1).bundle(&room).unwrap();
    assert_eq!(people[4].device(1).bundle(&room).unwrap().url, first.url);
    stage.alice_device().rotate(&room);
    let message = stage.alice_device().send_message(&room, "under a new session");
    stage.settle(&room, "the keeper has its key").await;
    stage.sim.join(&space, &people[5].user_id);
    is(&stage, &room, &people[5], "invite").await;
    assert!(people[5].device(1).reads_history(&room, &message));
    assert!(!people[4].device(1).reads_history(&room, &message));
    assert_eq!(stage.sim.with(|world| world.requests.to("upload").count()), 2);
}

#[tokio::test]
async fn whoever_declined_or_was_put_out_is_not_invited_again() {
    let (mut stage, space) = inviting().await;
    let room = child(&stage, &space, false).await;
    let (bob, carol) = (stage.sim.user("bob").create(), stage.sim.user("carol").create());
    for user in [&bob, &carol] {
        stage.sim.join(&space, &user.user_id);
        is(&stage, &room, user, "invite").await;
    }
    room.leave("bob");
    stage.sim.join(&room, "carol");
    room.membership(ALICE, "carol", "leave");
    stage.settle(&room, "both are out").await;
    // Neither a new device, nor coming again, nor a restart changes it.
    stage.sim.add_device("bob", 2, Trust::CrossSigned);
    space.leave("carol");
    stage.sim.join(&space, "carol");
    a_late_comer_is_invited(&stage, &space, &room, "dan").await;
    stage.keeper.kill();
    stage.keeper.start().await;
    a_late_comer_is_invited(&stage, &space, &room, "erin").await;
    for user in [&bob, &carol] {
        assert_eq!(stage.sim.with(|world| membership(world, &room, user)), "leave");
    }
    assert_eq!(stage.sim.with(|world| invites(world)), 4);
}

#[tokio::test]
async fn nobody_is_invited_who_is_blocked_or_lacks_a_signed_device() {
    let (stage, space) = inviting().await;
    let room = child(&stage, &space, false).await;
    stage.alice_device().send_message(&room, "before them");
    stage.settle(&room, "it is sent").await;
    let bob = stage.sim.user("bob").create();
    let (status, out, err) = stage.keeper.command("block", &["@bob:localhost"]);
    assert_eq!(status, Some(0), "{out}{err}");
    let carol = stage.sim.user("carol").cross_signed(false).create();
    stage.sim.join(&space, "bob");
    stage.sim.join(&space, "carol");
    a_late_comer_is_invited(&stage, &space, &room, "dan").await;
    for user in [&bob, &carol] {
        assert_eq!(stage.sim.with(|world| membership(world, &room, user)), "leave");
        assert!(user.device(1).bundle(&room).is_none());
    }
    // Her device is signed: it is worth the wait.
    carol.device(1).cross_sign();
    is(&stage, &room, &carol, "invite").await;
    assert!(carol.device(1).bundle(&room).is_some());
}

#[tokio::test]
async fn whoever_leaves_the_space_before_his_invite_is_sent_is_not_invited() {
    for killed in [false, true] {
        let (mut stage, space) = inviting().await;
        let room = child(&stage, &space, false).await;
        let bob = stage.sim.user("bob").create();
        let fault = if killed { Fault::Hang } else { Fault::Status(500) };
        stage.sim.fault("invite", fault, 1);
        stage.sim.join(&space, "bob");
        asked(&stage, "invite", 1).await;
        if killed {
            stage.keeper.kill();
        }
        space.leave("bob");
        if killed {
            stage.keeper.start().await;
        }
        // His device is new, so that he is looked at once more where he still waits.
        stage.sim.add_device("bob", 2, Trust::CrossSigned);
        a_late_comer_is_invited(&stage, &space, &room, "carol").await;
        a_late_comer_is_invited(&stage, &space, &room, "dan").await;
        // A keeper that starts may look at what it was about before it hears that he left: then it is withdrawn.
        is(&stage, &room, &bob, "leave").await;
        let sent = stage.sim.with(|world| invites(world));
        assert!(sent == 3 || killed && sent == 4, "{killed}: {sent}");
    }
}

#[tokio::test]
async fn an_invite_of_the_keepers_is_withdrawn_when_its_user_leaves_the_space() {
    let (stage, space) = inviting().await;
    let room = child(&stage, &space, false).await;
    let (bob, carol) = (stage.sim.user("bob").create(), stage.sim.user("carol").create());
    for user in [&bob, &carol] {
        stage.sim.join(&space, &user.user_id);
        is(&stage, &room, user, "invite").await;
    }
    // Alice's own invites are hers.
    let dan = stage.sim.user("dan").create();
    room.invite("dan");
    stage.sim.join(&space, "dan");
    stage.sim.hold("kick");
    space.leave("bob");
    space.leave("carol");
    space.leave("dan");
    asked(&stage, "kick", 1).await;
    // She comes back before it is done.
    stage.sim.join(&space, "carol");
    stage.settle(&room, "all of that is heard of").await;
    stage.sim.release("kick");
    is(&stage, &room, &bob, "leave").await;
    stage.name(&room, "Coffee").await;
    let opens = |world: &mut World, user: &UserRef| {
        let event = world.keeper_seal(&room.room_id, NAME).unwrap();
        world.open(user.device(1).id(), &event).is_ok()
    };
    stage.sim.wait_for("carol reads it", |world| opens(world, &carol)).await;
    assert!(!stage.sim.with(|world| opens(world, &bob)), "he is out of the space");
    assert_eq!(stage.sim.with(|world| membership(world, &room, &dan)), "invite");
}

/// Waits until the keeper has asked so often for this.
async fn asked(stage: &Stage, endpoint: &'static str, times: usize) {
    let what = format!("{endpoint} is asked for");
    stage.sim.wait_for(&what, |world| world.requests.to(endpoint).count() >= times).await;
}

#[tokio::test]
async fn a_kill_at_any_step_leaves_one_invite_and_one_bundle_that_is_read() {
    for endpoint in ["upload", "sendToDevice", "invite"] {
        for done in [false, true] {
            let entry = json!({ "invite": "all", "preview": "none" });
            let (mut stage, space) = inviting_as(entry, json!({})).await;
            let room = child(&stage, &space, false).await;
            let message = stage.alice_device().send_message(&room, "before him");
            stage.settle(&room, "it is sent").await;
            let bob = stage.sim.user("bob").create();
            let asked_before = stage.sim.with(|world| world.requests.to(endpoint).count());
            let fault = if done { Fault::DoneThenHang } else { Fault::Hang };
            stage.sim.fault(endpoint, fault, 1);
            stage.sim.join(&space, "bob");
            asked(&stage, endpoint, asked_before + 1).await;
            if done && endpoint == "invite" {
                is(&stage, &room, &bob, "invite").await;
            }
            stage.keeper.kill();
            stage.keeper.start().await;
            is(&stage, &room, &bob, "invite").await;
            assert!(bob.device(1).reads_history(&room, &message), "{endpoint} {done}");
            a_late_comer_is_invited(&stage, &space, &room, "carol").await;
            let events = stage.sim.with(|world| {
                let timeline = world.room(&room.room_id).timeline.iter();
                timeline
                    .filter(|event| {
                        event.state_key.as_deref() == Some("@bob:localhost")
                            && event.event_type == "m.room.member"
                    })
                    .count()
            });
            assert_eq!(events, 1, "{endpoint} {done}: he is invited once");
            let repeated = stage.sim.with(|world| world.repeated.clone());
            assert!(repeated.iter().all(|request| request.same_body), "{endpoint} {done}");
        }
    }
}

#[tokio::test]
async fn whoever_knocks_is_let_in_where_the_organisation_says_so_and_nobody_put_him_out() {
    let access = json!({ "access": { "accept_knocks_from": ["@b*:localhost", "@dan:localhost"] } });
    let (stage, _) = inviting_as(json!({}), access).await;
    let room = stage.sim.room().invite_only().create();
    stage.invite_keeper(&room).await;
    stage.name(&room, "Tea").await;
    let message = stage.alice_device().send_message(&room, "before him");
    let (bob, carol) = (stage.sim.user("bob").create(), stage.sim.user("carol").create());
    let dan = stage.sim.user("dan").create();
    stage.sim.join(&room, "dan");
    room.membership(ALICE, "dan", "leave");
    for name in ["carol", "dan", "bob"] {
        room.membership(name, name, "knock");
    }
    is(&stage, &room, &bob, "invite").await;
    assert!(bob.device(1).reads_history(&room, &message));
    stage.settle(&room, "all are looked at").await;
    for user in [&carol, &dan] {
        assert_eq!(stage.sim.with(|world| membership(world, &room, user)), "knock");
    }
    // Whom somebody put out before the keeper came, it does not let in either.
    let other = stage.sim.room().invite_only().create();
    stage.sim.join(&other, "bob");
    other.membership(ALICE, "bob", "leave");
    stage.invite_keeper(&other).await;
    stage.name(&other, "Tea").await;
    for name in ["bob", "bill"] {
        other.membership(name, name, "knock");
    }
    let bill = stage.sim.user("bill").create();
    is(&stage, &other, &bill, "invite").await;
    stage.settle(&other, "both are looked at").await;
    assert_eq!(stage.sim.with(|world| membership(world, &other, &bob)), "knock");
    // He changes his mind twice: a knock after a no is his own wish.
    room.leave("bob");
    room.membership("bob", "bob", "knock");
    is(&stage, &room, &bob, "invite").await;
}

#[tokio::test]
async fn a_superseded_upload_is_removed_once_nobody_waits_for_it() {
    let (stage, space) = inviting().await;
    stage.sim.with(|world| world.keeper_is_administrator = true);
    let room = child(&stage, &space, false).await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&space, "bob");
    is(&stage, &room, &bob, "invite").await;
    stage.alice_device().rotate(&room);
    stage.alice_device().send_message(&room, "under a new session");
    stage.settle(&room, "the keeper has its key").await;
    a_late_comer_is_invited(&stage, &space, &room, "carol").await;
    assert_eq!(stage.sim.with(|world| world.files.len()), 2, "Bob may fetch his still");
    room.leave("bob");
    stage.settle(&room, "he said no").await;
    a_late_comer_is_invited(&stage, &space, &room, "dan").await;
    let deadline = Instant::now() + PATIENCE;
    while stage.sim.with(|world| world.files.len()) > 1 {
        assert!(Instant::now() < deadline, "the upload stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(bob.device(1).bundle(&room).is_none(), "it is his that is gone");
}

#[tokio::test]
async fn history_is_kept_for_those_who_are_invited_and_goes_where_nobody_is() {
    let kept = json!({ "state": { "member_keys_kept": "1s" } });
    let (stage, space) = inviting_as(json!({ "invite": "all" }), kept).await;
    let room = child(&stage, &space, false).await;
    let message = stage.alice_device().send_message(&room, "long ago");
    for _ in 0..3 {
        stage.alice_device().rotate(&room);
        stage.alice_device().send_message(&room, "later");
    }
    stage.settle(&room, "all are sent").await;
    // Longer than what is superseded is kept elsewhere: that it goes there is tested there.
    let elsewhere = stage.named_room("Coffee").await;
    let old = stage.alice_device().session_id(&elsewhere);
    stage.alice_device().rotate(&elsewhere);
    stage.alice_device().send_message(&elsewhere, "later");
    super::letting_go::goes(&stage, &elsewhere, &old).await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&space, "bob");
    is(&stage, &room, &bob, "invite").await;
    assert!(bob.device(1).reads_history(&room, &message));
}

/// A room of Alice's in which somebody said something before the keeper was there, and into which it comes by her invite.
async fn with_a_past(
    stage: &Stage,
    space: &RoomRef,
    gives: impl Fn(&RoomRef),
) -> (RoomRef, String) {
    let room = stage.sim.room().restricted_to(&[&space.room_id]).create();
    room.set_power(&stage.sim.keeper(), 100);
    let alice = stage.alice_device();
    alice.withhold(&room);
    let message = alice.send_message(&room, "before the keeper");
    gives(&room);
    room.invite(&stage.sim.keeper());
    joined(stage, &room).await;
    let link = json!({ "via": ["localhost"] });
    space.put_state(ALICE, ("m.space.child", &room.room_id), link);
    alice.rotate(&room);
    stage.name(&room, "Tea").await;
    (room, message)
}

#[tokio::test]
async fn the_history_that_the_keeper_was_given_is_handed_on() {
    let knocks = json!({ "access": { "accept_knocks_from": ["*:localhost"] } });
    let (stage, space) = inviting_as(json!({ "invite": "all" }), knocks).await;
    let alice = stage.alice_device();
    let (room, message) = with_a_past(&stage, &space, |room| alice.give_history(room)).await;
    let given =
        |room: &RoomRef| format!("the inviter gave the room's history room={}", room.room_id);
    stage.keeper.wait_for_log(&given(&room)).await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&space, "bob");
    is(&stage, &room, &bob, "invite").await;
    assert!(bob.device(1).reads_history(&room, &message));
    // It comes later than the invite was accepted.
    let (late, earlier) = with_a_past(&stage, &space, |_| ()).await;
    alice.give_history(&late);
    stage.keeper.wait_for_log(&given(&late)).await;
    let carol = stage.sim.user("carol").create();
    stage.sim.join(&space, "carol");
    is(&stage, &late, &carol, "invite").await;
    assert!(carol.device(1).reads_history(&late, &earlier));
}

#[tokio::test]
async fn nobody_gives_the_keeper_history_but_whoever_invited_it() {
    let (stage, space) = inviting().await;
    let mallory = stage.sim.user("mallory").create();
    let (room, message) = with_a_past(&stage, &space, |_| ()).await;
    stage.alice_device().give_key_to(&room, &mallory.device(1));
    let message_key = stage.sim.with(|world| {
        let held = world.device_mut("@mallory:localhost", "MALLORY1");
        held.room_keys.len()
    });
    assert_eq!(message_key, 1);
    mallory.device(1).give_history(&room);
    stage.sim.wait_for("the keeper hears of it", |world| world.keeper_heard_all()).await;
    let bob = stage.sim.user("bob").create();
    stage.sim.join(&space, "bob");
    is(&stage, &room, &bob, "invite").await;
    assert!(!bob.device(1).reads_history(&room, &message));
    assert_eq!(stage.sim.with(|world| world.requests.to("download").count()), 0);
}
