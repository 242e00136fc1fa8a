//! The spaces that the keeper follows, and how far it is with the rooms beneath them.

use axum::response::Response;
use maud::{Markup, html};

use super::{Visitor, answer, rooms::bar};
use crate::{
    admin::dashboard::{
        fields::link,
        page::{self, Place, table},
        words::{self, badge, count, number, room_tone},
    },
    keeper::operator::{Query, SpaceRoomSummary, SpaceSummary, percent},
};

/// How many spaces are shown.
const MOST_SPACES: usize = 40;
/// How many rooms are shown, in all of them together.
const MOST_ROOMS: usize = 400;
/// How many rooms of one space are shown at most, and where there are many spaces at least.
const OF_ONE: (usize, usize) = (10, 200);
/// How a room stands with which all is well, and a space that is followed as well.
const WELL: [&str; 2] = ["kept", "space"];

/// Shows them.
pub(in crate::admin::dashboard) async fn show(visitor: Visitor) -> Response {
    let found = answer!(visitor, Place::Spaces, Query::Spaces, Spaces);
    let beneath = |space: &SpaceSummary| {
        let rooms = found.rooms.iter();
        rooms.filter(|room| Some(&room.followed) == space.room_id.as_ref()).collect::<Vec<_>>()
    };
    let (least, most) = OF_ONE;
    let most = MOST_ROOMS.checked_div(found.spaces.len()).unwrap_or(most).clamp(least, most);
    let shown = found.spaces.iter().take(MOST_SPACES).enumerate();
    visitor.page(Place::Spaces, "Spaces", html! {
        h1 { "Spaces" }
        p { "What the keeper follows: it joins the rooms beneath, and may give their members-to-be the keys before they join." }
        @if found.spaces.is_empty() {
            p .empty { "It follows none. A space stands in " code { "spaces" } ", or an administrator invites the keeper into it." }
        }
        @for (index, space) in shown { (one(index, space, beneath(space), most)) }
        (page::more(as_number(found.spaces.len().saturating_sub(MOST_SPACES)), "spaces"))
    })
}

fn one(
    index: usize,
    space: &SpaceSummary,
    mut rooms: Vec<&SpaceRoomSummary>,
    most: usize,
) -> Markup {
    let id = format!("space-{index}");
    let all = as_number(rooms.len());
    let well = as_number(rooms.iter().filter(|room| is_well(room)).count());
    let settled = as_number(rooms.iter().filter(|room| room.is_settled()).count());
    rooms.sort_by_key(|room| (room.change.is_none(), room_tone(&room.status)));
    let rows: Vec<_> = rooms.iter().take(most).map(|room| row(room)).collect();
    html! {
        section .card aria-labelledby=(id) {
            h2 id=(id) { (words::id(&space.name)) " " (badge(room_tone(&space.status), &space.status)) }
            @if let Some(change) = &space.change { p .notice.bad { (words::prose(change)) } }
            dl .facts {
                dt { "Rooms gone through" }
                dd { @if all == 0 { (words::nothing()) } @else { (progress(settled, all)) } }
                dt { "All is well with" } dd { (number(well)) " of " (count(all, "room", "rooms")) }
                dt { "People to be provided for" } dd { (people(space)) }
                @if space.beyond > 0 { dt { "Beyond its bounds" } dd { (count(space.beyond, "room", "rooms")) } }
            }
            @if !rows.is_empty() {
                (table(&format!("Rooms of {}", space.name), &["Room", "How it stands", "To change"], &rows))
            }
            (page::more(as_number(rooms.len().saturating_sub(most)), "spaces"))
        }
    }
}

fn as_number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn progress(part: i64, whole: i64) -> Markup {
    let words = format!("{} of {}, {} %", number(part), number(whole), percent(part, whole));
    bar(part, whole, &words)
}

/// How many of the people have been looked at who may join the rooms, and what there is beside the rounds under way. A
/// round that has not begun has not counted anybody.
fn people(space: &SpaceSummary) -> Markup {
    let rounds = count(space.rounds_waiting, "room’s people", "rooms’ people");
    html! {
        @if space.backlog > 0 { (progress(space.looked_at, space.to_look_at())) " looked at" }
        @else if space.rounds_waiting == 0 { "nobody waits" }
        @else { "nobody at this moment" }
        @if space.rounds_waiting > 0 { "; " (rounds) " are still to be gone through" }
    }
}

fn is_well(room: &SpaceRoomSummary) -> bool {
    WELL.contains(&room.status.as_str())
}

fn row(room: &SpaceRoomSummary) -> Vec<Markup> {
    vec![
        html! { a href=(link("room", &[("id", room.room_id.as_str())])) { (words::id(room.room_id.as_str())) } },
        badge(room_tone(&room.status), &room.status),
        room.change.as_deref().map_or_else(words::nothing, words::prose),
    ]
}
