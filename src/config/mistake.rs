//! What an operator got wrong, said so that it can be mended.

use std::fmt;

/// One mistake: where it stands, what is wrong, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file as the operator named it, or `environment`.
    pub source: String,
    /// The key's path in the file (`sharing.gate_timeout`), or the variable's name; empty where the
    /// mistake is in the source as a whole.
    pub path: String,
    /// What is wrong, and how to mend it. Holds no secret.
    pub message: String,
}

impl fmt::Display for Mistake {
    /// One line: line breaks in a name or a value do not make a second one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self.path.as_str() {
            "" => format!("{}: {}", self.source, self.message),
            path => format!("{}: {path}: {}", self.source, self.message),
        };
        f.write_str(&line.replace(|c: char| c.is_control(), " "))
    }
}

/// Every mistake in a configuration or a registration, each on a line of its own. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct ConfigErrors(pub Vec<Mistake>);

fn lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n")
}
