//! The ledger: who was given which key, who was refused, and who commanded what.

use axum::response::Response;
use maud::{Markup, html};
use ruma::{OwnedRoomId, OwnedUserId};

use super::{Visitor, answer};
use crate::{
    admin::dashboard::{
        fields::{Fields, link},
        page::{Place, table},
        words::{self, badge, number, outcome_tone},
    },
    keeper::operator::{LedgerEntry, LedgerQuery, Query},
    store::{CommandRow, OutcomeKind},
};

/// How many rows there are on a page.
const MOST: usize = 50;
const HOUR: i64 = 3_600_000;
/// Since when, in hours, and what that is called.
const SINCE: [(&str, &str); 5] = [
    ("", "Ever"),
    ("1", "The last hour"),
    ("24", "The last 24 hours"),
    ("168", "The last 7 days"),
    ("720", "The last 30 days"),
];

/// What is told of a key.
const KEYS: [&str; 7] = ["When", "Outcome", "User", "Device", "Why", "Opens", "Room"];

/// Shows it.
pub(in crate::admin::dashboard) async fn show(visitor: Visitor) -> Response {
    let fields = &visitor.fields;
    let of_commands = fields.get("of") == "commands";
    let wrong = [
        fields.is_wrong::<OwnedRoomId>("room").then_some("That is not the id of a room."),
        fields.is_wrong::<OwnedUserId>("user").then_some("That is not the id of a user."),
    ];
    let query = wanted(fields, visitor.now);
    let (rows, last) = if wrong.iter().any(Option::is_some) {
        (html! {}, None)
    } else if of_commands {
        let rows = answer!(visitor, Place::Ledger, Query::Commands(query), Commands);
        let last = rows.get(MOST.saturating_sub(1)).map(|row| row.id);
        (commands(&rows, visitor.now), last)
    } else {
        let rows = answer!(visitor, Place::Ledger, Query::Ledger(query), Ledger);
        let last = rows.get(MOST.saturating_sub(1)).map(|row| row.id);
        let shown = if rows.is_empty() { empty() } else { keys(&rows, visitor.now) };
        (shown, last)
    };
    visitor.page(Place::Ledger, "Ledger", html! {
        h1 { "Ledger" }
        nav .tabs aria-label="Kinds of rows" {
            ul {
                @for (of, name, is_here) in [("", "Keys", !of_commands), ("commands", "Commands", of_commands)] {
                    li { a href=(link("ledger", &[("of", of)])) aria-current=[is_here.then_some("page")] { (name) } }
                }
            }
        }
        (filters(fields, of_commands, wrong))
        (rows)
        (paging(fields, last))
    })
}

fn wanted(fields: &Fields, now: i64) -> LedgerQuery {
    let hours = fields.parse::<i64>("since");
    LedgerQuery {
        room: fields.parse("room"),
        user: fields.parse("user"),
        since: hours.map(|hours| now.saturating_sub(hours.saturating_mul(HOUR))),
        outcome: OutcomeKind::ALL.into_iter().find(|kind| kind.as_str() == fields.get("outcome")),
        before: fields.parse("before"),
        newest: Some(MOST as u64),
    }
}

fn filters(fields: &Fields, of_commands: bool, wrong: [Option<&str>; 2]) -> Markup {
    let [wrong_room, wrong_user] = wrong;
    let chosen = |name: &str, value: &str| fields.get(name) == value;
    html! {
        form .filters method="get" action="/dashboard/ledger" role="search" {
            @if of_commands { input type="hidden" name="of" value="commands"; }
            (id_field("room", "Room id", fields.get("room"), wrong_room))
            (id_field("user", "User id", fields.get("user"), wrong_user))
            @if !of_commands {
                div {
                    label for="outcome" { "What became of it" }
                    select #outcome name="outcome" {
                        option value="" { "Any" }
                        @for kind in OutcomeKind::ALL {
                            option value=(kind.as_str()) selected[chosen("outcome", kind.as_str())] { (kind.as_str()) }
                        }
                    }
                }
            }
            div {
                label for="since" { "Since" }
                select #since name="since" {
                    @for (hours, name) in SINCE { option value=(hours) selected[chosen("since", hours)] { (name) } }
                }
            }
            button type="submit" { "Show" }
        }
    }
}

