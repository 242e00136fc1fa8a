//! The spaces that the keeper follows, and how far it is with the rooms beneath them.

use axum::response::Response;
use maud::{Markup, html};

use super::{Visitor, answer, rooms::share};
use crate::{
    admin::dashboard::{
        fields::link,
        page::{Place, table},
        words::{self, badge, count, number, room_tone},
    },
    keeper::operator::{Query, SpaceRoomSummary, SpaceSummary},
};

/// How many rooms of a space are shown.
const MOST: usize = 200;
/// How a room stands with which all is well, and a space that is followed as well.
const WELL: [&str; 2] = ["kept", "space"];

/// Shows them.
pub(in crate::admin::dashboard) async fn show(visitor: Visitor) -> Response {
    let found = answer!(visitor, Place::Spaces, Query::Spaces, Spaces);
    let beneath = |space: &SpaceSummary| {
        let rooms = found.rooms.iter();
        rooms.filter(|room| Some(&room.followed) == space.room_id.as_ref()).collect::<Vec<_>>()
    };
    visitor.page(Place::Spaces, "Spaces", html! {
        h1 { "Spaces" }
        p { "What the keeper follows: it joins the rooms beneath, and may give their members-to-be the keys before they join." }
        @if found.spaces.is_empty() {
            p .empty { "It follows none. A space stands in " code { "spaces" } ", or an administrator invites the keeper into it." }
        }
        @for (index, space) in found.spaces.iter().enumerate() { (one(index, space, beneath(space))) }
    })
}

fn one(index: usize, space: &SpaceSummary, mut rooms: Vec<&SpaceRoomSummary>) -> Markup {
    let id = format!("space-{index}");
    let well = rooms.iter().filter(|room| is_well(room)).count();
    let as_number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    rooms.sort_by_key(|room| (room.change.is_none(), room_tone(&room.status)));
    let rows: Vec<_> = rooms.iter().take(MOST).map(|room| row(room)).collect();
    html! {
        section .card aria-labelledby=(id) {
            h2 id=(id) { (words::id(&space.name)) " " (badge(room_tone(&space.status), &space.status)) }
            @if let Some(change) = &space.change { p .notice.bad { (words::prose(change)) } }
            dl .facts {
                dt { "Rooms with which all is well" } dd { (share(as_number(well), as_number(rooms.len()))) }
                dt { "People still to be provided for" }
                dd { @if space.backlog == 0 { "nobody" } @else { (number(space.backlog)) } }
                @if space.beyond > 0 { dt { "Beyond its bounds" } dd { (count(space.beyond, "room", "rooms")) } }
            }
            @if !rows.is_empty() {
                (table(&format!("Rooms of {}", space.name), &["Room", "How it stands", "What to change"], &rows))
            }
            @if rooms.len() > MOST {
                p .hint { "Those first that need a change; " (number(as_number(rooms.len() - MOST))) " more are not shown." }
            }
        }
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
