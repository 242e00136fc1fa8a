//! Reading what an administrator writes to the keeper: `!keeper why @bob:example.org !room:example.org`. Pure.

use ruma::{OwnedRoomId, OwnedUserId};

use crate::{
    keeper::operator::{Query, Request},
    store::Command,
};

/// How every command begins.
pub const PREFIX: &str = "!keeper";
/// How much of a message is read, in bytes.
const MOST_BYTES: usize = 4096;
/// Where links to users and rooms lead.
const LINK: &str = "https://matrix.to/#/";

/// What a message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Something of the operator's interface.
    Request(Request),
    /// What there is to be asked.
    Help,
    /// A command that cannot be read, and why.
    Wrong(String),
}

/// Reads a message; `None` where it is not for the keeper. `formatted` is the message's HTML, where it has one: there
/// a mention of somebody is a link with the id, while `plain` has the name alone.
pub fn read(plain: &str, formatted: Option<&str>) -> Option<Said> {
    let text = match formatted.filter(|html| html.len() <= MOST_BYTES) {
        Some(html) => without_markup(html),
        None => plain.to_owned(),
    };
    if plain.len() > MOST_BYTES || !plain.trim_start().starts_with(PREFIX) {
        return None;
    }
    let mut words = text.split_whitespace();
    if words.next() != Some(PREFIX) {
        return None;
    }
    let verb = words.next().unwrap_or("help");
    let words: Vec<&str> = words.collect();
    Some(request(verb, &words).unwrap_or_else(Said::Wrong))
}

/// The things that a command names. A room and a user may come in either order.
#[derive(Default)]
struct Named {
    room: Option<OwnedRoomId>,
    user: Option<OwnedUserId>,
    others: Vec<String>,
}

impl Named {
    fn of(words: &[&str]) -> Result<Self, String> {
        let mut named = Self::default();
        for word in words {
            if word.starts_with('@') && named.user.is_none() {
                let user = OwnedUserId::try_from(*word);
                named.user = Some(user.map_err(|_| format!("{word}: is no user id"))?);
            } else if word.starts_with('!') && named.room.is_none() {
                let room = OwnedRoomId::try_from(*word);
                named.room = Some(room.map_err(|_| format!("{word}: is no room id"))?);
            } else {
                named.others.push((*word).to_owned());
            }
        }
        Ok(named)
    }

    fn room(&mut self) -> Result<OwnedRoomId, String> {
        self.room.take().ok_or_else(|| "name the room by its id, like !abc:example.org".to_owned())
    }

    fn user(&mut self) -> Result<OwnedUserId, String> {
        self.user.take().ok_or_else(|| "name the user by the id, like @bob:example.org".to_owned())
    }

    fn other(&mut self) -> Option<String> {
        self.others.pop()
    }

    /// Nothing else was said: what is not understood is not passed over.
    fn end(self) -> Result<(), String> {
        let room = self.room.map(|room| room.to_string());
        let user = self.user.map(|user| user.to_string());
        match room.or(user).or_else(|| self.others.into_iter().next()) {
            Some(left) => Err(format!("{left}: is not understood here")),
            None => Ok(()),
        }
    }
}

fn request(verb: &str, words: &[&str]) -> Result<Said, String> {
    let mut named = Named::of(words)?;
    let request: Request = match verb {
        "help" => return named.end().map(|()| Said::Help),
        "status" => Query::Status.into(),
        "rooms" => Query::Rooms.into(),
        "spaces" => Query::Spaces.into(),
        "holds" => Query::Holds { most: None }.into(),
        "room" => Query::Room { room: named.room()?, most: None }.into(),
        "why" => Query::Why { user: named.user()?, room: named.room()? }.into(),
        "approve" => {
            let room = named.room()?;
            match named.user.take() {
                Some(user) => Command::Approve { room, user }.into(),
                None if named.others == ["all"] => {
                    named.others.clear();
                    Command::ApproveAllPresent { room }.into()
                }
                None => {
                    return Err("name the user, or write `all` for all who are joined".to_owned());
                }
            }
        }
        "deny" => Command::Deny { room: named.room()?, user: named.user()? }.into(),
        "block" => {
            Command::Block { user: named.user()?, device: named.other().map(Into::into) }.into()
        }
        "unblock" => {
            Command::Unblock { user: named.user()?, device: named.other().map(Into::into) }.into()
        }
        "rotate" => Command::Rotate { room: named.room()? }.into(),
        "refresh" => Command::Refresh { room: named.room()? }.into(),
        "share" => Command::Share { room: named.room()?, user: named.user()? }.into(),
        "resume" => Command::Resume { room: named.room()?, user: named.user()? }.into(),
        "noop" => match named.other().as_deref() {
            Some("on") => Command::Noop { on: true }.into(),
            Some("off") => Command::Noop { on: false }.into(),
            _ => return Err("write `noop on` or `noop off`".to_owned()),
        },
        "confirm-identity" => {
            return Err(
                "an identity is confirmed on the command line alone: whoever has taken an \
                        administrator's account would confirm their own"
                    .to_owned(),
            );
        }
        _ => return Err(format!("{verb}: there is no such command; `{PREFIX} help` lists them")),
    };
    named.end()?;
    Ok(Said::Request(request))
}

