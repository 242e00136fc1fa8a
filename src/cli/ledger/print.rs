//! Rows of the ledger as a table for people, and as lines for scripts.

use std::io::{self, Write};

use serde_json::json;

use super::Show;
use crate::{
    cli::{
        table::{harmless, word},
        when::{to_millisecond, to_second},
    },
    store::HistoryRow,
};

/// The columns but the last. That one is of any width, and alone may hold spaces.
const HEADS: [&str; 10] =
    ["TIME", "OUTCOME", "COUNT", "REASON", "USER", "DEVICE", "ROOM", "TUPLE", "INDEX", "SESSION"];
const LAST_HEAD: &str = "POLICY";
/// What stands where there is nothing.
const NOTHING: &str = "-";

/// A table under a line of heads. Columns widen while it is written, and never narrow.
#[derive(Default)]
pub(super) struct Table {
    widths: [usize; HEADS.len()],
    begun: bool,
}

/// One JSON object a line.
pub(super) struct Lines;

impl Show for Table {
    fn show(&mut self, rows: &[HistoryRow], to: &mut impl Write) -> io::Result<()> {
        let mut lines: Vec<([String; HEADS.len()], String)> = Vec::with_capacity(rows.len() + 1);
        if !std::mem::replace(&mut self.begun, true) {
            lines.push((HEADS.map(str::to_owned), LAST_HEAD.to_owned()));
        }
        lines.extend(rows.iter().map(cells));
        for (cells, _) in &lines {
            for (width, cell) in self.widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for (cells, last) in &lines {
            for (width, cell) in self.widths.iter().zip(cells) {
                write!(to, "{cell:width$}  ")?;
            }
            writeln!(to, "{last}")?;
        }
        Ok(())
    }
}

impl Show for Lines {
    fn show(&mut self, rows: &[HistoryRow], to: &mut impl Write) -> io::Result<()> {
        for row in rows {
            writeln!(to, "{}", line(row))?;
        }
        Ok(())
    }
}

fn cells(row: &HistoryRow) -> ([String; HEADS.len()], String) {
    let number = |number: Option<i64>| number.map_or_else(|| NOTHING.to_owned(), |n| n.to_string());
    let tuple = row.tuple.as_ref().map_or_else(
        || NOTHING.to_owned(),
        |(event_type, state_key)| match state_key.as_str() {
            "" => word(event_type),
            state_key => word(&format!("{event_type}:{state_key}")),
        },
    );
    let time = match row.count {
        Some(count) if count > 1 => format!("{}..{}", to_second(row.at), to_second(row.last_at)),
        _ => to_second(row.at),
    };
    let cells = [
        time,
        word(&row.outcome),
        number(row.count),
        word(&row.reason),
        word(&row.user_id),
        match &*row.device_id {
            "" => NOTHING.to_owned(),
            device_id => word(device_id),
        },
        word(&row.room_id),
        tuple,
        number(row.message_index),
        row.session_id.as_deref().map_or_else(|| NOTHING.to_owned(), word),
    ];
    (cells, row.policy.as_deref().map_or_else(|| NOTHING.to_owned(), harmless))
}

fn line(row: &HistoryRow) -> String {
    let (event_type, state_key) = row.tuple.clone().unzip();
    let object = json!({
        "time": to_millisecond(row.at),
        "last_time": to_millisecond(row.last_at),
        "outcome": row.outcome,
        "count": row.count,
        "reason": row.reason,
        "user_id": &*row.user_id,
        "device_id": Some(&*row.device_id).filter(|id| !id.is_empty()),
        "event_id": row.event_id,
        "room_id": &*row.room_id,
        "event_type": event_type,
        "state_key": state_key,
        "message_index": row.message_index,
        "session_id": row.session_id,
        "policy": row.policy.as_deref(),
    });
    // JSON leaves some control characters as they are, and a terminal may obey them.
    let mut line = String::new();
    for character in object.to_string().chars() {
        if character.is_control() {
            line.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(device_id: &str) -> HistoryRow {
        HistoryRow {
            id: 1,
            at: 0,
            last_at: 61_000,
            room_id: "!room:localhost".into(),
            user_id: "@bob:localhost".into(),
            device_id: device_id.into(),
            session_id: None,
            message_index: None,
            tuple: Some(("org.example.hidden".to_owned(), "a key".to_owned())),
            reason: "policy".to_owned(),
            policy: Some("devices=all invitees=none".into()),
            outcome: "withheld:m.unverified".to_owned(),
            count: Some(2),
            event_id: None,
        }
    }

    #[test]
    fn a_violation_concerns_no_device() {
        let violation = HistoryRow { event_id: Some("$bad".to_owned()), ..row("") };
        let table = shown(Table::default(), std::slice::from_ref(&violation));
        let words: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!((words.len(), words[5]), (12, "-"), "{table}");
        let read: serde_json::Value = serde_json::from_str(&shown(Lines, &[violation])).unwrap();
        assert_eq!((&read["device_id"], &read["event_id"]), (&json!(null), &json!("$bad")));
    }

    fn shown(mut show: impl Show, rows: &[HistoryRow]) -> String {
        let mut to = Vec::new();
        for row in rows {
            show.show(std::slice::from_ref(row), &mut to).unwrap();
        }
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn a_row_is_a_line_of_as_many_words_whatever_the_device_is_called() {
        for name in ["PHONE", "a b", "two\nlines", "\u{1b}[2J", "\u{9b}2J", "\u{202e}EVIL", "it's"]
        {
            let table = shown(Table::default(), &[row(name)]);
            let lines: Vec<_> = table.lines().collect();
            assert_eq!(lines.len(), 2, "{table}");
            assert_eq!(lines[1].split_whitespace().count(), 12, "{table}");
            assert!(!table.replace('\n', "").contains(char::is_control), "{table:?}");
            assert!(!table.contains('\u{202e}'), "{table:?}");
            let json = shown(Lines, &[row(name)]);
            assert_eq!(json.lines().count(), 1);
            assert!(!json.trim_end().contains(char::is_control), "{json:?}");
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(read["device_id"], name);
        }
    }

    #[test]
    fn a_counted_row_says_from_when_to_when() {
        let table = shown(Table::default(), &[row("PHONE")]);
        assert!(table.contains("\n1970-01-01T00:00:00Z..1970-01-01T00:01:01Z  "), "{table}");
        let once = HistoryRow { count: Some(1), ..row("PHONE") };
        let table = shown(Table::default(), &[once]);
        assert!(table.contains("\n1970-01-01T00:00:00Z  "), "{table}");
    }

    #[test]
    fn columns_never_narrow() {
        let table = shown(Table::default(), &[row("A-LONGER-DEVICE-ID"), row("PHONE")]);
        let at = |line: &str, what: &str| line.find(what).unwrap();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(at(lines[1], "!room"), at(lines[2], "!room"));
        assert_eq!(at(lines[0], "ROOM"), at(lines[1], "!room"));
    }
}
