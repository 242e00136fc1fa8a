//! The rooms, those first that need somebody.

use axum::response::Response;
use maud::{Markup, html};

use super::{Visitor, answer};
use crate::{
    admin::dashboard::{
        fields::link,
        page::{Place, table},
        words::{self, Tone, badge, count, number, room_tone},
    },
    keeper::operator::{Query, RoomSummary},
};

/// How many there are on a page.
const MOST: usize = 100;
/// What may be chosen, with what it is called.
const CHOICES: [(&str, &str); 9] = [
    ("", "Any"),
    ("needs", "Needs somebody"),
    ("kept", "Kept"),
    ("not_elevated", "Not elevated"),
    ("state_not_encrypted", "State not encrypted"),
    ("waiting", "Waiting"),
    ("undecryptable", "Undecryptable"),
    ("held", "With held members"),
    ("invited", "Invited"),
];

/// Shows them.
pub(in crate::admin::dashboard) async fn show(visitor: Visitor) -> Response {
    let mut rooms = answer!(visitor, Place::Rooms, Query::Rooms, Rooms);
    let all = rooms.len();
    let (status, wanted) = (visitor.fields.get("status"), visitor.fields.get("find"));
    rooms.retain(|room| fits(room, status, visitor.now) && is_named(room, wanted));
    rooms.sort_by_cached_key(|room| (urgency(room, visitor.now), name(room).to_owned()));
    let page: usize = visitor.fields.parse("page").unwrap_or(0);
    let first = page.saturating_mul(MOST);
    let shown: Vec<&RoomSummary> = rooms.iter().skip(first).take(MOST).collect();
    let found = i64::try_from(rooms.len()).unwrap_or(i64::MAX);
    visitor.page(Place::Rooms, "Rooms", html! {
        h1 { "Rooms" }
        form .filters method="get" action="/dashboard/rooms" role="search" {
            div {
                label for="status" { "How it stands" }
                select #status name="status" {
                    @for (value, name) in CHOICES { option value=(value) selected[value == status] { (name) } }
                }
            }
            div {
                label for="find" { "Id or address has" }
                input #find type="search" name="find" value=(wanted) maxlength="255" autocomplete="off" spellcheck="false";
            }
            button type="submit" { "Show" }
        }
        p role="status" { (count(found, "room", "rooms")) " of " (all) "." }
        @if shown.is_empty() {
            p .empty { "No room is like that." }
        } @else {
            (table("Rooms", &["Room", "How it stands", "Joined", "Sealed", "To decide", "Held"],
                &shown.iter().map(|room| row(room, visitor.now)).collect::<Vec<_>>()))
        }
        (paging(page, first.saturating_add(MOST) < rooms.len(), status, wanted))
    })
}

/// What a room is known by.
pub(super) fn name(room: &RoomSummary) -> &str {
    room.alias.as_deref().unwrap_or(room.room_id.as_str())
}

fn is_waiting(room: &RoomSummary, now: i64) -> bool {
    room.due_at.is_some_and(|due_at| due_at <= now)
}

fn fits(room: &RoomSummary, status: &str, now: i64) -> bool {
    match status {
        "" => true,
        "needs" => urgency(room, now) < 3,
        "waiting" => is_waiting(room, now),
        "undecryptable" => room.undecryptable > 0,
        "held" => room.held > 0,
        status => room.status == status,
    }
}

fn is_named(room: &RoomSummary, wanted: &str) -> bool {
    let wanted = wanted.to_lowercase();
    let alias = room.alias.as_ref().map(|alias| alias.to_lowercase());
    room.room_id.as_str().to_lowercase().contains(&wanted)
        || alias.is_some_and(|alias| alias.contains(&wanted))
}

/// The smaller, the earlier it is to be looked at.
fn urgency(room: &RoomSummary, now: i64) -> u8 {
    match room_tone(&room.status) {
        Tone::Bad => 0,
        _ if room.undecryptable > 0 || room.held > 0 => 1,
        _ if is_waiting(room, now) => 2,
        Tone::Busy => 3,
        Tone::Quiet => 5,
        _ => 4,
    }
}

