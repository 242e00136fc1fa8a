//! How far something is that takes long: a bar on a terminal, plain lines where the output is piped, or JSON.

use std::{
    io::{IsTerminal as _, Write as _, stdout},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    output::{say, warn},
    running::{self, Heard, other_answer},
    table::harmless,
};
use crate::{
    config::Config,
    keeper::operator::{Answer, Query, Refusal},
    store::{CommissionRow, Step},
};

/// How often the keeper is asked.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(150);
/// How long the keeper may be away: it may be started anew.
const PATIENCE: Duration = Duration::from_secs(60);
/// How wide a bar is, in characters.
const WIDTH: usize = 24;
/// How wide a line of a terminal may be, in characters.
const NARROWEST: usize = 79;
/// How many lines a counted step is told in, at most.
const LINES: i64 = 10;

/// In which form it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A bar that moves.
    Bar,
    /// A line for each step, and some between.
    Lines,
    /// A JSON object a line.
    Json,
}

impl Form {
    /// The form for this output.
    pub(super) fn new(json: bool) -> Self {
        match json {
            true => Self::Json,
            false if stdout().is_terminal() => Self::Bar,
            false => Self::Lines,
        }
    }
}

/// Tells how far a commission is until it is at its end.
///
/// # Errors
///
/// When it failed, or the keeper is away for long: it goes on where it was after its next start.
pub(super) async fn follow(config: &Config, row: CommissionRow, form: Form) -> anyhow::Result<()> {
    let id = row.id.clone();
    let (mut told, mut row, mut heard_at) = (None, row, Instant::now());
    loop {
        tell(form, told.as_ref(), &row)?;
        if row.step.is_end() {
            return end(form, &row);
        }
        told = Some(row.clone());
        tokio::time::sleep(ASK_EVERY).await;
        match look(config, &id).await {
            Ok(Some(found)) => (row, heard_at) = (found, Instant::now()),
            Err(error) if error.is::<Refusal>() => return Err(error),
            Ok(None) | Err(_) if heard_at.elapsed() < PATIENCE => {}
            Ok(None) | Err(_) => anyhow::bail!(
                "no keeper answers any more; it goes on where it was after its next start, and \
                 `statekeeper room progress {id}` says how far it is"
            ),
        }
    }
}

/// How far it is; `None` where no keeper answers.
async fn look(config: &Config, id: &str) -> anyhow::Result<Option<CommissionRow>> {
    let query = Query::Commission { id: id.to_owned() };
    match running::ask(config, &query.into()).await? {
        Heard::Nobody { .. } => Ok(None),
        Heard::Answer(answer) => match *answer {
            Answer::Commission(row) => Ok(Some(row)),
            _ => Err(other_answer()),
        },
    }
}

fn tell(form: Form, told: Option<&CommissionRow>, row: &CommissionRow) -> anyhow::Result<()> {
    if told == Some(row) {
        return Ok(());
    }
    match form {
        Form::Json => say(&serde_json::to_string(row).context("the progress")?),
        Form::Bar => redraw(&bar_of(row)),
        Form::Lines if is_worth_a_line(told, row) => say(&line(row)),
        Form::Lines => {}
    }
    Ok(())
}

fn end(form: Form, row: &CommissionRow) -> anyhow::Result<()> {
    if form == Form::Bar {
        say("");
    }
    if row.step == Step::Failed {
        let why = row.notes.last().map_or("nothing was made", String::as_str);
        anyhow::bail!("{}", harmless(why));
    }
    if form == Form::Json {
        return Ok(());
    }
    row.notes.iter().for_each(|note| warn(&harmless(note)));
    if row.more_notes > 0 {
        warn(&format!("{} more could not be done; the log has them", row.more_notes));
    }
    if let Some(room) = &row.room_id {
        say(room.as_str());
    }
    Ok(())
}

/// What is being done, in words.
fn words(step: Step) -> &'static str {
    match step {
        Step::Create => "creating the room",
        Step::Load => "learning what stands there",
        Step::Picture => "encrypting the picture",
        Step::Link => "placing it in its space",
        Step::Seal => "sealing its state",
        Step::Open => "letting people in",
        Step::Address => "moving the addresses",
        Step::Tombstone => "closing the old room",
        Step::Carry => "carrying over what was said meanwhile",
        Step::Invite => "inviting",
        Step::Done => "done",
        Step::Failed => "failed",
    }
}

