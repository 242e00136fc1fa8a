//! What the doctor found, and how it is told.

use std::{fmt, process::ExitCode};

use serde::Serialize;

use crate::cli::{output::say, table::harmless};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// All is well.
    Fine,
    /// It could not be looked at, because of what is told elsewhere or because no keeper runs.
    Skipped,
    /// It hurts nobody yet, or few.
    Warning,
    /// People lack keys, or will.
    Trouble,
}

/// What was found by one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// The check, such as `ping`.
    pub(super) check: &'static str,
    /// How bad it is.
    pub(super) level: Level,
    /// What it is about, where there are several of its kind: a room.
    pub(super) about: Option<String>,
    /// What was found.
    pub(super) text: String,
    /// What mends it.
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn fine(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, level: Level::Fine, about: None, text: text.into(), fix: None }
    }

    pub(super) fn skipped(check: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Skipped, ..Self::fine(check, text) }
    }

    pub(super) fn warning(
        check: &'static str,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, fix: Some(fix.into()), ..Self::fine(check, text) }
    }

    pub(super) fn trouble(
        check: &'static str,
        text: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { level: Level::Trouble, ..Self::warning(check, text, fix) }
    }

    pub(super) fn about(self, about: impl fmt::Display) -> Self {
        Self { about: Some(about.to_string()), ..self }
    }
}

/// Tells what was found, and gives the exit code: 0 when nothing is wrong, 1 when there are warnings, 2 when there
/// is trouble.
pub(super) fn tell(findings: &[Finding], json: bool) -> anyhow::Result<ExitCode> {
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Fine);
    let code = match worst {
        Level::Fine | Level::Skipped => 0,
        Level::Warning => 1,
        Level::Trouble => 2,
    };
    if json {
        let told = serde_json::json!({ "level": worst_word(worst), "findings": findings });
        say(&serde_json::to_string_pretty(&told)?);
        return Ok(ExitCode::from(code));
    }
    for finding in findings {
        let about = finding.about.as_ref().map(|about| format!("{}: ", harmless(about)));
        let about = about.unwrap_or_default();
        say(&format!(
            "{:7}  {:14}  {about}{}",
            word(finding.level),
            finding.check,
            harmless(&finding.text)
        ));
        if let Some(fix) = &finding.fix {
            say(&format!("{:25}  mend it: {}", "", harmless(fix)));
        }
    }
    Ok(ExitCode::from(code))
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Fine => "ok",
        Level::Skipped => "skipped",
        Level::Warning => "warning",
        Level::Trouble => "TROUBLE",
    }
}

fn worst_word(level: Level) -> &'static str {
    match level {
        Level::Fine | Level::Skipped => "fine",
        Level::Warning => "warning",
        Level::Trouble => "trouble",
    }
}
