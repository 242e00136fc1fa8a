//! Answers as messages: plain text, and HTML with lists and pills. Pure. Nothing in an [`Answer`] is key material, so
//! nothing in a message is.

use crate::{
    keeper::{
        clock::to_second,
        operator::{
            Answer, DeviceWhy, Finding, Hold, RoomDetail, RoomSummary, Spaces, Status, Why,
        },
    },
    store::{Command, Done},
};

/// How many entries of a list are written; of more it is said how many there are.
const MOST: usize = 50;

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// As plain text.
    pub plain: String,
    /// As HTML.
    pub html: String,
}

/// What there is to be asked, with what each command does.
const HELP: [(&str, &str); 17] = [
    ("status", "how the keeper fares"),
    ("rooms", "the rooms that it is in"),
    ("spaces", "the spaces that it follows, and what has to be changed beneath them"),
    ("room ROOM", "what stands in a room"),
    ("why USER ROOM", "why a user has or lacks a room's keys"),
    ("holds", "who waits for an administrator's word"),
    ("approve ROOM USER", "let a member have a room's keys"),
    ("approve ROOM all", "the same for all who are joined"),
    ("deny ROOM USER", "refuse a user a room's keys"),
    ("block USER [DEVICE]", "refuse a user, or a device, all keys"),
    ("unblock USER [DEVICE]", "take a block back"),
    ("rotate ROOM", "retire the sessions of a room's state"),
    ("refresh ROOM", "seal a room's state once more"),
    ("share USER ROOM", "give a member's entitled devices the keys once more"),
    ("resume ROOM USER", "restore again what a user breaks who had gone on breaking rules"),
    ("noop on|off", "send nothing, or take that back"),
    ("help", "this list"),
];

impl Message {
    /// One line.
    pub fn line(text: &str) -> Self {
        Self { plain: text.to_owned(), html: escaped(text) }
    }

    /// Adds a paragraph.
    fn paragraph(&mut self, text: &str) {
        self.plain_line(text);
        self.html.push_str(&format!("<p>{}</p>", linked(text)));
    }

    /// Adds a list.
    fn list(&mut self, entries: impl IntoIterator<Item = String>) {
        let entries: Vec<String> = entries.into_iter().collect();
        self.html.push_str("<ul>");
        for entry in entries.iter().take(MOST) {
            self.plain_line(&format!("- {entry}"));
            self.html.push_str(&format!("<li>{}</li>", linked(entry)));
        }
        self.html.push_str("</ul>");
        if let Some(more) = entries.len().checked_sub(MOST).filter(|more| *more > 0) {
            self.paragraph(&format!("and {more} more; the command line lists all"));
        }
    }

    fn plain_line(&mut self, text: &str) {
        if !self.plain.is_empty() {
            self.plain.push('\n');
        }
        self.plain.push_str(text);
    }
}

/// The list of commands.
pub fn help() -> Message {
    let mut message = Message::default();
    message.paragraph("I understand, after !keeper:");
    message.list(HELP.iter().map(|(verb, what)| format!("{verb} — {what}")));
    message
}

/// A notice: a line, and what it is about.
pub fn notice(about: &str, entries: Vec<String>) -> Message {
    let mut message = Message::default();
    message.paragraph(about);
    message.list(entries);
    message
}

/// An answer.
pub fn answer(answer: &Answer) -> Message {
    match answer {
        Answer::Status(found) => status(found),
        Answer::Rooms(found) => rooms(found),
        Answer::Spaces(found) => spaces(found),
        Answer::Room(found) => room(found),
        Answer::Why(found) => why(found),
        Answer::Holds(found) => holds(&found.holds),
        Answer::Examination(_)
        | Answer::Done(_)
        | Answer::Commission(_)
        | Answer::Commissions(_)
        | Answer::UpgradePlan(_)
        | Answer::Ledger(_)
        | Answer::Commands(_) => Message::line("done"),
    }
}

