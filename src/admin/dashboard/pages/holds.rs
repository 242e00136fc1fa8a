//! Who waits for an administrator's word.

use axum::response::Response;
use maud::{Markup, html};

use super::{Visitor, answer};
use crate::{
    admin::dashboard::{
        fields::link,
        page::{self, Place, table},
        words,
    },
    keeper::operator::{Hold, Holds, Query},
};

/// How many are shown.
const MOST: u32 = 100;

/// Shows them.
pub(in crate::admin::dashboard) async fn show(visitor: Visitor) -> Response {
    let query = Query::Holds { most: Some(MOST) };
    let Holds { holds, more } = answer!(visitor, Place::Holds, query, Holds);
    visitor.page(Place::Holds, "Holds", html! {
        h1 { "Holds" }
        (visitor.done())
        p { "Members who get no key of a room until you have said whether they shall. Ask " a href="/dashboard/why" { "why" } " before you decide." }
        @if holds.is_empty() {
            p .empty { "Nobody waits for your word." }
        } @else {
            (list(&holds, visitor.now))
            (page::more(more, "holds"))
        }
    })
}

/// A table of them, with what can be decided.
pub(super) fn list(holds: &[Hold], now: i64) -> Markup {
    let rows: Vec<_> = holds.iter().map(|hold| row(hold, now)).collect();
    table("Held members", &["Who", "Where", "Why", "Since", "Your word"], &rows)
}

fn row(hold: &Hold, now: i64) -> Vec<Markup> {
    let (user, room) = (hold.user_id.as_str(), hold.room_id.as_str());
    let to = |verb: &str| link("confirm", &[("do", verb), ("room", room), ("user", user)]);
    let whom = html! { span .unseen { " " (words::text(user)) " in " (words::text(room)) } };
    vec![
        html! { a href=(link("why", &[("user", user), ("room", room)])) { (words::id(user)) } },
        html! { a href=(link("room", &[("id", room)])) { (words::id(room)) } },
        html! { (words::hold_reason(&hold.reason)) },
        words::time(hold.since, now),
        html! {
            span .buttons {
                @if hold.reason == "identity_changed" {
                    span .hint { "Ask them whether they reset it, then " code { "statekeeper confirm-identity" } "." }
                } @else {
                    a .button href=(to("approve")) { "Approve…" (whom) }
                }
                a .button.plain href=(to("deny")) { "Deny…" (whom) }
            }
        },
    ]
}
