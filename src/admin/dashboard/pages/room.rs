//! One room.

use axum::response::Response;
use maud::{Markup, html};
use ruma::OwnedRoomId;

use super::{Visitor, answer, holds, ledger, rooms};
use crate::{
    admin::dashboard::{
        fields::link,
        page::{self, Place, table},
        words::{self, Tone, badge, number},
    },
    keeper::operator::{LedgerQuery, Query, Refusal, RoomDetail},
};

/// How many values, and how many held members, are shown.
const MOST: u32 = 100;
/// How many rows of the ledger are shown.
const NEWEST: u64 = 15;

/// Shows it.
pub(in crate::admin::dashboard) async fn show(visitor: Visitor) -> Response {
    let Some(room) = visitor.fields.parse::<OwnedRoomId>("id") else {
        let message = "that is not the id of a room".to_owned();
        return visitor
            .refuse(Some(Place::Rooms), &Refusal { code: "unknown_room".to_owned(), message });
    };
    let query = Query::Room { room: room.clone(), most: Some(MOST) };
    let detail = answer!(visitor, Place::Rooms, query, Room);
    let newest =
        LedgerQuery { room: Some(room.clone()), newest: Some(NEWEST), ..LedgerQuery::default() };
    let rows = answer!(visitor, Place::Rooms, Query::Ledger(newest), Ledger);
    let id = room.as_str();
    let command = format!("room {id}");
    visitor.page(Place::Rooms, "Room", html! {
        p .back { a href="/dashboard/rooms" { "← Rooms" } }
        h1 { "Room " (words::id(rooms::name(&detail.summary))) }
        (visitor.done())
        (facts(&detail, visitor.now))
        @if !detail.wars.is_empty() {
            section aria-labelledby="wars" {
                h2 #wars { "Who goes on breaking rules" }
                p { "What they change is restored no more. Take their power to send encrypted state, remove them, or resume." }
                ul .actions {
                    @for user in &detail.wars {
                        li {
                            a .button href=(link("confirm", &[("do", "resume"), ("room", id), ("user", user.as_str())])) { "Resume…" }
                            " " (words::id(user.as_str()))
                        }
                    }
                }
            }
        }
        @if !detail.holds.is_empty() {
            section aria-labelledby="held" {
                h2 #held { "Who waits for your word" }
                (holds::list(&detail.holds, visitor.now))
                (page::more(detail.more_holds, &command))
            }
        }
        section aria-labelledby="values" {
            h2 #values { "State" }
            @if detail.tuples.is_empty() { p .empty { "The keeper knows of none." } } @else { (values(&detail)) }
            (page::more(detail.more_tuples, &command))
        }
        section aria-labelledby="newest" {
            h2 #newest { "What was given and refused lately" }
            @if rows.is_empty() {
                p .empty { "Nothing stands in the ledger." }
            } @else {
                (ledger::keys_of_room(&rows, visitor.now))
                p { a href=(link("ledger", &[("room", id)])) { "All of it, in the ledger" } }
            }
        }
        section aria-labelledby="mend" {
            h2 #mend { "Mend" }
            ul .actions {
                li { a .button href=(link("confirm", &[("do", "refresh"), ("room", id)])) { "Refresh…" } " Seal its state once more, for clients that missed the keys." }
                li { a .button href=(link("confirm", &[("do", "rotate"), ("room", id)])) { "Rotate…" } " Retire its sessions: what is sealed next is sealed under new ones." }
                li { a .button href=(link("why", &[("room", id)])) { "Why?" } " Ask why somebody has or lacks its keys." }
            }
        }
    })
}

fn facts(room: &RoomDetail, now: i64) -> Markup {
    let summary = &room.summary;
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    html! {
        dl .facts.card {
            dt { "Id" } dd { (words::id(summary.room_id.as_str())) }
            dt { "Address" } dd { (words::some_id(summary.alias.as_deref().unwrap_or_default())) }
            dt { "How it stands" } dd { (badge(words::room_tone(&summary.status), &summary.status)) }
            dt { "The keeper is elevated" } dd { (yes(room.elevated)) }
            dt { "Encrypted" } dd { (encrypted(room)) }
            dt { "Version" } dd { (words::text(&room.version)) }
            dt { "Joined" } dd { (number(summary.joined)) }
            dt { "Sealed" } dd { (rooms::share(summary.sealed, summary.values)) }
            dt { "To decide" } dd {
                (number(summary.promises))
                @if let Some(due_at) = summary.due_at { ", the first " (words::time(due_at, now)) }
            }
            @if let Some(policy) = &room.policy { dt { "Policy" } dd { (words::text(policy)) } }
            @if room.noop == Some(true) { dt { "Noop" } dd { "on: nothing is sent here" } }
            @if !room.spaces.is_empty() {
                dt { "Spaces" }
                dd { @for space in &room.spaces { (words::id(space.as_str())) " " } }
            }
        }
    }
}

fn encrypted(room: &RoomDetail) -> &'static str {
    match (room.encrypted, room.flagged) {
        (true, true) => "yes, its state as well",
        (true, false) => "yes, but not its state",
        (false, _) => "no",
    }
}

fn values(room: &RoomDetail) -> Markup {
    let rows: Vec<_> = room
        .tuples
        .iter()
        .map(|tuple| {
            vec![
                words::id(&tuple.event_type),
                words::some_id(&tuple.state_key),
                html! {
                    (badge(words::value_tone(&tuple.state), &tuple.state))
                    @if tuple.public_picture { " " (badge(Tone::Warn, "its picture is public")) }
                },
            ]
        })
        .collect();
    table("Values", &["Type", "State key", "How it stands"], &rows)
}