/// The text of a message's HTML, with the ids of users and rooms in place of the links to them.
fn without_markup(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        let Some((tag, after)) = tag.split_once('>') else { return unescaped(&text) };
        rest = after;
        if let Some(id) = linked(tag) {
            text.push_str(&id);
            rest = after.split_once("</a>").map_or("", |(_, after)| after);
        } else if tag.starts_with("br") || tag.starts_with("/p") {
            text.push('\n');
        }
    }
    text.push_str(rest);
    unescaped(&text)
}

/// The id that a link's tag leads to.
fn linked(tag: &str) -> Option<String> {
    let target = tag.strip_prefix("a ")?.split_once("href=\"")?.1.split_once('"')?.0;
    let id = target.strip_prefix(LINK)?;
    let id = id.split(['?', '/']).next()?;
    decoded(id)
}

/// Percent-decoded.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&nbsp;", " ")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{owned_room_id, owned_user_id};

    use super::*;

    fn asked(text: &str) -> Request {
        match read(text, None) {
            Some(Said::Request(request)) => request,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn complaint(text: &str) -> String {
        match read(text, None) {
            Some(Said::Wrong(why)) => why,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn each_verb_is_read_and_room_and_user_come_in_either_order() {
        let (room, user) = (owned_room_id!("!r:h"), owned_user_id!("@u:h"));
        let why: Request = Query::Why { user: user.clone(), room: room.clone() }.into();
        assert_eq!(asked("!keeper why @u:h !r:h"), why);
        assert_eq!(asked("  !keeper  why !r:h   @u:h "), why);
        assert_eq!(asked("!keeper status"), Query::Status.into());
        let approve = Command::Approve { room: room.clone(), user: user.clone() };
        assert_eq!(asked("!keeper approve !r:h @u:h"), approve.into());
        let all = Command::ApproveAllPresent { room: room.clone() };
        assert_eq!(asked("!keeper approve !r:h all"), all.into());
        let block = Command::Block { user: user.clone(), device: Some("PHONE".into()) };
        assert_eq!(asked("!keeper block @u:h PHONE"), block.into());
        assert_eq!(asked("!keeper unblock @u:h"), Command::Unblock { user, device: None }.into());
        assert_eq!(asked("!keeper rotate !r:h"), Command::Rotate { room }.into());
        let resume = Command::Resume { room: owned_room_id!("!r:h"), user: owned_user_id!("@u:h") };
        assert_eq!(asked("!keeper resume !r:h @u:h"), resume.into());
        assert_eq!(asked("!keeper noop off"), Command::Noop { on: false }.into());
        assert_eq!(read("!keeper", None), Some(Said::Help));
        assert_eq!(read("!keeper help", None), Some(Said::Help));
    }

    #[test]
    fn what_is_not_for_the_keeper_is_left_alone() {
        for text in ["", "hello", "keeper status", "!keepers status", "I wrote !keeper status"] {
            assert_eq!(read(text, None), None, "{text}");
        }
        assert_eq!(read(&format!("!keeper {}", "x".repeat(5000)), None), None);
    }

    #[test]
    fn a_command_with_too_little_or_too_much_is_not_carried_out() {
        for (text, start) in [
            ("!keeper why @u:h", "name the room"),
            ("!keeper approve !r:h", "name the user, or write `all`"),
            ("!keeper deny @u:h !r:h please", "please: is not understood"),
            ("!keeper rotate !r:h @u:h", "@u:h: is not understood"),
            ("!keeper noop", "write `noop on`"),
            ("!keeper obey", "obey: there is no such command"),
            ("!keeper why @broken !r:h", "@broken: is no user id"),
            ("!keeper confirm-identity @u:h", "an identity is confirmed on the command line alone"),
        ] {
            assert!(complaint(text).starts_with(start), "{text}: {}", complaint(text));
        }
    }

    #[test]
    fn a_mention_names_the_user_that_it_links_to() {
        let html = "!keeper why <a href=\"https://matrix.to/#/%40bob%3Ah\">Bob</a> \
                    <a href=\"https://matrix.to/#/!r:h?via=h\">The room</a>";
        let why: Request =
            Query::Why { user: owned_user_id!("@bob:h"), room: owned_room_id!("!r:h") }.into();
        assert_eq!(read("!keeper why Bob The room", Some(html)), Some(Said::Request(why)));
        assert_eq!(
            read("!keeper <b>status", Some("<p>!keeper <b>status</b></p>")),
            Some(Said::Request(Query::Status.into()))
        );
    }

    proptest! {
        #[test]
        fn whatever_is_written_never_panics(plain in ".{0,200}", html in ".{0,200}") {
            let _ = read(&plain, Some(&html));
            let _ = read(&format!("!keeper {plain}"), Some(&format!("!keeper <a href=\"{LINK}{html}")));
        }
    }
}
