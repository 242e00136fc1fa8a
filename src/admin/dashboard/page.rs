//! What all pages share: their head, the way between them, and their foot.

use axum::{
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::{Dashboard, ROOT, access::GUARD, fields::link, sessions::Session, words};
use crate::keeper::clock::now_ms;

/// The pages that can be gone to from each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Overview,
    Rooms,
    Holds,
    Spaces,
    Ledger,
    Why,
}

impl Place {
    const ALL: [Self; 6] =
        [Self::Overview, Self::Rooms, Self::Holds, Self::Spaces, Self::Ledger, Self::Why];

    fn name(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Rooms => "Rooms",
            Self::Holds => "Holds",
            Self::Spaces => "Spaces",
            Self::Ledger => "Ledger",
            Self::Why => "Why?",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Overview => "",
            Self::Rooms => "rooms",
            Self::Holds => "holds",
            Self::Spaces => "spaces",
            Self::Ledger => "ledger",
            Self::Why => "why",
        }
    }
}

fn html_answer(status: StatusCode, page: Markup) -> Response {
    (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], page.into_string()).into_response()
}

fn document(title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " · Statekeeper" }
                link rel="icon" type="image/svg+xml" href="/dashboard/icon.svg";
                link rel="stylesheet" href="/dashboard/style.css";
            }
            (body)
        }
    }
}

/// A page for whoever is not logged in.
pub(super) fn outside(status: StatusCode, title: &str, content: Markup) -> Response {
    html_answer(
        status,
        document(
            title,
            html! {
                body .outside {
                    main #main {
                        p .brand { span .mark aria-hidden="true" {} "Statekeeper" }
                        (content)
                    }
                }
            },
        ),
    )
}

/// A page that says one thing, to anybody.
pub(super) fn bare(status: StatusCode, title: &str, sentence: &str) -> Response {
    outside(
        status,
        title,
        html! {
            h1 { (title) }
            p { (sentence) }
            p { a href=(ROOT) { "To the dashboard" } }
        },
    )
}

/// A page for whoever is logged in.
pub(super) fn page(
    dashboard: &Dashboard,
    session: &Session,
    (place, title): (Option<Place>, &str),
    status: StatusCode,
    content: Markup,
) -> Response {
    let held = dashboard.inner.metrics.tally().held;
    let missing = dashboard.inner.readiness.missing();
    html_answer(
        status,
        document(
            title,
            html! {
                body {
                    a .skip href="#main" { "Skip to the content" }
                    header .top {
                        p .brand { span .mark aria-hidden="true" {} a href=(ROOT) { "Statekeeper" } }
                        nav aria-label="Pages" {
                            ul {
                                @for one in Place::ALL {
                                    li {
                                        a href=(link(one.path(), &[])) aria-current=[(place == Some(one)).then_some("page")] {
                                            (one.name())
                                            @if one == Place::Holds && held > 0 {
                                                " " span .pip { (held) span .unseen { " waiting" } }
                                            }
                                        }
                                    }
                                }
                            }
                        }
                        div .who {
                            span .health {
                                @if missing.is_empty() {
                                    span .dot.good aria-hidden="true" {} "ready"
                                } @else {
                                    span .dot.bad aria-hidden="true" {} "waits for " (missing.join(", "))
                                }
                            }
                            @if session.is_ours {
                                form method="post" action="/dashboard/logout" {
                                    (guard(session))
                                    button .plain type="submit" { "Log out" }
                                }
                            } @else {
                                span .person { (words::text(session.actor.trim_start_matches("dashboard:"))) }
                            }
                        }
                    }
                    main #main tabindex="-1" { (content) }
                    footer {
                        p { "Statekeeper " (env!("CARGO_PKG_VERSION")) ". As of " (words::clock(now_ms())) ". All times are in UTC." }
                    }
                }
            },
        ),
    )
}

/// What makes a form the session's own.
pub(super) fn guard(session: &Session) -> Markup {
    html! { input type="hidden" name=(GUARD) value=(session.guard); }
}

/// A table that scrolls within itself where it is wider than the page. On a phone a row is a card, with the heads before
/// its cells. The roles say what browsers forget of a table that is not laid out as one.
pub(super) fn table(label: &str, heads: &[&str], rows: &[Vec<Markup>]) -> Markup {
    html! {
        div .scroll role="region" aria-label=(label) tabindex="0" {
            table role="table" {
                thead role="rowgroup" {
                    tr role="row" { @for head in heads { th scope="col" role="columnheader" { (head) } } }
                }
                tbody role="rowgroup" { @for row in rows { tr role="row" { (cells(heads, row)) } } }
            }
        }
    }
}

fn cells(heads: &[&str], row: &[Markup]) -> Markup {
    let mut cells = heads.iter().zip(row);
    html! {
        @if let Some((head, cell)) = cells.next() {
            th scope="row" role="rowheader" data-head=(head) { (cell) }
        }
        @for (head, cell) in cells { td role="cell" data-head=(head) { (cell) } }
    }
}

/// That there are more than a page shows, and the command that shows them.
pub(super) fn more(count: i64, command: &str) -> Markup {
    html! {
        @if count > 0 {
            p .hint { (words::number(count)) " more are not shown here: " code { "statekeeper " (words::text(command)) } " lists all." }
        }
    }
}
