//! Lists that may be long, and how far the keeper is with a space.

use ruma::{OwnedRoomId, owned_room_id};

use super::*;
use crate::{
    policy::PreviewPolicy,
    state::StateTuple,
    store::{FollowedRow, SpaceRoomRow, TupleRow, previews, spaces, tuples},
};

/// More than any page shows of anything.
const MANY: usize = 450;

fn space() -> &'static RoomId {
    room_id!("!space:localhost")
}

/// How many rows the tables of a page have.
fn rows(page: &str) -> usize {
    page.matches("<th scope=\"row\"").count()
}

/// A room beneath the space, as it stands.
fn beneath(room_id: OwnedRoomId, status: &str) -> SpaceRoomRow {
    SpaceRoomRow {
        room_id,
        root_id: space().to_owned(),
        space_id: space().to_owned(),
        depth: 1,
        preview: PreviewPolicy::Aesthetic,
        invites: false,
        status: status.to_owned(),
        detail: None,
        attempts: 0,
        retry_at: 0,
    }
}

/// A site on which a space is followed that has these rooms.
async fn with_space(beneath: impl IntoIterator<Item = SpaceRoomRow>) -> Site {
    let site = Site::open().await;
    let mut db = site.store.begin().await.unwrap();
    let followed = FollowedRow {
        status: "followed".to_owned(),
        ..FollowedRow::new("#kitchen:localhost".to_owned(), Some(space().to_owned()))
    };
    spaces::put_followed(&mut db, &followed).await.unwrap();
    for row in beneath {
        spaces::put_room(&mut db, &row).await.unwrap();
    }
    db.commit().await.unwrap();
    site
}

/// What the page says of the space.
async fn said_of_space(site: &Site, cookie: &str) -> String {
    let page = site.get("spaces", cookie).await.body;
    let (_, after) = page.split_once("People to be provided for</dt><dd>").expect(&page);
    let mut said = String::new();
    let mut in_tag = false;
    for letter in after.split("</dl>").next().unwrap().chars() {
        match letter {
            '<' => in_tag = true,
            '>' => in_tag = false,
            letter if !in_tag => said.push(letter),
            _ => {}
        }
    }
    said
}

#[tokio::test]
async fn no_page_grows_with_how_many_are_held_and_it_says_how_many_more_there_are() {
    let site = Site::open().await;
    let mut db = site.store.begin().await.unwrap();
    for number in 0..MANY {
        let user = UserId::parse(format!("@user{number}:localhost")).unwrap();
        people::hold(&mut db, tea(), &user, HoldReason::AwaitsApproval, 2).await.unwrap();
        let tuple = StateTuple::new("org.example.seat", number.to_string());
        tuples::put(&site.store, &mut db, tea(), &TupleRow::new(tuple)).await.unwrap();
    }
    db.commit().await.unwrap();
    let cookie = site.log_in().await;
    let holds = site.get("holds", &cookie).await.body;
    assert_eq!(rows(&holds), 100);
    assert!(holds.contains("351 more are not shown here: <code>statekeeper"), "{holds}");
    assert!(holds.contains("@bob:localhost"), "he has waited for the longest");
    let room = site.get("room?id=!tea:localhost", &cookie).await.body;
    assert_eq!(rows(&room), 200);
    assert!(room.contains("351 more are not") && room.contains("350 more are not"), "{room}");
}

#[tokio::test]
async fn no_page_grows_with_a_space() {
    let rooms = (0..MANY).map(|number| {
        let room = RoomId::parse(format!("!room{number}:localhost")).unwrap();
        beneath(room, if number == 440 { "cannot_join" } else { "kept" })
    });
    let site = with_space(rooms).await;
    let cookie = site.log_in().await;
    let page = site.get("spaces", &cookie).await.body;
    assert_eq!(rows(&page), 200);
    assert!(page.contains("250 more are not shown here"), "{page}");
    assert!(page.contains("!room440:localhost"), "what needs a change comes first");
    let mut db = site.store.begin().await.unwrap();
    for number in 0..MANY {
        let name = format!("#space{number}:localhost");
        spaces::put_followed(&mut db, &FollowedRow::new(name, None)).await.unwrap();
    }
    db.commit().await.unwrap();
    let page = site.get("spaces", &cookie).await.body;
    assert_eq!((page.matches("<section").count(), rows(&page)), (40, 10));
}

#[tokio::test]
async fn a_space_says_how_far_the_keeper_is_with_its_rooms_and_people() {
    let (one, other) = (owned_room_id!("!one:localhost"), owned_room_id!("!other:localhost"));
    let statuses = [(&one, "kept"), (&other, "joining")];
    let site = with_space(statuses.map(|(room, status)| beneath(room.clone(), status))).await;
    let cookie = site.log_in().await;
    let page = site.get("spaces", &cookie).await.body;
    assert!(page.contains("#kitchen:localhost") && page.contains("1 of 2, 50 %"), "{page}");
    assert_eq!(said_of_space(&site, &cookie).await, "nobody waits");

    let mut db = site.store.begin().await.unwrap();
    previews::ask_round(&mut db, &one, 1).await.unwrap();
    db.commit().await.unwrap();
    let waiting = "nobody at this moment; 1 room’s people are still to be gone through";
    assert_eq!(said_of_space(&site, &cookie).await, waiting, "nobody was counted yet");

    let mut db = site.store.begin().await.unwrap();
    previews::begin_round(&mut db, &one, 400, None).await.unwrap();
    previews::advance_round(&mut db, &one, (7, 100), 2).await.unwrap();
    previews::ask_round(&mut db, &other, 3).await.unwrap();
    db.commit().await.unwrap();
    let under_way = "100 of 400, 25 % looked at; 1 room’s people are still to be gone through";
    assert_eq!(said_of_space(&site, &cookie).await, under_way);
}
