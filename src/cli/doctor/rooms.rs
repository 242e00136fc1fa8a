//! The rooms and spaces that the keeper is in: sealed or not, elevated or not, and what it cannot read.

use super::report::Finding;
use crate::keeper::operator::RoomSummary;

/// Looks at the rooms.
pub(super) fn examine(rooms: &[RoomSummary]) -> Vec<Finding> {
    let present = rooms.iter().filter(|room| !matches!(room.status.as_str(), "left" | "banned"));
    let mut findings: Vec<Finding> = present.flat_map(of_room).collect();
    if findings.is_empty() {
        findings.push(Finding::warning(
            "rooms",
            "the keeper is in no room",
            "invite it into a room whose state is encrypted, and give it the power to send such state",
        ));
    }
    findings
}

fn of_room(room: &RoomSummary) -> Vec<Finding> {
    let mut findings = vec![standing(room)];
    let not_given = room.undecryptable.saturating_sub(room.lost);
    if room.lost > 0 {
        findings.push(Finding::warning(
            "lost",
            format!(
                "{} values were sealed by the keeper itself before its store was lost or put back, and what they were \
                 made from cannot be read: joiners cannot read them",
                room.lost
            ),
            "import the keys that were exported (`statekeeper import keys`), or have a member who reads them set them \
             once more, for example save the room's name again",
        ));
    }
    if not_given > 0 {
        findings.push(Finding::warning(
            "undecryptable",
            format!("{not_given} state events cannot be read: their keys did not come"),
            "the keeper asks for the keys; setting the values once more heals it at once",
        ));
    }
    if room.public_pictures > 0 {
        findings.push(Finding::warning(
            "picture",
            "its avatar is hidden, and the picture lies on the server for everybody to see",
            "have a client set one that it encrypts; `statekeeper room create` and `room upgrade` do",
        ));
    }
    if room.held > 0 {
        findings.push(Finding::warning(
            "held",
            format!("{} members wait for an administrator's word", room.held),
            "`statekeeper holds` lists them; `approve` or `deny` each",
        ));
    }
    findings.into_iter().map(|finding| finding.about(&room.room_id)).collect()
}

fn standing(room: &RoomSummary) -> Finding {
    match room.status.as_str() {
        "kept" => Finding::fine(
            "room",
            format!("is kept: {} of {} values are sealed", room.sealed, room.values),
        ),
        "not_elevated" => Finding::trouble(
            "room",
            "the keeper is not elevated there: it may not send `m.room.encrypted` state",
            match room.power_needed {
                Some(level) => format!("somebody with the power to do so sets the keeper to {level} in the room's `m.room.power_levels`; it goes on by itself"),
                None => "give the keeper the power that `state_default`, or `events` for `m.room.encrypted`, asks for; it goes on by itself".to_owned(),
            },
        ),
        "state_not_encrypted" => Finding::fine(
            "room",
            "its state is not sealed: it is not encrypted, or policy leaves it",
        ),
        "loading" => Finding::warning(
            "room",
            "its state was not fetched yet",
            "if this lasts, see in the log what the homeserver says of it",
        ),
        _ => Finding::warning(
            "room",
            "the keeper is invited and has not joined",
            "if this lasts, see in the log why the join fails",
        ),
    }
}
