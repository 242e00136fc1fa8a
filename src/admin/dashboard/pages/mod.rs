//! The pages, one file each.

pub(super) mod command;
pub(super) mod holds;
pub(super) mod ledger;
pub(super) mod overview;
pub(super) mod room;
pub(super) mod rooms;
pub(super) mod spaces;
pub(super) mod why;

use axum::{
    Extension,
    extract::{FromRequestParts, State},
    http::{StatusCode, request::Parts},
    response::Response,
};
use maud::{Markup, html};

use super::{
    Dashboard,
    fields::Fields,
    page::{self, Place},
    sessions::Session,
    words,
};
use crate::keeper::{
    clock::now_ms,
    operator::{Answer, Caller, Refusal, Request},
};

/// Somebody who is logged in and looks at a page.
pub(in crate::admin::dashboard) struct Visitor {
    dashboard: Dashboard,
    session: Session,
    /// What stands in the query.
    fields: Fields,
    now: i64,
}

impl FromRequestParts<Dashboard> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &Dashboard) -> Result<Self, Response> {
        let session = parts.extensions.get::<Session>().cloned().ok_or_else(|| {
            // The guard puts it there.
            page::bare(StatusCode::UNAUTHORIZED, "Not let in", "Log in first.")
        })?;
        let fields = Fields::of(parts.uri.query().unwrap_or_default().as_bytes());
        Ok(Self { dashboard: state.clone(), session, fields, now: now_ms() })
    }
}

impl Visitor {
    /// Has the keeper answer.
    async fn ask(&self, request: impl Into<Request>) -> Result<Answer, Refusal> {
        let Some(operator) = self.dashboard.inner.operator.get() else {
            let message = format!(
                "the keeper is starting, and waits for: {}",
                self.dashboard.inner.readiness.missing().join(", ")
            );
            return Err(Refusal { code: "starting".to_owned(), message });
        };
        operator.perform(&Caller::Door(self.session.actor.clone()), &request.into()).await
    }

    /// A page.
    fn page(&self, place: Place, title: &str, content: Markup) -> Response {
        page::page(&self.dashboard, &self.session, (Some(place), title), StatusCode::OK, content)
    }

    /// Why there is no page.
    fn refuse(&self, place: Option<Place>, refusal: &Refusal) -> Response {
        let (status, title) = match refusal.code.as_str() {
            "starting" => (StatusCode::SERVICE_UNAVAILABLE, "Not yet"),
            "unknown_room" => (StatusCode::NOT_FOUND, "No such room"),
            _ if refusal.is_failure() => (StatusCode::INTERNAL_SERVER_ERROR, "The keeper failed"),
            _ => (StatusCode::CONFLICT, "Refused"),
        };
        page::page(
            &self.dashboard,
            &self.session,
            (place, title),
            status,
            html! {
                h1 { (title) }
                p .notice.bad role="alert" { (words::prose(&refusal.message)) }
            },
        )
    }

    /// What was just done, where the query says so.
    fn done(&self) -> Markup {
        let said = command::Verb::of(self.fields.get("done")).map(command::Verb::done);
        html! {
            @if let Some(said) = said { p .notice.good role="status" { (said) } }
        }
    }
}

/// The answer to a question that was another one.
fn other_answer() -> Refusal {
    Refusal {
        code: "failed".to_owned(),
        message: "the keeper gave another kind of answer".to_owned(),
    }
}

/// There is no such page.
pub(super) async fn not_found(
    State(dashboard): State<Dashboard>,
    Extension(session): Extension<Session>,
) -> Response {
    page::page(
        &dashboard,
        &session,
        (None, "No such page"),
        StatusCode::NOT_FOUND,
        html! {
            h1 { "No such page" }
            p { "The pages are above." }
        },
    )
}

/// What is asked to be answered by one kind of answer.
macro_rules! answer {
    ($visitor:expr, $place:expr, $query:expr, $kind:ident) => {
        match $visitor.ask($query).await {
            Ok($crate::keeper::operator::Answer::$kind(answer)) => answer,
            Ok(_) => {
                return $visitor
                    .refuse(Some($place), &$crate::admin::dashboard::pages::other_answer())
            }
            Err(refusal) => return $visitor.refuse(Some($place), &refusal),
        }
    };
}
use answer;
