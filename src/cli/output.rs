//! What a command says. A reader that has gone away (a closed pipe) is no reason to fail.

use std::{
    fmt::Display,
    io::{Write as _, stderr, stdout},
};

/// Writes a line, or a text that ends with a line break, to standard output.
pub(super) fn say(text: &str) {
    let line_break = if text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(stdout().lock(), "{text}{line_break}");
}

/// Writes a warning to standard error.
pub(super) fn warn(warning: &impl Display) {
    let _ = writeln!(stderr().lock(), "warning: {warning}");
}

/// Writes an error to standard error: with its causes on one line, or each mistake on its own.
pub(super) fn complain(error: &anyhow::Error) {
    let _ = writeln!(stderr().lock(), "{error:#}");
}
