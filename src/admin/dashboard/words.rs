//! How single things are shown: identifiers, times, counts, and the words that the keeper has for how things stand.

use maud::{Markup, html};

use crate::keeper::{clock::to_second, operator::harmless};

/// How many characters of a text that anybody may have chosen are shown at most.
const LONGEST: usize = 255;

/// How something stands, for its colour. It is never the colour alone that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    /// Something has to be done.
    Bad,
    /// Something may have to be done.
    Warn,
    /// It is under way.
    Busy,
    /// As it should be.
    Good,
    /// It does not matter.
    Quiet,
}

impl Tone {
    /// The class in the style sheet.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warn => "warn",
            Self::Busy => "busy",
            Self::Good => "good",
            Self::Quiet => "quiet",
        }
    }
}

/// A text that anybody may have chosen: escaped, cut, and with a direction of its own.
pub(super) fn text(text: &str) -> Markup {
    let mut shown: String = harmless(text).chars().take(LONGEST).collect();
    if harmless(text).chars().count() > LONGEST {
        shown.push('…');
    }
    html! { bdi { (shown) } }
}

/// An identifier, likewise.
pub(super) fn id(id: &str) -> Markup {
    html! { span .id { (text(id)) } }
}

/// The same, where there may be none.
pub(super) fn some_id(name: &str) -> Markup {
    if name.is_empty() { nothing() } else { id(name) }
}

/// What stands where there is nothing.
pub(super) fn nothing() -> Markup {
    html! { span .none { span aria-hidden="true" { "–" } span .unseen { "none" } } }
}

/// A word for how something stands.
pub(super) fn badge(tone: Tone, word: &str) -> Markup {
    html! { span class={ "badge " (tone.class()) } { (text(&spoken(word))) } }
}

/// A word of the keeper's as a person writes it.
pub(super) fn spoken(word: &str) -> String {
    word.replace('_', " ")
}

/// How a room stands.
pub(super) fn room_tone(status: &str) -> Tone {
    match status {
        "kept" | "followed" | "space" => Tone::Good,
        "not_elevated" | "no_power" | "cannot_join" | "banned" => Tone::Bad,
        "missing" | "unreachable" | "not_a_space" => Tone::Warn,
        "loading" | "invited" | "joining" => Tone::Busy,
        _ => Tone::Quiet,
    }
}

/// How a value stands.
pub(super) fn value_tone(state: &str) -> Tone {
    match state {
        "sealed" | "key_sent" => Tone::Good,
        "not_sealed" | "key_sent_late" | "on_its_way" => Tone::Busy,
        "undecryptable" | "refused" | "lacking" => Tone::Bad,
        _ => Tone::Quiet,
    }
}

/// What became of a key.
pub(super) fn outcome_tone(outcome: &str) -> Tone {
    match outcome {
        "delivered" | "done" => Tone::Good,
        "delivery_unknown" => Tone::Busy,
        "refused_by_homeserver" => Tone::Bad,
        "held" => Tone::Warn,
        _ if outcome.starts_with("violation:") => Tone::Bad,
        _ if outcome.starts_with("withheld:") || outcome.starts_with("refused:") => Tone::Warn,
        _ => Tone::Quiet,
    }
}

/// Why somebody is held, in a sentence.
pub(super) fn hold_reason(reason: &str) -> &'static str {
    match reason {
        "identity_changed" => "their cross-signing identity is another than the one that counts",
        "not_vouched" => "nobody with the power to do so vouched for them",
        "awaits_approval" => "every member needs an administrator’s word here",
        _ => "policy holds them back",
    }
}

/// A sentence in which what stands between backticks is code.
pub(super) fn prose(sentence: &str) -> Markup {
    html! {
        @for (index, part) in sentence.split('`').enumerate() {
            @if index % 2 == 1 { code { (text(part)) } } @else { (text(part)) }
        }
    }
}

/// A point in time, and how long ago it was.
pub(super) fn time(at: i64, now: i64) -> Markup {
    html! { (clock(at)) " " span .ago { (ago(at, now)) } }
}

/// A point in time.
pub(super) fn clock(at: i64) -> Markup {
    let written = to_second(at);
    let shown = written.replace('T', " ").replace('Z', "");
    html! { time datetime=(written) { (shown) } }
}

/// How long ago, roughly.
pub(super) fn ago(at: i64, now: i64) -> String {
    let seconds = now.saturating_sub(at) / 1_000;
    match seconds {
        ..0 => format!("in {}", length(seconds.saturating_neg())),
        0 => "now".to_owned(),
        _ => format!("{} ago", length(seconds)),
    }
}

fn length(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A number with its thousands apart.
pub(super) fn number(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push('\u{202f}');
        }
        shown.push(digit);
    }
    if number < 0 { format!("−{shown}") } else { shown }
}

/// A number with what is counted.
pub(super) fn count(count: i64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_chose_is_escaped_cut_and_set_apart() {
        let shown = text("<script>alert(1)</script>\u{202e}\"'&\n").into_string();
        assert_eq!(
            shown,
            "<bdi>&lt;script&gt;alert(1)&lt;/script&gt;\\u{202e}&quot;'&amp;\\n</bdi>"
        );
        let long = text(&"a".repeat(10_000)).into_string();
        assert_eq!(long.chars().count(), LONGEST + 1 + "<bdi></bdi>".len());
    }

    #[test]
    fn code_in_a_sentence_is_shown_as_such_and_escaped_too() {
        let shown = prose("run `a <b>` now").into_string();
        assert_eq!(shown, "<bdi>run </bdi><code><bdi>a &lt;b&gt;</bdi></code><bdi> now</bdi>");
    }

    #[test]
    fn numbers_and_times_are_written_as_people_read_them() {
        assert_eq!(number(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!((number(0), number(-12)), ("0".to_owned(), "−12".to_owned()));
        assert_eq!(count(1, "room", "rooms"), "1 room");
        for (at, words) in [
            (0, "2 days ago"),
            (172_000_000, "13 min ago"),
            (172_799_500, "now"),
            (172_860_000, "in 1 min"),
        ] {
            assert_eq!(ago(at, 172_800_000), words);
        }
    }
}