/// That a command was carried out.
pub fn done(command: &Command, done: &Done) -> Message {
    let mut message = Message::default();
    match (command, done) {
        (Command::Approve { room, .. } | Command::ApproveAllPresent { room }, Done::Approved { users })
            if !users.is_empty() =>
        {
            message.paragraph(&format!("approved in {room}, until they leave:"));
            message.list(users.iter().map(ToString::to_string));
        }
        (_, Done::Approved { .. }) => {
            message.paragraph("nobody there was without an administrator's word");
        }
        (Command::Deny { room, user }, Done::Denied { present }) => {
            let note = if *present { "" } else { " (who is not there yet)" };
            message.paragraph(&format!("denied {user}{note} the keys of {room}, until they are approved"));
        }
        (Command::Block { user, device }, Done::Blocked { known }) => {
            let device = device.as_ref().map(|device| format!(" on {device}")).unwrap_or_default();
            let note = if *known { "" } else { "; I have never seen this user: is the id right?" };
            message.paragraph(&format!("blocked {user}{device}{note}"));
        }
        (Command::Unblock { user, device }, _) => {
            let device = device.as_ref().map(|device| format!(" on {device}")).unwrap_or_default();
            message.paragraph(&format!("unblocked {user}{device}"));
        }
        (Command::Rotate { room }, Done::Rotated { sessions }) => {
            message.paragraph(&format!("{room}: sessions retired: {sessions}"));
        }
        (Command::Refresh { room }, Done::Refreshing { values }) => {
            message.paragraph(&format!("{room}: values that are sealed once more: {values}"));
        }
        (Command::Share { room, user }, _) => message.paragraph(&format!(
            "the entitled devices of {user} are given the keys of {room} once more; `why` says who is not entitled"
        )),
        (Command::Resume { room, user }, _) => message.paragraph(&format!(
            "what {user} breaks in {room} is restored again"
        )),
        (_, Done::Noop { on: true }) => message.paragraph(
            "noop is on: everything is decided and reported, and nothing is sent, until `noop off`",
        ),
        (_, Done::Noop { on: false }) => {
            message.paragraph("noop is off: what the configuration says counts");
        }
        _ => message.paragraph("done"),
    }
    message
}

fn status(found: &Status) -> Message {
    let mut message = Message::default();
    message.paragraph(&match found.ready {
        true => format!("{} is ready (version {})", found.user_id, found.version),
        false => format!("{} is not ready; missing: {}", found.user_id, found.missing.join(", ")),
    });
    let rooms: Vec<String> =
        found.rooms.iter().map(|(status, count)| format!("{status} {count}")).collect();
    message.list([
        format!("homeserver: {}", found.homeserver),
        format!("running since {}", to_second(found.started_at)),
        format!("rooms: {}", if rooms.is_empty() { "none".to_owned() } else { rooms.join(", ") }),
        format!("held: {}, undecryptable: {}", found.held, found.undecryptable),
        format!("to decide: {} now, {} later; to send: {}", found.due, found.later, found.sending),
        format!("noop: {}", if found.noop { "on" } else { "off" }),
    ]);
    if !found.troubles.is_empty() {
        message.paragraph("trouble:");
        message.list(found.troubles.iter().cloned());
    }
    message
}

fn rooms(found: &[RoomSummary]) -> Message {
    let mut message = Message::default();
    message.paragraph(&format!("{} rooms", found.len()));
    message.list(found.iter().map(|room| {
        let alias = room.alias.as_ref().map(|alias| format!(" ({alias})")).unwrap_or_default();
        format!(
            "{}{alias}: {}, {} joined, {} of {} values sealed{}{}",
            room.room_id,
            room.status,
            room.joined,
            room.sealed,
            room.values,
            some(room.undecryptable, "undecryptable"),
            some(room.held, "held"),
        )
    }));
    message
}

fn spaces(found: &Spaces) -> Message {
    let mut message = Message::default();
    let (settled, all) = found.settled();
    message.paragraph(&format!("spaces and rooms: {settled} of {all} are joined, or cannot be"));
    message.list(found.spaces.iter().map(|space| {
        format!("{}: {}{}", space.name, space.status, some(space.backlog, "to provide for"))
    }));
    let spaces = found.spaces.iter().map(|space| &space.change);
    let rooms = found.rooms.iter().map(|room| &room.change);
    let changes: Vec<String> = spaces.chain(rooms).flatten().cloned().collect();
    if !changes.is_empty() {
        message.paragraph("what an administrator has to change:");
        message.list(changes);
    }
    message
}

