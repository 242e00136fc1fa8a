//! What changes something: first a page that says what will be done, then the doing.

use axum::{
    Extension,
    response::{IntoResponse as _, Redirect, Response},
};
use maud::html;
use ruma::{OwnedRoomId, OwnedUserId};

use super::Visitor;
use crate::{
    admin::dashboard::{
        fields::{Fields, link},
        page::{self, Place},
        words,
    },
    keeper::operator::{Refusal, Request},
    store::Command,
};

/// What can be done here. More is for the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Approve,
    Deny,
    Share,
    Rotate,
    Refresh,
    Resume,
}

impl Verb {
    /// The verb of a form.
    pub(super) fn of(word: &str) -> Option<Self> {
        [Self::Approve, Self::Deny, Self::Share, Self::Rotate, Self::Refresh, Self::Resume]
            .into_iter()
            .find(|verb| verb.word() == word)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
            Self::Share => "share",
            Self::Rotate => "rotate",
            Self::Refresh => "refresh",
            Self::Resume => "resume",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Approve => "Approve",
            Self::Deny => "Deny",
            Self::Share => "Share again",
            Self::Rotate => "Rotate",
            Self::Refresh => "Refresh",
            Self::Resume => "Resume",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Approve => {
                "Their entitled devices are given the room’s keys, until they leave. It overrides neither a block nor \
                 what is asked of devices."
            }
            Self::Deny => {
                "They are given no key of the room any more, until somebody approves them."
            }
            Self::Share => {
                "Their entitled devices are given the room’s keys once more, and the state is refreshed for them. It \
                 overrides nothing."
            }
            Self::Rotate => {
                "All sessions of the room’s state are retired. What is sealed next is sealed under new ones."
            }
            Self::Refresh => {
                "What is sealed in the room is sealed once more, for clients that missed the keys. Each value becomes a \
                 line in the room’s timeline."
            }
            Self::Resume => {
                "What they broke is restored, and what they break from now on. What they did before is not held against \
                 them any more."
            }
        }
    }

    /// That it was done.
    pub(super) fn done(self) -> &'static str {
        match self {
            Self::Approve => "Approved. The keys are on their way, and the ledger has it.",
            Self::Deny => "Denied. The ledger has it.",
            Self::Share => "The keys are given once more. The ledger has it.",
            Self::Rotate => "The sessions are retired. The ledger has it.",
            Self::Refresh => "The values are sealed once more. The ledger has it.",
            Self::Resume => "What they broke is restored. The ledger has it.",
        }
    }

    /// The command, and the page that is shown after it; `None` where what it is about is missing.
    fn about(self, fields: &Fields) -> Option<(Command, String)> {
        let room: OwnedRoomId = fields.parse("room")?;
        let user = || fields.parse::<OwnedUserId>("user");
        let (id, done) = (fields.get("room"), ("done", self.word()));
        Some(match self {
            Self::Approve => (Command::Approve { room, user: user()? }, link("holds", &[done])),
            Self::Deny => (Command::Deny { room, user: user()? }, link("holds", &[done])),
            Self::Share => {
                let after = link("why", &[("user", fields.get("user")), ("room", id), done]);
                (Command::Share { room, user: user()? }, after)
            }
            Self::Rotate => (Command::Rotate { room }, link("room", &[("id", id), done])),
            Self::Refresh => (Command::Refresh { room }, link("room", &[("id", id), done])),
            Self::Resume => {
                (Command::Resume { room, user: user()? }, link("room", &[("id", id), done]))
            }
        })
    }

    fn place(self) -> Place {
        match self {
            Self::Approve | Self::Deny => Place::Holds,
            Self::Share => Place::Why,
            Self::Rotate | Self::Refresh | Self::Resume => Place::Rooms,
        }
    }
}

/// Asks whether it is meant.
pub(in crate::admin::dashboard) async fn confirm(visitor: Visitor) -> Response {
    let fields = &visitor.fields;
    let verb = Verb::of(fields.get("do"));
    let Some((verb, _)) = verb.and_then(|verb| Some((verb, verb.about(fields)?))) else {
        return visitor.refuse(None, &incomplete());
    };
    let (room, user) = (fields.get("room"), fields.get("user"));
    let of_user = !matches!(verb, Verb::Rotate | Verb::Refresh);
    let back = match verb.place() {
        Place::Rooms => link("room", &[("id", room)]),
        _ => link("holds", &[]),
    };
    let title = format!("{}?", verb.title());
    visitor.page(verb.place(), &title, html! {
        h1 { (title) }
        dl .facts.card {
            @if of_user { dt { "Who" } dd { (words::id(user)) } }
            dt { "Where" } dd { (words::id(room)) }
        }
        p { (verb.what()) }
        @if of_user { p { a href=(link("why", &[("user", user), ("room", room)])) { "Why they have or lack keys now" } } }
        form .decision method="post" action="/dashboard/command" {
            (page::guard(&visitor.session))
            input type="hidden" name="do" value=(verb.word());
            input type="hidden" name="room" value=(room);
            @if of_user { input type="hidden" name="user" value=(user); }
            button .danger[verb == Verb::Deny] type="submit" { (verb.title()) }
            a .button.plain href=(back) { "Leave it" }
        }
    })
}

/// Does it.
pub(in crate::admin::dashboard) async fn perform(
    visitor: Visitor,
    Extension(form): Extension<Fields>,
) -> Response {
    let verb = Verb::of(form.get("do"));
    let Some((verb, (command, after))) = verb.and_then(|verb| Some((verb, verb.about(&form)?)))
    else {
        return visitor.refuse(None, &incomplete());
    };
    match visitor.ask(Request::Command(command)).await {
        Ok(_) => Redirect::to(&after).into_response(),
        Err(refusal) => visitor.refuse(Some(verb.place()), &refusal),
    }
}

fn incomplete() -> Refusal {
    let message = "it is not said what to do, or about whom".to_owned();
    Refusal { code: "incomplete".to_owned(), message }
}