/// A field for an identifier, with what is wrong with what stands in it.
pub(super) fn id_field(name: &str, label: &str, value: &str, wrong: Option<&str>) -> Markup {
    let described = wrong.map(|_| format!("{name}-wrong"));
    html! {
        div {
            label for=(name) { (label) }
            input id=(name) type="text" name=(name) value=(value) maxlength="255" autocomplete="off" spellcheck="false"
                autocapitalize="none" aria-invalid=[wrong.map(|_| "true")] aria-describedby=[described.as_deref()];
            @if let Some(wrong) = wrong { p .wrong id=[described.as_deref()] role="alert" { (wrong) } }
        }
    }
}

fn empty() -> Markup {
    html! { p .empty role="status" { "The ledger has no such rows." } }
}

/// Keys that were given and refused, the newest first.
fn keys(rows: &[LedgerEntry], now: i64) -> Markup {
    let rows: Vec<_> = rows.iter().map(|row| key(row, now)).collect();
    table("Keys", &KEYS, &rows)
}

/// The same, all of one room.
pub(super) fn keys_of_room(rows: &[LedgerEntry], now: i64) -> Markup {
    let rows: Vec<_> = rows.iter().map(|row| key(row, now)).collect();
    let [heads @ .., _] = KEYS;
    table("Keys", &heads, &rows)
}

fn key(row: &LedgerEntry, now: i64) -> Vec<Markup> {
    let (kind, code) = row.outcome.split_once(':').unwrap_or((row.outcome.as_str(), ""));
    vec![
        words::time(row.last_at, now),
        html! {
            (badge(outcome_tone(&row.outcome), kind))
            @if !code.is_empty() { " " (words::id(code)) }
            @if let Some(count) = row.count.filter(|count| *count > 1) { " ×" (number(count)) }
        },
        html! { a href=(link("why", &[("user", &row.user_id), ("room", &row.room_id)])) { (words::id(&row.user_id)) } },
        words::some_id(&row.device_id),
        html! { (words::text(&words::spoken(&row.reason))) },
        match &row.tuple {
            Some((event_type, state_key)) => {
                html! { (words::id(event_type)) @if !state_key.is_empty() { " " (words::id(state_key)) } }
            }
            None => words::nothing(),
        },
        html! { a href=(link("room", &[("id", &row.room_id)])) { (words::id(&row.room_id)) } },
    ]
}

fn commands(rows: &[CommandRow], now: i64) -> Markup {
    if rows.is_empty() {
        return empty();
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            vec![
                words::time(row.last_at, now),
                words::id(&row.actor),
                html! {
                    (words::id(&row.verb))
                    @if !row.detail.is_empty() { " " (words::text(&row.detail)) }
                    @if row.count > 1 { " ×" (number(row.count)) }
                },
                badge(outcome_tone(&row.outcome), &row.outcome),
                words::some_id(&row.user_id),
                words::some_id(&row.device_id),
                words::some_id(&row.room_id),
            ]
        })
        .collect();
    table("Commands", &["When", "By", "Verb", "Outcome", "User", "Device", "Room"], &rows)
}

/// `last` is the oldest row of a full page.
fn paging(fields: &Fields, last: Option<i64>) -> Markup {
    let at = |before: &str| {
        let same = ["of", "room", "user", "outcome", "since"].map(|name| (name, fields.get(name)));
        link("ledger", &[&same[..], &[("before", before)]].concat())
    };
    let is_older = !fields.get("before").is_empty();
    html! {
        @if is_older || last.is_some() {
            nav .paging aria-label="Pages of the ledger" {
                @if is_older { a href=(at("")) { "← Newest" } }
                @if let Some(last) = last { a href=(at(&last.to_string())) { "Older →" } }
            }
        }
    }
}