fn some(count: i64, what: &str) -> String {
    if count == 0 { String::new() } else { format!(", {count} {what}") }
}

fn room(found: &RoomDetail) -> Message {
    let mut message = Message::default();
    let summary = &found.summary;
    message.paragraph(&format!(
        "{}: {}, {} joined, policy {}",
        summary.room_id,
        summary.status,
        summary.joined,
        found.policy.as_deref().unwrap_or("unknown"),
    ));
    message.list(
        found
            .tuples
            .iter()
            .map(|tuple| format!("{} {}: {}", tuple.event_type, tuple.state_key, tuple.state)),
    );
    if !found.wars.is_empty() {
        message.paragraph("who goes on breaking rules there, so that I restore nothing of theirs before `resume`:");
        message.list(found.wars.iter().map(ToString::to_string));
    }
    if !found.holds.is_empty() {
        message.paragraph("held there:");
        message.list(found.holds.iter().map(|hold| format!("{}: {}", hold.user_id, hold.reason)));
    }
    message
}

fn holds(found: &[Hold]) -> Message {
    let mut message = Message::default();
    if found.is_empty() {
        message.paragraph("nobody is held");
        return message;
    }
    message.paragraph("these wait for an administrator's word:");
    message.list(found.iter().map(|hold| {
        let since = to_second(hold.since);
        format!("{} in {} since {since}: {}", hold.user_id, hold.room_id, hold.reason)
    }));
    message
}

fn why(found: &Why) -> Message {
    let mut message = Message::default();
    let membership = found.membership.as_deref().unwrap_or("not a member");
    message.paragraph(&format!("{} in {}: {membership}", found.user_id, found.room_id));
    message.list(found.findings.iter().map(sentence));
    message.list(found.devices.iter().map(device));
    message
}

fn sentence(finding: &Finding) -> String {
    let fix = finding.fix.as_ref().map(|fix| format!(" — mend it: {fix}")).unwrap_or_default();
    format!("{}{fix}", finding.text)
}

fn device(found: &DeviceWhy) -> String {
    format!("device {}: {}", found.device_id, sentence(&found.finding))
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// The text with user ids as pills.
fn linked(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 {
            html.push(' ');
        }
        let id = word.trim_end_matches([':', ',', ';', '.', '`']);
        let shown = escaped(word);
        match id.starts_with('@').then(|| ruma::UserId::parse(id)) {
            Some(Ok(user)) => {
                let rest = escaped(word.strip_prefix(id).unwrap_or_default());
                let user = escaped(user.as_str());
                html.push_str(&format!("<a href=\"https://matrix.to/#/{user}\">{user}</a>{rest}"));
            }
            _ => html.push_str(&shown),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, owned_user_id};

    use super::*;

    #[test]
    fn a_list_is_a_list_in_both_forms_and_users_are_pills() {
        let hold = Hold {
            room_id: owned_room_id!("!r:h"),
            user_id: owned_user_id!("@bob:h"),
            since: 0,
            reason: "awaits_approval".to_owned(),
        };
        let told = holds(&[hold]);
        assert_eq!(
            told.plain,
            "these wait for an administrator's word:\n\
             - @bob:h in !r:h since 1970-01-01T00:00:00Z: awaits_approval"
        );
        let pill = "<ul><li><a href=\"https://matrix.to/#/@bob:h\">@bob:h</a> in !r:h";
        assert!(told.html.contains(pill), "{}", told.html);
        assert_eq!(holds(&[]).plain, "nobody is held");
    }

    #[test]
    fn nothing_that_somebody_chose_becomes_markup() {
        let told = notice("<script>alert(1)</script>", vec!["@<b>:h \"x\" & 'y'".to_owned()]);
        assert!(!told.html.contains("<script") && !told.html.contains("<b>"), "{}", told.html);
        assert!(
            told.html.contains("&lt;script&gt;")
                && told.html.contains("&quot;x&quot; &amp; &#39;y&#39;")
        );
    }

    #[test]
    fn a_long_list_says_how_many_more_there_are() {
        let told = notice("many:", (0..60).map(|number| number.to_string()).collect());
        assert_eq!(told.plain.lines().count(), 52);
        assert!(told.plain.ends_with("and 10 more; the command line lists all"), "{}", told.plain);
    }
}