fn row(room: &RoomSummary, now: i64) -> Vec<Markup> {
    let sealed = html! {
        @if room.values == 0 { (words::nothing()) } @else { (share(room.sealed, room.values)) }
        @if room.undecryptable > 0 { " " (badge(Tone::Bad, &count(room.undecryptable, "undecryptable", "undecryptable"))) }
    };
    let waiting = html! {
        @if room.promises == 0 { (words::nothing()) } @else {
            (number(room.promises))
            @if let Some(due_at) = room.due_at { " " span .ago { (words::ago(due_at, now)) } }
        }
    };
    vec![
        link_to(room),
        badge(room_tone(&room.status), &room.status),
        html! { (number(room.joined)) },
        sealed,
        waiting,
        html! { @if room.held == 0 { (words::nothing()) } @else { (badge(Tone::Warn, &number(room.held))) } },
    ]
}

fn link_to(room: &RoomSummary) -> Markup {
    html! {
        a href=(link("room", &[("id", room.room_id.as_str())])) { (words::id(name(room))) }
        @if room.alias.is_some() { span .under { (words::id(room.room_id.as_str())) } }
    }
}

/// A part of a whole, as a bar beside its numbers.
pub(super) fn share(part: i64, whole: i64) -> Markup {
    bar(part, whole, &format!("{} of {}", number(part), number(whole)))
}

/// The same, in these words.
pub(super) fn bar(part: i64, whole: i64, words: &str) -> Markup {
    let width = part.saturating_mul(100).checked_div(whole).unwrap_or(0).clamp(0, 100);
    html! {
        span .share {
            svg .meter aria-hidden="true" viewBox="0 0 100 8" preserveAspectRatio="none" {
                rect .rest width="100" height="8" {}
                rect .part width=(width) height="8" {}
            }
            (words)
        }
    }
}

fn paging(page: usize, more: bool, status: &str, find: &str) -> Markup {
    let at = |page: usize| {
        link("rooms", &[("status", status), ("find", find), ("page", &page.to_string())])
    };
    html! {
        @if page > 0 || more {
            nav .paging aria-label="Pages of the list" {
                @if let Some(before) = page.checked_sub(1) { a href=(at(before)) { "← Before" } }
                @if more { a href=(at(page.saturating_add(1))) { "After →" } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_room_id;

    use super::*;

    fn room(status: &str) -> RoomSummary {
        RoomSummary {
            room_id: owned_room_id!("!Tea:localhost"),
            alias: None,
            status: status.to_owned(),
            joined: 2,
            held: 0,
            values: 0,
            sealed: 0,
            undecryptable: 0,
            lost: 0,
            public_pictures: 0,
            promises: 0,
            due_at: None,
            power_needed: None,
        }
    }

    #[test]
    fn what_needs_somebody_comes_first() {
        let order = [
            room("not_elevated"),
            RoomSummary { held: 1, ..room("kept") },
            RoomSummary { due_at: Some(5), ..room("kept") },
            room("loading"),
            RoomSummary { due_at: Some(50), ..room("kept") },
            room("left"),
        ];
        let urgencies: Vec<u8> = order.iter().map(|room| urgency(room, 10)).collect();
        assert_eq!(urgencies, [0, 1, 2, 3, 4, 5]);
        assert!(fits(&order[2], "waiting", 10) && !fits(&order[4], "waiting", 10));
    }

    #[test]
    fn a_room_is_found_by_its_id_and_its_address() {
        let room = RoomSummary { alias: Some("#Kitchen:localhost".to_owned()), ..room("kept") };
        for (wanted, found) in [("", true), ("tea", true), ("KITCHEN", true), ("garden", false)] {
            assert_eq!(is_named(&room, wanted), found, "{wanted}");
        }
    }
}
