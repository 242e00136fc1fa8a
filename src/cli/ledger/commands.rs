//! `statekeeper ledger --commands`: which commands were given, by whom, and what came of them.

use crate::{
    cli::{
        beside,
        output::{say, warn},
        table::{NOTHING, table, word},
        when::{to_millisecond, to_second},
    },
    store::{CommandRow, CommandsFilter},
};

/// Shows the commands, the newest last.
pub(super) fn run(
    config: &std::path::Path,
    filter: &CommandsFilter,
    json: bool,
) -> anyhow::Result<()> {
    let rows = beside::run(config, async |store| store.commands(filter).await)?;
    if rows.is_empty() {
        warn(&"the ledger has no such commands");
        return Ok(());
    }
    if json {
        rows.iter().for_each(|row| say(&line(row)));
        return Ok(());
    }
    let heads = ["TIME", "COUNT", "BY", "VERB", "ROOM", "USER", "DEVICE", "DETAIL", "OUTCOME"];
    table(heads, rows.iter().map(cells).collect()).iter().for_each(|line| say(line));
    Ok(())
}

fn cells(row: &CommandRow) -> [String; 9] {
    let cell = |text: &str| if text.is_empty() { NOTHING.to_owned() } else { word(text) };
    let time = match row.count {
        1 => to_second(row.at),
        _ => format!("{}..{}", to_second(row.at), to_second(row.last_at)),
    };
    [
        time,
        row.count.to_string(),
        cell(&row.actor),
        cell(&row.verb),
        cell(&row.room_id),
        cell(&row.user_id),
        cell(&row.device_id),
        cell(&row.detail),
        cell(&row.outcome),
    ]
}

fn line(row: &CommandRow) -> String {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    serde_json::json!({
        "time": to_millisecond(row.at),
        "last_time": to_millisecond(row.last_at),
        "count": row.count,
        "actor": row.actor,
        "verb": row.verb,
        "room_id": some(&row.room_id),
        "user_id": some(&row.user_id),
        "device_id": some(&row.device_id),
        "detail": some(&row.detail),
        "outcome": row.outcome,
    })
    .to_string()
}