/// A commission in one line.
pub(super) fn line(row: &CommissionRow) -> String {
    let mut line = words(row.step).to_owned();
    if row.total > 0 {
        line.push_str(&format!(" {}/{}", row.done, row.total));
    }
    if let Some(trouble) = row.trouble.as_deref().filter(|_| !row.step.is_end()) {
        line.push_str(&format!(" (waits: {})", harmless(trouble)));
    }
    line
}

/// Writes a line of a terminal anew, so much of it as certainly has room: one that goes over the edge stays there.
pub(super) fn redraw(line: &str) {
    let line: String = line.chars().take(NARROWEST).collect();
    let _ = write!(stdout().lock(), "\r\u{1b}[K{line}");
    let _ = stdout().flush();
}

/// A bar of which so much is full, and what it is about.
pub(super) fn bar(done: usize, total: usize, about: &str) -> String {
    let full = WIDTH.saturating_mul(done).checked_div(total).unwrap_or(WIDTH).min(WIDTH);
    let (full, empty) = ("#".repeat(full), ".".repeat(WIDTH.saturating_sub(full)));
    format!("[{full}{empty}] {about}")
}

fn bar_of(row: &CommissionRow) -> String {
    let (reached, most) = reached(row);
    bar(reached, most, &line(row))
}

/// How far it is, and how far it goes: each step has the same part of a bar.
fn reached(row: &CommissionRow) -> (usize, usize) {
    let steps = Step::of(row.kind);
    let Some(place) = steps.iter().position(|step| *step == row.step) else { return (0, 1) };
    let (done, total) = (row.done.clamp(0, row.total.max(0)), row.total.max(1));
    let part = |count: i64| usize::try_from(count).unwrap_or(0);
    let most = steps.len().saturating_sub(1).max(1).saturating_mul(part(total));
    let reached = place.saturating_mul(part(total)).saturating_add(part(done));
    (reached, most)
}

fn is_worth_a_line(told: Option<&CommissionRow>, row: &CommissionRow) -> bool {
    let Some(told) = told else { return true };
    let tenth = |row: &CommissionRow| row.done.saturating_mul(LINES).checked_div(row.total);
    told.step != row.step || told.trouble != row.trouble || tenth(told) != tenth(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::CommissionKind;

    fn row(step: Step, done: i64, total: i64) -> CommissionRow {
        CommissionRow {
            id: "a".to_owned(),
            kind: CommissionKind::Create,
            actor: "uid:0".to_owned(),
            old_room: None,
            room_id: None,
            step,
            attempts: 1,
            spoilt: 0,
            done,
            total,
            trouble: None,
            notes: Vec::new(),
            more_notes: 0,
            created_at: 1,
            ended_at: None,
        }
    }

    #[test]
    fn a_bar_is_empty_at_the_beginning_full_at_the_end_and_never_goes_back() {
        let full = |row: &CommissionRow| bar_of(row).matches('#').count();
        let mut before = 0;
        for step in Step::of(CommissionKind::Create) {
            for done in 0..=5 {
                let now = full(&row(*step, done, 5));
                assert!(now >= before, "{step:?} {done}");
                before = now;
            }
        }
        assert_eq!(full(&row(Step::Create, 0, 0)), 0);
        assert_eq!(full(&row(Step::Done, 0, 0)), WIDTH);
        assert_eq!(bar(0, 0, "nothing"), format!("[{}] nothing", "#".repeat(WIDTH)));
        assert_eq!(
            bar_of(&row(Step::Seal, 1, 2)),
            "[##############..........] sealing its state 1/2"
        );
    }

    #[test]
    fn a_thousand_invites_are_no_thousand_lines() {
        let mut told = row(Step::Invite, 0, 1000);
        let mut lines = 0;
        for done in 1..=1000 {
            let now = row(Step::Invite, done, 1000);
            lines += usize::from(is_worth_a_line(Some(&told), &now));
            told = now;
        }
        assert_eq!(lines, 10);
    }

    #[test]
    fn what_is_waited_for_is_said_and_cannot_draw_on_the_terminal() {
        let stuck =
            CommissionRow { trouble: Some("\u{1b}[2Jboo".to_owned()), ..row(Step::Seal, 0, 2) };
        assert_eq!(line(&stuck), "sealing its state 0/2 (waits: \\u{1b}[2Jboo)");
        assert!(is_worth_a_line(Some(&row(Step::Seal, 0, 2)), &stuck));
    }
}
