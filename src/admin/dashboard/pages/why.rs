//! Why somebody has or lacks a room's keys, device by device.

use axum::response::Response;
use maud::{Markup, html};
use ruma::{OwnedRoomId, OwnedUserId};

use super::{Visitor, answer, ledger::id_field};
use crate::{
    admin::dashboard::{
        fields::link,
        page::{self, Place, table},
        words::{self, Tone, badge, value_tone},
    },
    keeper::operator::{DeviceWhy, Finding, Query, ValueWhy, Why},
};

/// How many of somebody's devices are shown.
const MOST_DEVICES: usize = 20;
/// How many values are shown for each.
const MOST_VALUES: usize = 50;

/// Shows it.
pub(in crate::admin::dashboard) async fn show(visitor: Visitor) -> Response {
    let fields = &visitor.fields;
    let found = match (fields.parse::<OwnedUserId>("user"), fields.parse::<OwnedRoomId>("room")) {
        (Some(user), Some(room)) => {
            Some(answer!(visitor, Place::Why, Query::Why { user, room }, Why))
        }
        _ => None,
    };
    let wrong_user = fields
        .is_wrong::<OwnedUserId>("user")
        .then_some("That is not the id of a user, such as @ada:example.org.");
    let wrong_room = fields
        .is_wrong::<OwnedRoomId>("room")
        .then_some("That is not the id of a room, such as !abc:example.org.");
    visitor.page(Place::Why, "Why?", html! {
        h1 { "Why?" }
        (visitor.done())
        p { "Why somebody has or lacks a room’s keys, from the ledger and from the rule that decides." }
        form .filters method="get" action="/dashboard/why" role="search" {
            (id_field("user", "User id", fields.get("user"), wrong_user))
            (id_field("room", "Room id", fields.get("room"), wrong_room))
            button type="submit" { "Ask" }
        }
        @if let Some(why) = found { (told(&why, visitor.now)) }
    })
}

fn told(why: &Why, now: i64) -> Markup {
    let (user, room) = (why.user_id.as_str(), why.room_id.as_str());
    let to = |verb: &str| link("confirm", &[("do", verb), ("room", room), ("user", user)]);
    html! {
        section aria-labelledby="answer" {
            h2 #answer { (words::id(user)) " in " (words::id(room)) }
            dl .facts.card {
                dt { "Membership" }
                dd {
                    (why.membership.as_deref().map_or_else(|| html! { "not in the room" }, words::text))
                    @if let Some(since) = why.since { ", heard of " (words::time(since, now)) }
                }
                dt { "Policy" } dd { (words::text(&why.policy)) }
            }
            @if !why.findings.is_empty() {
                ul .findings { @for found in &why.findings { li .card { (finding(found)) } } }
            }
            @for device in why.devices.iter().take(MOST_DEVICES) { (of_device(device, now)) }
            (page::more(beyond(why.devices.len(), MOST_DEVICES), &format!("why {user} {room}")))
            ul .actions {
                li { a .button href=(to("share")) { "Share again…" } " Give their entitled devices the keys once more." }
                li { a .button.plain href=(to("approve")) { "Approve…" } " Let them have this room’s keys, whatever was said before." }
                li { a .button.plain href=(to("deny")) { "Deny…" } " Refuse them this room’s keys." }
                li { a href=(link("ledger", &[("user", user), ("room", room)])) { "What the ledger has of it" } }
            }
        }
    }
}

fn finding(found: &Finding) -> Markup {
    html! {
        p { (words::prose(&found.text)) "." }
        @if let Some(fix) = &found.fix { p .fix { strong { "What mends it: " } (words::prose(fix)) "." } }
    }
}

fn of_device(device: &DeviceWhy, now: i64) -> Markup {
    let values = device.values.iter().take(MOST_VALUES);
    let rows: Vec<_> = values.map(|value| of_value(value, now)).collect();
    let label = format!("Values for the device {}", device.device_id);
    html! {
        section .card {
            h3 {
                "Device " (words::id(device.device_id.as_str())) " "
                @if device.cross_signed { (badge(Tone::Good, "cross-signed")) } @else { (badge(Tone::Warn, "not cross-signed")) }
                " "
                @if device.entitled { (badge(Tone::Good, "entitled")) } @else { (badge(Tone::Quiet, "not entitled")) }
            }
            (finding(&device.finding))
            @if !rows.is_empty() { (table(&label, &["Type", "State key", "Its key", "Since"], &rows)) }
            (page::more(beyond(device.values.len(), MOST_VALUES), "why"))
            @if !device.told.is_empty() {
                ul .told {
                    @for told in &device.told {
                        li { "Refused before: " (words::id(&told.outcome)) ", last " (words::time(told.last_at, now)) }
                    }
                }
            }
        }
    }
}

fn beyond(all: usize, shown: usize) -> i64 {
    i64::try_from(all.saturating_sub(shown)).unwrap_or(i64::MAX)
}

fn of_value(value: &ValueWhy, now: i64) -> Vec<Markup> {
    let state = value.state.as_str();
    vec![
        words::id(&value.event_type),
        words::some_id(&value.state_key),
        badge(value_tone(state), state),
        value.at.map_or_else(words::nothing, |at| words::time(at, now)),
    ]
}
